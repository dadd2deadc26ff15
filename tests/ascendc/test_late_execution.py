"""All kernels with pipes that are late, against golden: the results are right, whether flags are bits or count, and
there is nothing to report.

A seed gives the pipes of each core speeds of their own. MS_DSV32_LATE_SEEDS says how many seeds are tried (3).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import cases
import epilog
import numpy as np
import prologs
import pytest
from attention import shape_tiling
from cases import Array, Case
from emulated import check, odd_case, run
from numpy.typing import NDArray
from tiling import PROLOGS
from tolerance import ASCEND_TOPK_RTOL, assert_topk

from ms_dsv32 import op_info

SEEDS = range(1, 1 + int(os.environ.get("MS_DSV32_LATE_SEEDS", "3")))
FLAGS = ("bits", "counts")


def in_many_orders(launch: Callable[..., object], flags: tuple[str, ...] = FLAGS) -> None:
    """Calls `launch` with every seed, and with each meaning of flags; with one of them in turn if `flags` is empty."""
    for seed in SEEDS:
        for meaning in flags or (FLAGS[seed % 2],):
            try:
                launch(seed=seed, flags=meaning, cycles=False)
            except AssertionError as error:
                raise AssertionError(f"seed={seed}, flags={meaning!r}: {error}") from error


@pytest.mark.parametrize("op", op_info.names())
def test_every_operator(op: str) -> None:
    """A small call, on which a new operator is tried by itself."""
    case = odd_case(op)
    want = case.golden()
    in_many_orders(lambda **options: check(case, 3, want, **options))


# Prologs
@pytest.mark.parametrize("cores", [1, 2, 4, 24])
@pytest.mark.parametrize("op", PROLOGS)
def test_prologs(op: str, cores: int) -> None:
    """The AIVs of a core have different numbers of tokens, and on few cores every buffer is used many times."""
    case, want = prologs.case_of(op, 3, 1, 4), prologs.golden_of(op, 3, 1, 4)
    in_many_orders(lambda **options: check(case, cores, want, **options))


@pytest.mark.parametrize("op", PROLOGS)
def test_prologs_of_two_steps(op: str) -> None:
    """The second step, of two tokens, takes the place of the first one."""
    case, want = prologs.case_of(op, 130, 1, 2), prologs.golden_of(op, 130, 1, 2)
    in_many_orders(lambda **options: check(case, 4, want, **options), ())


@pytest.mark.parametrize(("b", "cores"), [(130, 20), (300, 24)])
def test_indexer_prolog_with_cores_for_the_projections(b: int, cores: int) -> None:
    """Four of the cores have S1 to themselves; in six steps places of sums and deals of heads are used again."""
    op = "lightning_indexer_prolog_quant"
    case, want = prologs.case_of(op, b, 1, 1), prologs.golden_of(op, b, 1, 1)
    in_many_orders(lambda **options: check(case, cores, want, **options), ())


# mla_epilog_quant
@pytest.mark.parametrize("cores", [1, 2, 4, 24])
@pytest.mark.parametrize(
    ("t", "n_q"),
    [
        (3, 4),  # one span of half its rows, of which a core's piece is all
        (37, 17),  # three spans, the last of 128 rows; short slots
    ],
)
def test_mla_epilog(t: int, n_q: int, cores: int) -> None:
    case, want = epilog.case_of(t, n_q), epilog.golden_of(t, n_q)
    in_many_orders(lambda **options: check(case, cores, want, **options))


@pytest.mark.parametrize("cores", [2, 24])
def test_mla_epilog_of_steps(cores: int) -> None:
    """Three steps of two blocks of tokens: the third one has the first one's place in the workspace."""
    case, want = epilog.case_of(600, 2), epilog.golden_of(600, 2)
    in_many_orders(lambda **options: check(case, cores, want, **options), ())


# lightning_indexer_quant
def _without_blocks(case: Case) -> Case:
    """Blocks in the middle of the sequences are missing, or outside the cache."""
    table = case.inputs["block_table"].copy()
    table[:, [2, 17]] = [-1, case.paging.block_num]
    return case.copy(block_table=table)


def _with_nan(case: Case) -> Case:
    scales = case.inputs["k_cache_scale"].copy()
    scales.reshape(-1)[case.paging.occupied_rows()[5::301]] = np.nan
    return case.copy(k_cache_scale=scales)


