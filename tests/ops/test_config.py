"""Configurations: the source's defaults, assignable until they are copied by value, validated."""

from __future__ import annotations

import copy
import dataclasses
import pickle
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


def test_a_dimension_of_any_size_is_no_constant() -> None:
    with pytest.raises(ValueError, match=r"^config: dim n_q has no fixed value$"):
        config._value("n_q")
    with pytest.raises(ValueError, match=r"^config: dim block_num has no maximum$"):
        config._maximum("block_num")


@pytest.mark.parametrize("cls", CLASSES)
def test_equal_by_value_and_known_to_op_info(cls: type[Any]) -> None:
    assert cls() == cls()
    assert cls() != object()
    named = {a.config for name in op_info.names() for a in op_info.load(name).attrs}
    assert cls.__name__ in named
    assert MlaTileConfig(tile_bs=4) != MlaTileConfig()
    assert RopeTileShapeConfig() != SaTileShapeConfig()


@pytest.mark.parametrize("cls", CLASSES)
def test_only_a_frozen_copy_is_hashable_and_it_cannot_change(cls: type[Any]) -> None:
    made = cls()
    with pytest.raises(TypeError, match="unhashable"):
        hash(made)
    frozen = made.frozen()
    assert isinstance(frozen, cls)
    assert frozen == made
    assert made == frozen
    assert hash(frozen) == hash(cls().frozen())
    assert frozen.frozen() is frozen
    name = dataclasses.fields(made)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError, match=f"{cls.__name__}: {name} cannot be assigned"):
        setattr(frozen, name, getattr(made, name))
    for other in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert other == frozen
        assert hash(other) == hash(frozen)
    replaced = dataclasses.replace(frozen)
    setattr(replaced, name, getattr(made, name))  # assignable again
    assert replaced == made


def test_a_frozen_copy_shares_nothing() -> None:
    made = MlaTileConfig()
    frozen = made.frozen()
    made.tile_bs = 16
    made.cube_qb_tile[0] = made.cube_qb_tile[1] = 32
    made.cube_l1_reuse_setting["Query-Linear"] = 2
    assert frozen == MlaTileConfig()
    assert frozen.cube_qb_tile == (16, 16, 256, 256, 128, 128)
    assert made.frozen().cube_qb_tile == (32, 32, 256, 256, 128, 128)
    assert MlaTileConfig() != made  # nor do two objects share their defaults


def test_scripts_of_the_source_assign() -> None:
    """Assignment of fields and items, lists that stay the caller's, settings by number and by label."""
    made = MlaTileConfig()
    made.tile_bs = 128
    m_tile = (min(128, made.tile_bs) + 15) // 16 * 16
    made.pre_quant_cube_tile[0] = m_tile  # larger than its L1 tile until the next line
    made.pre_quant_cube_tile[1] = m_tile
    made.cube_qb_tile = [m_tile, m_tile, 256, 256, 256, 256]
    made.unroll_list = [128, 64, 32, 16, 8, 4, 2, 1]
    made.cube_l1_reuse_setting = {0: 2, 1: 1, 3: 4}
    made.cube_nbuffer_setting = {-2: 1, -1: 4}
    made.dynamic_unaligned_enable = True
    assert made.frozen().pre_quant_cube_tile == (128, 128, 256, 256, 128, 128)
    shared = [16, 16, 128, 128, 128, 128]
    made.cube_wuk_tile = shared
    assert made.cube_wuk_tile is shared
    configs = IndexerPrologQuantConfigs(cube_l1_reuse_setting={"Query-Linear": 4}, vec_nbuffer_setting={"DEFAULT": 1})
    configs.cube_l1_reuse_setting = {}  # all is left to the source's compiler
    assert configs.frozen() == configs


def test_sequences_and_pairs_are_taken() -> None:
    made = MlaTileConfig(cube_qb_tile=(32, 32, 256, 512, 128, 128), cube_l1_reuse_setting=[(-1, 2), (3, 4)])
    assert made.cube_qb_tile == [32, 32, 256, 512, 128, 128]
    assert made == MlaTileConfig(cube_qb_tile=[32, 32, 256, 512, 128, 128], cube_l1_reuse_setting={3: 4, -1: 2})


def test_a_tile_is_cut_to_its_axis() -> None:
    """w_uk has 128 rows: a tile of 2048 of them takes no more of L1."""
    assert MlaTileConfig(cube_wuk_tile=[32, 128, 256, 2048, 256, 256]).cube_wuk_tile[3] == 2048
    assert SaTileShapeConfig(c2_tile_shape=[128, 128, 128, 128, 128, 2048]).c2_tile_shape[5] == 2048


