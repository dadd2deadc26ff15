"""Runs the AscendC kernel of sparse_flash_attention_quant in the emulator."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from typing import Any

import numpy as np
from cases import Array, Case
from emulator import Absent, In, Out, Report, Tiling, Workspace
from launches import library
from tiling import library as tiling_library

OPERATOR = "sparse_flash_attention_quant"
TILING_SOURCE = """
#include "ms_dsv32/kernel_impl/ascendc/op_host/attention_make_tiling.h"
extern "C" const char* make_tiling(const ms_dsv32::ascendc::AttentionShape* shape, uint32_t cores,
                                   ms_dsv32::ascendc::AttentionTiling* tiling) {
  return ms_dsv32::ascendc::MakeAttentionTiling(*shape, ms_dsv32::ascendc::Arch2201(cores), *tiling);
}
extern "C" void make_team_tiling(const ms_dsv32::ascendc::AttentionShape* shape, uint32_t cores,
                                 uint32_t team, ms_dsv32::ascendc::AttentionTiling* tiling) {
  ms_dsv32::ascendc::MakeTeamTiling(*shape, ms_dsv32::ascendc::Arch2201(cores), team, *tiling);
}
"""


class Shape(ctypes.Structure):
    """AttentionShape."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("t", "b", "n_q", "topk", "block_num", "block_size", "max_blocknum")),
        ("softmax_scale", ctypes.c_float),
        ("ragged", ctypes.c_bool),
    )


class TilingData(ctypes.Structure):
    """AttentionTiling."""

    _fields_ = (
        *(
            (name, ctypes.c_uint32)
            for name in (
                "cores", "t", "b", "s1", "n_q", "topk", "block_num", "block_size", "max_blocknum", "ragged", "team",
                "slots", "head_parts", "column_parts", "key_rows", "key_chunk", "list_rows", "softmax_offset",
                "sort_offset", "stage_rows", "score_tile",
            )
        ),
        ("softmax_scale", ctypes.c_float),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "rope_offset", "score_offset", "probability_offset", "skipped_offset", "slot_bytes", "workspace_bytes",
            )
        ),
    )  # fmt: skip


def make_tiling(cores: int, team: int = 0, **shape: Any) -> TilingData:
    """The tiling of a shape, with teams of `team` cores if given. Raises ValueError with the reason why it does not
    fit."""
    functions = tiling_library(TILING_SOURCE)
    tiling = TilingData()
    if team:
        functions.make_team_tiling(
            ctypes.byref(Shape(**shape)), ctypes.c_uint32(cores), ctypes.c_uint32(team), ctypes.byref(tiling)
        )
        return tiling
    function = functions.make_tiling
    function.restype = ctypes.c_char_p
    reason = function(ctypes.byref(Shape(**shape)), ctypes.c_uint32(cores), ctypes.byref(tiling))
    if reason is not None:
        raise ValueError(reason.decode())
    return tiling


def shape_tiling(case: Case, cores: int, team: int = 0) -> TilingData:
    paging, attributes = case.paging, case.attributes
    return make_tiling(
        cores,
        team,
        t=case.t,
        b=paging.b,
        n_q=case.n_q,
        topk=attributes["topk"],
        block_num=paging.block_num,
        block_size=paging.block_size,
        max_blocknum=attributes["max_blocknum_perbatch"],
        softmax_scale=attributes["softmax_scale"],
        ragged=case.ragged,
    )


def run(
    case: Case, cores: int = 1, team: int = 0, own: Collection[str] = (), **options: Any
) -> tuple[dict[str, Array], Report]:
    """attention_out and lse of the kernel, and the launch's report, which must be clean.

    own: inputs that are larger than memory.
    """
    paging = case.paging
    tiling = shape_tiling(case, cores, team)
    tokens = (case.t,) if case.ragged else (paging.b, paging.s1)
    outputs = {
        "attention_out": Out("attention_out", (*tokens, case.n_q, 512), np.uint16),
        "lse": Out("lse", (*tokens, case.n_q), np.float32),
    }
    args = [
        *(In(name, value, own=name in own) for name, value in case.inputs.items()),
        *([] if case.ragged else [Absent("query_act_seqs")]),
        *outputs.values(),
        Workspace(tiling.workspace_bytes),
        Tiling(bytes(tiling)),
    ]
    report = library(OPERATOR).launch(OPERATOR, args, blocks=tiling.cores, **options).check()
    return {name: out.array for name, out in outputs.items()}, report
