"""Golden reference of `mla_prolog_quant`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ms_dsv32.golden.checks import Checker, write_rows
from ms_dsv32.golden.numerics import (
    Array,
    Bf16,
    Float32,
    Int8,
    bf16_to_float32,
    float32_to_bf16,
    matmul_bf16,
    matmul_int8,
    quantise,
    rms_norm,
    rope_interleaved,
    round_bf16,
)

OPERATOR = "mla_prolog_quant"


class Inputs(NamedTuple):
    """The checked inputs: token axes merged, caches as rows, values unchanged."""

    token_x: Bf16
    w_dq: Bf16
    w_uq_qr: Int8
    dequant_scale: Float32
    w_uk: Bf16
    w_dkv_kr: Bf16
    gamma_cq: Bf16
    gamma_ckv: Bf16
    cos: Bf16
    sin: Bf16
    cache_index: Array
    kv_cache: Int8
    kr_cache: Bf16
    k_scale_cache: Float32


def check(
    checker: Checker,
    token_x: Bf16,
    w_dq: Bf16,
    w_uq_qr: Int8,
    dequant_scale: Float32,
    w_uk: Bf16,
    w_dkv_kr: Bf16,
    gamma_cq: Bf16,
    gamma_ckv: Bf16,
    cos: Bf16,
    sin: Bf16,
    cache_index: Array,
    kv_cache: Int8,
    kr_cache: Bf16,
    k_scale_cache: Float32,
    cache_mode: str,
) -> Inputs:
    """The checks of `mla_prolog_quant`, which computes nothing until they have passed."""
    if cache_mode != "PA_BSND":
        raise ValueError(f"{checker.label('cache_mode')} must be 'PA_BSND', got {cache_mode!r}")
    token_x = checker.tokens("token_x", token_x, np.uint16, [("h", None)])
    t, h = token_x.shape
    checker.array("w_dq", w_dq, np.uint16, [("h", h), ("q_lora_rank", None)])
    q_lora_rank = w_dq.shape[1]
    checker.array("w_uk", w_uk, np.uint16, [("n_q", None), ("qk_nope_head_dim", 128), ("kv_lora_rank", 512)])
    channels = ("n_q * q_head_dim", w_uk.shape[0] * 192)
    checker.array("w_uq_qr", w_uq_qr, np.int8, [("q_lora_rank", q_lora_rank), channels])
    checker.array("dequant_scale", dequant_scale, np.float32, [channels, ("1", 1)])
    checker.array("w_dkv_kr", w_dkv_kr, np.uint16, [("h", h), ("kv_lora_rank + rope_dim", 576)])
    checker.array("gamma_cq", gamma_cq, np.uint16, [("q_lora_rank", q_lora_rank)])
    checker.array("gamma_ckv", gamma_ckv, np.uint16, [("kv_lora_rank", 512)])
    cos = checker.tokens("cos", cos, np.uint16, [("rope_dim", 64)], t)
    sin = checker.tokens("sin", sin, np.uint16, [("rope_dim", 64)], t)
    cache_index = checker.tokens("cache_index", cache_index, np.int64, (), t)
    kv_rows = checker.cache("kv_cache", kv_cache, np.int8, ("kv_lora_rank", 512))
    blocks = (kv_cache.shape[0], kv_cache.shape[1])
    kr_rows = checker.cache("kr_cache", kr_cache, np.uint16, ("rope_dim", 64), blocks)
    scale_rows = checker.cache("k_scale_cache", k_scale_cache, np.float32, ("4", 4), blocks)
    checker.cache_index("cache_index", cache_index, kv_rows.shape[0])
    return Inputs(
        token_x,
        w_dq,
        w_uq_qr,
        dequant_scale,
        w_uk,
        w_dkv_kr,
        gamma_cq,
        gamma_ckv,
        cos,
        sin,
        cache_index,
        kv_rows,
        kr_rows,
        scale_rows,
    )


def compute(i: Inputs, epsilon_cq: float, epsilon_ckv: float) -> tuple[Int8, Float32, Bf16, Bf16]:
    """The arithmetic of `mla_prolog_quant`: writes the cache rows and returns q_norm, q_norm_scale, q_nope, q_rope."""
    t = i.token_x.shape[0]
    n_q = i.w_uk.shape[0]
    x = bf16_to_float32(i.token_x)
    cos = bf16_to_float32(i.cos)
    sin = bf16_to_float32(i.sin)

    # (1) query latent: down-projection, RmsNorm, quantisation per token
    cq = round_bf16(matmul_bf16(x, i.w_dq))
    cq = round_bf16(rms_norm(cq, bf16_to_float32(i.gamma_cq), epsilon_cq))
    q_norm, q_norm_scale = quantise(cq)

    # (2) query up-projection, int8 x int8 in int32, dequantised by the token scale first, then by the channel scale
    with np.errstate(invalid="ignore", over="ignore"):
        qb = matmul_int8(q_norm, i.w_uq_qr).astype(np.float32)
        qb *= q_norm_scale
        qb *= i.dequant_scale.reshape(1, -1)
    qb = round_bf16(qb).reshape(t, n_q, 192)

    # (3) absorb W_UK into the nope part of each head
    q_nope = np.empty((t, n_q, 512), np.uint16)
    for n in range(n_q):
        q_nope[:, n] = float32_to_bf16(matmul_bf16(qb[:, n, :128], i.w_uk[n]))

    # (4) RoPE (interleaved) on the rope part of each head
    q_rope = float32_to_bf16(rope_interleaved(qb[:, :, 128:], cos[:, None, :], sin[:, None, :]))

    # (5) key latent: down-projection, RmsNorm, quantisation by groups of 128; RoPE (interleaved) on the rope part
    kv = round_bf16(matmul_bf16(x, i.w_dkv_kr))
    ckv = round_bf16(rms_norm(kv[:, :512], bf16_to_float32(i.gamma_ckv), epsilon_ckv))
    k8, ks = quantise(ckv.reshape(t, 4, 128))
    kr = float32_to_bf16(rope_interleaved(kv[:, 512:], cos, sin))

    # (6) write the cache rows, in place
    write_rows(i.kv_cache, i.cache_index, k8.reshape(t, 512))
    write_rows(i.kr_cache, i.cache_index, kr)
    write_rows(i.k_scale_cache, i.cache_index, ks.reshape(t, 4))
    return q_norm, q_norm_scale, q_nope, q_rope


def mla_prolog_quant(
    token_x: Bf16,
    w_dq: Bf16,
    w_uq_qr: Int8,
    dequant_scale: Float32,
    w_uk: Bf16,
    w_dkv_kr: Bf16,
    gamma_cq: Bf16,
    gamma_ckv: Bf16,
    cos: Bf16,
    sin: Bf16,
    cache_index: Array,
    kv_cache: Int8,
    kr_cache: Bf16,
    k_scale_cache: Float32,
    *,
    epsilon_cq: float = 1e-5,
    epsilon_ckv: float = 1e-5,
    cache_mode: str = "PA_BSND",
    tile_config: object = None,
    rope_cfg: object = None,
) -> tuple[Int8, Float32, Bf16, Bf16, Int8, Bf16, Float32]:
    """MLA pre-attention: low-rank projections, norms, RoPE, int8 up-projection, write of the quantised latent cache.

    bf16 means bit patterns in uint16. h, q_lora_rank and n_q come from the weights.

    Args:
        token_x: bf16 [t, h] or [b, s1, h]. w_dq: bf16 [h, q_lora_rank]. w_uq_qr: int8 [q_lora_rank, n_q * 192].
        dequant_scale: fp32 [n_q * 192, 1]. w_uk: bf16 [n_q, 128, 512]. w_dkv_kr: bf16 [h, 512 + 64].
        gamma_cq: bf16 [q_lora_rank]. gamma_ckv: bf16 [512]. cos, sin: bf16 [t, 64] or [b, s1, 64].
        cache_index: int64 [t] or [b, s1]; cache row of each token, -1 for a padding token (its rows are not written).
            If two tokens name one row, the later token wins.
        kv_cache: int8 [block_num, block_size, 1, 512]. kr_cache: bf16 [.., 64]. k_scale_cache: fp32 [.., 4]. Updated in
            place.
        epsilon_cq, epsilon_ckv: epsilons of the two RmsNorms. cache_mode: "PA_BSND".
        tile_config, rope_cfg: accepted, and without effect on results.

    Returns:
        q_norm int8 [t, q_lora_rank], q_norm_scale fp32 [t, 1], q_nope bf16 [t, n_q, 512], q_rope bf16 [t, n_q, 64], and
        the three cache arrays themselves.

    Raises:
        TypeError, ValueError: wrong dtype, shape or cache mode, a non-contiguous cache, or a cache_index outside the
            cache. Nothing is written then.
    """
    checked = check(
        Checker(OPERATOR),
        token_x,
        w_dq,
        w_uq_qr,
        dequant_scale,
        w_uk,
        w_dkv_kr,
        gamma_cq,
        gamma_ckv,
        cos,
        sin,
        cache_index,
        kv_cache,
        kr_cache,
        k_scale_cache,
        cache_mode,
    )
    q_norm, q_norm_scale, q_nope, q_rope = compute(checked, epsilon_cq, epsilon_ckv)
    return q_norm, q_norm_scale, q_nope, q_rope, kv_cache, kr_cache, k_scale_cache
