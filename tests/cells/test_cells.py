"""Cells give the bits of the operators that they hold, and steps of them the bits of the bare kernels, one by one."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import cases
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import MODES, bare, mode
from mindspore import Parameter, nn
from safetensors import safe_open
from sequences import CACHES, EPSILONS, FUSED_EPSILONS, SCALE, Sequences, make_step, run, same, step_weights, tensors

from ms_dsv32 import cells, golden, weights
from ms_dsv32.config import ModelConfig, RopeTileShapeConfig


@pytest.fixture(scope="module")
def step() -> cells.SparseAttentionStep:
    return make_step()


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("split", [False, True])
def test_mla_epilog(how: str, split: bool) -> None:
    case = cases.mla_epilog_case(2, 2, 3, split=split)
    cell = cells.MLAEpilog(3)
    assert [p.name for p in cell.get_parameters()] == ["layout", *weights.EPILOG_WEIGHTS]
    assert not any(array.any() for array in cell.get_weights().values())  # zero until they are set
    cell.set_weights(cases.epilog_weights(3))
    same("hidden_out", run(cell, how, *tensors(case.inputs["attention_out"])), bare(case)["hidden_out"])


@pytest.mark.parametrize("target", ["CPU", "Ascend"])
def test_an_epilogs_weights_are_laid_out_and_restored(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ms.get_context
    monkeypatch.setattr(ms, "get_context", lambda key: target if key == "device_target" else real(key))
    arrays, cell = cases.epilog_weights(2), cells.MLAEpilog(2)
    cell.set_weights(arrays)
    for name in weights.EPILOG_WEIGHTS:
        same(name, getattr(cell, name), weights.prepare(name, arrays[name], target))
        tolerance.assert_same_bits(name, cell.get_weights()[name], arrays[name])
    changed = {"CPU": ["w_uv", "w_o"], "Ascend": ["w_o"]}[target]  # w_uv is ND on Ascend
    stored = {name: weights.to_array(getattr(cell, name)) for name in weights.EPILOG_WEIGHTS}
    assert [name for name in stored if stored[name].tobytes() != arrays[name].tobytes()] == changed
    cell.save(tmp_path / "epilog.safetensors")
    with safe_open(tmp_path / "epilog.safetensors", framework="numpy") as file:
        tolerance.assert_same_bits("w_o", file.get_tensor("w_o"), arrays["w_o"])
    for name, bad in (("w_o", arrays["w_o"][:-1]), ("w_uv", arrays["w_uv"].view(np.int16)), ("w_o_scale", None)):
        given = {k: v for k, v in {**arrays, name: bad}.items() if v is not None}
        with pytest.raises((TypeError, ValueError), match=f"weights: {name} "):
            cell.set_weights(given)
        tolerance.assert_same_bits(name, cell.get_weights()[name], arrays[name])


@pytest.mark.parametrize("how", ["pynative", "graph"])
def test_a_prompt_in_chunks_and_many_decode_steps(how: str) -> None:
    """Over block boundaries; in graph mode one compiled graph serves all."""
    step = make_step()
    one = Sequences(1, 4, 4)
    caches = tensors(*one.caches)
    if how == "graph":
        step.set_dynamic_tokens(4)
    for s1 in (100, 1, 27, 1, 1, 60, *range(1, 5), *[1] * 10):  # ends at 210, over the boundary at 128
        inputs = one.advance(s1)
        want = one.bare(inputs)
        with mode(how):
            got = step(*tensors(*inputs), *caches)
        same(f"attention_out at {one.lengths}", got, want)
    assert one.lengths[0] == 210
    for name, cache, want in zip(CACHES, caches, one.caches, strict=True):
        same(name, cache, want)


@pytest.mark.parametrize("parameters", [False, True])
@pytest.mark.parametrize("how", MODES)
def test_decoding_of_several_sequences(step: cells.SparseAttentionStep, how: str, parameters: bool) -> None:
    several = Sequences(3, 4, 6, seed=1)
    caches: list[Any] = tensors(*several.caches)
    if parameters:
        caches = [Parameter(c, name=n, requires_grad=False) for n, c in zip(CACHES, caches, strict=True)]
    call = ms.jit(step) if how == "jit" else step
    for s1 in (2, 3, 2, 2):
        inputs = several.advance(s1)
        want = several.bare(inputs)
        with mode(how):
            same("attention_out", call(*tensors(*inputs), *caches), want)
    for name, cache, want in zip(CACHES, caches, several.caches, strict=True):
        same(name, cache, want)


class TwoLayers(nn.Cell):
    """Two layers with caches of their own."""

    def __init__(self, first: nn.Cell, second: nn.Cell) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def construct(self, token_x, cos, sin, index, block_table, lengths, caches, more):
        a = self.first(token_x, cos, sin, index, block_table, lengths, *caches)
        b = self.second(token_x, cos, sin, index, block_table, lengths, *more)
        return a, b


@pytest.mark.parametrize("how", MODES)
def test_layers_of_a_larger_model(step: cells.SparseAttentionStep, how: str) -> None:
    one, two = Sequences(2, 4, 4, seed=2), Sequences(2, 4, 4, seed=2)
    model = TwoLayers(step, make_step())
    caches, more = ms.mutable(tensors(*one.caches)), ms.mutable(tensors(*two.caches))
    call = ms.jit(model) if how == "jit" else model
    for s1 in (1, 2, 1):
        inputs, again = one.advance(s1), two.advance(s1)
        want, want_more = one.bare(inputs), two.bare(again)
        with mode(how):
            a, b = call(*tensors(*inputs), caches, more)
        same("first", a, want)
        same("second", b, want_more)
    for name, cache, want in zip(CACHES, [*caches], one.caches, strict=True):
        same(name, cache, want)


def test_a_step_against_the_golden_reference(step: cells.SparseAttentionStep) -> None:
    one = Sequences(1, 4, 4, seed=3)
    caches = tensors(*one.caches)
    inputs = one.advance(130)
    token_x, cos, sin, index, block_table, lengths = inputs
    got = weights.to_array(step(*tensors(*inputs), *caches))
    fused = golden.fused_weights(cases.mla_weights(4), cases.indexer_weights())
    mla, indexer = list(fused.values())[:7], list(fused.values())[7:]
    pages = [np.zeros_like(c) for c in one.caches]
    inputs = [token_x, *mla, cos, sin, index, *pages[:3], *indexer, *pages[3:]]
    out = golden.mla_indexer_prolog_quant(*inputs, **FUSED_EPSILONS)
    topk = golden.lightning_indexer_quant(out[5], out[6], out[9], *out[7:9], block_table, lengths)
    want = golden.sparse_flash_attention_quant(
        *out[:2],
        *out[2:5],
        topk,
        block_table,
        lengths,
        nq=4,
        n_kv=1,
        softmax_scale=SCALE,
        topk=2048,
        block_size=128,
        max_blocknum_perbatch=3,
    )
    # Both round to bfloat16 and int8 at each stage; an int8 step of a key moves an output by about 1 % of its size.
    a, b = golden.bf16_to_float32(got), golden.bf16_to_float32(want)
    assert np.linalg.norm(a - b) / np.linalg.norm(b) < 0.01


MODEL = ModelConfig(
    n_q=2, epsilon_cq=0.5, epsilon_ckv=0.25, layernorm_epsilon_k=0.125, selected_count=64, rope_factor=20.0
)


def test_cells_from_a_models_configuration() -> None:
    """Each takes its own values. An argument that is given replaces the configuration's value."""
    mla = cells.MLAProlog.from_config(MODEL, rope_cfg=RopeTileShapeConfig())
    assert (mla.w_uk.shape[0], mla.epsilon_cq, mla.epsilon_ckv) == (2, 0.5, 0.25)
    assert mla.rope_cfg == RopeTileShapeConfig()
    assert cells.LightningIndexerProlog.from_config(MODEL).layernorm_epsilon_k == 0.125
    assert cells.LightningIndexer.from_config(MODEL).selected_count == 64
    attention = cells.SparseFlashAttention.from_config(MODEL, max_blocknum_perbatch=3)
    assert (attention.n_q, attention.topk, attention.softmax_scale) == (2, 64, MODEL.softmax_scale)
    assert attention.max_blocknum_perbatch == 3
    step = cells.SparseAttentionStep.from_config(MODEL, max_blocknum_perbatch=3, n_q=1, return_lse=True)
    fused = step.prolog
    assert (fused.mla.w_uk.shape[0], fused.mla.epsilon_cq, fused.mla.epsilon_ckv) == (1, 0.5, 0.25)
    assert fused.indexer.layernorm_epsilon_k == fused.ip_attrs.layernorm_epsilon_k == 0.125
    assert (step.attention.n_q, step.attention.softmax_scale, step.attention.return_lse) == (
        1,
        MODEL.softmax_scale,
        True,
    )
    assert step.indexer.selected_count == step.attention.topk == 64
    assert cells.SparseAttentionStep.from_config(MODEL).max_blocknum_perbatch is None
    with pytest.raises(TypeError, match="MLAProlog: config must be a ModelConfig, got str"):
        cells.MLAProlog.from_config("config.json")


