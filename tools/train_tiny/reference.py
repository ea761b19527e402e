#!/usr/bin/env python3
"""The DeepSeek-V4 forward pass in plain numpy, float64, nothing rounded: the yardstick of the trainer and of the engine.

    python3 reference.py CHECKPOINT --tokens 0,17,23 [--positions 1,2] [--mtp]

Stored weights are expanded to float64 (FP4, FP8, BF16, F32); activations, KV rows and the indexer are exact.  Shapes:
T tokens, S streams, D hidden; weights are [out, in]; positions count from 0.  The code follows one token's way through
a layer from top to bottom; clarity counts, speed does not, but the attention is batched so that 5,000 tokens are bearable.
"""
import argparse, json, math, os, struct
import numpy as np

# ---------------------------------------------------------------- stored numbers
FP4 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])
FP8 = np.array([(-1) ** (c >> 7) * (math.ldexp(c & 7, -9) if not c & 0x78 else math.ldexp(8 + (c & 7), (c >> 3 & 15) - 10)) for c in range(256)])
FP8[[127, 255]] = np.nan
RAW = dict(F32='<f4', BF16='<u2', F8_E4M3='u1', F8_E8M0='u1', I8='u1', I64='<i8')


def read_safetensors(path):
    """name -> (dtype string, array of the raw stored integers or floats)"""
    with open(path, 'rb') as f:
        head = json.loads(f.read(struct.unpack('<Q', f.read(8))[0]))
        body = f.read()
    head.pop('__metadata__', None)
    return {k: (h['dtype'], np.frombuffer(body[slice(*h['data_offsets'])], RAW[h['dtype']]).reshape(h['shape'])) for k, h in head.items()}


