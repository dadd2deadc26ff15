"""Calls copy a configuration by value: what the caller changes afterwards changes no kernel, and is checked itself."""

from __future__ import annotations

from typing import Any

import cases
import mindspore as ms
import pytest
import tolerance
from calls import MODES, bare, mode, tensors
from mindspore import nn

from ms_dsv32 import cells, ops, weights
from ms_dsv32.config import IndexerPrologQuantAttr, MlaTileConfig, SaTileShapeConfig


class Fused(nn.Cell):
    def __init__(self, attrs: IndexerPrologQuantAttr) -> None:
        super().__init__()
        self.attrs = attrs

    def construct(self, *inputs):
        return ops.mla_indexer_prolog_quant(*inputs, ip_attrs=self.attrs)


def keys(function: Any, case: cases.Case) -> Any:
    """The indexer keys' scales that a call writes."""
    given = tensors(case)
    function(*given.values())
    return weights.to_array(given["ip_k_cache_scale"]).copy()


def test_a_later_change_counts_for_later_calls_only() -> None:
    case = cases.fused_prolog_case(1, 1, 1, [3])
    want = {epsilon: case.with_attributes(ip_attrs=IndexerPrologQuantAttr(epsilon)) for epsilon in (1e-6, 0.5)}
    attrs = IndexerPrologQuantAttr(eps=0.5)
    cell = Fused(attrs)
    for epsilon in (0.5, 1e-6, 0.5):
        attrs.eps = epsilon
        tolerance.assert_same_bits("k_scale", keys(cell, case), bare(want[epsilon])["ip_k_scale_out"])


@pytest.mark.parametrize("how", MODES)
def test_a_cell_keeps_a_copy(how: str) -> None:
    case = cases.attention_case(1, 1, 1, [3])
    columns = case.paging.block_table.shape[1]
    config = SaTileShapeConfig(g_tile=64)
    cell = cells.SparseFlashAttention(columns, 1, tile_config=config)
    config.g_tile = 32
    config.v1_tile_shape[0] = 0  # does not fit, and is no longer the cell's
    assert cell.tile_config == SaTileShapeConfig(g_tile=64)
    hash(cell.tile_config)
    with mode(how):
        result = (ms.jit(cell) if how == "jit" else cell)(*tensors(case).values())
    want = bare(case.with_attributes(softmax_scale=cell.softmax_scale))["attention_out"]
    tolerance.assert_same_bits("attention_out", weights.to_array(result), want)


CHANGED = MlaTileConfig()


class Prolog(nn.Cell):
    def construct(self, *inputs):
        return ops.mla_prolog_quant(*inputs, tile_config=CHANGED)[0]


@pytest.mark.parametrize("how", MODES)
def test_a_change_in_place_that_does_not_fit_is_refused_at_the_call(how: str) -> None:
    case = cases.mla_prolog_case(1, 1, 1, [3])
    before = list(CHANGED.cube_qb_tile)
    CHANGED.cube_qb_tile[0] = 0
    cell = Prolog()
    try:
        with mode(how), pytest.raises(ValueError, match="MlaTileConfig: cube_qb_tile must be 6 positive ints"):
            (ms.jit(cell) if how == "jit" else cell)(*tensors(case).values())
        CHANGED.cube_qb_tile[0] = 16
        with mode(how):
            result = (ms.jit(cell) if how == "jit" else cell)(*tensors(case).values())
        tolerance.assert_same_bits("q_norm", weights.to_array(result), bare(case)["q_norm_out"])
    finally:
        CHANGED.cube_qb_tile[:] = before


def test_one_kernel_for_equal_configurations() -> None:
    from ms_dsv32.ops.mla_prolog_quant import _operator

    inputs = list(tensors(cases.mla_prolog_case(1, 1, 1, [3])).values())

    def kernel(config: MlaTileConfig) -> Any:
        return _operator(1e-5, 1e-5, "PA_BSND", config, None, "ND", *inputs)[0]

    config = MlaTileConfig(tile_bs=2)
    first = kernel(config)
    config.tile_bs = 4
    assert kernel(config) is not first
    assert kernel(MlaTileConfig(tile_bs=2)) is first
