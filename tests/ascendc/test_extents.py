"""The kernels on tensors of more than 2^31 bytes and 2^32 elements, of which the emulator touches a few pages.

Many tokens are those of a launch with as many AI cores, of which the last ones run: they wait for no other core. The
prologs and the epilog refuse more than 65536 tokens, so that no offset of a token has more than 32 bits in them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import attention
import cases
import indexer
import numpy as np
import prologs
import pytest
from emulator import Absent, Arg, In, Out, Tiling, build
from launches import library
from numpy.typing import NDArray
from reserved import FAR_ROW, reserved
from tiling import PROLOGS
from tolerance import assert_same_bits, assert_same_outputs

Array = NDArray[Any]
BLOCK = 128
FAR_BLOCKS = 2**30 // BLOCK
"""Rows of attention and of the indexer are numbers of 31 bits: no device has memory for more."""
CACHES = {
    "sparse_flash_attention_quant": ("key_nope_2d", "key_rope_2d", "k_nope_scales"),
    "lightning_indexer_quant": ("k_cache", "k_cache_scale"),
}
T = 2**21 + 8
"""Tokens, of which each has 2048 entries of topk_indices; four of each sequence, which has 8192 of block_table."""

SOURCE = """
#include "kernel_operator.h"
using namespace AscendC;
// The last 32 bytes of `in` to `out`, by an offset of 64 bits or of 32.
extern "C" __global__ __aicore__ void last(GM_ADDR in, GM_ADDR out, GM_ADDR tiling) {
  struct Data {
    uint64_t size;
    uint32_t narrow;
  };
  TPipe pipe;
  TBuf<TPosition::VECCALC> buffer;
  pipe.InitBuffer(buffer, 32);
  const auto* data = reinterpret_cast<__gm__ Data*>(tiling);
  GlobalTensor<int8_t> from, to;
  from.SetGlobalBuffer(reinterpret_cast<__gm__ int8_t*>(in), data->size);
  to.SetGlobalBuffer(reinterpret_cast<__gm__ int8_t*>(out), 32);
  const uint64_t at = data->size - 32;
  DataCopy(buffer.Get<int8_t>(), from[data->narrow != 0 ? static_cast<uint32_t>(at) : at], 32);
  SetFlag<HardEvent::MTE2_MTE3>(0);
  WaitFlag<HardEvent::MTE2_MTE3>(0);
  DataCopy(to, buffer.Get<int8_t>(), 32);
}
"""


@pytest.mark.parametrize("narrow", [False, True])
def test_the_emulator_sees_offsets_of_more_than_32_bits(narrow: bool) -> None:
    large = reserved((2**33 + 64,), np.int8)
    large[-32:], large[32:64] = 5, 7
    out = Out("out", 32, np.int8)
    tiling = Tiling(np.array([large.size, narrow], np.uint64))
    library = build(SOURCE, ["last"])
    library.launch("last", [In("in", large, own=True), out, tiling], kernel_type="AIV_ONLY").check()
    assert (out.array == (7 if narrow else 5)).all()


def far(case: cases.Case) -> cases.Case:
    """The case with every other block after FAR_BLOCKS others."""
    caches = {}
    moved = np.arange(case.paging.block_num) % 2 == 1
    for name in CACHES[case.operator]:
        small = case.inputs[name].reshape(case.paging.block_num, -1)
        cache = reserved((FAR_BLOCKS + case.paging.block_num, small.shape[1]), small.dtype)
        cache[: small.shape[0]][~moved] = small[~moved]
        cache[FAR_BLOCKS:][moved] = small[moved]
        caches[name] = cache.reshape(-1, *case.inputs[name].shape[1:])
    table = case.inputs["block_table"]
    table = np.where((table >= 0) & (table % 2 == 1), table + FAR_BLOCKS, table).astype(np.int32)
    paging = dataclasses.replace(case.paging, block_num=FAR_BLOCKS + case.paging.block_num)
    return dataclasses.replace(case, inputs={**case.inputs, **caches, "block_table": table}, paging=paging)


@pytest.mark.parametrize("topk", [70, 520])  # 520 are sorted
def test_rows_that_attention_reads(topk: int) -> None:
    """Neighbours in a list are also farther from each other than the gap of one copy can be."""
    case = cases.attention_case(b=2, s1=2, n_q=3, topk=topk, kv_lens=[900, 90], holes=0.1)
    want, _ = attention.run(case, cores=2)
    got, _ = attention.run(far(case), cores=2, own=CACHES[case.operator])
    for name, value in want.items():
        assert_same_bits(name, got[name], value)


def test_rows_that_the_indexer_reads() -> None:
    case = cases.indexer_case(b=2, s1=2, kv_lens=[2500, 90], selected_count=64)
    want, _ = indexer.run(case, cores=2)
    got, _ = indexer.run(far(case), cores=2, own=CACHES[case.operator])
    assert_same_outputs(got, want)


@pytest.mark.parametrize("op", PROLOGS)
def test_rows_that_a_prolog_writes(op: str) -> None:
    """Tokens whose rows are equal in their lower 32 bits are written to different rows."""
    case, name = cases.make(op, 3, 1, [3, 60, 5], 1), cases.CACHE_INDEX[op]
    rows, index = case.paging.block_num * BLOCK, case.inputs[name].copy()
    want, _ = prologs.run(case)
    index[1:] = [index[0] + FAR_ROW, index[2] + FAR_ROW]
    caches = {
        cache: reserved(((FAR_ROW + rows) // BLOCK, *case.inputs[cache].shape[1:]), case.inputs[cache].dtype)
        for cache in cases.IN_PLACE[op]
    }
    paging = dataclasses.replace(case.paging, block_num=(FAR_ROW + rows) // BLOCK)
    moved = dataclasses.replace(case, inputs={**case.inputs, **caches, name: index}, paging=paging)
    got, _ = prologs.run(moved, 2, own=True)
    for cache, output in cases.IN_PLACE[op].items():
        flat = caches[cache].reshape(FAR_ROW + rows, -1)
        written = want[output].reshape(rows, -1)[case.inputs[name]]
        assert_same_bits(output, flat[index], written)
        low = flat[:rows].copy()
        low[index[0]] = 0
        assert not low.any(), f"{output}: rows that no token has are written"
    for output, value in want.items():
        if output not in cases.IN_PLACE[op].values():
            assert_same_bits(output, got[output], value)


def last_sequences(case: cases.Case, columns: int) -> tuple[cases.Case, dict[str, Array]]:
    """The inputs of T tokens, of which the last are those of the case's sequences, and what stands for its paging."""
    count, b = case.paging.t, T // case.paging.s1
    inputs = dict(case.inputs)
    for name in ("query_nope", "query_rope", "topk_indices", "q_int8", "q_scale", "weights"):
        if name in inputs:
            small = inputs[name]
            inputs[name] = reserved((small.shape[0] // count * T, *small.shape[1:]), small.dtype)
            inputs[name][-small.shape[0] :] = small
    small = inputs["block_table"]
    inputs["block_table"] = reserved((b, columns), np.int32)
    inputs["block_table"][-small.shape[0] :, : small.shape[1]] = small
    inputs["kv_act_seqs"] = reserved((b,), np.int32)
    inputs["kv_act_seqs"][-small.shape[0] :] = case.inputs["kv_act_seqs"]
    paging = dataclasses.replace(case.paging, b=b)
    return dataclasses.replace(case, inputs=inputs, paging=paging), inputs


@pytest.mark.parametrize("topk", [2048, 4096])  # 4096 are not sorted
def test_tokens_of_attention(topk: int) -> None:
    """Queries, results, selections, tables and the workspace: each has more than 2^32 elements."""
    case = cases.attention_case(b=1, s1=4, n_q=20, topk=topk, kv_lens=300)
    # A table as wide and a core for each token: lists are sorted as they are below. Another order has other bits.
    want, _ = attention.run(cases.with_columns(case, 8192), 4, 1)
    large, inputs = last_sequences(case, 8192)
    tiling = attention.make_tiling(
        T, 1, t=T, b=large.paging.b, n_q=20, topk=topk, block_num=case.paging.block_num, block_size=BLOCK,
        max_blocknum=8192, softmax_scale=case.attributes["softmax_scale"], ragged=False,
    )  # fmt: skip
    assert tiling.cores == T
    assert (tiling.sort_offset > 0) == (topk == 2048)
    out, lse = reserved((T, 20, 512), np.uint16), reserved((T, 20), np.float32)
    args = [
        *(In(name, array, own=True) for name, array in inputs.items()),
        Absent("query_act_seqs"),
        Arg("attention_out", out, "out", own=True),
        Arg("lse", lse, "out", own=True),
        Arg("workspace", reserved((tiling.workspace_bytes,), np.uint8), "workspace", own=True),
        Tiling(bytes(tiling)),
    ]
    library(attention.OPERATOR).launch(attention.OPERATOR, args, blocks=4, first_block=T - 4).check()
    assert_same_bits("attention_out", out[-4:], want["attention_out"][0])
    assert_same_bits("lse", lse[-4:], want["lse"][0])


def test_tokens_of_the_indexer() -> None:
    """Queries have more than 2^34 elements, results and tables more than 2^32."""
    case = cases.indexer_case(b=2, s1=4, kv_lens=[2300, 2100], selected_count=2048)
    want, _ = indexer.run(case, 2)
    large, inputs = last_sequences(case, 8192)
    units = large.paging.b
    tiling = indexer.make_tiling(
        units, t=T, b=units, selected_count=2048, block_num=case.paging.block_num, block_size=BLOCK,
        max_blocknum=8192, ragged=False,
    )  # fmt: skip
    assert (tiling.cores, tiling.shared) == (units, 0)
    out = reserved((T, 2048), np.int32)
    args = [
        *(In(name, array, own=True) for name, array in inputs.items()),
        Absent("query_act_seqs"),
        Arg("topk_indices", out, "out", own=True),
        Arg("workspace", reserved((tiling.workspace_bytes,), np.uint8), "workspace", own=True),
        Tiling(bytes(tiling)),
    ]
    library(indexer.OPERATOR).launch(indexer.OPERATOR, args, blocks=2, first_block=units - 2).check()
    assert_same_bits("topk_indices", out[-8:], want["topk_indices"])
