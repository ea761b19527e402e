/* Fused CPU kernels for training (float32): hyper-connections (S = 4 streams, token-major coefficient rows), SwiGLU.
   gcc -O3 -march=native -ffast-math -fopenmp -shared -fPIC -o kernels.so kernels.c -lm ; used through ctypes by kernels.py */
#include <math.h>
#include <string.h>
#define S 4
#define IT 64
typedef const float *cf;

static void sink_fwd(float *c, int iters, float eps, float *tape)          /* c: logits in, mixing matrix out */
{
    for (int j = 0; j < S; j++) {
        float mx = c[4 * j], t = 0;
        for (int k = 1; k < S; k++) if (c[4 * j + k] > mx) mx = c[4 * j + k];
        for (int k = 0; k < S; k++) t += c[4 * j + k] = expf(c[4 * j + k] - mx);
        for (int k = 0; k < S; k++) c[4 * j + k] /= t;
    }
    if (tape) memcpy(tape, c, 64), tape += 16;                             /* softmax without eps */
    for (int k = 0; k < 16; k++) c[k] += eps;
    for (int i = 0; i < iters; i++) {
        if (i) {
            if (tape) memcpy(tape, c, 64), tape += 16;
            for (int j = 0; j < S; j++) {
                float r = 1 / (c[4 * j] + c[4 * j + 1] + c[4 * j + 2] + c[4 * j + 3] + eps);
                for (int k = 0; k < S; k++) c[4 * j + k] *= r;
            }
        }
        if (tape) memcpy(tape, c, 64), tape += 16;
        for (int k = 0; k < S; k++) {
            float r = 1 / (c[k] + c[4 + k] + c[8 + k] + c[12 + k] + eps);
            for (int j = 0; j < S; j++) c[4 * j + k] *= r;
        }
    }
}

static void sink_bwd(float *g, int iters, float eps, cf tape0)             /* g: d/dC in, d/dlogits out */
{
    cf t = tape0 + 16 * (2 * iters - 1);
    for (int i = iters - 1; i >= 0; i--) {
        for (int k = 0; k < S; k++) {
            float s = t[k] + t[4 + k] + t[8 + k] + t[12 + k] + eps, d = 0;
            for (int j = 0; j < S; j++) d += g[4 * j + k] * t[4 * j + k];
            for (int j = 0; j < S; j++) g[4 * j + k] = (g[4 * j + k] - d / s) / s;
        }
        t -= 16;
        if (i) {
            for (int j = 0; j < S; j++) {
                float s = t[4 * j] + t[4 * j + 1] + t[4 * j + 2] + t[4 * j + 3] + eps, d = 0;
                for (int k = 0; k < S; k++) d += g[4 * j + k] * t[4 * j + k];
                for (int k = 0; k < S; k++) g[4 * j + k] = (g[4 * j + k] - d / s) / s;
            }
            t -= 16;
        }
    }
    for (int j = 0; j < S; j++) {                                          /* softmax rows; t is tape0 here */
        float d = 0;
        for (int k = 0; k < S; k++) d += g[4 * j + k] * tape0[4 * j + k];
        for (int k = 0; k < S; k++) g[4 * j + k] = tape0[4 * j + k] * (g[4 * j + k] - d);
    }
}

/* M [N,24] = sum of fn_s . X_s.  Out: rr [N], pre [N,4], post [N,4], C [N,16], y [N,D] */
void hc_mix_fwd(long N, int D, cf x0, cf x1, cf x2, cf x3, cf M, cf scale, cf base, float eps, float hceps, int iters,
                float *rr, float *pre, float *post, float *C, float *y)
{
    #pragma omp parallel for schedule(static)
    for (long n = 0; n < N; n++) {
        cf a = x0 + n * D, b = x1 + n * D, c = x2 + n * D, d = x3 + n * D, m = M + 24 * n;
        float s = 0;
        for (int i = 0; i < D; i++) s += a[i] * a[i] + b[i] * b[i] + c[i] * c[i] + d[i] * d[i];
        float r = rr[n] = 1 / sqrtf(s / (S * D) + eps), *p = pre + 4 * n, *q = C + 16 * n;
        for (int k = 0; k < S; k++) p[k] = 1 / (1 + expf(-(m[k] * r * scale[0] + base[k]))) + hceps;
        for (int k = 0; k < S; k++) post[4 * n + k] = 2 / (1 + expf(-(m[4 + k] * r * scale[1] + base[4 + k])));
        for (int k = 0; k < 16; k++) q[k] = m[8 + k] * r * scale[2] + base[8 + k];
        sink_fwd(q, iters, hceps, 0);
        float *o = y + n * D;
        for (int i = 0; i < D; i++) o[i] = p[0] * a[i] + p[1] * b[i] + p[2] * c[i] + p[3] * d[i];
    }
}

