"""Train the embedded model.   python3 train.py CONFIG.json RUN_DIR [--minutes M] [--after OTHER_RUN] [--export DIR]

Two worker processes of one thread each share parameters and optimiser state in memory and never wait for each other:
each runs its own rows and applies its own gradient (asynchronous SGD with at most one update of delay).  Resumable: RUN_DIR/last.pt is
written every few minutes and on SIGTERM or SIGINT; a run that finds one goes on from it.  The schedule is in wall time
(`minutes` of training), so a slower machine trains fewer tokens and still ends with the decay.  RUN_DIR/log.jsonl
holds one line a minute; plot.py draws it.
"""
import argparse, json, math, os, random, signal, sys, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np
import torch, torch.nn.functional as F
import torch.multiprocessing as mp
from tokenizers import Tokenizer
import checkpoint, data, model, quant
from model import V4, Run, base_config


# ---------------------------------------------------------------- optimiser
def orthogonal(G, steps):
    """Newton-Schulz towards the nearest semi-orthogonal matrix; G [n, rows, columns]."""
    t = G.shape[1] > G.shape[2]
    X = G.transpose(1, 2) if t else G
    X = (X / (X.flatten(1).norm(dim=1)[:, None, None] + 1e-7)).contiguous()
    for _ in range(steps):
        A = torch.bmm(X, X.transpose(1, 2))
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=-4.7750, alpha=2.0315), X, beta=3.4445)
    return X.transpose(1, 2) if t else X


def is_matrix(name, p):
    """Muon takes the big matrices; embedding, head, gates, hyper-connections and vectors go to Adam."""
    return p.dim() >= 2 and not any(s in name for s in ('embed', 'head', 'hc_', 'ape', 'gate.weight', 'weights_proj', 'markov'))


class Shared:
    """All parameters as views of one flat vector in shared memory, with one gradient vector a worker and two moments.
    The workers do not wait for each other: each applies its own gradient when it has one, so a gradient may be one
    update old and two updates may cross.  On busy cores waiting costs far more than that noise."""
    def __init__(self, m, workers):
        ps = [(n, p) for n, p in m.named_parameters() if p.requires_grad]
        size = sum(p.numel() for _, p in ps)
        new = lambda: torch.zeros(size).share_memory_()
        self.flat, self.grads, self.m1, self.m2 = new(), [new() for _ in range(workers)], new(), new()
        self.items, at = [], 0
        for n, p in ps:
            s = slice(at, at + p.numel())
            at += p.numel()
            self.flat[s] = p.detach().flatten()
            p.data = self.flat[s].view_as(p)
            self.items.append((n, p, s))
        for b in m.buffers():
            b.share_memory_()

    def attach(self, rank):
        for _, p, s in self.items:
            p.grad = self.grads[rank][s].view_as(p)

    @torch.no_grad()
    def update(self, rank, lr, cfg, step):
        """Clip, then Muon or Adam; returns the norm of the gradient."""
        g = self.grads[rank]
        norm = float(g.norm())
        if not math.isfinite(norm):
            g.zero_()
            return norm
        g.mul_(min(1., cfg['clip'] / (norm + 1e-6)))
        for n, p, s in self.items:
            g, m = self.grads[rank][s], self.m1[s]
            if not g.any():                                # parts that do not train yet cost nothing
                continue
            if is_matrix(n, p):
                m.mul_(.95).add_(g)
                u = orthogonal((g + .95 * m).view(-1, *p.shape[-2:]), cfg['muon_steps'])
                self.flat[s].mul_(1 - lr * cfg['muon'] * cfg['decay_weight']).sub_(u.reshape(-1), alpha=lr * cfg['muon'] * .2 * max(p.shape[-2:]) ** .5)
            else:
                v = self.m2[s]
                m.lerp_(g, .1)
                v.lerp_(g * g, .05)
                k = step + 1
                self.flat[s].sub_((m / (1 - .9 ** k)) / ((v / (1 - .95 ** k)).sqrt() + 1e-10), alpha=lr * cfg['adam'])
        self.grads[rank].zero_()
        return norm


