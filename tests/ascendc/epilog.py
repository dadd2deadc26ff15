"""Runs the AscendC kernel of mla_epilog_quant in the emulator."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import cases
import numpy as np
from cases import Array, Case
from emulator import In, Out, Report, Tiling, Workspace
from launches import library
from numpy.typing import NDArray
from tiling import library as tiling_library

from ms_dsv32.weights import to_nz

OPERATOR = "mla_epilog_quant"
TILING_SOURCE = """
#include "ms_dsv32/kernel_impl/ascendc/op_host/epilog_make_tiling.h"
using namespace ms_dsv32::ascendc;
extern "C" const char* make_tiling(uint32_t t, uint32_t n_q, uint32_t cores, EpilogTiling* tiling) {
  return MakeEpilogTiling({t, n_q}, Arch2201(cores), *tiling);
}
"""
MOST_CORES = 31


class Piece(ctypes.Structure):
    """EpilogPiece."""

    _fields_ = (("group", ctypes.c_uint16), ("begin", ctypes.c_uint8), ("end", ctypes.c_uint8))


class TilingData(ctypes.Structure):
    """EpilogTiling."""

    _fields_ = (
        *(
            (name, ctypes.c_uint32)
            for name in (
                "cores", "t", "n_q", "token_step", "left_bytes", "head_places", "output_places", "slots", "slot_bytes",
                "shared_groups",
            )
        ),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "quantised_offset", "scale_offset", "sums_offset", "sums_bytes", "step_bytes", "workspace_bytes",
            )
        ),
        ("groups", ctypes.c_uint16 * (MOST_CORES + 1)),
        ("pieces", Piece * (MOST_CORES + 1)),
    )  # fmt: skip


def shape_tiling(t: int, n_q: int, cores: int) -> TilingData:
    make = tiling_library(TILING_SOURCE).make_tiling
    make.restype = ctypes.c_char_p
    data = TilingData()
    refusal = make(t, n_q, cores, ctypes.byref(data))
    if refusal is not None:
        raise ValueError(refusal.decode())
    return data


@functools.lru_cache(maxsize=2)
def _nz(n_q: int) -> NDArray[np.int8]:
    return to_nz(cases.epilog_weights(n_q)["w_o"])


def run(case: Case, blocks: int = 1, **options: Any) -> tuple[dict[str, Array], Report]:
    """hidden_out of the kernel, by name, and the launch's report, which must be clean.

    options: of Library.launch.
    """
    inputs = case.inputs
    attention_out, w_o = inputs["attention_out"], inputs["w_o"]
    t = attention_out.size // (case.n_q * 512)
    tiling = shape_tiling(t, case.n_q, blocks)
    out = Out("hidden_out", (t, 7168), np.uint16)
    args = [
        In("attention_out", attention_out),
        In("w_uv", inputs["w_uv"]),
        In("w_o", _nz(case.n_q) if w_o is cases.epilog_weights(case.n_q)["w_o"] else to_nz(w_o)),
        In("w_o_scale", inputs["w_o_scale"]),
        out,
        Workspace(tiling.workspace_bytes),
        Tiling(bytes(tiling)),
    ]
    report = library(OPERATOR).launch(OPERATOR, args, blocks=tiling.cores, **options).check()
    return {out.name: out.array}, report


@functools.lru_cache(maxsize=2)
def case_of(t: int, n_q: int) -> Case:
    return cases.mla_epilog_case(t, 1, n_q, 1, seed=t)


@functools.lru_cache(maxsize=2)
def golden_of(t: int, n_q: int) -> dict[str, Array]:
    return case_of(t, n_q).golden()
