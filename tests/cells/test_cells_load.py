"""Cells keep what they had when a checkpoint is refused, in whole and in part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import tolerance

from ms_dsv32 import cells, weights

HEADS = range(1, 3)
CELLS: dict[str, Callable[[], Any]] = {
    "MLAProlog": lambda: cells.MLAProlog(len(HEADS)),
    "LightningIndexerProlog": cells.LightningIndexerProlog,
    "MLAIndexerProlog": lambda: cells.MLAIndexerProlog(len(HEADS)),
}


def tensors_of(layer: int, bad: bool = False) -> dict[str, Any]:
    """A layer of three heads: its scales tell heads and layer, and there is an unknown tensor of either prolog."""
    tensors = checkpoints.hollow(3, "W8A8_DYNAMIC")
    scale = np.arange(1, 3 * 192 + 1, dtype=np.float32)[:, None] + 1000 * layer
    change = {
        "q_b_proj.weight_scale": scale,
        "indexer.wq_b.weight_scale": np.full((8192, 1), layer + 1, np.float32),
        "more.weight": np.ones(1, np.float32),
        "indexer.more.weight": np.ones(1, np.float32),
    }
    if bad:
        change |= {"kv_a_layernorm.bias": np.ones(512, np.float32), "indexer.wk.bias": np.ones(128, np.float32)}
    return checkpoints.renamed({**tensors, **change}, layer)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers."""
    file = tmp_path_factory.mktemp("cells") / "model.safetensors"
    return checkpoints.write(file, {**tensors_of(0), **tensors_of(3)})


def options_of(name: str) -> dict[str, Any]:
    heads = {} if name == "LightningIndexerProlog" else {"heads": HEADS}
    return {"layer": 3, "allow_unknown": True, **heads}


@pytest.mark.parametrize("unknown", ["more.weight", "indexer.more.weight"])
def test_both_halves_of_a_cell_allow_what_is_unknown(tmp_path: Path, unknown: str) -> None:
    prefix = checkpoints.prefix_of(3)
    tensors = {n: t for n, t in tensors_of(3).items() if "more." not in n or n == prefix + unknown}
    path = checkpoints.write(tmp_path / "model.safetensors", tensors)
    options = options_of("MLAIndexerProlog")
    with pytest.raises(ValueError, match="is not known here"):
        CELLS["MLAIndexerProlog"]().load(path, **{**options, "allow_unknown": False})
    CELLS["MLAIndexerProlog"]().load(path, **options)


@pytest.mark.parametrize("name", CELLS)
def test_a_refused_checkpoint_sets_nothing(path: Path, tmp_path: Path, name: str) -> None:
    cell = CELLS[name]()
    cell.load(path, **options_of(name))
    before = cell.get_weights()
    bad = checkpoints.write(tmp_path / "bad.safetensors", tensors_of(3, bad=True))
    with pytest.raises(ValueError, match=r"bias\[0\] is 1, expected 0: the operators have no such term"):
        cell.load(bad, **options_of(name))
    for weight, array in cell.get_weights().items():
        tolerance.assert_same_bits(weight, array, before[weight])


def test_a_refused_indexer_leaves_the_other_half_too(path: Path, tmp_path: Path) -> None:
    """The halves of the cell are read one after the other, and set together."""
    cell = CELLS["MLAIndexerProlog"]()
    cell.load(path, **options_of("MLAIndexerProlog"))
    before = cell.get_weights()
    tensors = {**tensors_of(0), "model.layers.0.self_attn.indexer.k_norm.bias": np.full(128, np.nan, np.float32)}
    bad = checkpoints.write(tmp_path / "bad.safetensors", tensors)
    with pytest.raises(ValueError, match=r"k_norm\.bias\[0\] is nan"):
        cell.load(bad, **{**options_of("MLAIndexerProlog"), "layer": 0})
    for weight, array in cell.get_weights().items():
        tolerance.assert_same_bits(weight, array, before[weight])


def test_a_checkpoint_that_was_opened_serves_several_layers(path: Path) -> None:
    checkpoint = weights.Checkpoint(path)
    two = [CELLS["LightningIndexerProlog"]() for _ in range(2)]
    for cell, layer in zip(two, (0, 3), strict=True):
        cell.load(checkpoint, layer=layer, allow_unknown=True)
        assert (cell.get_weights()["w_qb_scale"] == layer + 1).all()
