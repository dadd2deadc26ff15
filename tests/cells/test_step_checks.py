"""A step checks all of its slots, lengths and tables before it writes a cache, in every mode, and goes on afterwards.

After an error while a graph runs MindSpore waits for three seconds, so each form of a graph has one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import mode
from mindspore import Tensor, nn
from sequences import SCALE, Sequences, make_step, step_weights, tensors

from ms_dsv32 import cells, weights

INPUTS = ("token_x", "cos", "sin", "cache_index", "block_table", "kv_act_seqs")
PROLOG, INDEXER, ATTENTION = "mla_indexer_prolog_quant", "lightning_indexer_quant", "sparse_flash_attention_quant"
BAD: dict[str, tuple[str, Any, str]] = {
    "a slot": ("cache_index", np.array([0, 512]), f"{PROLOG}: cache_index[1] = 512 is outside "),
    "a length": ("kv_act_seqs", np.array([1, 385], np.int32), f"{INDEXER}: kv_act_seqs[1] = 385 is outside "),
    "a table": ("block_table", np.array([[0, -1, -1], [4, -1, -1]]), f"{INDEXER}: block_table[1, 0] = 4 is outside "),
    "slots of int32": ("cache_index", np.array([-2, 0], np.int32), f"{PROLOG}: cache_index[0] = -2 is outside "),
    "a length of int64": ("kv_act_seqs", np.array([2**40, 1]), f"{INDEXER}: kv_act_seqs[0] = 2147483647 is outside "),
    "a dtype": ("kv_act_seqs", np.ones(2, np.float32), f"{INDEXER}: kv_act_seqs must be int32, got float32"),
    "a shape": ("kv_act_seqs", np.ones(3, np.int32), f"{INDEXER}: kv_act_seqs has shape (3,), expected (b,) = (2,)"),
    "sequences": ("block_table", np.zeros((4, 3), np.int32), f"{INDEXER}: block_table has shape (4, 3), so b = 4; "),
    "columns": ("block_table", np.zeros((2, 2), np.int32), f"{ATTENTION}: block_table has shape (2, 2), expected "),
    "no tensor": ("kv_act_seqs", None, f"{INDEXER}: kv_act_seqs must be a Tensor"),
    "no slots": ("cache_index", 3, f"{PROLOG}: cache_index must be a Tensor"),
    "counts": ("query_act_seqs", np.array([1, 2], np.int32), f"{INDEXER}: query_act_seqs has 3 tokens together"),
    "a count": ("query_act_seqs", np.array([-1, 2]), f"{INDEXER}: query_act_seqs[0] = -1 is outside [0, t]"),
}
"""An input of a step of two sequences, a bad value of it, and the error."""


class Around(nn.Cell):
    """Somebody else's cell, which passes the step what it computes."""

    def __init__(self, step: cells.SparseAttentionStep) -> None:
        super().__init__()
        self.step = step

    def construct(self, token_x, cos, sin, cache_index, block_table, kv_act_seqs, *caches):
        return self.step(token_x, cos, sin, cache_index, block_table, kv_act_seqs + 0, *caches)


def refused(call: Callable[..., Any], kind: str, error: type[Exception], inputs: list[Any]) -> None:
    """Calls with a bad value, expects its error, and that no cache has changed."""
    name, value, text = BAD[kind]
    caches = [np.zeros(c.shape, c.dtype) for c in Sequences(1, 1, 4).caches]
    given = dict(zip((*INPUTS, "caches"), (*tensors(*inputs), tensors(*caches)), strict=True))
    given[name] = Tensor(value) if isinstance(value, np.ndarray) else value
    passed = given.pop("caches")
    last = [given.pop("query_act_seqs")] if "query_act_seqs" in given else []
    with pytest.raises(error, match=re.escape(text)):
        weights.to_array(call(*given.values(), *passed, *last))
    for cache, array in zip(passed, caches, strict=True):
        tolerance.assert_same_bits(name, weights.to_array(cache), array)


@pytest.mark.parametrize("kind", BAD)
def test_pynative(kind: str) -> None:
    error = TypeError if re.search("must be", BAD[kind][2]) else ValueError
    refused(make_step(1), kind, error, Sequences(2, 1, 4).advance(1))


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("a cell", "a table"),
        ("a jitted cell", "a length"),
        ("another cell", "a length"),
        ("set_inputs", "a shape"),
        ("another cell's phase", "a length"),  # MindSpore keeps the graph of this phase by its name
    ],
)
def test_in_a_graph(form: str, kind: str) -> None:
    step, sequences = make_step(1), Sequences(2, 1, 4)
    want = Sequences(2, 1, 4)
    inputs = sequences.advance(1)
    attention_out = want.bare(want.advance(1))
    call: Any = {"a jitted cell": lambda: ms.jit(step), "another cell": lambda: Around(step)}.get(form, lambda: step)()
    if form == "set_inputs":
        step.set_dynamic_tokens(4)
    if form == "another cell's phase":
        call = Around(step)
        call.phase = "increment"
    with mode("graph" if form != "a jitted cell" else "jit"):
        for again in (False, True):
            caches = tensors(*(np.zeros(c.shape, c.dtype) for c in sequences.caches))
            got = weights.to_array(call(*tensors(*inputs), *caches))
            tolerance.assert_same_bits("attention_out", got, attention_out)
            for cache, array in zip(caches, want.caches, strict=True):
                tolerance.assert_same_bits("cache", weights.to_array(cache), array)
            if not again:
                refused(call, kind, RuntimeError, inputs)


@pytest.mark.parametrize("how", ["pynative", "graph"])
def test_any_number_of_columns(how: str) -> None:
    step = cells.SparseAttentionStep(n_q=1, softmax_scale=SCALE)
    step.prolog.set_weights(step_weights(1))
    with mode(how):
        step.set_dynamic_tokens(4)
        for columns in (3, 1):
            sequences, want = Sequences(2, 1, 4, columns), Sequences(2, 1, 4, columns)
            attention_out = want.bare(want.advance(1))
            caches = tensors(*sequences.caches)
            got = weights.to_array(step(*tensors(*sequences.advance(1)), *caches))
            tolerance.assert_same_bits("attention_out", got, attention_out)
