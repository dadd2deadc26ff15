"""Weights and tables in the layout that the operators take: quantised projections, Hadamard matrix, RoPE tables."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ms_dsv32 import rope
from ms_dsv32.golden.numerics import AMAX_FLOOR, Array, Bf16, Float32, Int8, float32_to_bf16

_RULES = {False: rope.PLAIN, True: rope.DEEPSEEK_V32}


def quantise_weight(w: Array) -> tuple[Int8, Float32]:
    """Symmetric int8 quantisation of each output channel (column) of a weight.

    Args:
        w: values [k, n].

    Returns:
        int8 [k, n] in -127..127 and scale float32 [n, 1], with ``w ~ int8 * scale[:, 0]``. A column of zeros gives
        zeros.
    """
    w = np.asarray(w, np.float32)
    amax = np.maximum(np.max(np.abs(w), axis=0, initial=0.0), AMAX_FLOOR)
    scaled = w * (np.float32(127.0) / amax)
    np.rint(scaled, out=scaled)
    return scaled.astype(np.int8), (amax / np.float32(127.0)).reshape(-1, 1)


def hadamard_matrix(n: int = 128) -> Bf16:
    """The normalised Hadamard matrix of Sylvester's construction, bf16 [n, n]: symmetric, entries +-bf16(1 / sqrt(n)).

    Orthogonal up to the rounding of 1 / sqrt(n): H @ H is c * I with c = n * bf16(1 / sqrt(n))^2, 0.9976 for n = 128.

    Raises:
        ValueError: n is not a power of two.
    """
    if n < 1 or n & (n - 1):
        raise ValueError(f"hadamard_matrix: n is {n}, expected a power of two")
    signs = np.ones((1, 1), np.float32)
    while signs.shape[0] < n:
        signs = np.block([[signs, signs], [signs, -signs]])
    return float32_to_bf16(signs / np.float32(math.sqrt(n)))


def rope_frequencies(yarn: bool = False) -> NDArray[np.float64]:
    """`ms_dsv32.rope.rope_frequencies` of DeepSeek-V3.2, without YaRN by default."""
    return rope.rope_frequencies(_RULES[yarn])


def softmax_scale(yarn: bool = False) -> float:
    """`ms_dsv32.rope.softmax_scale` of DeepSeek-V3.2, without YaRN by default."""
    return rope.softmax_scale(_RULES[yarn])


def rope_tables(positions: Array, yarn: bool = False) -> tuple[Bf16, Bf16]:
    """`ms_dsv32.rope.rope_tables` of DeepSeek-V3.2, without YaRN by default, because a test's positions are few."""
    return rope.rope_tables(positions, _RULES[yarn])


def _normal_bf16(rng: np.random.Generator, shape: tuple[int, ...], scale: float, shift: float = 0.0) -> Bf16:
    values = rng.standard_normal(shape, dtype=np.float32)
    values *= np.float32(scale)
    if shift:
        values += np.float32(shift)
    return float32_to_bf16(values)


def _normal_int8(rng: np.random.Generator, k: int, n: int, head_dim: int, scale: float) -> tuple[Int8, Float32]:
    """A normal weight [k, n], quantised by column. It is drawn by heads: fewer heads are the first of more heads."""
    w = np.empty((k, n), np.int8)
    scales = np.empty((n, 1), np.float32)
    for n0 in range(0, n, head_dim):
        values = rng.standard_normal((k, head_dim), dtype=np.float32)
        values *= np.float32(scale)
        w[:, n0 : n0 + head_dim], scales[n0 : n0 + head_dim] = quantise_weight(values)
    return w, scales


def make_mla_weights(
    seed: int, *, n_q: int = 128, h: int = 7168, q_lora_rank: int = 1536, kv_lora_rank: int = 512
) -> dict[str, Array]:
    """Random weights of `mla_prolog_quant`, under its argument names.

    Matrices are normal with variance 1 / k, so that inputs of variance 1 give outputs of variance 1 at every stage and
    scores whose softmax is neither flat nor one-hot. Gammas are around 1. A matrix depends only on (seed, its name, its
    shape).
    """
    kv_width = kv_lora_rank + rope.ROPE_DIM
    w_uq_qr, dequant_scale = _normal_int8(_rng(seed, 1), q_lora_rank, n_q * 192, 192, q_lora_rank**-0.5)
    return {
        "w_dq": _normal_bf16(_rng(seed, 0), (h, q_lora_rank), h**-0.5),
        "w_uq_qr": w_uq_qr,
        "dequant_scale": dequant_scale,
        "w_uk": _normal_bf16(_rng(seed, 2), (n_q, 128, kv_lora_rank), 128**-0.5),
        "w_dkv_kr": _normal_bf16(_rng(seed, 3), (h, kv_width), h**-0.5),
        "gamma_cq": _normal_bf16(_rng(seed, 4), (q_lora_rank,), 0.1, 1.0),
        "gamma_ckv": _normal_bf16(_rng(seed, 5), (kv_lora_rank,), 0.1, 1.0),
    }


def make_indexer_weights(seed: int, *, h: int = 7168, q_lora_rank: int = 1536) -> dict[str, Array]:
    """Random weights of `lightning_indexer_prolog_quant`, under its argument names, scaled as by `make_mla_weights`.

    hadamard_q and hadamard_k are the real matrix.
    """
    w_qb, w_qb_scale = _normal_int8(_rng(seed, 6), q_lora_rank, 64 * 128, 128, q_lora_rank**-0.5)
    return {
        "w_qb": w_qb,
        "w_qb_scale": w_qb_scale,
        "wk": _normal_bf16(_rng(seed, 7), (h, 128), h**-0.5),
        "w_proj": _normal_bf16(_rng(seed, 8), (h, 64), h**-0.5),
        "ln_gamma_k": _normal_bf16(_rng(seed, 9), (128,), 0.1, 1.0),
        "ln_beta_k": _normal_bf16(_rng(seed, 10), (128,), 0.1),
        "hadamard_q": hadamard_matrix(128),
        "hadamard_k": hadamard_matrix(128),
    }


def make_epilog_weights(seed: int, *, n_q: int = 128, h: int = 7168) -> dict[str, Array]:
    """Random weights of `mla_epilog_quant`, under its argument names, scaled as by `make_mla_weights`.

    w_o is quantised over all of its rows, so the rows of fewer heads are not the first of more heads.
    """
    w_o, w_o_scale = _normal_int8(_rng(seed, 12), n_q * 128, h, 128, (n_q * 128) ** -0.5)
    return {
        "w_uv": _normal_bf16(_rng(seed, 11), (n_q, 512, 128), 512**-0.5),
        "w_o": w_o,
        "w_o_scale": w_o_scale,
    }


def make_weights(
    seed: int, n_q: int = 128, *, h: int = 7168, q_lora_rank: int = 1536
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The weights of one layer: (`make_mla_weights`, `make_indexer_weights`)."""
    mla = make_mla_weights(seed, n_q=n_q, h=h, q_lora_rank=q_lora_rank)
    return mla, make_indexer_weights(seed, h=h, q_lora_rank=q_lora_rank)


def fused_weights(mla: dict[str, Array], indexer: dict[str, Array]) -> dict[str, Array]:
    """The arrays of `make_weights` under the argument names of `mla_indexer_prolog_quant`, without a copy."""
    fused = {f"mla_{name}": value for name, value in mla.items()}
    return fused | {f"ip_{name}_in": value for name, value in indexer.items()}


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])