@pytest.mark.parametrize(
    "cls",
    [
        cells.MLAProlog,
        cells.LightningIndexerProlog,
        cells.MLAIndexerProlog,
        cells.LightningIndexer,
        cells.SparseFlashAttention,
        cells.MLAEpilog,
        cells.SparseAttentionStep,
        cells.SparseAttentionLayer,
    ],
)
def test_defaults_of_the_cells_are_the_models(cls: Any) -> None:
    """So a cell that is made without a configuration is DeepSeek-V3.2-Exp's."""
    model = ModelConfig()
    known = {**vars(model), "softmax_scale": model.softmax_scale, "topk": model.selected_count}
    parameters = inspect.signature(cls).parameters
    taken = {name for name in cls._model_arguments if name in parameters}
    assert taken == set(parameters) & set(known)
    assert {name: parameters[name].default for name in taken} == {name: known[name] for name in taken}


def test_all_heads_of_the_model() -> None:
    case = cases.mla_prolog_case(1, 2, 128, 3).with_attributes(**EPSILONS)
    cell = cells.MLAProlog()
    cell.set_weights(cases.mla_weights(128))
    names = ("token_x", "cos", "sin", "cache_index", "kv_cache", "kr_cache", "k_scale_cache")
    results = run(cell, "graph", *tensors(*(case.inputs[n] for n in names)))
    for name, result in zip(case.outputs[:4], results, strict=True):
        same(name, result, bare(case)[name])


