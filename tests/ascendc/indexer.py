"""Runs the AscendC kernel of lightning_indexer_quant in the emulator."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from typing import Any

import numpy as np
from cases import Array, Case
from emulator import Absent, In, Out, Report, Tiling, Workspace
from launches import library
from tiling import library as tiling_library

OPERATOR = "lightning_indexer_quant"
TILING_SOURCE = """
#include "ms_dsv32/kernel_impl/ascendc/op_host/indexer_make_tiling.h"
extern "C" const char* make_tiling(const ms_dsv32::ascendc::IndexerShape* shape, uint32_t cores,
                                   ms_dsv32::ascendc::IndexerTiling* tiling) {
  return ms_dsv32::ascendc::MakeIndexerTiling(*shape, ms_dsv32::ascendc::Arch2201(cores), *tiling);
}
"""
SHAPE = ("selected_count", "block_num", "block_size", "max_blocknum")


class Shape(ctypes.Structure):
    """IndexerShape."""

    _fields_ = (*((name, ctypes.c_uint32) for name in ("t", "b", *SHAPE)), ("ragged", ctypes.c_bool))


class TilingData(ctypes.Structure):
    """IndexerTiling."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("cores", "t", "b", "s1", *SHAPE, "ragged", "unit_tokens")),
        *((name, ctypes.c_uint32) for name in ("rounds", "shared", "sharers", "lists", "list_records")),
        *((name, ctypes.c_uint64) for name in ("core_bytes", "list_offset", "workspace_bytes")),
    )


def make_tiling(cores: int, **shape: int) -> TilingData:
    """The tiling of a shape. Raises ValueError with the reason why it does not fit."""
    function = tiling_library(TILING_SOURCE).make_tiling
    function.restype = ctypes.c_char_p
    tiling = TilingData()
    reason = function(ctypes.byref(Shape(**shape)), ctypes.c_uint32(cores), ctypes.byref(tiling))
    if reason is not None:
        raise ValueError(reason.decode())
    return tiling


def shape_tiling(case: Case, cores: int) -> TilingData:
    paging = case.paging
    return make_tiling(
        cores,
        t=case.t,
        b=paging.b,
        selected_count=case.attributes["selected_count"],
        block_num=paging.block_num,
        block_size=paging.block_size,
        max_blocknum=case.inputs["block_table"].shape[1],
        ragged=case.ragged,
    )


def run(
    case: Case, cores: int = 1, misalign: int = 0, own: Collection[str] = (), **options: Any
) -> tuple[dict[str, Array], Report]:
    """topk_indices of the kernel, by name, and the launch's report, which must be clean.

    misalign: bytes by which query_act_seqs is misaligned. own: inputs that are larger than memory.
    """
    tiling = shape_tiling(case, cores)
    out = Out("topk_indices", (case.t, case.attributes["selected_count"]), np.int32)
    args = [
        *(In(name, v, misalign * (name == "query_act_seqs"), name in own) for name, v in case.inputs.items()),
        *([] if case.ragged else [Absent("query_act_seqs")]),
        out,
        Workspace(tiling.workspace_bytes),
        Tiling(bytes(tiling)),
    ]
    report = library(OPERATOR).launch(OPERATOR, args, blocks=tiling.cores, **options).check()
    return {out.name: out.array}, report
