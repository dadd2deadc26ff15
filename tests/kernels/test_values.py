"""Indices that point outside their cache: refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable

import cases
import numpy as np
import pytest

from ms_dsv32 import kernel_impl


@pytest.mark.parametrize(
    ("maker", "argument"),
    [
        (cases.mla_prolog_case, "cache_index"),
        (cases.indexer_prolog_case, "k_cache_index"),
        (cases.fused_prolog_case, "cache_index"),
    ],
)
@pytest.mark.parametrize("bad", [-2, 384, 2**40])
def test_cache_index(maker, argument: str, bad: int) -> None:
    case = maker(1, 3, kv_lens=200)
    assert case.paging.block_num == 3
    index = case.inputs[argument].copy()
    index[1] = bad
    inputs = case.copy(**{argument: index}).inputs
    caches = {name: inputs[name].copy() for name in cases.IN_PLACE[case.operator]}
    with pytest.raises(
        ValueError, match=rf"^{case.operator}: {argument}\[1\] = {bad} is outside \[0, block_num \*"
    ) as error:
        kernel_impl.call(case.operator, inputs, case.attributes)
    assert "[0, 384) and is not -1 (padding)" in str(error.value)
    for name, before in caches.items():
        assert inputs[name].tobytes() == before.tobytes()
    index[1] = 383  # the last row
    kernel_impl.call(case.operator, inputs, case.attributes)
    for name, before in caches.items():
        rows, rows_before = (v.reshape(384, -1) for v in (inputs[name], before))
        assert (rows[383] != rows_before[383]).any(), name


@pytest.mark.parametrize(
    ("maker", "attribute"),
    [
        (lambda: cases.attention_case(2, 1, 4, 300), "softmax_scale"),
        (lambda: cases.mla_prolog_case(1, 1), "epsilon_cq"),
    ],
)
def test_a_number_that_float32_cannot_hold(maker: Callable[[], cases.Case], attribute: str) -> None:
    case = maker()
    kernel_impl.call(case.operator, case.copy().inputs, {**case.attributes, attribute: 3e38})
    with pytest.raises(ValueError, match=rf"^{case.operator}: {attribute} must be finite as float32, got 1e\+300$"):
        kernel_impl.call(case.operator, case.inputs, {**case.attributes, attribute: 1e300})


@pytest.mark.parametrize(
    ("argument", "at", "bad", "message"),
    [
        ("topk_indices", (1, 17), 300, "topk_indices[1, 17] = 300 is outside [0, kv_act_seqs[1]) = [0, 300) and is "
                                       "not -1"),
        ("topk_indices", (0, 0), -2, "topk_indices[0, 0] = -2 is outside [0, kv_act_seqs[0]) = [0, 300) and is not -1"),
        ("block_table", (0, 1), 99, "block_table[0, 1] = 99 is outside [0, block_num) = [0, 7) behind a position "
                                    "that is read"),
        ("block_table", (1, 0), -1, "block_table[1, 0] = -1 is outside [0, block_num) = [0, 7) behind a position "
                                    "that is read"),
        ("kv_act_seqs", (1,), 513, "kv_act_seqs[1] = 513 is outside [0, max_blocknum_perbatch * block_size] = [0, "
                                   "512]"),
        ("kv_act_seqs", (0,), -1, "kv_act_seqs[0] = -1 is outside [0, max_blocknum_perbatch * block_size] = [0, 512]"),
    ],
)  # fmt: skip
def test_attention(argument: str, at: tuple[int, ...], bad: int, message: str) -> None:
    case = cases.attention_case(2, 1, 4, 300)
    value = case.inputs[argument].copy()
    value[at] = bad
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is compared whole
        kernel_impl.call(case.operator, case.copy(**{argument: value}).inputs, case.attributes)
    assert str(error.value) == f"{case.operator}: {message}"


def test_attention_ignores_what_it_does_not_read() -> None:
    case = cases.attention_case(1, 2, 4, 300)  # token 0 sees 299 keys: entries from 299 on are not read
    assert (case.inputs["topk_indices"][0, 299:] == 2**31 - 1).all()
    table = case.inputs["block_table"].copy()
    table[0, 3:] = 10**6
    kernel_impl.call(case.operator, case.copy(block_table=table).inputs, case.attributes)
    # A bad block of positions that are not selected is not read either.
    table[0, 1] = -1
    chosen = np.where(case.inputs["topk_indices"] // 128 == 1, 5, case.inputs["topk_indices"])
    kernel_impl.call(case.operator, case.copy(block_table=table, topk_indices=chosen).inputs, case.attributes)


@pytest.mark.parametrize(
    ("argument", "at", "bad", "message"),
    [
        (
            "block_table",
            (1, 2),
            7,
            "block_table[1, 2] = 7 is outside [0, block_num) = [0, 7) behind a position that is read",
        ),
        (
            "kv_act_seqs",
            (0,),
            513,
            "kv_act_seqs[0] = 513 is outside [0, max_blocknum_perbatch * block_size] = [0, 512]",
        ),
    ],
)
def test_indexer(argument: str, at: tuple[int, ...], bad: int, message: str) -> None:
    case = cases.indexer_case(2, 1, 300)
    value = case.inputs[argument].copy()
    value[at] = bad
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is compared whole
        kernel_impl.call(case.operator, case.copy(**{argument: value}).inputs, case.attributes)
    assert str(error.value) == f"{case.operator}: {message}"


@pytest.mark.parametrize("maker", [cases.attention_case, cases.indexer_case])
def test_a_full_table(maker: Callable[..., cases.Case]) -> None:
    """Sequences as long as the columns of block_table hold."""
    case = maker(2, 1, *((4,) if maker is cases.attention_case else ()), 256)
    full = cases.with_table(case, np.ascontiguousarray(case.inputs["block_table"][:, :2]))
    for got, want in zip(*(kernel_impl.call(c.operator, c.inputs, c.attributes) for c in (full, case)), strict=True):
        np.testing.assert_array_equal(got, want)


def test_inputs_must_be_contiguous() -> None:
    case = cases.indexer_case(2, 1, 300)
    inputs = case.inputs | {"q_int8": case.inputs["q_int8"][:, :, ::-1]}
    with pytest.raises(ValueError, match="lightning_indexer_quant: q_int8 must be contiguous"):
        kernel_impl.call(case.operator, inputs, case.attributes)
