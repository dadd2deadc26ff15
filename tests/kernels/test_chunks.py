"""Calls of one more token, or key, than a kernel works on at a time, of as many, and of one less.

Tiles and blocks are crossed in `test_operators.py` and `test_attention_rows.py`, for every instruction set; here are
the outermost loops, whose constants are the same for all of them.
"""

from __future__ import annotations

import cases
import numpy as np
import pytest
import tolerance
from bare_kernels import check, check_part, pack, prolog, run
from cases import CACHE_INDEX, PROLOGS, WITH_WEIGHTS

from ms_dsv32 import kernel_impl

pytestmark = pytest.mark.usefixtures("default_threads")


def first(case: cases.Case, count: int) -> cases.Case:
    """The first tokens of a prolog's case."""
    t = case.inputs[CACHE_INDEX[case.operator]].shape
    return case.copy(**{name: v[:count] for name, v in case.inputs.items() if v.shape[:1] == t})


# 1024 tokens are a chunk (kPrologTokens).
@pytest.mark.parametrize("name", PROLOGS)
def test_more_tokens_than_a_prolog_works_on_at_a_time(name: str) -> None:
    """Both parts have the bits of calls of their own. If two tokens have the same cache row, the later one wins."""
    case = pack(prolog(name, 1, 1025, 1, seed=6))
    whole = run(case)
    for part in (slice(0, 2), slice(1022, 1024), slice(1023, 1025)):
        check_part(case, whole, part)
    for count in (1023, 1024):
        part = run(first(case, count))
        for output, value in part.items():
            if output not in cases.IN_PLACE[name].values():
                tolerance.assert_same_bits(output, value, whole[output][:count])

    index = case.inputs[CACHE_INDEX[name]]
    row = index[3]
    shared = run(case.copy(**{CACHE_INDEX[name]: np.where(np.arange(1025) == 3, index[1024], index)}))
    want = dict(whole)
    for cache, out in cases.IN_PLACE[name].items():
        rows = whole[out].copy().reshape(-1, whole[out].shape[-1])
        rows[row] = case.inputs[cache].reshape(rows.shape)[row]  # no token writes it
        want[out] = rows.reshape(whole[out].shape)
    tolerance.assert_same_outputs(shared, want)


# Tasks that pack their weights take 384 tokens (kProjectionRowsNd, kHeadRowsNd, kIndexerRowsNd, kEpilogRowsNd), in
# rows of 96 and 128.
@pytest.mark.parametrize("t", [383, 384, 385])
@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_more_tokens_than_a_task_packs_weights_for(name: str, t: int) -> None:
    case = cases.make(name, 1, t, n_q=2, seed=t)
    tolerance.assert_same_outputs(run(case), run(pack(case)))


# 512 tokens are a chunk (kEpilogTokens).
def test_more_tokens_than_the_epilog_works_on_at_a_time() -> None:
    case = pack(cases.mla_epilog_case(1, 513, 2, seed=6))
    whole = run(case)["hidden_out"]
    for part in (slice(0, 3), slice(509, 513), slice(512, 513), slice(0, 511), slice(0, 512)):
        alone = case.copy(attention_out=case.inputs["attention_out"][part])
        tolerance.assert_same_bits("hidden_out", run(alone)["hidden_out"], whole[part])


# A wave has 32 tokens, or two for each thread (kWaveTokens, kTokensPerThread of attention_strips.h); with heads as
# columns each thread takes whole tokens, and all threads share those that are left.
@pytest.mark.parametrize("b", [31, 32, 33, 65])
def test_a_wave_of_several_sequences(b: int) -> None:
    case = cases.with_lse(cases.attention_case(b, 1, 2, [1 + 29 * n % 150 for n in range(b)], topk=64))
    want = run(case)
    case.check(want)
    for threads in (2, 16):
        kernel_impl.set_thread_count(threads)
        tolerance.assert_same_outputs(run(case), want)


# A wave has 64 tokens (kWaveTokens of lightning_indexer_quant.cc), a group eight of one sequence.
@pytest.mark.parametrize("b", [63, 64, 65, 129])
def test_a_wave_of_several_sequences_of_the_indexer(b: int) -> None:
    check(cases.indexer_case(b, 1, [40 + 29 * n % 90 for n in range(b)], selected_count=30))


def test_a_wave_of_fewer_tokens() -> None:
    """Rows of more than 131072 keys: 32 MiB of them (kWaveRowBytes) are 51 tokens, of 64."""
    case = cases.indexer_case(1, 53, 163840, selected_count=8)
    got = run(case)["topk_indices"]
    few = run(case.copy(**{n: case.inputs[n][50:] for n in ("q_int8", "q_scale", "weights")}))
    np.testing.assert_array_equal(few["topk_indices"], got[50:])


# Tasks with packed weights take 128 tokens of a head (kEpilogRows), or 96 (kHeadRows).
@pytest.mark.parametrize("name", ["mla_prolog_quant", "mla_epilog_quant"])
def test_a_thread_goes_on_with_the_same_head(name: str) -> None:
    """One thread takes a head's blocks of tokens one after the other, so it does not fetch the next head's weights."""
    case = pack(cases.make(name, 1, 129, n_q=2, seed=7))
    kernel_impl.set_thread_count(1)
    one = run(case)
    kernel_impl.set_thread_count(3)
    tolerance.assert_same_outputs(one, run(case))
