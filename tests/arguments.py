"""Calls of every operator in which one argument is another one, or two change places, found from op_info.

If all their results equal golden's, no argument is ignored, replaced by its default, or taken for another. `base` is a
call without arguments that are alike, symmetric or a default; `changed` is the same call with one other argument.
Arguments that change no result are listed with the reason. A new argument of op_info is changed without a line here.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import cases
import numpy as np
import pytest
from cases import Array, Case, weight_name

from ms_dsv32 import golden, op_info
from ms_dsv32.config import (
    IndexerPrologQuantConfigs,
    MlaTileConfig,
    RopeTileShapeConfig,
    SaTileShapeConfig,
)

HEADS = 3
LENGTHS = (200, 30)
"""Keys of the two sequences: more than are selected, and in attention fewer for the second."""
OTHER_LENGTHS = (170, 20)
SELECTED = 24
ENTRIES = 48
"""Entries of a row of topk_indices. The second sequence has few keys in comparison, so that its length counts."""
QUERIES = (1, 2)
"""query_act_seqs of the four tokens: not two each, and one is padding."""
OPTIONS: dict[str, dict[str, Any]] = {
    "sparse_flash_attention_quant": {"topk": ENTRIES, "full": True},
    "lightning_indexer_quant": {"selected_count": SELECTED, "full": True},
}
"""What the makers of some operators are asked for. With `full`, any block_table may be passed."""

CONFIGURATIONS = {
    "MlaTileConfig": MlaTileConfig(tile_bs=32, q_vec_tile0=8),
    "RopeTileShapeConfig": RopeTileShapeConfig(two_dim=[16, 64]),
    "IndexerPrologQuantConfigs": IndexerPrologQuantConfigs(t_sub_tile=4),
    "SaTileShapeConfig": SaTileShapeConfig(g_tile=32),
}
SPEED_ONLY = dict.fromkeys(CONFIGURATIONS, "a tile configuration: targets choose their own tiles")
"""Attributes of these types change no result. Errors of their checks (`bind_attrs`) show that they arrive."""
ERRORS_ONLY = {
    "cache_mode": "there is one",
    "mla_cache_mode": "there is one",
    "layout_query": "there is one",
    "layout_key": "there is one",
    "nq": "the queries' shapes have it",
    "n_kv": "the model has one",
    "topk": "the columns of topk_indices are so many",
    "block_size": "there is one",
    "max_blocknum_perbatch": "the columns of block_table are so many",
}
"""Attributes of which any other value is refused."""
OTHER_TEXT = {"cache_mode": "BNSD", "mla_cache_mode": "BNSD", "layout_query": "BSND", "layout_key": "BSND"}
WEIGHT_FORMAT = "weight_format"
"""Golden takes only row-major weights, so this attribute has tests of its own."""


@functools.cache
def base(operator: str, seed: int = 0) -> Case:
    """A call of two sequences of two tokens, three heads. Another seed has the same shapes and other values."""
    case = cases.make(operator, 2, 2, LENGTHS, HEADS, seed=seed, **OPTIONS.get(operator, {}))
    case = cases.with_epsilons(_with_weights(case.copy(**_tables(case, seed)), seed))
    if "topk_indices" in case.inputs:
        case = case.copy(topk_indices=_selection(seed))
    return cases.with_lse(case) if "return_lse" in names(operator) else case


def _with_weights(case: Case, seed: int) -> Case:
    known = cases.layer_weights(HEADS, seed)
    return case.copy(**{n: known[weight_name(n)] for n in case.inputs if weight_name(n) in known})


def _tables(case: Case, seed: int) -> dict[str, Array]:
    """cos and sin whose halves are unlike: those of other positions."""
    positions = [case.paging.positions.reshape(-1) + distance for distance in (17 * seed, 17 * seed + 5)]
    first, second = (dict(zip(("cos", "sin"), golden.rope_tables(p), strict=True)) for p in positions)
    return {
        name: np.concatenate([first[name[:3]][:, :32], second[name[:3]][:, 32:]], axis=1)
        for name in case.inputs
        if name.startswith(("cos", "sin"))
    }


def _selection(seed: int) -> Array:
    """topk_indices: positions that a token sees with the lengths of either call, some of them twice, and a hole.

    The second token may be of either sequence.
    """
    rng = np.random.default_rng([seed, 7])
    rows = [rng.integers(0, OTHER_LENGTHS[token > 0] - 1, ENTRIES) for token in range(4)]
    indices = np.array(rows, np.int32)
    indices[2, 5] = -1
    return indices


def names(operator: str) -> list[str]:
    """Every input and attribute; ``a.b`` is the field b of an attribute a that carries others."""
    info = op_info.load(operator)
    carried = [a.name for a in info.kernel_attrs if "." in a.name]
    carriers = {name.partition(".")[0] for name in carried}
    attrs = [a.name for a in info.attrs if a.name not in carriers]
    return [*(a.name for a in info.inputs), *attrs, *carried]


def field(name: str) -> str:
    """The name of an attribute without its carrier's."""
    return name.rpartition(".")[2]


def attribute(operator: str, name: str) -> op_info.Attr:
    """What op_info says of an attribute, or of a field of one that carries others."""
    info = op_info.load(operator)
    return next(a for a in (*info.attrs, *info.kernel_attrs) if a.name == name)