/* In: dy [N,D], dpost [N,4], dC [N,16].  Out: dz [N,24] (d/d logits before scale and base), dM [N,24], and the part of
   dX_s that does not go through fn: pre_s*dy + 2*dss*X_s */
void hc_mix_bwd(long N, int D, cf x0, cf x1, cf x2, cf x3, cf M, cf scale, cf base, float hceps, int iters, cf rr, cf pre, cf post,
                cf dy, cf dpost, cf dC, float *dz, float *dM, float *g0, float *g1, float *g2, float *g3)
{
    #pragma omp parallel for schedule(static)
    for (long n = 0; n < N; n++) {
        cf a = x0 + n * D, b = x1 + n * D, c = x2 + n * D, d = x3 + n * D, m = M + 24 * n, g = dy + n * D, p = pre + 4 * n;
        float d0 = 0, d1 = 0, d2 = 0, d3 = 0, r = rr[n], *z = dz + 24 * n, tape[16 * 2 * IT], q[16];
        for (int i = 0; i < D; i++) d0 += g[i] * a[i], d1 += g[i] * b[i], d2 += g[i] * c[i], d3 += g[i] * d[i];
        float dp[4] = {d0, d1, d2, d3};
        for (int k = 0; k < S; k++) { float s = p[k] - hceps; z[k] = dp[k] * s * (1 - s); }
        for (int k = 0; k < S; k++) { float s = post[4 * n + k] / 2; z[4 + k] = dpost[4 * n + k] * 2 * s * (1 - s); }
        for (int k = 0; k < 16; k++) q[k] = m[8 + k] * r * scale[2] + base[8 + k];
        sink_fwd(q, iters, hceps, tape);
        memcpy(q, dC + 16 * n, 64);
        sink_bwd(q, iters, hceps, tape);
        memcpy(z + 8, q, 64);
        float drr = 0;
        for (int k = 0; k < 24; k++) {
            float t = z[k] * scale[k < 4 ? 0 : k < 8 ? 1 : 2];
            dM[24 * n + k] = t * r; drr += t * m[k];
        }
        float s2 = -drr * r * r * r / (S * D);
        for (int i = 0; i < D; i++) {
            g0[n * D + i] = p[0] * g[i] + s2 * a[i]; g1[n * D + i] = p[1] * g[i] + s2 * b[i];
            g2[n * D + i] = p[2] * g[i] + s2 * c[i]; g3[n * D + i] = p[3] * g[i] + s2 * d[i];
        }
    }
}

void hc_out_fwd(long N, int D, cf post, cf C, cf o, cf x0, cf x1, cf x2, cf x3, float *y0, float *y1, float *y2, float *y3)
{
    #pragma omp parallel for schedule(static)
    for (long n = 0; n < N; n++) {
        cf a = x0 + n * D, b = x1 + n * D, c = x2 + n * D, d = x3 + n * D, e = o + n * D, q = C + 16 * n, p = post + 4 * n;
        float *y[4] = {y0 + n * D, y1 + n * D, y2 + n * D, y3 + n * D};
        for (int k = 0; k < S; k++) {
            float *w = y[k];
            for (int i = 0; i < D; i++) w[i] = p[k] * e[i] + q[k] * a[i] + q[4 + k] * b[i] + q[8 + k] * c[i] + q[12 + k] * d[i];
        }
    }
}

