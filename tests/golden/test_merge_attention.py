"""`merge_attention` against float64, and against attention over all keys at once."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
import tolerance

from ms_dsv32 import golden


def exact(outs: list[np.ndarray], lses: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The formula as it stands in the docstring, in float64, where a row has a key."""
    out, lse = np.zeros(outs[0].shape), np.logaddexp.reduce(np.float64(lses), axis=0)
    for part, own in zip(outs, lses, strict=True):
        share = np.exp(own - np.where(np.isneginf(lse), 0.0, lse))
        out += share[..., None] * golden.bf16_to_float32(part)
    return out, lse


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (0, 2), (2, 0, 2)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_one_rounding(count: int, shape: tuple[int, ...]) -> None:
    outs, lses = cases.random_parts(count, shape)
    out, lse = golden.merge_attention(outs, lses)
    want, want_lse = exact(outs, lses)
    assert out.shape == want.shape
    # Half a step of bfloat16, and what float32 loses of values that cancel.
    magnitude = sum(np.abs(golden.bf16_to_float32(part)) for part in outs)
    assert (np.abs(golden.bf16_to_float32(out) - want) <= 2.0**-8 * np.abs(want) + 1e-6 * magnitude).all()
    tolerance.assert_lse("lse", lse, want_lse.astype(np.float32))
    if count == 1:
        tolerance.assert_same_bits("attention_out", out, outs[0])
        tolerance.assert_same_bits("lse", lse, lses[0])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("b", "s1", "kv"), [(2, 1, [300, 700]), (1, 3, 150), (3, 2, [2, 0, 400])], ids=str)
def test_one_call_over_all_keys(b: int, s1: int, kv: Any, count: int) -> None:
    case = cases.attention_case(b, s1, 2, kv, topk=600, holes=0.1)
    parts = [part.golden() for part in cases.parts_of(case, count)]
    out, lse = golden.merge_attention([p["attention_out"] for p in parts], [p["lse"] for p in parts])
    whole = cases.with_lse(case).golden()
    tolerance.assert_merged("attention_out", out, whole["attention_out"])
    tolerance.assert_lse("lse", lse, whole["lse"])


@pytest.mark.parametrize("bits", [0xFFC0_0000, 0x7FC0_0001, 0x7F80_0000], ids=["sign", "payload", "infinity"])
def test_every_nan_is_the_same_one(bits: int) -> None:
    """An lse that is infinite gives NaN too, and all of it stays in its row."""
    outs, lses = cases.random_parts(2, (2, 3))
    want, want_lse = golden.merge_attention(outs, lses)
    want[1, 1], want_lse[1, 1] = 0x7FC0, np.nan
    lses[0][1, 1] = np.uint32(bits).view(np.float32)
    out, lse = golden.merge_attention(outs, lses)
    tolerance.assert_same_bits("attention_out", out, want)
    tolerance.assert_same_bits("lse", lse, want_lse)


def test_refuses() -> None:
    outs, lses = cases.random_parts(2, (2, 3))
    for error, text, wrong in (
        (ValueError, "attention_outs has no part", ([], [])),
        (ValueError, "lses has 1 parts, expected 2", (outs, lses[:1])),
        (TypeError, r"attention_outs\[1\] must be uint16", ([outs[0], outs[1].view(np.int16)], lses)),
        (TypeError, r"lses\[0\] must be float32", (outs, [lses[0].astype(np.float64), lses[1]])),
        (
            ValueError,
            r"attention_outs\[1\] has shape \(1, 3, 512\), expected \(t, n_q, kv_lora_rank\) = \(2, 3, 512\)",
            ([outs[0], outs[1][:1]], lses),
        ),
        (
            ValueError,
            r"lses\[1\] has shape \(2, 2\), expected \(t, n_q\) = \(2, 3\)",
            (outs, [lses[0], lses[1][:, :2]]),
        ),
        (ValueError, r"attention_outs\[0\] has shape \(512,\)", ([o[0, 0] for o in outs], lses)),
    ):
        with pytest.raises(error, match=f"merge_attention: {text}"):
            golden.merge_attention(*wrong)
