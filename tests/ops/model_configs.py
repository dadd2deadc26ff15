"""What the configuration files of DeepSeek-V3.2 say: Hugging Face's, and DeepSeek's own."""

from __future__ import annotations

from typing import Any

YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
    "type": "yarn",
}
DIMENSIONS = {
    "index_head_dim": 128,
    "index_n_heads": 64,
    "index_topk": 2048,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
HF: dict[str, Any] = {
    **DIMENSIONS,
    "model_type": "deepseek_v32",
    "attention_bias": False,
    "hidden_size": 7168,
    "max_position_embeddings": 163840,
    "num_attention_heads": 128,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "rms_norm_eps": 1e-06,
    "rope_scaling": YARN,
    "rope_theta": 10000,
    "vocab_size": 129280,
}
DEEPSEEK: dict[str, Any] = {**DIMENSIONS, "dim": 7168, "n_layers": 61, "n_heads": 128, "dtype": "fp8"}
NO_YARN = {"rope_factor": 1.0, "original_seq_len": 4096, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0}
