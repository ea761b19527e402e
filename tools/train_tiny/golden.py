"""Logits of a checkpoint in exact arithmetic, for the engine's parity test:

    python3 golden.py MODEL CORPUS.txt OUT_DIR STAGES

For texts of 1 and about 64, 600 and 5,000 tokens (a chat with working, a tool conversation, a code in long filler) OUT_DIR/
lenN.safetensors holds what the numpy reference computes in float64:
  tokens I64 [T]; positions I64 [n]; columns I64 [c], the vocabulary ids that are kept; logits F32 [n, c];
  argmax I64 [n]; mtp_positions I64 [m]; mtp_logits F32 [m, c]; topk.LL I64 [n, K]: entries selected in layer LL, -1 padded;
  draft_positions I64 [d]; drafts I64 [d, 5], draft_confidence F32 [d, 5]: of the DSpark stages in STAGES, the same main model.
"""
import os, random, sys
import numpy as np
from tokenizers import Tokenizer
import checkpoint, data, reference


def sample(tok, name):
    r, lv = random.Random(f'golden {name}'), data.Level()
    if name <= 64:
        p = data.arithmetic(r, lv, True) + data.faq(r, lv)
    elif name == 600:
        p = data.tools(r, lv, 4, 0., True)
    else:
        p = data.needle(r, lv, 480, 3, 3)
    ids = np.array(data.encode(tok, p)[0])
    return ids[:name] if name < 1000 else ids[:5200]


def main(model, corpus, out, stages):
    tok = Tokenizer.from_file(f'{model}/tokenizer.json')
    data.load_corpus(corpus)
    m, s = reference.Model(model), reference.Model(stages)
    V, K = m.c['vocab_size'], m.c['index_topk']
    columns = np.arange(0, V, 16)
    os.makedirs(out, exist_ok=True)
    for name in (1, 64, 600, 5000):
        t = sample(tok, name)
        T, kept = len(t), {}
        select = reference.Model.select
        m.select = lambda a, qa, p, f: kept.setdefault(p, select(m, a, qa, p, f))
        streams = m.forward(t)
        X = streams[-1]
        pos = np.unique([0, 1, 3, 4, 7, *np.linspace(8, T - 1, 11).astype(int), *(p for p in (127, 128, 255, 256, 511) if p < T)])
        pos = pos[pos < T]
        lg = m.logits(X[pos])[0]
        items = [('tokens', 'I64', t.astype(np.int64)), ('positions', 'I64', pos.astype(np.int64)), ('columns', 'I64', columns), ('logits', 'F32', lg[:, columns].astype(np.float32)),
                 ('argmax', 'I64', lg.argmax(1))]
        if T > 1:
            mp = np.unique(np.linspace(0, T - 2, 8).astype(int))
            made = [s.dspark(streams, int(t[p + 1]), int(p)) for p in mp]
            items += [('mtp_positions', 'I64', mp), ('mtp_logits', 'F32', m.mtp(X, t)[mp][:, columns].astype(np.float32)), ('draft_positions', 'I64', mp),
                      ('drafts', 'I64', np.array([d[0] for d in made])), ('draft_confidence', 'F32', np.array([d[2] for d in made], np.float32))]
        for p, keep in kept.items():
            rows = np.full((len(pos), K), -1)
            for i, q in enumerate(pos):
                g = np.flatnonzero(keep[q])
                rows[i, :len(g)] = g
            items.append((f'topk.{int(p.split(".")[1]):02d}', 'I64', rows))
        size = checkpoint.write(f'{out}/len{name}.safetensors', items)
        print(f'len{name}: {T} tokens, {len(pos)} positions, {size} bytes')


if __name__ == '__main__':
    main(*sys.argv[1:])
