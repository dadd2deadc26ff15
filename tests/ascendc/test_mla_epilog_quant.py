"""mla_epilog_quant in the emulator against golden: shapes, block counts, pipe orders, NaN, zeros."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import cases
import numpy as np
import pytest
from cases import Case
from emulator import In, Library, Out, Report, Tiling, Workspace, build
from numpy.typing import NDArray
from tiling import OP_KERNEL, TilingRefusedError
from tiling import library as tiling_library
from tolerance import assert_close_output, assert_same_bits

from ms_dsv32 import golden
from ms_dsv32.weights import to_nz

OPERATOR = "mla_epilog_quant"
TILING_SOURCE = """
#include "ms_dsv32/kernel_impl/ascendc/op_host/epilog_make_tiling.h"
using namespace ms_dsv32::ascendc;
extern "C" const char* make_tiling(uint32_t t, uint32_t n_q, uint32_t cores, uint32_t l1, EpilogTiling* tiling) {
  Platform platform = Arch2201(cores);
  if (l1) platform.l1 = l1;
  return MakeMlaEpilogQuantTiling({t, n_q}, platform, *tiling);
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


@functools.cache
def library() -> Library:
    return build(OP_KERNEL / f"{OPERATOR}.cpp", [OPERATOR])


def shape_tiling(t: int, n_q: int, cores: int, l1: int = 0) -> TilingData:
    """Tiling data. `l1`: bytes of L1 instead of the architecture's."""
    make = tiling_library(TILING_SOURCE).make_tiling
    make.restype = ctypes.c_char_p
    data = TilingData()
    refusal = make(t, n_q, cores, l1, ctypes.byref(data))
    if refusal is not None:
        raise TilingRefusedError(refusal.decode())
    return data


@functools.lru_cache(maxsize=2)
def _nz(n_q: int) -> NDArray[np.int8]:
    return to_nz(cases.epilog_weights(n_q)["w_o"])


def run(case: Case, blocks: int = 1, **options: Any) -> tuple[NDArray[np.uint16], Report]:
    """hidden_out of the kernel, and the launch's report, which must be clean.

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
    report = library().launch(OPERATOR, args, blocks=tiling.cores, **options).check()
    return out.array, report


@functools.lru_cache(maxsize=2)
def case_of(t: int, n_q: int) -> Case:
    return cases.mla_epilog_case(t, 1, n_q, 1, seed=t)


@functools.lru_cache(maxsize=2)
def golden_of(t: int, n_q: int) -> NDArray[np.uint16]:
    return case_of(t, n_q).golden()["hidden_out"]


@pytest.mark.parametrize(
    ("t", "n_q", "blocks", "seed"),
    [
        (1, 1, 1, 0),  # one row: the cube must not fall into its vector mode; a part of one span
        (2, 1, 3, 1),  # cores without a head
        (3, 3, 2, 2),  # the two AIVs of a core have different numbers of tokens
        (5, 16, 24, 3),  # cores with a piece of a group, two spans
        (15, 5, 20, 0),
        (16, 9, 4, 1),  # one fractal; spans of 1024 and of 128 rows
        (17, 8, 24, 0),
        (33, 3, 5, 0),  # short slots
        (129, 2, 24, 2),  # two blocks of tokens, the second with one row
    ],
)
def test_as_golden(t: int, n_q: int, blocks: int, seed: int) -> None:
    got, _ = run(case_of(t, n_q), blocks, seed=seed)
    assert_close_output("hidden_out", got, golden_of(t, n_q))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("t", "n_q", "blocks", "seed"),
    [
        (128, 12, 3, 0),
        (128, 9, 31, 0),  # one block of columns for a core, and two spans: the sums' copies have no other order
        (256, 17, 24, 1),
        (257, 9, 24, 0),  # two steps, the second of one token less
        (600, 3, 20, 3),  # three steps: the workspace of the first one is used again
        (1030, 1, 2, 0),  # five steps
    ],
)
def test_many_tokens(t: int, n_q: int, blocks: int, seed: int) -> None:
    got, _ = run(case_of(t, n_q), blocks, seed=seed)
    assert_close_output("hidden_out", got, golden_of(t, n_q))


@pytest.mark.slow
@pytest.mark.parametrize(("t", "blocks"), [(1, 24), (3, 20), (65, 24)])
def test_all_heads(t: int, blocks: int) -> None:
    got, _ = run(case_of(t, 128), blocks)
    assert_close_output("hidden_out", got, golden_of(t, 128))


def test_bits_do_not_depend_on_cores_or_batch() -> None:
    """Sums over k are taken in one order or exact, whatever the block count, the pipe order and the tokens beside."""
    case = case_of(35, 9)
    want, _ = run(case, 1)
    for blocks, seed in ((2, 1), (24, 0)):
        assert_same_bits("hidden_out", run(case, blocks, seed=seed)[0], want)
    few = case.copy(attention_out=case.inputs["attention_out"][3:7])
    assert_same_bits("hidden_out", run(few, 24)[0], want[3:7])


def test_split_token_axis() -> None:
    case = cases.mla_epilog_case(2, 3, 2, seed=4, split=True)
    got, _ = run(case, 2)
    assert_close_output("hidden_out", got, case.golden()["hidden_out"])


def test_nan_stays_in_its_token() -> None:
    case = case_of(3, 3)
    tokens = case.inputs["attention_out"].copy()
    tokens[1, 2, 7] = 0x7FC0
    got, _ = run(case.copy(attention_out=tokens), 2)
    want, _ = run(case, 2)
    assert_same_bits("hidden_out", got[[0, 2]], want[[0, 2]])


def test_rows_on_either_side_of_the_floor_of_quantisation() -> None:
    case = cases.below_the_floor(case_of(7, 3))
    got, _ = run(case, 2)
    want = case.golden()["hidden_out"]
    assert not got[0].any()
    assert golden.bf16_to_float32(want).std(axis=1)[1:].min() > 0.1
    assert_close_output("hidden_out", got, want)


def test_ties_are_rounded_to_even() -> None:
    """Of values whose largest is 127, so that a step is 1; the weights hand them on as they are."""
    case = case_of(1, 1)
    values = np.zeros(512, np.float32)
    values[:7] = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]
    w_o = np.zeros((128, 7168), np.int8)
    w_o[range(128), range(128)] = 1
    changed = {
        "attention_out": golden.float32_to_bf16(values).reshape(1, 1, 512),
        "w_uv": golden.float32_to_bf16(np.eye(512, 128, dtype=np.float32)).reshape(1, 512, 128),
        "w_o": w_o,
        "w_o_scale": np.ones((7168, 1), np.float32),
    }
    got, _ = run(case.copy(**changed))
    assert golden.bf16_to_float32(got)[0, :7].tolist() == [127, 0, 2, 2, 0, -2, -2]


def test_no_tokens() -> None:
    got, report = run(cases.mla_epilog_case(0, 1, 2), 2)
    assert got.shape == (0, 7168)
    assert report.instructions.get("AIC.M", 0) == 0


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 5, 20, 23, 24, 25, 31])
@pytest.mark.parametrize("n_q", [1, 3, 16, 128])
@pytest.mark.parametrize("t", [1, 256])
def test_columns_are_dealt_once(t: int, n_q: int, cores: int) -> None:
    tiling = shape_tiling(t, n_q, cores)
    spans = -(-n_q * 128 // 1024)
    own = tiling.groups[cores]
    assert own + tiling.shared_groups == 224
    assert list(tiling.groups[: cores + 1]) == sorted(tiling.groups[: cores + 1])
    pieces = [(p.group, span) for p in tiling.pieces[:cores] for span in range(p.begin, p.end)]
    assert sorted(pieces) == [(group, span) for group in range(own, 224) for span in range(spans)]


@pytest.mark.parametrize("cores", [1, 2, 3, 7, 20, 24, 31])
@pytest.mark.parametrize("n_q", [1, 16, 128])
@pytest.mark.parametrize("t", [1, 257])
def test_the_workspace_has_room_for_the_sums_of_a_core(t: int, n_q: int, cores: int) -> None:
    """Those of its own groups and of its piece, in blocks of two, for each of two steps."""
    tiling = shape_tiling(t, n_q, cores)
    for core in range(cores):
        piece = tiling.pieces[core].end > tiling.pieces[core].begin
        groups = tiling.groups[core + 1] - tiling.groups[core] + piece
        assert tiling.sums_bytes >= -(-groups // 2) * tiling.token_step * 64 * 4
    assert tiling.step_bytes >= tiling.sums_offset + cores * tiling.sums_bytes
    assert tiling.workspace_bytes >= 2 * tiling.step_bytes


@pytest.mark.parametrize("t", [1, 32, 256])
def test_cores_read_equal_shares(t: int) -> None:
    """Within a span of a group where heads are short, else within a quarter of one: whole groups would be 5 % above."""
    tiling = shape_tiling(t, 128, 24)
    head = 512 * (256 + 2 * tiling.token_step)
    loads = [
        (128 * (core + 1) // 24 - 128 * core // 24) * head
        + (tiling.groups[core + 1] - tiling.groups[core]) * 16384 * 32
        + (tiling.pieces[core].end - tiling.pieces[core].begin) * 1024 * 32
        for core in range(24)
    ]
    spare = 1024 * 32 if t <= 32 else 16384 * 32 // 4
    assert max(loads) - sum(loads) / 24 < spare


def test_tiling_refuses_what_does_not_fit() -> None:
    with pytest.raises(TilingRefusedError, match="L1 must hold"):
        shape_tiling(8, 128, 24, l1=262144)
    with pytest.raises(TilingRefusedError, match="no AI core"):
        shape_tiling(8, 128, 0)
    with pytest.raises(TilingRefusedError, match="n_q must be in"):
        shape_tiling(8, 129, 24)
    with pytest.raises(TilingRefusedError, match="t must be at most"):
        shape_tiling(65537, 1, 24)
