"""Optional fused CPU path for what is not a matrix product: compiles kernels.c once with gcc and wraps it as autograd functions.
`available()` is False when there is no compiler; model.py then uses plain PyTorch (also on a GPU)."""
import ctypes, os, subprocess, tempfile
import torch

_lib = None
def available():
    global _lib
    if _lib is None:
        try:
            here = os.path.dirname(os.path.abspath(__file__))
            so = os.path.join(tempfile.gettempdir(), f'train-tiny-{os.getuid()}-{int(os.path.getmtime(os.path.join(here, "kernels.c")))}.so')
            if not os.path.exists(so):
                subprocess.check_call(['gcc', '-O3', '-march=native', '-ffast-math', '-fopenmp', '-shared', '-fPIC', '-o', so + '.tmp', os.path.join(here, 'kernels.c'), '-lm'])
                os.replace(so + '.tmp', so)
            _lib = ctypes.CDLL(so)
        except Exception:
            _lib = False
    return bool(_lib)

def P(*ts): return [ctypes.c_void_p(t.data_ptr()) for t in ts]
Fl, In, Lo = ctypes.c_float, ctypes.c_int, ctypes.c_long

class Mix(torch.autograd.Function):
    """(X0..X3, fn, scale, base) -> y [N,D], post [N,4], C [N,16]"""
    @staticmethod
    def forward(ctx, x0, x1, x2, x3, fn, scale, base, eps, hceps, iters):
        X = [x.contiguous() for x in (x0, x1, x2, x3)]
        N, D = X[0].shape
        f = fn.view(24, 4, D)
        M = X[0] @ f[:, 0].T
        for s in range(1, 4):
            M.addmm_(X[s], f[:, s].T)
        rr, pre, post, C, y = M.new_empty(N), M.new_empty(N, 4), M.new_empty(N, 4), M.new_empty(N, 16), M.new_empty(N, D)
        _lib.hc_mix_fwd(Lo(N), In(D), *P(*X, M, scale, base), Fl(eps), Fl(hceps), In(iters), *P(rr, pre, post, C, y))
        ctx.save_for_backward(*X, fn, scale, base, M, rr, pre, post)
        ctx.k = (hceps, iters)
        return y, post, C
    @staticmethod
    def backward(ctx, dy, dpost, dC):
        x0, x1, x2, x3, fn, scale, base, M, rr, pre, post = ctx.saved_tensors
        hceps, iters = ctx.k
        X, (N, D) = (x0, x1, x2, x3), x0.shape
        dz, dM, g = M.new_empty(N, 24), M.new_empty(N, 24), [torch.empty_like(x0) for _ in range(4)]
        dy, dpost, dC = dy.contiguous(), dpost.contiguous(), dC.contiguous()
        _lib.hc_mix_bwd(Lo(N), In(D), *P(*X, M, scale, base), Fl(hceps), In(iters), *P(rr, pre, post, dy, dpost, dC, dz, dM, *g))
        f = fn.view(24, 4, D)
        dfn = torch.stack([dM.T @ x for x in X], 1).view_as(fn)
        for s in range(4):
            g[s].addmm_(dM, f[:, s])
        t = (dz * M * rr[:, None]).sum(0)
        return (*g, dfn, torch.stack([t[:4].sum(), t[4:8].sum(), t[8:].sum()]), dz.sum(0), None, None, None)

class Out(torch.autograd.Function):
    """(post, C, o, X0..X3) -> four new streams"""
    @staticmethod
    def forward(ctx, post, C, o, x0, x1, x2, x3):
        T = [t.contiguous() for t in (post, C, o, x0, x1, x2, x3)]
        N, D = o.shape
        y = [torch.empty_like(T[2]) for _ in range(4)]
        _lib.hc_out_fwd(Lo(N), In(D), *P(*T, *y))
        ctx.save_for_backward(*T)
        return tuple(y)
    @staticmethod
    def backward(ctx, *G):
        T = ctx.saved_tensors
        N, D = T[2].shape
        G = [g.contiguous() for g in G]
        dpost, dC, r = T[0].new_empty(N, 4), T[0].new_empty(N, 16), [torch.empty_like(T[2]) for _ in range(5)]
        _lib.hc_out_bwd(Lo(N), In(D), *P(*T, *G, dpost, dC, *r))
        return (dpost, dC, *r)


def swiglu(g, u, w, L):
    """silu(min(g, L)) * clamp(u, -L, L) * w, rows of [M, I]; w [M]."""
    if available() and not g.is_cuda:
        h, w = torch.empty_like(g), w.contiguous()
        _lib.swiglu_fwd(Lo(g.shape[0]), In(g.shape[1]), *P(g, u, w), Fl(L), *P(h))
        return h
    return torch.nn.functional.silu(g.clamp(max=L)) * u.clamp(-L, L) * w[:, None]


def swiglu_back(g, u, w, dh, L):
    """-> dg, du, dw"""
    if available() and not g.is_cuda:
        dg, du, dw, w = torch.empty_like(g), torch.empty_like(g), torch.empty_like(w), w.contiguous()
        _lib.swiglu_bwd(Lo(g.shape[0]), In(g.shape[1]), *P(g, u, w, dh.contiguous()), Fl(L), *P(dg, du, dw))
        return dg, du, dw
    gc, uc = g.clamp(max=L), u.clamp(-L, L)
    s = torch.sigmoid(gc)
    v = dh * w[:, None]
    return v * uc * s * (1 + gc * (1 - s)) * (g < L), v * gc * s * (u.abs() < L), (dh * gc * s * uc).sum(1)


