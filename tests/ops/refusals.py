"""Calls that the operators must refuse."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import cases
import mindspore as ms
import pytest
import tolerance
from calls import Call, mode, tensors

from ms_dsv32 import ops, weights


def small(operator: str) -> cases.Case:
    """A call of two sequences, of which the second has a key in a second block."""
    return cases.make(operator, 2, 1, [3, 130], n_q=1)


def refused(
    case: cases.Case, how: str, error: type[Exception], text: str, change: Callable[[dict[str, Any]], None]
) -> None:
    """Calls with changed inputs or attributes, expects the error, and that no cache has changed."""
    given: dict[str, Any] = {**tensors(case), **case.attributes}
    originals = {cache: given[cache] for cache in cases.IN_PLACE[case.operator]}
    change(given)
    attributes = {k: v for k, v in given.items() if k not in case.inputs}
    inputs = [given[name] for name in case.inputs]
    call = functools.partial(getattr(ops, case.operator), **attributes)
    if how != "pynative":
        call = Call(case.operator, attributes)
    if how == "jit":
        call = ms.jit(call)
    with mode(how), pytest.raises(error, match=re.escape(text)):
        call(*inputs)
    for cache, tensor in originals.items():
        tolerance.assert_same_bits(cache, weights.to_array(tensor), case.inputs[cache])


def set_item(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change for `refused`: another value of an argument, or one made of its own."""

    def change(given: dict[str, Any]) -> None:
        given[name] = value(given[name]) if callable(value) else value

    return change
