/* Body of the kern_attn_<isa>.c in fp32, after attn_tmpl.h: define ATTN_NAME and ATTN_TEXT before including. Queries are
 * kept scaled, keys hd + ATTN_PAD values apart. */
enum { KEYS_IN_CACHE = 6, STRIP_REGS = ATTN_WIDTH == 16 ? 4 : 3 };

/* Numerators s [ATTN_KEYS][ATTN_HEADS] of a tile in place, its running maxima and sums; back: the factors that earlier sums
 * shrink by. */
static inline void soften(float *s, int n, struct attn_tile *st, float *back)
{
    quad top = QUAD(st->top), sums;
    for (int k = 0; k < n; k++) {
        quad x = QUAD(s + k * ATTN_HEADS);
        iquad more = x > top;
        top = (quad)(((iquad)x & more) | ((iquad)top & ~more));
    }
    for (int k = 0; k < n; k++)
        *(quad *)(s + k * ATTN_HEADS) -= top;
    for (int k = n * ATTN_HEADS; k < ATTN_KEYS * ATTN_HEADS; k++)
        s[k] = -INFINITY;
    vec sum = {0};
    for (int k = 0; k < ATTN_KEYS * ATTN_HEADS; k += ATTN_WIDTH) {
        vec y = exp_of(AT(s + k));
        memcpy(s + k, &y, sizeof y);
        sum += y;
    }
    sums = fold(sum);
    for (int h = 0; h < ATTN_HEADS; h++) {
        back[h] = expf(st->top[h] - top[h]);
        st->den[h] = st->den[h] * back[h] + sums[h];
        st->top[h] = top[h];
    }
}

/* a += p keys for n keys. */
ALWAYS_INLINE void add_keys(const float *p, const float *key, size_t ld, const int n, const int nv, vec *a)
{
    UNROLL
    for (int k = 0; k < n; k++, key += ld, p += ATTN_HEADS) {
        vec x[STRIP_REGS];
        UNROLL
        for (int i = 0; i < nv; i++)
            x[i] = AT(key + i * ATTN_WIDTH);
        UNROLL
        for (int i = 0; i < ATTN_HEADS * nv; i++)
            a[i] += x[i % nv] * p[i / nv];
    }
}

/* acc = acc * back + p keys for a strip of nv registers: p [n][ATTN_HEADS], the strip of key k at key + k * ld, of head h
 * at acc + h * hd. */
ALWAYS_INLINE void add_values(const float *p, const float *back, const float *key, size_t ld, int n, int hd, const int nv,
                              float *acc)
{
    enum { TURN = 4 };
    vec a[ATTN_HEADS * STRIP_REGS];
    UNROLL
    for (int i = 0; i < ATTN_HEADS * nv; i++)
        a[i] = AT(acc + i / nv * hd + i % nv * ATTN_WIDTH) * back[i / nv];
    int k = 0;
    for (; k + TURN <= n; k += TURN)
        add_keys(p + k * ATTN_HEADS, key + (size_t)k * ld, ld, TURN, nv, a);
    for (; k < n; k++)
        add_keys(p + k * ATTN_HEADS, key + (size_t)k * ld, ld, 1, nv, a);
    UNROLL
    for (int i = 0; i < ATTN_HEADS * nv; i++)
        memcpy(acc + i / nv * hd + i % nv * ATTN_WIDTH, &a[i], sizeof a[i]);
}

/* What is shared by the tiles stays in the cache while they take turns: a few whole keys for the scores, a strip of all
 * keys for the values. */
static void block(const void *query, int n_tiles, float scale, const void *block_keys, int n, int hd,
                  const struct attn_ahead *ahead, struct attn_tile *st, float *acc)
{
    const float *q = query, *keys = block_keys;
    size_t ld = (size_t)hd + ATTN_PAD;
    (void)scale;
    struct fetched f = {.of = ahead};
    int step = 0, n_steps = (n + KEYS_IN_CACHE - 1) / KEYS_IN_CACHE * n_tiles;
    enum { TILE_SCORES = (ATTN_KEYS + KEYS_AT_ONCE) * ATTN_HEADS };
    float s[ATTN_TILES * TILE_SCORES], back[ATTN_TILES * ATTN_HEADS];
    size_t tile = ATTN_HEADS * (size_t)hd;
    for (int k0 = 0; k0 < n; k0 += KEYS_IN_CACHE)
        for (int t = 0; t < n_tiles; t++) {
            fetch_until(&f, ++step, n_steps);
            for (int k = k0; k < n && k < k0 + KEYS_IN_CACHE; k += KEYS_AT_ONCE)
                scores(q + (size_t)t * tile, keys + (size_t)k * ld, ld, n - k < KEYS_AT_ONCE ? n - k : KEYS_AT_ONCE, hd,
                       (quad *)(s + t * TILE_SCORES + k * ATTN_HEADS));
        }
    for (int t = 0; t < n_tiles; t++)
        soften(s + t * TILE_SCORES, n, &st[t], back + t * ATTN_HEADS);
    for (int i = 0, left = hd / ATTN_WIDTH; left > 0;) {
        int nv = left >= STRIP_REGS && left - STRIP_REGS != 1 ? STRIP_REGS : 2; /* hd is a multiple of 32: never 1 left */
        for (int t = 0; t < n_tiles; t++) {
            const float *p = s + t * TILE_SCORES, *b = back + t * ATTN_HEADS;
            if (nv == STRIP_REGS)
                add_values(p, b, keys + i, ld, n, hd, STRIP_REGS, acc + (size_t)t * tile + i);
            else
                add_values(p, b, keys + i, ld, n, hd, 2, acc + (size_t)t * tile + i);
        }
        i += nv * ATTN_WIDTH;
        left -= nv;
    }
}

static void put_query(const float *q, int n_tiles, int hd, float scale, void *query)
{
    float *to = query;
    for (size_t i = 0; i < (size_t)(n_tiles * ATTN_HEADS) * (size_t)hd; i++)
        to[i] = q[i] * scale;
}

static void put_key(const float *row, int hd, void *keys, int k)
{
    memcpy((float *)keys + (size_t)k * ((size_t)hd + ATTN_PAD), row, (size_t)hd * sizeof *row);
}

static void put_stored(const struct kv_dims *d, const uint8_t *in, void *keys, int k)
{
    kv_row_decode(d, in, (float *)keys + (size_t)k * ((size_t)d->head_dim + ATTN_PAD));
}

const struct attn_kern ATTN_NAME = {ATTN_TEXT, put_query, put_key, put_stored, block, index_block, kv_row, false};
