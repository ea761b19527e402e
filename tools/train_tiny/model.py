"""Trainable DeepSeek-V4 forward pass (teacher forcing, whole sequences, batched) in plain PyTorch (>= 1.13).

Parameter names are the official ones, except that routed experts are stacked: `ffn.experts.w1` [E, I, D] etc.
(export.py splits and quantises them).  Shapes: N = B*T tokens, X = tuple of S streams [N, D] (separate contiguous
tensors: every mHC operation is a plain vectorised pass and no slice ever needs a zero-filled gradient).

Three things exist only for training: `Q` (straight-through weight/activation rounding, quant.py), the indexer
distillation loss (CSA attends densely while `select` is off) and the routing load that drives the balance bias.
"""
import json, math
import torch, torch.nn as nn, torch.nn.functional as F
import kernels


class Config(dict):
    """config.json of the official format; attribute access."""
    __getattr__ = dict.__getitem__
    @staticmethod
    def load(path): return Config(json.load(open(path)))


def base_config(**kw):
    c = dict(architectures=['DeepseekV4ForCausalLM'], model_type='deepseek_v4', bos_token_id=0, eos_token_id=1,
             hidden_size=128, num_hidden_layers=5, compress_ratios=[0, 4, 128, 4, 128, 0], num_attention_heads=4,
             head_dim=128, qk_rope_head_dim=64, q_lora_rank=128, o_groups=2, o_lora_rank=128, num_key_value_heads=1,
             n_routed_experts=16, num_experts_per_tok=4, n_shared_experts=1, moe_intermediate_size=128,
             num_hash_layers=1, routed_scaling_factor=1.5, scoring_func='sqrtsoftplus', topk_method='noaux_tc',
             norm_topk_prob=True, swiglu_limit=10.0, hidden_act='silu', hc_mult=4, hc_sinkhorn_iters=20, hc_eps=1e-6,
             rms_norm_eps=1e-6, index_n_heads=16, index_head_dim=64, index_topk=16, sliding_window=128,
             rope_theta=10000, compress_rope_theta=160000, max_position_embeddings=1048576,
             rope_scaling=dict(type='yarn', factor=16, original_max_position_embeddings=65536, beta_fast=32, beta_slow=1),
             num_nextn_predict_layers=1, vocab_size=3968, tie_word_embeddings=False, torch_dtype='bfloat16')
    c.update(kw)
    return Config(c)


CHUNK = 32                                               # queries handled together by the attention core (divides the window)
FAST = True                                               # fused C kernels on the CPU, when a compiler is at hand


def linear(x, w): return F.linear(x, w)


# ---------------------------------------------------------------- small functions
def fast(x): return FAST and not x.is_cuda and x.dtype == torch.float32 and kernels.available()


def rms(x, w, eps):
    if fast(x):
        return kernels.RMS.apply(x, w, eps)
    y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return y if w is None else w * y


def freqs(c, compressed):
    rd = c.qk_rope_head_dim
    n, base = rd // 2, float(c.compress_rope_theta if compressed else c.rope_theta)
    f = base ** (-torch.arange(n, dtype=torch.float64) * 2 / rd)
    y = c.get('rope_scaling')
    if compressed and y:
        dim = lambda rot: rd * math.log(y['original_max_position_embeddings'] / (rot * 2 * math.pi)) / (2 * math.log(base))
        lo, hi = max(math.floor(dim(y['beta_fast'])), 0), min(math.ceil(dim(y['beta_slow'])), rd - 1)
        ramp = ((torch.arange(n, dtype=torch.float64) - lo) / (hi - lo if hi != lo else .001)).clamp(0, 1)
        f = f / y['factor'] * ramp + f * (1 - ramp)
    return f.float()


def rope_table(pos, f):
    a = (pos.float()[:, None] * f).double()               # the angle is a float32 product
    return a.cos().float(), a.sin().float()               # [T, rd/2] each


def rope(x, tab, inverse=False):
    """x [..., T, dim]; rotates interleaved pairs of the last rd dims."""
    co, si = tab
    if fast(x):
        return kernels.Rope.apply(x, co.contiguous(), si.contiguous(), -1. if inverse else 1.)
    rd = 2 * co.shape[-1]
    if inverse:
        si = -si
    u, v = x[..., -rd::2], x[..., -rd + 1::2]
    r = torch.stack([u * co - v * si, u * si + v * co], -1).flatten(-2)
    return torch.cat([x[..., :-rd], r], -1) if rd < x.shape[-1] else r


def hadamard(n):
    h = torch.ones(1, 1)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    return h * n ** -.5


def sinkhorn(C, iters, eps):
    """C [S, S, N] (rows first); softmax over columns, then alternating normalisation."""
    C = torch.softmax(C, 1) + eps
    for i in range(iters):
        if i:
            C = C / (C.sum(1, keepdim=True) + eps)
        C = C / (C.sum(0, keepdim=True) + eps)
    return C


