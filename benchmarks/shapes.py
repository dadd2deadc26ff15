"""The shapes that are timed, the inputs of each, and the least work that each needs."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import cases
import numpy as np
from cases import Case
from numpy.typing import NDArray

from ms_dsv32 import golden

Array = NDArray[Any]

MLA, INDEXER_PROLOG, FUSED = "mla_prolog_quant", "lightning_indexer_prolog_quant", "mla_indexer_prolog_quant"
INDEXER, ATTENTION, STEP = "lightning_indexer_quant", "sparse_flash_attention_quant", "step"
EPILOG = "mla_epilog_quant"
OPS = (MLA, INDEXER_PROLOG, FUSED, INDEXER, ATTENTION, EPILOG, STEP)
"""The six operators, and the whole step: fused prolog -> indexer -> attention."""
PROJECTIONS = (MLA, INDEXER_PROLOG, FUSED, EPILOG)
"""Operators whose cost depends on the number of tokens only."""

N_Q = 128
SELECTED_COUNT = 2048
KEY_BYTES = 512 + 2 * 64 + 4 * 4  # kv_cache, kr_cache and k_scale_cache of one key
INDEX_KEY_BYTES = 128 + 2  # k_cache and k_cache_scale of one key


@dataclass(frozen=True)
class Shape:
    """One timed call: b sequences of kv keys, the last s1 of each being this call's tokens."""

    op: str
    b: int
    s1: int
    kv: int

    @property
    def t(self) -> int:
        return self.b * self.s1

    @property
    def label(self) -> str:
        tokens = f"b={self.b} s1={self.s1}" if self.op == STEP else f"t={self.t}"
        return tokens if self.op in PROJECTIONS else f"{tokens} kv={self.kv // 1024}K"


def _projection_shapes(op: str) -> list[Shape]:
    # The cost does not depend on kv, so the caches are small. From 256 tokens on the call is a chunk of a prompt.
    decode = [Shape(op, t, 1, 128) for t in (1, 2, 4, 8, 16, 32, 64, 128)]
    return [*decode, *(Shape(op, 1, t, t) for t in (256, 1024))]


