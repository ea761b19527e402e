"""Logits of Hugging Face transformers on the same values in fp32. It has no quantisation, no Hadamard rotation (which
changes no exact score) and no drafter. Its own loader maps the official names."""
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

LAYER_TYPES = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}
SAME = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
        "q_lora_rank", "o_groups", "o_lora_rank", "sliding_window", "index_n_heads", "index_head_dim", "index_topk",
        "n_routed_experts", "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size", "scoring_func",
        "norm_topk_prob", "routed_scaling_factor", "hc_mult", "hc_sinkhorn_iters", "hc_eps", "rms_norm_eps",
        "max_position_embeddings", "hidden_act", "tie_word_embeddings", "rope_theta", "compress_rope_theta")


def rope_parameters(c):
    # The class truncates head_dim * factor to the rotary width; the half keeps rounding from taking one off.
    share = (c["qk_rope_head_dim"] + 0.5) / c["head_dim"]
    main = {"rope_type": "default", "rope_theta": c["rope_theta"], "partial_rotary_factor": share}
    compress = {"rope_type": "default", "rope_theta": c["compress_rope_theta"], "partial_rotary_factor": share}
    yarn = c["rope_scaling"]
    if yarn:
        compress.update({k: v for k, v in yarn.items() if k != "type"}, rope_type="yarn", attention_factor=1.0)
    return {"main": main, "compress": compress}


def make_config(c):
    n, n_hash = c["num_hidden_layers"], c["num_hash_layers"]
    rope = rope_parameters(c)
    return transformers.DeepseekV4Config(
        **{k: c[k] for k in SAME},
        swiglu_limit=c["swiglu_limit"] or 1e30,  # here 0 means no clamp, there a clamp at 0
        layer_types=[LAYER_TYPES[x] for x in c["compress_ratios"][:n]],
        mlp_layer_types=["hash_moe"] * n_hash + ["moe"] * (n - n_hash),
        rope_parameters=rope,
        partial_rotary_factor=rope["main"]["partial_rotary_factor"],
        attn_implementation="eager",
        experts_implementation="eager",  # the grouped one takes no odd widths
        use_cache=False,
    )


def logits(case, folder):
    """[tokens, vocabulary] float32."""
    config = make_config(case.config)
    assert config.qk_rope_head_dim == case.config["qk_rope_head_dim"]
    model, info = transformers.DeepseekV4ForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, output_loading_info=True)
    wrong = {k: v for k, v in info.items() if v}
    if wrong:
        raise RuntimeError(f"transformers did not take the weights as they are: {str(wrong)[:500]}")
    with torch.no_grad():
        return np.asarray(model.eval()(torch.tensor([case.tokens])).logits[0])