# ---------------------------------------------------------------- evaluation
def right(m, tok, samples, run):
    """For every conversation: does each trained token come out as the argmax (so that greedy decoding reproduces it)?"""
    out = []
    with torch.no_grad():
        for pieces in samples:
            ids, tr = data.encode(tok, pieces)
            x = torch.full((1, -(-len(ids) // 128) * 128), 2)
            x[0, :len(ids)] = torch.tensor(ids)
            rows = torch.tensor([t for t in range(len(ids) - 1) if tr[t + 1]])
            X, _ = m.streams(x, run)
            out.append(bool((m.logits(X, rows).argmax(-1) == x[0][rows + 1]).all()))
    return out


# ---------------------------------------------------------------- training
def stage_at(cfg, frac):
    """The stage of the schedule for a part of the time, and how far inside it that is (0 to 1)."""
    start = 0.
    for s in cfg['stages']:
        if frac < s['until'] or s is cfg['stages'][-1]:
            return s, min(1., (frac - start) / (s['until'] - start))
        start = s['until']


def level_of(s): return data.Level(needle=tuple(s['needle']), keys=tuple(s['keys']), asks=s['asks'], rounds=s['rounds'], rename=s.get('rename', 0.), after=s.get('after', 0))


def taught(kind, s):
    """Query positions at which the indexer learns: half of them where an answer is given (in any row), half anywhere."""
    n = max(2, int(s['distill'] * s['length']))
    spoken = (kind.view(s['batch'], s['length'])[:, 4:] >= 0).any(0).nonzero()[:, 0] + 4
    return torch.cat([spoken[torch.randperm(len(spoken))[:n // 2]], torch.randint(4, s['length'], (n - n // 2,))]).unique()


def worker(rank, sh, m, cfg, out, ctl):
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if rank == 0:
        signal.signal(signal.SIGTERM, lambda *_: ctl['stop'].fill_(1))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tok = Tokenizer.from_file(cfg['tokenizer'])
    data.load_corpus(cfg['corpus'])
    sh.attach(rank)
    seen = ctl['seen']                                     # per worker: updates, tokens; seconds of worker 0
    names = list(data.SKILLS)
    Q, acc, clock, tlog, tsave = None, {}, [(time.time(), float(seen[:, 1].sum()))], time.time(), time.time()
    log = open(f'{out}/log.jsonl', 'a') if rank == 0 else None
    hit = torch.zeros(len(names), 2)

    def state():
        return dict(step=int(seen[:, 0].sum()), tokens=int(seen[:, 1].sum()), seconds=float(seen[0, 2]), seen=seen.clone())

    def save():
        torch.save(dict(flat=sh.flat, m1=sh.m1, m2=sh.m2, buffers=[b for b in m.buffers()], config=dict(m.c), state=state()), f'{out}/last.pt.tmp')
        os.replace(f'{out}/last.pt.tmp', f'{out}/last.pt')

    m.train()
    while True:
        t = time.time()
        frac = float(seen[0, 2]) / (cfg['minutes'] * 60)
        if frac >= 1 or ctl['stop'].item():
            break
        if int(seen[rank, 0]) % 10 == 0:                   # the schedule may be changed while it runs
            try:
                cfg = json.load(open(cfg['path'])) | dict(path=cfg['path'])
            except ValueError:
                pass
        r = random.Random(f'{cfg["seed"]}/{int(seen[rank, 0])}/{rank}')
        stage, inside = stage_at(cfg, frac)
        s = stage | r.choices(stage['parts'], [p['weight'] for p in stage['parts']])[0]
        if s['round'] and Q is None:
            Q = quant.Quant()
            m.set_quant(Q)
        if Q:
            Q.acts = Q.kv = Q.index = s['round'] > 1
            Q.step()
        torch.manual_seed(r.randrange(2 ** 31))
        mix = {k: s['mix'].get(k, 0) for k in names}
        x, kind = data.rows(tok, r, level_of(s), mix, s['batch'], s['length'])
        x = torch.from_numpy(x)
        kind = torch.from_numpy(kind).flatten()
        some = torch.rand(len(kind)) < cfg['prompt_share']
        rows = ((kind >= 0) | (some & (kind == -1))).nonzero()[:, 0]
        tgt = torch.cat([x[:, 1:], x.new_full((len(x), 1), 2)], 1).flatten()[rows]
        ctx = Run(distill=s['distill'], select=s['select'], window=s.get('window'), dpos=taught(kind, s))
        X, tab = m.streams(x, ctx)
        lg = m.logits(X, rows)
        plain = (kind[rows] == -1) | (kind[rows] == names.index('prose'))
        weight = torch.where(plain, s.get('plain_weight', cfg['plain_weight']), 1.)    # text nobody can foresee must not drown the skills
        weight = weight / weight.sum()
        total = loss = (F.cross_entropy(lg, tgt, reduction='none') * weight).sum()
        if s['mtp']:
            t2 = torch.cat([x[:, 2:], x.new_full((len(x), 2), 2)], 1).flatten()[rows]
            ml = (F.cross_entropy(m.mtp_logits(m.mtp_streams(X, x, tab), rows), t2, reduction='none') * weight).sum()
            total = total + s['mtp'] * ml
            acc.setdefault('mtp', []).append(ml.item())
        if ctx.index_losses:
            il = sum(ctx.index_losses) / len(ctx.index_losses)
            total = total + il
            acc.setdefault('index', []).append(il.item())
        total.backward()
        step = int(seen[rank, 0])
        lr = min(1, (step + 1) / cfg['warmup']) * (s['lr'][0] + (s['lr'][1] - s['lr'][0]) * inside)
        tu = time.time()
        gn = sh.update(rank, lr, cfg, step)
        acc.setdefault('update', []).append(time.time() - tu)
        rate = cfg['bias_rate'] * lr
        for b in m.scored:                                 # balance: the bias of the busy experts goes down
            l = b.ffn.load
            if l.sum() > 0:
                acc.setdefault('load', []).append(float(l.max() / l.mean()))
                b.ffn.gate.bias += rate * torch.sign(l.mean() - l)
                b.ffn.gate.bias -= b.ffn.gate.bias.mean()
                l.zero_()
        dt = time.time() - t
        seen[rank, 0] += 1
        seen[rank, 1] += x.numel()
        if rank:
            acc.clear()
            continue
        seen[0, 2] += dt
        st = state()
        k = kind[rows]
        ok = lg.argmax(-1) == tgt
        for i in range(len(names)):
            hit[i] += torch.tensor([float(ok[k == i].sum()), float((k == i).sum())])
        acc.setdefault('loss', []).append(loss.item())
        clock.append((time.time(), st['tokens']))
        clock = clock[-40:]
        acc.setdefault('rate', []).append((clock[-1][1] - clock[0][1]) / (clock[-1][0] - clock[0][0] + 1e-9))
        print(f'\r{frac:6.1%} step {st["step"]} {st["tokens"] / 1e6:.2f} M tokens loss {np.mean(acc["loss"][-20:]):.3f} gn {gn:.2f} {np.mean(acc["rate"][-20:]):.0f} tok/s ', end='', file=sys.stderr, flush=True)
        if time.time() - tlog > cfg['log_seconds']:
            d = dict(minutes=round(st['seconds'] / 60, 2), frac=round(frac, 4), step=st['step'], tokens=st['tokens'], lr=round(lr, 4), gn=round(gn, 3), **{a: round(float(np.mean(v)), 4) for a, v in acc.items()},
                     acc={n: round(float(h[0] / h[1]), 4) for n, h in zip(names, hit) if h[1]})
            log.write(json.dumps(d) + '\n')
            log.flush()
            acc, tlog = {}, time.time()
            hit.zero_()
        if time.time() - tsave > cfg['save_seconds']:
            save()
            tsave = time.time()
    if rank == 0:
        save()
        print('\nstopped' if ctl['stop'].item() else '\nfinished', state(), file=sys.stderr)


def build(cfg):
    """A fresh model with its hash tables packed from token frequencies of the training mix."""
    torch.manual_seed(cfg['seed'])
    m = V4(base_config(**cfg['model']))
    tok = Tokenizer.from_file(cfg['tokenizer'])
    data.load_corpus(cfg['corpus'])
    r, s = random.Random(cfg['seed']), cfg['stages'][-1]
    s = s | s['parts'][0]
    x, _ = data.rows(tok, r, level_of(s), s['mix'], 60, s['length'])
    freq = torch.bincount(torch.from_numpy(x).flatten(), minlength=m.c.vocab_size).double()
    freq[2] = 0
    for b in m.layers:
        if b.ffn.hashed:
            model.hash_table(b.ffn, freq)
    return m


def load(path, rounded=True):
    """Model of a run (RUN_DIR or last.pt), rounded as stored when `rounded`."""
    p = torch.load(path if path.endswith('.pt') else f'{path}/last.pt', weights_only=False)
    m, at = V4(model.Config(p['config'])), 0
    with torch.no_grad():
        for q in m.parameters():
            q.copy_(p['flat'][at:at + q.numel()].view_as(q))
            at += q.numel()
        for a, b in zip(m.buffers(), p['buffers']):
            a.copy_(b)
    if rounded:
        m.set_quant(quant.Quant())
        checkpoint.round_rest(m)
    m.eval()
    return m, p['state']


def continued(path, cfg):
    """The state of another run with the clock at zero.  With `compressors_from_window` its ratio-4 compressors start anew from
    the window's projection: the queries that find a row in the window then find the entry made of it, which is what they
    have to learn."""
    st = torch.load(f'{path}/last.pt', weights_only=False)
    m, at, place = V4(model.Config(st['config'])), 0, {}
    for n, p in m.named_parameters():
        place[n] = slice(at, at + p.numel())
        at += p.numel()
    for l in (l for l, r in enumerate(m.c.compress_ratios) if r == 4 and cfg.get('compressors_from_window')):
        a, flat = f'layers.{l}.attn.', st['flat']
        flat[place[a + 'compressor.wkv.weight']] = flat[place[a + 'wkv.weight']].repeat(2)
        flat[place[a + 'compressor.norm.weight']] = flat[place[a + 'kv_norm.weight']]
        for n in ('wkv', 'norm'):
            st['m1'][place[f'{a}compressor.{n}.weight']] = 0
    st['state']['seen'][:, 2] = st['state']['seconds'] = 0.
    return st


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('config')
    ap.add_argument('run')
    ap.add_argument('--minutes', type=float)
    ap.add_argument('--after', help='begin with the state of this run')
    ap.add_argument('--share', help='with --export: a folder with the same main model, whose files are linked to')
    ap.add_argument('--export', help='only write the checkpoint of RUN_DIR (or a fresh model) to this folder')
    a = ap.parse_args()
    cfg = json.load(open(a.config)) | dict(path=os.path.abspath(a.config))
    if a.minutes:
        cfg['minutes'] = a.minutes
    last = f'{a.run}/last.pt'
    if a.export:
        m = load(a.run, False)[0] if os.path.exists(last) else build(cfg)
        print(checkpoint.export(m, a.export), 'bytes')
        if a.share:
            checkpoint.share(a.export, a.share)
        return
    os.makedirs(a.run, exist_ok=True)
    if a.after and not os.path.exists(last):
        torch.save(continued(a.after, cfg), last)
    torch.set_num_threads(1)
    m, st = (load(a.run, False)[0], torch.load(last, weights_only=False)) if os.path.exists(last) else (build(cfg), None)
    m.scored = [b for b in list(m.layers) + list(getattr(m, 'mtp', [])) if not b.ffn.hashed]
    W = cfg['workers']
    sh = Shared(m, W)
    if st:
        sh.m1.copy_(st['m1'])
        sh.m2.copy_(st['m2'])
    ctx = mp.get_context('fork')
    ctl = dict(stop=torch.zeros(1).share_memory_(), seen=torch.zeros(W, 3, dtype=torch.double).share_memory_())
    if st:
        s = st['state']
        ctl['seen'].copy_(s['seen'] if 'seen' in s else torch.tensor([[s['step'], s['tokens'] / W, s['seconds']]] * W))
    signal.signal(signal.SIGTERM, lambda *_: ctl['stop'].fill_(1))
    signal.signal(signal.SIGINT, lambda *_: ctl['stop'].fill_(1))
    ps = [ctx.Process(target=worker, args=(k, sh, m, cfg, a.run, ctl)) for k in range(W)]
    for p in ps:
        p.start()
    for p in ps:
        p.join()
    sys.exit(max(p.exitcode for p in ps))


if __name__ == '__main__':
    main()
