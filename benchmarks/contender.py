"""What is timed: one way to compute one shape."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cases
from cases import OUTPUTS, Case, weight_name

from benchmarks.shapes import SELECTED_COUNT, Array
from ms_dsv32 import golden


@dataclass(frozen=True)
class Contender:
    """A prepared call.

    Attributes:
        name: the name in tables. call: does the work and returns when it is done.
        arrays: turns the result of `call` into NumPy arrays by the contract's names, caches included.
        before: runs untimed before each call. note: how it computes, if it had a choice.
    """

    name: str
    call: Callable[[], Any]
    arrays: Callable[[Any], dict[str, Array]]
    before: Callable[[], None] = lambda: None
    note: str = ""


STEP_OUTPUTS = (*OUTPUTS["mla_indexer_prolog_quant"], "topk_indices", "attention_out")
"""Outputs of the whole step: those of its three operators."""


@functools.cache
def weights() -> dict[str, Array]:
    """The weights of the prologs and of the epilog, row-major and read-only."""
    return {**cases.mla_weights(), **cases.indexer_weights(), **cases.epilog_weights()}


def activations(case: Case) -> dict[str, Array]:
    """The inputs of a case that are not weights."""
    return {name: value for name, value in case.inputs.items() if weight_name(name) not in weights()}


def attention_attributes(case: Case) -> dict[str, Any]:
    """The attributes of the step's attention. An attention case has its own."""
    return {
        "nq": case.n_q,
        "n_kv": 1,
        "softmax_scale": golden.softmax_scale(),
        "topk": SELECTED_COUNT,
        "block_size": case.paging.block_size,
        "max_blocknum_perbatch": case.paging.block_table.shape[1],
    }
