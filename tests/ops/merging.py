"""Calls of `ops.merge_attention`, and what it has to give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cases
import mindspore as ms
import numpy as np
import tolerance
from calls import Array, arrays, mode, tensor
from mindspore import Tensor, nn

from ms_dsv32 import golden, ops

OUTPUTS = ("attention_out", "lse")


class Merge(nn.Cell):
    """The parts come one by one: a graph takes the tensors of a plain tuple for constants."""

    def construct(self, *tensors: Tensor) -> Any:
        count = len(tensors) // 2
        return ops.merge_attention(tensors[:count], tensors[count:])


def compiled(mode_name: str) -> Callable[..., Any]:
    return ms.jit(Merge()) if mode_name == "jit" else Merge()


def merged(mode_name: str, outs: Sequence[Array], lses: Sequence[Array]) -> dict[str, Array]:
    with mode(mode_name):
        return arrays(OUTPUTS, compiled(mode_name)(*[tensor(a) for a in (*outs, *lses)]))


def assert_golden(got: dict[str, Array], outs: Sequence[Array], lses: Sequence[Array]) -> None:
    """MindSpore's exp and log are within some 1e-6, so that a rounding may fall on the other side."""
    out, lse = golden.merge_attention(outs, lses)
    assert got["attention_out"].dtype == out.dtype
    # A step is as small as the value; where parts cancel, float32 is what limits.
    small = 1e-5 * sum(np.abs(golden.bf16_to_float32(part)) for part in outs)
    difference = np.abs(golden.bf16_to_float32(got["attention_out"]) - golden.bf16_to_float32(out))
    steps = tolerance.bf16_steps(got["attention_out"], out)
    assert ((steps <= 1) | (difference <= small)).all()
    assert (steps > 0).sum() <= tolerance.ALLOWED_FRACTION * steps.size
    tolerance.assert_lse("lse", got["lse"], lse)


class InParts(nn.Cell):
    """Attention over two parts of the keys, and the merge: one graph."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        super().__init__()
        self.attributes = attributes

    def construct(
        self,
        first: Tensor,
        second: Tensor,
        query_nope: Tensor,
        query_rope: Tensor,
        k8: Tensor,
        kr: Tensor,
        scales: Tensor,
        block_table: Tensor,
        kv_act_seqs: Tensor,
    ) -> Any:
        outs, lses = [], []
        for indices in (first, second):
            selected = (k8, kr, scales, indices, block_table, kv_act_seqs)
            out, lse = ops.sparse_flash_attention_quant(query_nope, query_rope, *selected, **self.attributes)
            outs.append(out)
            lses.append(lse)
        return ops.merge_attention(outs, lses)


def in_parts(case: cases.Case, mode_name: str) -> dict[str, Array]:
    """A case's attention over all keys, from two parts of them."""
    parts = [part.inputs["topk_indices"] for part in cases.parts_of(case, 2)]
    others = [array for name, array in case.inputs.items() if name != "topk_indices"]
    cell: Any = InParts(cases.with_lse(case).attributes)
    with mode(mode_name):
        return arrays(OUTPUTS, (ms.jit(cell) if mode_name == "jit" else cell)(*map(tensor, (*parts, *others))))