class RMS(torch.autograd.Function):
    """x / rms(x) * w over the last axis; w may be None"""
    @staticmethod
    def forward(ctx, x, w, eps):
        x = x.contiguous()
        D, N = x.shape[-1], x.numel() // x.shape[-1]
        rr, y = x.new_empty(N), torch.empty_like(x)
        _lib.norm_fwd(Lo(N), In(D), *P(x), P(w)[0] if w is not None else None, Fl(eps), *P(rr, y))
        ctx.save_for_backward(x, w, rr)
        return y

    @staticmethod
    def backward(ctx, g):
        x, w, rr = ctx.saved_tensors
        D, g, dx = x.shape[-1], g.contiguous(), torch.empty_like(x)
        dw = torch.empty_like(w) if w is not None else None
        _lib.norm_bwd(Lo(x.numel() // D), In(D), *P(x), P(w)[0] if w is not None else None, *P(rr, g, dx), P(dw)[0] if w is not None else None)
        return dx, dw, None


class Rope(torch.autograd.Function):
    """x [..., T, hd], tables [T, rd/2]"""
    @staticmethod
    def run(x, co, si, sign):
        x = x.contiguous()
        T, hd, y = x.shape[-2], x.shape[-1], torch.empty_like(x)
        _lib.rope_rows(Lo(x.numel() // (T * hd)), In(T), In(hd), In(2 * co.shape[1]), *P(x, co, si), Fl(sign), *P(y))
        return y

    @staticmethod
    def forward(ctx, x, co, si, sign):
        ctx.save_for_backward(co, si)
        ctx.sign = sign
        return Rope.run(x, co, si, sign)

    @staticmethod
    def backward(ctx, g):
        return Rope.run(g, *ctx.saved_tensors, -ctx.sign), None, None, None


class Queries(torch.autograd.Function):
    """wq_b output [B, T, H, hd] -> normed per head, rotated, scaled, in chunks [B, T/C, H, C, hd]"""
    @staticmethod
    def forward(ctx, x, co, si, eps, scale, C):
        x = x.contiguous()
        B, T, H, hd = x.shape
        rr, q = x.new_empty(B * T * H), x.new_empty(B, T // C, H, C, hd)
        _lib.q_fwd(In(B), In(T), In(H), In(hd), In(2 * co.shape[1]), In(C), *P(x, co, si), Fl(eps), Fl(scale), *P(rr, q))
        ctx.save_for_backward(x, co, si, rr)
        ctx.k = scale, C
        return q

    @staticmethod
    def backward(ctx, g):
        x, co, si, rr = ctx.saved_tensors
        (B, T, H, hd), (scale, C), g, dx = x.shape, ctx.k, g.contiguous(), torch.empty_like(x)
        _lib.q_bwd(In(B), In(T), In(H), In(hd), In(2 * co.shape[1]), In(C), *P(x, co, si), Fl(scale), *P(rr, g, dx))
        return dx, None, None, None, None, None


class Outputs(torch.autograd.Function):
    """attention output in chunks [B, nc, H, C, hd] -> rotated back, by output group [G, B*T, H/G*hd]"""
    @staticmethod
    def forward(ctx, o, co, si, G):
        o = o.contiguous()
        B, nc, H, C, hd = ctx.shape = o.shape
        ctx.G, y = G, o.new_empty(G, B * nc * C, H // G * hd)
        ctx.save_for_backward(co, si)
        _lib.o_fwd(In(B), In(nc * C), In(H), In(hd), In(2 * co.shape[1]), In(C), In(G), *P(o, co, si, y))
        return y

    @staticmethod
    def backward(ctx, g):
        (co, si), (B, nc, H, C, hd), g = ctx.saved_tensors, ctx.shape, g.contiguous()
        o = g.new_empty(ctx.shape)
        _lib.o_bwd(In(B), In(nc * C), In(H), In(hd), In(2 * co.shape[1]), In(C), In(ctx.G), *P(g, co, si, o))
        return o, None, None, None


class Pool(torch.autograd.Function):
    """kv, sc [B, n, R, k*d], ape [R, k*d] -> gated pool [B, n, d]; k = 2 overlaps with the window before"""
    @staticmethod
    def forward(ctx, kv, sc, ape, d):
        kv, sc = kv.contiguous(), sc.contiguous()
        B, n, R, kd = kv.shape
        e, tmp = kv.new_empty(B, n, d), kv.new_empty(2 * d)
        _lib.pool_fwd(In(B), In(n), In(R), In(d), In(kd // d), *P(kv, sc, ape, e, tmp))
        ctx.save_for_backward(kv, sc, ape, e)
        return e

    @staticmethod
    def backward(ctx, g):
        kv, sc, ape, e = ctx.saved_tensors
        (B, n, R, kd), d, g = kv.shape, e.shape[-1], g.contiguous()
        dkv, dsc, tmp = torch.zeros_like(kv), torch.zeros_like(sc), kv.new_empty(2 * d)
        _lib.pool_bwd(In(B), In(n), In(R), In(d), In(kd // d), *P(kv, sc, ape, e, g, dkv, dsc, tmp))
        return dkv, dsc, dsc.sum((0, 1)), None