def test_weights_are_parameters_that_files_keep(tmp_path: Path) -> None:
    cell = cells.MLAIndexerProlog(2)
    layer = step_weights(2)
    assert all(not cell.get_weights()[n].any() for n in ("w_dq", "w_qb"))  # zero until they are set
    cell.set_weights(layer)
    names = [p.name for p in cell.get_parameters()]
    mla, indexer = ("layout", *weights.MLA_WEIGHTS), ("layout", *weights.INDEXER_WEIGHTS)
    assert names == [f"mla.{n}" for n in mla] + [f"indexer.{n}" for n in indexer]
    assert not cell.trainable_params()

    cell.save(tmp_path / "layer.safetensors")
    loaded = cells.MLAIndexerProlog(2)
    loaded.load(tmp_path / "layer.safetensors")
    ms.save_checkpoint(cell, str(tmp_path / "layer.ckpt"))
    restored = cells.MLAIndexerProlog(2)
    missing, _ = ms.load_param_into_net(restored, ms.load_checkpoint(str(tmp_path / "layer.ckpt")))
    assert not missing
    for other in (loaded, restored):
        for name, array in other.get_weights().items():
            tolerance.assert_same_bits(name, array, layer[name])


def test_a_part_of_the_heads_from_a_file(tmp_path: Path) -> None:
    weights.save(tmp_path / "mla.safetensors", cases.mla_weights(4))
    cell = cells.MLAProlog(2)
    cell.load(tmp_path / "mla.safetensors", heads=range(1, 3))
    whole = cases.mla_weights(4)
    tolerance.assert_same_bits("w_uk", cell.get_weights()["w_uk"], whole["w_uk"][1:3])
    with pytest.raises(ValueError, match=r"weights: w_uq_qr has shape \(1536, 768\), expected "):
        cell.load(tmp_path / "mla.safetensors")


@pytest.mark.parametrize("how", MODES)
def test_weights_set_after_compilation_count(how: str) -> None:
    case = cases.mla_prolog_case(1, 1, 2, 3).with_attributes(**EPSILONS)
    cell = cells.MLAProlog(2)
    call = ms.jit(cell) if how == "jit" else cell
    names = ("token_x", "cos", "sin", "cache_index", "kv_cache", "kr_cache", "k_scale_cache")
    for seed in (0, 1):
        arrays = cases.mla_weights(2, seed)
        cell.set_weights(arrays)
        with mode(how):
            result = call(*tensors(*(case.inputs[n] for n in names)))[2]
        same("query_nope_out", result, bare(case.copy(**arrays))["query_nope_out"])


def test_weights_are_copied() -> None:
    arrays = {name: array.copy() for name, array in cases.mla_weights(1).items()}
    cell = cells.MLAProlog(1)
    cell.set_weights(arrays)
    want = cell.get_weights()
    for array in arrays.values():
        array[:] = 0
    for name, array in cell.get_weights().items():
        tolerance.assert_same_bits(name, array, want[name])
        assert array.any(), name


def test_bad_weights_set_nothing() -> None:
    cell = cells.MLAIndexerProlog(2)
    layer = step_weights(2)
    for change, text in (
        ({"wk": None}, "wk is missing"),
        ({"w_uk": layer["w_uk"][:1]}, "w_uk has shape"),
        ({"w_proj": layer["w_proj"][:, :32]}, "w_proj has shape"),
    ):
        with pytest.raises(ValueError, match=text):
            cell.set_weights({k: v for k, v in {**layer, **change}.items() if v is not None})
        assert not any(array.any() for array in cell.get_weights().values())
