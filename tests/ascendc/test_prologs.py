"""The three prolog kernels in the emulator against golden: shapes, block counts, pipe orders, cache rows, NaN."""

from __future__ import annotations

import cases
import numpy as np
import pytest
from cases import CACHE_INDEX
from emulated import check, run
from prologs import case_of, golden_of
from tiling import PROLOGS
from tolerance import assert_same_bits, assert_same_outputs

from ms_dsv32.golden import float32_to_bf16

ONE = 0x3F80  # in bfloat16


@pytest.mark.parametrize("op", PROLOGS)
@pytest.mark.parametrize(
    ("b", "s1", "n_q", "blocks", "seed"),
    [
        (1, 1, 1, 1, 0),  # one row: the cube must not fall into its vector mode; one AIV has no token
        (2, 1, 3, 1, 1),
        (3, 1, 3, 2, 2),  # the two AIVs of a core have different numbers of tokens
        (1, 4, 5, 20, 0),
        (5, 1, 24, 24, 3),
        (17, 1, 2, 2, 0),  # two fractals, the second with one row
    ],
    ids=str,  # test_sanitizers.py chooses one of them
)
def test_as_golden(op: str, b: int, s1: int, n_q: int, blocks: int, seed: int) -> None:
    check(case_of(op, b, s1, n_q), blocks, golden_of(op, b, s1, n_q), seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("op", PROLOGS)
@pytest.mark.parametrize(
    ("b", "n_q", "blocks", "seed"),
    [
        (129, 1, 20, 0),  # two steps, the second of one token: in it one AIV of each core has none
        (130, 2, 3, 1),  # two steps, the second of two tokens
        (260, 1, 2, 0),  # three steps
        (600, 1, 24, 3),  # five steps: the workspace of the first one is used again
        (100, 3, 20, 2),  # more than one chunk of rows for each AIV
        (140, 2, 20, 4),  # two steps, cores of few items: S2 of the second step comes right after the keys
    ],
)
def test_many_tokens(op: str, b: int, n_q: int, blocks: int, seed: int) -> None:
    check(case_of(op, b, 1, n_q), blocks, golden_of(op, b, 1, n_q), seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("op", PROLOGS)
def test_all_heads(op: str) -> None:
    check(case_of(op, 2, 1, 128), 24, golden_of(op, 2, 1, 128))


@pytest.mark.parametrize("op", PROLOGS)
def test_bits_do_not_depend_on_cores_or_batch(op: str) -> None:
    """Sums over k are taken in one order, whatever the block count, the pipe order and the tokens beside."""
    case = case_of(op, 3, 1, 3)
    want, _ = run(case, 1)
    for blocks, seed in ((2, 1), (20, 0)):
        assert_same_outputs(run(case, blocks, seed=seed)[0], want)


@pytest.mark.slow
def test_bits_do_not_depend_on_cores_for_the_projections() -> None:
    """From 20 cores on and in two steps or more, four of the indexer's cores have the projections to themselves."""
    case = case_of("lightning_indexer_prolog_quant", 150, 1, 1)
    want, _ = run(case, 19)
    for blocks, seed in ((20, 0), (25, 1)):
        assert_same_outputs(run(case, blocks, seed=seed)[0], want)


@pytest.mark.parametrize("op", PROLOGS)
def test_padding_and_rows_outside_the_cache_are_not_written(op: str) -> None:
    case = case_of(op, 5, 1, 2)
    name = CACHE_INDEX[op]
    valid = case.inputs[name]
    for i, bad in enumerate((-1, -(2**40), case.paging.block_num * 128, 2**40)):
        index = valid.copy()
        index.reshape(-1)[i] = bad
        got, _ = run(case.copy(**{name: index}), 2)
        index.reshape(-1)[i] = -1  # what golden takes; the kernel skips the row as it skips padding
        case.copy(**{name: index}).check(got)


@pytest.mark.parametrize("op", PROLOGS)
@pytest.mark.parametrize("blocks", [1, 3])
def test_later_token_wins(op: str, blocks: int) -> None:
    case = case_of(op, 5, 1, 2)
    name = CACHE_INDEX[op]
    index = case.inputs[name].copy()
    index.reshape(-1)[[0, 3]] = index.reshape(-1)[4]
    case = case.copy(**{name: index})
    check(case, blocks, seed=5)


@pytest.mark.slow
@pytest.mark.parametrize("op", PROLOGS)
def test_later_token_wins_across_steps(op: str) -> None:
    case = case_of(op, 130, 1, 2)
    name = CACHE_INDEX[op]
    index = case.inputs[name].copy()
    index.reshape(-1)[129] = index.reshape(-1)[3]
    case = case.copy(**{name: index})
    check(case, 2, seed=7)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [3, 20])
def test_later_token_wins_across_many_steps(blocks: int) -> None:
    """The indexer's keys of a step wait only for those of two steps before."""
    case = case_of("lightning_indexer_prolog_quant", 400, 1, 1)
    index = case.inputs["k_cache_index"].copy()
    tokens = index.reshape(-1)
    tokens[[130, 270, 390, 399]] = tokens[[5, 6, 7, 150]]
    tokens[[200, 300, 385]] = tokens[20]
    case = case.copy(k_cache_index=index)
    check(case, blocks, seed=3)


@pytest.mark.parametrize("op", PROLOGS)
def test_nan_stays_in_its_token(op: str) -> None:
    case = case_of(op, 3, 1, 3)
    x = next(iter(case.inputs))  # token_x or x
    tokens = case.inputs[x].copy()
    tokens[1, 7] = 0x7FC0
    got, _ = run(case.copy(**{x: tokens}), 2)
    want, _ = run(case, 2)
    row = case.inputs[CACHE_INDEX[op]].reshape(-1)[1]
    for name, value in got.items():
        if name in cases.IN_PLACE[op].values():
            others = np.arange(case.paging.block_num * 128) != row
            value, clean = (a.reshape(others.size, -1)[others] for a in (value, want[name]))
        else:
            value, clean = value[[0, 2]], want[name][[0, 2]]
        assert_same_bits(name, value, clean)


@pytest.mark.parametrize("op", PROLOGS)
def test_rows_on_either_side_of_the_floor_of_quantisation(op: str) -> None:
    """A row of zeros has the scale of the floor too. The tolerances do not distinguish this scale from zero."""
    case = cases.below_the_floor(case_of(op, 5, 1, 1))
    got, want = run(case, 1)[0], case.golden()
    case.check(got, want)
    for name, value in want.items():
        if "scale" in name and value.dtype == np.float32:
            floor = value == np.float32(1) / (np.float32(127) / np.float32(1e-30))
            assert floor.any()
            assert (got[name][floor] == value[floor]).all()


def test_a_zero_row_has_a_scale() -> None:
    """The scale is that of the smallest amax. The row of the latents is zero because the norm's factors are."""
    case = case_of("mla_prolog_quant", 2, 1, 1)
    got, _ = run(case.copy(gamma_cq=np.zeros(1536, np.uint16)))
    assert not got["q_norm_out"].any()
    assert_same_bits("q_norm_scale", got["q_norm_scale_out"], np.full((2, 1), np.float32(1e-30) / np.float32(127)))


def test_ties_are_rounded_to_even() -> None:
    """Latents of one are normed to one, so that gamma tells the values; the largest is 127, so that a step is 1."""
    case = case_of("mla_prolog_quant", 1, 1, 1).with_attributes(epsilon_ckv=0.0)
    tokens, w_dkv_kr = np.zeros((1, 7168), np.uint16), case.inputs["w_dkv_kr"].copy()
    tokens[0, 0] = w_dkv_kr[0, :512] = ONE
    gamma = np.zeros((4, 128), np.float32)
    gamma[:, :4] = [127.0, 0.5, 1.5, 2.5]
    case = case.copy(token_x=tokens, w_dkv_kr=w_dkv_kr, gamma_ckv=float32_to_bf16(gamma.reshape(512)))
    got, _ = run(case)
    row = case.inputs["cache_index"][0]
    assert got["kv_cache_out"].reshape(-1, 4, 128)[row, :, :4].tolist() == [[127, 0, 2, 2]] * 4
    assert got["k_scale_cache_out"].reshape(-1, 4)[row].tolist() == [1.0] * 4


def test_weights_to_the_last_bit() -> None:
    """Their factors are exact in float32, so a value differs only if its sum was rounded otherwise."""
    case = case_of("lightning_indexer_prolog_quant", 17, 1, 2)
    got, _ = run(case, 2)
    want = golden_of("lightning_indexer_prolog_quant", 17, 1, 2)
    assert (got["weights_out"] != want["weights_out"]).mean() < 0.01


@pytest.mark.parametrize("op", PROLOGS)
def test_no_tokens(op: str) -> None:
    case = cases.make(op, 0, 1, n_q=2)
    report = check(case, 2)
    assert report.instructions.get("Mmad", 0) == 0


def test_fused_has_the_bits_of_the_pair() -> None:
    """The fused prolog is mla_prolog_quant, then the indexer's prolog on its q_norm, bit for bit."""
    fused = case_of("mla_indexer_prolog_quant", 5, 1, 3)
    got, _ = run(fused, 2)
    mla, _ = run(case_of("mla_prolog_quant", 5, 1, 3), 3)
    indexer_case = case_of("lightning_indexer_prolog_quant", 5, 1, 3)
    shared = {"x": "token_x", "cos_idx_rope": "cos", "sin_idx_rope": "sin", "k_cache_index": "cache_index"}
    indexer_case = indexer_case.copy(
        q_norm=mla["q_norm_out"],
        q_norm_scale=mla["q_norm_scale_out"],
        **{name: fused.inputs[other] for name, other in shared.items()},
    )
    indexer, _ = run(indexer_case, 1)
    for name, value in got.items():
        half, own = name.split("_", 1)
        assert_same_bits(name, value, (mla if half == "mla" else indexer)[own])
