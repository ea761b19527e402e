#!/usr/bin/env python3
"""Decode and prefill of other engines beside Hadal's, in one run with the same threads; see bench/peers.md.

    peers.py llama|hf [--hadal ./hadal] [--work DIR] [--threads 2] [--rounds 5] [--out peers.json]

Each peer runs a model of random weights with Flash's widths and a few layers, Hadal runs the slice of `hadal synth` of the
same depth; rounds alternate. Results are added to the JSON of --out, one row a peer and kind of step."""
import argparse
import json
import os
import statistics
import subprocess
import time

PROMPT, REPLY = 512, 24
# Flash's widths as far as llama.cpp's deepseek2 graph takes them.
D, HEADS, Q_LORA, KV_LORA, ROPE, NOPE, V_HEAD, FF, USED = 4096, 64, 1024, 512, 64, 448, 128, 2048, 6


# ---------------------------------------------------------------- Hadal

def make_slice(a, layers, experts, vocab):
    folder = os.path.join(a.work, f"slice{layers}x{experts}")
    if not os.path.exists(os.path.join(folder, "config.json")):
        subprocess.run([a.hadal, "synth", "--shape", "flash", "--layers", str(layers), "--experts", str(experts), "--vocab",
                        str(vocab), "-o", folder], check=True)
    subprocess.run([a.hadal, "convert", "-m", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def hadal_speeds(a, folder, isa):
    out = subprocess.run([a.hadal, "bench", "-m", folder, "--threads", str(a.threads), "--quick", "--rounds", "1", "--ctx",
                          str(PROMPT), "--batch", "1", "--chunk", str(PROMPT), "--json"] + (["--isa", isa] if isa else []),
                         check=True, capture_output=True, text=True).stdout
    rows = {r["name"]: r["value"] for r in json.loads(out)}
    return {"decode": rows[f"decode.ctx{PROMPT}.batch1"], "prefill": rows[f"prefill.chunk{PROMPT}"]}


# ---------------------------------------------------------------- llama.cpp

def random_mxfp4(rng, shape):
    """Blocks of a scale byte and 16 bytes of two codes each: any bytes are finite with a moderate scale."""
    import numpy as np
    rows = int(np.prod(shape[:-1])) * (shape[-1] // 32)
    blocks = rng.integers(0, 256, (rows, 17), dtype=np.uint8)
    blocks[:, 0] = 119
    return blocks.reshape(*shape[:-1], shape[-1] // 32 * 17)


def random_q8(rng, shape):
    import numpy as np
    rows = int(np.prod(shape[:-1])) * (shape[-1] // 32)
    blocks = rng.integers(-127, 128, (rows, 34)).astype(np.int8).view(np.uint8)
    blocks[:, :2] = np.frombuffer(np.float16(0.0004).tobytes(), np.uint8)
    return blocks.reshape(*shape[:-1], shape[-1] // 32 * 34)


def write_head(gguf, w, layers, experts, vocab):
    w.add_context_length(8192)
    w.add_embedding_length(D)
    w.add_block_count(layers)
    w.add_feed_forward_length(FF)
    w.add_expert_feed_forward_length(FF)
    w.add_head_count(HEADS)
    w.add_head_count_kv(1)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(ROPE)
    w.add_q_lora_rank(Q_LORA)
    w.add_kv_lora_rank(KV_LORA)
    w.add_key_length(KV_LORA + ROPE)
    w.add_value_length(KV_LORA)
    w.add_key_length_mla(NOPE + ROPE)
    w.add_value_length_mla(V_HEAD)
    w.add_leading_dense_block_count(0)
    w.add_expert_count(experts)
    w.add_expert_used_count(USED)
    w.add_expert_shared_count(1)
    w.add_expert_weights_scale(1.5)
    w.add_expert_weights_norm(True)
    w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    w.add_vocab_size(vocab)
    w.add_tokenizer_model("llama")
    w.add_token_list([b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % i for i in range(256)] +
                     [b"t%d" % i for i in range(vocab - 259)])
    w.add_token_scores([0.0] * vocab)
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * (vocab - 259))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)


def write_layer(w, rng, i, experts, q8, mxfp4, f32):
    b = f"blk.{i}."
    for name, n in (("attn_norm", D), ("attn_q_a_norm", Q_LORA), ("attn_kv_a_norm", KV_LORA), ("ffn_norm", D)):
        f32(b + name + ".weight", (n,), 1.0)
    q8(b + "attn_q_a.weight", (Q_LORA, D))
    q8(b + "attn_q_b.weight", (HEADS * (NOPE + ROPE), Q_LORA))
    q8(b + "attn_kv_a_mqa.weight", (KV_LORA + ROPE, D))
    q8(b + "attn_k_b.weight", (HEADS, KV_LORA, NOPE))
    q8(b + "attn_v_b.weight", (HEADS, V_HEAD, KV_LORA))
    q8(b + "attn_output.weight", (D, HEADS * V_HEAD))
    f32(b + "ffn_gate_inp.weight", (experts, D), None)
    f32(b + "exp_probs_b.bias", (experts,), 0.0)
    for name, shape in (("gate", (FF, D)), ("up", (FF, D)), ("down", (D, FF))):
        mxfp4(b + f"ffn_{name}_exps.weight", (experts,) + shape)
        q8(b + f"ffn_{name}_shexp.weight", shape)


def write_gguf(path, layers, experts, vocab):
    import gguf
    import numpy as np
    rng = np.random.default_rng(1)
    w = gguf.GGUFWriter(path + ".new", "deepseek2")
    types = gguf.GGMLQuantizationType

    def q8(name, shape):
        w.add_tensor(name, random_q8(rng, shape), raw_dtype=types.Q8_0)

    def mxfp4(name, shape):
        w.add_tensor(name, random_mxfp4(rng, shape), raw_dtype=types.MXFP4)

    def f32(name, shape, value):
        data = rng.standard_normal(shape) * 0.02 if value is None else np.full(shape, value)
        w.add_tensor(name, data.astype(np.float32))

    write_head(gguf, w, layers, experts, vocab)
    q8("token_embd.weight", (vocab, D))
    q8("output.weight", (vocab, D))
    f32("output_norm.weight", (D,), 1.0)
    for i in range(layers):
        write_layer(w, rng, i, experts, q8, mxfp4, f32)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.rename(path + ".new", path)


class Llama:
    layers, experts, vocab = 4, 16, 16384
    name = "llama.cpp (xllamacpp)"

    def __init__(self, a):
        import xllamacpp
        path = os.path.join(a.work, "peer.gguf")
        if not os.path.exists(path):
            write_gguf(path, self.layers, self.experts, self.vocab)
        p = xllamacpp.CommonParams()
        p.model.path = path
        p.n_ctx = 2048
        p.n_batch = p.n_ubatch = PROMPT
        p.n_parallel = 1
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = a.threads
        p.cache_prompt = False
        p.warmup = True
        self.server = xllamacpp.Server(p)
        self.about = f"xllamacpp {xllamacpp.__version__}: {xllamacpp.get_system_info()}"

    def speeds(self):
        request = {"prompt": [300 + i * 7 % 15000 for i in range(PROMPT)], "n_predict": REPLY, "ignore_eos": True,
                   "cache_prompt": False, "temperature": 0.0}
        t = self.server.handle_completions(request)["timings"]
        return {"decode": t["predicted_per_second"], "prefill": t["prompt_per_second"]}


# ---------------------------------------------------------------- Hugging Face transformers

class HuggingFace:
    layers, experts, vocab = 2, 16, 8192
    name = "transformers, bf16"

    def __init__(self, a):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch
        import transformers
        torch.set_num_threads(a.threads)
        c = transformers.DeepseekV4Config(
            vocab_size=self.vocab, hidden_size=D, num_hidden_layers=self.layers, num_attention_heads=HEADS, head_dim=512,
            q_lora_rank=Q_LORA, n_routed_experts=self.experts, num_experts_per_tok=USED, moe_intermediate_size=FF,
            layer_types=["sliding_attention"] * self.layers, mlp_layer_types=["moe"] * self.layers)
        torch.manual_seed(1)
        torch.set_default_dtype(torch.bfloat16)
        self.model = transformers.DeepseekV4ForCausalLM(c).eval()
        torch.set_default_dtype(torch.float32)
        self.torch = torch
        self.about = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def speeds(self):
        torch = self.torch
        with torch.no_grad():
            tokens = torch.arange(PROMPT)[None] % self.vocab
            start = time.monotonic()
            out = self.model(tokens, use_cache=True)
            prefill = PROMPT / (time.monotonic() - start)
            start = time.monotonic()
            for i in range(REPLY):
                out = self.model(torch.tensor([[i]]), past_key_values=out.past_key_values, use_cache=True)
            return {"decode": REPLY / (time.monotonic() - start), "prefill": prefill}


# ---------------------------------------------------------------- both sides, a round at a time

def compare(a):
    peer = {"llama": Llama, "hf": HuggingFace}[a.peer](a)
    folder = make_slice(a, peer.layers, peer.experts, peer.vocab)
    levels = [None, "avx2"] if a.peer == "llama" and "AVX512" not in peer.about else [None]
    theirs, ours = [], {level: [] for level in levels}
    peer.speeds()  # pages touched, threads started
    for _ in range(a.rounds):
        theirs.append(peer.speeds())
        for level in levels:
            ours[level].append(hadal_speeds(a, folder, level))
    rows = []
    for level in levels:
        for kind in ("decode", "prefill"):
            t = statistics.median(r[kind] for r in theirs)
            o = statistics.median(r[kind] for r in ours[level])
            ratio = statistics.median(y[kind] / x[kind] for x, y in zip(theirs, ours[level]))
            what = f"{kind}, {peer.layers} layers, {peer.experts} experts" + (f", Hadal at {level} like the peer" if level else "")
            rows.append({"peer": peer.name, "what": what, "peer_tokens_per_s": t, "hadal_tokens_per_s": o, "ratio": ratio,
                         "rounds": a.rounds, "threads": a.threads, "about": peer.about})
    return rows


def main():
    p = argparse.ArgumentParser()
    p.add_argument("peer", choices=["llama", "hf"])
    p.add_argument("--hadal", default="./hadal")
    p.add_argument("--work", default=os.path.join(os.environ.get("TMPDIR", "/tmp"), "hadal-peers"))
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--out", default="bench/results/peers.json")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    rows = compare(a)
    old = json.load(open(a.out)) if os.path.exists(a.out) else []
    names = {r["peer"] for r in rows}
    with open(a.out, "w") as f:
        json.dump([r for r in old if r["peer"] not in names] + rows, f, indent=1)
        f.write("\n")
    for r in rows:
        print(f"{r['peer']}: {r['what']}: {r['peer_tokens_per_s']:.2f} against {r['hadal_tokens_per_s']:.2f} tokens/s, "
              f"ratio {r['ratio']:.2f}")


main()
