"""The comparisons must fail when they should: every other test relies on them."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path

import cases
import numpy as np
import pytest
import tolerance

from ms_dsv32 import golden

RNG = np.random.default_rng(0)
OP_INFO = Path(__file__).resolve().parents[2] / "op_info"
EXAMPLES: dict[str, np.ndarray] = {
    "q_norm_out": RNG.integers(-126, 127, (8, 1536), np.int8),
    "q_int8_out": RNG.integers(-126, 127, (4, 64, 128), np.int8),
    "ip_q_int8_out": RNG.integers(-125, 126, (4, 64, 128), np.int8),
    "kv_cache_out": RNG.integers(-126, 127, (2, 128, 1, 512), np.int8),
    "k_int8_out": RNG.integers(-126, 127, (2, 128, 1, 128), np.int8),
    "query_nope_out": cases.random_bf16(RNG, (4, 8, 512)),
    "query_rope_out": cases.random_bf16(RNG, (4, 8, 64)),
    "kr_cache_out": cases.random_bf16(RNG, (2, 128, 1, 64)),
    "attention_out": cases.random_bf16(RNG, (2, 2, 4, 512)),
    "q_norm_scale_out": cases.random_scale(RNG, (512, 1)),
    "k_scale_cache_out": cases.random_scale(RNG, (2, 128, 1, 4)),
    "q_scale_out": cases.random_scale(RNG, (4, 64, 1), np.float16),
    "k_scale_out": cases.random_scale(RNG, (2, 128, 1, 1), np.float16),
    "weights_out": (RNG.standard_normal((16, 64)) / 90).astype(np.float16),
    "lse": RNG.standard_normal((4, 1, 8)).astype(np.float32) + np.float32(5),
}
FLOATS = [name for name, value in EXAMPLES.items() if value.dtype != np.int8]


def to_float(value: np.ndarray) -> np.ndarray:
    return golden.bf16_to_float32(value) if value.dtype == np.uint16 else value.astype(np.float32)


def like(value: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`values` rounded to the dtype of `value`."""
    return golden.float32_to_bf16(values) if value.dtype == np.uint16 else values.astype(value.dtype)


@pytest.mark.parametrize("name", EXAMPLES)
def test_equal_passes(name: str) -> None:
    tolerance.assert_close_output(name, EXAMPLES[name].copy(), EXAMPLES[name])


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("factor", [1.01, 0.99])
def test_one_percent_off_fails(name: str, factor: float) -> None:
    want = EXAMPLES[name]
    got = to_float(want)
    big = np.abs(got) > 0.5 * np.abs(got).max()  # where the absolute tolerance does not hide it
    got[big] *= np.float32(factor)
    if want.dtype != np.uint16:
        with pytest.raises(AssertionError, match=name):
            tolerance.assert_close_output(name, like(want, got), want)
        return
    # one bfloat16 ulp is up to 0.8 %, and the tolerance of q_nope is as wide; two percent is beyond both
    got[big] *= np.float32(factor)
    with pytest.raises(AssertionError, match=rf"{name}: \d+ of \d+ values"):
        tolerance.assert_close_output(name, like(want, got), want)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_nan_or_inf_fails(name: str, bad: float) -> None:
    want = EXAMPLES[name]
    values = to_float(want)
    values.reshape(-1)[17] = bad
    with pytest.raises(AssertionError, match=name):
        tolerance.assert_close_output(name, like(want, values), want)
    with pytest.raises(AssertionError, match=name):
        tolerance.assert_close_output(name, want, like(want, values))


@pytest.mark.parametrize("name", [name for name, value in EXAMPLES.items() if value.dtype == np.int8])
def test_int8_is_not_compared_in_int8(name: str) -> None:
    want = EXAMPLES[name].copy()
    got = want.copy()
    got.reshape(-1)[5], want.reshape(-1)[5] = -128, 127
    assert np.int8([-128]) - np.int8([127]) == 1  # which is why
    with pytest.raises(
        AssertionError,
        match=rf"{name}: 1 of \d+ values differ by more than \d; first at .* got -128, want 127; largest .* 255",
    ):
        tolerance.assert_close_output(name, got, want)


