#!/usr/bin/env python3
"""No NaN from any finite weights that fp32 arithmetic can carry: copies of the embedded model whose tensors are pushed to
an extreme, through every numerics, 150 tokens, main and MTP logits."""
import json
import os
import shutil
import struct
import subprocess
import tempfile

import numpy

HADAL = os.environ.get("HADAL", "./hadal")
MODEL = "models/tiny"
TOKENS = ",".join(str(5 + i * 7 % 900) for i in range(150))
RUNS = [("exact",), ("reference",), ("fast",)]
n_checks = 0


def times(dtype, factor, part=""):
    """Every value of a dtype, in tensors whose name holds part, times factor."""
    def change(name, kind, data, _):
        if kind != dtype or part not in name:
            return
        if kind == "F32":
            data[:] = (numpy.frombuffer(data, "<f4") * numpy.float32(factor)).tobytes()
        else:
            wide = (numpy.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4") * numpy.float32(factor)
            data[:] = (wide.view("<u4") >> 16).astype("<u2").tobytes()
    return change


def scales(steps):
    """Every E8M0 scale times 2^steps, at the ends of its range kept finite."""
    def change(_, kind, data, __):
        if kind == "F8_E8M0":
            data[:] = numpy.clip(numpy.frombuffer(data, "u1").astype(int) + steps, 0, 254).astype("u1").tobytes()
    return change


def zeros(_, kind, data, __):
    if kind != "I64":
        data[:] = bytes(len(data)) if kind != "F8_E8M0" else b"\x7f" * len(data)


def largest_codes(_, kind, data, random):
    """Only codes of the largest magnitude (448 and 6), signs at random."""
    codes = {"F8_E4M3": [0x7E, 0xFE], "I8": [0x77, 0xFF, 0x7F, 0xF7]}.get(kind)
    if codes is not None:
        data[:] = random.choice(numpy.array(codes, "u1"), len(data)).tobytes()


CASES = [
    ("all zeros", zeros),
    ("largest codes", largest_codes),
    ("embedding near the end of fp32", times("BF16", 1e36, "embed")),
    ("embedding beyond the square root of fp32", times("BF16", 1e21, "embed")),
    ("scales 2^60 larger", scales(60)),
    ("scales 2^100 smaller", scales(-100)),
    ("norm weights 1e18 larger", times("BF16", 1e18, "norm")),
    ("F32 tensors 1e4 larger", times("F32", 1e4)),
]


def write(folder, change):
    random = numpy.random.default_rng(5)
    for shard in sorted(n for n in os.listdir(MODEL) if n.endswith(".safetensors")):
        with open(os.path.join(MODEL, shard), "rb") as f:
            raw = bytearray(f.read())
        start = 8 + struct.unpack("<Q", raw[:8])[0]
        for name, tensor in json.loads(raw[8:start]).items():
            if name != "__metadata__":
                a, b = tensor["data_offsets"]
                change(name, tensor["dtype"], memoryview(raw)[start + a:start + b], random)
        with open(os.path.join(folder, shard), "wb") as f:
            f.write(raw)


def report(ok, name, shown):
    global n_checks
    n_checks += 1
    print("%s %d - %s" % ("ok" if ok else "not ok", n_checks, name))
    if not ok:
        print("# " + shown)


def bad_numbers(folder, numerics):
    """None when every number is finite, else what is wrong."""
    run = subprocess.run([HADAL, "logits", "-m", folder, "--tokens", TOKENS, "--positions", "all", "--mtp", "--json",
                          "--numerics", *numerics], capture_output=True, text=True)
    if run.returncode != 0:
        return run.stderr.strip()
    out = json.loads(run.stdout)
    for kind in ("logits", "mtp_logits"):
        numbers = numpy.array(out[kind], dtype=float)
        if numbers.size == 0 or not numpy.isfinite(numbers).all():
            return "%s: %d of %d not finite" % (kind, (~numpy.isfinite(numbers)).sum(), numbers.size)
    return None


with tempfile.TemporaryDirectory() as folder:
    for entry in os.listdir(MODEL):
        if os.path.isfile(os.path.join(MODEL, entry)) and not entry.endswith(".safetensors"):
            shutil.copy(os.path.join(MODEL, entry), folder)
    for name, change in CASES:
        write(folder, change)
        for numerics in RUNS:
            wrong = bad_numbers(folder, numerics)
            report(wrong is None, "%s, %s" % (name, " ".join(numerics)), str(wrong))
    wrong = bad_numbers(folder, ("fast", "--isa", "reference"))
    report(wrong is None, "%s, fast, portable kernels" % name, str(wrong))
    write(folder, times("F32", 1e20))
    report(bad_numbers(folder, ("exact",)) is not None, "what overflows fp32 is seen by this test", "finite after all")