def _decode(op: str, t: int, kv: int) -> Shape:
    # 128 tokens are 32 sequences with 4 tokens each, because 128 caches of 64K keys would need 5 GB.
    return Shape(op, min(t, 32), max(t // 32, 1), kv)


def shapes(op: str, quick: bool = False) -> list[Shape]:
    """The shapes of `op`. `quick` takes a few of them, with at most 32 tokens."""
    k = 1024
    if op in PROJECTIONS:
        found = _projection_shapes(op)
        return [s for s in found if s.t in (1, 4, 32)] if quick else found
    if op == INDEXER:
        return [
            _decode(op, t, kv)
            for kv in ((4 * k,) if quick else (4 * k, 64 * k, 128 * k))
            for t in ((1, 4) if quick else (1, 4, 32, 128))
        ]
    if op == ATTENTION:
        if quick:
            return [_decode(op, t, 4 * k) for t in (1, 4)]
        return [
            s for kv in (4 * k, 64 * k) for s in (*(_decode(op, t, kv) for t in (1, 4, 32, 128)), Shape(op, 1, 256, kv))
        ]
    if quick:
        return [Shape(op, b, 1, 4 * k) for b in (1, 4)]
    return [Shape(op, b, s1, kv) for kv in (4 * k, 64 * k) for b in (1, 4, 32) for s1 in (1, 2)]


@functools.lru_cache(maxsize=1)  # caches of 64K keys are large
def make_case(shape: Shape) -> Case:
    """The inputs of one call. Those of the step are the fused prolog's, over caches with a full history."""
    maker = {
        MLA: cases.mla_prolog_case,
        INDEXER_PROLOG: cases.indexer_prolog_case,
        FUSED: cases.fused_prolog_case,
        INDEXER: cases.indexer_case,
        ATTENTION: cases.attention_case,
        EPILOG: cases.mla_epilog_case,
        STEP: cases.fused_prolog_case,
    }[shape.op]
    case = maker(shape.b, shape.s1, kv_lens=shape.kv)
    # The scale of the rivals and of a step's attention differs from that of the tests' data.
    return case.with_attributes(softmax_scale=golden.softmax_scale()) if shape.op == ATTENTION else case


@dataclass(frozen=True)
class Work:
    """The least that a call must do: each byte of memory moved once, and the multiply-accumulates of its products."""

    bytes: int
    bf16_macs: int
    int8_macs: int

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, self.bf16_macs + other.bf16_macs, self.int8_macs + other.int8_macs)


def _mla_work(t: int) -> Work:
    bf16_weights = 7168 * (1536 + 576) + N_Q * 128 * 512  # w_dq, w_dkv_kr, w_uk
    int8_weights = 1536 * N_Q * 192  # w_uq_qr
    constant = 4 * N_Q * 192 + 2 * (1536 + 512)  # dequant_scale, gammas
    token = 2 * 7168 + 2 * 2 * 64 + 8 + 1536 + 4 + 2 * N_Q * (512 + 64) + KEY_BYTES
    return Work(2 * bf16_weights + int8_weights + constant + t * token, t * bf16_weights, t * int8_weights)


def _indexer_prolog_work(t: int) -> Work:
    bf16_weights = 7168 * (128 + 64)  # wk, w_proj
    int8_weights = 1536 * 8192  # w_qb
    hadamard = 128 * 128
    constant = 4 * 8192 + 2 * 2 * 128 + 2 * 2 * hadamard
    token = 2 * 7168 + 1536 + 4 + 2 * 2 * 64 + 8 + 8192 + 2 * 64 + 2 * 64 + INDEX_KEY_BYTES
    return Work(
        2 * bf16_weights + int8_weights + constant + t * token, t * (bf16_weights + 65 * hadamard), t * int8_weights
    )


def _fused_work(t: int) -> Work:
    # token_x, cos, sin, cache_index, q_norm and its scale are shared; q_norm is not even an output.
    shared = t * (2 * 7168 + 2 * 2 * 64 + 8 + 2 * (1536 + 4))
    return _mla_work(t) + _indexer_prolog_work(t) + Work(-shared, 0, 0)


def _visible(shape: Shape) -> Array:
    """Keys that each token of one sequence sees."""
    return shape.kv - shape.s1 + 1 + np.arange(shape.s1)


def _indexer_work(shape: Shape) -> Work:
    token = 8192 + 2 * 64 + 2 * 64 + 4 * SELECTED_COUNT
    dots = shape.b * int(_visible(shape).sum())
    return Work(shape.b * shape.kv * INDEX_KEY_BYTES + shape.t * token, 0, dots * 64 * 128)


def _attention_work(shape: Shape) -> Work:
    selected = int(np.minimum(_visible(shape), SELECTED_COUNT).sum())  # by all tokens of one sequence
    rows = min(selected, shape.kv)  # the tokens of a sequence may select the same
    token = 2 * N_Q * (512 + 64) + 2 * N_Q * 512 + 4 * SELECTED_COUNT
    macs = shape.b * selected * N_Q * (512 + 64 + 512)
    return Work(shape.b * rows * KEY_BYTES + shape.t * token, macs, 0)


def _epilog_work(t: int) -> Work:
    bf16_weights = N_Q * 512 * 128  # w_uv
    int8_weights = N_Q * 128 * 7168  # w_o
    constant = 4 * 7168  # w_o_scale
    token = 2 * N_Q * 512 + 2 * 7168
    return Work(2 * bf16_weights + int8_weights + constant + t * token, t * bf16_weights, t * int8_weights)


def work(shape: Shape) -> Work:
    """The least work of one call."""
    if shape.op == MLA:
        return _mla_work(shape.t)
    if shape.op == INDEXER_PROLOG:
        return _indexer_prolog_work(shape.t)
    if shape.op == FUSED:
        return _fused_work(shape.t)
    if shape.op == INDEXER:
        return _indexer_work(shape)
    if shape.op == ATTENTION:
        return _attention_work(shape)
    if shape.op == EPILOG:
        return _epilog_work(shape.t)
    return _fused_work(shape.t) + _indexer_work(shape) + _attention_work(shape)