void hc_out_bwd(long N, int D, cf post, cf C, cf o, cf x0, cf x1, cf x2, cf x3, cf h0, cf h1, cf h2, cf h3,
                float *dpost, float *dC, float *dO, float *g0, float *g1, float *g2, float *g3)
{
    #pragma omp parallel for schedule(static)
    for (long n = 0; n < N; n++) {
        cf q = C + 16 * n, p = post + 4 * n, e = o + n * D;
        cf x[4] = {x0 + n * D, x1 + n * D, x2 + n * D, x3 + n * D};
        cf a = h0 + n * D, b = h1 + n * D, c = h2 + n * D, d = h3 + n * D;
        float *g[4] = {g0 + n * D, g1 + n * D, g2 + n * D, g3 + n * D}, *w = dO + n * D;
        float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (int i = 0; i < D; i++) {
            w[i] = p[0] * a[i] + p[1] * b[i] + p[2] * c[i] + p[3] * d[i];
            s0 += a[i] * e[i]; s1 += b[i] * e[i]; s2 += c[i] * e[i]; s3 += d[i] * e[i];
        }
        dpost[4 * n] = s0; dpost[4 * n + 1] = s1; dpost[4 * n + 2] = s2; dpost[4 * n + 3] = s3;
        for (int j = 0; j < S; j++) {
            cf v = x[j]; float *t = g[j];
            s0 = s1 = s2 = s3 = 0;
            for (int i = 0; i < D; i++) {
                t[i] = q[4 * j] * a[i] + q[4 * j + 1] * b[i] + q[4 * j + 2] * c[i] + q[4 * j + 3] * d[i];
                s0 += a[i] * v[i]; s1 += b[i] * v[i]; s2 += c[i] * v[i]; s3 += d[i] * v[i];
            }
            dC[16 * n + 4 * j] = s0; dC[16 * n + 4 * j + 1] = s1; dC[16 * n + 4 * j + 2] = s2; dC[16 * n + 4 * j + 3] = s3;
        }
    }
}

/* h = silu(min(g, L)) * clamp(u, -L, L) * w[row] */
void swiglu_fwd(long M, int I, cf g, cf u, cf w, float L, float *h)
{
    #pragma omp parallel for schedule(static)
    for (long m = 0; m < M; m++)
        for (int i = 0; i < I; i++) {
            float a = g[m * I + i], b = u[m * I + i];
            a = a < L ? a : L; b = b < L ? b : L; b = b > -L ? b : -L;
            h[m * I + i] = a / (1 + expf(-a)) * b * w[m];
        }
}

void swiglu_bwd(long M, int I, cf g, cf u, cf w, cf dh, float L, float *dg, float *du, float *dw)
{
    #pragma omp parallel for schedule(static)
    for (long m = 0; m < M; m++) {
        float t = 0;
        for (int i = 0; i < I; i++) {
            float a0 = g[m * I + i], b0 = u[m * I + i], d = dh[m * I + i], a, b;
            a = a0 < L ? a0 : L; b = b0 < L ? b0 : L; b = b > -L ? b : -L;
            float s = 1 / (1 + expf(-a)), y = a * s;
            t += d * y * b;
            dg[m * I + i] = a0 < L ? d * w[m] * b * s * (1 + a * (1 - s)) : 0;
            du[m * I + i] = b0 < L && b0 > -L ? d * w[m] * y : 0;
        }
        dw[m] = t;
    }
}

/* ---- RMS norm over rows of D, optional weight */
void norm_fwd(long N, int D, cf x, cf w, float eps, float *rr, float *y)
{
    #pragma omp parallel for schedule(static)
    for (long n = 0; n < N; n++) {
        cf a = x + n * D; float s = 0, *o = y + n * D;
        for (int i = 0; i < D; i++) s += a[i] * a[i];
        float r = rr[n] = 1 / sqrtf(s / D + eps);
        if (w) for (int i = 0; i < D; i++) o[i] = a[i] * r * w[i];
        else for (int i = 0; i < D; i++) o[i] = a[i] * r;
    }
}

