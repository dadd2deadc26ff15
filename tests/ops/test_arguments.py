"""The operators through MindSpore with one argument after the other changed, and two in each other's place."""

from __future__ import annotations

import functools
import inspect
import itertools
from typing import Any

import arguments
import cases
import numpy as np
import pytest
import tolerance
from calls import Call, arrays, bare, bound_configurations, mode, run, tensor
from merging import OUTPUTS, assert_golden, compiled

from ms_dsv32 import golden, op_info, ops

MODES = ("pynative", "graph")


@functools.cache
def graph(operator: str) -> Call:
    """One graph for all calls that have the attributes of the call before the changes."""
    return Call(operator, arguments.base(operator).attributes)


def run_in(case: cases.Case, mode_name: str) -> dict[str, Any]:
    shared = mode_name == "graph" and case.attributes == arguments.base(case.operator).attributes
    return run(case, mode_name, graph(case.operator) if shared else None)


@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize(("operator", "name"), arguments.arguments())
def test_a_change_changes_the_result_as_golden_says(operator: str, name: str, mode_name: str) -> None:
    """The bits are the bare kernel's, too."""
    case, want = arguments.expected(operator, name)
    got = run_in(case, mode_name)
    case.check(got, want)
    for output, array in bare(case).items():
        tolerance.assert_same_bits(output, got[output], array)


@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize(("operator", "name"), [p for p in arguments.refusals() if "." not in p.values[1]])
def test_other_values_are_refused(operator: str, name: str, mode_name: str) -> None:
    with pytest.raises(ValueError, match=f"{operator}: "):
        run_in(arguments.changed(operator, name), mode_name)


@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize("operator", [name for name in op_info.names() if op_info.load(name).packable])
def test_how_weights_are_stored(operator: str, mode_name: str) -> None:
    """Row-major bytes that are passed as packed are other weights."""
    case = arguments.base(operator).with_attributes(weight_format="PACKED")
    got = run_in(case, mode_name)
    for output, array in bare(case).items():
        tolerance.assert_same_bits(output, got[output], array)
    with pytest.raises(AssertionError):
        case.check(got, arguments.expected(operator, "")[1])


@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize(("operator", "name"), arguments.configurations())
def test_configurations_arrive_and_change_nothing(
    operator: str, name: str, mode_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = arguments.changed(operator, name)
    want = bare(arguments.base(operator))
    configurations = bound_configurations(monkeypatch)
    got = run_in(case, mode_name)
    assert configurations == {(operator, name): case.attributes[name]}
    for output, array in want.items():
        tolerance.assert_same_bits(output, got[output], array)


SHAPE = (2, 2, 3)


def parts(seed: int) -> dict[str, list[Any]]:
    """Three parts of which each has a key in every row."""
    rng = np.random.default_rng(seed)
    outs = [cases.random_bf16(rng, (*SHAPE, 512)) for _ in range(3)]
    return {"attention_outs": outs, "lses": [rng.standard_normal(SHAPE, np.float32) for _ in range(3)]}


@pytest.mark.parametrize("mode_name", MODES)
def test_every_part_of_a_merge(mode_name: str) -> None:
    before, other = parts(0), parts(1)
    want = golden.merge_attention(**before)
    assert list(before) == list(inspect.signature(ops.merge_attention).parameters)
    variants = [before]
    for name in before:
        for i in range(3):
            variants.append({**before, name: [other[name][i] if j == i else p for j, p in enumerate(before[name])]})
        for order in itertools.permutations(range(3)):
            if order != (0, 1, 2):
                variants.append({**before, name: [before[name][i] for i in order]})
    call = compiled(mode_name)
    for variant in variants:
        with mode(mode_name):
            got = arrays(OUTPUTS, call(*(tensor(a) for a in itertools.chain(*variant.values()))))
        assert_golden(got, *variant.values())
        if variant is not before:
            changed = golden.merge_attention(**variant)
            assert (changed[0] != want[0]).mean() > 0.5
