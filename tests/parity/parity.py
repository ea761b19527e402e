#!/usr/bin/env python3
"""The engine in exact numerics on random tiny models, against Hugging Face transformers (torch, fp32) and against the
float64 numpy reference of tools/train_tiny. TAP.

    parity.py [--seed N] [--cases N] [--program PATH]      case i has seed N + i"""
import argparse
import os
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tools", "train_tiny")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import hf
from cases import Case
from engine import Engine
from truth import Truth
from weights import write_checkpoint

LIMIT_HF, LIMIT_NUMPY = 1e-3, 2e-4
SMALL_SEED = 7  # a case of a few tokens


class Report:
    def __init__(self):
        self.n = self.failed = self.exchanges = 0
        self.largest = {}

    def line(self, good, text):
        self.n += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.n} - {text}", flush=True)
        return good

    def compare(self, case, what, diff, limit, made=()):
        self.largest[what] = max(self.largest.get(what, 0.0), diff)
        self.exchanges += bool(made)
        note = f", after exchanging close candidates: {made}" if made else ""
        return self.line(diff <= limit, f"seed {case.seed}, {what}: {diff:.1e}, limit {limit:g}{note}")


def largest(a, b):
    return float(np.abs(a - b).max()) if a.shape == b.shape else float("nan")


def compare_numpy(report, case, truth, main, mtp):
    made = ()
    if truth.first_wrong(main, mtp, LIMIT_NUMPY) is not None:
        made = truth.explain(main, mtp, LIMIT_NUMPY)
    good = report.compare(case, "numpy", largest(main, truth.logits_main), LIMIT_NUMPY, made)
    if mtp is not None:
        good &= report.compare(case, "numpy, MTP", largest(mtp, truth.logits_mtp), LIMIT_NUMPY)
    return good


def compare_hf(report, case, truth, main, theirs):
    """Directly; where they took another of two close candidates, through the reference that takes theirs."""
    diff, made = largest(main, theirs), ()
    if not diff <= LIMIT_HF and theirs.shape == main.shape:
        made = truth.explain(theirs, None, LIMIT_HF)
        if made:
            diff = largest(theirs, truth.logits_main)
    return report.compare(case, "transformers", diff, LIMIT_HF, made)


def first_difference(engine, truth):
    """Where the streams part: the layer to look at."""
    truth.compute()
    for layer, want in enumerate(truth.streams):
        want = want.reshape(len(want), -1)
        off = np.abs(engine.streams(layer) - want).max(1)
        size = np.sqrt((want * want).mean())
        print(f"# streams after layer {layer}: largest difference {off.max():.1e} at position {off.argmax()}, rms {size:.2g}")
        if not off.max() <= 1e-3 * size:
            return


def run_case(report, case, folder, program):
    print(f"# seed {case.seed}: {case.describe()}", flush=True)
    write_checkpoint(case, folder)
    engine = Engine(program, f"{folder}/stored", case)
    truth = Truth(f"{folder}/stored", case)
    main, mtp = engine.logits()
    good = compare_numpy(report, case, truth, main, mtp)
    good &= compare_hf(report, case, truth, main, hf.logits(case, f"{folder}/plain"))
    if not good:
        print(f"# config {case.config}\n# tokens {case.tokens}")
        first_difference(engine, truth)


def check_refusal(report, program, folder):
    """The comparison itself: one other token must be seen, and exchanging candidates must not hide it."""
    case = Case(SMALL_SEED)
    write_checkpoint(case, folder)
    truth = Truth(f"{folder}/stored", case)
    other = case.tokens[:-2] + [(case.tokens[-2] + 1) % case.config["vocab_size"]] + case.tokens[-1:]
    main, mtp = Engine(program, f"{folder}/stored", case).logits(other)
    truth.explain(main, mtp, LIMIT_NUMPY)
    report.line(truth.first_wrong(main, mtp, LIMIT_NUMPY) == len(other) - 2 - case.has_mtp, "another token is seen")


def guarded(report, name, step):
    with tempfile.TemporaryDirectory() as folder:
        try:
            step(folder)
        except Exception as x:
            report.line(False, f"{name}: {type(x).__name__}: {x}")
            print("# " + traceback.format_exc().replace("\n", "\n# "))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--cases", type=int, default=60)
    ap.add_argument("--program", default=f"{ROOT}/hadal")
    o = ap.parse_args()
    torch.set_num_threads(1)
    report, start = Report(), time.time()
    guarded(report, "refusal", lambda folder: check_refusal(report, o.program, folder))
    for seed in range(o.seed, o.seed + o.cases):
        guarded(report, f"seed {seed}", lambda folder: run_case(report, Case(seed), folder, o.program))
    print(f"1..{report.n}")
    for what, diff in report.largest.items():
        print(f"# largest difference, {what}: {diff:.1e}")
    print(f"# {report.exchanges} comparisons after exchanging close candidates; {time.time() - start:.0f} s")
    print(f"{report.n - report.failed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
