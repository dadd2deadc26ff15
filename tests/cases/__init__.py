"""Inputs for every operator, under the contract's names: the one place where tests get them.

A maker returns a `Case`: inputs in contract order, attributes, and the paging that they came from. Weights are made
once per process. Cache rows that no visible key occupies are poisoned (NaN, or -128 in int8, which `quantise` never
writes), so that reading one shows. Arguments that could be taken for one another have different values: the two
matrices of the indexer, sequences' lengths, scales, and with `with_epsilons` the epsilons.
"""

from __future__ import annotations

from cases.attention import SOFTMAX_SCALE, attention_case, parts_of, random_parts, random_topk, with_lse
from cases.case import CACHE_INDEX, IN_PLACE, OTHER_DTYPE, OUTPUTS, Case, indexer_scores, weight_name
from cases.changes import (
    below_the_floor,
    changed,
    ragged,
    ragged_rows,
    value_at,
    with_cache_size,
    with_columns,
    with_table,
)
from cases.epilog import mla_epilog_case
from cases.indexer import indexer_case
from cases.makers import make
from cases.operators import FUSED, PARTS, PROLOGS, READERS, WITH_WEIGHTS, assert_all_listed
from cases.pages import Paging, make_paging
from cases.prologs import fused_prolog_case, indexer_prolog_case, mla_prolog_case, with_epsilons
from cases.values import (
    POISON,
    Array,
    epilog_weights,
    indexer_weights,
    layer_weights,
    make_cache,
    mla_weights,
    random_bf16,
    random_int8,
    random_scale,
)

__all__ = [
    "CACHE_INDEX",
    "FUSED",
    "IN_PLACE",
    "OTHER_DTYPE",
    "OUTPUTS",
    "PARTS",
    "POISON",
    "PROLOGS",
    "READERS",
    "SOFTMAX_SCALE",
    "WITH_WEIGHTS",
    "Array",
    "Case",
    "Paging",
    "assert_all_listed",
    "attention_case",
    "below_the_floor",
    "changed",
    "epilog_weights",
    "fused_prolog_case",
    "indexer_case",
    "indexer_prolog_case",
    "indexer_scores",
    "indexer_weights",
    "layer_weights",
    "make",
    "make_cache",
    "make_paging",
    "mla_epilog_case",
    "mla_prolog_case",
    "mla_weights",
    "parts_of",
    "ragged",
    "ragged_rows",
    "random_bf16",
    "random_int8",
    "random_parts",
    "random_scale",
    "random_topk",
    "value_at",
    "weight_name",
    "with_cache_size",
    "with_columns",
    "with_epsilons",
    "with_lse",
    "with_table",
]
