"""sparse_flash_attention_quant in the emulator against golden: shapes, holes, block counts, pipe orders."""

from __future__ import annotations

import functools

import cases
import numpy as np
import pytest
from attention import make_tiling, shape_tiling
from emulated import check, run
from ragged_calls import IMPOSSIBLE, no_sequence, own_call
from tolerance import assert_same_bits, assert_same_outputs


@pytest.mark.parametrize("seed", [0, 1])
def test_one_token(seed: int) -> None:
    check(cases.attention_case(n_q=16, kv_lens=40, topk=64), seed=seed)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("cores", [1, 2, 20, 24])
def test_block_counts(cores: int, seed: int) -> None:
    """Sequences of different lengths, several tokens of each, tokens that see no key, and skipped entries."""
    check(cases.attention_case(b=3, s1=4, n_q=17, topk=96, kv_lens=[2, 77, 300], holes=0.3), cores=cores, seed=seed)


@pytest.mark.parametrize("n_q", [1, 5, 16, 33, 64, 128])
def test_head_counts(n_q: int) -> None:
    check(cases.attention_case(b=2, n_q=n_q, topk=80, kv_lens=[80, 33]), cores=1, seed=n_q % 2)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 63, 64, 65, 128, 129, 191, 193, 511, 512, 513])
def test_key_counts(count: int) -> None:
    """Tails of the fractals, of the vector's repeats, and of every tile."""
    check(cases.attention_case(n_q=8, topk=520, kv_lens=count), seed=count % 2)


def test_last_entries_end_inside_a_fractal() -> None:
    """The last entries of a whole chunk of keys, and those at the end of topk_indices."""
    check(cases.attention_case(n_q=8, topk=90, kv_lens=200))


def test_a_core_without_a_part_of_the_output() -> None:
    """Eight fractals of heads and 32 of columns are parts for 12 of the 13 cores that share the token."""
    case = cases.attention_case(n_q=128, topk=300, kv_lens=400, holes=0.1)
    tiling = shape_tiling(case, 13)
    assert (tiling.team, tiling.head_parts * tiling.column_parts) == (13, 12)
    check(case, cores=13, seed=1)


@pytest.mark.parametrize(("team", "cores", "seed"), [(2, 4, 1), (3, 8, 0), (5, 5, 2), (7, 20, 3), (24, 24, 1)])
def test_teams(team: int, cores: int, seed: int) -> None:
    """Cores that share tokens: more tasks than slots of the workspace, a team without a token in the last round, tokens
    without a key, and cores without a part of the keys, the heads or the output."""
    lengths = [0, 300, 77, 2, 150] if cores >= 20 else [1, 300, 0, 77, 20, 5, 1, 40, 130]
    case = cases.attention_case(b=len(lengths), n_q=40, topk=150, kv_lens=lengths, holes=0.1)
    check(case, cores=cores, team=team, seed=seed)


def test_size_of_teams() -> None:
    """All cores have a part of few tokens; of many, each core has its own. Cores that would have nothing to do are
    left out."""
    shape = {"n_q": 128, "topk": 2048, "block_num": 64, "block_size": 128, "max_blocknum": 64, "softmax_scale": 1.0}
    teams = {t: make_tiling(24, t=t, b=t, **shape).team for t in (1, 2, 8, 32, 256)}
    assert teams == {1: 22, 2: 12, 8: 3, 32: 3, 256: 1}


def test_all_heads_in_one_team() -> None:
    check(cases.attention_case(n_q=128, topk=300, kv_lens=400, holes=0.1), cores=24, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [1250, 2048])
def test_keys_come_to_l1_before_probabilities(keys: int) -> None:
    """Each slot has two tiles of keys, the last slot one or two."""
    check(cases.attention_case(b=2, s1=2, n_q=128, topk=2048, kv_lens=keys), cores=24, seed=1)


def test_rows_without_a_valid_entry() -> None:
    """As many as topk, or as a token sees keys."""
    check(cases.attention_case(b=3, s1=2, n_q=20, topk=64, kv_lens=[0, 70, 40], holes=1.0), cores=2, seed=1)


