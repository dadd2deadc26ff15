"""A case of any operator: `MAKERS` has the function that makes it. A test fails for an operator that has none."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from cases.attention import attention_case
from cases.case import Case
from cases.epilog import mla_epilog_case
from cases.indexer import indexer_case
from cases.prologs import fused_prolog_case, indexer_prolog_case, mla_prolog_case

MAKERS: dict[str, Callable[..., Case]] = {
    "mla_prolog_quant": mla_prolog_case,
    "lightning_indexer_prolog_quant": indexer_prolog_case,
    "mla_indexer_prolog_quant": fused_prolog_case,
    "sparse_flash_attention_quant": attention_case,
    "lightning_indexer_quant": indexer_case,
    "mla_epilog_quant": mla_epilog_case,
}
_SELECTED = ("topk", "selected_count")
"""What the makers call the number of keys that a token selects."""


def make(
    operator: str,
    b: int,
    s1: int,
    kv_lens: Any = None,
    n_q: int = 16,
    *,
    selected: int | None = None,
    **options: Any,
) -> Case:
    """A case by the operator's name.

    Args:
        b, s1, kv_lens: sequences, tokens of each, keys of each.
        n_q: query heads, left out for an operator that has none.
        selected: keys that a token selects, left out for an operator that has no selection.
        options: of the operator's maker.
    """
    if operator not in MAKERS:
        raise KeyError(f"{operator} has no case: add the function that makes one to tests/cases/makers.py")
    maker = MAKERS[operator]
    takes = inspect.signature(maker).parameters
    if "n_q" in takes:
        options["n_q"] = n_q
    if selected is not None:
        options |= {name: selected for name in _SELECTED if name in takes}
    return maker(b, s1, kv_lens=kv_lens, **options)