def value_of(case: Case, name: str) -> Any:
    """The value of an attribute, its default if the case leaves it out."""
    carrier, _, carried = name.rpartition(".")
    if carrier:
        return getattr(case.attributes[carrier], carried)
    return case.attributes.get(name, attribute(case.operator, name).default)


def with_value(case: Case, name: str, value: Any) -> Case:
    """The case with an attribute, or a field of one that carries others."""
    carrier, _, carried = name.rpartition(".")
    if carrier:
        return case.with_attributes(**{carrier: dataclasses.replace(case.attributes[carrier], **{carried: value})})
    return case.with_attributes(**{name: value})


def speed_only(operator: str, name: str) -> bool:
    """Whether it is an attribute that never changes a result."""
    inputs = {a.name for a in op_info.load(operator).inputs}
    return name not in inputs and attribute(operator, name).config in SPEED_ONLY


def changing(operator: str) -> list[str]:
    """The arguments that change results: all but those that are listed."""
    return [
        name
        for name in names(operator)
        if name != WEIGHT_FORMAT and field(name) not in ERRORS_ONLY and not speed_only(operator, name)
    ]


def _other_value(operator: str, name: str, value: Any) -> Any:
    attr = attribute(operator, name)
    if attr.type == "config":
        return CONFIGURATIONS[attr.config]
    if attr.type == "bool":
        return not value
    if attr.type == "str":
        return OTHER_TEXT[field(name)]
    return 1.5 * value if attr.type == "float" else value + 1


def changed(operator: str, name: str) -> Case:
    """`base` with one other argument; an attribute that changes errors alone has a value that is refused."""
    case = base(operator)
    inputs = [a.name for a in op_info.load(operator).inputs]
    if name == "kv_act_seqs":
        return case.copy(kv_act_seqs=np.array(OTHER_LENGTHS, np.int32))
    if name == "query_act_seqs":
        return replace(case, inputs={**case.inputs, name: np.array(QUERIES, np.int32)})
    if name in inputs:
        return case.copy(**{name: base(operator, 1).inputs[name]})
    changed_case = with_value(case, name, _other_value(operator, name, value_of(case, name)))
    return replace(changed_case, outputs=("attention_out",)) if name == "return_lse" else changed_case


def exchanges(operator: str) -> list[str]:
    """Pairs of inputs of one shape and dtype, and of numbers among the attributes, as ``a <-> b``."""
    case = base(operator)
    inputs = [
        (a, b)
        for a, b in itertools.combinations(case.inputs, 2)
        if case.inputs[a].shape == case.inputs[b].shape and case.inputs[a].dtype == case.inputs[b].dtype
    ]
    kernel_attrs = op_info.load(operator).kernel_attrs
    floats = itertools.combinations([a.name for a in kernel_attrs if a.type == "float"], 2)
    return [f"{a} <-> {b}" for a, b in (*inputs, *floats)]


def exchanged(operator: str, pair: str) -> Case:
    """`base` with two arguments in each other's place."""
    case, (a, b) = base(operator), pair.split(" <-> ")
    if a in case.inputs:
        return case.copy(**{a: case.inputs[b], b: case.inputs[a]})
    return with_value(with_value(case, a, value_of(case, b)), b, value_of(case, a))


def everything_changed(operator: str) -> Case:
    """The call of other inputs, and of other values of all attributes that change results."""
    case = base(operator, 1)
    for name in changing(operator):
        if name not in case.inputs and name not in ("query_act_seqs", "return_lse"):
            case = with_value(case, name, _other_value(operator, name, value_of(case, name)))
    return case


EVERYTHING = "everything"


def _parameters(names_of: Callable[[str], Iterable[str]]) -> list[Any]:
    return [
        pytest.param(operator, name, id=f"{operator}-{name.replace(' ', '')}")
        for operator in op_info.names()
        for name in names_of(operator)
    ]


def arguments() -> list[Any]:
    """Parameters of a test: operator, and the argument that changes a result, or two that change places."""
    return _parameters(lambda operator: (EVERYTHING, *changing(operator), *exchanges(operator)))


@functools.cache
def expected(operator: str, name: str) -> tuple[Case, dict[str, Array]]:
    """A call of `arguments`, and golden's outputs, which must not pass for those of the call before the change."""
    if name == "":
        return base(operator), base(operator).golden()
    if name == EVERYTHING:
        case = everything_changed(operator)
    else:
        case = exchanged(operator, name) if "<->" in name else changed(operator, name)
    before, want = expected(operator, "")[1], case.golden()
    try:
        case.check(before, want)
    except AssertionError:
        return case, want
    if list(before) != list(want):  # other outputs are asked for
        return case, want
    raise AssertionError(f"{operator}: golden does not tell a call with another {name} from the one before")


def refusals() -> list[Any]:
    """Parameters of a test: operator and an attribute of which any other value is refused."""
    return _parameters(lambda operator: [name for name in names(operator) if field(name) in ERRORS_ONLY])


def configurations() -> list[Any]:
    """Parameters of a test: operator and an attribute that changes nothing."""
    return _parameters(lambda operator: [name for name in names(operator) if speed_only(operator, name)])
