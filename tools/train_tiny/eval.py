"""Measure the skills of a run on seeds never trained on:   python3 eval.py RUN_DIR CONFIG.json [--n 100] [--json OUT]

A conversation counts as right when every token the assistant says is the argmax given the tokens before it, which is
the same as: greedy decoding says exactly this.  Weights as stored; `--exact` leaves activations, KV rows and the
indexer unrounded, otherwise all of the checkpoint's roundings are on.  Intervals are Wilson 95 %.
"""
import argparse, json, math, os, random
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, torch
from tokenizers import Tokenizer
import data, quant, train
from model import Run

SEED = 10 ** 7                                            # training seeds are strings "seed/step/rank"


def wilson(k, n, z=1.96):
    p = k / n
    c, h = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return round(c - h, 3), round(c + h, 3)


def drafts(m, tok, samples):
    """How often the MTP block's argmax is the token after next, on the assistant's own tokens."""
    hit = n = 0
    with torch.no_grad():
        for p in samples:
            ids, tr = data.encode(tok, p)
            x = torch.full((1, -(-len(ids) // 128) * 128), 2)
            x[0, :len(ids)] = torch.tensor(ids)
            rows = torch.tensor([t for t in range(len(ids) - 2) if tr[t + 2]])
            X, tab = m.streams(x, Run(select=True))
            a = m.mtp_logits(m.mtp_streams(X, x, tab), rows).argmax(-1)
            hit += int((a == x[0][rows + 2]).sum())
            n += len(rows)
    return hit, n


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('run')
    ap.add_argument('config')
    ap.add_argument('--n', type=int, default=100)
    ap.add_argument('--exact', action='store_true')
    ap.add_argument('--json')
    ap.add_argument('--sentences', default='10,40,90')
    ap.add_argument('--needle-n', type=int, default=40)
    ap.add_argument('--skills', default='', help='part of the name of a skill, or `none`')
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    cfg = json.load(open(a.config))
    tok = Tokenizer.from_file(cfg['tokenizer'])
    data.load_corpus(cfg['corpus'])
    m, st = train.load(a.run)
    m.set_quant(quant.Quant(acts=not a.exact, kv=not a.exact, index=not a.exact))
    lv, out = data.Level(), dict(tokens_trained=st['tokens'], steps=st['step'])
    skills = {
        'arithmetic, thinking on': lambda r: data.arithmetic(r, lv, True),
        'arithmetic, thinking off (steps in the answer)': lambda r: data.arithmetic(r, lv, False),
        'tools: one call, its result used': lambda r: data.tools(r, lv, 1, 0., False),
        'tools: the same with thinking': lambda r: data.tools(r, lv, 1, 0., True),
        'tools offered, none needed': lambda r: data.tools(r, lv, 1, 1.),
        'questions about Hadal, small talk, facts': data.faq,
        'JSON extraction': data.extract,
    }
    for name, g in skills.items():
        if a.skills and a.skills not in name:
            continue
        r = random.Random(SEED)
        f = (lambda r: g(r, lv)) if g in (data.faq, data.extract) else g
        S = [f(r) for _ in range(a.n)]
        k = sum(train.right(m, tok, S, Run(select=True)))
        out[name] = dict(right=k, n=a.n, interval=wilson(k, a.n))
        if 'faq' not in name and name.startswith(('arithmetic, thinking on', 'JSON', 'questions')):
            h, n = drafts(m, tok, S)
            out[name]['mtp'] = round(h / n, 3)
        print(f'{name:50s} {k}/{a.n}  {wilson(k, a.n)}  {"MTP " + str(out[name]["mtp"]) if "mtp" in out[name] else ""}', flush=True)
    for s in (int(x) for x in a.sentences.split(',') if x):
        for keys in (1, 3):
            r = random.Random(SEED + s)
            S = [data.needle(r, lv, s, keys, 1) for _ in range(a.needle_n)]
            length = round(np.mean([len(data.encode(tok, p)[0]) for p in S]))
            row = {}
            ways = [('selected', Run(select=True)), ('dense', Run()), ('random', Run(select=True, random_select=True))]
            for name, run in ways if keys == 1 else ways[:1]:
                row[name] = sum(train.right(m, tok, S, run))
            out[f'needle, {s} sentences, {keys} codes'] = dict(tokens=length, n=a.needle_n, **row, interval=wilson(row['selected'], a.needle_n))
            print(f'needle {s:4d} sentences ({length} tokens), {keys} codes: {row} of {a.needle_n} {wilson(row["selected"], a.needle_n)}', flush=True)
    if a.json:
        json.dump(out, open(a.json, 'w'), indent=1)


if __name__ == '__main__':
    main()
