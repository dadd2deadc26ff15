"""Layers of few heads, steps of them, and what the bare kernels make of the same."""

from __future__ import annotations

from typing import Any

import cases
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from sequences import CACHES, SCALE, Sequences, same, tensors

from ms_dsv32 import cells, kernel_impl, weights

HEADS = 4
COLUMNS = 3


def make_layer(**arguments: Any) -> cells.SparseAttentionLayer:
    """A layer of `HEADS` heads with the weights of `cases`."""
    layer = cells.SparseAttentionLayer(COLUMNS, HEADS, softmax_scale=SCALE, **arguments)
    layer.set_weights(cases.layer_weights(HEADS))
    return layer


def epilog_of(attention_out: Any) -> Any:
    """hidden_out by the bare kernel."""
    inputs = {"attention_out": attention_out, **cases.epilog_weights(HEADS)}
    return kernel_impl.call("mla_epilog_quant", inputs, {})[0]


class Step:
    """One step of two sequences: its inputs, and what the layer should give and leave in the caches."""

    def __init__(self, seed: int = 7, s1: int = 2) -> None:
        sequences = Sequences(2, HEADS, 4, seed=seed)
        self.caches = tensors(*sequences.caches)
        self.inputs = sequences.advance(s1)
        self.hidden_out = epilog_of(sequences.bare(self.inputs))
        self.after = sequences.caches

    def check(self, hidden_out: Tensor, caches: Any = None) -> None:
        """hidden_out, and what is in the caches, are right to the bit."""
        same("hidden_out", hidden_out, self.hidden_out)
        for name, cache, want in zip(CACHES, caches or self.caches, self.after, strict=True):
            same(name, cache, want)


def engine(inputs: list[Any], *, half: bool, slots: Any, integers: Any, table: Any) -> list[Tensor]:
    """A step's inputs as an engine may have them."""
    token_x, cos, sin, index, block_table, lengths = inputs
    width = 32 if half else 64
    cos, sin = (weights.to_tensor(np.ascontiguousarray(t[:, :width])).astype(table) for t in (cos, sin))
    integers = [Tensor(block_table.astype(integers)), Tensor(lengths.astype(integers))]
    return [weights.to_tensor(token_x), cos, sin, Tensor(index.astype(slots)), *integers]


class Model(nn.Cell):
    """A part of a model: an input of the model's own, then a layer with its residual."""

    def __init__(self, layer: nn.Cell) -> None:
        super().__init__()
        self.layer = layer
        self.dense = nn.Dense(7168, 2)

    def construct(self, flag: Tensor, token_x: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden_out = self.layer(token_x, *inputs)
        residual = ms.ops.cast(token_x, ms.float32) + ms.ops.cast(hidden_out, ms.float32)
        return hidden_out, self.dense(residual) * flag