# ---------------------------------------------------------------- modules
class Attend(torch.autograd.Function):
    """Softmax attention with a sink over the window rows kv [B, T, hd] and compressed entries ent [B, n, hd] (or None).
    q [B, T/C, H, C, hd] is already scaled; m2 is the additive mask of the entries [1 or B, T, n].  Returns o like q and
    the probabilities of the entries summed over the heads [B, T, n] (no gradient).  Queries go in chunks of C with the
    W + C rows they can see.  Written out because autograd's slices and concatenations cost more than the products on a CPU."""
    @staticmethod
    def windows(kv, C, W):
        B, T, hd = kv.shape
        p = F.pad(kv, (0, 0, W, 0))
        return p.as_strided((B, T // C, W + C, hd), (p.stride(0), C * hd, hd, 1)).reshape(B * (T // C), W + C, hd)

    @staticmethod
    def forward(ctx, q, kv, ent, sink, m2, W):
        B, nc, H, C, hd = q.shape
        T = nc * C
        qc = q.reshape(B * nc, H * C, hd)
        kc = Attend.windows(kv, C, W)
        i, j = torch.arange(C, device=q.device)[:, None], torch.arange(W + C, device=q.device)[None] - W
        m = torch.zeros(nc, 1, C, W + C, device=q.device).masked_fill((j > i) | (j <= i - W), -1e4)
        c = torch.arange(nc, device=q.device).view(nc, 1, 1, 1)
        m = m.masked_fill(c * C + j < 0, -1e4)                            # rows before the sequence
        s1 = torch.bmm(qc, kc.transpose(1, 2)).view(B, nc, H, C, -1).add_(m)
        sk = sink.view(H, 1, 1)
        M = torch.maximum(s1.amax(-1, keepdim=True), sk)
        if ent is not None:
            m2 = m2.view(-1, nc, 1, C, m2.shape[-1])
            s2 = torch.bmm(qc.view(B, -1, hd), ent.transpose(1, 2)).view(B, nc, H, C, -1).add_(m2)
            M = torch.maximum(M, s2.amax(-1, keepdim=True))
        s1 = s1.sub_(M).exp_()
        ps = torch.exp(sk - M)
        den = s1.sum(-1, keepdim=True) + ps
        if ent is not None:
            s2 = s2.sub_(M).exp_()
            den = den + s2.sum(-1, keepdim=True)
        r = 1 / den
        ps = ps * r
        p1, p2, out = s1.mul_(r), None, q.new_empty(0)
        o = torch.bmm(p1.view(B * nc, H * C, -1), kc)
        if ent is not None:
            p2 = s2.mul_(r)
            o.view(B, -1, hd).baddbmm_(p2.view(B, nc * H * C, -1), ent)
            out = p2.sum(2).view(B, T, -1)
        ctx.dims = B, H, T, hd, W, C
        ctx.save_for_backward(qc, kc, ent, p1, p2, ps, o)
        ctx.mark_non_differentiable(out)
        return o.view(B, nc, H, C, hd), out

    @staticmethod
    def backward(ctx, g, _):
        qc, kc, ent, p1, p2, ps, o = ctx.saved_tensors
        B, H, T, hd, W, C = ctx.dims
        nc = T // C
        g = g.reshape(B * nc, H * C, hd)
        delta = (g * o).sum(-1).view(B, nc, H, C, 1)
        dsink = -(ps * delta).sum((0, 1, 3, 4))
        d1 = torch.bmm(g, kc.transpose(1, 2)).view_as(p1).sub_(delta).mul_(p1).view(B * nc, H * C, -1)
        dq = torch.bmm(d1, kc)
        dk = torch.bmm(d1.transpose(1, 2), qc).baddbmm_(p1.view_as(d1).transpose(1, 2), g).view(B, nc, W + C, hd)
        dkv = g.new_zeros(B, nc + W // C, C, hd)                          # overlapping windows add up
        for k in range(W // C + 1):
            dkv[:, k:k + nc] += dk[:, :, k * C:(k + 1) * C]
        de = None
        if ent is not None:
            gb, qb = g.view(B, -1, hd), qc.view(B, -1, hd)
            d2 = torch.bmm(gb, ent.transpose(1, 2)).view_as(p2).sub_(delta).mul_(p2).view(B, nc * H * C, -1)
            dq.view(B, -1, hd).baddbmm_(d2, ent)
            de = torch.bmm(d2.transpose(1, 2), qb).baddbmm_(p2.view_as(d2).transpose(1, 2), gb)
        return dq.view(B, nc, H, C, hd), dkv[:, W // C:].reshape(B, T, hd), de, dsink, None, None


class HC(nn.Module):
    """Hyper-connection parameters of one sub-layer.  Init: read the mean of the streams, write to all of them with
    weight 1, mix almost like the identity (softmax of 4*I, about .95 on the diagonal)."""
    def __init__(self, c):
        super().__init__()
        S, self.c = c.hc_mult, c
        self.fn = nn.Parameter(torch.randn(S * (2 + S), S * c.hidden_size) * .02)
        b = torch.zeros(S * (2 + S))
        b[:S] = -math.log(S - 1)                          # sigmoid = 1/S
        b[2 * S:] = (torch.eye(S) * 4).flatten()
        b[:S] += torch.linspace(-.5, .5, S)               # break the symmetry of the streams
        b[S:2 * S] += torch.linspace(.5, -.5, S)
        self.base = nn.Parameter(b)
        self.scale = nn.Parameter(torch.full((3,), .1))

    def forward(self, X):
        """-> mixed input y [N, D] and the coefficients (post, C) for mix_out."""
        c, S = self.c, self.c.hc_mult
        if S == 4 and not X[0].is_cuda and FAST and kernels.available():
            y, post, C = kernels.Mix.apply(*X, self.fn, self.scale, self.base, c.rms_norm_eps, c.hc_eps, c.hc_sinkhorn_iters)
            return y, (post, C)
        m = hc_raw(X, self.fn, c.rms_norm_eps)            # [24, N]
        pre = torch.sigmoid(m[:S] * self.scale[0] + self.base[:S, None]) + c.hc_eps
        post = 2 * torch.sigmoid(m[S:2 * S] * self.scale[1] + self.base[S:2 * S, None])
        C = (m[2 * S:] * self.scale[2] + self.base[2 * S:, None]).reshape(S, S, -1)
        return mix_in(pre, X), (post, sinkhorn(C, c.hc_sinkhorn_iters, c.hc_eps))


class HCHead(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.fn = nn.Parameter(torch.randn(c.hc_mult, c.hc_mult * c.hidden_size) * .02)
        self.base = nn.Parameter(torch.full((c.hc_mult,), -math.log(c.hc_mult - 1)))
        self.scale = nn.Parameter(torch.full((1,), .1))

    def forward(self, X):
        c = self.c
        m = hc_raw(X, self.fn, c.rms_norm_eps)
        return mix_in(torch.sigmoid(m * self.scale + self.base[:, None]) + c.hc_eps, X)


def hc_raw(X, fn, eps):
    """(fn . v) / rms(v) with v = the concatenated streams; [rows of fn, N]."""
    S, D = len(X), X[0].shape[-1]
    m = sum(F.linear(x, f) for x, f in zip(X, fn.split(D, 1)))
    rr = torch.rsqrt(sum(x.pow(2).sum(1) for x in X) / (S * D) + eps)
    return (m * rr[:, None]).T


def mix_in(pre, X):
    pre = pre.unbind(0)
    y = pre[0][:, None] * X[0]
    for s in range(1, len(X)):
        y = torch.addcmul(y, pre[s][:, None], X[s])
    return y


def mix_out(co, o, X):
    post, C = co
    if C.dim() == 2:
        return kernels.Out.apply(post, C, o, *X)
    S, out = len(X), []
    post, C = post.unbind(0), C.flatten(0, 1).unbind(0)
    for k in range(S):
        y = post[k][:, None] * o
        for j in range(S):
            y = torch.addcmul(y, C[j * S + k][:, None], X[j])
        out.append(y)
    return tuple(out)


class Lin(nn.Module):
    """[out, in] weight; kind 'fp8' / 'bf16' / 'f32' says how it is stored (and rounded when Q is on)."""
    def __init__(self, out, inp, kind, gain=1.):
        super().__init__()
        self.weight, self.kind, self.Q = nn.Parameter(torch.randn(out, inp) * gain * inp ** -.5), kind, None
    def w(self): return self.Q.weight(self.weight, self.kind) if self.Q else self.weight
    def forward(self, x):
        if self.Q and self.kind == 'fp8':
            x = self.Q.act(x)
        return linear(x, self.w())


class Norm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n)), eps
    def forward(self, x): return rms(x, self.weight, self.eps)


class Compressor(nn.Module):
    def __init__(self, c, ratio, dim):
        super().__init__()
        k = 2 if ratio == 4 else 1
        self.ratio, self.dim = ratio, dim
        self.wkv, self.wgate = Lin(k * dim, c.hidden_size, 'bf16'), Lin(k * dim, c.hidden_size, 'bf16', .1)
        self.ape = nn.Parameter(torch.randn(ratio, k * dim) * .1)
        self.norm = Norm(dim, c.rms_norm_eps)

    def forward(self, a, tab):
        """a [B, T, D] -> [B, T // ratio, dim]; tab: rope table of all positions."""
        B, T, R, d = a.shape[0], a.shape[1], self.ratio, self.dim
        n = T // R
        a = a[:, :n * R]
        kv, sc = self.wkv(a).view(B, n, R, -1), self.wgate(a).view(B, n, R, -1)
        if fast(kv):
            e = self.norm(kernels.Pool.apply(kv, sc, self.ape, d))
            return rope(e, (tab[0][:n * R:R], tab[1][:n * R:R]))
        sc = sc + self.ape
        if R == 4:                                        # previous window's first half, then own second half
            kv = torch.cat([F.pad(kv[:, :-1, :, :d], (0, 0, 0, 0, 1, 0)), kv[..., d:]], 2)
            sc = torch.cat([F.pad(sc[:, :-1, :, :d], (0, 0, 0, 0, 1, 0), value=-1e30), sc[..., d:]], 2)
        e = self.norm((torch.softmax(sc, 2) * kv).sum(2))
        return rope(e, (tab[0][:n * R:R], tab[1][:n * R:R]))


class Indexer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.wq_b = Lin(c.index_n_heads * c.index_head_dim, c.q_lora_rank, 'fp8')
        self.weights_proj = Lin(c.index_n_heads, c.hidden_size, 'bf16')
        self.compressor = Compressor(c, 4, c.index_head_dim)
        self.register_buffer('had', hadamard(c.index_head_dim), persistent=False)

    def forward(self, a, qa, tab, Q=None, pos=None):
        """Scores [B, Tq, n] of every compressed entry; pos [Tq]: which query positions (default all)."""
        c, B = self.c, a.shape[0]
        key = self.compressor(a, tab)
        if pos is not None:
            a, qa, tab = a[:, pos], qa[:, pos], (tab[0][pos], tab[1][pos])
        T = a.shape[1]
        q = self.wq_b(qa).view(B, T, c.index_n_heads, -1).transpose(1, 2)
        q = rope(q, tab)
        if Q and Q.index:                                 # the Hadamard only matters when rounding follows
            q, key = Q.fp4_act(q @ self.had), Q.fp4_act(key @ self.had)
        w = self.weights_proj(a) * (c.index_head_dim ** -.5 * c.index_n_heads ** -.5)
        s = torch.relu(torch.bmm(q.reshape(B, -1, q.shape[-1]), key.transpose(1, 2))).view(B, c.index_n_heads, T, -1)
        return (s * w.transpose(1, 2)[..., None]).sum(1)


class Attention(nn.Module):
    def __init__(self, c, ratio):
        super().__init__()
        self.c, self.ratio, self.Q = c, ratio, None
        H, hd, D = c.num_attention_heads, c.head_dim, c.hidden_size
        self.wq_a, self.q_norm = Lin(c.q_lora_rank, D, 'fp8'), Norm(c.q_lora_rank, c.rms_norm_eps)
        self.wq_b = Lin(H * hd, c.q_lora_rank, 'fp8')
        self.wkv, self.kv_norm = Lin(hd, D, 'fp8'), Norm(hd, c.rms_norm_eps)
        self.wo_a = Lin(c.o_groups * c.o_lora_rank, H * hd // c.o_groups, 'fp8')
        self.wo_b = Lin(D, c.o_groups * c.o_lora_rank, 'fp8', .5)
        self.attn_sink = nn.Parameter(torch.zeros(H))
        if ratio:
            self.compressor = Compressor(c, ratio, hd)
        if ratio == 4:
            self.indexer = Indexer(c)

    def forward(self, a, tab, ctx):
        """a [B, T, D] with T a multiple of the chunk; ctx: Run (flags in, losses out)."""
        c, r, (B, T) = self.c, self.ratio, a.shape[:2]
        H, hd, W = c.num_attention_heads, c.head_dim, ctx.window or c.sliding_window
        qa = self.q_norm(self.wq_a(a))
        C = math.gcd(CHUNK, math.gcd(W, T))
        q = self.queries(self.wq_b(qa).view(B, T, H, hd), tab, C)
        kv = rope(self.kv_norm(self.wkv(a)), tab)
        if self.Q and self.Q.kv:
            kv = self.Q.kv_sim(kv, c.qk_rope_head_dim)
        ent = m2 = keep = None
        if r and T // r:
            ent = self.compressor(a, tab)
            if self.Q and self.Q.kv:
                ent = self.Q.kv_sim(ent, c.qk_rope_head_dim)
            n = ent.shape[1]
            t = torch.arange(T, device=a.device)
            vis = torch.arange(n, device=a.device)[None] < ((t + 1) // r)[:, None]          # [T, n]
            m2 = torch.zeros(T, n, device=a.device).masked_fill(~vis, -1e4)
            if r == 4 and ctx.select and n > ctx.topk(c):
                with torch.no_grad():
                    isc = torch.rand(B, T, n, device=a.device) if ctx.random_select else self.indexer(a, qa, tab, self.Q)
                    k = isc.masked_fill(~vis, -1e30).topk(ctx.topk(c), -1).indices
                    keep = torch.zeros(B, T, n, dtype=torch.bool, device=a.device).scatter_(2, k, True) & vis
                m2 = torch.zeros(B, T, n, device=a.device).masked_fill(~keep, -1e4)
        o, pc = Attend.apply(q, kv, ent, self.attn_sink, m2, W)
        if r == 4 and ctx.distill > 0:
            ctx.index_losses.append(self.index_loss(a, qa, tab, pc, vis if keep is None else keep, ctx))
        G = c.o_groups
        low = torch.bmm(self.outputs(o, tab, G), self.wo_a.w().view(G, c.o_lora_rank, -1).transpose(1, 2))
        return self.wo_b(low.transpose(0, 1).reshape(B, T, -1))

    def queries(self, x, tab, C):
        """[B, T, H, hd] -> unit RMS per head, rotated, scaled, in chunks [B, T/C, H, C, hd]"""
        B, T, H, hd = x.shape
        if fast(x):
            return kernels.Queries.apply(x, *tab, self.c.rms_norm_eps, hd ** -.5, C)
        q = rope(rms(x, None, self.c.rms_norm_eps).transpose(1, 2), tab) * hd ** -.5
        return q.view(B, H, T // C, C, hd).transpose(1, 2)

    def outputs(self, o, tab, G):
        """[B, nc, H, C, hd] -> rotated back, by output group [G, B*T, H/G*hd]"""
        if fast(o):
            return kernels.Outputs.apply(o, *tab, G)
        B, nc, H, C, hd = o.shape
        o = rope(o.transpose(1, 2).reshape(B, H, nc * C, hd), tab, inverse=True)
        return o.view(B, G, H // G, nc * C, hd).permute(1, 0, 3, 2, 4).reshape(G, B * nc * C, -1)

    def index_loss(self, a, qa, tab, pc, vis, ctx):
        """KL(attention mass over the compressed entries, summed over heads || softmax of index scores), on a random
        subset of query positions; every query is weighted by the mass it really puts on compressed entries.
        The indexer never sends gradients into the main model, nor receives any but these."""
        T = a.shape[1]
        nq = max(1, int(T * ctx.distill))
        pos = (torch.randperm(T - 4, device=a.device)[:nq] + 4) if ctx.dpos is None else ctx.dpos
        sc = self.indexer(a.detach(), qa.detach(), tab, self.Q, pos)
        with torch.no_grad():
            tgt = pc[:, pos]
            mass = tgt.sum(-1, keepdim=True)
            tgt = tgt / (mass + 1e-9)
        v = vis[pos] if vis.dim() == 2 else vis[:, pos]       # with selection on: among the selected entries only
        lp = torch.log_softmax(sc.masked_fill(~v, -1e30), -1)
        kl = (tgt * (torch.log(tgt + 1e-9) - lp)).masked_fill(~v, 0).sum(-1)
        w = mass[..., 0] / self.c.num_attention_heads + .02
        return (kl * w).sum() / w.sum()


def hash_table(moe, freq, seed=7):
    """Distinct experts for every token id, balanced by greedy bin packing: the most frequent id first, to the experts
    with the least load so far.  freq: how often an id occurs."""
    g = torch.Generator().manual_seed(seed)
    E, K = moe.c.n_routed_experts, moe.c.num_experts_per_tok
    load = torch.zeros(E, dtype=torch.float64)
    for t in torch.argsort(freq, descending=True, stable=True).tolist():
        ids = (load + torch.rand(E, generator=g, dtype=torch.float64) * (1e-3 + .05 * load.mean())).topk(K, largest=False).indices
        load[ids] += float(freq[t]) + 1e-3
        moe.gate.tid2eid[t] = ids


class MoE(nn.Module):
    def __init__(self, c, hashed):
        super().__init__()
        self.c, self.Q, E, I, D = c, None, c.n_routed_experts, c.moe_intermediate_size, c.hidden_size
        self.gate = nn.Module()
        self.gate.weight = nn.Parameter(torch.randn(E, D) * D ** -.5)
        if hashed:
            self.gate.register_buffer('tid2eid', torch.zeros(c.vocab_size, c.num_experts_per_tok, dtype=torch.long))
            hash_table(self, torch.ones(c.vocab_size))
        else:
            self.gate.register_buffer('bias', torch.zeros(E))
        self.hashed = hashed
        self.experts = nn.Module()
        self.experts.w1 = nn.Parameter(torch.randn(E, I, D) * D ** -.5)
        self.experts.w3 = nn.Parameter(torch.randn(E, I, D) * D ** -.5)
        self.experts.w2 = nn.Parameter(torch.randn(E, D, I) * I ** -.5)
        self.shared_experts = nn.Module()
        self.shared_experts.w1, self.shared_experts.w3 = Lin(I, D, 'fp8'), Lin(I, D, 'fp8')
        self.shared_experts.w2 = Lin(D, I, 'fp8')
        self.register_buffer('load', torch.zeros(E), persistent=False)

    def forward(self, x, tokens):
        """x [N, D], tokens [N]."""
        c, K = self.c, self.c.num_experts_per_tok
        s = torch.sqrt(F.softplus(x @ self.gate.weight.T))
        ids = self.gate.tid2eid[tokens] if self.hashed else (s.detach() + self.gate.bias).topk(K, -1).indices
        w = s.gather(1, ids)
        w = w / w.sum(1, keepdim=True) * c.routed_scaling_factor
        e, sh, Q = self.experts, self.shared_experts, self.Q
        w1, w3, w2 = (Q.weight(p, 'fp4') for p in (e.w1, e.w3, e.w2)) if Q else (e.w1, e.w3, e.w2)
        xq = Q.act(x) if Q else x
        y, cnt = Experts.apply(xq, w, w1, w3, w2, ids, c.swiglu_limit or 1e30, Q.act if Q and Q.acts else None)
        if self.training:
            self.load += cnt
        L = c.swiglu_limit or 1e30
        return y + sh.w2(F.silu(sh.w1(x).clamp(max=L)) * sh.w3(x).clamp(-L, L))


class Experts(torch.autograd.Function):
    """Routed experts: tokens sorted by expert, one product per expert and matrix, no padding and no dropped token.
    x [N, D], w [N, K] routing weights, ids [N, K] -> y [N, D] and the number of tokens per expert."""
    @staticmethod
    def forward(ctx, x, w, w1, w3, w2, ids, L, act):
        N, K, E, I = *ids.shape, w1.shape[0], w1.shape[1]
        flat = ids.flatten()
        cnt = torch.bincount(flat, minlength=E)
        order = torch.argsort(flat, stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(N * K, device=x.device)
        tok, end = order // K, torch.cumsum(cnt, 0).tolist()
        seg = [(e, a, b) for e, (a, b) in enumerate(zip([0] + end[:-1], end)) if b > a]
        xs, ws = x.index_select(0, tok), w.flatten()[order]
        g, u, o = x.new_empty(N * K, I), x.new_empty(N * K, I), x.new_empty(N * K, x.shape[1])
        for e, a, b in seg:
            torch.mm(xs[a:b], w1[e].T, out=g[a:b])
            torch.mm(xs[a:b], w3[e].T, out=u[a:b])
        h = kernels.swiglu(g, u, ws, L)
        if act:
            h = act(h)
        for e, a, b in seg:
            torch.mm(h[a:b], w2[e].T, out=o[a:b])
        ctx.save_for_backward(xs, ws, w1, w3, w2, g, u, h, tok, place)
        ctx.k = N, K, L, seg
        ctx.mark_non_differentiable(cnt)
        return o.index_select(0, place).view(N, K, -1).sum(1), cnt

    @staticmethod
    def backward(ctx, dy, _):
        xs, ws, w1, w3, w2, g, u, h, tok, place = ctx.saved_tensors
        N, K, L, seg = ctx.k
        do = dy.index_select(0, tok)
        dh, dx = torch.empty_like(g), torch.empty_like(xs)
        d1, d3, d2 = torch.zeros_like(w1), torch.zeros_like(w3), torch.zeros_like(w2)
        for e, a, b in seg:
            torch.mm(do[a:b], w2[e], out=dh[a:b])
            torch.mm(do[a:b].T, h[a:b], out=d2[e])
        dg, du, dw = kernels.swiglu_back(g, u, ws, dh, L)
        for e, a, b in seg:
            torch.mm(dg[a:b], w1[e], out=dx[a:b])
            dx[a:b].addmm_(du[a:b], w3[e])
            torch.mm(dg[a:b].T, xs[a:b], out=d1[e])
            torch.mm(du[a:b].T, xs[a:b], out=d3[e])
        return dx.index_select(0, place).view(N, K, -1).sum(1), dw[place].view(N, K), d1, d3, d2, None, None, None


class Block(nn.Module):
    def __init__(self, c, ratio, hashed):
        super().__init__()
        self.attn_norm, self.ffn_norm = Norm(c.hidden_size, c.rms_norm_eps), Norm(c.hidden_size, c.rms_norm_eps)
        self.hc_attn, self.hc_ffn = HC(c), HC(c)
        self.attn, self.ffn = Attention(c, ratio), MoE(c, hashed)

    def forward(self, X, tokens, tab, ctx):
        B, T = tokens.shape
        D = X[0].shape[-1]
        y, co = self.hc_attn(X)
        o = self.attn(self.attn_norm(y).view(B, T, D), tab[self.attn.ratio > 0], ctx)
        X = mix_out(co, o.reshape(B * T, D), X)
        y, co = self.hc_ffn(X)
        return mix_out(co, self.ffn(self.ffn_norm(y), tokens.reshape(-1)), X)


class Run:
    """Per-call switches and by-products."""
    def __init__(self, select=False, k=None, distill=0., dpos=None, random_select=False, window=None):
        self.select, self.k, self.distill, self.dpos, self.random_select, self.window = select, k, distill, dpos, random_select, window
        self.index_losses, self.outputs = [], None            # outputs: a list gets the streams after every layer
    def topk(self, c): return self.k or c.index_topk


class MTP(Block):
    def __init__(self, c):
        super().__init__(c, 0, False)
        D = c.hidden_size
        self.e_proj, self.h_proj = Lin(D, D, 'fp8'), Lin(D, D, 'fp8')
        self.enorm, self.hnorm, self.norm = (Norm(D, c.rms_norm_eps) for _ in range(3))
        self.hc_head = HCHead(c)


class Stage(Block):
    """One DSpark stage: a window block whose queries are a draft's positions.  The first stage owns the projection of
    the main model's streams, the last one the head, the Markov term and the confidence."""
    def __init__(self, c, first, last):
        super().__init__(c, 0, False)
        D, R = c.hidden_size, c.dspark_markov_rank
        if first:
            self.main_proj = Lin(D, D * len(c.dspark_target_layer_ids), 'fp8')
            self.main_norm = Norm(D, c.rms_norm_eps)
        if last:
            self.norm, self.hc_head = Norm(D, c.rms_norm_eps), HCHead(c)
            self.markov_head, self.confidence_head = nn.Module(), nn.Module()
            self.markov_head.markov_w1, self.markov_head.markov_w2 = Lin(c.vocab_size, R, 'bf16'), Lin(c.vocab_size, R, 'bf16', .1)
            self.confidence_head.proj = Lin(1, D + R, 'bf16')

    def draft(self, X, ids, main, tab, at):
        """X: S streams [n * G, D] of n drafts of G positions, ids [n, G]; main [B, T, D]; at: rows [n] and positions [n]
        of the tokens the drafts follow."""
        n, G = ids.shape
        y, co = self.hc_attn(X)
        o = self.look(self.attn_norm(y).view(n, G, -1), main, tab, at)
        X = mix_out(co, o.reshape(n * G, -1), X)
        y, co = self.hc_ffn(X)
        return mix_out(co, self.ffn(self.ffn_norm(y), ids.reshape(-1)), X)

    def look(self, a, main, tab, at):
        """Attention of the drafts: the window's rows of the main model up to the token, then all rows of the draft."""
        t, c, (n, G, _) = self.attn, self.attn.c, a.shape
        H, hd, W, (row, pos) = c.num_attention_heads, c.head_dim, c.sliding_window, at
        ring = rope(t.kv_norm(t.wkv(main)), tab)
        here = pos[:, None] + 1 + torch.arange(G)
        own = turn(t.kv_norm(t.wkv(a)), tab, here)
        q = rms(t.wq_b(t.q_norm(t.wq_a(a))).view(n, G, H, hd), None, c.rms_norm_eps)
        q = turn(q.transpose(1, 2), tab, here[:, None]) * hd ** -.5
        if t.Q and t.Q.kv:
            ring, own = t.Q.kv_sim(ring, c.qk_rope_head_dim), t.Q.kv_sim(own, c.qk_rope_head_dim)
        back = pos[:, None] - torch.arange(W)                                       # [n, W]
        K = torch.cat([ring[row[:, None], back.clamp(min=0)], own], 1)              # [n, W + G, hd]
        s = (q.reshape(n, H * G, hd) @ K.transpose(1, 2)).view(n, H, G, -1)
        hidden = torch.cat([back < 0, torch.zeros(n, G, dtype=torch.bool)], 1)
        s = s.masked_fill(hidden[:, None, None], -1e30)
        s = torch.cat([s, t.attn_sink.view(1, H, 1, 1).expand(n, H, G, 1)], -1)
        p = torch.softmax(s, -1)[..., :-1].reshape(n, H * G, -1)
        o = turn((p @ K).view(n, H, G, hd), tab, here[:, None], True)
        o = o.transpose(1, 2).reshape(n * G, c.o_groups, -1).transpose(0, 1)
        low = torch.bmm(o, t.wo_a.w().view(c.o_groups, c.o_lora_rank, -1).transpose(1, 2))
        return t.wo_b(low.transpose(0, 1).reshape(n, G, -1))


def turn(x, tab, pos, inverse=False):
    """Rotation at any positions: x [..., hd], pos broadcast to x.shape[:-1]."""
    co, si = tab[0][pos], tab[1][pos]
    rd = 2 * co.shape[-1]
    si = -si if inverse else si
    u, v = x[..., -rd::2], x[..., -rd + 1::2]
    r = torch.stack([u * co - v * si, u * si + v * co], -1).flatten(-2)
    return torch.cat([x[..., :-rd], r], -1) if rd < x.shape[-1] else r


class V4(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        L = c.num_hidden_layers
        self.embed, self.head = nn.Module(), nn.Module()
        self.embed.weight = nn.Parameter(torch.randn(c.vocab_size, c.hidden_size) * .5)
        self.head.weight = nn.Parameter(torch.randn(c.vocab_size, c.hidden_size) * .5 * c.hidden_size ** -.5)
        self.layers = nn.ModuleList(Block(c, c.compress_ratios[l], l < c.num_hash_layers) for l in range(L))
        self.norm, self.hc_head = Norm(c.hidden_size, c.rms_norm_eps), HCHead(c)
        if c.get('dspark_block_size'):
            n = len(c.compress_ratios) - L
            self.mtp = nn.ModuleList(Stage(c, s == 0, s == n - 1) for s in range(n))
        elif c.num_nextn_predict_layers:
            self.mtp = nn.ModuleList([MTP(c)])

    def set_quant(self, Q):
        for m in self.modules():
            if hasattr(m, 'Q'):
                m.Q = Q

    def tables(self, T, dev):
        pos = torch.arange(T, device=dev)
        return [rope_table(pos, freqs(self.c, k).to(dev)) for k in (False, True)]

    def streams(self, tokens, ctx=None):
        ctx = ctx or Run()
        B, T = tokens.shape
        X = (F.embedding(tokens.reshape(-1), self.embed.weight),) * self.c.hc_mult
        tab = self.tables(T, tokens.device)
        for b in self.layers:
            X = b(X, tokens, tab, ctx)
            if ctx.outputs is not None:
                ctx.outputs.append(X)
        return X, tab

    def logits(self, X, rows=None):
        """rows: flat token indices whose logits are wanted (the others cost nothing)."""
        if rows is not None:
            X = tuple(x[rows] for x in X)
        return linear(self.norm(self.hc_head(X)), self.head.weight)

    def mtp_streams(self, X, tokens, tab, ctx=None):
        """Streams of the MTP block: row t (of T-1, padded to T with token 0) predicts token t+2."""
        m = self.mtp[0]
        nxt = torch.cat([tokens[:, 1:], torch.zeros_like(tokens[:, :1])], 1)
        e = m.e_proj(m.enorm(self.embed.weight[nxt.reshape(-1)]))
        return m(tuple(e + m.h_proj(m.hnorm(x)) for x in X), nxt, tab, ctx or Run())

    def mtp_logits(self, Y, rows=None):
        m = self.mtp[0]
        if rows is not None:
            Y = tuple(y[rows] for y in Y)
        return linear(m.norm(m.hc_head(Y)), self.head.weight)

    def draft(self, outputs, tokens, tab, at):
        """DSpark: outputs: streams after every layer [B*T, D] each; at: rows [n] and positions [n] -> hidden y [n, G, D] and
        logits [n, G, V] without the Markov term.  The position after the last token of a draft must be inside the row."""
        c, (B, T), (row, pos) = self.c, tokens.shape, at
        G, m = c.dspark_block_size, self.mtp[0]
        h = torch.cat([sum(outputs[l]) / c.hc_mult for l in c.dspark_target_layer_ids], -1)
        main = m.main_norm(m.main_proj(h)).view(B, T, -1)
        ids = torch.full((len(row), G), c.dspark_noise_token_id)
        ids[:, 0] = tokens[row, pos + 1]
        X = (F.embedding(ids.reshape(-1), self.embed.weight),) * c.hc_mult
        for s in self.mtp:
            X = s.draft(X, ids, main, tab[0], at)
        y = self.mtp[-1].hc_head(X)
        return y.view(len(row), G, -1), linear(self.mtp[-1].norm(y), self.head.weight).view(len(row), G, -1)

    def markov(self, previous):
        """-> m [..., R] of the previous tokens and its term of the logits."""
        h = self.mtp[-1].markov_head
        m = h.markov_w1.w()[previous]
        return m, linear(m, h.markov_w2.w())

    def confidence(self, y, m): return self.mtp[-1].confidence_head.proj(torch.cat([y, m], -1))[..., 0]

    @torch.no_grad()
    def update_bias(self, rate):
        """Loss-free balancing: push the selection bias of over-used experts down.  Returns max/mean load of the
        scored layers (hash layers cannot be balanced after the table is made)."""
        worst = 0.
        for m in self.modules():
            if isinstance(m, MoE) and m.load.sum() > 0:
                mean = m.load.mean()
                if not m.hashed:
                    worst = max(worst, float(m.load.max() / mean))
                    m.gate.bias += rate * torch.sign(mean - m.load)
                    m.gate.bias -= m.gate.bias.mean()
                m.load.zero_()
        return worst
