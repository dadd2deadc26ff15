"""The whole layer, and what a model does with it: engines' dtypes, mixed precision, checkpoints, training."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import cases
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import MODES, mode
from mindspore import Tensor, nn
from mindspore._c_expression import MixedPrecisionType
from mindspore.graph.api import _pynative_executor
from test_cells import CACHES, SCALE, Sequences, layer_weights, run, same, tensors

from ms_dsv32 import cells, kernel_impl, ops, weights
from ms_dsv32.config import ModelConfig

HEADS = 4
COLUMNS = 3


def all_weights(n_q: int = HEADS) -> dict[str, Any]:
    return {**layer_weights(n_q), **cases.epilog_weights(n_q)}


def make_layer(**arguments: Any) -> cells.SparseAttentionLayer:
    layer = cells.SparseAttentionLayer(COLUMNS, HEADS, softmax_scale=SCALE, **arguments)
    layer.set_weights(all_weights())
    return layer


@pytest.fixture(scope="module")
def layer() -> cells.SparseAttentionLayer:
    return make_layer()


def epilog_of(attention_out: Any) -> Any:
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
        same("hidden_out", hidden_out, self.hidden_out)
        for name, cache, want in zip(CACHES, caches or self.caches, self.after, strict=True):
            same(name, cache, want)


@pytest.mark.parametrize("how", MODES)
def test_a_layer_ends_with_the_epilog(layer: cells.SparseAttentionLayer, how: str) -> None:
    sequences = Sequences(2, HEADS, 4, seed=4)
    caches = cells.make_caches(4)
    for s1 in (1, 2):
        inputs = sequences.advance(s1)
        want = epilog_of(sequences.bare(inputs))
        hidden_out = run(layer, how, *tensors(*inputs), *caches)
        assert hidden_out.shape == (2 * s1, 7168)
        same("hidden_out", hidden_out, want)
    for name, want in zip(CACHES, sequences.caches, strict=True):
        same(name, getattr(caches, name), want)


def test_one_graph_serves_prompts_and_decoding() -> None:
    layer = make_layer(return_lse=True)
    layer.set_dynamic_tokens(6)
    for b, steps in ((1, (100, 1, 27, 1)), (3, (2, 1, 3)), (2, (1, 4))):
        sequences = Sequences(b, HEADS, 6, seed=b)
        caches = tensors(*sequences.caches)
        for s1 in steps:
            inputs = sequences.advance(s1)
            want = epilog_of(sequences.bare(inputs))
            with mode("graph"):
                hidden_out, lse = layer(*tensors(*inputs), *caches)
            same("hidden_out", hidden_out, want)
            assert lse.shape == (b, s1, HEADS)
            assert np.isfinite(lse.asnumpy()).all()


@pytest.mark.parametrize("how", MODES)
def test_token_axes_may_be_split(layer: cells.SparseAttentionLayer, how: str) -> None:
    step = Step()
    split = [array.reshape(2, 2, *array.shape[1:]) for array in step.inputs[:4]]
    step.check(run(layer, how, *tensors(*split, *step.inputs[4:]), *step.caches))


def engine(inputs: list[Any], *, half: bool, slots: Any, integers: Any, table: Any) -> list[Tensor]:
    """A step's inputs as an engine may have them."""
    token_x, cos, sin, index, block_table, lengths = inputs
    width = 32 if half else 64
    cos, sin = (weights.to_tensor(np.ascontiguousarray(t[:, :width])).astype(table) for t in (cos, sin))
    integers = [Tensor(block_table.astype(integers)), Tensor(lengths.astype(integers))]
    return [weights.to_tensor(token_x), cos, sin, Tensor(index.astype(slots)), *integers]


