"""The whole layer on Ascend: beside the model in float32, and with what engines pass."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import checkpoints
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import mode
from float32_layer import Float32Layer
from mindspore import Tensor

from ms_dsv32 import cells, golden, paging, rope, weights

HEADS = 1
TOKENS = (5, 1, 2)
"""What each call computes: a prompt, and two steps of a sequence of 8 keys."""
MODES = ("pynative", "jit", "graph", "dynamic")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = checkpoints.renamed(checkpoints.fp8(HEADS).tensors, 0)
    return checkpoints.write(tmp_path_factory.mktemp("layer") / "model.safetensors", tensors)


def model() -> Float32Layer:
    """The float32 layer on the checkpoint's values."""
    made = checkpoints.fp8(HEADS)
    matrices = {module: made.meaning(module).astype(np.float32) for module in made.values}
    vectors = ("q_a_layernorm", "kv_a_layernorm", "indexer.k_norm")
    norms = {module: made.tensors[f"{module}.weight"].astype(np.float32) for module in vectors}
    return Float32Layer({**matrices, **norms, "indexer.k_norm.bias": made.tensors["indexer.k_norm.bias"]})


def hidden_states() -> Any:
    return golden.float32_to_bf16(np.random.default_rng(0).standard_normal((sum(TOKENS), 7168), dtype=np.float32))


def calls(engine: bool) -> list[list[Tensor]]:
    """The inputs of each call; of an engine with half-width float32 tables, int32 slots, int64 lengths and tables."""
    x, end, made = hidden_states(), 0, []
    table = paging.make_block_table([sum(TOKENS)])
    for s1 in TOKENS:
        end += s1
        positions = paging.token_positions([end], s1)
        cos, sin = (weights.to_tensor(t[0]) for t in rope.rope_tables(positions))
        slots, lengths = paging.cache_index_of(table, positions)[0], np.array([end], np.int32)
        if engine:
            cos, sin = (Tensor(np.ascontiguousarray(t.astype(ms.float32).asnumpy()[:, :32])) for t in (cos, sin))
            integers = [
                Tensor(slots.astype(np.int32)),
                Tensor(table.astype(np.int64)),
                Tensor(lengths.astype(np.int64)),
            ]
        else:
            integers = [Tensor(slots), Tensor(table), Tensor(lengths)]
        made.append([weights.to_tensor(x[end - s1 : end]), cos, sin, *integers])
    return made


def run(layer: cells.SparseAttentionLayer, how: str, engine: bool = False) -> Any:
    """hidden_out of all calls, bfloat16 bits."""
    caches, given = cells.make_caches(1), calls(engine)
    if how == "dynamic":
        layer.set_dynamic_tokens(1, like=given[0])
    call = ms.jit(layer) if how == "jit" else layer
    with mode("graph" if how == "dynamic" else how):
        return np.concatenate([weights.to_array(call(*inputs, *caches)) for inputs in given])


def make(path: Path, **arguments: Any) -> cells.SparseAttentionLayer:
    layer = cells.SparseAttentionLayer(1, HEADS, **arguments)
    layer.load(path, layer=0)
    return layer


@pytest.fixture(scope="module")
def usual(path: Path) -> Any:
    return run(make(path), "pynative")


def test_the_layer_is_near_float32(usual: Any) -> None:
    x, reference = golden.bf16_to_float32(hidden_states()), model()
    keys, want = reference.keys(x, 0), []
    for end in np.cumsum(TOKENS):
        s1 = TOKENS[len(want)]
        want.append(reference(x[end - s1 : end], keys.first(int(end))).hidden_out)
    got, expected = golden.bf16_to_float32(usual), np.concatenate(want)
    assert np.linalg.norm(got - expected) < 0.05 * np.linalg.norm(expected)


@pytest.mark.parametrize("how", MODES[1:])
def test_every_mode_gives_the_same_bits(path: Path, usual: Any, how: str) -> None:
    tolerance.assert_same_bits("hidden_out", run(make(path), how), usual)


@pytest.mark.parametrize("how", MODES)
def test_what_engines_pass(path: Path, usual: Any, how: str) -> None:
    tolerance.assert_same_bits("hidden_out", run(make(path), how, engine=True), usual)


@pytest.mark.parametrize("how", ["pynative", "graph"])
def test_copies_and_checkpoints(path: Path, usual: Any, how: str, tmp_path: Path) -> None:
    layer = make(path)
    tolerance.assert_same_bits("hidden_out", run(copy.deepcopy(layer), how), usual)
    ms.save_checkpoint(layer, str(tmp_path / "layer.ckpt"))
    parameters = ms.load_checkpoint(str(tmp_path / "layer.ckpt"))
    loaded = cells.SparseAttentionLayer(1, HEADS, stop_gradient=True)
    not_loaded, left = ms.load_param_into_net(loaded, parameters)
    assert not not_loaded
    assert not left
    tolerance.assert_same_bits("hidden_out", run(loaded, how), usual)
    parameters["epilog.layout"].set_data(Tensor([1], ms.int32))
    with pytest.raises(
        ValueError, match="mla_epilog_quant: layout says that the weights are laid out for CPU, expected"
    ):
        ms.load_param_into_net(loaded, parameters)
