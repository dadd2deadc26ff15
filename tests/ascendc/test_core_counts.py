"""Launches of 1 to 24 AI cores, and the tiling functions for as many and more, whatever the machine has."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import cases
import epilog
import numpy as np
import pytest
from emulated import check, odd_case, run
from numpy.typing import NDArray
from tiling import PROLOGS, library
from tolerance import assert_same_outputs

from ms_dsv32 import op_info

Array = NDArray[Any]
CORES = range(2, 25)
MOST_CORES = 32
"""Cores that the tiling functions are asked for: more than any device of the architecture has."""


@functools.lru_cache(maxsize=1)
def of_one_core(op: str) -> tuple[cases.Case, dict[str, Array]]:
    case = odd_case(op)
    return case, run(case)[0]


@pytest.mark.parametrize("op", op_info.names())
def test_as_golden(op: str) -> None:
    check(odd_case(op), cores=3)


@pytest.mark.parametrize("cores", CORES)
@pytest.mark.parametrize("op", op_info.names())
def test_no_bit_depends_on_cores(op: str, cores: int) -> None:
    case, want = of_one_core(op)
    assert_same_outputs(run(case, cores, seed=cores % 3)[0], want)


SOURCE = """
#include <cstdio>
#include "ms_dsv32/kernel_impl/ascendc/op_host/indexer_make_tiling.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/prolog_make_tiling.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/attention_make_tiling.h"
using namespace ms_dsv32::ascendc;
namespace {
char text[256];
template <typename... T>
const char* Wrong(const char* format, T... values) {
  std::snprintf(text, sizeof(text), format, values...);
  return text;
}
// Whether shares of `count` things are dealt to the cores, each thing once.
const char* Dealt(const char* name, const PrologShares& shares, uint32_t cores, uint32_t count) {
  for (uint32_t core = 0; core < cores; ++core) {
    if (shares.begin[core] > shares.begin[core + 1]) return Wrong("%s: core %u has less than none", name, core);
  }
  if (shares.begin[0] != 0) return Wrong("%s begin at %u", name, shares.begin[0]);
  return shares.begin[cores] == count ? nullptr : Wrong("%u of %u %s are dealt", shares.begin[cores], count, name);
}
}  // namespace

extern "C" const char* check_prolog(int op, uint32_t t, uint32_t n_q, uint32_t cores) {
  PrologTiling out{};
  const bool mla = op != 1, indexer = op != 0;
  const char* no = MakePrologTiling({t, n_q, 1024, mla, indexer, 1e-5f, 1e-5f, 1e-6f}, Arch2201(cores), out);
  if (no) return no;
  if (out.cores != cores) return Wrong("%u cores", out.cores);
  const uint32_t columns = (mla ? kQLoraRank + kKeyDim : 0) + (indexer ? kIdxHeadDim + kIdxNHeads : 0);
  if ((no = Dealt("nope parts", out.nopes, cores, mla ? n_q : 0))) return no;
  if ((no = Dealt("rope parts", out.ropes, cores, mla ? n_q : 0))) return no;
  if ((no = Dealt("units", out.units, cores, columns / kUnitColumns * kProjectParts))) return no;
  for (const PrologShares& heads : out.indexer_heads) {
    if ((no = Dealt("indexer heads", heads, cores, indexer ? kIdxNHeads : 0))) return no;
    if (heads.begin[out.projectors] != 0) return Wrong("%u projectors have heads", out.projectors);
  }
  if (out.projectors > 0 && out.units.begin[out.projectors] != out.units.begin[cores])
    return Wrong("others than the %u projectors have units", out.projectors);
  const uint64_t slots = out.left_bytes + uint64_t{out.stream_slots} * out.stream_bytes;
  return slots <= Arch2201(cores).l1 ? nullptr : Wrong("%llu bytes of L1", static_cast<unsigned long long>(slots));
}

