"""The arithmetic of the CPU kernels to the last bit: in which order each sum of float32 is added, stated once.

The golden reference accumulates in float64, so that the contract's tolerances lie between it and any kernel. Here the
same operators are computed as the kernels say that they do: `outputs` runs the golden operator with its three sums (a
product of bfloat16 matrices, the two norms) replaced, and what remains of golden has one result on any machine: int8
products, quantisation, roundings, RoPE. Attention and the indexer's scores are stated here from end to end.

What differs between instruction sets are the three fields of `Order`. Nothing here models what a bfloat16 dot product
does with subnormal numbers (docs/accuracy.md), except where a probability becomes zero.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import cases
import numpy as np
from numpy.typing import NDArray

from ms_dsv32 import op_info
from ms_dsv32.golden import bf16_to_float32, float32_to_bf16, round_bf16, select_topk

Array = NDArray[Any]
Float32 = NDArray[np.float32]

PART = 1024
"""How deep a chain of a token projection is: h is cut into so many, whose sums are added in ascending order."""
BLOCK = 128


@dataclass(frozen=True)
class Order:
    """What distinguishes the sums of one instruction set.

    Attributes:
        lanes: float32 of a vector, and so the chains that a reduction has.
        fused: whether `Fma` rounds once. Products of bfloat16 are exact in float32, so that it matters to e^x alone.
        dot: how a product of bfloat16 adds: ``values`` one after the other; ``pairs`` of neighbours in k, the second
            one first, as Intel's manual describes VDPBF16PS; ``tiles``, where the even and the odd values of 32
            neighbours are two sums from zero, whose sum is added to the chain, as it describes TDPBF16PS;
            ``odd sums`` of two neighbours in k, which are rounded to odd, as their sum with the chain is, as Arm's
            manual describes BFDOT where FPCR.EBF is 0.
    """

    lanes: int
    fused: bool
    dot: str

    @property
    def by_heads(self) -> bool:
        """Whether attention has heads as columns (attention_heads.h)."""
        return self.dot in ("pairs", "tiles")


ORDERS = {
    "portable": Order(4, False, "values"),
    "avx2": Order(8, True, "values"),
    "avx512": Order(16, True, "values"),
    "avx512_bf16": Order(16, True, "pairs"),
    "amx": Order(16, True, "tiles"),
    "neon_dotprod": Order(4, True, "values"),
    "neon_bf16": Order(4, True, "odd sums"),
}


def product(x: Float32, w: Float32, order: Order) -> Float32:
    """``x @ w`` as one chain of additions from zero for each element.

    Args:
        x: values of bfloat16 [.., m, k], k a multiple of 32 (zeros change no sum). w: the same [.., k, n].
    """
    total = np.zeros((*np.broadcast_shapes(x.shape[:-2], w.shape[:-2]), x.shape[-2], w.shape[-1]), np.float32)
    term = np.empty_like(total)
    used = (x != 0).any(axis=tuple(range(x.ndim - 1)))  # a product with zero is one, and changes no sum

    def add(i: int, to: Float32) -> None:
        if used[i]:
            np.multiply(x[..., i, None], w[..., i, None, :], out=term)
            to += term

    if order.dot == "values":
        for i in range(x.shape[-1]):
            add(i, total)
    elif order.dot == "pairs":
        for i in range(0, x.shape[-1], 2):
            add(i + 1, total)
            add(i, total)
    elif order.dot == "odd sums":
        for i in range(0, x.shape[-1], 2):
            if used[i] or used[i + 1]:
                first, second = (x[..., j, None] * w[..., j, None, :] for j in (i, i + 1))
                total = odd_sum(total, odd_sum(first, second))
    else:
        even, odd = np.empty_like(total), np.empty_like(total)
        for i in range(0, x.shape[-1], 32):
            if not used[i : i + 32].any():
                continue
            even[:], odd[:] = 0, 0
            for j in range(i, i + 32, 2):
                add(j, even)
                add(j + 1, odd)
            even += odd
            total += even
    return total


def chain(values: Array, axis: int = 0) -> Array:
    """The sum along an axis, one value after the other in their own precision."""
    return np.asarray(np.add.accumulate(values, axis=axis, dtype=values.dtype).take(-1, axis=axis))


def halved(lanes: Float32) -> Float32:
    """The sum of the lanes of vectors [.., n]: lane i with lane i + n / 2, until one is left."""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes


def chains(values: Float32, vectors: int, order: Order) -> Float32:
    """Sums [.., vectors, lanes] over values [.., n], which are dealt out in turn to so many vectors."""
    return chain(values.reshape(*values.shape[:-1], -1, vectors, order.lanes), axis=-3)


def rms_root(x: Float32, epsilon: float, order: Order) -> Float32:
    """``sqrt(mean(x^2) + epsilon)`` [.., 1] with the sum of squares in float32: four vectors of chains."""
    n, added = x.shape[-1], np.float32(epsilon)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = chains(x * x, 4, order)
        pairs = (squares[..., 0, :] + squares[..., 1, :]) + (squares[..., 2, :] + squares[..., 3, :])
        mean = halved(pairs) / np.float32(n) + added
        wide = x.astype(np.float64)
        root = np.sqrt(chain(wide * wide, axis=-1)[..., None] / n + np.float64(added)).astype(np.float32)
        return np.where(_holds(mean), np.sqrt(mean), root)


def rms_norm(x: Float32, gamma: Float32, epsilon: float, order: Order) -> Float32:
    """`golden.rms_norm` with the root of `rms_root`."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.asarray(x / rms_root(x, epsilon, order) * gamma)


