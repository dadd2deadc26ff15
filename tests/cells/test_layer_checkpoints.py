"""Copies and checkpoints of the whole layer: MindSpore's, whose marks tell how weights are laid out, and our own."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import cases
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import MODES
from layers import COLUMNS, HEADS, Model, Step, make_layer
from mindspore import Tensor
from sequences import SCALE, run, tensors

from ms_dsv32 import cells, weights


@pytest.mark.parametrize("how", MODES)
def test_a_deep_copy_is_a_layer_of_its_own(how: str) -> None:
    step, first = Step(), make_layer()
    second = copy.deepcopy(first)
    zeros = {name: np.zeros_like(array) for name, array in cases.layer_weights(HEADS).items()}
    first.set_weights(zeros)
    step.check(run(second, how, *tensors(*step.inputs), *step.caches))
    assert not run(first, how, *tensors(*step.inputs), *step.caches).astype(ms.float32).asnumpy().any()
    assert not any(array.any() for array in first.get_weights().values())
    second.set_weights(zeros)  # a copy takes weights like any other
    weight = second.epilog.w_o
    with pytest.raises(ValueError, match="mla_epilog_quant: w_o is set without a mark of its layout"):
        weight.set_data(weight.copy())


@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
def test_a_checkpoint_of_mindspore(tmp_path: Path, form: str) -> None:
    path, step = str(tmp_path / f"layer.{form}"), Step()
    ms.save_checkpoint(make_layer(), path, format=form)
    loaded = cells.SparseAttentionLayer(COLUMNS, HEADS, softmax_scale=SCALE)
    not_loaded, left = ms.load_param_into_net(loaded, ms.load_checkpoint(path, format=form))
    assert not not_loaded
    assert not left
    for name, array in loaded.get_weights().items():
        tolerance.assert_same_bits(name, array, cases.layer_weights(HEADS)[name])
    step.check(loaded(*tensors(*step.inputs), *step.caches))


def test_a_layer_that_is_pickled() -> None:
    step, layer = Step(), pickle.loads(pickle.dumps(make_layer()))
    step.check(layer(*tensors(*step.inputs), *step.caches))
    with pytest.raises(ValueError, match="mla_epilog_quant: w_o is set without a mark of its layout"):
        layer.epilog.w_o.set_data(layer.epilog.w_o.copy())


def marks(parameters: dict[str, Any]) -> list[str]:
    return [name for name in parameters if name.endswith("layout")]


@pytest.mark.parametrize("wrapped", [False, True], ids=["the layer", "a model"])
@pytest.mark.parametrize(
    ("code", "text"),
    [
        (2, "mla_prolog_quant: layout says that the weights are laid out for Ascend, expected CPU"),
        (77, r"mla_prolog_quant: layout says that the weights are of an unknown layout \(77\), expected CPU"),
        (None, "mla_prolog_quant: w_dq is set without a mark of its layout"),
    ],
    ids=["of another target", "of an unknown layout", "without a mark"],
)
def test_a_checkpoint_that_is_laid_out_otherwise_is_refused(
    tmp_path: Path, wrapped: bool, code: int | None, text: str
) -> None:
    """Also if the checkpoint is of a model that holds a layer. No weight is set."""
    wrap = Model if wrapped else lambda layer: layer
    ms.save_checkpoint(wrap(make_layer()), str(tmp_path / "layer.ckpt"))
    parameters = ms.load_checkpoint(str(tmp_path / "layer.ckpt"))
    assert len(marks(parameters)) == 3
    for name in marks(parameters):
        if code is None:
            del parameters[name]
        else:
            parameters[name].set_data(Tensor([code], ms.int32))
    layer = cells.SparseAttentionLayer(COLUMNS, HEADS)
    with pytest.raises(ValueError, match=text):
        ms.load_param_into_net(wrap(layer), parameters)
    assert not any(array.any() for array in layer.get_weights().values())


def test_a_mark_counts_for_one_checkpoint() -> None:
    layer = make_layer()
    weight, mark = layer.epilog.w_uv, layer.epilog.layout
    for value in (weight.copy(), Tensor(np.zeros(weight.shape), ms.bfloat16)):
        with pytest.raises(ValueError, match="w_uv is set without a mark"):
            weight.set_data(value)
    mark.set_data(mark.copy())
    weight.set_data(weight.copy())
    with pytest.raises(ValueError, match="w_uv is set without a mark"):
        weight.set_data(weight.copy())
    tolerance.assert_same_bits("w_uv", layer.get_weights()["w_uv"], cases.layer_weights(HEADS)["w_uv"])


def test_a_mark_counts_for_the_cell_that_has_it() -> None:
    cell = cells.MLAProlog(1)
    twin = copy.deepcopy(cell)
    cell.layout.set_data(Tensor(cell.layout.asnumpy()))
    gamma = weights.to_tensor(np.ones(1536, np.uint16))
    with pytest.raises(ValueError, match="gamma_cq is set without a mark of its layout"):
        twin.gamma_cq.set_data(gamma)
    cell.gamma_cq.set_data(gamma)


def test_a_weight_that_a_checkpoint_lacks_may_not_follow_without_a_mark() -> None:
    parameters = {name: ms.Parameter(p.copy(), name=name) for name, p in make_layer().parameters_dict().items()}
    layer = cells.SparseAttentionLayer(COLUMNS, HEADS)
    late = parameters.pop("epilog.w_o")
    ms.load_param_into_net(layer, parameters)
    with pytest.raises(ValueError, match="w_o is set without a mark"):
        ms.load_param_into_net(layer, {"epilog.w_o": late})


def test_clones_of_weights_are_parameters_like_any_other() -> None:
    """An average of all parameters is kept in clones."""
    epilog = make_layer().epilog
    parameters = ms.ParameterTuple(epilog.get_parameters())
    for clone in (*parameters.clone("ema"), *parameters.clone("zero", init="zeros"), copy.copy(epilog.w_o)):
        clone.set_data(ms.ops.zeros_like(clone))
    with pytest.raises(ValueError, match="w_o is set without a mark"):
        epilog.w_o.set_data(epilog.w_o.copy())
    tolerance.assert_same_bits("w_o", epilog.get_weights()["w_o"], cases.layer_weights(HEADS)["w_o"])


def test_a_call_ends_what_a_checkpoint_may_set() -> None:
    """A part of a checkpoint may come in another file, but not after the cell was used."""
    layer, step = make_layer(), Step()
    epilog = layer.epilog
    epilog.layout.set_data(epilog.layout.copy())
    epilog.w_uv.set_data(epilog.w_uv.copy())
    epilog.w_o.set_data(epilog.w_o.copy())
    step.check(layer(*tensors(*step.inputs), *step.caches))
    with pytest.raises(ValueError, match="w_o_scale is set without a mark"):
        epilog.w_o_scale.set_data(epilog.w_o_scale.copy())


def test_a_cell_does_not_take_a_checkpoint_of_mindspore_for_a_file_of_its_own(tmp_path: Path) -> None:
    layer = make_layer()
    ms.save_checkpoint(layer, str(tmp_path / "layer.safetensors"), format="safetensors")
    for allow_unknown in (False, True):
        with pytest.raises(ValueError, match=r"epilog.layout tells that .* laid out .* use mindspore.load_checkpoint"):
            layer.epilog.load(tmp_path / "layer.safetensors", prefix="epilog.", allow_unknown=allow_unknown)


def test_files_of_a_layer(tmp_path: Path) -> None:
    layer = make_layer()
    layer.save(tmp_path / "layer.safetensors")
    part = cells.SparseAttentionLayer(COLUMNS, 2)
    part.load(tmp_path / "layer.safetensors", heads=range(1, 3))
    for name, want in weights.of_heads(cases.layer_weights(HEADS), range(1, 3)).items():
        tolerance.assert_same_bits(name, part.get_weights()[name], want)
    step = cells.SparseAttentionStep(COLUMNS, 4)
    step.load(tmp_path / "layer.safetensors")
    for name, array in step.get_weights().items():
        tolerance.assert_same_bits(name, array, cases.layer_weights(HEADS)[name])
    epilog = cells.MLAEpilog(1)
    epilog.load(tmp_path / "layer.safetensors", heads=range(3, 4))
    tolerance.assert_same_bits("w_o", epilog.get_weights()["w_o"], cases.layer_weights(HEADS)["w_o"][3 * 128 :])
    with pytest.raises(ValueError, match="weights: w_uq_qr has shape"):
        part.load(tmp_path / "layer.safetensors")
    step.save(tmp_path / "step.safetensors")
    with pytest.raises(KeyError, match="w_uv"):
        part.load(tmp_path / "step.safetensors", heads=range(2))
