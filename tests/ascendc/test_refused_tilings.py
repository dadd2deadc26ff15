"""Every reason for which a tiling function refuses a shape or a device, from a call that has just this fault."""

from __future__ import annotations

import ctypes
import functools
import re

import pytest
from tiling import OP_HOST, library

_SOURCE = """
#include "ms_dsv32/kernel_impl/ascendc/op_host/epilog_make_tiling.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/indexer_make_tiling.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/prolog_make_tiling.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/attention_make_tiling.h"
using namespace ms_dsv32::ascendc;
namespace {
const char* Prolog(PrologShape shape, Platform platform) {
  PrologTiling out{};
  return MakePrologTiling(shape, platform, out);
}
const char* Epilog(EpilogShape shape, Platform platform) {
  EpilogTiling out{};
  return MakeEpilogTiling(shape, platform, out);
}
const char* Indexer(IndexerShape shape, Platform platform) {
  IndexerTiling out{};
  return MakeIndexerTiling(shape, platform, out);
}
const char* Attention(AttentionShape shape, Platform platform) {
  AttentionTiling out{};
  return MakeAttentionTiling(shape, platform, out);
}
}  // namespace
extern "C" const char* refusal(int which) {
  PrologShape prolog{8, 128, 1024, true, true, 1e-5f, 1e-5f, 1e-6f};
  EpilogShape epilog{8, 128};
  IndexerShape indexer{8, 4, 2048, 64, 128, 16, false};
  AttentionShape attention{8, 4, 128, 2048, 64, 128, 16, 0.125f, false};
  Platform device = Arch2201(24);
  switch (which) {
    case -1: return Prolog(prolog, device);
    case -2: return Epilog(epilog, device);
    case -3: return Indexer(indexer, device);
    case -4: return Attention(attention, device);
CASES
  }
  return "no such case";
}
"""
_TOO_MANY = "t must be at most 65536: a call is one workspace"
_HEADS = "n_q must be in [1, 128]"
_L0 = "L0A and L0B must hold 65536 bytes each"
_L0C = "L0C must hold 131072 bytes: two halves"
_UB = "UB must hold 196352 bytes"
_BATCH = "t must be a multiple of b"
_NO_CORE = "the device has no AI core"
_LISTS = "selected_count must be in [1, 2048]: the running lists are held in UB"
_SCALES = "block_size must be a multiple of 16: the scales of a block begin on 32 bytes of UB"
_SCORES = "topk must be in [1, 4096]: a row of scores is held in UB"
_L1 = "L1 must hold 491520 bytes: left operands and slots of weights"
_REFUSED = [
    *((name, "device.cores = 0", _NO_CORE) for name in ("Prolog", "Epilog", "Indexer", "Attention")),
    *((name, f"{name.lower()}.n_q = {n_q}", _HEADS) for name in ("Prolog", "Epilog", "Attention") for n_q in (0, 129)),
    *((name, f"{name.lower()}.t = 65537", _TOO_MANY) for name in ("Prolog", "Epilog")),
    *((name, "device.l1 = 491519", _L1) for name in ("Prolog", "Epilog")),
    *((name, f"device.{memory} = 65535", _L0) for name in ("Prolog", "Epilog") for memory in ("l0a", "l0b")),
    *((name, "device.l0c = 131071", _L0C) for name in ("Prolog", "Epilog")),
    *((name, "device.ub = 196351", _UB) for name in ("Prolog", "Epilog")),
    *((name, f"{name.lower()}.{fault}", _BATCH) for name in ("Indexer", "Attention") for fault in ("t = 9", "b = 0")),
    *(("Indexer", f"indexer.selected_count = {count}", _LISTS) for count in (0, 2049)),
    *(("Indexer", f"indexer.block_size = {size}", _SCALES) for size in (0, 24)),
    (
        "Indexer",
        "indexer = {1, 1, 2048, 2048, 128, 2048, false}; device.cores = 33",
        "a token's keys can be shared by 32 cores at most",
    ),
    *(("Attention", f"attention.topk = {count}", _SCORES) for count in (0, 4097)),
    ("Attention", "attention.block_size = 0", "block_size must be at least 1"),
    (
        "Attention",
        "attention.max_blocknum_perbatch = 8193",
        "max_blocknum_perbatch must be at most 8192: a row of block_table is held in UB",
    ),
]
"""Function, the one fault of the call, and the reason."""


@functools.cache
def _refusal(which: int) -> str | None:
    cases = "\n".join(
        f"    case {i}: {fault}; return {name}({name.lower()}, device);" for i, (name, fault, _) in enumerate(_REFUSED)
    )
    function = library(_SOURCE.replace("CASES", cases)).refusal
    function.restype = ctypes.c_char_p
    text = function(which)
    return None if text is None else text.decode()


@pytest.mark.parametrize("which", [-1, -2, -3, -4], ids=["prolog", "epilog", "indexer", "attention"])
def test_what_is_without_fault_is_taken(which: int) -> None:
    assert _refusal(which) is None


@pytest.mark.parametrize("which", range(len(_REFUSED)), ids=[f"{n}-{fault}" for n, fault, _ in _REFUSED])
def test_refused_for_its_fault(which: int) -> None:
    assert _refusal(which) == _REFUSED[which][2]


def test_every_reason_has_a_case() -> None:
    files = (*OP_HOST.glob("*make_tiling.h"), OP_HOST / "platform.h")
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    reasons = set(re.findall(r'(?:return|\?) "([^"]+)"', text))
    assert len(reasons) > 10
    assert reasons <= {reason for _, _, reason in _REFUSED}