def expand(kind, a, scale=None):
    """Raw tensor -> float64 (int64 stays)."""
    if kind == 'I64':
        return a
    if kind == 'BF16':
        return (a.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if kind == 'F8_E8M0':
        return np.exp2(a.astype(np.float64) - 127)
    if kind == 'F8_E4M3':
        return FP8[a] if scale is None else FP8[a] * np.kron(scale, np.ones((128, 128)))[:a.shape[0], :a.shape[1]]
    if kind == 'I8':                                       # two codes a byte, the low nibble first
        v = FP4[np.stack([a & 15, a >> 4], -1)].reshape(len(a), -1)
        return v * np.repeat(scale, 32, 1)
    return a.astype(np.float64)


def load(folder):
    with open(os.path.join(folder, 'config.json')) as f:
        cfg = json.load(f)
    raw = {}
    for n in sorted(os.listdir(folder)):
        if n.startswith('model') and n.endswith('.safetensors'):
            raw.update(read_safetensors(os.path.join(folder, n)))
    W = {}
    for k, (kind, a) in raw.items():
        if not k.endswith('.scale'):
            s = raw.get(k[:-6] + 'scale') if k.endswith('.weight') else None
            W[k] = expand(kind, a, s and expand(*s))
    for k in raw:
        if k.endswith('scale') and k not in W and k[:-5] + 'weight' not in raw:
            W[k] = expand(*raw[k])
    return cfg, W


# ---------------------------------------------------------------- small functions
def sigmoid(x): return 1 / (1 + np.exp(-x))


def hadamard(x):
    """Walsh-Hadamard over the last axis, natural order, orthonormal."""
    n, h = x.shape[-1], 1
    while h < n:
        y = x.reshape(*x.shape[:-1], n // (2 * h), 2, h)
        a, b = y[..., 0, :], y[..., 1, :]
        x = np.stack([a + b, a - b], -2).reshape(x.shape)
        h *= 2
    return x * n ** -.5


def best(score, k):
    """Indices of the k largest, ties to the lower index, ascending."""
    return np.sort(np.argsort(-score, kind='stable')[:k])


class Model:
    def __init__(self, folder):
        self.c, self.W = load(folder)

    # ---- norms and rotation
    def norm(self, x, name=None):
        y = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.c['rms_norm_eps'])
        return y * self.W[name] if name else y

    def lin(self, x, name): return x @ self.W[name].T

    def frequencies(self, compressed):
        c = self.c
        n, base = c['qk_rope_head_dim'], float(c['compress_rope_theta' if compressed else 'rope_theta'])
        i = np.arange(n // 2)
        f = base ** (-2 * i / n)
        y = c.get('rope_scaling')
        if compressed and y:
            turn = lambda rot: n * math.log(y['original_max_position_embeddings'] / (2 * math.pi * rot)) / (2 * math.log(base))
            lo, hi = max(math.floor(turn(y['beta_fast'])), 0), min(math.ceil(turn(y['beta_slow'])), n - 1)
            ramp = np.clip((i - lo) / (hi - lo or .001), 0, 1)
            f = f / y['factor'] * ramp + f * (1 - ramp)
        return f.astype(np.float32)

    def rotate(self, x, pos, f, back=False):
        """Rotates the pairs of the last dims; x [T, ..., dim], pos [T].  The angle is a product rounded to float32."""
        a = (pos.astype(np.float32)[:, None] * f).astype(np.float64).reshape(len(pos), *[1] * (x.ndim - 2), -1)
        z = x[..., -2 * len(f)::2] + 1j * x[..., -2 * len(f) + 1::2]
        z = z * np.exp(-1j * a if back else 1j * a)
        y = x.copy()
        y[..., -2 * len(f)::2], y[..., -2 * len(f) + 1::2] = z.real, z.imag
        return y

    # ---- hyper-connections
    def mixing(self, X, p):
        """-> weights of the streams going in, weight of the output per stream, stream to stream matrix"""
        W, e, S = self.W, self.c['hc_eps'], self.c['hc_mult']
        m = self.lin(self.norm(X.reshape(len(X), -1)), p + 'fn')
        s, b = W[p + 'scale'], W[p + 'base']
        pre = sigmoid(m[:, :S] * s[0] + b[:S]) + e
        if len(b) == S:
            return pre
        post = 2 * sigmoid(m[:, S:2 * S] * s[1] + b[S:2 * S])
        C = (m[:, 2 * S:] * s[2] + b[2 * S:]).reshape(-1, S, S)
        C = np.exp(C - C.max(2, keepdims=True))
        C = C / C.sum(2, keepdims=True) + e
        C /= C.sum(1, keepdims=True) + e
        for _ in range(self.c['hc_sinkhorn_iters'] - 1):
            C /= C.sum(2, keepdims=True) + e
            C /= C.sum(1, keepdims=True) + e
        return pre, post, C

    def through(self, X, hc, norm, f):
        pre, post, C = self.mixing(X, hc)
        o = f(self.norm(np.einsum('ts,tsd->td', pre, X), norm))
        return post[:, :, None] * o[:, None] + np.einsum('tjk,tjd->tkd', C, X)

    def logits(self, X, p=''):
        y = np.einsum('ts,tsd->td', self.mixing(X, p + 'hc_head_'), X)
        return self.norm(y, p + 'norm.weight') @ self.W['head.weight'].T, y

    # ---- attention
    def compress(self, a, p, ratio, dim, f):
        W, n = self.W, len(a) // ratio
        if not n:
            return np.zeros((0, dim))
        v, s = self.lin(a, p + 'wkv.weight')[:n * ratio], self.lin(a, p + 'wgate.weight')[:n * ratio]
        v, s = v.reshape(n, ratio, -1), s.reshape(n, ratio, -1) + W[p + 'ape']
        if ratio == 4:                                     # the window before (first half of the channels), then the own
            before = lambda x, fill: np.concatenate([np.full((1, 4, dim), fill), x[:-1, :, :dim]])[:n]
            v = np.concatenate([before(v, 0.), v[:, :, dim:]], 1)
            s = np.concatenate([before(s, -np.inf), s[:, :, dim:]], 1)
        s = np.exp(s - s.max(1, keepdims=True))
        e = (s * v).sum(1) / s.sum(1)
        return self.rotate(self.norm(e, p + 'norm.weight'), np.arange(n) * ratio, f)

    def select(self, a, qa, p, f):
        """[T, n] bool: the entries every token attends to."""
        c, T = self.c, len(a)
        H, d = c['index_n_heads'], c['index_head_dim']
        key = hadamard(self.compress(a, p + 'compressor.', 4, d, f))
        q = hadamard(self.rotate(self.lin(qa, p + 'wq_b.weight').reshape(T, H, d), np.arange(T), f))
        w = self.lin(a, p + 'weights_proj.weight') * (d * H) ** -.5
        keep = np.zeros((T, len(key)), bool)
        for t in range(T):
            n = (t + 1) // 4
            keep[t, best(w[t] @ np.maximum(q[t] @ key[:n].T, 0), c['index_topk'])] = True
        return keep

    def queries(self, a, p, pos, f):
        qa = self.norm(self.lin(a, p + 'wq_a.weight'), p + 'q_norm.weight')
        q = self.norm(self.lin(qa, p + 'wq_b.weight').reshape(len(a), -1, self.c['head_dim']))
        return qa, self.rotate(q, pos, f)

    def rows(self, a, p, pos, f):
        return self.rotate(self.norm(self.lin(a, p + 'wkv.weight'), p + 'kv_norm.weight'), pos, f)

    def attend(self, q, K, see, sink):
        """q [T, H, d], K [n, d], see [T, n] bool -> [T, H, d]; K is also the value."""
        s = np.where(see[:, None], q @ K.T * self.c['head_dim'] ** -.5, -np.inf)
        top = np.maximum(s.max(-1), sink)
        e = np.exp(s - top[..., None])
        return e @ K / (e.sum(-1) + np.exp(sink - top))[..., None]

    def project(self, o, p, pos, f):
        o, G = self.rotate(o, pos, f, back=True), self.c['o_groups']
        wa = self.W[p + 'wo_a.weight'].reshape(G, self.c['o_lora_rank'], -1)
        return self.lin(np.einsum('tgd,grd->tgr', o.reshape(len(o), G, -1), wa).reshape(len(o), -1), p + 'wo_b.weight')

    def attention(self, a, p, ratio):
        T, c = len(a), self.c
        f, pos, sink = self.frequencies(ratio > 0), np.arange(T), self.W[p + 'attn_sink']
        qa, q = self.queries(a, p, pos, f)
        kv = self.rows(a, p, pos, f)
        ent, see = np.zeros((0, kv.shape[1])), np.zeros((T, 0), bool)
        if ratio:
            ent = self.compress(a, p + 'compressor.', ratio, c['head_dim'], f)
            see = self.select(a, qa, p + 'indexer.', f) if ratio == 4 else np.arange(len(ent)) < ((pos + 1) // ratio)[:, None]
        o = np.empty_like(q)
        for i in range(0, T, 64):                          # 64 queries, the rows they can reach
            t, lo = pos[i:i + 64], max(0, i - c['sliding_window'] + 1)
            k = np.arange(lo, t[-1] + 1)
            near = (k <= t[:, None]) & (k > t[:, None] - c['sliding_window'])
            o[t] = self.attend(q[t], np.concatenate([kv[k], ent]), np.concatenate([near, see[t]], 1), sink)
        return self.project(o, p, pos, f)

    # ---- experts
    def expert(self, x, p, w=1.):
        L = self.c['swiglu_limit'] or np.inf
        g, u = np.minimum(self.lin(x, p + 'w1.weight'), L), np.clip(self.lin(x, p + 'w3.weight'), -L, L)
        return self.lin(g * sigmoid(g) * u * w, p + 'w2.weight')

    def route(self, x, tokens, p):
        s = np.sqrt(np.logaddexp(0, self.lin(x, p + 'gate.weight')))
        if p + 'gate.tid2eid' in self.W:
            ids = self.W[p + 'gate.tid2eid'][tokens]
        else:
            ids = np.array([best(v, self.c['num_experts_per_tok']) for v in s + self.W[p + 'gate.bias']])
        w = np.take_along_axis(s, ids, 1)
        return ids, w / w.sum(1, keepdims=True) * self.c['routed_scaling_factor']

    def moe(self, x, tokens, p):
        ids, w = self.route(x, tokens, p)
        y = self.expert(x, p + 'shared_experts.')
        for e in range(self.c['n_routed_experts']):
            t, k = np.nonzero(ids == e)
            if len(t):
                y[t] += self.expert(x[t], f'{p}experts.{e}.', w[t, k][:, None])
        return y

    # ---- whole model
    def block(self, X, tokens, p, ratio, attention=None):
        X = self.through(X, p + 'hc_attn_', p + 'attn_norm.weight', attention or (lambda a: self.attention(a, p + 'attn.', ratio)))
        return self.through(X, p + 'hc_ffn_', p + 'ffn_norm.weight', lambda a: self.moe(a, tokens, p + 'ffn.'))

    def embed(self, tokens): return np.repeat(self.W['embed.weight'][tokens][:, None], self.c['hc_mult'], 1)

    def forward(self, tokens):
        """The streams after every layer, [T, S, D] each."""
        X, out = self.embed(tokens), []
        for l in range(self.c['num_hidden_layers']):
            X = self.block(X, tokens, f'layers.{l}.', self.c['compress_ratios'][l])
            out.append(X)
        return out

    def mtp(self, X, tokens):
        """X: the last streams.  Logits of T-1 rows; row t has seen token t+1 and predicts token t+2."""
        p, nxt = 'mtp.0.', tokens[1:]
        e = self.lin(self.norm(self.W['embed.weight'][nxt], p + 'enorm.weight'), p + 'e_proj.weight')
        h = self.lin(self.norm(X[:-1], p + 'hnorm.weight'), p + 'h_proj.weight')
        return self.logits(self.block(e[:, None] + h, nxt, p, 0), p)[0]

    def dspark(self, streams, following, P):
        """One greedy draft after position P, whose next token is `following`: ids, logits with the Markov term, confidence."""
        c, W, f = self.c, self.W, self.frequencies(False)
        stages = len({k.split('.')[1] for k in W if k.startswith('mtp.')})
        last, lo = f'mtp.{stages - 1}.', max(0, P - c['sliding_window'] + 1)
        seen, B = np.arange(lo, P + 1), c['dspark_block_size']
        h = np.concatenate([streams[l][seen].mean(1) for l in c['dspark_target_layer_ids']], -1)
        main = self.norm(self.lin(h, 'mtp.0.main_proj.weight'), 'mtp.0.main_norm.weight')
        ids, pos = np.array([following] + [c['dspark_noise_token_id']] * (B - 1)), P + 1 + np.arange(B)
        X = self.embed(ids)
        for s in range(stages):
            def attention(a, p=f'mtp.{s}.attn.'):
                K = np.concatenate([self.rows(main, p, seen, f), self.rows(a, p, pos, f)])
                o = self.attend(self.queries(a, p, pos, f)[1], K, np.ones((B, len(K)), bool), W[p + 'attn_sink'])
                return self.project(o, p, pos, f)
            X = self.block(X, ids, f'mtp.{s}.', 0, attention)
        logits, y = self.logits(X, last)
        out, confidence, prev = [], [], following
        for i in range(B):
            m = W[last + 'markov_head.markov_w1.weight'][prev]
            logits[i] += W[last + 'markov_head.markov_w2.weight'] @ m
            prev = int(logits[i].argmax())
            out.append(prev)
            confidence.append(float(W[last + 'confidence_head.proj.weight'][0] @ np.concatenate([y[i], m])))
        return out, logits, np.array(confidence)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('checkpoint')
    ap.add_argument('--tokens', required=True)
    ap.add_argument('--positions')
    ap.add_argument('--mtp', action='store_true')
    o = ap.parse_args()
    ints = lambda s: [int(x) for x in s.split(',')]
    m, t = Model(o.checkpoint), np.array(ints(o.tokens))
    X = m.forward(t)[-1]
    for p in ints(o.positions) if o.positions else range(len(t)):
        print(f'logits[{p}]', *m.logits(X[p:p + 1])[0][0])
    if o.mtp:
        for p, row in enumerate(m.mtp(X, t)):
            print(f'mtp[{p}]', *row)


if __name__ == '__main__':
    main()
