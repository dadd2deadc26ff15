"""Configurations: the source's defaults, immutable, hashable, validated."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ms_dsv32 import config, golden, op_info
from ms_dsv32.config import (
    IndexerPrologQuantAttr,
    IndexerPrologQuantConfigs,
    MlaTileConfig,
    RopeTileShapeConfig,
    SaTileShapeConfig,
)

CLASSES = (MlaTileConfig, RopeTileShapeConfig, IndexerPrologQuantConfigs, SaTileShapeConfig, IndexerPrologQuantAttr)


def test_dimensions() -> None:
    dims = (config.H, config.N_Q, config.Q_LORA_RANK, config.KV_LORA_RANK, config.ROPE_DIM, config.QK_NOPE_HEAD_DIM)
    assert dims == (7168, 128, 1536, 512, 64, 128)
    more = (config.Q_HEAD_DIM, config.IDX_N_HEADS, config.IDX_HEAD_DIM, config.SELECTED_COUNT, config.BLOCK_SIZE)
    assert more == (192, 64, 128, 2048, 128)
    assert pytest.approx(golden.softmax_scale(yarn=True), rel=1e-15) == config.SOFTMAX_SCALE


@pytest.mark.parametrize("cls", CLASSES)
def test_immutable_hashable_and_known_to_op_info(cls: type[Any]) -> None:
    made = cls()
    assert made == cls()
    assert hash(made) == hash(cls())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(made)[0].name, 1)
    named = {a.config for name in op_info.names() for a in op_info.load(name).attrs}
    assert cls.__name__ in named


def test_lists_and_mappings_are_taken_and_copied() -> None:
    tile, setting = [32, 32, 256, 512, 128, 128], {3: 4, -1: 2}
    made = MlaTileConfig(cube_qb_tile=tile, cube_l1_reuse_setting=setting)
    tile[0], setting[-1] = 7, 7
    assert made.cube_qb_tile == (32, 32, 256, 512, 128, 128)
    assert made.cube_l1_reuse_setting == ((-1, 2), (3, 4))
    assert made == MlaTileConfig(cube_qb_tile=(32, 32, 256, 512, 128, 128), cube_l1_reuse_setting=[(-1, 2), (3, 4)])


def test_defaults_of_the_source() -> None:
    mla = MlaTileConfig()
    assert (mla.tile_b, mla.tile_s, mla.tile_bs, mla.m_tile, mla.mv_tile) == (8, 1, 8, 16, 16)
    assert mla.cube_wuk_tile == (32, 32, 256, 256, 256, 256)
    assert mla.unroll_list == (32, 16, 8, 4, 2, 1)
    assert dataclasses.astuple(IndexerPrologQuantAttr()) == (1e-6, "TND", "PA_BSND")
    attrs = {a.name: a.default for a in op_info.load("lightning_indexer_prolog_quant").attrs}
    for field in dataclasses.fields(IndexerPrologQuantAttr):
        assert field.default == attrs[field.name]


@pytest.mark.parametrize(
    ("cls", "fields", "error", "text"),
    [
        (MlaTileConfig, {"tile_b": 0}, ValueError, "MlaTileConfig: tile_b must be a positive int, got 0"),
        (MlaTileConfig, {"tile_bs": "8"}, TypeError, "tile_bs must be a positive int, got '8'"),
        (MlaTileConfig, {"m_tile": True}, TypeError, "m_tile must be a positive int, got True"),
        (MlaTileConfig, {"cube_qb_tile": [16] * 5}, ValueError, "cube_qb_tile must be 6 positive ints"),
        (MlaTileConfig, {"cube_qb_tile": 16}, TypeError, "cube_qb_tile must be 6 positive ints"),
        (MlaTileConfig, {"cube_wuk_tile": [32, 48, 1, 1, 1, 1]}, ValueError, "each L1 tile a multiple of its L0 tile"),
        (
            MlaTileConfig,
            {"cube_qb_tile": [16, 16, 1024, 1024, 128, 128]},
            ValueError,
            r"cube_qb_tile must be a tile that fits L0B \(65536 bytes; this one needs 131072\)",
        ),
        (MlaTileConfig, {"cube_wuk_tile": [512, 512, 128, 128, 64, 64]}, ValueError, "that fits L0A"),
        (MlaTileConfig, {"pre_quant_cube_tile": [256, 256, 16, 16, 256, 256]}, ValueError, "that fits L0C"),
        (SaTileShapeConfig, {"c1_tile_shape": [16, 512, 64, 512, 64, 512]}, ValueError, "that fits L1"),
        (SaTileShapeConfig, {"v1_tile_shape": [32, 2048]}, ValueError, "v1_tile_shape must be a tile that fits UB"),
        (MlaTileConfig, {"cube_l1_reuse_setting": {1: 3, "a": 2}}, ValueError, "must be a mapping of ints to ints"),
        (IndexerPrologQuantConfigs, {"block_size": 128.0}, TypeError, "block_size must be 128, got 128.0"),
        (MlaTileConfig, {"unroll_list": [4, 2]}, ValueError, "unroll_list must be ints in descending order that end"),
        (MlaTileConfig, {"unroll_list": []}, ValueError, "unroll_list must be ints in descending order that end"),
        (
            MlaTileConfig,
            {"cube_nbuffer_setting": {3: 0}},
            ValueError,
            "cube_nbuffer_setting must be a mapping of graph",
        ),
        (MlaTileConfig, {"cube_nbuffer_setting": 3}, TypeError, "cube_nbuffer_setting must be a mapping of ints"),
        (
            MlaTileConfig,
            {"cube_nbuffer_setting": [(1, 2), (1, 3)]},
            ValueError,
            "cube_nbuffer_setting must be a mapping",
        ),
        (MlaTileConfig, {"dynamic_unaligned_enable": 1}, TypeError, "dynamic_unaligned_enable must be a bool, got 1"),
        (
            RopeTileShapeConfig,
            {"two_dim": [1, 2, 3]},
            ValueError,
            "RopeTileShapeConfig: two_dim must be 2 positive ints",
        ),
        (IndexerPrologQuantConfigs, {"block_size": 64}, ValueError, "block_size must be 128, got 64"),
        (IndexerPrologQuantConfigs, {"chunk_size": -1}, ValueError, "chunk_size must be a positive int, got -1"),
        (SaTileShapeConfig, {"v1_tile_shape": [8, 0]}, ValueError, "v1_tile_shape must be 2 positive ints"),
        (IndexerPrologQuantAttr, {"layout_key": "TND"}, ValueError, "layout_key must be 'PA_BSND', got 'TND'"),
        (
            IndexerPrologQuantAttr,
            {"layernorm_epsilon_k": -1},
            ValueError,
            "layernorm_epsilon_k must be a finite number",
        ),
        (
            IndexerPrologQuantAttr,
            {"layernorm_epsilon_k": "0"},
            TypeError,
            "layernorm_epsilon_k must be a finite number",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    cls: type[Any], fields: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        cls(**fields)