@pytest.mark.parametrize(
    ("name", "most"), [("q_norm_out", 1), ("q_int8_out", 1), ("ip_q_int8_out", 2), ("kv_cache_out", 1)]
)
def test_int8_limits(name: str, most: int) -> None:
    got = EXAMPLES[name].copy()
    got.reshape(-1)[3] += most
    tolerance.assert_close_output(name, got, EXAMPLES[name])
    got.reshape(-1)[3] += 1
    with pytest.raises(AssertionError, match="differ by more than"):
        tolerance.assert_close_output(name, got, EXAMPLES[name])


def test_half_a_percent_of_q_norm_may_be_off_by_one() -> None:
    want = EXAMPLES["q_norm_out"]
    allowed = int(0.005 * want.size)
    got = want.copy()
    got.reshape(-1)[:allowed] += 1
    tolerance.assert_close_output("q_norm_out", got, want)
    got.reshape(-1)[allowed] -= 1
    with pytest.raises(
        AssertionError, match=rf"{allowed + 1} of {want.size} values outside the tolerance, {allowed} allowed"
    ):
        tolerance.assert_close_output("q_norm_out", got, want)
    tolerance.assert_close_output("q_int8_out", want + np.int8(1), want)  # the table sets no fraction for q_int8


@pytest.mark.parametrize("name", ["query_nope_out", "query_rope_out", "attention_out"])
def test_half_a_percent_may_be_outside_but_not_grossly(name: str) -> None:
    want = np.full(EXAMPLES[name].shape, 0x3F80, np.uint16)  # ones
    allowed = int(0.005 * want.size)
    got = want.copy()
    got.reshape(-1)[:allowed] = golden.float32_to_bf16(np.float32(1.03125))
    tolerance.assert_close_output(name, got, want)
    got.reshape(-1)[allowed] = golden.float32_to_bf16(np.float32(1.03125))
    with pytest.raises(
        AssertionError, match=rf"{allowed + 1} of \d+ values outside the tolerance, {allowed} allowed; first at \(0, 0"
    ):
        tolerance.assert_close_output(name, got, want)
    got = want.copy()
    got.reshape(-1)[77] = golden.float32_to_bf16(np.float32(1.5))
    with pytest.raises(AssertionError, match=rf"{name}: 1 of \d+ values beyond 16 times the tolerance"):
        tolerance.assert_close_output(name, got, want)


@pytest.mark.parametrize("name", ["query_nope_out", "query_rope_out", "attention_out"])
def test_a_wrong_token_among_256_fails(name: str) -> None:
    """One token of 256 is 0.4 % of the values, and would hide in the 0.5 %."""
    want = cases.random_bf16(RNG, (256, 4, 64))
    got = want.copy()
    got[255] = cases.random_bf16(RNG, (4, 64))
    with pytest.raises(AssertionError, match="beyond 16 times the tolerance"):
        tolerance.assert_close_output(name, got, want)


def test_one_ulp_of_attention_out_is_inside() -> None:
    want = EXAMPLES["attention_out"]
    tolerance.assert_close_output("attention_out", want + np.uint16(1), want)
    with pytest.raises(AssertionError, match="outside the tolerance"):
        tolerance.assert_close_output("attention_out", want + np.uint16(2), want)


def test_a_flipped_probability_moves_a_row_of_attention_out() -> None:
    """A probability in 1/2..1 flips by 2^-8: the row moves by so much of its key, also where other keys cancel it."""
    want = np.full((64, 1, 8, 512), 0x4080, np.uint16)  # fours
    want[3, 0, 5, 9] = golden.float32_to_bf16(np.float32(0.01))
    got = want.copy()
    got[3, 0, 5, 9] = golden.float32_to_bf16(np.float32(0.01 + 4 * 2**-8))
    tolerance.assert_close_output("attention_out", got, want)
    got[3, 0, 5, 9] = golden.float32_to_bf16(np.float32(0.01 + 4 * 2**-6))
    with pytest.raises(AssertionError, match="beyond 16 times the tolerance"):
        tolerance.assert_close_output("attention_out", got, want)


