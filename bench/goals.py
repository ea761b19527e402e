#!/usr/bin/env python3
"""The goals table in Markdown from the JSON that bench/goals.sh left in a folder: goals.py DIR."""
import json
import os
import sys


def rows_of(folder, name):
    path = os.path.join(folder, name + ".json")
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        return {r["name"]: r for r in json.load(f)}


class Table:
    def __init__(self):
        self.lines = ["| goal | asked | measured | | how |", "|---|---|---|---|---|"]

    def add(self, goal, asked, value, met, how):
        shown = "not measured" if value is None else f"{value:.4g}"
        mark = "" if value is None else "met" if met(value) else f"missed by {miss(asked, value)}"
        self.lines.append(f"| {goal} | {asked} | {shown} | {mark} | {how} |")


def miss(asked, value):
    """How far a value is from `>= x` or `<= x`, in per cent of x."""
    limit = float(asked.split()[1].replace(",", ""))
    return f"{abs(value / limit - 1) * 100:.0f} %"


def at_least(limit):
    return lambda v: v >= limit


def at_most(limit):
    return lambda v: v <= limit


def field(rows, name, key):
    return rows[name][key] if name in rows else None


def inverse(x):
    return None if not x else 1 / x


def million(rows):
    """The row of the frontier at 1M: the last token that still fits."""
    return max((n for n in rows if n.startswith("decode.") and rows[n]["batch"] == 1), default="none",
               key=lambda n: rows[n]["context"])


def speed_table(rows, title):
    out = [f"\n### {title}\n",
           "| row | tokens/s | roofline | summed | GB/s | GFLOP/s | full depth, tokens/s |", "|---|---|---|---|---|---|---|"]
    for r in rows.values():
        if r["roofline"] is None or r["unit"] != "tokens/s":
            continue
        full = r.get("projected_full_depth")
        out.append(f"| {r['name']} | {r['value']:.4g} | {r['roofline']:.2f} | {r['roofline_sum']:.2f} | {r['gb_per_s']:.1f} "
                   f"| {r['gflop_per_s']:.1f} | {'' if full is None else format(full, '.3g')} |")
    return out


def goals(table, rows, name, kv_limit):
    first = "decode.ctx4096.batch1"
    table.add(f"{name}: decode, batch 1, 4K", ">= 0.85", field(rows, first, "roofline"), at_least(0.85),
              "bytes per token over time, of the read bandwidth")
    table.add(f"{name}: prefill, chunk 512", ">= 0.75", field(rows, "prefill.chunk512", "roofline"), at_least(0.75),
              "FLOPs of the whole forward over time, of the bf16 peak")
    table.add(f"{name}: indexer, 250K keys", ">= 0.75", field(rows, "indexer.keys250000", "roofline"), at_least(0.75),
              "of the int8 peak, top-k included")
    table.add(f"{name}: attention rows", ">= 0.7", field(rows, "attention.ratio128.ctx1048576", "roofline"), at_least(0.7),
              "8,192 compressed rows, of the better of read bandwidth and bf16 peak")
    table.add(f"{name}: decode at 1M", "<= 1.25", inverse(field(rows, million(rows), "roofline_sum")), at_most(1.25),
              "time over the sum of its rooflines: weights, keys, rows, scoring")
    table.add(f"{name}: batch 16, 4K", ">= 0.8", field(rows, "decode.ctx4096.batch16", "roofline"), at_least(0.8),
              "of the better of bytes and arithmetic")
    table.add(f"{name}: resident KV, full depth", f"<= {kv_limit:,}",
              field(rows, "kv.bytes_per_token.full_depth", "value"), at_most(kv_limit), "bytes per token, pages as laid out")


def peers_lines(folder):
    path = os.path.join(folder, "peers.json")
    if not os.path.exists(path):
        return []
    with open(path) as f:
        peers = json.load(f)
    out = ["\n### Against other engines (bench/peers.md)\n", "| peer | what | peer, tokens/s | Hadal, tokens/s | ratio |",
           "|---|---|---|---|---|"]
    return out + [f"| {p['peer']} | {p['what']} | {p['peer_tokens_per_s']:.3g} | {p['hadal_tokens_per_s']:.3g} | "
                  f"{p['ratio']:.2f} |" for p in peers]


def main():
    folder = sys.argv[1]
    flash, pro, native = rows_of(folder, "flash"), rows_of(folder, "pro"), rows_of(folder, "flash-native")
    again = rows_of(folder, "flash-again")
    table = Table()
    goals(table, flash, "Flash", 3600)
    goals(table, pro, "Pro", 5150)
    first = "decode.ctx4096.batch1"
    if first in native and first in again:
        ratio = again[first]["roofline"] / native[first]["roofline"]
        table.add("Flash: native over packed", "<= 1.4", ratio, at_most(1.4),
                  "decode times, each against the bandwidth measured between its rounds")
    table.add("Flash: open with packed weights", "<= 1", field(rows_of(folder, "flash-open"), "open", "value"), at_most(1),
              "seconds of a second open")
    print("# Goals, measured\n")
    with open(os.path.join(folder, "machine.txt")) as f:
        print("".join(f"- {line}" for line in f))
    peaks = ", ".join(f"{r['name'][8:]} {r['value']:.4g} {r['unit']}" for r in flash.values()
                      if r["name"].startswith("machine."))
    print(f"Flash: 4 layers of its width; Pro: 2 layers, 48 experts. Peaks at the start: {peaks}. Medians of "
          f"{flash[first]['rounds'] if first in flash else 0} rounds, each against the peaks measured right before and after it. The state at "
          "a context is made up, not prefilled.\n")
    print("\n".join(table.lines))
    print("\n".join(speed_table(flash, "Flash, 4 layers") + speed_table(pro, "Pro, 2 layers") + peers_lines(folder)))


main()
