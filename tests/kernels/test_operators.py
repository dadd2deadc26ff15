"""The bare CPU kernels against the golden reference, and the rules of the contract that need no MindSpore.

`test_isa.py` runs this file again for every instruction set that the machine has.
"""

from __future__ import annotations

import cases
import guarded
import numpy as np
import pytest
import tolerance
from bare_kernels import TOKENS, check, check_part, pack, prolog, run
from cases import CACHE_INDEX, PROLOGS, Array

from ms_dsv32 import golden, kernel_impl


@pytest.mark.parametrize("name", PROLOGS)
@pytest.mark.parametrize(("b", "s1"), [(0, 1), (1, 0), (1, 1), (3, 1), (2, 2), (7, 1), (1, 33)])
def test_prolog(name: str, b: int, s1: int) -> None:
    check(prolog(name, b, s1, seed=b + s1))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROLOGS)
@pytest.mark.parametrize("t", [127, 128, 129, 512])
def test_prolog_of_many_tokens(name: str, t: int) -> None:
    case = prolog(name, 1, t, seed=t)
    case.check(run(pack(case)))


@pytest.mark.parametrize("n_q", [1, 5, 128])
@pytest.mark.parametrize("name", ["mla_prolog_quant", "mla_indexer_prolog_quant"])
def test_prolog_heads(name: str, n_q: int) -> None:
    check(prolog(name, 2, 1, n_q))


@pytest.mark.parametrize("name", PROLOGS)
def test_prolog_takes_a_split_token_axis(name: str) -> None:
    merged, split = prolog(name, 2, 3), prolog(name, 2, 3, split=True)
    assert split.inputs[TOKENS[name]].shape == (2, 3, 7168)
    tolerance.assert_same_outputs(run(split), run(merged))


@pytest.mark.parametrize("name", PROLOGS)
@pytest.mark.parametrize("t", [1, 5, 40])
def test_packed_weights_give_the_same_bits(name: str, t: int) -> None:
    case = prolog(name, 1, t)
    tolerance.assert_same_outputs(run(pack(case)), run(case))


