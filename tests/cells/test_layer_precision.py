"""The whole layer under mixed precision, of its own and of the cells around it."""

from __future__ import annotations

import sys
from typing import Any

import cases
import mindspore as ms
import numpy as np
import pytest
from layers import HEADS, Model, Step, engine, make_layer
from mindspore import Tensor, nn
from mindspore._c_expression import MixedPrecisionType
from mindspore.graph.api import _pynative_executor
from sequences import run, same, tensors

from ms_dsv32 import cells, ops, weights


@pytest.fixture
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore's rewriting (O1) leaves the folders of modules in sys.path: mindspore/nn/layer, with a math.py."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.usefixtures("_own_path")
@pytest.mark.parametrize("how", ["pynative", "graph"])
@pytest.mark.parametrize("level", ["O1", "O2", "O3", "auto", "white list", "black list"])
def test_mixed_precision_of_a_layer(how: str, level: str) -> None:
    step = Step()
    net: Any = make_layer()
    if level == "white list":
        net = ms.amp.custom_mixed_precision(net, white_list=[*ms.amp.get_white_list(), cells.MLAEpilog])
    elif level == "black list":
        net = ms.amp.custom_mixed_precision(net, black_list=[*ms.amp.get_black_list(), nn.Dense])
    else:
        net = ms.amp.auto_mixed_precision(net, level, ms.float16)
    hidden_out = run(net, how, *tensors(*step.inputs), *step.caches)
    if hidden_out.dtype == ms.float32:  # O2 and O3 convert what a network returns
        hidden_out = hidden_out.astype(ms.bfloat16)
    step.check(hidden_out)


@pytest.mark.usefixtures("_own_path")
@pytest.mark.parametrize(
    ("how", "level"),
    [
        ("pynative", "O1"),
        ("pynative", "O2"),
        ("pynative", "O3"),
        ("pynative", "black list"),
        ("graph", "O1"),
        ("graph", "auto"),
    ],
)
def test_mixed_precision_of_a_larger_cell(how: str, level: str) -> None:
    step = Step()
    if level == "black list":
        model = ms.amp.custom_mixed_precision(Model(make_layer()), black_list=[nn.Dense, cells.SparseAttentionLayer])
    else:
        model = ms.amp.auto_mixed_precision(Model(make_layer()), level, ms.float16)
    if how == "pynative" and level == "O3":
        model._backbone.dense.to_float(ms.float32)  # the CPU backend has no float16 matrix product
    hidden_out, _ = run(model, how, Tensor([1.0], ms.float32), *tensors(*step.inputs), *step.caches)
    step.check(hidden_out.astype(ms.bfloat16))


class Functions(nn.Cell):
    """A model's own cell that calls the functions themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Dense(7168, 2)
        self.w_uv, self.w_o, self.w_o_scale = tensors(*cases.epilog_weights(HEADS).values())

    def construct(self, outs: tuple[Tensor, ...], lses: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        attention_out, _ = ops.merge_attention(outs, lses)
        hidden_out = ops.mla_epilog_quant(attention_out, self.w_uv, self.w_o, self.w_o_scale)
        return hidden_out, self.dense(ms.ops.cast(hidden_out, ms.float32))


@pytest.mark.usefixtures("_own_path")
@pytest.mark.parametrize("how", ["pynative", "graph"])
@pytest.mark.parametrize("level", ["O1", "auto"])
def test_mixed_precision_of_a_cell_that_calls_functions(how: str, level: str) -> None:
    rng = np.random.default_rng(0)
    outs = ms.mutable(tuple(tensors(*(cases.random_bf16(rng, (3, HEADS, 512)) for _ in range(2)))))
    lses = ms.mutable(tuple(tensors(*(rng.standard_normal((3, HEADS), np.float32) for _ in range(2)))))
    model = Functions()
    want, _ = run(model, "pynative", outs, lses)
    hidden_out, _ = run(ms.amp.auto_mixed_precision(model, level, ms.float16), how, outs, lses)
    same("hidden_out", hidden_out, weights.to_array(want))


@pytest.mark.parametrize("how", ["pynative", "graph"])
def test_a_merge_in_16_bits_is_refused(how: str) -> None:
    model = Functions().to_float(ms.float16)
    model.dense.to_float(ms.float32)
    parts = tensors(*(np.zeros((3, HEADS, 512), np.uint16) for _ in range(2)))
    lses = tensors(*(np.zeros((3, HEADS), np.float32) for _ in range(2)))
    with pytest.raises(TypeError, match="merge_attention: "):
        run(model, how, ms.mutable(tuple(parts)), ms.mutable(tuple(lses)))
    if (
        how == "pynative"
    ):  # MindSpore's operators go on in 16 bits after this error, and weights must be set all the same
        step = Step()
        step.check(make_layer()(*tensors(*step.inputs), *step.caches))
        _pynative_executor.set_mixed_precision_type(MixedPrecisionType.NOTSET, False)


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16], ids=str)
def test_the_precision_around_a_cell_ends_there(dtype: Any) -> None:
    """MindSpore's own operators in our cells keep theirs: half tables are joined, and lengths stay integers."""
    step = Step()
    inputs = engine(step.inputs, half=True, table=ms.float32, slots=np.int32, integers=np.int64)
    model = Model(make_layer()).to_float(dtype)
    model.dense.to_float(ms.float32)
    model.layer.step.attention.to_float(dtype)
    hidden_out, _ = run(model, "pynative", Tensor([1.0], ms.float32), *inputs, *step.caches)
    step.check(hidden_out)


def test_a_graph_whose_mixed_precision_casts_the_caches_is_refused() -> None:
    """MindSpore casts what a cell with O2 or O3 passes on to the cells in it: a write into it would be lost."""
    step = Step()
    model = ms.amp.auto_mixed_precision(Model(make_layer()), "O2", ms.float16)
    text = "mla_kr_cache .* would be lost: .*mixed precision .*O2.* of the cell around"
    with pytest.raises(ValueError, match=text):
        run(model, "graph", Tensor([1.0], ms.float32), *tensors(*step.inputs), *step.caches)
