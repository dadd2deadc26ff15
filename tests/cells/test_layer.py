"""The whole layer: its steps in every mode, what engines pass to it, and what it refuses."""

from __future__ import annotations

from typing import Any

import cases
import mindspore as ms
import numpy as np
import pytest
from calls import MODES, mode
from layers import COLUMNS, HEADS, Model, Step, engine, epilog_of, make_layer
from mindspore import Tensor
from sequences import CACHES, Sequences, run, same, tensors

from ms_dsv32 import cells, kernel_impl, weights
from ms_dsv32.config import ModelConfig


@pytest.fixture(scope="module")
def layer() -> cells.SparseAttentionLayer:
    return make_layer()


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
    """The tables hold bfloat16 values, so the result has the bits of bfloat16 tables."""
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


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_a_group_that_is_not_there(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def get_group_size(group: str) -> int:
        raise error(f"no {group}")

    monkeypatch.setattr(cells, "get_group_size", get_group_size)
    monkeypatch.setattr(cells.GlobalComm, "INITED", True)
    with pytest.raises(ValueError, match=r"SparseAttentionLayer: group is 'four', and there is no such group"):
        cells.SparseAttentionLayer(COLUMNS, 1, group="four")


@pytest.mark.parametrize(
    "make",
    [cells.MLAProlog, cells.MLAEpilog, cells.MLAIndexerProlog, lambda n_q: cells.SparseAttentionLayer(1, n_q)],
    ids=["MLAProlog", "MLAEpilog", "MLAIndexerProlog", "SparseAttentionLayer"],
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
