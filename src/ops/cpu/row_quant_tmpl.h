/* Part of row_tmpl.h: the quantisers of activations and cached rows, and the Hadamard transform before them. */

/* ---------------------------------------------------------------- quantisers */

/* Largest magnitude, NaN passed over. */
ALWAYS_INLINE float largest(const float *x, int n)
{
    vec top = {0};
    int i = 0;
    for (; i + W <= n; i += W) {
        vec a = magnitude(LOAD(x + i));
        top = choose(a > top, a, top);
    }
    if (i < n) {
        vec a = magnitude(load_part(x + i, n - i));
        top = choose(a > top, a, top);
    }
    float v[W], most = 0;
    AT(v) = top;
    for (int k = 0; k < W; k++)
        most = v[k] > most ? v[k] : most;
    return most;
}

/* Magnitudes rounded to e4m3, saturating; NaN to NaN. */
ALWAYS_INLINE vec rounded_e4m3(vec a)
{
    uvec u = (uvec)a;
    vec normal = (vec)((u + 0x7ffffu + (u >> 20 & 1)) & 0xfff00000u), small = (a + 0x1.8p14f) - 0x1.8p14f;
    vec r = choose(a < set(0x1p-6f), small, normal);
    r = choose(a >= set(448), set(448), r);
    return choose(a == a, r, set(NAN));
}

ALWAYS_INLINE vec with_sign(vec magnitude_of, vec sign_of)
{
    return (vec)((ivec)magnitude_of | ((ivec)sign_of & INT32_MIN));
}

/* As the official code's table, which has one NaN for both signs. */
ALWAYS_INLINE vec simulated_e4m3(vec x, float down, float up)
{
    vec v = x * down, r = with_sign(rounded_e4m3(magnitude(v)), v);
    return choose(v == v, r, set(NAN)) * up;
}

static void fp8_sim(float *x, int n, int block)
{
    for (int b = 0; b < n; b += block) {
        int m = n - b < block ? n - b : block, e = act_quant_exponent(largest(x + b, m)), i = 0;
        float *p = x + b, down = pow2f(-e), up = pow2f(e);
        for (; i + W <= m; i += W)
            AT(p + i) = simulated_e4m3(LOAD(p + i), down, up);
        if (i < m)
            store_part(p + i, simulated_e4m3(load_part(p + i, m - i), down, up), m - i);
    }
}

/* Codes of e4m3: exponent and mantissa moved down, below 2^-6 the count of 2^-9. */
ALWAYS_INLINE ivec codes_e4m3(vec v)
{
    vec a = magnitude(v), r = rounded_e4m3(a);
    uvec normal = ((uvec)r >> 20) - (120u << 3), small = (uvec)(a + 0x1.8p14f) & 15u;
    ivec code = (ivec)choose(a < set(0x1p-6f), (vec)small, (vec)normal);
    code |= (ivec)((uvec)v >> 24) & 0x80;
    return (ivec)choose(v == v, (vec)code, (vec)((ivec)set(0) + 0x7f));
}

enum { BLOCK_MAX = 128, BLOCK_FP4 = 32 };

static void fp8_put(const float *x, int n, int block, uint8_t *codes, uint8_t *scales)
{
    assert(block <= BLOCK_MAX);
    int32_t code[BLOCK_MAX + W];
    for (int b = 0; b < n; b += block) {
        int m = n - b < block ? n - b : block, e = act_quant_exponent(largest(x + b, m)), i = 0;
        float down = pow2f(-e);
        for (; i + W <= m; i += W)
            *(ivec *)(code + i) = codes_e4m3(LOAD(x + b + i) * down);
        if (i < m)
            *(ivec *)(code + i) = codes_e4m3(load_part(x + b + i, m - i) * down);
        for (int k = 0; k < m; k++)
            codes[b + k] = (uint8_t)code[k];
        scales[b / block] = (uint8_t)(e + 127);
    }
}

