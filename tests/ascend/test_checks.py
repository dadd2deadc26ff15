"""Every call in PyNative mode is checked, not only the first of an attribute set, with the CPU's error text."""

from __future__ import annotations

import re
from typing import Any

import cases
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import tensor
from cases import IN_PLACE, Case, make
from mindspore import Parameter, Tensor
from mindspore.common.initializer import initializer
from runs import attributes_of

from ms_dsv32 import op_info, ops, weights


class Calls:
    """Calls of an operator with the inputs of a case, some of them replaced. What weights hold does not matter here."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._attributes = attributes_of(case)
        self.given = {name: self._given(name, tensor(array)) for name, array in case.copy().inputs.items()}

    def _given(self, name: str, value: Tensor) -> Tensor:
        # A cache in host memory is refused, whatever its shape.
        return value.to("Ascend") if name in IN_PLACE[self._case.operator] else value

    def __call__(self, **changed: Any) -> Any:
        given = {**self.given, **{name: self._given(name, value) for name, value in changed.items()}}
        return getattr(ops, self._case.operator)(*given.values(), **self._attributes)

    def caches(self) -> dict[str, cases.Array]:
        return {name: weights.to_array(self.given[name]).copy() for name in IN_PLACE[self._case.operator]}


@pytest.mark.parametrize("operator", op_info.names())
def test_every_call_is_checked(operator: str) -> None:
    case = make(operator, 1, 1, [3], n_q=2)
    call = Calls(case)
    call()
    before = call.caches()
    for arg in op_info.load(operator).required_inputs:
        shape = case.inputs[arg.name].shape
        other, _, _, other_array = op_info.DTYPES[cases.OTHER_DTYPE[arg.dtype]]
        text = f"{operator}: {arg.name} must be {arg.ms_dtype}, got {other}"
        for _ in range(2):  # a refusal is not remembered as a call that was right
            with pytest.raises(TypeError, match=re.escape(text)):
                call(**{arg.name: weights.to_tensor(np.zeros(shape, other_array))})
        flat = (int(np.prod(shape)), 1, 1, 1, 1)
        with pytest.raises(ValueError, match=re.escape(f"{operator}: {arg.name} has shape {flat}")):
            call(**{arg.name: weights.to_tensor(case.inputs[arg.name].reshape(flat))})
    for name, array in call.caches().items():
        tolerance.assert_same_bits(name, array, before[name])
    call()  # and goes on


@pytest.mark.parametrize("name", ["q_int8", "k_cache"])
def test_a_parameter_that_is_not_initialised(name: str) -> None:
    call = Calls(make("lightning_indexer_quant", 1, 1, [3], n_q=2))
    call()
    with ms.nn.no_init_parameters():
        value = initializer("zeros", call.given[name].shape, call.given[name].dtype)
        parameter = Parameter(value, name=name, requires_grad=False)
    with pytest.raises(ValueError, match=f"lightning_indexer_quant: {name} has no data yet; call {name}.init_data()"):
        call(**{name: parameter})
    parameter.init_data()
    call(**{name: parameter})
