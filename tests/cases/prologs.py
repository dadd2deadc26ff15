"""Calls of the three prologs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cases.case import Case
from cases.pages import make_paging
from cases.values import (
    history_rows,
    indexer_caches,
    indexer_weights,
    mla_caches,
    mla_weights,
    split_tokens,
    token_inputs,
)
from ms_dsv32 import golden, op_info
from ms_dsv32.config import IndexerPrologQuantAttr


def mla_prolog_case(
    b: int = 1,
    s1: int = 1,
    n_q: int = 128,
    kv_lens: Sequence[int] | int | None = None,
    *,
    seed: int = 0,
    split: bool = False,
    block_size: int = 128,
    shuffle: bool = True,
) -> Case:
    """A `mla_prolog_quant` call: the history is in the caches, this call's rows are poisoned.

    Args:
        b, s1, n_q: sequences, tokens of each, query heads. kv_lens, block_size, shuffle: as `make_paging`.
        seed: of activations, caches and block table; the weights are those of `mla_weights`. split: token axes as [b,
            s1].
    """
    paging = make_paging(b, s1, kv_lens, seed=seed, block_size=block_size, shuffle=shuffle)
    rng = np.random.default_rng([seed, 1])
    token_x, cos, sin, cache_index = token_inputs(rng, paging, split)
    kv_cache, kr_cache, k_scale_cache = mla_caches(rng, paging, history_rows(paging))
    inputs = {
        "token_x": token_x,
        **mla_weights(n_q),
        "cos": cos,
        "sin": sin,
        "cache_index": cache_index,
        "kv_cache": kv_cache,
        "kr_cache": kr_cache,
        "k_scale_cache": k_scale_cache,
    }
    return Case("mla_prolog_quant", inputs, {}, paging, n_q)


def indexer_prolog_case(
    b: int = 1,
    s1: int = 1,
    kv_lens: Sequence[int] | int | None = None,
    *,
    seed: int = 0,
    split: bool = False,
    block_size: int = 128,
    shuffle: bool = True,
) -> Case:
    """A `lightning_indexer_prolog_quant` call; q_norm and q_norm_scale are random. Arguments as `mla_prolog_case`."""
    paging = make_paging(b, s1, kv_lens, seed=seed, block_size=block_size, shuffle=shuffle)
    rng = np.random.default_rng([seed, 2])
    x, cos, sin, cache_index = token_inputs(rng, paging, split)
    q_norm, q_norm_scale = golden.quantise(rng.standard_normal((paging.t, 1536), dtype=np.float32))
    k_cache, k_cache_scale = indexer_caches(rng, paging, history_rows(paging))
    weights = indexer_weights()
    inputs = {
        "x": x,
        "q_norm": split_tokens(paging, split, q_norm),
        "q_norm_scale": split_tokens(paging, split, q_norm_scale),
        **{name: weights[name] for name in ("w_qb", "w_qb_scale", "wk", "w_proj", "ln_gamma_k", "ln_beta_k")},
        "cos_idx_rope": cos,
        "sin_idx_rope": sin,
        "hadamard_q": weights["hadamard_q"],
        "hadamard_k": weights["hadamard_k"],
        "k_cache": k_cache,
        "k_cache_scale": k_cache_scale,
        "k_cache_index": cache_index,
    }
    return Case("lightning_indexer_prolog_quant", inputs, {}, paging)


def fused_prolog_case(
    b: int = 1,
    s1: int = 1,
    n_q: int = 128,
    kv_lens: Sequence[int] | int | None = None,
    *,
    seed: int = 0,
    split: bool = False,
    block_size: int = 128,
    shuffle: bool = True,
) -> Case:
    """A `mla_indexer_prolog_quant` call. Arguments as `mla_prolog_case`, whose inputs it shares for the same seed."""
    mla = mla_prolog_case(b, s1, n_q, kv_lens, seed=seed, split=split, block_size=block_size, shuffle=shuffle)
    indexer = indexer_prolog_case(b, s1, kv_lens, seed=seed, split=split, block_size=block_size, shuffle=shuffle)
    shared = ("token_x", "cos", "sin", "cache_index")
    inputs = {name if name in shared else f"mla_{name}": value for name, value in mla.inputs.items()}
    for name in ("w_qb", "w_qb_scale", "wk", "w_proj", "ln_gamma_k", "ln_beta_k", "hadamard_q", "hadamard_k"):
        inputs[f"ip_{name}_in"] = indexer.inputs[name]
    inputs["ip_k_cache"] = indexer.inputs["k_cache"]
    inputs["ip_k_cache_scale"] = indexer.inputs["k_cache_scale"]
    return Case("mla_indexer_prolog_quant", inputs, {}, mla.paging, n_q)


def with_epsilons(case: Case) -> Case:
    """A prolog's case with epsilons that count, unlike one another and the defaults: what they are added to is near 1.

    The makers leave them out, so that a call without attributes is the case's.
    """
    values = {"epsilon_cq": 0.25, "epsilon_ckv": 0.5, "layernorm_epsilon_k": 0.75}
    if case.operator == "mla_indexer_prolog_quant":
        values = {f"mla_{name}": value for name, value in values.items() if name != "layernorm_epsilon_k"}
        return case.with_attributes(**values, ip_attrs=IndexerPrologQuantAttr(layernorm_epsilon_k=0.75))
    names = {attr.name for attr in op_info.load(case.operator).attrs}
    return case.with_attributes(**{name: value for name, value in values.items() if name in names})
