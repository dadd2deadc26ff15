"""mla_epilog_quant in the emulator against golden: shapes, block counts, pipe orders, NaN, zeros."""

from __future__ import annotations

import cases
import numpy as np
import pytest
from emulated import check, run
from epilog import case_of, golden_of, shape_tiling
from tolerance import assert_same_bits, assert_same_outputs

from ms_dsv32 import golden


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
    ids=str,  # test_sanitizers.py chooses one of them
)
def test_as_golden(t: int, n_q: int, blocks: int, seed: int) -> None:
    check(case_of(t, n_q), blocks, golden_of(t, n_q), seed=seed)


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
    check(case_of(t, n_q), blocks, golden_of(t, n_q), seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize(("t", "blocks"), [(1, 24), (3, 20), (65, 24)])
def test_all_heads(t: int, blocks: int) -> None:
    check(case_of(t, 128), blocks, golden_of(t, 128))


def test_bits_do_not_depend_on_cores_or_batch() -> None:
    """Sums over k are taken in one order or exact, whatever the block count, the pipe order and the tokens beside."""
    case = case_of(35, 9)
    want, _ = run(case, 1)
    for blocks, seed in ((2, 1), (24, 0)):
        assert_same_outputs(run(case, blocks, seed=seed)[0], want)
    few = case.copy(attention_out=case.inputs["attention_out"][3:7])
    assert_same_bits("hidden_out", run(few, 24)[0]["hidden_out"], want["hidden_out"][3:7])


def test_split_token_axis() -> None:
    case = cases.mla_epilog_case(2, 3, 2, seed=4, split=True)
    check(case, 2)


def test_nan_stays_in_its_token() -> None:
    case = case_of(3, 3)
    tokens = case.inputs["attention_out"].copy()
    tokens[1, 2, 7] = 0x7FC0
    got, _ = run(case.copy(attention_out=tokens), 2)
    want, _ = run(case, 2)
    assert_same_bits("hidden_out", got["hidden_out"][[0, 2]], want["hidden_out"][[0, 2]])


def test_rows_on_either_side_of_the_floor_of_quantisation() -> None:
    case = cases.below_the_floor(case_of(7, 3))
    got, _ = run(case, 2)
    want = case.golden()
    assert not got["hidden_out"][0].any()
    assert golden.bf16_to_float32(want["hidden_out"]).std(axis=1)[1:].min() > 0.1
    case.check(got, want)


def test_ties_are_rounded_to_even() -> None:
    """The largest value is 127, so that a step is 1. The weights hand the values on as they are."""
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
    assert golden.bf16_to_float32(got["hidden_out"])[0, :7].tolist() == [127, 0, 2, 2, 0, -2, -2]


def test_no_tokens() -> None:
    got, report = run(cases.mla_epilog_case(0, 1, 2), 2)
    assert got["hidden_out"].shape == (0, 7168)
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
    """The sums of its own groups and of its piece, in blocks of two, for each of two steps."""
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
