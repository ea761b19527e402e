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