extern "C" const char* check_attention(uint32_t t, uint32_t n_q, uint32_t topk, uint32_t cores) {
  AttentionTiling out{};
  const char* no = MakeAttentionTiling({t, t, n_q, topk, 64, 128, 64, 1.0f, false}, Arch2201(cores), out);
  if (no) return no;
  if (out.cores > cores || out.cores % out.team != 0) return Wrong("%u cores in teams of %u", out.cores, out.team);
  if (out.head_parts * out.column_parts > out.team) return Wrong("%u parts for a team", out.head_parts);
  if (out.head_parts == 0 || out.column_parts == 0) return Wrong("no part has the output of %u heads", n_q);
  // The busiest core's keys fit into its lists, and its chunks below what the flags between cores count.
  const uint32_t fractals = tiling::CeilDiv(topk, kFractal), own = tiling::CeilDiv(fractals, out.team);
  if (tiling::CeilDiv(own, kVectorsPerCore) * kFractal > out.list_rows) return Wrong("lists of %u", out.list_rows);
  if (tiling::CeilDiv(own * kFractal, out.key_chunk) > 2 * kMaxChunks) return Wrong("chunks of %u", out.key_chunk);
  if (out.key_chunk % out.score_tile != 0) return Wrong("tiles of %u keys", out.score_tile);
  return out.workspace_bytes == out.slot_bytes * out.slots * (out.cores / out.team) ? nullptr : "workspace";
}

extern "C" const char* check_indexer(uint32_t t, uint32_t b, uint32_t columns, uint32_t cores) {
  IndexerTiling out{};
  const char* no = MakeIndexerTiling({t, b, 2048, 64, 128, columns, false}, Arch2201(cores), out);
  if (no) return no;
  const uint32_t units = b * tiling::CeilDiv(t / b, kUnitTokens);
  if (out.rounds * cores + out.shared != units || out.shared >= cores) return Wrong("%u rounds", out.rounds);
  if (out.cores > cores || out.sharers > cores) return Wrong("%u cores, %u sharers", out.cores, out.sharers);
  if (out.rounds > 0 && out.cores != cores) return Wrong("%u cores have whole units", out.cores);
  // Each shared unit has a core, and its lists their places.
  for (uint32_t unit = 0; unit < out.shared; ++unit) {
    const uint32_t first = unit * out.sharers / out.shared;
    const uint32_t end = tiling::CeilDiv((unit + 1) * out.sharers, out.shared);
    if (end <= first || end > out.cores) return Wrong("unit %u has cores [%u, %u)", unit, first, end);
    if ((end - first) * (out.s1 == 1 ? kVectorsPerCore : 1) > out.lists) return Wrong("%u lists", out.lists);
  }
  const uint64_t lists = uint64_t{out.shared} * out.unit_tokens * out.lists;
  const uint64_t bytes = out.core_bytes * out.cores + lists * (kMaxSamples + out.list_records) * 8;
  return out.workspace_bytes >= bytes ? nullptr : "workspace";
}
"""


def check_tiling(function: str, *numbers: int) -> None:
    found = getattr(library(SOURCE), function)
    found.restype = ctypes.c_char_p
    wrong = found(*map(ctypes.c_uint32, numbers))
    assert wrong is None, f"{function}{numbers}: {wrong.decode()}"


@pytest.mark.parametrize("cores", range(1, MOST_CORES))
def test_tiling(cores: int) -> None:
    for t in (1, 2, 7, 64, 127, 128, 129, 1000):
        for op in range(len(PROLOGS)):
            for n_q in (1, 3, 16, 127, 128):
                check_tiling("check_prolog", op, t, n_q, cores)
        for n_q in (1, 17, 121, 128):
            for topk in (1, 17, 96, 2048, 4096):
                check_tiling("check_attention", t, n_q, topk, cores)
        for s1 in (1, 2, 4, 5):
            for columns in (1, 40, 1300):
                check_tiling("check_indexer", t * s1, t, columns, cores)


def test_cores_of_the_epilog() -> None:
    """Its shares are checked beside its kernel; more cores than its tables hold are left out."""
    assert epilog.shape_tiling(5, 3, MOST_CORES).cores == epilog.MOST_CORES
    for cores in range(1, epilog.MOST_CORES + 1):
        tiling = epilog.shape_tiling(5, 3, cores)
        heads = [(core * 3 // cores, (core + 1) * 3 // cores) for core in range(cores)]
        assert sum(end - begin for begin, end in heads) == 3
        assert tiling.groups[cores] + tiling.shared_groups == 224
        assert np.all(np.diff([*tiling.groups[: cores + 1]]) >= 0)