void norm_bwd(long N, int D, cf x, cf w, cf rr, cf dy, float *dx, float *dw)
{
    if (dw) memset(dw, 0, D * sizeof *dw);
    for (long n = 0; n < N; n++) {
        cf a = x + n * D, g = dy + n * D; float s = 0, r = rr[n], *o = dx + n * D;
        if (w) {
            for (int i = 0; i < D; i++) { s += g[i] * w[i] * a[i]; dw[i] += g[i] * a[i] * r; }
            s *= r * r / D;
            for (int i = 0; i < D; i++) o[i] = r * (g[i] * w[i] - a[i] * s);
        } else {
            for (int i = 0; i < D; i++) s += g[i] * a[i];
            s *= r * r / D;
            for (int i = 0; i < D; i++) o[i] = r * (g[i] - a[i] * s);
        }
    }
}

/* rotate the pairs of the last rd of hd values; sign -1 turns back */
static void turn(int hd, int rd, cf x, cf co, cf si, float sign, float k, float *y)
{
    for (int i = 0; i < hd - rd; i++) y[i] = x[i] * k;
    x += hd - rd; y += hd - rd;
    for (int i = 0; i < rd / 2; i++) {
        float u = x[2 * i] * k, v = x[2 * i + 1] * k, c = co[i], s = si[i] * sign;
        y[2 * i] = u * c - v * s; y[2 * i + 1] = u * s + v * c;
    }
}

/* x, y [R, T, hd] */
void rope_rows(long R, int T, int hd, int rd, cf x, cf co, cf si, float sign, float *y)
{
    #pragma omp parallel for schedule(static)
    for (long n = 0; n < R * T; n++)
        turn(hd, rd, x + n * hd, co + n % T * (rd / 2), si + n % T * (rd / 2), sign, 1, y + n * hd);
}

/* Queries: x [B, T, H, hd] -> unit RMS per head, rotated, times scale, laid out in chunks q [B, T/C, H, C, hd]; rr [B, T, H] */
void q_fwd(int B, int T, int H, int hd, int rd, int C, cf x, cf co, cf si, float eps, float scale, float *rr, float *q)
{
    #pragma omp parallel for schedule(static)
    for (long n = 0; n < (long)B * T; n++) {
        long b = n / T, t = n % T;
        for (int h = 0; h < H; h++) {
            cf a = x + (n * H + h) * hd; float s = 0;
            for (int i = 0; i < hd; i++) s += a[i] * a[i];
            s = rr[n * H + h] = 1 / sqrtf(s / hd + eps);
            turn(hd, rd, a, co + t * (rd / 2), si + t * (rd / 2), 1, s * scale, q + (((b * (T / C) + t / C) * H + h) * C + t % C) * hd);
        }
    }
}

void q_bwd(int B, int T, int H, int hd, int rd, int C, cf x, cf co, cf si, float scale, cf rr, cf dq, float *dx)
{
    #pragma omp parallel for schedule(static)
    for (long n = 0; n < (long)B * T; n++) {
        long b = n / T, t = n % T;
        for (int h = 0; h < H; h++) {
            cf a = x + (n * H + h) * hd; float s = 0, r = rr[n * H + h], *g = dx + (n * H + h) * hd;
            turn(hd, rd, dq + (((b * (T / C) + t / C) * H + h) * C + t % C) * hd, co + t * (rd / 2), si + t * (rd / 2), -1, scale, g);
            for (int i = 0; i < hd; i++) s += a[i] * g[i];
            s *= r * r / hd;
            for (int i = 0; i < hd; i++) g[i] = r * (g[i] - a[i] * s);
        }
    }
}

/* Attention output: o [B, T/C, H, C, hd] turned back -> y [G, B*T, H/G*hd]; the other way (sign 1) is its gradient */
void o_fwd(int B, int T, int H, int hd, int rd, int C, int G, cf o, cf co, cf si, float *y)
{
    #pragma omp parallel for schedule(static)
    for (long n = 0; n < (long)B * T; n++) {
        long b = n / T, t = n % T;
        for (int h = 0; h < H; h++)
            turn(hd, rd, o + (((b * (T / C) + t / C) * H + h) * C + t % C) * hd, co + t * (rd / 2), si + t * (rd / 2), -1, 1,
                 y + ((h / (H / G) * (long)B * T + n) * (H / G) + h % (H / G)) * hd);
    }
}

