"""Sequences of different numbers of tokens through MindSpore: the bits of the bare kernels, one graph for any mix."""

from __future__ import annotations

from typing import Any

import cases
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import MODES, Call, arrays, bare, mode, placeholders, run, tensors
from refusals import refused, set_item

from ms_dsv32 import op_info, weights

OPERATORS = [name for name in op_info.names() if op_info.load(name).optional]
MIXES = ([4, 0, 1], [0, 0, 0], [1, 4, 2], [1, 1, 1], [0, 4, 4])
TOKENS = 8


def make(operator: str) -> cases.Case:
    """Three sequences of up to four tokens."""
    case = cases.make(operator, 3, 4, [2100, 40, 300], n_q=2)
    return cases.with_lse(case) if operator == "sparse_flash_attention_quant" else case


def mixes(operator: str) -> list[cases.Case]:
    """Calls of one shape: eight tokens, divided in different ways."""
    return [cases.ragged(make(operator), counts, TOKENS - sum(counts)) for counts in MIXES]


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_bits_are_those_of_the_bare_kernel(operator: str, how: str) -> None:
    case = mixes(operator)[0]
    tolerance.assert_same_outputs(run(case, how), bare(case))


@pytest.mark.parametrize("how", ["graph", "jit"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_one_graph_serves_any_mix(operator: str, how: str) -> None:
    made = mixes(operator)
    cell = Call(operator, made[0].attributes)
    call = ms.jit(cell) if how == "jit" else cell
    with mode(how):
        for case in made:
            tolerance.assert_same_outputs(arrays(case.outputs, call(*tensors(case).values())), bare(case))
    assert how == "jit" or len(cell.compile_cache) == 1


@pytest.mark.parametrize("operator", OPERATORS)
def test_one_graph_serves_any_number_of_tokens(operator: str) -> None:
    whole = make(operator)
    case = cases.ragged(whole, [1, 2, 3])
    cell = Call(operator, case.attributes)
    cell.set_inputs(*placeholders(case))
    with mode("graph"):
        for counts, padding in (([1, 2, 3], 0), ([4, 4, 4], 3), ([0, 0, 1], 0), ([0, 0, 0], 2)):
            case = cases.ragged(whole, counts, padding)
            tolerance.assert_same_outputs(arrays(case.outputs, cell(*tensors(case).values())), bare(case))
    assert len(cell.compile_cache) == 1


@pytest.mark.parametrize(
    ("counts", "text"),
    [([4, -1, 1], "query_act_seqs[1] = -1 is outside [0, t] = [0, 8]"), ([4, 4, 1], "has 9 tokens together")],
)
@pytest.mark.parametrize("operator", OPERATORS)
def test_what_does_not_divide_the_tokens_is_refused(operator: str, counts: list[int], text: str) -> None:
    case = mixes(operator)[0]
    change = set_item("query_act_seqs", lambda _: weights.to_tensor(np.array(counts, np.int32)))
    refused(case, "pynative", ValueError, f"{operator}: query_act_seqs", change)
    refused(case, "pynative", ValueError, text, change)
    if counts[1] == -1:  # a failed graph costs three seconds
        refused(case, "graph", RuntimeError, text, change)


@pytest.mark.parametrize("how", ["pynative", "graph"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_no_tensor_is_named(operator: str, how: str) -> None:
    text = f"{operator}: query_act_seqs must be a Tensor, got "
    refused(mixes(operator)[0], how, TypeError, text, set_item("query_act_seqs", 3))


@pytest.mark.parametrize("how", ["pynative", "graph"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_split_token_axis_is_refused(operator: str, how: str) -> None:
    case = cases.ragged(make(operator), [1, 1, 0], 0)
    name = next(iter(case.inputs))
    shape: Any = (1, 2, *case.inputs[name].shape[1:]) if operator == OPERATORS[0] else (1, 2, 2, 512)
    change = set_item(name, lambda _: weights.to_tensor(np.ascontiguousarray(case.inputs[name].reshape(shape))))
    refused(case, how, ValueError, "with query_act_seqs", change)


@pytest.mark.parametrize("operator", OPERATORS)
def test_none_is_without_it(operator: str) -> None:
    case = make(operator)
    inputs = [*tensors(case).values(), None]
    want = bare(case)
    with mode("graph"):
        got = arrays(case.outputs, Call(operator, case.attributes)(*inputs))
    for name, value in want.items():
        tolerance.assert_same_bits(name, got[name], value)
