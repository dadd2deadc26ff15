"""The bare CPU kernels with one argument after the other changed, and two in each other's place, against golden."""

from __future__ import annotations

from dataclasses import replace

import arguments
import numpy as np
import pytest
import tolerance
from bare_kernels import run
from cases import assert_all_listed

from ms_dsv32 import golden, kernel_impl, op_info
from ms_dsv32.config import IndexerPrologQuantAttr


@pytest.mark.parametrize(("operator", "name"), arguments.arguments())
def test_a_change_changes_the_result_as_golden_says(operator: str, name: str) -> None:
    case, want = arguments.expected(operator, name)
    case.check(run(case), want)


@pytest.mark.parametrize("operator", op_info.names())
def test_the_call_before_the_changes(operator: str) -> None:
    """Nothing in it could stand for something else: no two inputs are the same, and no attribute is a default."""
    case, want = arguments.expected(operator, "")
    case.check(run(case), want)
    held = [value.tobytes() for value in case.inputs.values()]
    assert len(set(held)) == len(held)
    for array in case.inputs.values():
        if array.shape[-2:] == (128, 128) and array.ndim == 2:
            assert (array != array.T).mean() > 0.9
    inputs = {a.name for a in op_info.load(operator).inputs}
    numbers = [n for n in arguments.changing(operator) if n not in inputs and n != "return_lse"]
    values = [arguments.value_of(case, n) for n in numbers]
    assert len(set(values)) == len(values)
    for name, value in zip(numbers, values, strict=True):
        assert value != arguments.attribute(operator, name).default


@pytest.mark.parametrize(("operator", "name"), arguments.refusals())
def test_other_values_are_refused(operator: str, name: str) -> None:
    case = arguments.changed(operator, name) if "." not in name else None
    if case is None:  # a field of a configuration, which refuses it itself
        with pytest.raises(ValueError, match=f"{arguments.field(name)} must be "):
            arguments.changed(operator, name)
        return
    for refuse in (case.golden, lambda: run(case)):
        with pytest.raises(ValueError, match=f"^{operator}: "):
            refuse()


@pytest.mark.parametrize(("operator", "name"), arguments.configurations())
def test_configurations_change_nothing(operator: str, name: str) -> None:
    want = run(arguments.base(operator))
    for output, array in run(arguments.changed(operator, name)).items():
        tolerance.assert_same_bits(output, array, want[output])


@pytest.mark.parametrize("operator", [name for name in op_info.names() if op_info.load(name).packable])
def test_how_weights_are_stored(operator: str) -> None:
    """The same bytes are other weights when they are passed as row-major."""
    case = arguments.base(operator)
    laid_out = case.copy(**{n: kernel_impl.pack(case.inputs[n]) for n in op_info.load(operator).packable})
    case.check(run(laid_out.with_attributes(weight_format="PACKED")), arguments.expected(operator, "")[1])
    plain = run(laid_out.with_attributes(weight_format="ND"))
    laid_out.check(plain)
    with pytest.raises(AssertionError):
        laid_out.check(plain, arguments.expected(operator, "")[1])


SMALL = {"mla_prolog_quant": 2.0**-9, "lightning_indexer_prolog_quant": 2.0**-11, "mla_indexer_prolog_quant": 2.0**-10}
"""Of tokens: what a default epsilon is added to is about as large, so that 0 and ten times as much are told from it."""


def test_every_operator_with_a_default_is_listed() -> None:
    numbers = {name: [a for a in op_info.load(name).kernel_attrs if a.type == "float"] for name in op_info.names()}
    assert_all_listed(SMALL, [name for name, attrs in numbers.items() if not all(a.required for a in attrs)])


@pytest.mark.parametrize("operator", SMALL)
def test_defaults(operator: str) -> None:
    """An attribute that is left out has the value that op_info tells."""
    case = replace(arguments.base(operator), attributes={})
    tokens = next(iter(case.inputs))
    small = golden.bf16_to_float32(case.inputs[tokens]) * np.float32(SMALL[operator])
    case = case.copy(**{tokens: golden.float32_to_bf16(small)})
    want = case.golden()
    case.check(run(case), want)
    given = case.with_attributes(ip_attrs=IndexerPrologQuantAttr()) if "ip_k_cache" in case.inputs else case
    epsilons = [a for a in op_info.load(operator).kernel_attrs if a.type == "float"]
    assert epsilons
    for epsilon in epsilons:
        for factor in (0.0, 10.0):
            with pytest.raises(AssertionError):
                case.check(arguments.with_value(given, epsilon.name, factor * epsilon.default).golden(), want)