@pytest.mark.parametrize(
    ("how", "table", "half"),
    [
        *((how, ms.float32, True) for how in (*MODES, "dynamic")),
        ("pynative", ms.float32, False),
        ("dynamic", ms.float32, False),
        ("pynative", ms.bfloat16, True),
        ("graph", ms.bfloat16, True),
        ("pynative", ms.float16, False),
    ],
)
def test_what_engines_pass(how: str, table: Any, half: bool) -> None:
    """Tables that hold bfloat16 values: so the bits are those of bfloat16 tables."""
    layer, step = make_layer(), Step()
    if table is ms.float16:  # which does not hold every bfloat16 value
        step.inputs[1:3] = [np.full((4, 64), bits, np.uint16) for bits in (0x3F40, 0x3F28)]  # 0.75 and 0.65625
        other = Sequences(2, HEADS, 4, seed=7)
        other.advance(2)
        step.hidden_out = epilog_of(other.bare(step.inputs))
        step.after = other.caches
    wide = table is not ms.bfloat16
    kinds = {"slots": np.int32 if wide else np.int64, "integers": np.int64 if wide else np.int32}
    inputs = engine(step.inputs, half=half, table=table, **kinds)
    if how == "dynamic":
        layer.set_dynamic_tokens(4, like=inputs)
    step.check(run(layer, "graph" if how == "dynamic" else how, *inputs, *step.caches))


@pytest.mark.parametrize("how", ["pynative", "graph"])
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("kv_act_seqs", 2**32 + 2, r"kv_act_seqs\[1\] = 2147483647"),
        ("kv_act_seqs", -(2**32) + 2, r"kv_act_seqs\[1\] = -2147483648"),
        ("block_table", 2**32, r"block_table\[1, 0\] = 2147483647"),
    ],
)
def test_integers_do_not_wrap_around(how: str, name: str, value: int, text: str) -> None:
    step = Step()
    inputs = engine(step.inputs, half=False, table=ms.bfloat16, slots=np.int64, integers=np.int64)
    index = {"block_table": 4, "kv_act_seqs": 5}[name]
    array = inputs[index].asnumpy().copy()
    array.reshape(2, -1)[1, 0] = value
    inputs[index] = Tensor(array)
    with pytest.raises((ValueError, RuntimeError), match=text):
        run(make_layer(), how, *inputs, *step.caches)


@pytest.mark.parametrize("width", [16, 48, 63, 128])
def test_tables_of_another_width_are_refused(layer: cells.SparseAttentionLayer, width: int) -> None:
    step = Step()
    step.inputs[1] = np.zeros((4, width), np.uint16)
    with pytest.raises(ValueError, match=rf"mla_indexer_prolog_quant: cos has shape \(4, {width}\)"):
        layer(*tensors(*step.inputs), *step.caches)


def test_tables_of_integers_are_refused(layer: cells.SparseAttentionLayer) -> None:
    step = Step()
    step.inputs[1] = step.inputs[1].astype(np.int32)
    with pytest.raises(TypeError, match="mla_indexer_prolog_quant: cos must be bfloat16, got int32"):
        layer(*tensors(*step.inputs), *step.caches)


@pytest.mark.parametrize("how", ["pynative", "graph"])
@pytest.mark.parametrize("index", range(6))
def test_what_is_no_tensor_is_named(layer: cells.SparseAttentionLayer, index: int, how: str) -> None:
    step = Step()
    inputs: list[Any] = tensors(*step.inputs)
    inputs[index] = None
    name = ("token_x", "cos", "sin", "cache_index", "block_table", "kv_act_seqs")[index]
    with pytest.raises(TypeError, match=f"{name} must be a Tensor, got None"):
        run(make_layer() if how == "graph" else layer, how, *inputs, *step.caches)


@pytest.mark.parametrize("how", MODES)
def test_the_cells_of_one_operator_take_them_too(how: str) -> None:
    case = cases.indexer_prolog_case(2, 2, [5, 130])
    cell = cells.LightningIndexerProlog()
    cell.set_weights(cases.indexer_weights())
    names = [n for n in case.inputs if n not in weights.INDEXER_WEIGHTS]
    usual = run(cell, how, *tensors(*(case.inputs[n] for n in names)))
    given = dict(zip(names, tensors(*(case.inputs[n] for n in names)), strict=True))
    for name in ("cos_idx_rope", "sin_idx_rope"):
        given[name] = weights.to_tensor(np.ascontiguousarray(case.inputs[name][..., :32])).astype(ms.float32)
    given["k_cache_index"] = given["k_cache_index"].astype(ms.int32)
    for got, want in zip(run(cell, how, *given.values()), usual, strict=True):
        same("result", got, weights.to_array(want))
    same("k_cache", given["k_cache"], kernel_impl.call(case.operator, case.copy().inputs, case.attributes)[2])