@pytest.mark.parametrize("shape", [(4, 64), (128, 512), (3, 128, 192)])
@pytest.mark.parametrize("dtype", [np.int8, np.uint16])
def test_pack_is_the_stated_permutation(shape: tuple[int, ...], dtype: type) -> None:
    weight = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    group = 4 if dtype == np.int8 else 2
    *batch, k, n = shape
    strips = weight.reshape(*batch, k // group, group, n // 16, 16)
    first = len(batch)
    order = (*range(first), first + 2, first, first + 3, first + 1)  # [N/16][K/group][16][group]
    np.testing.assert_array_equal(kernel_impl.pack(weight), strips.transpose(order).reshape(shape))


def test_pack_refuses_what_does_not_fit() -> None:
    with pytest.raises(TypeError, match="uint16"):
        kernel_impl.pack(np.zeros((64, 64), np.float32))
    with pytest.raises(ValueError, match="N % 64 == 0"):
        kernel_impl.pack(np.zeros((64, 65), np.int8))


@pytest.mark.parametrize("name", PROLOGS)
def test_a_tokens_bits_do_not_depend_on_threads_or_batch_mates(name: str) -> None:
    case = prolog(name, 1, 21, seed=3)
    results = []
    try:
        for threads in (1, 2, 3):
            kernel_impl.set_thread_count(threads)
            assert kernel_impl.thread_count() == threads
            results.append(run(case))
    finally:
        kernel_impl.set_thread_count(0)
    for other in results[1:]:
        tolerance.assert_same_outputs(other, results[0])
    for i in (0, 4, 20):
        check_part(case, results[0], slice(i, i + 1))


@pytest.mark.parametrize("name", PROLOGS)
def test_a_tokens_bits_do_not_depend_on_blocks(name: str) -> None:
    """130 tokens are two blocks of rows; up to 64 are computed in another order of tasks."""
    case = prolog(name, 1, 130, seed=4)
    whole = run(case)
    tolerance.assert_same_outputs(run(pack(case)), whole)
    for part in (slice(0, 1), slice(60, 124), slice(129, 130)):
        check_part(case, whole, part)


@pytest.mark.parametrize("name", PROLOGS)
@pytest.mark.parametrize("bad", [0x7FC0, 0x7F80])  # NaN, Inf
def test_nan_and_inf_stay_with_their_token(name: str, bad: int) -> None:
    case = prolog(name, 1, 9, seed=5)
    clean = run(case)
    tokens = case.inputs[TOKENS[name]].copy()
    tokens[4, 100] = bad
    dirty = run(case.copy(**{TOKENS[name]: tokens}))
    others = np.arange(9) != 4
    index = case.inputs[CACHE_INDEX[name]]
    for output, value in clean.items():
        if output in cases.IN_PLACE[name].values():
            flat_clean, flat_dirty = (v.reshape(-1, v.shape[-1]) for v in (value, dirty[output]))
            keep = np.arange(flat_clean.shape[0]) != index[4]
            tolerance.assert_same_bits(output, flat_dirty[keep], flat_clean[keep])
        else:
            tolerance.assert_same_bits(output, dirty[output][others], value[others])


@pytest.mark.parametrize("name", PROLOGS)
def test_padding_tokens_write_no_row_and_still_compute(name: str) -> None:
    case = prolog(name, 1, 5)
    index = case.inputs[CACHE_INDEX[name]].copy()
    index[[0, 3]] = -1
    padded = case.copy(**{CACHE_INDEX[name]: index})
    check(padded)
    got, want = run(padded), run(case)
    for output, value in want.items():
        if output not in cases.IN_PLACE[name].values():
            tolerance.assert_same_bits(output, got[output], value)


@pytest.mark.parametrize("name", PROLOGS)
@pytest.mark.parametrize("t", [2, 70])
def test_the_later_of_two_tokens_wins(name: str, t: int) -> None:
    case = prolog(name, 1, t, seed=7)
    index = case.inputs[CACHE_INDEX[name]]
    shared = case.copy(**{CACHE_INDEX[name]: np.where(np.arange(t) % 2 == 0, index[0], index)})
    last = t - 1 if (t - 1) % 2 == 0 else t - 2
    plain, got = run(case), run(shared)
    for out in cases.IN_PLACE[name].values():
        flat_plain, flat_got = (r[out].reshape(-1, r[out].shape[-1]) for r in (plain, got))
        tolerance.assert_same_bits(out, flat_got[index[0]], flat_plain[index[last]])


def test_the_fused_prolog_is_the_pair() -> None:
    fused, mla, indexer = (
        prolog(f"{name}_prolog_quant", 2, 2, seed=11) for name in ("mla_indexer", "mla", "lightning_indexer")
    )
    first = run(mla)
    second = run(
        indexer.copy(
            x=fused.inputs["token_x"],
            q_norm=first["q_norm_out"],
            q_norm_scale=first["q_norm_scale_out"],
        )
    )
    want = {f"mla_{k}": v for k, v in first.items() if not k.startswith("q_norm")}
    tolerance.assert_same_outputs(run(fused), want | {f"ip_{k}": v for k, v in second.items()})


# Tiles of rows hold 4 or 6 tokens, panels are read one by one up to 32 tokens, and a block has 128 tokens.
EPILOG_TOKENS = (0, 1, 2, 3, 5, 6, 7, 13, 31, 32, 33, 127, 128, 129)


@pytest.mark.parametrize("t", EPILOG_TOKENS)
@pytest.mark.parametrize("n_q", [1, 3, 16])
def test_epilog(n_q: int, t: int) -> None:
    case = cases.mla_epilog_case(1, t, n_q, seed=t)
    got = guarded.run(case)
    case.check(got)
    tolerance.assert_same_outputs(guarded.run(pack(case)), got)


@pytest.mark.slow
@pytest.mark.parametrize("t", [1, 9])
def test_epilog_of_all_heads(t: int) -> None:
    case = cases.mla_epilog_case(t, 1, seed=t)
    got = run(case)
    case.check(got)
    tolerance.assert_same_outputs(run(pack(case)), got)


def test_epilog_takes_a_split_token_axis() -> None:
    merged, split = (cases.mla_epilog_case(2, 3, 3, split=split) for split in (False, True))
    assert split.inputs["attention_out"].shape == (2, 3, 3, 512)
    tolerance.assert_same_outputs(run(split), run(merged))


@pytest.mark.parametrize("t", [21, 130])
def test_a_tokens_hidden_state_does_not_depend_on_threads_or_batch_mates(t: int) -> None:
    case = cases.mla_epilog_case(1, t, 3, seed=3)
    results = []
    try:
        for threads in (1, 2, 3, 16):
            kernel_impl.set_thread_count(threads)
            results += [run(case), run(pack(case))]
    finally:
        kernel_impl.set_thread_count(0)
    for other in results[1:]:
        tolerance.assert_same_outputs(other, results[0])
    for part in (slice(0, 1), slice(4, 9), slice(1, t), slice(t - 1, t)):
        alone = case.copy(attention_out=case.inputs["attention_out"][part])
        tolerance.assert_same_outputs(run(alone), {"hidden_out": results[0]["hidden_out"][part]})


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bad", [0x7FC0, 0xFFC1, 0x7F80, 0xFF80])  # NaN with either sign, and infinities
def test_nan_and_inf_stay_with_their_hidden_state(bad: int, packed: bool) -> None:
    case = cases.mla_epilog_case(1, 9, 3, seed=5)
    case = pack(case) if packed else case
    clean = run(case)["hidden_out"]
    attention = case.inputs["attention_out"].copy()
    attention[4, 1, 100] = bad
    dirty = run(case.copy(attention_out=attention))["hidden_out"]
    others = np.arange(9) != 4
    tolerance.assert_same_bits("hidden_out", dirty[others], clean[others])
    assert (dirty[4] == 0x7FC0).all()


def test_a_zero_token_has_a_zero_hidden_state() -> None:
    case = cases.mla_epilog_case(1, 8, 2)
    attention = case.inputs["attention_out"].copy()
    attention[[0, 7]] = 0
    zero = case.copy(attention_out=attention)
    got = run(zero)
    zero.check(got)
    assert not got["hidden_out"][[0, 7]].any()


def test_epilogs_sums_are_exact_at_their_largest() -> None:
    """Every product 127 * 127 or 127 * -128: no sum of 16 bits and no rounded sum gives these."""
    case = cases.mla_epilog_case(1, 7, 16)
    for value in (127, -128):
        w_o = np.full_like(case.inputs["w_o"], value)
        largest = case.copy(
            attention_out=np.full_like(case.inputs["attention_out"], 0x3F80),  # 1
            w_uv=np.full_like(case.inputs["w_uv"], 0x3F80),
            w_o=w_o,
            w_o_scale=np.ones_like(case.inputs["w_o_scale"]),
        )
        scale = np.float32(1) / (np.float32(127) / np.float32(512))
        want = golden.float32_to_bf16(np.float32(127 * value * 16 * 128) * scale)
        for same in (largest, pack(largest)):
            assert (run(same)["hidden_out"] == want).all()


@pytest.mark.parametrize(
    ("b", "s1", "n_q", "kv"),
    [
        (1, 1, 128, 1), (1, 1, 128, 127), (1, 1, 16, 128), (1, 1, 16, 129), (1, 1, 128, 2047), (2, 2, 16, 2048),
        (1, 4, 128, 2049), (3, 1, 1, 4096), (2, 3, 5, [7, 300]), (0, 1, 16, 4), (2, 0, 16, 4), (1, 4, 16, 2),
        (1, 1, 101, 300),
    ],
)  # fmt: skip
def test_attention(b: int, s1: int, n_q: int, kv: int | list[int]) -> None:
    case = cases.with_lse(cases.attention_case(b, s1, n_q, kv, seed=s1))
    check(case)
    if b:  # no sequence: only the split form tells s1
        split = cases.attention_case(b, s1, n_q, kv, seed=s1, split=True)
        tolerance.assert_same_outputs(run(split), run(case))


def test_attention_skips_holes_and_empty_rows() -> None:
    check(cases.with_lse(cases.attention_case(2, 2, 16, 500, holes=0.3)))
    case = cases.with_lse(cases.attention_case(2, 2, 16, 500))
    topk_indices = case.inputs["topk_indices"].copy()
    topk_indices[1, :500] = -1
    case = case.copy(topk_indices=topk_indices)
    got = run(case)
    case.check(got)
    assert not got["attention_out"].reshape(4, -1)[1].any()
    assert np.isneginf(got["lse"].reshape(4, -1)[1]).all()


@pytest.mark.slow
def test_attention_over_128k_keys() -> None:
    check(cases.with_lse(cases.attention_case(1, 2, 128, 131072)))


@pytest.mark.slow
def test_attention_of_a_prompt_chunk() -> None:
    check(cases.attention_case(1, 128, 16, 1000))


def test_attentions_bits_do_not_depend_on_threads_or_batch_mates() -> None:
    case = cases.with_lse(cases.attention_case(3, 2, 16, [900, 40, 300]))
    results = []
    try:
        for threads in (1, 2, 3):
            kernel_impl.set_thread_count(threads)
            results.append(run(case))
    finally:
        kernel_impl.set_thread_count(0)
    tolerance.assert_same_outputs(results[1], results[0])
    tolerance.assert_same_outputs(results[2], results[0])
    for i in range(3):
        alone = {n: case.inputs[n][i : i + 1] for n in ("block_table", "kv_act_seqs")}
        alone["topk_indices"] = case.inputs["topk_indices"][2 * i : 2 * i + 2]
        for name in ("query_nope", "query_rope"):
            alone[name] = case.inputs[name][32 * i : 32 * i + 32]
        got = run(case.copy(**alone))
        tolerance.assert_same_outputs(got, {n: v[i : i + 1] for n, v in results[0].items()})


def test_nan_in_one_query_stays_there() -> None:
    case = cases.with_lse(cases.attention_case(2, 1, 16, 300))
    clean = run(case)
    query = case.inputs["query_nope"].copy()
    query[3, 7] = 0x7FC0
    dirty = run(case.copy(query_nope=query))
    keep = np.arange(2) != 0
    tolerance.assert_same_outputs({n: v[keep] for n, v in dirty.items()}, {n: v[keep] for n, v in clean.items()})


@pytest.mark.parametrize(
    ("b", "s1", "kv"),
    [
        (1, 1, 1), (1, 1, 127), (1, 1, 128), (2, 1, 129), (1, 4, 2047), (2, 2, 2048), (1, 2, 2049), (1, 1, 4096),
        (3, 2, [5, 4000, 2100]), (0, 1, 4), (2, 0, 4), (1, 4, 2),
    ],
)  # fmt: skip
def test_indexer(b: int, s1: int, kv: int | list[int]) -> None:
    case = cases.indexer_case(b, s1, kv, seed=s1)
    got = run(case)
    case.check(got)
    for row in got["topk_indices"]:
        chosen = row[row >= 0]
        assert (np.diff(chosen) > 0).all()  # ascending, so that attention gathers in order


@pytest.mark.parametrize("selected_count", [1, 7, 2048])
@pytest.mark.parametrize("distinct_keys", [1, 3])
def test_indexer_breaks_ties_by_position(selected_count: int, distinct_keys: int) -> None:
    case = cases.indexer_case(1, 2, 2500, selected_count=selected_count, distinct_keys=distinct_keys)
    np.testing.assert_array_equal(run(case)["topk_indices"], np.sort(case.golden()["topk_indices"], axis=-1))


@pytest.mark.slow
def test_indexer_over_128k_keys() -> None:
    check(cases.indexer_case(1, 2, 131072))


def test_indexers_bits_do_not_depend_on_threads_or_batch_mates() -> None:
    case = cases.indexer_case(3, 2, [3000, 40, 2300])
    results = []
    try:
        for threads in (1, 2, 3):
            kernel_impl.set_thread_count(threads)
            results.append(run(case)["topk_indices"])
    finally:
        kernel_impl.set_thread_count(0)
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])
    for i in range(3):
        rows = {n: case.inputs[n][i : i + 1] for n in ("block_table", "kv_act_seqs")}
        rows |= {n: case.inputs[n][2 * i : 2 * i + 2] for n in ("q_int8", "q_scale", "weights")}
        np.testing.assert_array_equal(run(case.copy(**rows))["topk_indices"], results[0][2 * i : 2 * i + 2])