def test_small_blocks_and_split_axes() -> None:
    check(cases.attention_case(b=2, s1=2, n_q=4, topk=70, kv_lens=[90, 61], block_size=16, split=True), cores=2)


def test_invalid_entries_are_skipped() -> None:
    """Positions outside the sequence, and valid positions whose blocks are outside the cache."""
    case = cases.attention_case(n_q=4, topk=64, kv_lens=300)
    indices, table = case.inputs["topk_indices"].copy(), case.inputs["block_table"].copy()
    indices[0, [3, 20, 21]] = [300, -2, 2**31 - 1]
    skipped = indices.copy()
    skipped[0, [3, 20, 21]] = -1
    skipped[0, (skipped[0] >= 128) & (skipped[0] < 256)] = -1
    table[0, 1] = case.paging.block_num
    got, _ = run(case.copy(topk_indices=indices, block_table=table), seed=2)
    cases.with_lse(case.copy(topk_indices=skipped)).check(got)


def test_sorted_entries() -> None:
    """Lists that are long enough to be sorted: of one task, whose first entries are not, and of several. With skipped
    entries, positions outside the sequence, and blocks that are missing."""
    case = cases.attention_case(b=3, n_q=4, topk=520, kv_lens=[1500, 519, 3], holes=0.1)
    indices, table = case.inputs["topk_indices"].copy(), case.inputs["block_table"].copy()
    indices[0, [3, 200, 201]] = [1500, -(2**31), 2**31 - 1]
    table[0, 4], table[1, 1] = -1, case.paging.block_num
    skipped = indices.copy()
    skipped[0, (skipped[0] < 0) | (skipped[0] >= 1500) | (skipped[0] // 128 == 4)] = -1
    skipped[1, skipped[1] // 128 == 1] = -1
    meant = cases.with_lse(case.copy(topk_indices=skipped))
    want = meant.golden()
    for cores, early in ((1, False), (3, True)):
        tiling = shape_tiling(case, cores)
        assert tiling.sort_offset > 0
        assert (tiling.t == cores // tiling.team) == early
        got, _ = run(case.copy(topk_indices=indices, block_table=table), cores, seed=cores)
        meant.check(got, want)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("team", "cores", "n_q", "lengths"),
    [(0, 1, 2, [3, 1500, 10, 600, 0, 0, 700, 16, 17]), (2, 4, 17, [0, 700, 3, 0, 40, 900, 1, 0, 600])],
)
def test_sorted_entries_behind_few(team: int, cores: int, n_q: int, lengths: list[int], seed: int) -> None:
    """An AIV has no share of the tasks before the tasks that are sorted, so only the sorting makes it wait."""
    case = cases.attention_case(b=len(lengths), n_q=n_q, topk=520, kv_lens=lengths, holes=0.1)
    assert shape_tiling(case, cores, team).sort_offset > 0
    check(case, cores=cores, team=team, seed=seed)


def test_lists_of_a_short_sequence() -> None:
    """Every length around the entries that an AIV takes before the others are sorted, and around a chunk."""
    for count in (31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 129, 257):
        case = cases.attention_case(n_q=2, topk=520, kv_lens=count)
        assert shape_tiling(case, 1).sort_offset > 0
        check(case, cores=1)


def test_a_sequence_longer_than_its_table() -> None:
    """Entries beyond the columns of block_table are skipped: the host does not see how long sequences are."""
    case = cases.attention_case(n_q=4, topk=64, kv_lens=300)
    indices = case.inputs["topk_indices"].copy()
    indices[0, [3, 20, 40]] = [384, 500, 599]
    long = case.copy(topk_indices=indices, kv_act_seqs=np.array([600], np.int32))
    meant = cases.with_lse(case.copy(topk_indices=np.where(indices < 384, indices, -1)))
    meant.check(run(long, seed=1)[0])


def test_an_entry_that_comes_twice_counts_twice() -> None:
    case = cases.attention_case(n_q=3, topk=520, kv_lens=600)
    indices = case.inputs["topk_indices"].copy()
    indices[0, 100:300] = indices[0, 0:200]
    check(case.copy(topk_indices=indices))


def test_equal_neighbours() -> None:
    """Entries that are not sorted. The two equal entries of a pair must not become two rows of one copy."""
    case = cases.attention_case(n_q=4, topk=64, kv_lens=300)
    assert shape_tiling(case, 1).sort_offset == 0
    indices = case.inputs["topk_indices"].copy()
    indices[:, 1::2] = indices[:, ::2]
    check(case.copy(topk_indices=indices), seed=1)


def test_neighbours_come_by_few_copies() -> None:
    """The order of the entries decides nothing, and the fewer the rows between them, the fewer the copies."""
    dense, half, wide = (cases.attention_case(n_q=1, topk=1024, kv_lens=keys) for keys in (1024, 2048, 65536))
    counts = [check(case, cores=1).instructions["AIV.MTE2"] for case in (dense, half, wide)]
    assert counts[0] < 0.3 * counts[2]
    assert counts[1] < 0.7 * counts[2]


def test_results_do_not_depend_on_cores_and_order() -> None:
    case = cases.attention_case(b=3, n_q=16, topk=150, kv_lens=[150, 20, 300], holes=0.2)
    assert shape_tiling(case, 1).sort_offset == 0  # sorting changes the order of sums, and depends on the cores
    want, _ = run(case)
    for cores, seed in ((2, 0), (3, 1), (24, 2)):
        got, _ = run(case, cores=cores, seed=seed)
        assert_same_outputs(got, want)


def test_nan_stays_in_its_token() -> None:
    case = cases.attention_case(b=2, n_q=16, topk=64, kv_lens=[64, 64])
    query = case.inputs["query_nope"].copy()
    query[3, 7] = 0x7FC0
    want, _ = run(case, cores=1)
    got, _ = run(case.copy(query_nope=query), cores=1)
    assert_same_bits("attention_out", got["attention_out"][1], want["attention_out"][1])
    assert (got["attention_out"][0, 0, 3] & 0x7FFF > 0x7F80).all()
    assert np.isnan(got["lse"][0, 0, 3])


RAGGED_COUNTS = [[1, 1, 1], [0, 4, 1], [5, 0, 2], [2, 4, 0], [0, 0, 0]]


@functools.cache
def _ragged_want(topk: int) -> tuple[cases.Case, dict[str, np.ndarray]]:
    """Five tokens of each of three sequences, some of which see no key."""
    case = cases.with_lse(cases.attention_case(3, 5, 17, [77, 2, 900], topk=topk, holes=0.3))
    return case, {name: array.reshape(15, 17, *array.shape[3:]) for name, array in run(case, team=1)[0].items()}


def _padded(want: dict[str, np.ndarray], rows: np.ndarray, padding: int) -> dict[str, np.ndarray]:
    """Those tokens' results, and those of padding."""
    empty = {"attention_out": 0, "lse": -np.inf}
    return {
        name: np.concatenate([array[rows], np.full((padding, *array.shape[1:]), empty[name], array.dtype)])
        for name, array in want.items()
    }


@pytest.mark.parametrize(("team", "cores", "seed"), [(0, 1, 0), (0, 4, 1), (3, 7, 2), (0, 24, 3)])
@pytest.mark.parametrize("padding", [0, 1, 9])
@pytest.mark.parametrize("counts", RAGGED_COUNTS, ids=str)
def test_sequences_of_different_numbers_of_tokens(
    counts: list[int], padding: int, team: int, cores: int, seed: int
) -> None:
    """Each token has the bits that it has in a call where all sequences have as many tokens."""
    if sum(counts) + padding == 0:
        return
    case, want = _ragged_want(96)
    got, _ = run(cases.ragged(case, counts, padding), cores, team=team, seed=seed)
    assert_same_outputs(got, _padded(want, cases.ragged_rows(case, counts), padding))


@pytest.mark.parametrize("counts", [[3, 0, 5], [1, 5, 2]])
def test_a_call_of_its_own_gives_the_same_bits(counts: list[int]) -> None:
    """Sorted entries too, as long as a core has a token to itself in either call."""
    case, _ = _ragged_want(520)
    assert shape_tiling(cases.ragged(case, counts), 1).sort_offset > 0
    got, _ = run(cases.ragged(case, counts), 1, seed=1)
    begin = 0
    for sequence, count in enumerate(counts):
        if count < 2:  # the entries of a call's only token are not all sorted
            begin += count
            continue
        want, _ = run(own_call(case, sequence, count), 1)
        for name, array in want.items():
            assert_same_bits(name, got[name][begin : begin + count], array[0])
        begin += count


@pytest.mark.parametrize("cores", [1, 24])
def test_ragged_against_golden(cores: int) -> None:
    check(cases.ragged(_ragged_want(520)[0], [2, 5, 3], padding=3), cores=cores, seed=1)


def test_padding_beside_few_tokens() -> None:
    """So few tokens that a team has one task of the many that its tiling is made for."""
    case, want = _ragged_want(96)
    assert shape_tiling(cases.ragged(case, [1, 0, 0], 60), 24).softmax_offset > 0
    got, _ = run(cases.ragged(case, [1, 0, 0], 60), 24, seed=1)
    assert_same_outputs(got, _padded(want, cases.ragged_rows(case, [1, 0, 0]), 60))


@pytest.mark.parametrize("b", [1, 16, 129])
def test_many_sequences(b: int) -> None:
    counts = [(2 * n + 1) % 3 for n in range(b)]
    case = cases.with_lse(cases.attention_case(b, 2, 2, [30 + n % 60 for n in range(b)], topk=40))
    got, _ = run(cases.ragged(case, counts, 1), 24, team=1, seed=b % 2)
    want = {name: array.reshape(2 * b, 2, *array.shape[3:]) for name, array in run(case, 24, team=1)[0].items()}
    assert_same_outputs(got, _padded(want, cases.ragged_rows(case, counts), 1))


@pytest.mark.parametrize("cores", [1, 24])
@pytest.mark.parametrize("counts", IMPOSSIBLE, ids=str)
def test_impossible_numbers_of_tokens(counts: list[int], cores: int) -> None:
    """All tokens are padding then, and nothing else is read."""
    case = cases.ragged(cases.with_lse(cases.attention_case(3, 4, 17, [77, 20, 300], topk=96)), [4, 4, 4])
    got, _ = run(case.copy(query_act_seqs=np.array(counts, np.int32)), cores, seed=cores % 2)
    assert not got["attention_out"].any()
    assert np.isneginf(got["lse"]).all()


def test_no_sequence() -> None:
    case = no_sequence(cases.with_lse(cases.attention_case(n_q=16, topk=64)))
    got, _ = run(case, cores=24)
    assert not got["attention_out"].any()
    assert np.isneginf(got["lse"]).all()


def test_no_token() -> None:
    got, report = run(cases.attention_case(b=0, s1=1, n_q=16, topk=64))
    assert got["attention_out"].size == 0
    assert sum(report.instructions.values()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_full_size(seed: int) -> None:
    """All heads, 2048 of 131072 positions."""
    check(cases.attention_case(n_q=128, topk=2048, kv_lens=131072), cores=1, seed=seed)


@pytest.mark.slow
def test_longest_lists() -> None:
    """What UB is laid out for: 4096 entries of topk_indices, 8192 columns of block_table."""
    case = cases.attention_case(n_q=3, topk=4096, kv_lens=131056, block_size=16, holes=0.01)
    assert case.inputs["block_table"].shape[1] == 8192
    check(case, cores=1, seed=1)


@pytest.mark.slow
def test_decode_with_two_tokens() -> None:
    check(cases.attention_case(b=2, s1=2, n_q=128, topk=2048, kv_lens=[4097, 2050]), cores=2, seed=1)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"n_q": 129}, "n_q must be in"),
        ({"topk": 4097}, "topk must be in"),
        ({"max_blocknum": 8193}, "max_blocknum_perbatch must be at most"),
        ({"t": 3}, "multiple of b"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, int], reason: str) -> None:
    shape = {"t": 2, "b": 2, "n_q": 16, "topk": 64, "block_num": 4, "block_size": 128, "max_blocknum": 2}
    with pytest.raises(ValueError, match=reason):
        make_tiling(24, **{**shape, **changed}, softmax_scale=1.0)
