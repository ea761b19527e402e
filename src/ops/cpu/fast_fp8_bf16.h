/* e4m3 magnitudes 0..127 as bf16, low and high bytes apart: for the levels that multiply bf16 pairs. */
#include <stdint.h>

enum { SUB1 = 0x3b00, SUB2 = 0x3b80, SUB3 = 0x3bc0, SUB4 = 0x3c00, SUB5 = 0x3c20, SUB6 = 0x3c40, SUB7 = 0x3c60 };
#define ROW(m, B) B((m) + 0), B((m) + 1), B((m) + 2), B((m) + 3), B((m) + 4), B((m) + 5), B((m) + 6), B((m) + 7)
#define NORMAL_LOW(c) (uint8_t)(((c) << 4) & 0xff)
#define NORMAL_HIGH(c) (uint8_t)((((c) << 4) + (120 << 7)) >> 8)
static const uint8_t fp8_low[128] = {
    0, SUB1 & 0xff, SUB2 & 0xff, SUB3 & 0xff, SUB4 & 0xff, SUB5 & 0xff, SUB6 & 0xff, SUB7 & 0xff,
    ROW(8, NORMAL_LOW), ROW(16, NORMAL_LOW), ROW(24, NORMAL_LOW), ROW(32, NORMAL_LOW), ROW(40, NORMAL_LOW),
    ROW(48, NORMAL_LOW), ROW(56, NORMAL_LOW), ROW(64, NORMAL_LOW), ROW(72, NORMAL_LOW), ROW(80, NORMAL_LOW),
    ROW(88, NORMAL_LOW), ROW(96, NORMAL_LOW), ROW(104, NORMAL_LOW), ROW(112, NORMAL_LOW), ROW(120, NORMAL_LOW)};
static const uint8_t fp8_high[128] = {
    0, SUB1 >> 8, SUB2 >> 8, SUB3 >> 8, SUB4 >> 8, SUB5 >> 8, SUB6 >> 8, SUB7 >> 8,
    ROW(8, NORMAL_HIGH), ROW(16, NORMAL_HIGH), ROW(24, NORMAL_HIGH), ROW(32, NORMAL_HIGH), ROW(40, NORMAL_HIGH),
    ROW(48, NORMAL_HIGH), ROW(56, NORMAL_HIGH), ROW(64, NORMAL_HIGH), ROW(72, NORMAL_HIGH), ROW(80, NORMAL_HIGH),
    ROW(88, NORMAL_HIGH), ROW(96, NORMAL_HIGH), ROW(104, NORMAL_HIGH), ROW(112, NORMAL_HIGH), ROW(120, NORMAL_HIGH)};
