"""Rounding, quantisation, norms, RoPE and exact products: the arithmetic that the golden operators share.

bfloat16 is held as its bit pattern in ``numpy.uint16``, because NumPy has no bfloat16. Every function works in float32
and rounds where the operator contract rounds, with one liberty: sums (matrix products, means) accumulate in float64 and
are rounded to float32 once. A float32 sum depends on its order, which the contract leaves open. The float64 sum is the
value that every float32 order approximates. So no backend is favoured, and a token's golden result does not depend on
the other tokens of its batch.

NaN and Inf follow IEEE 754 through every function, without warnings and without effect on other rows. Every NaN that
leaves an operator is the positive quiet NaN without a payload, because which of two NaNs an operation passes on, and
the sign of a new one, depend on the processor and on the order of sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Bf16 = NDArray[np.uint16]
Float32 = NDArray[np.float32]
Float16 = NDArray[np.float16]
Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]

AMAX_FLOOR = np.float32(1e-30)
"""Smallest row maximum that `quantise` divides by: 127 / 1e-30 is finite, so an all-zero row gives a finite scale."""

# Rows of a bfloat16 weight that are converted at a time: 256 rows of 1536 columns are 3 MiB in float64, which stay in
# cache.
_K_ROWS = 256
# Partial sums of int8 products are integers of at most 2^7 * 2^7 = 2^14 each, so a sum of 1024 of them never exceeds
# 2^24 and each one is an exact float32, whatever the order or the use of FMA.
_EXACT_K = 1024
# Columns of an int8 weight that are converted at a time: 1024 rows of 2048 columns are 8 MiB in float32.
_N_COLUMNS = 2048


def bf16_to_float32(bits: Bf16) -> Float32:
    """The float32 values of bfloat16 bit patterns (exact). Same shape, new array."""
    wide = np.asarray(bits).astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def _rounded_bits(values: Array) -> NDArray[np.uint32]:
    """float32 bits of `values` whose upper half is rounded (nearest, ties to even). The lower half is garbage."""
    x = np.array(values, dtype=np.float32, order="C", ndmin=1)
    bits = x.view(np.uint32)
    # Adding 0x7FFF, plus one where the kept part is odd, carries into the kept half exactly when nearest-even rounds
    # up. The carry out of the mantissa raises the exponent, up to Inf, which is the correct overflow.
    odd = bits >> np.uint32(16)
    odd &= np.uint32(1)
    odd += np.uint32(0x7FFF)
    odd += bits
    odd[np.isnan(x)] = np.uint32(0x7FC0_0000)  # the carry could turn a NaN into Inf or -0
    return odd.reshape(np.shape(values))


def float32_to_bf16(values: Array) -> Bf16:
    """Bit patterns of `values` (converted to float32) rounded to bfloat16, nearest, ties to even.

    Every NaN becomes 0x7FC0, Inf stays Inf, finite values beyond the largest bfloat16 become Inf. Same shape, new
    array.
    """
    return (_rounded_bits(values) >> np.uint32(16)).astype(np.uint16)


def round_bf16(values: Array) -> Float32:
    """`values` rounded to bfloat16 and kept as float32. Same shape, new array."""
    bits = _rounded_bits(values)
    bits &= np.uint32(0xFFFF_0000)
    return bits.view(np.float32)


def round_fp16(values: Array) -> Float16:
    """`values` rounded to float16, nearest, ties to even; 65520 and beyond becomes Inf, every NaN 0x7E00. Same shape,
    new array."""
    with np.errstate(over="ignore", invalid="ignore"):
        return one_nan(np.asarray(values).astype(np.float16))


def one_nan(values: Array) -> Array:
    """The floating-point `values` with every NaN replaced by the positive quiet one. Same shape, new array."""
    return np.where(np.isnan(values), values.dtype.type(np.nan), values)


def matmul_bf16(a: Array, w: Bf16) -> Float32:
    """`a` [m, k] (values of bfloat16 as float32) times `w` [k, n] (bfloat16 bits), as float32 [m, n].

    The product of two bfloat16 values is exact in float32 (8 + 8 mantissa bits); the sum is accumulated in float64 and
    rounded to float32 once. `w` is converted a few rows at a time, so that a weight matrix is never held a second time
    in full.
    """
    m, k = a.shape
    total = np.zeros((m, w.shape[1]), np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        wide = a.astype(np.float64)
        for k0 in range(0, k, _K_ROWS):
            total += wide[:, k0 : k0 + _K_ROWS] @ bf16_to_float32(w[k0 : k0 + _K_ROWS]).astype(np.float64)
        return total.astype(np.float32)


def matmul_int8(a: Int8, w: Int8) -> Int32:
    """Exact int32 product of `a` int8 [m, k] and `w` int8 [k, n], as int32 [m, n].

    It runs on float32 BLAS in blocks of at most 1024 of k. In these every partial sum is an integer of at most 2^24,
    and therefore exact. The blocks are added in int32.
    """
    m, k = a.shape
    n = w.shape[1]
    if k * 2**14 >= 2**31:
        raise ValueError(f"matmul_int8: k = {k} could overflow int32, expected k < {2**17}")
    wide = a.astype(np.float32)
    total = np.zeros((m, n), np.int32)
    for n0 in range(0, n, _N_COLUMNS):
        for k0 in range(0, k, _EXACT_K):
            block = w[k0 : k0 + _EXACT_K, n0 : n0 + _N_COLUMNS].astype(np.float32)
            total[:, n0 : n0 + _N_COLUMNS] += (wide[:, k0 : k0 + _EXACT_K] @ block).astype(np.int32)
    return total


def quantise(x: Array) -> tuple[Int8, Float32]:
    """Dynamic symmetric int8 quantisation over the last axis.

    ``amax = max(max|x|, 1e-30)``, ``r = 127 / amax``, ``q = int8(rint(x * r))`` (ties to even), ``scale = 1 / r``.
    Every step rounds to float32. |q| <= 127, because x * r exceeds 127 by at most two roundings, which rint removes.

    Args:
        x: values [..., d] (float32).

    Returns:
        q int8 [..., d] and scale float32 [..., 1].
        A row that holds a NaN gives zeros and scale NaN. A row that holds an Inf and no NaN gives zeros and scale Inf
        (127 / Inf is 0, 0 * finite is 0, and 0 * Inf is a NaN, which becomes 0). Other rows are not affected.
    """
    x = np.asarray(x, np.float32)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        amax = np.maximum(np.max(np.abs(x), axis=-1, keepdims=True), AMAX_FLOOR)
        inverse = np.float32(127.0) / amax
        q = np.rint(x * inverse)
        q[np.isnan(q)] = 0.0
        return q.astype(np.int8), one_nan(np.float32(1.0) / inverse)


def _square_root(mean_square: Array, epsilon: float) -> Array:
    root: Array = np.sqrt(mean_square + np.float64(np.float32(epsilon)))
    return root


def rms_norm(x: Array, gamma: Array, epsilon: float) -> Float32:
    """``x / sqrt(mean(x^2) + epsilon) * gamma`` over the last axis, in float32 (the caller rounds).

    The root is computed in float64 and rounded once, so that it is right for every finite row. In float32 the squares
    of values above 1.8e19 would overflow.

    Args:
        x: float32 [..., d]. gamma: float32 [d]. epsilon: added to the mean square.
    """
    x = np.asarray(x, np.float32)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        wide = x.astype(np.float64)
        root = _square_root(np.mean(wide * wide, axis=-1, keepdims=True), epsilon).astype(np.float32)
        result: Float32 = x / root * np.asarray(gamma, np.float32)
        return result


def layer_norm(x: Array, gamma: Array, beta: Array, epsilon: float) -> Float32:
    """``(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * gamma + beta`` over the last axis, in float32.

    The quotient is computed in float64 and rounded once, for the same reason as the root of `rms_norm`.

    Args:
        x: float32 [..., d]. gamma, beta: float32 [d]. epsilon: added to the variance.
    """
    x = np.asarray(x, np.float32)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        wide = x.astype(np.float64)
        centred = wide - np.mean(wide, axis=-1, keepdims=True)
        normed = centred / _square_root(np.mean(centred * centred, axis=-1, keepdims=True), epsilon)
        result: Float32 = normed.astype(np.float32) * np.asarray(gamma, np.float32) + np.asarray(beta, np.float32)
        return result


def rope_half_split(x: Array, cos: Array, sin: Array) -> Float32:
    """``x * cos + rotate_half(x) * sin`` with ``rotate_half([a, b]) = [-b, a]``: the indexer's RoPE.

    Pair i is ``(x[i], x[i + d/2])``. Two float32 products are rounded, then added, without a fused multiply-add.

    Args:
        x: float32 [..., d]. cos, sin: float32, broadcastable to x, [first half, second half] along the last axis.
    """
    half = x.shape[-1] // 2
    with np.errstate(invalid="ignore", over="ignore"):
        rotated = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
        result: Float32 = x * cos + rotated * sin
        return result


def rope_interleaved(x: Array, cos: Array, sin: Array) -> Float32:
    """The MLA's RoPE: the pairs are ``(x[2i], x[2i + 1])``, and the output is in half-split order.

    It is `rope_half_split` of ``[x[0::2], x[1::2]]``, with the same arguments.
    """
    return rope_half_split(np.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1), cos, sin)