class Model(nn.Cell):
    """A part of a model: a layer with its residual, behind an input of the model's own."""

    def __init__(self, layer: nn.Cell) -> None:
        super().__init__()
        self.layer = layer
        self.dense = nn.Dense(7168, 2)

    def construct(self, flag: Tensor, token_x: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden_out = self.layer(token_x, *inputs)
        residual = ms.ops.cast(token_x, ms.float32) + ms.ops.cast(hidden_out, ms.float32)
        return hidden_out, self.dense(residual) * flag


def test_a_larger_cell_declares_its_inputs_with_the_layers() -> None:
    model = Model(make_layer())
    model.set_inputs(Tensor(shape=[1], dtype=ms.float32), *model.layer.dynamic_inputs(4))
    for seed, s1 in ((1, 2), (2, 1), (3, 3)):
        step = Step(seed, s1)
        with mode("graph"):
            hidden_out, _ = model(Tensor([1.0], ms.float32), *tensors(*step.inputs), *step.caches)
        step.check(hidden_out)
    with pytest.raises(ValueError, match="SparseAttentionLayer: like has 2 tensors, expected 6"):
        model.layer.dynamic_inputs(4, like=tensors(*step.inputs[:2]))
    for bad, error in ((0, ValueError), (2.5, TypeError), (None, TypeError), (True, TypeError)):
        with pytest.raises(error, match="SparseAttentionLayer: block_num must be"):
            model.layer.dynamic_inputs(bad)


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


@pytest.mark.parametrize("how", MODES)
def test_a_deep_copy_is_a_layer_of_its_own(how: str) -> None:
    step, first = Step(), make_layer()
    second = copy.deepcopy(first)
    zeros = {name: np.zeros_like(array) for name, array in all_weights().items()}
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
        tolerance.assert_same_bits(name, array, all_weights()[name])
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
    """Also where it is a model's that holds a layer; nothing of it is set."""
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
    tolerance.assert_same_bits("w_uv", layer.get_weights()["w_uv"], all_weights()["w_uv"])


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
    tolerance.assert_same_bits("w_o", epilog.get_weights()["w_o"], all_weights()["w_o"])


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
    for name, want in weights.of_heads(all_weights(), range(1, 3)).items():
        tolerance.assert_same_bits(name, part.get_weights()[name], want)
    step = cells.SparseAttentionStep(COLUMNS, 4)
    step.load(tmp_path / "layer.safetensors")
    for name, array in step.get_weights().items():
        tolerance.assert_same_bits(name, array, all_weights()[name])
    epilog = cells.MLAEpilog(1)
    epilog.load(tmp_path / "layer.safetensors", heads=range(3, 4))
    tolerance.assert_same_bits("w_o", epilog.get_weights()["w_o"], all_weights()["w_o"][3 * 128 :])
    with pytest.raises(ValueError, match="weights: w_uq_qr has shape"):
        part.load(tmp_path / "layer.safetensors")
    step.save(tmp_path / "step.safetensors")
    with pytest.raises(KeyError, match="w_uv"):
        part.load(tmp_path / "step.safetensors", heads=range(2))


def test_a_layer_of_a_models_configuration() -> None:
    model = ModelConfig(n_q=2, epsilon_cq=0.5, selected_count=64, rope_factor=20.0)
    layer = cells.SparseAttentionLayer.from_config(model, max_blocknum_perbatch=3, n_q=1, stop_gradient=True)
    assert layer.step.prolog.mla.epsilon_cq == 0.5
    assert layer.epilog.n_q == layer.step.attention.n_q == 1
    assert layer.step.attention.softmax_scale == model.softmax_scale
    assert layer.step.indexer.selected_count == layer.step.attention.topk == 64
    assert cells.MLAEpilog.from_config(model).n_q == 2
    for arguments, text in (
        ({"group": 3}, "SparseAttentionLayer: group must be a str or None, got 3"),
        ({"stop_gradient": 1}, "SparseAttentionLayer: stop_gradient must be a bool, got 1"),
        ({"no_such_argument": 1}, "no_such_argument"),
    ):
        with pytest.raises(TypeError, match=text):
            cells.SparseAttentionLayer(COLUMNS, 1, **arguments)
    with pytest.raises(ValueError, match=r"group is 'hccl_world_group', call mindspore.communication.init\(\) before"):
        cells.SparseAttentionLayer(COLUMNS, 1, group="hccl_world_group")


@pytest.mark.parametrize(
    "make", [cells.MLAProlog, cells.MLAEpilog, cells.MLAIndexerProlog, lambda n_q: cells.SparseAttentionLayer(1, n_q)]
)
def test_query_heads_are_checked(make: Any) -> None:
    for bad, error in ((0, ValueError), (129, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"MLA\w+: n_q must be "):
            make(bad)


def test_caches_are_made_in_the_order_of_the_inputs() -> None:
    caches = cells.make_caches(3)
    assert caches._fields == CACHES
    for cache, page in zip(caches, Sequences(1, 1, 3).caches, strict=True):
        same("cache", cache, page)
    assert cells.make_caches(np.int64(2)).kv_cache.shape == (2, 128, 1, 512)
    for bad, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="make_caches: block_num must be"):
            cells.make_caches(bad)


class Adapter(nn.Cell):
    """A layer that is frozen, and what is trained beside and after it."""

    def __init__(self, attention: nn.Cell) -> None:
        super().__init__()
        self.attention = attention
        self.before = ms.Parameter(Tensor(np.full((1, 7168), 1.0, np.float32)), name="before")
        self.after = nn.Dense(7168, 3)

    def construct(self, token_x: Tensor, *inputs: Tensor) -> Tensor:
        x = token_x * self.before
        hidden_out = self.attention(ms.ops.cast(x, ms.bfloat16), *inputs)
        if isinstance(hidden_out, tuple):
            hidden_out = hidden_out[0]
        y = x + ms.ops.cast(hidden_out, ms.float32)
        return self.after(y).pow(2).mean()


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("lse", [False, True])
def test_a_gradient_ends_at_a_frozen_layer(how: str, lse: bool) -> None:
    """The gradients are those of a model whose layer is a constant."""
    step = Step()
    model = Adapter(make_layer(stop_gradient=True, return_lse=lse))
    token_x = weights.to_tensor(step.inputs[0]).astype(ms.float32)
    inputs = [*tensors(*step.inputs[1:]), *step.caches]
    assert [p.name for p in model.trainable_params()] == ["before", "after.weight", "after.bias"]
    with mode(how):
        function = ms.value_and_grad(model, None, model.trainable_params())
        loss, gradients = (ms.jit(function) if how == "jit" else function)(token_x, *inputs)
    x = token_x.asnumpy()
    hidden = weights.to_tensor(step.hidden_out).astype(ms.float32).asnumpy()
    w, bias = model.after.weight.asnumpy(), model.after.bias.asnumpy()
    out = (x + hidden) @ w.T + bias
    d_out = 2 * out / out.size
    np.testing.assert_allclose(loss.asnumpy(), (out**2).mean(), rtol=1e-4)
    np.testing.assert_allclose(gradients[0].asnumpy(), (d_out @ w * x).sum(axis=0, keepdims=True), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(gradients[1].asnumpy(), d_out.T @ (x + hidden), rtol=1e-3, atol=1e-5)
    for name, cache, want in zip(CACHES, step.caches, step.after, strict=True):
        same(name, cache, want)


def test_a_gradient_ends_at_lse_too() -> None:
    step, layer = Step(), make_layer(stop_gradient=True, return_lse=True)
    inputs = [*tensors(*step.inputs[1:]), *step.caches]

    def loss(token_x: Tensor) -> Tensor:
        return layer(token_x, *inputs)[1].sum() + token_x.astype(ms.float32).sum()

    gradient = ms.grad(loss)(weights.to_tensor(step.inputs[0]))
    assert (gradient.astype(ms.float32).asnumpy() == 1).all()


@pytest.mark.parametrize("how", MODES)
def test_a_gradient_through_a_layer_is_refused(layer: cells.SparseAttentionLayer, how: str) -> None:
    step = Step()
    model = Adapter(layer)
    token_x = weights.to_tensor(step.inputs[0]).astype(ms.float32)

    def train() -> Any:
        function = ms.value_and_grad(model, None, model.trainable_params())
        loss, _ = (ms.jit(function) if how == "jit" else function)(token_x, *tensors(*step.inputs[1:]), *step.caches)
        return loss.asnumpy()

    with mode(how), pytest.raises(Exception, match="inference only, there is no gradient"):
        train()
