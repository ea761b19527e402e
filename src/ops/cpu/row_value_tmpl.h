/* Part of row_tmpl.h: values one by one: norm, rotation, the gated activation. */

/* ---------------------------------------------------------------- norm and rotation */

ALWAYS_INLINE vec scaled(vec x, vec w, float r, bool round)
{
    return rounded(w * (x * r), round);
}

static void scale(const float *x, const float *w, float r, int n, bool round, float *y)
{
    const vec one = set(1); /* times 1 is exact */
    int i = 0;
    for (; i + W <= n; i += W)
        AT(y + i) = scaled(LOAD(x + i), w == NULL ? one : LOAD(w + i), r, round);
    for (int part = n - i; i < n; i += W)
        store_part(y + i, scaled(load_part(x + i, part), w == NULL ? one : load_part(w + i, part), r, round), part);
}

ALWAYS_INLINE vec rotated(vec v, vec co, vec si, bool round)
{
    return rounded(v * co + PARTNER_1(v) * si, round);
}

static void rotate(float *v, const float *co, const float *si, int n, bool round)
{
    int i = 0;
    for (; i + W <= n; i += W)
        AT(v + i) = rotated(LOAD(v + i), LOAD(co + i), LOAD(si + i), round);
    if (i < n)
        store_part(v + i, rotated(load_part(v + i, n - i), load_part(co + i, n - i), load_part(si + i, n - i), round),
                   n - i);
}

/* ---------------------------------------------------------------- the gated activation */

ALWAYS_INLINE vec exp_of(vec x)
{
    vec t = choose(x < set(EXP_LOW), set(EXP_LOW), choose(x > set(EXP_HIGH), set(EXP_HIGH), x));
    vec n = (t * EXP_LOG2E + EXP_ROUND) - EXP_ROUND;
    vec r = (t - n * EXP_LN2_HIGH) - n * EXP_LN2_LOW;
    vec y = r * EXP_P7 + EXP_P6;
    y = y * r + EXP_P5;
    y = y * r + EXP_P4;
    y = y * r + EXP_P3;
    y = y * r + EXP_P2;
    y = y * r * r + r + 1.0f;
    ivec e = __builtin_convertvector(choose(n == n, n, set(0)), ivec), half = e >> 1;
    return y * (vec)((half + 127) << 23) * (vec)((e - half + 127) << 23);
}

ALWAYS_INLINE vec gated(vec g, vec u, float limit, float weight)
{
    if (limit > 0) {
        g = choose(g < set(limit), g, set(limit));
        u = choose(u < set(-limit), set(-limit), choose(u > set(limit), set(limit), u));
    }
    return g / (1.0f + exp_of(-g)) * u * weight;
}

static void swiglu(const float *g, const float *u, int n, float limit, float weight, float *h)
{
    int i = 0;
    for (; i + W <= n; i += W)
        AT(h + i) = gated(LOAD(g + i), LOAD(u + i), limit, weight);
    if (i < n)
        store_part(h + i, gated(load_part(g + i, n - i), load_part(u + i, n - i), limit, weight), n - i);
}