NANS = {np.dtype(np.uint16): 0x7FC0, np.dtype(np.float16): 0x7E00, np.dtype(np.float32): 0x7FC0_0000}
"""The only NaN of each dtype, and of bfloat16, that an operator may make."""
BAD = {
    np.dtype(np.uint16): [0x7FC1, 0xFFC3, 0x7F81, 0xFF80, 0x7F80],
    np.dtype(np.float16): [0x7E01, 0xFE03, 0x7C01, 0xFC00, 0x7C00],
    np.dtype(np.float32): [0x7FC0_0001, 0xFFC0_0003, 0x7F80_0001, 0xFF80_0000, 0x7F80_0000],
}
"""Three NaNs and both infinities."""


def nan_bits(values: Array) -> set[int]:
    """The bit patterns of all NaNs."""
    if values.dtype not in NANS:
        return set()
    bits = values.view(f"u{values.dtype.itemsize}")
    wide = golden.bf16_to_float32(values) if values.dtype == np.uint16 else values
    return set(bits[np.isnan(wide)].tolist())


@pytest.mark.parametrize(
    "case",
    [
        cases.mla_prolog_case(1, 5, 2),
        cases.indexer_prolog_case(1, 5),
        cases.mla_epilog_case(1, 5, 2),
        cases.with_lse(cases.attention_case(1, 3, 24, 300)),
    ],
    ids=lambda case: case.operator,
)
def test_every_nan_that_is_made_is_the_same_one(case: cases.Case) -> None:
    """Whatever input it comes from, and whatever the number of threads; on every instruction set, and in golden."""
    rng = np.random.default_rng(0)
    in_place = cases.IN_PLACE[case.operator]
    seen: set[str] = set()
    for name, value in case.inputs.items():
        if value.dtype not in BAD or name in in_place:
            continue
        bad = value.copy()
        places = rng.choice(value.size, max(2, value.size // 9), replace=False)
        bits = np.array(BAD[value.dtype], f"u{value.dtype.itemsize}")
        bad.reshape(-1).view(bits.dtype)[places] = np.resize(bits, places.size)
        dirty = case.copy(**{name: bad})
        outputs = []
        try:
            for threads in (1, 2):
                kernel_impl.set_thread_count(threads)
                outputs.append(run(dirty))
        finally:
            kernel_impl.set_thread_count(0)
        tolerance.assert_same_outputs(outputs[1], outputs[0])
        for side in (outputs[0], dirty.golden()):
            for output, values in side.items():
                if output in in_place.values():  # the others hold poison
                    values = values.reshape(-1, values.shape[-1])[case.inputs[CACHE_INDEX[case.operator]]]
                nans = nan_bits(values)
                assert nans <= {NANS.get(values.dtype)}, (name, output, [hex(n) for n in nans])
                seen |= {output} if nans else set()
    assert seen == {n for n, v in run(case).items() if v.dtype in NANS}


DOTS_FLUSH = ("avx512_bf16", "amx", "neon_bf16")
"""Instruction sets whose dot products of bfloat16 take subnormal factors, sums and results for zero."""


def check_subnormals(got: Array, want: Array, may_flush: bool) -> None:
    """bfloat16 bits of values below 2^-126 are within two steps, or zero where they may be flushed."""
    wide = golden.bf16_to_float32(want)
    assert (np.abs(wide) < 2.0**-126).all()
    assert np.count_nonzero(wide) > wide.size / 2
    near = np.abs(golden.bf16_to_float32(got) - wide) <= 2 * 2.0**-133
    if may_flush:
        near |= got & 0x7FFF == 0
    assert near.all()


@pytest.mark.parametrize(("weight", "scale"), [(2.0**-130, 1.0), (2.0**-100, 2.0**-30)])
def test_subnormals_of_the_mla_prolog(weight: float, scale: float) -> None:
    """Subnormal weights, and products of normal numbers that are subnormal."""
    case = cases.mla_prolog_case(1, 3, 2)
    w_uk = golden.bf16_to_float32(case.inputs["w_uk"]) * np.float32(weight)
    case = case.copy(w_uk=golden.float32_to_bf16(w_uk), dequant_scale=case.inputs["dequant_scale"] * np.float32(scale))
    want = case.golden()["query_nope_out"]
    check_subnormals(run(case)["query_nope_out"], want, kernel_impl.isa() in DOTS_FLUSH)


def test_subnormals_of_what_is_no_product_of_matrices() -> None:
    case = cases.mla_prolog_case(1, 3, 2)
    case = case.copy(dequant_scale=case.inputs["dequant_scale"] * np.float32(2.0**-130))
    check_subnormals(run(case)["query_rope_out"], case.golden()["query_rope_out"], may_flush=False)


def test_subnormals_of_attention() -> None:
    case = cases.attention_case(1, 2, 24, 300)
    case = case.copy(k_nope_scales=case.inputs["k_nope_scales"] * np.float32(2.0**-128))
    want = case.golden()["attention_out"]
    check_subnormals(run(case)["attention_out"], want, kernel_impl.isa() in DOTS_FLUSH)


@pytest.mark.parametrize("epsilon", [1e-5, 0.0])
@pytest.mark.parametrize("size", [1e-25, 1e18, 1e20, 1e36])
def test_norms_of_any_finite_row(size: float, epsilon: float) -> None:
    """Neither squares that overflow nor squares that vanish in float32 change what is normalised."""
    mla, indexer = cases.mla_prolog_case(1, 3, 2), cases.indexer_prolog_case(1, 3)
    indexer = indexer.copy(w_proj=np.zeros_like(indexer.inputs["w_proj"]))  # float16 holds no such weights
    for case, epsilons in ((mla, ("epsilon_cq", "epsilon_ckv")), (indexer, ("layernorm_epsilon_k",))):
        x = golden.bf16_to_float32(case.inputs[TOKENS[case.operator]]) * np.float32(size)
        check(
            case.copy(**{TOKENS[case.operator]: golden.float32_to_bf16(x)}).with_attributes(
                **dict.fromkeys(epsilons, epsilon)
            )
        )