def layer_normed(x: Float32, epsilon: float, order: Order) -> Float32:
    """``(x - mean) / sqrt(variance + epsilon)`` with both sums in float32: one vector of chains."""
    n, added = x.shape[-1], np.float32(epsilon)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mean = halved(chains(x, 1, order)[..., 0, :]) / np.float32(n)
        centred = x - mean
        variance = halved(chains(centred * centred, 1, order)[..., 0, :]) / np.float32(n) + added
        wide = x.astype(np.float64)
        wide -= chain(wide, axis=-1)[..., None] / n
        root = np.sqrt(chain(wide * wide, axis=-1)[..., None] / n + np.float64(added))
        return np.where(_holds(variance), centred / np.sqrt(variance), (wide / root).astype(np.float32))


def layer_norm(x: Float32, gamma: Float32, beta: Float32, epsilon: float, order: Order) -> Float32:
    """`golden.layer_norm` of what `layer_normed` gives."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(layer_normed(x, epsilon, order) * gamma + beta)


def _holds(mean: Float32) -> Array:
    """Where no square overflowed, and none was so small that it lost bits. Elsewhere the kernels sum in float64."""
    return (mean >= np.float32(2.0**-90)) & (mean <= np.finfo(np.float32).max)


@contextmanager
def _sums(order: Order) -> Iterator[None]:
    """The golden operators add as `order` says."""

    def matmul_bf16(a: Float32, w: Array) -> Float32:
        m, n, parts = len(a), w.shape[1], max(w.shape[0] // PART, 1)
        split = np.ascontiguousarray(a.reshape(m, parts, -1).swapaxes(0, 1))
        return chain(product(split, bf16_to_float32(w).reshape(parts, -1, n), order))

    replaced = {
        "matmul_bf16": matmul_bf16,
        "rms_norm": lambda *arguments: rms_norm(*arguments, order),
        "layer_norm": lambda *arguments: layer_norm(*arguments, order),
    }
    with ExitStack() as stack:
        for operator in op_info.names():
            module = importlib.import_module(f"ms_dsv32.golden.{operator}")
            for name, function in replaced.items():
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, function))
        yield


def outputs(case: cases.Case, order: Order) -> dict[str, Array]:
    """Every output of a kernel, by name, to the last bit. Attention has to ask for lse."""
    if case.operator == "sparse_flash_attention_quant":
        return attention(case, order)
    if case.operator == "lightning_indexer_quant":
        k = case.attributes["selected_count"]
        rows = [select_topk(index_scores(case, i), k) for i in range(case.t)]
        return {"topk_indices": np.array(rows, np.int32).reshape(case.t, k)}
    with _sums(order):
        return case.golden()


def _odd_sum64(a: Array, b: Array) -> Array:
    """``a + b`` in float64, rounded to odd: towards zero, with the last bit set if bits were lost."""
    total = a + b
    part = total - a
    lost = (a - (total - part)) + (b - part)  # a + b = total + lost (Knuth's TwoSum)
    bits = total.view(np.int64).copy()
    away = np.where((lost > 0) == (total > 0), 1, -1)
    bits += np.where((lost != 0) & (bits & 1 == 0), away, 0)
    return bits.view(np.float64)


def odd_sum(a: Float32, b: Float32) -> Float32:
    """``a + b`` in float32, rounded to odd. The steps by way of float64 give what one step gives."""
    wide = _odd_sum64(a.astype(np.float64), b.astype(np.float64))
    near = wide.astype(np.float32)
    bits = near.view(np.int32).copy()
    bits -= np.abs(near) > np.abs(wide)
    bits |= near != wide
    return bits.view(np.float32)


def fma(a: Float32, b: Float32, c: Float32, order: Order) -> Float32:
    """``a * b + c``, rounded once where the instruction set has it."""
    if not order.fused:
        return a * b + c
    exact = a.astype(np.float64) * b.astype(np.float64)  # 48 bits
    # What was rounded to odd in float64 is rounded to float32 as the exact sum would be, because float64 has more than
    # two bits more than float32 (Boldo and Melquiond).
    return _odd_sum64(exact, c.astype(np.float64)).astype(np.float32)


def exp_non_positive(v: Float32, order: Order) -> Float32:
    """e^v for v <= 0 as softmax.h computes it: e^r 2^n, r = v - n ln2, by the Taylor polynomial of degree 7.

    What is below 2^-126 is 0. ln2 comes in two parts, of which the first has 15 bits, so that n times it is exact.
    """
    head = np.float32(math.floor(math.log(2) * 2**15) / 2**15)
    rest = np.float32(math.log(2) - float(head))
    small = v < np.float32(-126 * math.log(2))
    x = np.where(small, np.float32(0), v)
    n = np.rint(x * np.float32(1 / math.log(2)))
    r = fma(n, np.broadcast_to(-rest, n.shape), fma(n, np.broadcast_to(-head, n.shape), x, order), order)
    p = np.broadcast_to(np.float32(1) / np.float32(math.factorial(7)), r.shape)
    for i in range(6, -1, -1):
        p = fma(p, r, np.broadcast_to(np.float32(1) / np.float32(math.factorial(i)), r.shape), order)
    return np.where(small, np.float32(0), p * np.exp2(n))


_LOGF = ctypes.CDLL(ctypes.util.find_library("m")).logf
_LOGF.restype, _LOGF.argtypes = ctypes.c_float, [ctypes.c_float]


def softmax(scores: Float32, scale: float, order: Order) -> tuple[Float32, Float32]:
    """Probabilities [heads, n] (values of bfloat16) and lse [heads] of scores [heads, n], n at least 1."""
    scaled = scores * np.float32(scale)
    top = scaled.max(axis=-1, keepdims=True)
    e = exp_non_positive(scaled - top, order)
    if order.by_heads:  # heads are lanes, and keys are dealt out to four chains
        sums = chain(_padded(e, 4).reshape(len(e), -1, 4), axis=1)
        total = (sums[:, :1] + sums[:, 1:2]) + (sums[:, 2:3] + sums[:, 3:])
    else:  # keys are lanes, of two vectors of chains
        sums = chains(_padded(e, 64), 2, order)
        total = halved(sums[:, 0] + sums[:, 1])
    p = e * (np.float32(1) / total)
    if order.by_heads:  # the instruction that rounds takes subnormal numbers for zero
        p = np.where(p < 2.0**-126, np.float32(0), p)
    logs = np.array([_LOGF(value) for value in total[:, 0].tolist()], np.float32)
    return round_bf16(p), top[:, 0] + logs


def _padded(values: Float32, multiple: int) -> Float32:
    """Zeros after the last value of each row, up to a multiple."""
    return np.pad(values, ((0, 0), (0, -values.shape[1] % multiple)))


def attention(case: cases.Case, order: Order) -> dict[str, Array]:
    """attention_out and lse of sparse_flash_attention_quant."""
    inputs, s1, t = case.inputs, case.paging.s1, case.t
    query = np.concatenate([inputs[n].reshape(t, case.n_q, -1) for n in ("query_nope", "query_rope")], axis=-1)
    nope, rope, scales = (inputs[n].reshape(-1, w) for n, w in zip(KEY_PARTS, (512, 64, 4), strict=True))
    out, lse = np.zeros((t, case.n_q, 512), np.uint16), np.full((t, case.n_q), -np.inf, np.float32)
    for i, visible in enumerate(case.paging.visible()):
        entries = inputs["topk_indices"].reshape(t, -1)[i, : min(int(visible), case.attributes["topk"])]
        positions = entries[entries >= 0]
        if positions.size == 0:
            continue
        row = inputs["block_table"][i // s1, positions // BLOCK] * BLOCK + positions % BLOCK
        k = round_bf16(nope[row].reshape(-1, 4, 128).astype(np.float32) * scales[row][:, :, None]).reshape(-1, 512)
        key = np.concatenate([k, bf16_to_float32(rope[row])], axis=-1)
        scores = product(bf16_to_float32(query[i]), np.ascontiguousarray(key.T), order)
        p, lse[i] = softmax(scores, case.attributes["softmax_scale"], order)
        out[i] = float32_to_bf16(product(_padded(p, 32), np.pad(k, ((0, -len(k) % 32), (0, 0))), order))
    lead = (case.paging.b, s1, case.n_q)
    return {"attention_out": out.reshape(*lead, 512), "lse": lse.reshape(lead)}


KEY_PARTS = ("key_nope_2d", "key_rope_2d", "k_nope_scales")


def index_scores(case: cases.Case, i: int) -> Float32:
    """The scores of token i over what it sees, which are the same on every instruction set.

    16 partial sums over the heads n, n + 16, n + 32, n + 48, which are then halved.
    """
    inputs = case.inputs
    sequence = i // case.paging.s1
    visible = max(int(inputs["kv_act_seqs"][sequence]) - case.paging.s1 + 1 + i % case.paging.s1, 0)
    position = np.arange(visible)
    row = inputs["block_table"][sequence, position // BLOCK] * BLOCK + position % BLOCK
    k = inputs["k_cache"].reshape(-1, BLOCK)[row].astype(np.float64)  # exact: |dot| <= 2^21
    dot = (inputs["q_int8"].reshape(-1, 64, BLOCK)[i].astype(np.float64) @ k.T).astype(np.float32)
    scale, weight = (inputs[n].reshape(-1, 64)[i].astype(np.float32) for n in ("q_scale", "weights"))
    with np.errstate(all="ignore"):
        term = np.maximum(dot, np.float32(0)) * (scale * weight)[:, None]
        sums = chain(term.reshape(4, 16, visible))
        return halved(sums.T)[:, 0] * inputs["k_cache_scale"].reshape(-1)[row].astype(np.float32)