INDEXER: dict[str, Callable[[], Case]] = {
    # Lists that are full early, so that what is kept of further keys is counted; few keys, and one.
    "full_lists": lambda: cases.indexer_case(3, 2, [1, 700, 4500], selected_count=512),
    # Scores that wait, two rows for each AIV, and keys without a block.
    "four_tokens": lambda: _without_blocks(cases.indexer_case(2, 4, [8197, 2200])),
    "units_left_over": lambda: cases.indexer_case(5, 1, [2051, 4500, 700, 2049, 3000]),
    # 24 cores make 40 lists of it, which are merged in groups.
    "many_lists": lambda: cases.indexer_case(1, 1, 20000),
    "nan": lambda: _with_nan(cases.indexer_case(1, 4, 4500)),
    # A chunk of a prompt beside single tokens, a sequence without a token, and padding.
    "ragged": lambda: cases.ragged(cases.indexer_case(4, 7, [2500, 2300, 90, 3000]), [7, 1, 0, 1], 3),
}


@functools.cache
def _indexer_want(name: str) -> tuple[Case, NDArray[np.int32], list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    case = INDEXER[name]()
    if name != "four_tokens":
        return case, case.golden()["topk_indices"], *cases.indexer_scores(case)
    # Golden takes no table with holes: its keys there rank last.
    scores, magnitudes = cases.indexer_scores(cases.indexer_case(2, 4, [8197, 2200]))
    for of_token in scores:
        for block in (2, 17):
            of_token[block * 128 : (block + 1) * 128] = -np.inf
    want = np.stack([np.argsort(-of_token, kind="stable")[:2048].astype(np.int32) for of_token in scores])
    return case, want, scores, magnitudes


@pytest.mark.parametrize("cores", [1, 2, 4, 24])
@pytest.mark.parametrize("name", INDEXER)
def test_lightning_indexer(name: str, cores: int) -> None:
    case, *want = _indexer_want(name)
    in_many_orders(
        lambda **options: assert_topk(run(case, cores, **options)[0]["topk_indices"], *want, rtol=ASCEND_TOPK_RTOL)
    )


# sparse_flash_attention_quant
ATTENTION: dict[str, Callable[[], Case]] = {
    # More tasks than slots of the workspace, tokens that see no key, and skipped entries.
    "tasks": lambda: cases.attention_case(3, 4, 17, [2, 77, 300], topk=96, holes=0.3),
    "chunks": lambda: cases.attention_case(4, 1, 40, [520, 700, 300, 1], topk=520, holes=0.1),
    # So many columns of block_table that the softmax has no room beside the gather.
    "in_turn": lambda: cases.with_columns(
        cases.attention_case(5, 1, 16, [150, 20, 300, 90, 0], topk=150, holes=0.2), 8192
    ),
    "nothing_valid": lambda: cases.attention_case(2, 2, 20, [0, 70], topk=64, holes=1.0),
    "without_blocks": lambda: cases.attention_case(4, 1, 8, [300, 280, 400, 130], topk=200),
    "ragged": lambda: cases.ragged(
        cases.attention_case(4, 4, 17, [300, 77, 2, 90], topk=96, holes=0.3), [4, 0, 1, 2], 9
    ),
}


@functools.cache
def _attention_want(name: str) -> tuple[Case, Case, dict[str, Array]]:
    """A case, one that golden takes, whose results are the same, and these results."""
    case = cases.with_lse(ATTENTION[name]())
    if name != "without_blocks":
        return case, case, case.golden()
    # Golden takes no table with holes: entries without a block are skipped, as -1 is.
    indices, table = case.inputs["topk_indices"].copy(), case.inputs["block_table"].copy()
    table[:, 1] = [-1, case.paging.block_num, -1, -1]
    indices[indices // 128 == 1] = -1
    meant = case.copy(topk_indices=indices)
    return case.copy(block_table=table), meant, meant.golden()


@pytest.mark.parametrize("cores", [1, 2, 4, 24])
@pytest.mark.parametrize("name", ATTENTION)
def test_sparse_flash_attention(name: str, cores: int) -> None:
    case, meant, want = _attention_want(name)
    if cores == 1 and name in ("tasks", "in_turn"):  # both ways to share UB are tried
        assert (shape_tiling(case, cores).softmax_offset == 0) == (name == "in_turn")

    in_many_orders(lambda **options: meant.check(run(case, cores, **options)[0], want))
