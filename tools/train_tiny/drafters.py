"""Train the drafters against the frozen main model.   python3 drafters.py CONFIG.json MAIN_RUN OUT_RUN [--export DIR]

The MTP block and the three DSpark stages learn from the same hidden states: the main model runs once a batch, without
gradients, selecting and rounding as the engine will.  OUT_RUN/mtp and OUT_RUN/dspark hold what `train.py --export` reads.
Resumable; the workers share parameters as in train.py.  A draft may start wherever the next token is the assistant's.
"""
import argparse, json, os, random, signal, sys, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, torch, torch.nn.functional as F
import torch.multiprocessing as mp
from tokenizers import Tokenizer
import data, model, quant, train
from model import V4, Run


def greedy(m, outputs, tokens, tab, at):
    """Drafts as the engine makes them: ids [n, G], logits with the Markov term [n, G, V], confidence [n, G]."""
    y, logits = m.draft(outputs, tokens, tab, at)
    previous, ids, conf, logits = tokens[at[0], at[1] + 1], [], [], logits.clone()
    for i in range(logits.shape[1]):
        e, term = m.markov(previous)
        logits[:, i] += term
        previous = logits[:, i].argmax(-1)
        ids.append(previous)
        conf.append(m.confidence(y[:, i], e))
    return torch.stack(ids, 1), logits, torch.stack(conf, 1)


def take_main(to, main):
    """Everything but the drafter."""
    have = dict(main.named_parameters()) | dict(main.named_buffers())
    with torch.no_grad():
        for n, p in list(to.named_parameters()) + list(to.named_buffers()):
            if not n.startswith('mtp.'):
                p.copy_(have[n])


def with_stages(main, cfg):
    """A model with DSpark stages whose main part is `main`; the embedding and the head are not trained."""
    c = dict(main.c)
    L = c['num_hidden_layers']
    c.update(compress_ratios=c['compress_ratios'][:L] + [0] * 3, dspark_block_size=5, dspark_noise_token_id=cfg['noise'],
             dspark_target_layer_ids=[L - 3, L - 2, L - 1], dspark_markov_rank=cfg['markov_rank'])
    torch.manual_seed(cfg['seed'])
    d = V4(model.Config(c))
    take_main(d, main)
    have = dict(main.named_parameters()) | dict(main.named_buffers())
    with torch.no_grad():
        for s in d.mtp:                                    # the stages start from the MTP block, which knows the window
            for n, p in list(s.named_parameters()) + list(s.named_buffers()):
                if f'mtp.0.{n}' in have and have[f'mtp.0.{n}'].shape == p.shape:
                    p.copy_(have[f'mtp.0.{n}'])
    return d


def anchors(kind, r, most, block):
    """Rows and positions of the tokens that drafts follow: the next token and the block's last one lie in the row."""
    T = kind.shape[1]
    k = torch.from_numpy(kind)
    good = (k >= 0)[:, :T - 1 - block].nonzero()           # token t + 1 is the assistant's
    pick = good[torch.tensor(r.sample(range(len(good)), min(most, len(good))), dtype=torch.long)]
    return pick[:, 0], pick[:, 1]


def mtp_loss(m, X, x, tab, kind, ctx):
    rows = (kind.flatten() >= 0).nonzero()[:, 0]
    t2 = torch.cat([x[:, 2:], x.new_full((len(x), 2), 2)], 1).flatten()[rows]
    lg = m.mtp_logits(m.mtp_streams(X, x, tab, ctx), rows)
    return F.cross_entropy(lg, t2), (lg.argmax(-1) == t2).float().mean().item()


def dspark_loss(d, outputs, x, tab, kind, at):
    """Cross entropy of every position that is still the assistant's, early ones weighing more; confidence against being right."""
    G = d.c.dspark_block_size
    t = at[1][:, None] + 1 + torch.arange(G)               # tokens before the drafted ones
    prev, tgt = x[at[0][:, None], t], x[at[0][:, None], t + 1]
    live = (kind[at[0][:, None], t] >= 0).float().cumprod(1)
    y, lg = d.draft(outputs, x, tab, at)
    m, term = d.markov(prev)
    lg = lg + term
    w = live * .8 ** torch.arange(G)
    ce = F.cross_entropy(lg.flatten(0, 1), tgt.flatten(), reduction='none').view_as(w)
    hit = (lg.argmax(-1) == tgt).float()
    conf = F.binary_cross_entropy_with_logits(d.confidence(y.detach(), m.detach()), hit, reduction='none')
    first = (hit * live).cumprod(1)
    return ((ce + .1 * conf) * w).sum() / w.sum(), (first.sum(0) / live.sum(0).clamp(min=1)).tolist()


