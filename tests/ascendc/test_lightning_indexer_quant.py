"""lightning_indexer_quant in the emulator against golden: shapes, ties, block counts, pipe orders."""

from __future__ import annotations

import functools
from typing import Any

import cases
import numpy as np
import pytest
from emulated import check, run
from indexer import make_tiling, shape_tiling
from ragged_calls import IMPOSSIBLE, no_sequence, own_call
from tolerance import ASCEND_TOPK_RTOL, assert_same_bits, assert_same_outputs, assert_topk


def with_loud_keys(case: cases.Case, positions: np.ndarray, token: int) -> cases.Case:
    """The keys of one sequence at these positions have scores of 64 times the size, all positive for one token."""
    signs = np.sign(cases.indexer_scores(case)[0][token][positions]).astype(np.float16)
    scales = case.inputs["k_cache_scale"].copy()
    scales.reshape(-1)[case.paging.occupied_rows()[positions]] *= 64 * signs
    return case.copy(k_cache_scale=scales)


@pytest.mark.parametrize("seed", [0, 1])
def test_one_token(seed: int) -> None:
    check(cases.indexer_case(kv_lens=300, selected_count=64), seed=seed)


@pytest.mark.parametrize("cores", [1, 3])
def test_weights_of_any_size(cores: int) -> None:
    """Tokens of one unit whose weights are near either end of half's range, or 0."""
    case = cases.indexer_case(b=1, s1=4, kv_lens=3000, selected_count=64)
    weights = case.inputs["weights"].astype(np.float32).reshape(4, 64)
    sizes = np.array([60000.0, 0.0, 2.0**-14, 200.0]) / np.abs(weights).max(1)
    changed = (weights * sizes.reshape(4, 1)).astype(np.float16).reshape(case.inputs["weights"].shape)
    check(case.copy(weights=changed, q_scale=np.ones_like(case.inputs["q_scale"])), cores=cores)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("cores", [1, 2, 20, 24])
def test_block_counts(cores: int, seed: int) -> None:
    """Several tokens of each sequence; tokens that see no key, few keys, one chunk and several."""
    check(cases.indexer_case(b=3, s1=2, kv_lens=[1, 700, 4500], selected_count=512), cores=cores, seed=seed)


@pytest.mark.parametrize("cores", [1, 5])
@pytest.mark.parametrize(("s1", "kv_len"), [(2, 4097), (2, 65), (3, 4098), (4, 6147), (5, 2100)])
def test_tokens_of_a_sequence(s1: int, kv_len: int, cores: int) -> None:
    """Pairs, with a single token left over or without; chunks and whole lists that only the second of a pair has."""
    check(cases.indexer_case(s1=s1, kv_lens=kv_len, selected_count=64), cores=cores, seed=cores % 2)


@pytest.mark.parametrize("s1", [2, 3, 4, 5])
def test_the_last_key_of_each_token_is_its_best(s1: int) -> None:
    """Also where it is the only one of its tile that the last token sees."""
    case = cases.indexer_case(s1=s1, kv_lens=4097, selected_count=64)
    check(with_loud_keys(case, 4097 - np.arange(1, s1 + 1), token=-1), seed=1)


@pytest.mark.parametrize("count", [64, 65, 127, 129, 2047, 2048, 2049, 2111, 4096, 4097, 6145])
def test_key_counts(count: int) -> None:
    """Tails of the tiles, of the vector's repeats, and of the chunks."""
    check(cases.indexer_case(kv_lens=count, selected_count=64), seed=count % 2)


@pytest.mark.parametrize("selected_count", [1, 31, 33, 100, 2047, 2048])
def test_selected_counts(selected_count: int) -> None:
    check(cases.indexer_case(b=2, kv_lens=[2500, 90], selected_count=selected_count), seed=selected_count % 2)


@pytest.mark.parametrize(("cores", "sharers", "lists"), [(1, 1, 2), (4, 4, 8), (24, 20, 40)])
def test_cores_share_a_token(cores: int, sharers: int, lists: int) -> None:
    """Each AIV makes a list. Up to 16 are merged by one AIV, more in groups and then once more."""
    case = cases.indexer_case(kv_lens=20000, selected_count=2048)
    tiling = shape_tiling(case, cores)
    assert (tiling.rounds, tiling.sharers if tiling.shared else 1) == (cores == 1, sharers)
    assert tiling.lists == (lists if tiling.shared else 0)
    check(case, cores=cores, seed=1)