def test_an_assignment_is_checked_when_it_is_made() -> None:
    made = MlaTileConfig()
    with pytest.raises(ValueError, match="MlaTileConfig: tile_bs must be a positive int, got 0"):
        made.tile_bs = 0
    with pytest.raises(ValueError, match="MlaTileConfig: cube_qb_tile must be a tile that fits L0A"):
        made.cube_qb_tile = [512, 512, 512, 512, 64, 64]
    with pytest.raises(AttributeError, match="MlaTileConfig: no field 'tile_bb'; there are tile_b, tile_s, "):
        made.tile_bb = 8
    with pytest.raises(AttributeError, match="'tile_bs' cannot be deleted"):
        del made.tile_bs
    assert made == MlaTileConfig()


def test_a_change_in_place_is_checked_when_it_is_copied() -> None:
    made = SaTileShapeConfig()
    made.v1_tile_shape[0] = 0
    with pytest.raises(ValueError, match=r"SaTileShapeConfig: v1_tile_shape must be 2 positive ints, got \[0, 2048\]"):
        made.frozen()
    configs = IndexerPrologQuantConfigs()
    configs.vec_nbuffer_setting[-1] = "1"
    with pytest.raises(ValueError, match="IndexerPrologQuantConfigs: vec_nbuffer_setting must be a mapping"):
        configs.frozen()


def test_the_sources_names_of_the_attributes() -> None:
    made = IndexerPrologQuantAttr(eps=1e-3, layerout_query="TND", layerout_key="PA_BSND")
    assert made == IndexerPrologQuantAttr(1e-3)
    assert (made.eps, made.layerout_query, made.layerout_key) == (1e-3, "TND", "PA_BSND")
    made.eps = 1
    assert made.layernorm_epsilon_k == made.frozen().eps == 1.0
    made.layernorm_epsilon_k = 0.5
    assert made.eps == 0.5
    with pytest.raises(ValueError, match="IndexerPrologQuantAttr: layout_key must be 'PA_BSND', got 'BSND'"):
        made.layerout_key = "BSND"
    with pytest.raises(ValueError, match="layernorm_epsilon_k must be a finite number >= 0, got -1"):
        IndexerPrologQuantAttr(eps=-1)
    with pytest.raises(TypeError, match="layernorm_epsilon_k must be a finite number >= 0, got None"):
        IndexerPrologQuantAttr(eps=None)
    with pytest.raises(TypeError, match="layout_query and layerout_query are names of one attribute"):
        IndexerPrologQuantAttr(layout_query="TND", layerout_query="TND")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.frozen().eps = 1e-6


def test_defaults_of_the_source() -> None:
    mla = MlaTileConfig()
    assert (mla.tile_b, mla.tile_s, mla.tile_bs, mla.m_tile, mla.mv_tile) == (8, 1, 8, 16, 16)
    assert mla.cube_wuk_tile == [32, 32, 256, 256, 256, 256]
    assert mla.unroll_list == [32, 16, 8, 4, 2, 1]
    assert (mla.cube_l1_reuse_setting, mla.cube_nbuffer_setting) == ({-1: 4}, {3: 4})
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
        (MlaTileConfig, {"cube_l1_reuse_setting": {1: 3, "": 2}}, ValueError, "must be a mapping of graph numbers"),
        (MlaTileConfig, {"cube_l1_reuse_setting": {-3: 2}}, ValueError, "must be a mapping of graph numbers"),
        (MlaTileConfig, {"cube_l1_reuse_setting": {True: 2}}, ValueError, "must be a mapping of graph numbers"),
        (MlaTileConfig, {"cube_l1_reuse_setting": {"MM1": True}}, ValueError, "must be a mapping of graph numbers"),
        (MlaTileConfig, {"cube_l1_reuse_setting": ["ab"]}, ValueError, "must be a mapping of graph numbers"),
        (IndexerPrologQuantConfigs, {"block_size": 128.0}, TypeError, "block_size must be 128, got 128.0"),
        (MlaTileConfig, {"unroll_list": [4, 2]}, ValueError, "unroll_list must be ints in descending order that end"),
        (
            MlaTileConfig,
            {"unroll_list": [2, 2, 1]},
            ValueError,
            "unroll_list must be ints in descending order that end",
        ),
        (MlaTileConfig, {"unroll_list": []}, ValueError, "unroll_list must be ints in descending order that end"),
        (
            MlaTileConfig,
            {"cube_nbuffer_setting": {3: 0}},
            ValueError,
            "cube_nbuffer_setting must be a mapping of graph",
        ),
        (MlaTileConfig, {"cube_nbuffer_setting": 3}, TypeError, "cube_nbuffer_setting must be a mapping of graph"),
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