def worker(rank, both, m, d, cfg, out, ctl):
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, (lambda *_: ctl['stop'].fill_(1)) if rank == 0 else signal.SIG_IGN)
    tok = Tokenizer.from_file(cfg['tokenizer'])
    data.load_corpus(cfg['corpus'])
    for sh in both.values():
        sh.attach(rank)
    seen, acc, tlog, tsave = ctl['seen'], [], time.time(), time.time()
    names, frozen, Q = list(data.SKILLS), quant.Quant(acts=True, kv=True, index=True), quant.Quant(acts=True, kv=True, index=True)
    for k in (m, d):
        k.set_quant(frozen)                                # rounded once
        k.eval()
    for b in list(m.mtp) + list(d.mtp):
        b.train()
        b.apply(lambda part: setattr(part, 'Q', Q) if hasattr(part, 'Q') else None)

    def save():
        for name, k in (('mtp', m), ('dspark', d)):
            os.makedirs(f'{out}/{name}', exist_ok=True)
            state = dict(step=int(seen[:, 0].sum()), tokens=int(seen[:, 1].sum()), seconds=float(seen[0, 2]), seen=seen.clone())
            flat = torch.cat([p.detach().flatten() for p in k.parameters()])
            torch.save(dict(flat=flat, buffers=list(k.buffers()), config=dict(k.c), state=state, m1=both[name].m1, m2=both[name].m2), f'{out}/{name}/last.tmp')
            os.replace(f'{out}/{name}/last.tmp', f'{out}/{name}/last.pt')

    while True:
        t0, frac = time.time(), float(seen[0, 2]) / (cfg['minutes'] * 60)
        if frac >= 1 or ctl['stop'].item():
            break
        Q.step()
        step = int(seen[rank, 0])
        r = random.Random(f'drafters/{cfg["seed"]}/{step}/{rank}')
        torch.manual_seed(r.randrange(2 ** 31))
        s = r.choices(cfg['parts'], [p['weight'] for p in cfg['parts']])[0] | dict(keys=[1, 3], asks=3)
        x, kind = data.rows(tok, r, train.level_of(s | dict(rounds=s.get('rounds', 3))), {k: s['mix'].get(k, 0) for k in names}, s['batch'], s['length'])
        x, at, kind = torch.from_numpy(x), anchors(kind, r, cfg['drafts'] * cfg['repeat'], d.c.dspark_block_size), torch.from_numpy(kind)
        ctx = Run(select=True)
        ctx.outputs = []
        with torch.no_grad():
            X, tab = m.streams(x, ctx)
        ml, mh = mtp_loss(m, X, x, tab, kind, Run())
        lr = min(1, (step + 1) / cfg['warmup'], (1 - frac) / cfg['decay'] + .01)
        ml.backward()
        norms = [both['mtp'].update(rank, lr, cfg, step)]
        for part in zip(*(k.split(cfg['drafts']) for k in at)):     # the main model's pass is the dear part: several updates on one
            Q.step()
            dl, dh = dspark_loss(d, ctx.outputs, x, tab, kind, part)
            dl.backward()
            dn = both['dspark'].update(rank, lr, cfg, step)
        norms.append(dn)
        for b in list(m.mtp) + list(d.mtp):
            load = b.ffn.load
            b.ffn.gate.bias += cfg['bias_rate'] * lr * torch.sign(load.mean() - load)
            b.ffn.gate.bias -= b.ffn.gate.bias.mean()
            load.zero_()
        seen[rank] += torch.tensor([1, x.numel(), time.time() - t0], dtype=torch.double)
        if rank:
            continue
        acc.append([ml.item(), dl.item(), mh, *dh])
        if time.time() - tlog > cfg['log_seconds']:
            a = [round(v, 4) for v in np.mean(acc, 0).tolist()]
            line = dict(minutes=round(float(seen[0, 2]) / 60, 2), step=int(seen[:, 0].sum()), tokens=int(seen[:, 1].sum()), lr=round(lr, 3), gn=[round(v, 2) for v in norms], mtp_loss=a[0], dspark_loss=a[1], mtp=a[2], dspark=a[3:])
            open(f'{out}/log.jsonl', 'a').write(json.dumps(line) + '\n')
            acc, tlog = [], time.time()
        if time.time() - tsave > cfg['save_seconds']:
            save()
            tsave = time.time()
    if rank == 0:
        save()


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('config')
    ap.add_argument('main')
    ap.add_argument('out')
    a = ap.parse_args()
    cfg = json.load(open(a.config))
    cfg = cfg | cfg['drafters']
    torch.set_num_threads(1)
    os.makedirs(a.out, exist_ok=True)
    old = {k: f'{a.out}/{k}' for k in ('mtp', 'dspark') if os.path.exists(f'{a.out}/{k}/last.pt')}
    main_model = train.load(a.main, False)[0]              # a run that goes on may do so on a main model that went on too
    m = train.load(old.get('mtp', a.main), False)[0]
    d = train.load(old['dspark'], False)[0] if old else with_stages(m, cfg)
    take_main(m, main_model)
    take_main(d, main_model)
    for k in (m, d):
        for n, p in k.named_parameters():
            p.requires_grad_(n.startswith('mtp.'))
    both = dict(mtp=train.Shared(m, cfg['workers']), dspark=train.Shared(d, cfg['workers']))
    ctl = dict(stop=torch.zeros(1).share_memory_(), seen=torch.zeros(cfg['workers'], 3, dtype=torch.double).share_memory_())
    for k, path in old.items():
        st = torch.load(f'{path}/last.pt', weights_only=False)
        both[k].m1.copy_(st['m1'])
        both[k].m2.copy_(st['m2'])
        ctl['seen'].copy_(st['state']['seen'])
    signal.signal(signal.SIGTERM, lambda *_: ctl['stop'].fill_(1))
    signal.signal(signal.SIGINT, lambda *_: ctl['stop'].fill_(1))
    ps = [mp.get_context('fork').Process(target=worker, args=(k, both, m, d, cfg, a.out, ctl)) for k in range(cfg['workers'])]
    for p in ps:
        p.start()
    for p in ps:
        p.join()
    sys.exit(max(p.exitcode for p in ps))


if __name__ == '__main__':
    main()
