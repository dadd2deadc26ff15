"""Calls of lightning_indexer_quant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cases.case import Case
from cases.pages import make_paging
from cases.values import (
    all_rows,
    indexer_caches,
    random_int8,
    random_scale,
    split_tokens,
)


def indexer_case(
    b: int = 1,
    s1: int = 1,
    kv_lens: Sequence[int] | int | None = None,
    *,
    selected_count: int = 2048,
    seed: int = 0,
    split: bool = False,
    block_size: int = 128,
    shuffle: bool = True,
    distinct_keys: int | None = None,
    full: bool = False,
) -> Case:
    """A `lightning_indexer_quant` call.

    Args:
        b, s1, kv_lens, block_size, shuffle, seed, split, full: as `attention_case`. selected_count: the attribute.
        distinct_keys: draw the keys and their scales from so few, so that most scores are tied.
    """
    paging = make_paging(b, s1, kv_lens, seed=seed, block_size=block_size, shuffle=shuffle)
    rng = np.random.default_rng([seed, 4])
    k_cache, k_cache_scale = indexer_caches(rng, paging, all_rows(paging) if full else None)
    if distinct_keys is not None:
        rows = paging.occupied_rows()
        source = rows[rng.integers(0, min(distinct_keys, rows.size), rows.size)] if rows.size else rows
        for cache in (k_cache, k_cache_scale):
            flat = cache.reshape(-1, cache.shape[-1])
            flat[rows] = flat[source]
    q_int8 = random_int8(rng, (paging.t, 64, 128))
    q_scale = random_scale(rng, (paging.t, 64, 1), np.float16)
    weights = (rng.standard_normal((paging.t, 64), dtype=np.float32) * np.float32(8192**-0.5)).astype(np.float16)
    inputs = {
        "q_int8": split_tokens(paging, split, q_int8),
        "q_scale": split_tokens(paging, split, q_scale),
        "weights": split_tokens(paging, split, weights),
        "k_cache": k_cache,
        "k_cache_scale": k_cache_scale,
        "block_table": paging.block_table,
        "kv_act_seqs": paging.kv_act_seqs,
    }
    return Case("lightning_indexer_quant", inputs, {"selected_count": selected_count}, paging)
