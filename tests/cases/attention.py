"""Calls of sparse_flash_attention_quant, over all keys and over parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cases.case import Case
from cases.pages import Paging, make_paging
from cases.values import (
    Array,
    all_rows,
    mla_caches,
    random_bf16,
    split_tokens,
)

SOFTMAX_SCALE = 0.09
"""A scale of attention that is neither 192**-0.5 = 0.072, as without YaRN, nor the model's 0.135."""


def random_topk(
    rng: np.random.Generator, paging: Paging, topk: int, *, holes: float = 0.0, tail: int = -1
) -> NDArray[np.int32]:
    """topk_indices int32 [t, topk]: for each token ``min(visible, topk)`` visible positions, shuffled, then `tail`.

    Args:
        holes: fraction of the valid entries replaced by -1. tail: value of the entries that are not read.
    """
    indices = np.full((paging.t, topk), tail, np.int32)
    for i, visible in enumerate(paging.visible()):
        n = min(int(visible), topk)
        indices[i, :n] = rng.choice(int(visible), n, replace=False)
        indices[i, :n][rng.random(n) < holes] = -1
    return indices


def attention_case(
    b: int = 1,
    s1: int = 1,
    n_q: int = 128,
    kv_lens: Sequence[int] | int | None = None,
    *,
    topk: int = 2048,
    seed: int = 0,
    split: bool = False,
    block_size: int = 128,
    shuffle: bool = True,
    holes: float = 0.0,
    tail: int = 2**31 - 1,
    full: bool = False,
) -> Case:
    """A `sparse_flash_attention_quant` call over random caches and random selections.

    Args:
        b, s1, n_q: sequences, tokens of each, query heads. kv_lens, block_size, shuffle: as `make_paging`. topk:
            entries of a row.
        seed: of everything. split: queries as [b, s1, n_q, d], caches as [block_num, block_size, 1, d], topk_indices as
            [b, s1, topk] instead of the merged forms. holes, tail: as `random_topk`; the tail is out of range on
            purpose, because it is not read.
        full: whether every row of the caches is a key, so that any block_table may be passed.
    """
    paging = make_paging(b, s1, kv_lens, seed=seed, block_size=block_size, shuffle=shuffle)
    rng = np.random.default_rng([seed, 3])
    query_nope = random_bf16(rng, (paging.t * n_q, 512))
    query_rope = random_bf16(rng, (paging.t * n_q, 64))
    caches = mla_caches(rng, paging, all_rows(paging) if full else None)
    topk_indices = random_topk(rng, paging, topk, holes=holes, tail=tail)
    if split:
        query_nope = query_nope.reshape(b, s1, n_q, 512)
        query_rope = query_rope.reshape(b, s1, n_q, 64)
    else:
        caches = tuple(cache.reshape(-1, cache.shape[-1]) for cache in caches)  # type: ignore[assignment]
    inputs = {
        "query_nope": query_nope,
        "query_rope": query_rope,
        "key_nope_2d": caches[0],
        "key_rope_2d": caches[1],
        "k_nope_scales": caches[2],
        "topk_indices": split_tokens(paging, split, topk_indices),
        "block_table": paging.block_table,
        "kv_act_seqs": paging.kv_act_seqs,
    }
    attributes = {
        "nq": n_q,
        "n_kv": 1,
        "softmax_scale": SOFTMAX_SCALE,
        "topk": topk,
        "block_size": block_size,
        "max_blocknum_perbatch": paging.block_table.shape[1],
    }
    return Case("sparse_flash_attention_quant", inputs, attributes, paging, n_q)


def with_lse(case: Case) -> Case:
    """An attention case that asks for lse too."""
    return replace(case.with_attributes(return_lse=True), outputs=("attention_out", "lse"))


def parts_of(case: Case, count: int) -> list[Case]:
    """An attention case that asks for lse, split into `count` cases: the blocks of its keys are dealt out in turn."""
    parts = []
    for part in range(count):
        positions = case.inputs["topk_indices"]
        others = positions // case.attributes["block_size"] % count != part
        parts.append(with_lse(case).copy(topk_indices=np.where(others, np.int32(-1), positions)))
    return parts


def random_parts(count: int, shape: tuple[int, ...], seed: int = 0) -> tuple[list[Array], list[Array]]:
    """attention_outs [*shape, 512] and lses [*shape] of parts, each of which has no key in some of the rows.

    None has a key in the first row. In the last row shares vanish beside others.
    """
    rng = np.random.default_rng([seed, 9])
    outs = [random_bf16(rng, (*shape, 512)) for _ in range(count)]
    lses = [rng.normal(scale=3.0, size=shape).astype(np.float32) for _ in range(count)]
    for out, lse in zip(outs, lses, strict=True):
        empty = rng.random(shape) < 0.2
        empty.reshape(-1)[:1] = True
        lse[empty], out[empty] = -np.inf, 0
        lse.reshape(-1)[-1:] += rng.choice([-200.0, 0.0])
    return outs, lses