@pytest.mark.parametrize("kv_len", [2100, 2500, 40000, 70000])
def test_lists_without_keys(kv_len: int) -> None:
    """A short sequence in a wide block_table leaves most of 48 lists short, or without a key."""
    case = cases.with_columns(cases.indexer_case(kv_lens=kv_len, selected_count=2048), 548)
    assert shape_tiling(case, 24).lists == 48
    check(case, cores=24, seed=kv_len % 3)


@pytest.mark.parametrize("kv_len", [63, 65, 100, 1000])
def test_groups_of_lists_without_keys(kv_len: int) -> None:
    """24 cores share a short sequence in a wide block_table. Groups of lists have no key, or the token selects all."""
    case = cases.with_columns(cases.indexer_case(kv_lens=kv_len, selected_count=64), 548)
    assert shape_tiling(case, 24).lists == 48
    check(case, cores=24, seed=kv_len % 3)


@pytest.mark.parametrize("counts", [[4] * 24 + [1], [4] * 23 + [5]], ids=["one token", "three of five tokens"])
def test_a_ragged_unit_left_over_for_all_cores(counts: list[int]) -> None:
    """24 cores have a unit each and share the last one, which has fewer tokens than the others."""
    case = cases.indexer_case(len(counts), 5, [70] * (len(counts) - 1) + [3000], selected_count=64)
    check(cases.ragged(case, counts), cores=24, seed=1)


def test_scores_of_which_the_first_chunk_has_the_best() -> None:
    """No score of the second step is as good as the guess, so none is inserted. The first step has 14 tiles."""
    case = cases.indexer_case(s1=4, kv_lens=9000, selected_count=1100)
    check(with_loud_keys(case, np.arange(1792), token=0), seed=1)


@pytest.mark.parametrize(("b", "s1"), [(5, 1), (3, 3), (1, 20)])
def test_units_left_over_are_shared(b: int, s1: int) -> None:
    """Two cores: rounds of whole units, and one that both have a part of; tokens that see few keys among others."""
    case = cases.indexer_case(b, s1, [2051, 4500, 700, 2049, 3000][:b], selected_count=2048)
    assert (shape_tiling(case, 2).rounds, shape_tiling(case, 2).shared) == (5 // 2 if b * s1 != 9 else 1, 1)
    check(case, cores=2, seed=b)


@pytest.mark.parametrize("s1", [1, 2, 3])
@pytest.mark.parametrize("kv_len", [90, 200])
def test_short_tasks_behind_a_long_one(s1: int, kv_len: int) -> None:
    """The short tasks have fewer products than are in flight."""
    check(cases.indexer_case(4, s1, [700, kv_len, kv_len, 400], selected_count=64), cores=1, seed=s1 % 2)


@pytest.mark.parametrize("cores", [1, 3, 4, 24])
@pytest.mark.parametrize(
    ("s1", "kv_lens"), [(4, [2049, 4096]), (3, [3, 513, 8191]), (4, [4096, 2050, 2048, 4097]), (4, [2050])]
)
def test_tokens_that_select_all_beside_tokens_that_do_not(s1: int, kv_lens: list[int], cores: int) -> None:
    """An AIV whose tokens see no more keys than are selected goes through the steps of the others without a score."""
    case = cases.indexer_case(len(kv_lens), s1, kv_lens)
    for seed in (0, 1):
        check(case, cores=cores, seed=seed)


def test_equal_scores_take_the_smaller_positions() -> None:
    """All keys are the same, and so are all scores. The first positions win, across tiles, lists and cores."""
    case = cases.indexer_case(kv_lens=9000, selected_count=2048, distinct_keys=1)
    for cores in (1, 3):
        got, _ = run(case, cores=cores)
        np.testing.assert_array_equal(got["topk_indices"], np.arange(2048, dtype=np.int32)[None])


def test_few_distinct_keys() -> None:
    check(cases.indexer_case(kv_lens=5000, selected_count=1000, distinct_keys=40), cores=2, seed=1)


def test_a_sample_that_misleads() -> None:
    """What is selected is guessed from eight keys of each 128. They are the best here, so the guess is too high."""
    case = cases.indexer_case(s1=4, kv_lens=9000)
    check(with_loud_keys(case, np.flatnonzero(np.arange(9000) % 128 < 8), token=0))


@pytest.mark.parametrize("first", [0, 2048])
def test_the_best_in_one_chunk_of_two(first: int) -> None:
    """Two chunks are sorted together: all that is kept may be of either."""
    case = cases.indexer_case(s1=4, kv_lens=9000, selected_count=1100)
    check(with_loud_keys(case, np.arange(first, first + 2048), token=0))


def test_small_blocks_and_split_axes() -> None:
    case = cases.indexer_case(b=2, s1=2, kv_lens=[2300, 70], selected_count=128, block_size=48, split=True)
    check(case, cores=2, seed=1)


def check_with_holes(case: cases.Case, columns: list[int], **options: Any) -> None:
    """The one sequence of `case` without the blocks of some columns: their keys rank last."""
    table = case.inputs["block_table"].copy()
    table[0, columns] = [-1 if i % 2 == 0 else case.paging.block_num for i in range(len(columns))]
    got, _ = run(case.copy(block_table=table), **options)
    scores, magnitudes = (found[0] for found in cases.indexer_scores(case))
    size = case.paging.block_size
    for column in columns:
        scores[column * size : (column + 1) * size] = -np.inf
    selected = case.attributes["selected_count"]
    want = np.argsort(-scores, kind="stable")[:selected].astype(np.int32)
    assert_topk(got["topk_indices"], want[None], [scores], [magnitudes], rtol=ASCEND_TOPK_RTOL)


def test_keys_without_a_block_rank_last() -> None:
    check_with_holes(cases.indexer_case(kv_lens=600, selected_count=300), [1, 3], seed=1)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("block_size", "kv_len"), [(16, 3000), (48, 5000), (128, 5000), (4096, 9000)])
