"""Golden reference of `lightning_indexer_prolog_quant`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ms_dsv32.golden.checks import Blocks, Checker, write_rows
from ms_dsv32.golden.numerics import (
    Array,
    Bf16,
    Float16,
    Float32,
    Int8,
    bf16_to_float32,
    layer_norm,
    matmul_bf16,
    matmul_int8,
    quantise,
    rope_half_split,
    round_bf16,
    round_fp16,
)

OPERATOR = "lightning_indexer_prolog_quant"

IDX_N_HEADS = 64
IDX_HEAD_DIM = 128
ROPE_DIM = 64


def _rope_and_hadamard(x: Float32, cos: Float32, sin: Float32, hadamard: Bf16) -> Float32:
    """RoPE (half-split) on the first 64 of the last axis, then the Hadamard product, each rounded to bf16."""
    turned = round_bf16(rope_half_split(x[..., :ROPE_DIM], cos, sin))
    x = np.concatenate([turned, x[..., ROPE_DIM:]], axis=-1)
    return round_bf16(matmul_bf16(x.reshape(-1, IDX_HEAD_DIM), hadamard)).reshape(x.shape)


class Inputs(NamedTuple):
    """The checked inputs: token axes merged, caches as rows, values unchanged."""

    x: Bf16
    q_norm: Int8
    q_norm_scale: Float32
    w_qb: Int8
    w_qb_scale: Float32
    wk: Bf16
    w_proj: Bf16
    ln_gamma_k: Bf16
    ln_beta_k: Bf16
    cos_idx_rope: Bf16
    sin_idx_rope: Bf16
    hadamard_q: Bf16
    hadamard_k: Bf16
    k_cache: Int8
    k_cache_scale: Float16
    k_cache_index: Array


def check(
    checker: Checker,
    x: Bf16,
    q_norm: Int8,
    q_norm_scale: Float32,
    w_qb: Int8,
    w_qb_scale: Float32,
    wk: Bf16,
    w_proj: Bf16,
    ln_gamma_k: Bf16,
    ln_beta_k: Bf16,
    cos_idx_rope: Bf16,
    sin_idx_rope: Bf16,
    hadamard_q: Bf16,
    hadamard_k: Bf16,
    k_cache: Int8,
    k_cache_scale: Float16,
    k_cache_index: Array,
    layout_query: str,
    layout_key: str,
    blocks: Blocks | None = None,
) -> Inputs:
    """The checks of `lightning_indexer_prolog_quant`, which computes nothing until they have passed.

    `blocks` is the (block_num, block_size) that the caches must have, if the operator has other caches too.
    """
    if layout_query != "TND":
        raise ValueError(f"{checker.label('layout_query')} must be 'TND', got {layout_query!r}")
    if layout_key != "PA_BSND":
        raise ValueError(f"{checker.label('layout_key')} must be 'PA_BSND', got {layout_key!r}")
    x = checker.tokens("x", x, np.uint16, [("h", None)])
    t, h = x.shape
    q_norm = checker.tokens("q_norm", q_norm, np.int8, [("q_lora_rank", None)], t)
    q_norm_scale = checker.tokens("q_norm_scale", q_norm_scale, np.float32, [("1", 1)], t)
    channels = ("idx_n_heads * idx_head_dim", IDX_N_HEADS * IDX_HEAD_DIM)
    head_dim = ("idx_head_dim", IDX_HEAD_DIM)
    checker.array("w_qb", w_qb, np.int8, [("q_lora_rank", q_norm.shape[1]), channels])
    checker.array("w_qb_scale", w_qb_scale, np.float32, [channels, ("1", 1)])
    checker.array("wk", wk, np.uint16, [("h", h), head_dim])
    checker.array("w_proj", w_proj, np.uint16, [("h", h), ("idx_n_heads", IDX_N_HEADS)])
    checker.array("ln_gamma_k", ln_gamma_k, np.uint16, [head_dim])
    checker.array("ln_beta_k", ln_beta_k, np.uint16, [head_dim])
    cos_idx_rope = checker.tokens("cos_idx_rope", cos_idx_rope, np.uint16, [("rope_dim", ROPE_DIM)], t)
    sin_idx_rope = checker.tokens("sin_idx_rope", sin_idx_rope, np.uint16, [("rope_dim", ROPE_DIM)], t)
    checker.array("hadamard_q", hadamard_q, np.uint16, [head_dim, head_dim])
    checker.array("hadamard_k", hadamard_k, np.uint16, [head_dim, head_dim])
    k_rows = checker.cache("k_cache", k_cache, np.int8, head_dim, blocks)
    own_blocks = (k_cache.shape[0], k_cache.shape[1])
    scale_rows = checker.cache("k_cache_scale", k_cache_scale, np.float16, ("1", 1), own_blocks)
    k_cache_index = checker.tokens("k_cache_index", k_cache_index, np.int64, (), t)
    checker.cache_index("k_cache_index", k_cache_index, k_rows.shape[0])
    return Inputs(
        x,
        q_norm,
        q_norm_scale,
        w_qb,
        w_qb_scale,
        wk,
        w_proj,
        ln_gamma_k,
        ln_beta_k,
        cos_idx_rope,
        sin_idx_rope,
        hadamard_q,
        hadamard_k,
        k_rows,
        scale_rows,
        k_cache_index,
    )


def compute(i: Inputs, layernorm_epsilon_k: float) -> tuple[Int8, Float16, Float16]:
    """The arithmetic of `lightning_indexer_prolog_quant`: writes the cache rows, returns q_int8, q_scale, weights."""
    t = i.x.shape[0]
    x = bf16_to_float32(i.x)
    cos = bf16_to_float32(i.cos_idx_rope)
    sin = bf16_to_float32(i.sin_idx_rope)

    # (1) queries: int8 up-projection, RoPE (half-split) on the first 64, Hadamard, quantisation per token and head
    with np.errstate(invalid="ignore", over="ignore"):
        q = matmul_int8(i.q_norm, i.w_qb).astype(np.float32)
        q *= i.q_norm_scale
        q *= i.w_qb_scale.reshape(1, -1)
    q = round_bf16(q).reshape(t, IDX_N_HEADS, IDX_HEAD_DIM)
    q = _rope_and_hadamard(q, cos[:, None, :], sin[:, None, :], i.hadamard_q)
    q_int8, q_scale = quantise(q)

    # (2) keys: projection, LayerNorm on the float32 product (no rounding between), RoPE, Hadamard, quantisation, cache
    # write
    k = matmul_bf16(x, i.wk)
    k = round_bf16(layer_norm(k, bf16_to_float32(i.ln_gamma_k), bf16_to_float32(i.ln_beta_k), layernorm_epsilon_k))
    k = _rope_and_hadamard(k, cos, sin, i.hadamard_k)
    k_int8, k_scale = quantise(k)
    write_rows(i.k_cache, i.k_cache_index, k_int8)
    write_rows(i.k_cache_scale, i.k_cache_index, round_fp16(k_scale))

    # (3) head weights, with the two constant factors in float32
    weights = round_bf16(matmul_bf16(x, i.w_proj))
    with np.errstate(invalid="ignore", over="ignore"):
        weights = weights * np.float32(IDX_N_HEADS**-0.5) * np.float32(IDX_HEAD_DIM**-0.5)
    return q_int8, round_fp16(q_scale), round_fp16(weights)


def lightning_indexer_prolog_quant(
    x: Bf16,
    q_norm: Int8,
    q_norm_scale: Float32,
    w_qb: Int8,
    w_qb_scale: Float32,
    wk: Bf16,
    w_proj: Bf16,
    ln_gamma_k: Bf16,
    ln_beta_k: Bf16,
    cos_idx_rope: Bf16,
    sin_idx_rope: Bf16,
    hadamard_q: Bf16,
    hadamard_k: Bf16,
    k_cache: Int8,
    k_cache_scale: Float16,
    k_cache_index: Array,
    *,
    layernorm_epsilon_k: float = 1e-6,
    layout_query: str = "TND",
    layout_key: str = "PA_BSND",
    configs: object = None,
) -> tuple[Int8, Float16, Int8, Float16, Float16]:
    """Indexer pre-processing: queries, keys and head weights of the indexer, write of its quantised key cache.

    bf16 means bit patterns in uint16. h and q_lora_rank come from the weights.

    Args:
        x: bf16 [t, h] or [b, s1, h]. q_norm: int8 [t, q_lora_rank] or [b, s1, q_lora_rank]. q_norm_scale: fp32 [t, 1]
            or [b, s1, 1].
        w_qb: int8 [q_lora_rank, 8192]. w_qb_scale: fp32 [8192, 1]. wk: bf16 [h, 128]. w_proj: bf16 [h, 64].
        ln_gamma_k, ln_beta_k: bf16 [128]. cos_idx_rope, sin_idx_rope: bf16 [t, 64] or [b, s1, 64].
        hadamard_q, hadamard_k: bf16 [128, 128].
        k_cache: int8 [block_num, block_size, 1, 128]. k_cache_scale: fp16 [block_num, block_size, 1, 1]. Updated in
            place.
        k_cache_index: int64 [t] or [b, s1]; cache row of each token, -1 for a padding token (its rows are not written).
            If two tokens name one row, the later token wins.
        layernorm_epsilon_k: epsilon of the keys' LayerNorm. layout_query: "TND". layout_key: "PA_BSND".
        configs: accepted, and without effect on results.

    Returns:
        q_int8 int8 [t, 64, 128], q_scale fp16 [t, 64, 1], the two cache arrays themselves, weights fp16 [t, 64].

    Raises:
        TypeError, ValueError: wrong dtype, shape or layout, a non-contiguous cache, or a k_cache_index outside the
            cache. Nothing is written then.
    """
    checked = check(
        Checker(OPERATOR),
        x,
        q_norm,
        q_norm_scale,
        w_qb,
        w_qb_scale,
        wk,
        w_proj,
        ln_gamma_k,
        ln_beta_k,
        cos_idx_rope,
        sin_idx_rope,
        hadamard_q,
        hadamard_k,
        k_cache,
        k_cache_scale,
        k_cache_index,
        layout_query,
        layout_key,
    )
    q_int8, q_scale, weights = compute(checked, layernorm_epsilon_k)
    return q_int8, q_scale, k_cache, k_cache_scale, weights
