"""Ask a run something, greedily:   python3 say.py RUN_DIR CONFIG.json [--think] [--tools] 'question' ...
Every token recomputes the whole text: for a look at a run, not for use."""
import argparse, json, os
os.environ.setdefault('OMP_NUM_THREADS', '1')
import torch
from tokenizers import Tokenizer
import data, encoding, train
from model import Run


def reply(m, tok, text, limit=160):
    ids = tok.encode(text, add_special_tokens=False).ids
    n = len(ids)
    with torch.no_grad():
        while len(ids) < n + limit:
            x = torch.full((1, -(-len(ids) // 32) * 32), 2)
            x[0, :len(ids)] = torch.tensor(ids)
            X, _ = m.streams(x, Run(select=True))
            ids.append(int(m.logits(X, torch.tensor([len(ids) - 1])).argmax()))
            if ids[-1] == 1:
                break
    return tok.decode(ids[n:], skip_special_tokens=False)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('run')
    ap.add_argument('config')
    ap.add_argument('--think', action='store_true')
    ap.add_argument('--tools', action='store_true', help='offer all tools of the training data')
    ap.add_argument('--raw', action='store_true', help='continue plain text')
    ap.add_argument('question', nargs='+')
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    tok = Tokenizer.from_file(json.load(open(a.config))['tokenizer'])
    m, _ = train.load(a.run)
    for q in a.question:
        text = encoding.BOS + q if a.raw else encoding.text([data.user(q)], thinking=a.think, tools=list(data.SCHEMAS.values())[:4] if a.tools else None)
        print(f'> {q}\n{reply(m, tok, text, 60 if a.raw else 160)}', flush=True)


if __name__ == '__main__':
    main()
