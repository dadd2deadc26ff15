"""Sequences of different numbers of tokens in one call have the same bits as in calls of their own.

`test_isa.py` runs this file again for every instruction set that the machine has.
"""

from __future__ import annotations

from collections.abc import Sequence

import cases
import numpy as np
import pytest
import tolerance
from bare_kernels import check, run

from ms_dsv32 import golden, kernel_impl, op_info

COUNTS = [
    ([0, 0, 0], 0), ([0, 0, 0], 4), ([1, 0, 0], 0), ([0, 0, 1], 127), ([3, 1, 2], 0), ([0, 7, 9], 1), ([9, 9, 9], 5),
    ([8, 0, 7], 2),
]  # fmt: skip
"""Tokens of each of three sequences, and of the padding; the indexer groups 8 tokens."""


def make(operator: str, lengths: Sequence[int] = (3000, 40, 2300), s1: int = 9, seed: int = 0) -> cases.Case:
    case = cases.make(operator, len(lengths), s1, list(lengths), n_q=5, seed=seed)
    return cases.with_lse(case) if operator == "sparse_flash_attention_quant" else case


OPERATORS = [name for name in op_info.names() if op_info.load(name).optional]
PADDING = {"topk_indices": -1, "attention_out": 0, "lse": -np.inf}


@pytest.mark.parametrize(("counts", "padding"), COUNTS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_bits_are_those_of_whole_sequences(operator: str, counts: list[int], padding: int) -> None:
    whole = make(operator)
    want = run(whole)
    rows = cases.ragged_rows(whole, counts)
    try:
        for threads in (1, 2, 3, 16):
            kernel_impl.set_thread_count(threads)
            got = run(cases.ragged(whole, counts, padding))
            for name, value in got.items():
                assert value.shape[0] == sum(counts) + padding
                merged = want[name].reshape(whole.paging.t, *value.shape[1:])
                tolerance.assert_same_outputs({name: value[: sum(counts)]}, {name: merged[rows]})
                assert (value[sum(counts) :] == PADDING[name]).all()
    finally:
        kernel_impl.set_thread_count(0)


@pytest.mark.parametrize("operator", OPERATORS)
def test_against_the_golden_reference(operator: str) -> None:
    check(cases.ragged(make(operator), [2, 0, 5], 3))
    check(cases.ragged(make(operator, lengths=(4, 0, 300)), [9, 4, 1], 0))  # more tokens than keys
    check(cases.ragged(make(operator, lengths=(3000, 2300, 40)), [3, 1, 7], 0))  # the last are not scored


@pytest.mark.parametrize("operator", OPERATORS)
def test_tokens_of_one_number_are_those_without_it(operator: str) -> None:
    whole = make(operator, s1=3)
    got, want = run(cases.ragged(whole, [3, 3, 3])), run(whole)
    tolerance.assert_same_outputs(got, {name: value.reshape(got[name].shape) for name, value in want.items()})


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_prompt_beside_many_that_decode(operator: str) -> None:
    whole = make(operator, lengths=np.random.default_rng(0).integers(2049, 2600, 12).tolist(), s1=64)
    decoding = [1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1]
    prompts = [0, 64, 0, 0, 0, 0, 0, 13, 0, 0, 0, 0]
    both = [a + b for a, b in zip(decoding, prompts, strict=True)]
    got = run(cases.ragged(whole, both, 6))
    for counts in (decoding, prompts):
        own = np.isin(cases.ragged_rows(whole, both), cases.ragged_rows(whole, counts))
        tolerance.assert_same_outputs(
            {name: value[: sum(both)][own] for name, value in got.items()}, run(cases.ragged(whole, counts))
        )


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_sequence_without_tokens_is_not_read(operator: str) -> None:
    case = cases.ragged(make(operator), [2, 0, 5], 1)
    table = case.inputs["block_table"].copy()
    table[1] = [-1, 10**6, *table[1, 2:]]
    tolerance.assert_same_outputs(run(case.copy(block_table=table)), run(case))
    table[2, 0] = -1
    for function in (run, cases.Case.golden):
        with pytest.raises(ValueError, match=rf"^{operator}: block_table\[2, 0\] = -1 is outside"):
            function(case.copy(block_table=table))


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([2, -1, 5], r"query_act_seqs\[1\] = -1 is outside \[0, t\] = \[0, 8\]"),
        ([2, 0, 9], r"query_act_seqs\[2\] = 9 is outside \[0, t\] = \[0, 8\]"),
        ([2, 2, 5], "query_act_seqs has 9 tokens together, expected at most t = 8"),
        ([2**31 - 1, 2**31 - 1, 8], r"query_act_seqs\[0\] = 2147483647 is outside"),
        ([-(2**31), 0, 8], r"query_act_seqs\[0\] = -2147483648 is outside"),
    ],
)
@pytest.mark.parametrize("operator", OPERATORS)
def test_what_does_not_divide_the_tokens_is_refused(operator: str, counts: list[int], text: str) -> None:
    case = cases.ragged(make(operator), [2, 0, 5], 1)
    bad = case.copy(query_act_seqs=np.array(counts, np.int32))
    for function in (run, cases.Case.golden):
        with pytest.raises(ValueError, match=f"^{operator}: {text}"):
            function(bad)
    # Entries of topk_indices are checked by the sequences that the tokens belong to.
    if operator == "sparse_flash_attention_quant":
        bad = case.inputs["topk_indices"].copy()
        bad[2, 3] = 2300  # of the third sequence
        for function in (run, cases.Case.golden):
            with pytest.raises(ValueError, match=r"topk_indices\[2, 3\] = 2300 is outside \[0, kv_act_seqs\[2\]\)"):
                function(case.copy(topk_indices=bad))


@pytest.mark.parametrize("b", [2**15, 2**16])
def test_tokens_that_32_bits_do_not_count(b: int) -> None:
    """The check of a step, which has no kernel: their sum is 2^31 or 2^32, and each number is right by itself."""
    t = 2**16
    inputs = {
        "cache_index": np.full(t, -1, np.int64),
        "k_cache": np.zeros((1, 128, 1, 128), np.int8),
        "block_table": np.zeros((b, 1), np.int32),
        "kv_act_seqs": np.ones(b, np.int32),
        "query_act_seqs": np.full(b, t, np.int32),
    }
    text = f"^lightning_indexer_quant: query_act_seqs has {t * b} tokens together, expected at most t = {t}$"
    with pytest.raises(ValueError, match=text):
        kernel_impl.call("sparse_attention_step", inputs, {})


@pytest.mark.parametrize("operator", OPERATORS)
def test_golden_is_that_of_whole_sequences(operator: str) -> None:
    whole = make(operator, lengths=(300, 0, 2100), s1=2)
    counts = [1, 2, 0]
    got, want = cases.ragged(whole, counts, 2).golden(), whole.golden()
    for name, value in got.items():
        merged = want[name].reshape(6, *value.shape[1:])[cases.ragged_rows(whole, counts)]
        np.testing.assert_array_equal(value[:3], merged)
        assert (value[3:] == PADDING[name]).all()
    split = cases.indexer_case(3, 2, [300, 0, 2100], split=True).inputs
    with pytest.raises(ValueError, match=r"q_int8 has a split token axis .* with query_act_seqs"):
        golden.lightning_indexer_quant(*split.values(), np.array(counts, np.int32))
