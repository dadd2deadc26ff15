"""A case of any operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases.attention import attention_case
from cases.case import Case
from cases.epilog import mla_epilog_case
from cases.indexer import indexer_case
from cases.prologs import PROLOGS

MAKERS: dict[str, Callable[..., Case]] = {
    **PROLOGS,
    "sparse_flash_attention_quant": attention_case,
    "lightning_indexer_quant": indexer_case,
    "mla_epilog_quant": mla_epilog_case,
}
_WITHOUT_HEADS = ("lightning_indexer_prolog_quant", "lightning_indexer_quant")


def make(operator: str, b: int, s1: int, kv_lens: Any = None, n_q: int = 16, **options: Any) -> Case:
    """A case by the operator's name; the indexer has no n_q."""
    heads = {} if operator in _WITHOUT_HEADS else {"n_q": n_q}
    return MAKERS[operator](b, s1, kv_lens=kv_lens, **heads, **options)
