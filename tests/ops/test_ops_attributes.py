"""Attributes that change at each call, and one that may be left out."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import MODES, Call, bare, forget_kernels, mode, tensors
from cases import make

from ms_dsv32 import ops, weights
from ms_dsv32.ops import _custom

CASE = make("sparse_flash_attention_quant", 2, 1, [3, 130], n_q=1)
OPERATOR = ops.sparse_flash_attention_quant.__globals__["_operator"]


def call(inputs: dict[str, Any], **changed: Any) -> Any:
    return ops.sparse_flash_attention_quant(*inputs.values(), **{**CASE.attributes, "return_lse": False, **changed})


def test_a_scale_that_changes_at_each_call_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a primitive, nor checks of the same shapes, nor more than some kernels."""
    forget_kernels(monkeypatch)
    OPERATOR._calls.cache_clear()
    monkeypatch.setattr(ms.ops, "Custom", None)
    inputs = tensors(CASE)
    for i in range(_custom._MAX_KERNELS + 10):
        scale = 0.01 * (i + 1)
        got = weights.to_array(call(inputs, softmax_scale=scale))
        if i % 20 == 0:
            want = bare(CASE.with_attributes(softmax_scale=scale))["attention_out"]
            tolerance.assert_same_bits("attention_out", got, want)
    assert len(OPERATOR._kernels) == _custom._MAX_KERNELS
    assert OPERATOR._calls.cache_info().currsize == 1


def test_a_kept_kernel_is_for_the_types_of_its_attributes() -> None:
    """True == 1, so that both would be one key."""
    inputs = tensors(CASE)
    call(inputs)
    for other, text in (({"n_kv": True}, "n_kv must be int"), ({"return_lse": 0}, "return_lse must be bool")):
        with pytest.raises(TypeError, match=text):
            call(inputs, **other)


def test_each_scale_is_checked() -> None:
    inputs = tensors(CASE)
    for good in (0.5, np.float32(0.5), 1):
        want = bare(CASE.with_attributes(softmax_scale=float(good)))["attention_out"]
        tolerance.assert_same_bits("attention_out", weights.to_array(call(inputs, softmax_scale=good)), want)
        for bad, error, text in (
            (float("nan"), ValueError, "softmax_scale must be finite, got nan"),
            (1e39, ValueError, r"softmax_scale must be finite as float32, got 1e\+39"),
            ("0.5", TypeError, "softmax_scale must be float, got str"),
            (True, TypeError, "softmax_scale must be float, got bool"),
            ([0.5], TypeError, "softmax_scale must be float, int, str or bool, got list"),
        ):
            with pytest.raises(error, match=f"sparse_flash_attention_quant: {text}"):
                call(inputs, softmax_scale=bad)


@pytest.mark.parametrize("how", MODES)
def test_the_columns_of_block_table_need_not_be_told(how: str) -> None:
    want = bare(CASE)
    told = CASE.attributes["max_blocknum_perbatch"]
    for attributes in (
        {k: v for k, v in CASE.attributes.items() if k != "max_blocknum_perbatch"},
        {**CASE.attributes, "max_blocknum_perbatch": None},
        {**CASE.attributes, "max_blocknum_perbatch": told},
    ):
        cell: Any = Call("sparse_flash_attention_quant", attributes)
        with mode(how):
            got = (ms.jit(cell) if how == "jit" else cell)(*tensors(CASE).values())
        got = got[0] if isinstance(got, tuple) else got
        tolerance.assert_same_bits("attention_out", weights.to_array(got), want["attention_out"])
    for bad, error, text in (
        (told + 1, ValueError, rf"block_table has shape \(2, {told}\), expected \(b, max_blocknum_perbatch\) = "),
        ("3", TypeError, "max_blocknum_perbatch must be int, got str"),
        (True, TypeError, "max_blocknum_perbatch must be int, got bool"),
        (-1, ValueError, r"max_blocknum_perbatch must be max_blocknum_perbatch in \[0, inf\), got -1"),
    ):
        cell = Call("sparse_flash_attention_quant", {**CASE.attributes, "max_blocknum_perbatch": bad})
        with mode(how), pytest.raises(error, match=f"sparse_flash_attention_quant: {text}"):
            (ms.jit(cell) if how == "jit" else cell)(*tensors(CASE).values())