def test_neighbouring_blocks(block_size: int, kv_len: int, shuffle: bool) -> None:
    """Runs of blocks that are neighbours in the cache end at holes, at other blocks, and at the ends of tiles."""
    case = cases.indexer_case(kv_lens=kv_len, selected_count=200, block_size=block_size, shuffle=shuffle)
    last = (kv_len - 1) // block_size
    check_with_holes(case, sorted({last // 2, last // 2 + 1, last}), seed=1)
    table = case.inputs["block_table"].copy()
    table[0, 1:last:5] = table[0, 2 : last + 1 : 5]  # two columns with one block
    check(case.copy(block_table=table), cores=2, seed=int(shuffle))


def test_neighbouring_blocks_are_copied_at_once() -> None:
    counts = [check(cases.indexer_case(kv_lens=8192, block_size=16, shuffle=shuffle)) for shuffle in (True, False)]
    shuffled, neighbours = (report.instructions for report in counts)
    assert neighbours["AIC.MTE2"] < shuffled["AIC.MTE2"] / 5
    assert neighbours["AIV.MTE2"] < shuffled["AIV.MTE2"] / 5


@pytest.mark.parametrize(("cores", "seed"), [(1, 0), (1, 2), (3, 1)])
def test_wide_block_table(cores: int, seed: int) -> None:
    """An AIV reads the table in windows of 1024 columns. Here are 8192, with holes where windows end."""
    case = cases.indexer_case(2, kv_lens=[40000, 700], selected_count=100, block_size=16)
    check(cases.with_columns(case, 8192), cores=cores, seed=seed)
    case = cases.indexer_case(kv_lens=40000, selected_count=100, block_size=16)
    check_with_holes(case, [1000, 1023, 1024, 1025, 1150, 2047, 2048], cores=cores, seed=seed)


@pytest.mark.parametrize(
    ("cores", "s1", "kv_len", "loud"),
    [
        *((cores, s1, 30000, loud) for cores, s1 in ((24, 1), (6, 2), (2, 3)) for loud in (1000, 3000)),
        (9, 1, 36000, 1600),  # more of one list than its samples tell of
    ],
)
def test_most_of_the_best_in_few_lists(cores: int, s1: int, kv_len: int, loud: int) -> None:
    """Lists of which more is needed than is read beside the samples."""
    case = cases.indexer_case(s1=s1, kv_lens=kv_len)
    loud_case = with_loud_keys(case, np.arange(8192, 8192 + loud), token=-1)
    check(loud_case, cores=cores, seed=loud // 1000)


def test_few_of_the_best_in_each_list_and_many_of_the_next_in_one() -> None:
    """A sample of a list stands for the records before it, and for no more."""
    case = cases.indexer_case(kv_lens=60000)
    scores, rng = cases.indexer_scores(case)[0][0], np.random.default_rng(0)
    key = np.arange(60000)
    best, next_best = key % 3750 < 96, (key > 15100) & (key < 18600)  # there are 16 lists
    wanted = np.where(best, rng.uniform(60, 70, key.size), rng.uniform(30, 40, key.size))
    scales, rows = case.inputs["k_cache_scale"].copy(), case.paging.occupied_rows()
    changed = np.where(best | next_best, scales.reshape(-1)[rows] * wanted / scores, scales.reshape(-1)[rows])
    scales.reshape(-1)[rows] = changed.astype(np.float16)
    check(case.copy(k_cache_scale=scales), cores=8)


@pytest.mark.parametrize("cores", [1, 4])
def test_a_sequence_longer_than_its_table(cores: int) -> None:
    """Keys beyond the columns of block_table rank last: the host does not see how long sequences are."""
    case = cases.indexer_case(kv_lens=900, selected_count=64)
    got, _ = run(case.copy(kv_act_seqs=np.array([5000], np.int32)), cores=cores, seed=1)
    case.check(got, rtol=ASCEND_TOPK_RTOL)


def test_sequence_without_a_block() -> None:
    """No key has a score: the first positions are as good as any."""
    case = cases.indexer_case(kv_lens=2600, selected_count=100)
    got, _ = run(case.copy(block_table=np.full_like(case.inputs["block_table"], -1)), cores=2, seed=1)
    np.testing.assert_array_equal(np.sort(got["topk_indices"]), np.arange(100, dtype=np.int32)[None])


@pytest.mark.parametrize(("s1", "kv_len", "selected_count"), [(1, 600, 300), (1, 320, 310), (4, 4500, 2048)])
def test_nan_scales_rank_last(s1: int, kv_len: int, selected_count: int) -> None:
    """Also where some of them must be selected, and in the scores that wait to be sorted."""
    case = cases.indexer_case(s1=s1, kv_lens=kv_len, selected_count=selected_count)
    scales = case.inputs["k_cache_scale"].copy()
    flat = scales.reshape(-1)
    flat[case.paging.occupied_rows()[5 : kv_len : kv_len // 20]] = np.nan
    check(case.copy(k_cache_scale=scales), cores=2, seed=kv_len % 2)


def test_selection_does_not_depend_on_cores_and_order() -> None:
    case = cases.indexer_case(b=2, kv_lens=[9000, 3000], selected_count=256)
    want, _ = run(case)
    for cores, seed in ((2, 0), (8, 1), (24, 2)):
        got, _ = run(case, cores=cores, seed=seed)
        assert_same_outputs(got, want)


RAGGED_COUNTS = [
    [1, 1, 1, 1],
    [5, 1, 1, 2],  # two numbers are read at a time, and their order counts
    [0, 4, 5, 1],  # a sequence without a token at the begin,
    [8, 0, 0, 3],  # in the middle,
    [3, 7, 2, 0],  # and at the end
    [0, 0, 8, 0],
    [0, 0, 0, 0],
]


@functools.cache
def _ragged_want() -> tuple[cases.Case, np.ndarray]:
    """Eight tokens of each of four sequences, which see no key, few keys, and more than are selected."""
    case = cases.indexer_case(4, 8, [700, 4500, 2, 300], selected_count=256)
    return case, run(case)[0]["topk_indices"]


@pytest.mark.parametrize(("cores", "seed"), [(1, 0), (2, 1), (5, 2), (24, 3)])
@pytest.mark.parametrize("padding", [0, 1, 50])
@pytest.mark.parametrize("counts", RAGGED_COUNTS, ids=str)
def test_sequences_of_different_numbers_of_tokens(counts: list[int], padding: int, cores: int, seed: int) -> None:
    """Each token has the bits that it has in a call where all sequences have as many tokens."""
    if sum(counts) + padding == 0:
        return
    case, want = _ragged_want()
    got, _ = run(cases.ragged(case, counts, padding), cores=cores, seed=seed)
    rows = np.full((padding, 256), -1, np.int32)
    assert_same_bits("topk_indices", got["topk_indices"], np.concatenate([want[cases.ragged_rows(case, counts)], rows]))


def test_ragged_against_golden() -> None:
    case = cases.ragged(_ragged_want()[0], [2, 5, 0, 3], padding=3)
    check(case, cores=3, seed=1)


@pytest.mark.parametrize("counts", [[3, 0, 5], [1, 6, 2]])
def test_a_call_of_its_own_gives_the_same_bits(counts: list[int]) -> None:
    """A chunk of a prompt beside decode tokens, and each sequence alone."""
    case = cases.indexer_case(3, 6, [4200, 2500, 300], selected_count=512)
    got, _ = run(cases.ragged(case, counts), cores=24, seed=1)
    begin = 0
    for sequence, count in enumerate(counts):
        if count == 0:
            continue
        want, _ = run(own_call(case, sequence, count), cores=24)
        assert_same_bits("topk_indices", got["topk_indices"][begin : begin + count], want["topk_indices"])
        begin += count


@pytest.mark.parametrize(("b", "cores"), [(1, 24), (15, 3), (16, 24), (17, 24), (129, 7), (300, 24)])
def test_many_sequences(b: int, cores: int) -> None:
    """query_act_seqs is read in pairs, and looked up from one unit to another."""
    counts = [(3 * n + 1) % 4 for n in range(b)]
    case = cases.indexer_case(b, 3, [40 + n % 60 for n in range(b)], selected_count=32)
    got = run(cases.ragged(case, counts, 1), cores=cores, seed=b % 2)[0]["topk_indices"]
    want = run(case)[0]["topk_indices"]
    assert_same_bits("topk_indices", got[:-1], want[cases.ragged_rows(case, counts)])
    assert (got[-1] == -1).all()


def test_query_act_seqs_anywhere() -> None:
    """Aligned to 4 bytes, but not to 8."""
    case = cases.ragged(_ragged_want()[0], [2, 5, 1, 3])
    want, _ = run(case)
    got, _ = run(case, misalign=4)
    assert_same_outputs(got, want)


@pytest.mark.parametrize("cores", [1, 24])
@pytest.mark.parametrize("counts", IMPOSSIBLE, ids=str)
def test_impossible_numbers_of_tokens(counts: list[int], cores: int) -> None:
    """All tokens are padding then, and nothing else is read."""
    case = cases.ragged(cases.indexer_case(3, 4, [700, 4500, 300], selected_count=256), [4, 4, 4])
    got, _ = run(case.copy(query_act_seqs=np.array(counts, np.int32)), cores=cores, seed=cores % 2)
    assert (got["topk_indices"] == -1).all()


def test_no_sequence() -> None:
    case = no_sequence(cases.indexer_case(selected_count=64))
    assert (run(case, cores=24)[0]["topk_indices"] == -1).all()


def test_the_workspace_holds_all_lists() -> None:
    """Whatever the numbers of tokens, a launch needs no more than the tiling function has asked for."""
    for cores in (1, 3, 23, 24, 32):
        for units in range(1, 2 * cores):
            shape = {"selected_count": 2048, "block_num": 9, "block_size": 128, "max_blocknum": 2000}
            ragged = make_tiling(cores, t=4 * units, b=units, ragged=True, **shape)
            for tokens in (1, 2, 4):
                plain = make_tiling(cores, t=tokens * units, b=units, ragged=False, **shape)
                if plain.cores == ragged.cores:
                    assert plain.workspace_bytes <= ragged.workspace_bytes


def test_no_token() -> None:
    got, report = run(cases.indexer_case(b=0, s1=1, selected_count=64))
    assert got["topk_indices"].size == 0
    assert sum(report.instructions.values()) == 0
    got, report = run(cases.ragged(cases.indexer_case(b=2, s1=1, selected_count=64), [0, 0]))
    assert got["topk_indices"].size == 0
    assert sum(report.instructions.values()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 24])
def test_full_size(cores: int) -> None:
    """2048 of 131072 positions, for four tokens of one sequence."""
    check(cases.indexer_case(s1=4, kv_lens=131072), cores=cores, seed=cores % 2)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"selected_count": 2049}, "selected_count must be in"),
        ({"selected_count": 0}, "selected_count must be in"),
        ({"block_size": 24}, "block_size must be a multiple of 16"),
        ({"t": 3}, "multiple of b"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, int], reason: str) -> None:
    shape = {"t": 2, "b": 2, "selected_count": 64, "block_num": 4, "block_size": 128, "max_blocknum": 2}
    with pytest.raises(ValueError, match=reason):
        make_tiling(24, **{**shape, **changed})
