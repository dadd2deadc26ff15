"""The bare call refuses what NumPy allows and a kernel cannot take; nothing is written then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cases
import numpy as np
import pytest

from ms_dsv32 import kernel_impl

Inputs = dict[str, Any]


def without(name: str) -> Callable[[Inputs], Inputs]:
    return lambda inputs: {n: a for n, a in inputs.items() if n != name}


def with_(name: str, change: Callable[[Any], Any]) -> Callable[[Inputs], Inputs]:
    return lambda inputs: {**inputs, name: change(inputs.get(name))}


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (without("cos"), TypeError, "cos is missing"),
        (with_("bias", lambda _: np.zeros(1)), TypeError, "there is no input bias"),
        (with_("cache_index", lambda a: a.astype(">i8")), TypeError, "cache_index must be int64 in the machine's byte"),
        (with_("kr_cache", read_only), ValueError, "kr_cache must be writeable"),
        (
            with_("token_x", lambda a: np.asfortranarray(np.repeat(a, 2, 0))[:2]),
            ValueError,
            "token_x must be contiguous",
        ),
    ],
)
def test_inputs(change: Callable[[Inputs], Inputs], error: type[Exception], text: str) -> None:
    case = cases.mla_prolog_case(2, 1, 1).copy()
    before = {name: case.inputs[name].copy() for name in ("kv_cache", "kr_cache", "k_scale_cache")}
    with pytest.raises(error, match=f"mla_prolog_quant: {text}"):
        kernel_impl.call("mla_prolog_quant", change(case.inputs), case.attributes)
    for name, array in before.items():
        np.testing.assert_array_equal(case.inputs[name].view(np.uint8), array.view(np.uint8))


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 2**64 + 16])
def test_an_attribute_does_not_wrap(value: int) -> None:
    case = cases.indexer_case(1, 1, kv_lens=130)
    with pytest.raises(ValueError, match=rf"selected_count = {value} does not fit 64 bits"):
        kernel_impl.call("lightning_indexer_quant", case.inputs, {"selected_count": value})
