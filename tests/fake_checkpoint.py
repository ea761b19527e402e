#!/usr/bin/env python3
"""Writes a checkpoint folder whose files have true headers and no data (sparse zeros).

    fake_checkpoint.py NAME DIR [--base] [--vision] [--drop TENSOR] [--rename-prefix] [--aliases]

NAME is a list in tests/data/checkpoints and a config in tests/data/configs.
  --base      the form of the Base releases: experts in FP8 with 128x128 scales, all scales F32, no drafter
  --vision    with tensors of a vision tower and bias_vl routers, which a text model ignores
  --aliases   the other spellings: model. prefix, self_attn, mlp, weight_scale_inv, e_score_correction_bias
  --drop T    without tensor T
"""
import argparse
import json
import lzma
import os
import struct

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "F8_E8M0": 1, "I8": 1, "I64": 8}


def as_base(rows):
    for name, dtype, shape, shard in rows:
        if name.startswith("mtp."):
            continue
        if ".experts." in name and dtype == "I8":
            dtype, shape = "F8_E4M3", [shape[0], shape[1] * 2]
        elif ".experts." in name and dtype == "F8_E8M0":
            dtype, shape = "F32", [shape[0] // 128, shape[1] // 4]
        elif dtype == "F8_E8M0":
            dtype = "F32"
        yield name, dtype, shape, shard


def with_vision(rows, shard, n_layers, n_experts):
    yield from rows
    for l in [f"layers.{i}" for i in range(n_layers)] + [f"mtp.{i}" for i in range(3)]:
        yield f"{l}.ffn.gate.bias_vl", "F32", [n_experts], shard
    for i in range(3):
        yield f"layers.{i}.ffn.gate.bias", "F32", [n_experts], shard
    yield "vision.patch_embed.proj.weight", "BF16", [8, 3, 14, 14], shard
    yield "aligner.w1.weight", "BF16", [8, 8], shard
    yield "image_start", "BF16", [8], shard


def alias(name):
    for new, old in ((".attn.", ".self_attn."), (".ffn.", ".mlp."), ("gate.bias", "gate.e_score_correction_bias")):
        name = name.replace(new, old)
    if name.endswith(".scale"):
        name = name[:-len("scale")] + "weight_scale_inv"
    return "model." + name


def write_shard(path, rows):
    header, at = {}, 0
    for name, dtype, shape, _ in rows:
        n = BYTES[dtype]
        for d in shape:
            n *= d
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + at)
    return at


def main():
    p = argparse.ArgumentParser()
    p.add_argument("name")
    p.add_argument("dir")
    p.add_argument("--base", action="store_true")
    p.add_argument("--vision", action="store_true")
    p.add_argument("--aliases", action="store_true")
    p.add_argument("--drop")
    a = p.parse_args()
    with open(os.path.join(DATA, "configs", a.name + ".json"), encoding="utf-8") as f:
        config = json.load(f)
    rows = []
    with lzma.open(os.path.join(DATA, "checkpoints", a.name + ".tsv.xz"), "rt") as f:
        for line in f:
            name, dtype, shape, shard = line.split("\t")
            rows.append((name, dtype, [int(x) for x in shape.split("x")], int(shard)))
    if a.base:
        rows = list(as_base(rows))
    if a.vision:
        rows = list(with_vision(rows, rows[-1][3], config["num_hidden_layers"], config["n_routed_experts"]))
    rows = [r for r in rows if r[0] != a.drop]
    if a.aliases:
        rows = [(alias(r[0]),) + r[1:] for r in rows]
    os.makedirs(a.dir, exist_ok=True)
    with open(os.path.join(a.dir, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    last = max(r[3] for r in rows)
    total, weight_map = 0, {}
    for shard in range(1, last + 1):
        mine = [r for r in rows if r[3] == shard]
        if mine:
            file = f"model-{shard:05d}-of-{last:05d}.safetensors"
            total += write_shard(os.path.join(a.dir, file), mine)
            weight_map.update((r[0], file) for r in mine)
    with open(os.path.join(a.dir, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, f, indent=2)


main()