def test_bf16_steps() -> None:
    bits = np.uint16([0x0000, 0x8000, 0x0001, 0x8001, 0x3F80, 0x7F80])
    assert tolerance.bf16_steps(bits, np.roll(bits, 1)).tolist() == [0x7F80, 0, 1, 2, 0x3F81, 0x4000]


@pytest.mark.parametrize("name", ["kr_cache_out", "k_scale_cache_out", "q_scale_out", "weights_out"])
def test_a_flip_is_allowed_and_two_percent_are_not(name: str) -> None:
    """What a flipped bfloat16 ulp of the value (rope key, projection) or of amax (scale) does, for at most 0.5 %."""
    want = EXAMPLES[name]
    values = to_float(want)
    flipped = values.copy().reshape(-1)
    order = np.argsort(-np.abs(flipped))
    allowed = max(int(0.005 * want.size), 1)
    flipped[order[:allowed]] *= np.float32(1 + 2**-7)
    tolerance.assert_close_output(name, like(want, flipped.reshape(want.shape)), want)
    gross = values.copy().reshape(-1)
    gross[order[0]] *= np.float32(1.03)
    with pytest.raises(AssertionError, match=f"{name}: 1 of .* beyond one flipped ulp"):
        tolerance.assert_close_output(name, like(want, gross.reshape(want.shape)), want)
    if name != "kr_cache_out":  # whose own tolerance is one ulp
        flipped[order[allowed]] *= np.float32(1 + 2**-7)
        with pytest.raises(AssertionError, match="outside the tolerance"):
            tolerance.assert_close_output(name, like(want, flipped.reshape(want.shape)), want)


def test_a_flip_of_a_rope_pair_is_allowed_where_the_output_cancels() -> None:
    """x = (1 + ulp, 1) turned by 45 degrees: the halves' difference is 0 without the flip, and 0.7 ulp with it."""
    cos = sin = np.full((1, 64), 2**-0.5, np.float32)
    x = np.ones((1, 64), np.float32)
    want = golden.float32_to_bf16(golden.rope_half_split(np.repeat(x, 64, 0), cos, sin))
    x[0, 5] += 2**-7
    got = want.copy()
    got[3] = golden.float32_to_bf16(golden.rope_half_split(x, cos, sin))[0]
    difference = np.abs(to_float(got) - to_float(want))
    assert difference[3, 5] > 1e-4 + 2**-7 * abs(to_float(want)[3, 5])
    tolerance.assert_close_output("kr_cache_out", got, want)


def test_lse() -> None:
    want = EXAMPLES["lse"].copy()
    want[1] = -np.inf
    tolerance.assert_close_output("lse", want.copy(), want)
    got = want.copy()
    got[1, 0, 0] = 0
    for a, b in ((got, want), (want, got)):
        with pytest.raises(AssertionError, match=r"1 rows are -inf on one side only; first at \(1, 0, 0\)"):
            tolerance.assert_close_output("lse", a, b)


def test_dtype_and_shape_must_agree() -> None:
    want = EXAMPLES["kv_cache_out"]
    with pytest.raises(AssertionError, match="dtype int16, want int8"):
        tolerance.assert_close_output("kv_cache_out", want.astype(np.int16), want)
    with pytest.raises(AssertionError, match="shape"):
        tolerance.assert_close_output("kv_cache_out", want[:1], want)
    with pytest.raises(AssertionError, match="dtype int16, want int8"):
        tolerance.assert_close_output("q_int8_out", want.astype(np.int16), want.astype(np.int16))
    with pytest.raises(KeyError, match="no tolerance"):
        tolerance.assert_close_output("q_nrom_out", want, want)


def test_same_bits() -> None:
    values = np.float32([0.0, np.nan, 1.0])
    tolerance.assert_same_bits("x", values.copy(), values)
    with pytest.raises(AssertionError, match=r"x: 1 of 3 values differ in their bits; first at \(0,\)"):
        tolerance.assert_same_bits("x", np.float32([-0.0, np.nan, 1.0]), values)
    other_nan = np.array([0, 0x7FC0_0001, 0x3F80_0000], np.uint32).view(np.float32)
    with pytest.raises(AssertionError, match=r"first at \(1,\)"):
        tolerance.assert_same_bits("x", other_nan, values)


