"""Every call in PyNative mode is checked, not the first of an attribute set alone, with the text that the CPU has."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import cases
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import tensor
from cases import IN_PLACE, Case
from mindspore import Parameter, Tensor
from mindspore.common.initializer import initializer
from test_ops_results import MAKERS, make

from ms_dsv32 import op_info, ops, weights

NUMPY = {"bf16": np.uint16, "fp16": np.float16, "fp32": np.float32, "int32": np.int32, "int64": np.int64}
OTHER_DTYPE = {"bf16": "fp16", "fp16": "bf16", "fp32": "fp16", "int8": "int32", "int32": "int64", "int64": "int32"}


class Calls:
    """Calls of an operator with the inputs of a case, some of them replaced. What weights hold does not matter here."""

    def __init__(self, case: Case) -> None:
        self._case = case
        target = ms.get_context("device_target")
        # A cache in host memory is refused on Ascend, whatever its shape.
        self._place: Callable[[Tensor], Tensor] = lambda t: t.to(target) if target == "Ascend" else t
        packed = {"weight_format": "PACKED"} if op_info.load(case.operator).packable else {}
        self._attributes = {**case.attributes, **packed}
        self.given = {name: self._given(name, tensor(array)) for name, array in case.copy().inputs.items()}

    def _given(self, name: str, value: Tensor) -> Tensor:
        return self._place(value) if name in IN_PLACE[self._case.operator] else value

    def __call__(self, **changed: Any) -> Any:
        given = {**self.given, **{name: self._given(name, value) for name, value in changed.items()}}
        return getattr(ops, self._case.operator)(*given.values(), **self._attributes)

    def caches(self) -> dict[str, cases.Array]:
        return {name: weights.to_array(self.given[name]).copy() for name in IN_PLACE[self._case.operator]}


@pytest.mark.parametrize("operator", MAKERS)
def test_every_call_is_checked(operator: str) -> None:
    case = make(operator, 1, 1, [3], n_q=2)
    call = Calls(case)
    call()
    before = call.caches()
    for arg in op_info.load(operator).inputs:
        shape = case.inputs[arg.name].shape
        other = OTHER_DTYPE[arg.dtype]
        text = f"{operator}: {arg.name} must be {arg.ms_dtype}, got {op_info.DTYPES[other][0]}"
        for _ in range(2):  # a refusal is not remembered as a call that was right
            with pytest.raises(TypeError, match=re.escape(text)):
                call(**{arg.name: weights.to_tensor(np.zeros(shape, NUMPY[other]))})
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
