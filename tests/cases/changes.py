"""Cases made of other cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cases.case import Case, weight_name
from cases.values import (
    POISON,
    Array,
    random_bf16,
)
from ms_dsv32 import golden, op_info


def value_at(index: tuple[int, ...], value: Any) -> Callable[[Array], Array]:
    """A change of an array: another value in one place."""

    def change(array: Array) -> Array:
        array = array.copy()
        array[index] = value
        return array

    return change


def changed(case: Case, **inputs: Array) -> Case:
    """The same case with other inputs, by the names that they have in the operators that are not fused.

    Names that the operator does not have are left out.
    """
    names = {weight_name(name): name for name in case.inputs}
    return case.copy(**{names[name]: value for name, value in inputs.items() if name in names})


def with_table(case: Case, table: Array) -> Case:
    """The case with another block_table, whose columns are an attribute too where the operator has it."""
    name = "max_blocknum_perbatch"
    columns = {name: table.shape[1]} if name in case.attributes else {}
    return case.copy(block_table=table).with_attributes(**columns)


def with_columns(case: Case, columns: int) -> Case:
    """The case with a block_table of so many columns, whose further ones are unused."""
    small = case.inputs["block_table"]
    table = np.full((small.shape[0], columns), -1, np.int32)
    table[:, : small.shape[1]] = small
    return with_table(case, table)


def with_cache_size(case: Case, block_num: int, columns: int) -> Case:
    """The case with caches of so many blocks, whose rows repeat, and a block_table of so many columns."""
    inputs = {}
    for arg in op_info.load(case.operator).required_inputs:
        array = case.inputs[arg.name]
        if "block_num" in arg.shapes[0][0]:
            rows = block_num * (case.paging.block_size if array.ndim == 2 else 1)
            inputs[arg.name] = np.resize(array, (rows, *array.shape[1:]))
    if "block_table" in case.inputs:
        case = with_columns(case.copy(block_table=case.inputs["block_table"][:, :columns]), columns)
    return case.copy(**inputs)


def below_the_floor(case: Case) -> Case:
    """A prolog's or an epilog's case whose rows to be quantised have a largest value on either side of 1e-30.

    The first token is zeros. An epilog's channel scales are such that its results are of the usual size.
    """
    rng = np.random.default_rng(7)
    inputs = {weight_name(name): value.copy() for name, value in case.inputs.items()}
    tokens = inputs[next(name for name in ("token_x", "x", "attention_out") if name in inputs)]
    tokens[0] = 0
    if "w_o" in inputs:
        sizes = 2.0 ** -np.resize([99, 100, 101, 102, 103, 98], len(tokens))
        wide = golden.bf16_to_float32(tokens) * sizes.astype(np.float32)[:, None, None]
        scale = inputs["w_o_scale"] * np.float32(2.0**100)
        return changed(case, attention_out=golden.float32_to_bf16(wide), w_o_scale=scale)
    gammas = ("gamma_cq", "gamma_ckv", "ln_gamma_k")
    small = {name: random_bf16(rng, inputs[name].shape, 2.0**-101) for name in gammas if name in inputs}
    if "ln_beta_k" in inputs:
        small["ln_beta_k"] = np.zeros_like(inputs["ln_beta_k"])
        small["w_qb_scale"] = inputs["w_qb_scale"] * np.float32(2.0 ** (-101 if "q_norm" in inputs else 0))
    return changed(case, **{name: inputs[name] for name in ("token_x", "x") if name in inputs}, **small)


def ragged(case: Case, query_act_seqs: Sequence[int], padding: int = 0) -> Case:
    """A case with merged token axes as one whose sequences have fewer tokens, each its last ones, and padding.

    Each token sees the same keys, so that its results are those of the case; `ragged_rows` tells which they are. The
    inputs of padding are poison.
    """
    rows = ragged_rows(case, query_act_seqs)
    inputs = dict(case.inputs)
    for name, array in case.inputs.items():
        if op_info.symbols(_shape_of(case.operator, name, array.ndim)[0])[0] == "t":
            per_token = array.reshape(case.paging.t, -1, *array.shape[1:])[rows]
            poison = POISON.get(array.dtype.type, np.iinfo(np.int32).max)
            filled = np.concatenate([per_token, np.full((padding, *per_token.shape[1:]), poison, array.dtype)])
            inputs[name] = filled.reshape(-1, *array.shape[1:])
    inputs["query_act_seqs"] = np.asarray(query_act_seqs, np.int32)
    return replace(case, inputs=inputs)


def ragged_rows(case: Case, query_act_seqs: Sequence[int]) -> NDArray[np.int64]:
    """The tokens of a case that are the first of `ragged`."""
    s1 = case.paging.s1
    ranges = [np.arange((n + 1) * s1 - count, (n + 1) * s1) for n, count in enumerate(query_act_seqs)]
    return np.concatenate([np.zeros(0, np.int64), *ranges])


def _shape_of(operator: str, name: str, rank: int) -> tuple[str, ...]:
    """The symbols of an input's axes."""
    arg = next(a for a in op_info.load(operator).inputs if a.name == name)
    return next(shape for shape in arg.shapes if len(shape) == rank)
