"""Golden reference of `mla_indexer_prolog_quant`: both prologs in one operator."""

from __future__ import annotations

from typing import Any

import numpy as np

from ms_dsv32.golden.checks import Checker
from ms_dsv32.golden.lightning_indexer_prolog_quant import check as check_indexer
from ms_dsv32.golden.lightning_indexer_prolog_quant import compute as compute_indexer
from ms_dsv32.golden.mla_prolog_quant import check as check_mla
from ms_dsv32.golden.mla_prolog_quant import compute as compute_mla
from ms_dsv32.golden.numerics import Array, Bf16, Float16, Float32, Int8

OPERATOR = "mla_indexer_prolog_quant"

# The published names of the halves' arguments. `cos`, `sin` and `cache_index` serve both halves.
MLA_NAMES = {
    name: f"mla_{name}"
    for name in (
        "w_dq",
        "w_uq_qr",
        "dequant_scale",
        "w_uk",
        "w_dkv_kr",
        "gamma_cq",
        "gamma_ckv",
        "kv_cache",
        "kr_cache",
        "k_scale_cache",
        "epsilon_cq",
        "epsilon_ckv",
        "cache_mode",
    )
}
INDEXER_NAMES = {
    "x": "token_x",
    "cos_idx_rope": "cos",
    "sin_idx_rope": "sin",
    "k_cache_index": "cache_index",
    "k_cache": "ip_k_cache",
    "k_cache_scale": "ip_k_cache_scale",
    "layernorm_epsilon_k": "ip_attrs.layernorm_epsilon_k",
    "layout_query": "ip_attrs.layout_query",
    "layout_key": "ip_attrs.layout_key",
    **{
        name: f"ip_{name}_in"
        for name in ("w_qb", "w_qb_scale", "wk", "w_proj", "ln_gamma_k", "ln_beta_k", "hadamard_q", "hadamard_k")
    },
}


def mla_indexer_prolog_quant(
    token_x: Bf16,
    mla_w_dq: Bf16,
    mla_w_uq_qr: Int8,
    mla_dequant_scale: Float32,
    mla_w_uk: Bf16,
    mla_w_dkv_kr: Bf16,
    mla_gamma_cq: Bf16,
    mla_gamma_ckv: Bf16,
    cos: Bf16,
    sin: Bf16,
    cache_index: Array,
    mla_kv_cache: Int8,
    mla_kr_cache: Bf16,
    mla_k_scale_cache: Float32,
    ip_w_qb_in: Int8,
    ip_w_qb_scale_in: Float32,
    ip_wk_in: Bf16,
    ip_w_proj_in: Bf16,
    ip_ln_gamma_k_in: Bf16,
    ip_ln_beta_k_in: Bf16,
    ip_hadamard_q_in: Bf16,
    ip_hadamard_k_in: Bf16,
    ip_k_cache: Int8,
    ip_k_cache_scale: Float16,
    *,
    mla_epsilon_cq: float = 1e-5,
    mla_epsilon_ckv: float = 1e-5,
    mla_cache_mode: str = "PA_BSND",
    mla_tile_config: object = None,
    ip_attrs: Any = None,
    ip_configs: object = None,
    rope_cfg: object = None,
) -> tuple[Bf16, Bf16, Int8, Bf16, Float32, Int8, Float16, Int8, Float16, Float16]:
    """`mla_prolog_quant`, then `lightning_indexer_prolog_quant` on its q_norm, with the bits of the two calls.

    Args:
        token_x .. mla_k_scale_cache: the inputs of `mla_prolog_quant`, in its order.
        ip_w_qb_in .. ip_k_cache_scale: the inputs of `lightning_indexer_prolog_quant` that are not shared. The caches
            of both halves have the same block_num and block_size, because one cache_index serves both.
        mla_epsilon_cq, mla_epsilon_ckv, mla_cache_mode: epsilon_cq, epsilon_ckv and cache_mode of `mla_prolog_quant`.
        ip_attrs: an object with the attributes layernorm_epsilon_k, layout_query and layout_key, or None for their
            defaults.
        mla_tile_config, ip_configs, rope_cfg: accepted, and without effect on results.

    Returns:
        mla_query_nope_out bf16 [t, n_q, 512], mla_query_rope_out bf16 [t, n_q, 64], the arrays mla_kv_cache,
        mla_kr_cache and mla_k_scale_cache themselves, ip_q_int8_out int8 [t, 64, 128], ip_q_scale_out fp16 [t, 64, 1],
        the arrays ip_k_cache and ip_k_cache_scale themselves, ip_weights_out fp16 [t, 64].

    Raises:
        TypeError, ValueError: as the two operators, with this operator's names. Nothing is written then.
    """
    mla_inputs = check_mla(
        Checker(OPERATOR, MLA_NAMES),
        token_x,
        mla_w_dq,
        mla_w_uq_qr,
        mla_dequant_scale,
        mla_w_uk,
        mla_w_dkv_kr,
        mla_gamma_cq,
        mla_gamma_ckv,
        cos,
        sin,
        cache_index,
        mla_kv_cache,
        mla_kr_cache,
        mla_k_scale_cache,
        mla_cache_mode,
    )
    t = mla_inputs.token_x.shape[0]
    indexer_inputs = check_indexer(
        Checker(OPERATOR, INDEXER_NAMES),
        token_x,
        np.zeros((t, mla_w_dq.shape[1]), np.int8),
        np.zeros((t, 1), np.float32),
        ip_w_qb_in,
        ip_w_qb_scale_in,
        ip_wk_in,
        ip_w_proj_in,
        ip_ln_gamma_k_in,
        ip_ln_beta_k_in,
        cos,
        sin,
        ip_hadamard_q_in,
        ip_hadamard_k_in,
        ip_k_cache,
        ip_k_cache_scale,
        cache_index,
        "TND" if ip_attrs is None else ip_attrs.layout_query,
        "PA_BSND" if ip_attrs is None else ip_attrs.layout_key,
        (mla_kv_cache.shape[0], mla_kv_cache.shape[1]),
    )

    # (1) mla_prolog_quant
    q_norm, q_norm_scale, q_nope, q_rope = compute_mla(mla_inputs, mla_epsilon_cq, mla_epsilon_ckv)

    # (2) lightning_indexer_prolog_quant, on the quantised query latent of (1)
    epsilon_k = 1e-6 if ip_attrs is None else ip_attrs.layernorm_epsilon_k
    indexer_inputs = indexer_inputs._replace(q_norm=q_norm, q_norm_scale=q_norm_scale)
    q_int8, q_scale, weights = compute_indexer(indexer_inputs, epsilon_k)
    return (
        q_nope,
        q_rope,
        mla_kv_cache,
        mla_kr_cache,
        mla_k_scale_cache,
        q_int8,
        q_scale,
        ip_k_cache,
        ip_k_cache_scale,
        weights,
    )
