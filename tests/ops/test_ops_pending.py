"""A call waits for what MindSpore was given before it, where that still reads or writes the call's tensors.

In PyNative mode MindSpore queues its operators, and a kernel is called directly, by the tensors' addresses. The queued
work takes a good part of a second, so that a call that did not wait would end long before it.
"""

from __future__ import annotations

import cases
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import arrays, bare, tensors
from cases import PROLOGS
from mindspore import Tensor, mint

from ms_dsv32 import op_info, ops, weights


def case_of(operator: str) -> cases.Case:
    return cases.make(operator, 1, 2, 300, n_q=3, selected=50)


def read(operator: str) -> str:
    """An input whose elements count, of a dtype that MindSpore computes with on CPU: float32, or else int32."""
    inputs = op_info.load(operator).inputs
    return next((a.name for a in reversed(inputs) if a.dtype == "fp32" and not a.in_place), "kv_act_seqs")


def slowly(like: Tensor) -> Tensor:
    """Zeros of the dtype and shape of a tensor, which MindSpore has after some 0.2 s."""
    square = Tensor(np.zeros((1500, 1500), np.float32))
    for _ in range(12):
        square = mint.matmul(square, square)
    zero = mint.sum(square)
    return like * 0 + zero.astype(like.dtype)


@pytest.mark.parametrize("operator", op_info.names())
def test_what_is_read_is_what_mindspore_writes_before(operator: str) -> None:
    case = case_of(operator)
    inputs = tensors(case)
    name = read(operator)
    right = inputs[name]
    others = np.ones_like(case.inputs[name])
    with pytest.raises(AssertionError):
        tolerance.assert_same_outputs(bare(case.copy(**{name: others})), bare(case))
    inputs[name] = Tensor.from_numpy(others)
    getattr(ops, operator)(*inputs.values(), **case.attributes)  # the first call's work, which waits
    delay = slowly(right)
    inputs[name].copy_(right + delay)
    got = arrays(case.outputs, getattr(ops, operator)(*inputs.values(), **case.attributes))
    for output, want in bare(case).items():
        if output not in cases.IN_PLACE[operator].values():
            tolerance.assert_same_bits(output, got[output], want)


@pytest.mark.parametrize("operator", PROLOGS)
def test_what_mindspore_reads_before_is_what_was_there(operator: str) -> None:
    """A cache is read by an operator of MindSpore, which waits for other work, and then written by ours."""
    case = case_of(operator)
    inputs = tensors(case)
    name = next(n for n in cases.IN_PLACE[operator] if case.inputs[n].dtype != np.uint16)
    before = weights.to_array(inputs[name]).copy()
    getattr(ops, operator)(*tensors(case).values(), **case.attributes)
    ms.runtime.synchronize()
    copy = inputs[name] + slowly(inputs[name])
    getattr(ops, operator)(*inputs.values(), **case.attributes)
    written = weights.to_array(inputs[name])
    assert written.tobytes() != before.tobytes()
    tolerance.assert_same_bits(name, weights.to_array(copy), before)
