"""A call waits for what MindSpore was given before it, where that still reads or writes the call's tensors.

In PyNative mode MindSpore queues its operators, and a kernel is called directly, by the tensors' addresses. The queued
work takes a good part of a second, so that a call that did not wait would end long before it.
"""

from __future__ import annotations

from collections.abc import Callable

import cases
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import arrays, bare, tensors
from mindspore import Tensor, mint

from ms_dsv32 import ops, weights

CASES: dict[str, Callable[[], cases.Case]] = {
    "mla_prolog_quant": lambda: cases.mla_prolog_case(1, 2, 1),
    "lightning_indexer_prolog_quant": lambda: cases.indexer_prolog_case(1, 2),
    "mla_indexer_prolog_quant": lambda: cases.fused_prolog_case(1, 2, 1),
    "sparse_flash_attention_quant": lambda: cases.attention_case(1, 2, 3, 200, topk=64),
    "lightning_indexer_quant": lambda: cases.indexer_case(1, 2, 300, selected_count=50),
    "mla_epilog_quant": lambda: cases.mla_epilog_case(1, 2, 1),
}
READ = {
    "mla_prolog_quant": "dequant_scale",
    "lightning_indexer_prolog_quant": "w_qb_scale",
    "mla_indexer_prolog_quant": "mla_dequant_scale",
    "sparse_flash_attention_quant": "k_nope_scales",
    "lightning_indexer_quant": "kv_act_seqs",
    "mla_epilog_quant": "w_o_scale",
}
"""An input of each operator whose elements count, of a dtype that MindSpore computes with on CPU."""


def slowly(like: Tensor) -> Tensor:
    """Zeros of the dtype and shape of a tensor, which MindSpore has after some 0.2 s."""
    square = Tensor(np.zeros((1500, 1500), np.float32))
    for _ in range(12):
        square = mint.matmul(square, square)
    zero = mint.sum(square)
    return like * 0 + zero.astype(like.dtype)


@pytest.mark.parametrize("operator", CASES)
def test_what_is_read_is_what_mindspore_writes_before(operator: str) -> None:
    case = CASES[operator]()
    inputs = tensors(case)
    name = READ[operator]
    right = inputs[name]
    inputs[name] = Tensor.from_numpy(np.ones_like(case.inputs[name]))
    getattr(ops, operator)(*inputs.values(), **case.attributes)  # the first call's work, which waits
    delay = slowly(right)
    inputs[name].copy_(right + delay)
    got = arrays(case.outputs, getattr(ops, operator)(*inputs.values(), **case.attributes))
    for output, want in bare(case).items():
        if output not in cases.IN_PLACE[operator].values():
            tolerance.assert_same_bits(output, got[output], want)


@pytest.mark.parametrize("operator", [name for name in CASES if cases.IN_PLACE[name]])
def test_what_mindspore_reads_before_is_what_was_there(operator: str) -> None:
    """A cache is read by an operator of MindSpore, which waits for other work, and then written by ours."""
    case = CASES[operator]()
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
