"""Paths of the kernels that ordinary calls do not take: no room in UB, equal neighbours, rows that many tokens have."""

from __future__ import annotations

import cases
import numpy as np
import pytest
from attention import shape_tiling
from emulated import check
from tiling import PROLOGS


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("team", "cores", "topk", "columns", "lengths"),
    [
        (0, 1, 2048, 8192, [2100, 300, 0, 900]),
        (0, 2, 2048, 8192, [2100, 40, 300, 900]),  # two tasks of each core
        (2, 4, 2048, 8192, [600, 300, 0, 100, 2100]),  # teams, one of them without a last task
        (0, 1, 4096, 8192, [4200, 17]),
    ],
)
def test_lists_and_softmax_by_turns(
    team: int, cores: int, topk: int, columns: int, lengths: list[int], seed: int
) -> None:
    """The softmax of a task has no room in UB beside the lists of the next one: barriers stand between both."""
    case = cases.attention_case(b=len(lengths), n_q=5, topk=topk, kv_lens=lengths, holes=0.1)
    case = cases.with_columns(case, columns)
    tiling = shape_tiling(case, cores, team)
    assert tiling.softmax_offset == 0
    assert tiling.t > tiling.cores // tiling.team
    check(case, cores=cores, team=team, seed=seed)


def equal(indices: np.ndarray, step: int) -> np.ndarray:
    """Replaces each group of `step` neighbours by the group's first value."""
    count = indices.shape[1] // step * step
    out = indices.copy()
    out[:, :count] = np.repeat(indices[:, :count:step], step, axis=1)
    return out


@pytest.mark.parametrize("step", [2, 3, 8, 64])
@pytest.mark.parametrize("topk", [64, 520])  # 520 are sorted
def test_equal_neighbours_in_one_copy(topk: int, step: int) -> None:
    case = cases.attention_case(n_q=4, topk=topk, kv_lens=600)
    check(case.copy(topk_indices=equal(case.inputs["topk_indices"], step)), seed=1)


@pytest.mark.parametrize("distance", [-128, -2, -1, 0, 1, 2, 7, 200])
def test_neighbours_at_equal_distances(distance: int) -> None:
    """Rows that ascend come by one copy, others in pairs that are exchanged; blocks are in the order of positions."""
    case = cases.attention_case(n_q=4, topk=64, kv_lens=16000, shuffle=False)
    first = 15000 if distance < 0 else 100
    row = first + distance * np.arange(64)
    row[20] = row[21]
    row[40:44] = row[40:44][::-1]
    check(case.copy(topk_indices=row[None].astype(np.int32)), seed=2)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("op", PROLOGS)
def test_rows_that_many_tokens_of_a_step_have(op: str, blocks: int) -> None:
    """More tokens than a repeat of the vector unit has lanes; neighbours, and tokens of the same and of other AIVs."""
    t = 67
    case = cases.make(op, 1, t, n_q=1)
    index = case.inputs[cases.CACHE_INDEX[op]].copy()
    index[[1, 2, 3]] = index[4]  # neighbours
    index[[10, 65]] = index[66]  # far apart, in the last lanes
    index[[20, 40]] = -1
    index[[21, 33, 34, 41]] = index[63]
    index[30:32] = index[31]
    index[11] = index[62]  # one other token, far apart
    check(case.copy(**{cases.CACHE_INDEX[op]: index}), blocks, seed=blocks)
