/* Weights and activations that kernels find hard. */
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const data_names[N_DATA_KINDS] = {"normal", "heavy-tailed", "extreme", "tiny", "zero", "ties"};

static float activation(struct rng *r, enum data_kind kind)
{
    switch (kind) {
    case DATA_HEAVY: /* one in 64 is large, magnitudes over 40 octaves */
        return (float)rng_normal(r) * pow2f((int)rng_below(r, 40) - 30) * (rng_below(r, 64) == 0 ? 1000.0f : 1.0f);
    case DATA_EXTREME:
        return (rng_below(r, 2) != 0 ? 1.0f : -1.0f) * 448.0f * pow2f((int)rng_below(r, 2) * 8);
    case DATA_TINY: /* near and below the 1e-4 floor of the quantiser, down to bf16 subnormals */
        return (float)rng_normal(r) * pow2f(-(int)rng_below(r, 120) - 8);
    case DATA_ZERO:
        return rng_below(r, 2) != 0 ? 0.0f : -0.0f;
    case DATA_TIES: /* midpoints of e4m3 after scaling by a power of two */
        return ((float)(17 + 2 * (int)rng_below(r, 8))) * pow2f((int)rng_below(r, 8) - 4) *
               (rng_below(r, 2) != 0 ? 1.0f : -1.0f);
    default:
        return (float)rng_normal(r);
    }
}

void fill_activations(struct rng *r, enum data_kind kind, float *x, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = bf16_round(activation(r, kind));
}

static uint8_t fp8_code(struct rng *r, enum data_kind kind)
{
    uint8_t sign = (uint8_t)(rng_below(r, 2) << 7);
    switch (kind) {
    case DATA_EXTREME: return sign | 0x7e;
    case DATA_TINY: return sign | (uint8_t)rng_below(r, 8); /* zero and the subnormals */
    case DATA_ZERO: return sign;
    default: return sign | (uint8_t)rng_below(r, 127);
    }
}

static uint8_t fp4_pair(struct rng *r, enum data_kind kind)
{
    if (kind == DATA_EXTREME)
        return rng_below(r, 2) != 0 ? 0xf7 : 0x7f;
    if (kind == DATA_ZERO)
        return rng_below(r, 2) != 0 ? 0x80 : 0x08; /* zeros of both signs */
    return (uint8_t)rng_below(r, 256);
}

static void fill_weights(struct rng *r, enum data_kind kind, enum wformat f, uint8_t *data, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float v;
        uint16_t h;
        switch (f) {
        case W_FP8: data[i] = fp8_code(r, kind); break;
        case W_FP4: data[i] = fp4_pair(r, kind); break;
        case W_F32:
            v = kind == DATA_ZERO ? 0 : (float)rng_normal(r) * (kind == DATA_HEAVY ? pow2f((int)rng_below(r, 30) - 20) : 1);
            memcpy(data + 4 * i, &v, 4);
            break;
        default:
            h = bf16_from_f32(activation(r, kind));
            memcpy(data + 2 * i, &h, 2);
            break;
        }
    }
}

struct wmat matrix_random(struct rng *r, enum data_kind kind, enum wformat f, int rows, int cols)
{
    struct wmat w = {.format = f, .rows = rows, .cols = cols};
    size_t n = (size_t)rows * (size_t)cols, values = f == W_FP4 ? n / 2 : n;
    uint8_t *data = xcalloc(values, 4);
    fill_weights(r, kind, f, data, values);
    size_t n_scale = f == W_FP4 ? n / 32 : (size_t)((rows + 127) / 128) * (size_t)((cols + 127) / 128);
    uint8_t *scale = xcalloc(n_scale, 1);
    for (size_t i = 0; i < n_scale; i++)
        scale[i] = (uint8_t)(kind == DATA_HEAVY ? 100 + rng_below(r, 40) : 116 + rng_below(r, 6));
    w.data = data;
    w.scale = scale;
    return w;
}

void matrix_free(struct wmat *w)
{
    free((void *)(uintptr_t)w->data);
    free((void *)(uintptr_t)w->scale);
}

size_t matrix_bytes(const struct wmat *w)
{
    static const size_t bits[] = {[W_F32] = 32, [W_BF16] = 16, [W_F16] = 16, [W_FP8] = 8, [W_FP4] = 4};
    return (size_t)w->rows * (size_t)w->cols * bits[w->format] / 8;
}
