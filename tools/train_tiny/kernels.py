"""Optional fused CPU path for the hyper-connections: compiles kernels.c once with gcc and wraps it as autograd functions.
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
