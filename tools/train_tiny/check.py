"""Does the trainer compute what the numpy reference computes?   python3 check.py [GOLDEN_F32_CHECKPOINT]

1. A random small configuration exported in F32; 2. the same in FP4/FP8/BF16, where the trainer's rounded weights must be
what the file holds; selection on, MTP included, more tokens than two windows.  3. With a folder in the golden format
(expected.safetensors beside an all-F32 checkpoint): the official logits.  4. The hand-written backward passes against
autograd.  Prints TAP; needs torch.
"""
import os, sys, tempfile
import numpy as np, torch, torch.nn.functional as F
import checkpoint, drafters, quant, reference
from model import V4, Run, Config, Attend, Experts, base_config

count = 0


def ok(good, name):
    global count
    count += 1
    print('ok' if good else 'not ok', count, '-', name, flush=True)
    return good


def run(m, tok):
    """Logits of the main model and of MTP; padding at the end cannot reach earlier positions."""
    m.eval()
    t = torch.zeros(1, -(-len(tok) // 32) * 32, dtype=torch.long)
    t[0, :len(tok)] = torch.tensor(tok)
    with torch.no_grad():
        X, tab = m.streams(t, Run(select=True))
        return m.logits(X)[:len(tok)].numpy(), m.mtp_logits(m.mtp_streams(X, t, tab))[:len(tok) - 1].numpy()


def compare(name, m, folder, tok, limit=5e-5):
    ref = reference.Model(folder)
    X = ref.forward(tok)[-1]
    x, y = run(m, tok)
    d, e = np.abs(ref.logits(X)[0] - x).max(), np.abs(ref.mtp(X, tok) - y).max()
    return ok(d < limit and e < limit, f'{name}: max |difference| of logits {d:.1e}, MTP {e:.1e}')


SMALL = dict(vocab_size=300, sliding_window=32, index_topk=6, n_routed_experts=8, num_experts_per_tok=3, swiglu_limit=.7)


def random_model(**more):
    torch.manual_seed(1)
    m = V4(base_config(**SMALL | more))
    with torch.no_grad():                                  # away from the gentle initial values
        for n, p in m.named_parameters():
            if 'hc_' in n and n.endswith('scale'):
                p.fill_(.8)
            if n.endswith('sink'):
                p.normal_()
            if 'indexer.weights_proj' in n:
                p.add_(.05)
        for n, b in m.named_buffers():
            if n.endswith('gate.bias'):
                b.normal_().mul_(.1)
    return m


def drafts(m, tok, positions):
    """Greedy DSpark drafts after each position: ids, logits, confidence."""
    m.eval()
    t = torch.zeros(1, -(-len(tok) // 32) * 32, dtype=torch.long)
    t[0, :len(tok)] = torch.tensor(tok)
    run = Run(select=True)
    run.outputs = []
    with torch.no_grad():
        _, tab = m.streams(t, run)
        at = torch.zeros(len(positions), dtype=torch.long), torch.tensor(positions)
        return drafters.greedy(m, run.outputs, t, tab, at)


def dspark(folder, m, tok, positions, name, limit=5e-5):
    ref = reference.Model(folder)
    streams, worst = ref.forward(np.array(tok)), 0.
    ids, logits, conf = drafts(m, tok, positions)
    for k, p in enumerate(positions):
        i, l, c = ref.dspark(streams, int(tok[p + 1]), p)
        if i != ids[k].tolist():
            worst = float('inf')
        worst = max(worst, np.abs(l - logits[k].numpy()).max(), np.abs(c - conf[k].numpy()).max())
    ok(worst < limit, f'{name}: drafts alike, max |difference| of logits and confidence {worst:.1e}')


def gradients():
    torch.manual_seed(3)
    B, H, T, hd, W, C, n = 2, 2, 64, 8, 32, 16, 16
    new = lambda *s: torch.randn(*s, dtype=torch.double, requires_grad=True)
    q, kv, ent, sink = new(B, H, T, hd), new(B, T, hd), new(B, n, hd), new(H)
    chunks = lambda x: x.view(B, H, T // C, C, hd).transpose(1, 2)
    t = torch.arange(T)
    m2 = torch.zeros(T, n, dtype=torch.double).masked_fill(torch.arange(n)[None] >= ((t + 1) // 4)[:, None], -1e4)
    o, _ = Attend.apply(chunks(q), kv, ent, sink, m2, W)
    o = o.transpose(1, 2).reshape(B, H, T, hd)
    far = (t[None] > t[:, None]) | (t[None] <= t[:, None] - W)
    s = torch.cat([(q @ kv[:, None].transpose(2, 3)).masked_fill(far, -1e4), q @ ent[:, None].transpose(2, 3) + m2, sink.view(1, H, 1, 1).expand(B, H, T, 1)], -1).softmax(-1)
    p = s[..., :T] @ kv[:, None] + s[..., T:T + n] @ ent[:, None]
    g = torch.randn_like(o)
    d = max((a - b).abs().max().item() for a, b in zip(torch.autograd.grad(o, (q, kv, ent, sink), g), torch.autograd.grad(p, (q, kv, ent, sink), g)))
    ok(d < 1e-12, f'attention backward against autograd: {d:.1e}')
    N, D, I, E, K, L = 40, 16, 8, 5, 2, 2.
    new = lambda *s: torch.randn(*s, requires_grad=True)
    x, w, w1, w3, w2 = new(N, D), new(N, K), new(E, I, D), new(E, I, D), new(E, D, I)
    ids = torch.stack([torch.randperm(E)[:K] for _ in range(N)])
    y, _ = Experts.apply(x, w, w1, w3, w2, ids, L, None)
    z = 0
    for k in range(K):
        u = lambda v: torch.einsum('nd,nid->ni', x, v[ids[:, k]])
        h = w[:, k, None] * F.silu(u(w1).clamp(max=L)) * u(w3).clamp(-L, L)
        z = z + torch.einsum('ni,ndi->nd', h, w2[ids[:, k]])
    g, P = torch.randn_like(y), (x, w, w1, w3, w2)
    d = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(torch.autograd.grad(y, P, g), torch.autograd.grad(z, P, g)))
    ok(d < 1e-5, f'expert backward against autograd: {d:.1e} relative')


def fused():
    """Every fused C kernel at once: loss and gradients of a whole model with and without them."""
    import model
    torch.manual_seed(5)
    m = random_model()
    m.train()
    t, out = torch.randint(0, 300, (2, 160)), []
    for on in (True, False):
        model.FAST = on
        m.zero_grad(set_to_none=True)
        torch.manual_seed(6)
        run = Run(distill=.3, select=True)
        X, tab = m.streams(t, run)
        loss = F.cross_entropy(m.logits(X), t.flatten().roll(-1)) + F.cross_entropy(m.mtp_logits(m.mtp_streams(X, t, tab)), t.flatten().roll(-2)) + sum(run.index_losses)
        loss.backward()
        out.append((loss.item(), {n: p.grad.clone() for n, p in m.named_parameters() if p.grad is not None}))
    model.FAST = True
    (a, g), (b, h) = out
    d = max(((g[n] - h[n]).norm() / (h[n].norm() + 1e-5)).item() for n in h)

    ok(set(g) == set(h) and abs(a - b) < 1e-5 and d < 2e-3, f'fused kernels: loss differs by {abs(a - b):.1e}, gradients by {d:.1e} relative ({len(g)} parameters)')


def main():
    torch.set_num_threads(1)
    m = random_model()
    tok = np.random.default_rng(0).integers(0, 300, 300)
    with tempfile.TemporaryDirectory() as d:
        checkpoint.export(m, d, False)
        compare('random configuration, F32', m, d, tok)
        m.set_quant(quant.Quant())
        checkpoint.round_rest(m)
        checkpoint.export(m, d)
        compare('the same in FP4, FP8 and BF16', m, d, tok)
    m = random_model(compress_ratios=[0, 4, 128, 4, 128, 0, 0, 0], dspark_block_size=5, dspark_noise_token_id=299, dspark_target_layer_ids=[2, 3, 4], dspark_markov_rank=16)
    with tempfile.TemporaryDirectory() as d:
        checkpoint.export(m, d, False)
        dspark(d, m, tok, [0, 20, 31, 32, 200], 'DSpark stages, F32')
    gradients()
    fused()
    if len(sys.argv) > 1:
        g = Config.load(os.path.join(sys.argv[1], 'config.json'))
        m = V4(g)
        left = checkpoint.import_f32(m, sys.argv[1])
        exp = {k: reference.expand(*v) for k, v in reference.read_safetensors(os.path.join(sys.argv[1], 'expected.safetensors')).items()}
        x, y = run(m, exp['tokens'])
        d, e = np.abs(x[exp['positions']] - exp['logits']).max(), np.abs(y[exp['mtp_positions']] - exp['mtp_logits']).max()
        ok(not left and d < 5e-5 and e < 5e-5, f'official logits: {d:.1e}, MTP {e:.1e}')
    print(f'1..{count}')


if __name__ == '__main__':
    main()
