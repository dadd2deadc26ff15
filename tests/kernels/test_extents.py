"""Caches, inputs and outputs of more than 2^31 bytes and 2^31 elements, in memory that exists only where it is touched.

A result is that of the same call on small arrays, bit for bit. Where a prolog or the epilog goes from one chunk of
tokens to the next is checked without a call (`core_check.cc`): no machine computes so many tokens within seconds.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import cases
import guarded
import numpy as np
import pytest
import tolerance
from bare_kernels import prolog, run
from cases import CACHE_INDEX, PROLOGS, READERS
from numpy.typing import NDArray
from reserved import FAR_ROW, repeated, reserved

from ms_dsv32 import kernel_impl, op_info

Array = NDArray[Any]
BLOCK = 128


def far(case: cases.Case, names: tuple[str, ...]) -> dict[str, Array]:
    """These caches with their rows from FAR_ROW on, after rows that hold zeros."""
    caches = {}
    for name in names:
        small = case.inputs[name]
        lead = FAR_ROW // BLOCK if small.ndim == 4 else FAR_ROW
        caches[name] = reserved((lead + small.shape[0], *small.shape[1:]), small.dtype)
        caches[name][lead:] = small
    return caches


def far_table(table: Array) -> Array:
    return np.where(table >= 0, table + FAR_ROW // BLOCK, -1).astype(np.int32)


@pytest.mark.parametrize("name", PROLOGS)
def test_rows_that_a_prolog_writes(name: str) -> None:
    case = prolog(name, 2, 2, 1, seed=5)
    want = run(case)
    caches = far(case, tuple(cases.IN_PLACE[name]))
    index = case.inputs[CACHE_INDEX[name]]
    inputs = {**case.inputs, **caches, CACHE_INDEX[name]: np.where(index >= 0, index + FAR_ROW, -1)}
    results = kernel_impl.call(name, inputs, case.attributes)
    for out, value in zip(op_info.load(name).outputs, results, strict=True):
        if out.in_place_of is not None:
            rows = want[out.name].shape[0]
            assert not value[:rows].any(), f"{out.name}: rows from 0 on are written"
            value = value[-rows:]
        tolerance.assert_same_bits(out.name, value, want[out.name])


def test_rows_that_attention_reads() -> None:
    case = cases.with_lse(cases.attention_case(2, 2, 5, [300, 90], topk=70))
    caches = far(case, ("key_nope_2d", "key_rope_2d", "k_nope_scales"))
    tolerance.assert_same_outputs(run(case), run_far(case, caches))


def test_rows_that_the_indexer_reads() -> None:
    case = cases.indexer_case(2, 2, [700, 90], selected_count=50)
    tolerance.assert_same_outputs(run(case), run_far(case, far(case, ("k_cache", "k_cache_scale"))))


def run_far(case: cases.Case, caches: dict[str, Array]) -> dict[str, Array]:
    table = far_table(case.inputs["block_table"])
    results = kernel_impl.call(case.operator, {**case.inputs, **caches, "block_table": table}, case.attributes)
    return dict(zip((o.name for o in op_info.load(case.operator).outputs), results, strict=True))


@pytest.mark.parametrize("operator", READERS)
def test_a_wide_block_table(operator: str) -> None:
    """The last of three sequences begins after 2^32 entries."""
    case = cases.make(operator, 3, 1, [300, 90, 200], n_q=5, selected=70)
    small = case.inputs["block_table"]
    table = reserved((3, 2**31 + 1), np.int32)
    table[:, : small.shape[1]] = small
    tolerance.assert_same_outputs(run(cases.with_table(case, table)), run(case))


PER_TOKEN = ("query_nope", "query_rope", "topk_indices", "q_int8", "q_scale", "weights")
EMPTY = {"topk_indices": -1, "attention_out": 0, "lse": -np.inf}


def among(case: cases.Case, before: int, padding: int) -> cases.Case:
    """The tokens of a case of one sequence, after `before` ones of a sequence without a key, and before padding."""
    count = case.paging.t
    inputs = dict(case.inputs)
    for name in PER_TOKEN:
        if name in inputs:
            small = inputs[name]
            rows = small.shape[0] // count  # of a token
            inputs[name] = reserved((rows * (before + count + padding), *small.shape[1:]), small.dtype)
            inputs[name][rows * before : rows * (before + count)] = small
    inputs["block_table"] = np.concatenate([np.full_like(inputs["block_table"], -1), inputs["block_table"]])
    inputs["kv_act_seqs"] = np.array([0, *inputs["kv_act_seqs"]], np.int32)
    inputs["query_act_seqs"] = np.array([before, count], np.int32)
    return dataclasses.replace(case, inputs=inputs)


def check_tokens(case: cases.Case, t: int, where: str) -> None:
    """The two tokens of a case "after" others, which make `t`, or "before" padding."""
    want = run(case)
    info = op_info.load(case.operator)
    before = t - 2 if where == "after" else 0
    whole = among(case, before, t - 2 - before)
    call = guarded.bind(whole)
    outputs = {
        out.name: repeated(shape, out.np_dtype) for out, shape in zip(info.kernel_outputs, call.out_shapes, strict=True)
    }
    for value in outputs.values():
        value[[0, 1, -2, -1]] = 77  # of every dtype a value that no result has
    call([array.ctypes.data for array in (*whole.inputs.values(), *outputs.values())])
    for name, value in outputs.items():
        here = want[name].reshape(2, *value.shape[1:])
        tolerance.assert_same_bits(name, value[before : before + 2], here)
        assert (value[0 if before else -1] == EMPTY[name]).all()


WHERE = pytest.mark.parametrize("where", ["after", pytest.param("before", marks=pytest.mark.slow)])


@WHERE
def test_tokens_of_attention(where: str) -> None:
    """query_nope and attention_out have more than 2^31 elements."""
    check_tokens(cases.with_lse(cases.attention_case(1, 2, 128, 300, topk=64)), 2**15 + 3, where)


@WHERE
def test_selections_of_attention(where: str) -> None:
    """topk_indices has more than 2^31 elements."""
    check_tokens(cases.with_lse(cases.attention_case(1, 2, 1, 300, topk=2048)), 2**20 + 3, where)


@WHERE
@pytest.mark.parametrize("t", [2**18 + 3, pytest.param(2**20 + 3, marks=pytest.mark.slow)])
def test_tokens_of_the_indexer(t: int, where: str) -> None:
    """q_int8 has more than 2^31 elements, topk_indices more than 2^31 bytes; then topk_indices, too."""
    check_tokens(cases.indexer_case(1, 2, 2500), t, where)
