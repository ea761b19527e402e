"""Random weights of realistic size - heavy tails, outlier channels, shut and open gates, tiny scales - written in the
official format, and beside it the same values as plain F32."""
import json
import os

import numpy as np
import torch
from safetensors.torch import save_file

FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def heavy(rng, *shape):
    """Student's t with 4 degrees of freedom, variance 1."""
    return rng.standard_t(4, shape) / np.sqrt(2)


class Draw:
    """The tensors of one model: name -> (role, float64 values). Roles decide how a storage keeps them."""

    def __init__(self, config, seed):
        self.c = config
        self.rng = np.random.default_rng(seed)
        self.tensors = {}
        self.hot = self.rng.random(config["hidden_size"]) < 1 / 48  # outlier channels

    def add(self, name, role, values):
        self.tensors[name] = (role, values)

    def linear(self, name, role, rows, cols, gain=1.0):
        w = heavy(self.rng, rows, cols) * gain / np.sqrt(cols)
        self.add(name + ".weight", role, w)

    def norm(self, name, n):
        w = 1 + 0.2 * heavy(self.rng, n)
        if n == len(self.hot):
            w[self.hot] *= 0.5  # what training does about outlier channels, in part
        self.add(name + ".weight", "bf16", w)

    def mixing(self, prefix, head=False):
        s, d = self.c["hc_mult"], self.c["hidden_size"]
        n = s if head else (2 + s) * s
        base = 0.5 * heavy(self.rng, n)
        gates = n if head else 2 * s
        shut = self.rng.random(gates) < 1 / 16
        base[:gates][shut] = self.rng.choice((-12, 12), shut.sum())
        if not head:
            base[2 * s:] += np.where(np.eye(s).ravel() > 0, 2, -1)
        self.add(prefix + "fn", "f32", heavy(self.rng, n, s * d) / np.sqrt(s * d))
        self.add(prefix + "base", "f32", base)
        self.add(prefix + "scale", "f32", self.rng.uniform(0.2, 1.5, 1 if head else 3))

    def compressor(self, p, ratio, dim):
        width = 2 * dim if ratio == 4 else dim
        self.linear(p + "wkv", "bf16", width, self.c["hidden_size"])
        self.linear(p + "wgate", "bf16", width, self.c["hidden_size"], 1.5)
        self.add(p + "ape", "f32", heavy(self.rng, ratio, width))
        self.norm(p + "norm", dim)

    def attention(self, p, ratio):
        c, d = self.c, self.c["hidden_size"]
        n_out = c["num_attention_heads"] * c["head_dim"]
        n_low = c["o_groups"] * c["o_lora_rank"]
        self.linear(p + "wq_a", "fp8", c["q_lora_rank"], d)
        self.norm(p + "q_norm", c["q_lora_rank"])
        self.linear(p + "wq_b", "fp8", n_out, c["q_lora_rank"])
        self.linear(p + "wkv", "fp8", c["head_dim"], d)
        self.norm(p + "kv_norm", c["head_dim"])
        self.linear(p + "wo_a", "fp8", n_low, n_out // c["o_groups"], 1.5)
        self.linear(p + "wo_b", "fp8", d, n_low)
        self.add(p + "attn_sink", "f32", 2 * heavy(self.rng, c["num_attention_heads"]))
        if ratio:
            self.compressor(p + "compressor.", ratio, c["head_dim"])
        if ratio == 4:
            self.linear(p + "indexer.wq_b", "fp8", c["index_n_heads"] * c["index_head_dim"], c["q_lora_rank"])
            self.linear(p + "indexer.weights_proj", "bf16", c["index_n_heads"], d)
            self.compressor(p + "indexer.compressor.", 4, c["index_head_dim"])

    def experts(self, p, hashed):
        c, d, width = self.c, self.c["hidden_size"], self.c["moe_intermediate_size"]
        n, k = c["n_routed_experts"], c["num_experts_per_tok"]
        self.linear(p + "gate", "bf16", n, d, np.where(self.rng.random((n, 1)) < 1 / 8, 4, 1.5))
        if hashed:
            ids = np.stack([self.rng.permutation(n)[:k] for _ in range(c["vocab_size"])])
            self.add(p + "gate.tid2eid", "ids", ids)
        else:
            self.add(p + "gate.bias", "f32", 0.3 * heavy(self.rng, n))
        names = [("fp4", f"{p}experts.{e}.") for e in range(n)] + [("fp8", p + "shared_experts.")]
        for role, name in names:
            loud = 1.5 if c["swiglu_limit"] == 0 else np.where(self.rng.random((width, 1)) < 1 / 16, 4, 1.5)
            self.linear(name + "w1", role, width, d, loud)
            self.linear(name + "w3", role, width, d, loud)
            self.linear(name + "w2", role, d, width)

    def layer(self, p, ratio, hashed):
        self.mixing(p + "hc_attn_")
        self.mixing(p + "hc_ffn_")
        self.norm(p + "attn_norm", self.c["hidden_size"])
        self.norm(p + "ffn_norm", self.c["hidden_size"])
        self.attention(p + "attn.", ratio)
        self.experts(p + "ffn.", hashed)

    def drafter(self, p):
        d = self.c["hidden_size"]
        self.layer(p, 0, False)
        self.linear(p + "e_proj", "fp8", d, d)
        self.linear(p + "h_proj", "fp8", d, d)
        for name in ("enorm", "hnorm", "norm"):
            self.norm(p + name, d)
        self.mixing(p + "hc_head_", head=True)

    def model(self):
        c = self.c
        embed = heavy(self.rng, c["vocab_size"], c["hidden_size"])
        embed[:, self.hot] *= 6
        self.add("embed.weight", "bf16", embed)
        self.linear("head", "bf16", c["vocab_size"], c["hidden_size"], 1.5)
        self.norm("norm", c["hidden_size"])
        self.mixing("hc_head_", head=True)
        for l in range(c["num_hidden_layers"]):
            self.layer(f"layers.{l}.", c["compress_ratios"][l], l < c["num_hash_layers"])
        for i in range(c["num_nextn_predict_layers"]):
            self.drafter(f"mtp.{i}.")
        return self.tensors


# ---------------------------------------------------------------- storage

def power_scales(amax, top, rng):
    """Exponents that fit the largest value, some one step tighter (so that it saturates), some tiny."""
    e = torch.ceil(torch.log2(amax.clamp_min(1e-30) / top))
    e -= torch.from_numpy((rng.random(e.shape) < 0.25).astype(np.float32))
    tiny = rng.choice((12, 30, 60, 127), e.shape)
    e -= torch.from_numpy(np.where(rng.random(e.shape) < 1 / 256, tiny, 0).astype(np.float32))
    return e.clamp(-127, 127)


def store_scale(e, as_f32):
    if as_f32:
        return torch.exp2(e.double()).float()
    return (e + 127).to(torch.uint8).view(torch.float8_e8m0fnu)


def store_fp8(w, rng, f32_scales):
    rows, cols = w.shape
    pad = torch.zeros((rows + 127) // 128 * 128, (cols + 127) // 128 * 128)
    pad[:rows, :cols] = w
    blocks = pad.view(pad.shape[0] // 128, 128, -1, 128)
    e = power_scales(blocks.abs().amax((1, 3)), 448.0, rng)
    full = torch.exp2(e.double()).float().repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :cols]
    codes = (w / full).clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes, store_scale(e, f32_scales), codes.float() * full


def store_fp4(w, rng):
    rows, cols = w.shape
    blocks = w.view(rows, cols // 32, 32)
    e = power_scales(blocks.abs().amax(2), 6.0, rng)
    full = torch.exp2(e.double()).float()[..., None]
    x = blocks / full
    codes = (x.abs()[..., None] - FP4).abs().argmin(-1).to(torch.uint8) + 8 * torch.signbit(x).to(torch.uint8)
    value = FP4[(codes & 7).long()] * torch.where(codes >= 8, -1.0, 1.0) * full
    flat = codes.view(rows, cols)
    packed = (flat[:, 0::2] | flat[:, 1::2] << 4).view(torch.int8)
    return packed, store_scale(e, False), value.view(rows, cols)


def store(tensors, storage, rng):
    """-> (tensors of the checkpoint, the same values as F32 without scales)"""
    kept, plain = {}, {}
    for name, (role, values) in tensors.items():
        if role == "ids":
            kept[name] = plain[name] = torch.from_numpy(values.astype(np.int64))
            continue
        w = torch.from_numpy(values.astype(np.float32))
        if storage in ("official", "base") and role in ("fp8", "fp4"):
            if role == "fp4" and storage == "official":
                kept[name], scale, plain[name] = store_fp4(w, rng)
            else:
                kept[name], scale, plain[name] = store_fp8(w, rng, storage == "base")
            kept[name[:-len("weight")] + "scale"] = scale
        elif storage == "f32" or role == "f32":
            kept[name] = plain[name] = w
        else:
            kept[name] = w.to(torch.bfloat16)
            plain[name] = kept[name].float()
    return kept, plain


def write_checkpoint(case, folder):
    """folder/stored: the checkpoint; folder/plain: its values in F32, under the same names, without the drafter."""
    tensors = Draw(case.config, case.seed).model()
    kept, plain = store(tensors, case.storage, np.random.default_rng(case.seed + 1))
    for sub, data in (("stored", kept), ("plain", plain)):
        os.makedirs(f"{folder}/{sub}", exist_ok=True)
        save_file({k: v.contiguous() for k, v in data.items() if sub == "stored" or not k.startswith("mtp.")},
                  f"{folder}/{sub}/model.safetensors", metadata={"format": "pt"})
    with open(f"{folder}/stored/config.json", "w") as f:
        json.dump(case.config, f, indent=2)
    with open(f"{folder}/plain/generation_config.json", "w") as f:
        f.write("{}")  # transformers would look for one elsewhere