def test_close_cache() -> None:
    before = np.full((2, 128, 1, 4), np.nan, np.float32)
    want = before.copy()
    index = np.array([[3, -1], [200, 3]])
    want.reshape(-1, 4)[[3, 200]] = 0.02
    tolerance.assert_close_cache("k_scale_cache_out", want.copy(), want, before, index)
    got = want.copy()
    got.reshape(-1, 4)[4] = 0.02  # a row too many
    with pytest.raises(AssertionError, match="rows not written"):
        tolerance.assert_close_cache("k_scale_cache_out", got, want, before, index)
    with pytest.raises(AssertionError, match="NaN or Inf in the result"):  # a row too few
        tolerance.assert_close_cache("k_scale_cache_out", before, want, before, index)


class TestTopk:
    scores = (np.float32([9, 8, 7, 7 - 5e-5, 5, 4]), np.float32([1, 2]))
    want = np.int32([[0, 1, 2], [0, 1, -1]])

    def check(self, got: list[list[int]], rtol: float = 1e-5) -> None:
        tolerance.assert_topk(np.int32(got), self.want, self.scores, self.scores, rtol=rtol)

    def test_any_order(self) -> None:
        self.check([[2, 0, 1], [1, 0, -1]])

    def test_a_position_that_scores_as_the_last_one(self) -> None:
        self.check([[0, 1, 3], [0, 1, -1]])

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ([0, 1, 4], "1 positions differ beyond rounding; first 4"),
            ([1, 2, 3], "1 positions differ beyond rounding; first 0"),  # the missing one is the best
            ([0, 1, 1], "a position occurs twice"),
            ([0, 1, 6], r"topk_indices\[0, 2\] = 6 is outside \[0, 6\)"),
            ([0, 1, -1], r"topk_indices\[0, 2\] = -1 is outside"),
        ],
    )
    def test_wrong_selections(self, row: list[int], message: str) -> None:
        with pytest.raises(AssertionError, match=message):
            self.check([row, [0, 1, -1]])

    def test_the_tail_is_minus_one(self) -> None:
        for row in ([0, 1, 0], [0, -1, 1], [0, 1, -2]):
            with pytest.raises(AssertionError, match=r"topk_indices\[1"):
                self.check([[0, 1, 2], row])

    def test_ascend_may_be_off_by_more(self) -> None:
        scores = (np.float32([9, 8, 7, 6.99]), self.scores[1])
        got = np.int32([[0, 1, 3], [0, 1, -1]])
        tolerance.assert_topk(got, self.want, scores, scores, rtol=2e-3)
        with pytest.raises(AssertionError, match="differ beyond rounding"):
            tolerance.assert_topk(got, self.want, scores, scores)

    @pytest.mark.parametrize("large", [2, 3])  # the last one that was wanted, the one that came
    def test_terms_that_cancel(self, large: int) -> None:
        scores = (np.float32([9, 8, 0.01, 0.009]), self.scores[1])
        terms = scores[0].copy()
        terms[large] = 1
        got = np.int32([[0, 1, 3], [0, 1, -1]])
        tolerance.assert_topk(got, self.want, scores, (terms, self.scores[1]), rtol=2e-3)
        terms[large] = 0.4
        with pytest.raises(AssertionError, match="differ beyond rounding"):
            tolerance.assert_topk(got, self.want, scores, (terms, self.scores[1]), rtol=2e-3)

    def test_nan_scores_do_not_pass(self) -> None:
        scores = (np.float32([9, 8, np.nan, 7]), self.scores[1])
        with pytest.raises(AssertionError, match="differ beyond rounding"):
            tolerance.assert_topk(np.int32([[0, 1, 3], [0, 1, -1]]), self.want, scores, scores)


def test_every_output_has_a_tolerance() -> None:
    tree = ast.parse(inspect.getsource(tolerance.assert_close_output))
    covered = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for path in sorted(OP_INFO.glob("*_quant.json")):
        for output in json.loads(path.read_text(encoding="utf-8"))["outputs"]:
            assert output["name"] in covered | {"topk_indices"}, output["name"]
