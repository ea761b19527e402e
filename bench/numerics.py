#!/usr/bin/env python3
"""How far the logits of each numerics are from those of exact and of reference (docs/NUMERICS.md has the table).

    numerics.py [--hadal ./hadal] [-m models/tiny] [--tokens 8192] [--row 1024] [--threads 0]

The text: conversations of the embedded model's skills (tools/train_tiny/data.py) under seeds that its training never draws,
one after the other in rows. At every position the distributions over the vocabulary are compared: mean divergence
KL(a || b) in nats, how often both have the same most likely token, and the root mean square of the difference of logits
whose means were taken out, over the logits' own standard deviation. nll: of the text itself, nats a token."""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tools", "train_tiny"))
import data  # noqa: E402

NUMERICS = ("exact", "reference", "fast", "int8")
SEED = 2 * 10 ** 7
KINDS = (data.faq, data.arithmetic, data.extract, data.tools, data.needle)


def conversations():
    r = random.Random(SEED)
    while True:
        for kind in KINDS:
            yield "".join(text for text, _ in kind(r, data.Level()))


def token_rows(a):
    ids = []
    for text in conversations():
        out = subprocess.run([a.hadal, "tokenize", "-t", a.model, "-s"], input=text, capture_output=True, text=True, check=True)
        ids += map(int, out.stdout.split())
        if len(ids) >= a.tokens:
            break
    return [ids[i:i + a.row] for i in range(0, a.tokens, a.row)]


def log_probabilities(a, row, numerics):
    with tempfile.NamedTemporaryFile("w") as f:
        f.write(" ".join(map(str, row)))
        f.flush()
        out = subprocess.run([a.hadal, "logits", "-m", a.model, "--tokens", f.name, "--positions", "all", "--json",
                              "--numerics", numerics, "--threads", str(a.threads)] if a.threads else
                             [a.hadal, "logits", "-m", a.model, "--tokens", f.name, "--positions", "all", "--json",
                              "--numerics", numerics], capture_output=True, check=True)
    z = np.array(json.loads(out.stdout)["logits"], dtype=np.float64)
    return z - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)) - z.max(1, keepdims=True)


def compare(p, q):
    """Sums over the positions: divergence, agreement, squares of the difference and of p's logits."""
    a, b = p - p.mean(1, keepdims=True), q - q.mean(1, keepdims=True)
    return np.array([(np.exp(p) * (p - q)).sum(), (p.argmax(1) == q.argmax(1)).sum(), ((a - b) ** 2).mean(1).sum(),
                     (a ** 2).mean(1).sum()])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hadal", default="./hadal")
    p.add_argument("-m", "--model", default="models/tiny")
    p.add_argument("--tokens", type=int, default=8192)
    p.add_argument("--row", type=int, default=1024)
    p.add_argument("--threads", type=int, default=0)
    a = p.parse_args()
    sums = {(x, y): 0 for x in NUMERICS[:2] for y in NUMERICS if y != x}
    nll = dict.fromkeys(NUMERICS, 0.0)
    rows = token_rows(a)
    for row in rows:
        all_p = {n: log_probabilities(a, row, n) for n in NUMERICS}
        for n in NUMERICS:
            nll[n] -= all_p[n][np.arange(len(row) - 1), row[1:]].sum()
        for x, y in sums:
            sums[x, y] = sums[x, y] + compare(all_p[x], all_p[y])
    n = sum(map(len, rows))
    print(f"{n} tokens in rows of {a.row}; nll " + ", ".join(f"{k} {v / (n - len(rows)):.4f}" for k, v in nll.items()))
    print("| against | numerics | mean KL, nats | same most likely token | rms difference of logits |\n|---|---|---|---|---|")
    for (x, y), s in sums.items():
        print(f"| {x} | {y} | {s[0] / n:.5f} | {100 * s[1] / n:.2f} % | {(s[2] / s[3]) ** 0.5:.4f} |")


main()
