"""A compiled graph in which an operator has failed goes on: the error is named, and the next good call is right.

Cells, with `set_inputs` and inside another one's too, are in tests/cells/test_step_checks.py. After an error while a
graph runs MindSpore waits for three seconds, so each form of a graph has one.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import Call, bare, mode, tensors
from cases import make
from mindspore import Tensor, nn
from mindspore.graph import api as graph_api

from ms_dsv32 import ops, weights
from ms_dsv32.ops import _graphs

CASE = make("lightning_indexer_quant", 2, 1, [3, 130], n_q=1)
BAD = np.array([3, 385], np.int32)
TEXT = r"lightning_indexer_quant: kv_act_seqs\[1\] = 385 is outside \[0, max_blocknum_perbatch \* block_size\]"


class InABranch(nn.Cell):
    """The condition is known only at run time, so MindSpore compiles the branch on a thread of its own."""

    def construct(self, q_int8, q_scale, head_weights, k_cache, k_cache_scale, block_table, kv_act_seqs):
        if kv_act_seqs[1] > 0:
            return ops.lightning_indexer_quant(
                q_int8, q_scale, head_weights, k_cache, k_cache_scale, block_table, kv_act_seqs
            )
        return block_table


def function(q_int8, q_scale, head_weights, k_cache, k_cache_scale, block_table, kv_act_seqs):
    return ops.lightning_indexer_quant(q_int8, q_scale, head_weights, k_cache, k_cache_scale, block_table, kv_act_seqs)


FORMS: dict[str, tuple[str, Callable[[], Callable[..., Any]]]] = {
    "a branch": ("graph", InABranch),
    "a jitted function": ("jit", lambda: ms.jit(function)),
    "a jitted function of any shapes": ("jit", lambda: ms.jit(function, dynamic=1)),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_next_good_call_is_right(form: str) -> None:
    how, make_call = FORMS[form]
    call, given = make_call(), tensors(CASE)
    (want,) = bare(CASE).values()

    def assert_right() -> None:
        for _ in range(2):  # the first compiles the graph
            tolerance.assert_same_bits("topk_indices", weights.to_array(call(*given.values())), want)

    with mode(how):
        assert_right()
        gc.collect()  # the graph itself keeps what it needs
        with pytest.raises(RuntimeError, match=TEXT):
            weights.to_array(call(*{**given, "kv_act_seqs": Tensor(BAD)}.values()))
        assert_right()


def test_an_error_that_a_later_statement_raises() -> None:
    """`mindspore.jit` returns before its graph has run."""

    def slow(square: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(4):
            square = ms.ops.matmul(square, square)
        return ops.lightning_indexer_quant(*inputs), square

    call, given = ms.jit(slow), tensors(CASE)
    square = Tensor(np.eye(1000, dtype=np.float32))
    (want,) = bare(CASE).values()
    tolerance.assert_same_bits("topk_indices", weights.to_array(call(square, *given.values())[0]), want)
    late, _ = call(square, *{**given, "kv_act_seqs": Tensor(BAD)}.values())
    with pytest.raises(RuntimeError, match=TEXT):
        weights.to_array(late)
    tolerance.assert_same_bits("topk_indices", weights.to_array(call(square, *given.values())[0]), want)


def test_one_graph_is_forgotten() -> None:
    """Only the graph that has failed is forgotten."""
    first, second = Call(CASE.operator, {}), Call(CASE.operator, {})
    with mode("graph"):
        for cell in (first, second):
            cell(*tensors(CASE).values())
        ((phase,), (other,)) = first.compile_cache, second.compile_cache
        _graphs._forget(phase.encode())
        assert not first.compile_cache
        assert second.compile_cache == {other}
        first(*tensors(CASE).values())
        assert first.compile_cache == {phase}


def test_a_jitted_functions_graph_is_forgotten_without_a_cell() -> None:
    before = set(graph_api.ms_compile_cache)
    weights.to_array(ms.jit(function)(*tensors(CASE).values()))
    (phase,) = set(graph_api.ms_compile_cache) - before
    assert phase not in _graphs._cells
    _graphs._forget(phase.encode())
    assert phase not in graph_api.ms_compile_cache


def test_there_is_no_graph_outside_a_compilation() -> None:
    assert _graphs.compilation() == {}
    assert _graphs.name() == ""
