/* SHA-256 (FIPS 180-4), for what is stored of keys. */
#ifndef HADAL_SERVE_SHA256_H
#define HADAL_SERVE_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SHA256_BYTES = 32 };
void sha256(const void *data, size_t n, uint8_t digest[SHA256_BYTES]);
/* Reads all bytes of both, wherever they differ: the time tells nothing. */
bool sha256_equal(const uint8_t a[SHA256_BYTES], const uint8_t b[SHA256_BYTES]);

#endif
