"""A random tiny model and token sequence from a seed: configuration, storage, tokens, how the engine is run."""
import random

KINDS = {
    "flash": lambda n, r: [0 if l < 2 else 4 if l % 2 == 0 else 128 for l in range(n)],
    "pro": lambda n, r: [128 if l < 2 else 4 if l % 2 == 0 else 128 for l in range(n)],
    "sparse": lambda n, r: [4] * n,
    "mixed": lambda n, r: [r.choice((0, 4, 128)) for _ in range(n)],
}
# Ends of ratio-4 and ratio-128 blocks and their neighbours, and the first tokens.
EDGES = (1, 2, 3, 4, 5, 7, 8, 9, 127, 128, 129, 130, 255, 256, 257, 383, 384, 385, 511, 512, 513)
STORAGES = ("f32", "f32", "f32", "official", "official", "base", "bf16")


def draw_length(r):
    return r.choice((r.choice(EDGES), r.randint(3, 40), r.randint(130, 350), r.randint(350, 600)))


def draw_attention(r, quantised):
    head_dim = r.choice((64, 128) if quantised else (16, 20, 24, 32, 40, 64, 128))
    index_dim = r.choice((16, 32, 64, 128))
    heads = r.choice((1, 2, 3, 4, 6, 8, 12, 16))
    return {
        "num_attention_heads": heads,
        "head_dim": head_dim,
        "qk_rope_head_dim": 2 * r.randint(1, min(head_dim, index_dim) // 2),
        "q_lora_rank": r.choice((8, 24, 32, 50, 96, 160)),
        "o_groups": r.choice([g for g in range(1, heads + 1) if heads % g == 0]),
        "o_lora_rank": r.choice((4, 12, 24, 33, 64)),
        "sliding_window": r.choice((1, 2, 8, 16, 31, 64, 128, 128)),
        "index_head_dim": index_dim,
    }


def draw_index(r, n_entries):
    """Few heads leave many scores at exactly 0, whose order is nobody's: they go with a selection of everything."""
    if r.random() < 0.75:
        return {"index_n_heads": r.choice((16, 24, 32, 64)), "index_topk": r.randint(1, 40)}
    return {"index_n_heads": r.randint(1, 15), "index_topk": max(n_entries, 1) + r.randint(0, 3)}


def draw_rope(r):
    yarn = {
        "type": "yarn",
        "factor": r.choice((2, 4, 16, 40)),
        "original_max_position_embeddings": r.choice((32, 64, 256, 4096, 65536)),
        "beta_fast": r.choice((32, 32, 8)),
        "beta_slow": r.choice((1, 1, 2)),
    }
    return {
        "rope_theta": r.choice((10000, 10000, 500, 1000000)),
        "compress_rope_theta": r.choice((160000, 160000, 40000, 1000)),
        "rope_scaling": None if r.random() < 0.15 else yarn,
    }


def draw_experts(r, quantised, n_layers):
    n = r.choice((2, 4, 7, 8, 12, 16, 32))
    return {
        "n_routed_experts": n,
        "num_experts_per_tok": r.randint(1, min(n, 6)),
        "moe_intermediate_size": r.choice((32, 64, 96, 160) if quantised else (16, 30, 48, 64, 100)),
        "num_hash_layers": r.randint(0, min(3, n_layers)),
        "routed_scaling_factor": r.choice((1.0, 1.5, 2.5)),
        "swiglu_limit": r.choice((0, 0.6, 2.0, 10.0, 10.0)),
    }


def draw_config(r, storage, n_tokens):
    quantised = storage in ("official", "base")
    kind = r.choice(sorted(KINDS))
    n_layers = r.randint(3, 6) if kind in ("flash", "pro") else r.randint(1, 5)
    n_drafters = r.choice((0, 1, 1, 1))
    c = {
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": "deepseek_v4",
        "vocab_size": r.randint(50, 400),
        "hidden_size": r.choice((64, 96, 160, 256) if quantised else (36, 48, 64, 90, 128)),
        "num_hidden_layers": n_layers,
        "num_key_value_heads": 1,
        "n_shared_experts": 1,
        "hc_mult": r.choice((4, 4, 4, 4, 1, 2, 3)),
        "hc_sinkhorn_iters": r.choice((20, 20, 1, 5)),
        "hc_eps": 1e-6,
        "rms_norm_eps": r.choice((1e-6, 1e-6, 1e-20)),
        "max_position_embeddings": 4096,
        "compress_ratios": KINDS[kind](n_layers, r) + [0] * n_drafters,
        "num_nextn_predict_layers": n_drafters,
        "hidden_act": "silu",
        "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    c.update(draw_attention(r, quantised), **draw_index(r, n_tokens // 4), **draw_rope(r))
    c.update(draw_experts(r, quantised, n_layers))
    if quantised:
        c["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
                                    "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    return c


def draw_tokens(r, n, vocab):
    """Uniform ids, with stretches that repeat."""
    out = []
    while len(out) < n:
        if out and r.random() < 0.1:
            out += out[-r.randint(1, 20):]
        else:
            out += [r.randrange(vocab) for _ in range(r.randint(1, 60))]
    return out[:n]


class Case:
    def __init__(self, seed):
        r = random.Random(seed)
        self.seed = seed
        self.storage = r.choice(STORAGES)
        n_tokens = draw_length(r)
        self.config = draw_config(r, self.storage, n_tokens)
        self.tokens = draw_tokens(r, n_tokens, self.config["vocab_size"])
        self.chunk = r.choice((512, 512, 1, 3, 64, 127, 200))
        self.threads = r.choice((1, 2))

    @property
    def has_mtp(self):
        return self.config["num_nextn_predict_layers"] > 0

    def describe(self):
        c = self.config
        ratios = "/".join(str(x) for x in c["compress_ratios"][:c["num_hidden_layers"]])
        return (f"{len(self.tokens)} tokens, {self.storage}, D {c['hidden_size']}, ratios {ratios}, "
                f"heads {c['num_attention_heads']}x{c['head_dim']}, window {c['sliding_window']}, "
                f"index {c['index_n_heads']}x{c['index_head_dim']} top {c['index_topk']}, "
                f"experts {c['num_experts_per_tok']} of {c['n_routed_experts']}, chunk {self.chunk}")