/* Each lane and its partner: their sum in the lower one, lower minus higher in the higher one (lane & half). */
ALWAYS_INLINE vec butterfly(vec v, vec partner, ivec lane, int half)
{
    ivec higher = (lane & half) != 0;
    return partner + (vec)((ivec)v ^ (higher & INT32_MIN));
}

ALWAYS_INLINE ivec lane_numbers(void)
{
    ivec lane;
    UNROLL
    for (int i = 0; i < W; i++)
        lane[i] = i;
    return lane;
}

ALWAYS_INLINE vec hadamard_lanes(vec v, ivec lane)
{
    v = butterfly(v, PARTNER_1(v), lane, 1);
    v = butterfly(v, PARTNER_2(v), lane, 2);
#if KERN_WIDTH >= 8
    v = butterfly(v, PARTNER_4(v), lane, 4);
#endif
#if KERN_WIDTH == 16
    v = butterfly(v, PARTNER_8(v), lane, 8);
#endif
    return v;
}

static void hadamard(float *x, int n)
{
    if (n < W) {
        row_kern_ref.hadamard(x, n);
        return;
    }
    const ivec lane = lane_numbers();
    for (int i = 0; i < n; i += W)
        AT(x + i) = hadamard_lanes(LOAD(x + i), lane);
    for (int half = W; half < n; half *= 2)
        for (int i = 0; i < n; i += 2 * half)
            for (int j = i; j < i + half; j += W) {
                vec a = LOAD(x + j), b = LOAD(x + j + half);
                AT(x + j) = a + b;
                AT(x + j + half) = a - b;
            }
    float s = 1.0f / sqrtf((float)n);
    for (int i = 0; i < n; i += W)
        AT(x + i) *= s;
}

/* Code of e2m1 without its sign, which is how many midpoints lie below a (a tie goes to the even code; NaN to the top). */
ALWAYS_INLINE ivec steps_e2m1(vec a)
{
    return -(~(a <= set(.25f)) + ~(a < set(.75f)) + ~(a <= set(1.25f)) + ~(a < set(1.75f)) + ~(a <= set(2.5f)) +
             ~(a < set(3.5f)) + ~(a <= set(5)));
}

/* Its value: 0 .5 1 1.5 2 3 4 6 are step / 2, then two more for every step above 4, and once more for the last. */
ALWAYS_INLINE vec value_e2m1(ivec step)
{
    ivec halves = step + ((step > 4) & (step - 4)) + ((step > 6) & 2);
    return __builtin_convertvector(halves, vec) * 0.5f;
}

ALWAYS_INLINE float fp4_scale(const float *x, float *up, int *e)
{
    *e = fp4_quant_exponent(largest(x, BLOCK_FP4));
    *up = pow2f(*e);
    return pow2f(-*e);
}

static void fp4_sim(float *x, int n)
{
    for (int b = 0; b < n; b += BLOCK_FP4) {
        float up;
        int e;
        const float down = fp4_scale(x + b, &up, &e);
        for (int i = b; i < b + BLOCK_FP4; i += W) {
            vec v = LOAD(x + i) * down;
            AT(x + i) = with_sign(value_e2m1(steps_e2m1(magnitude(v))), v) * up;
        }
    }
}

static void fp4_put(const float *x, int n, uint8_t *codes, uint8_t *scales)
{
    int32_t code[BLOCK_FP4];
    for (int b = 0; b < n; b += BLOCK_FP4) {
        float up;
        int e;
        const float down = fp4_scale(x + b, &up, &e);
        for (int i = 0; i < BLOCK_FP4; i += W) {
            vec v = LOAD(x + b + i) * down;
            *(ivec *)(code + i) = steps_e2m1(magnitude(v)) | ((ivec)((uvec)v >> 28) & 8);
        }
        for (int i = 0; i < BLOCK_FP4; i += 2)
            codes[(b + i) / 2] = (uint8_t)(code[i] | code[i + 1] << 4);
        scales[b / BLOCK_FP4] = (uint8_t)(e + 127);
    }
}
