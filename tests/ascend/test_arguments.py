"""Operators and cells on Ascend with one argument after the other changed, and two in each other's place.

What MindSpore and CANN are handed is the same whichever kernels run, so CPU kernels stand for most of the AscendC ones
on the virtual Ascend. The calls have no two arguments alike.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import arguments
import cell_arguments as given
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import Call, mode
from cases import IN_PLACE, Array, Case
from runs import attributes_of, inputs_of, results_of, run

from ms_dsv32 import op_info, weights

MODES = ("pynative", "graph")


@functools.cache
def graph(operator: str) -> Call:
    """One graph for all calls that have the attributes of the call before the changes."""
    return Call(operator, attributes_of(arguments.base(operator)))


def run_in(case: Case, mode_name: str) -> dict[str, Array]:
    if mode_name == "pynative" or case.attributes != arguments.base(case.operator).attributes:
        return run(case, mode_name)
    with mode(mode_name):
        return results_of(case, graph(case.operator), inputs_of(case))


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize(("operator", "name"), arguments.arguments())
def test_a_change_changes_the_result_as_golden_says(operator: str, name: str, mode_name: str) -> None:
    case, want = arguments.expected(operator, name)
    case.check(run_in(case, mode_name), want, rtol=tolerance.ASCEND_TOPK_RTOL)


@pytest.mark.parametrize("name", ["", arguments.EVERYTHING])
@pytest.mark.parametrize("operator", op_info.names())
def test_two_calls_that_share_nothing(operator: str, name: str) -> None:
    case, want = arguments.expected(operator, name)
    case.check(run(case, "pynative"), want, rtol=tolerance.ASCEND_TOPK_RTOL)


@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize(("operator", "name"), [p for p in arguments.refusals() if "." not in p.values[1]])
def test_other_values_are_refused(operator: str, name: str, mode_name: str) -> None:
    with pytest.raises(ValueError, match=f"{operator}: "):
        run_in(arguments.changed(operator, name), mode_name)


def operator_on_device(operator: str, inputs: Mapping[str, Array], attributes: Mapping[str, Any]) -> dict[str, Array]:
    """Outputs of an operator on the device by name; updates the caches among the arrays."""
    info = op_info.load(operator)
    ordered = {a.name: inputs[a.name] for a in info.inputs if a.name in inputs}
    outputs = tuple(o.name for o in info.outputs)
    heads = next((a.shape[0] for n, a in inputs.items() if n.endswith(("w_uk", "w_uv"))), given.arguments.HEADS)
    case = Case(operator, ordered, dict(attributes), arguments.base(operator).paging, heads, outputs)
    found = run(case, "pynative")
    for cache, output in IN_PLACE[operator].items():
        inputs[cache][:] = found[output]
    return found


def run_cell(cell: Any, mode_name: str, inputs: Mapping[str, Array | None]) -> list[Array]:
    """Outputs of a cell, then its caches, which are in the device's memory."""
    tensors = {n: weights.to_tensor(np.array(a)) for n, a in inputs.items() if a is not None}
    tensors = {n: t.to("Ascend") if n in given.CACHES else t for n, t in tensors.items()}
    with mode(mode_name):
        results = (ms.jit(cell) if mode_name == "jit" else cell)(*tensors.values())
    results = results if isinstance(results, tuple) else (results,)
    return [weights.to_array(t).copy() for t in (*results, *(tensors[n] for n in given.CACHES if n in tensors))]


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("mode_name", [*MODES, "jit"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("cls", given.all_cells())
def test_cells_that_share_no_argument(cls: type[Any], seed: int, mode_name: str) -> None:
    """Constructor, weights and inputs: a cell has the bits of its operators called in a row in PyNative mode."""
    values = given.values(cls, *(given.changing(cls) if seed else ()))
    held = given.weights_of(cls, values.get("n_q", 1), seed)
    inputs = given.inputs_of(cls, values.get("n_q", given.arguments.HEADS), seed)
    if seed and "query_act_seqs" in inputs:
        inputs |= {"query_act_seqs": given.changed_inputs(cls, "query_act_seqs")["query_act_seqs"]}
    cell = cls(**values)
    if held:
        cell.set_weights(held)
    want = given.expected(operator_on_device, cls, values, inputs, held)
    for i, (a, b) in enumerate(zip(run_cell(cell, mode_name, inputs), want, strict=True)):
        tolerance.assert_same_bits(f"result {i}", a, b)
