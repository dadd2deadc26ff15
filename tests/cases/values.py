"""Weights, activations and caches with random values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cases.pages import Paging
from ms_dsv32 import golden

Array = NDArray[Any]

POISON: dict[type[np.generic], Any] = {
    np.int8: np.int8(-128),
    np.uint16: np.uint16(0x7FC1),
    np.float16: np.float16("nan"),
    np.float32: np.float32("nan"),
}
"""Contents of rows that must not be read. 0x7FC1 is a bfloat16 NaN with a payload."""


@functools.cache
def mla_weights(n_q: int = 128, seed: int = 0) -> dict[str, Array]:
    """Full-size weights of `mla_prolog_quant`, read-only, made once per process. Fewer heads are the first of 128."""
    return _frozen(golden.make_mla_weights(seed, n_q=n_q))


@functools.cache
def indexer_weights(seed: int = 0) -> dict[str, Array]:
    """Full-size weights of `lightning_indexer_prolog_quant`, read-only, made once per process.

    hadamard_q and hadamard_k are unlike, and unlike their transposes: Q D and Q / D of an orthogonal matrix Q and a
    diagonal one D. As the model's one matrix does, they leave scores as they are: Q D (Q / D)^T is the identity.
    """
    rng = np.random.default_rng([seed, 6])
    turn, _ = np.linalg.qr(rng.standard_normal((128, 128)))
    stretch = np.exp(rng.uniform(-0.25, 0.25, 128))
    matrices = {"hadamard_q": turn * stretch, "hadamard_k": turn / stretch}
    bits = {name: golden.float32_to_bf16(matrix.astype(np.float32)) for name, matrix in matrices.items()}
    return _frozen({**golden.make_indexer_weights(seed), **bits})


@functools.cache
def epilog_weights(n_q: int = 128, seed: int = 0) -> dict[str, Array]:
    """Full-size weights of `mla_epilog_quant`, read-only, made once per process."""
    return _frozen(golden.make_epilog_weights(seed, n_q=n_q))


def layer_weights(n_q: int = 128, seed: int = 0) -> dict[str, Array]:
    """The weights of all operators of a layer."""
    return {**mla_weights(n_q, seed), **indexer_weights(seed), **epilog_weights(n_q, seed)}


def _frozen(arrays: dict[str, Array]) -> dict[str, Array]:
    for value in arrays.values():
        value.flags.writeable = False
    return arrays


def random_int8(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Uniform in -127..127, the range of `quantise`."""
    return rng.integers(-127, 128, shape, dtype=np.int8)


def random_bf16(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> NDArray[np.uint16]:
    """Normal with standard deviation `scale`."""
    return golden.float32_to_bf16(rng.standard_normal(shape, dtype=np.float32) * np.float32(scale))


def random_scale(rng: np.random.Generator, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> Array:
    """Uniform in 0.01..0.03, as the quantisation of values of variance 1 gives."""
    return (np.float32(0.01) + np.float32(0.02) * rng.random(shape, dtype=np.float32)).astype(dtype)


def make_cache(
    paging: Paging,
    width: int,
    dtype: type[np.generic],
    draw: Callable[[tuple[int, ...]], Array],
    rows: Array | None = None,
) -> Array:
    """A cache [block_num, block_size, 1, width] drawn in the given rows (default: the occupied), poison elsewhere."""
    cache = np.full((paging.block_num * paging.block_size, width), POISON[dtype], dtype)
    rows = paging.occupied_rows() if rows is None else rows
    cache[rows] = draw((rows.size, width))
    return cache.reshape(paging.block_num, paging.block_size, 1, width)


def history_rows(paging: Paging) -> Array:
    """Rows of the keys before this call: what a prolog finds in the caches."""
    return np.setdiff1d(paging.occupied_rows(), paging.cache_index)


def all_rows(paging: Paging) -> Array:
    return np.arange(paging.block_num * paging.block_size)


def mla_caches(rng: np.random.Generator, paging: Paging, rows: Array | None = None) -> tuple[Array, Array, Array]:
    return (
        make_cache(paging, 512, np.int8, lambda shape: random_int8(rng, shape), rows),
        make_cache(paging, 64, np.uint16, lambda shape: random_bf16(rng, shape), rows),
        make_cache(paging, 4, np.float32, lambda shape: random_scale(rng, shape), rows),
    )


def indexer_caches(rng: np.random.Generator, paging: Paging, rows: Array | None = None) -> tuple[Array, Array]:
    return (
        make_cache(paging, 128, np.int8, lambda shape: random_int8(rng, shape), rows),
        make_cache(paging, 1, np.float16, lambda shape: random_scale(rng, shape, np.float16), rows),
    )


def split_tokens(paging: Paging, split: bool, value: Array) -> Array:
    """[t, ...], or [b, s1, ...] if split."""
    lead = (paging.b, paging.s1) if split else (paging.t,)
    return value.reshape(*lead, *value.shape[1:])


def token_inputs(rng: np.random.Generator, paging: Paging, split: bool) -> tuple[Array, Array, Array, Array]:
    """token_x, cos, sin, cache_index."""
    token_x = random_bf16(rng, (paging.t, 7168))
    cos, sin = golden.rope_tables(np.maximum(paging.positions.reshape(-1), 0))
    index = paging.cache_index.reshape(-1)
    return (
        split_tokens(paging, split, token_x),
        split_tokens(paging, split, cos),
        split_tokens(paging, split, sin),
        split_tokens(paging, split, index),
    )