void o_bwd(int B, int T, int H, int hd, int rd, int C, int G, cf dy, cf co, cf si, float *o)
{
    #pragma omp parallel for schedule(static)
    for (long n = 0; n < (long)B * T; n++) {
        long b = n / T, t = n % T;
        for (int h = 0; h < H; h++)
            turn(hd, rd, dy + ((h / (H / G) * (long)B * T + n) * (H / G) + h % (H / G)) * hd, co + t * (rd / 2), si + t * (rd / 2), 1, 1,
                 o + (((b * (T / C) + t / C) * H + h) * C + t % C) * hd);
    }
}

/* Pooling of the compressors.  kv, sc [B, n, R, k*d], ape [R, k*d] -> e [B, n, d]; k = 2 (overlapping, R = 4) or 1.
   pool_slot: address offset of slot s of entry g, or -1 for the missing window before the first. */
static long pool_slot(long b, long g, int n, int R, int d, int k, int s)
{
    if (k == 1) return ((b * n + g) * R + s) * d;
    if (s >= R) return ((b * n + g) * R + s - R) * 2 * d + d;
    return g ? ((b * n + g - 1) * R + s) * 2 * d : -1;
}

void pool_fwd(int B, int n, int R, int d, int k, cf kv, cf sc, cf ape, float *e, float *tmp)
{
    for (long b = 0; b < B; b++) for (long g = 0; g < n; g++) {
        float *mx = tmp, *den = tmp + d, *out = e + (b * n + g) * d;
        for (int i = 0; i < d; i++) mx[i] = -1e30f, den[i] = 0, out[i] = 0;
        for (int s = 0; s < k * R; s++) {
            long a = pool_slot(b, g, n, R, d, k, s); if (a < 0) continue;
            cf z = sc + a, p = ape + (k == 1 ? (long)s * d : s >= R ? (long)(s - R) * 2 * d + d : (long)s * 2 * d);
            for (int i = 0; i < d; i++) { float v = z[i] + p[i]; mx[i] = v > mx[i] ? v : mx[i]; }
        }
        for (int s = 0; s < k * R; s++) {
            long a = pool_slot(b, g, n, R, d, k, s); if (a < 0) continue;
            cf z = sc + a, v = kv + a, p = ape + (k == 1 ? (long)s * d : s >= R ? (long)(s - R) * 2 * d + d : (long)s * 2 * d);
            for (int i = 0; i < d; i++) { float w = expf(z[i] + p[i] - mx[i]); den[i] += w; out[i] += w * v[i]; }
        }
        for (int i = 0; i < d; i++) out[i] /= den[i];
    }
}

/* dkv, dsc are zero on entry (the last window's first half is used by nobody) */
void pool_bwd(int B, int n, int R, int d, int k, cf kv, cf sc, cf ape, cf e, cf de, float *dkv, float *dsc, float *tmp)
{
    for (long b = 0; b < B; b++) for (long g = 0; g < n; g++) {
        float *mx = tmp, *den = tmp + d; cf y = e + (b * n + g) * d, gr = de + (b * n + g) * d;
        for (int i = 0; i < d; i++) mx[i] = -1e30f, den[i] = 0;
        for (int s = 0; s < k * R; s++) {
            long a = pool_slot(b, g, n, R, d, k, s); if (a < 0) continue;
            cf z = sc + a, p = ape + (k == 1 ? (long)s * d : s >= R ? (long)(s - R) * 2 * d + d : (long)s * 2 * d);
            for (int i = 0; i < d; i++) { float v = z[i] + p[i]; mx[i] = v > mx[i] ? v : mx[i]; }
        }
        for (int s = 0; s < k * R; s++) {
            long a = pool_slot(b, g, n, R, d, k, s); if (a < 0) continue;
            cf z = sc + a, p = ape + (k == 1 ? (long)s * d : s >= R ? (long)(s - R) * 2 * d + d : (long)s * 2 * d);
            float *w = dsc + a;
            for (int i = 0; i < d; i++) den[i] += w[i] = expf(z[i] + p[i] - mx[i]);
        }
        for (int s = 0; s < k * R; s++) {
            long a = pool_slot(b, g, n, R, d, k, s); if (a < 0) continue;
            cf v = kv + a; float *w = dsc + a, *u = dkv + a;
            for (int i = 0; i < d; i++) { float p = w[i] / den[i] * gr[i]; u[i] = p; w[i] = p * (v[i] - y[i]); }
        }
    }
}
