"""`mla_epilog_quant`: the model's own mathematics in float64, and the rules of the contract."""

from __future__ import annotations

import cases
import numpy as np
import pytest
import tolerance
from measures import relative, wide

from ms_dsv32 import golden

N_Q = 3


@pytest.fixture(scope="module")
def case() -> cases.Case:
    return cases.mla_epilog_case(b=3, s1=2, n_q=N_Q, seed=5)


@pytest.fixture(scope="module")
def hidden(case: cases.Case) -> np.ndarray:
    return case.golden()["hidden_out"]


def values(case: cases.Case) -> np.ndarray:
    """The heads' values [t, n_q * 128], in float64."""
    heads = np.einsum("tnc,ncd->tnd", wide(case.inputs["attention_out"]), wide(case.inputs["w_uv"]))
    return heads.reshape(heads.shape[0], -1)


def test_it_is_the_models_projection(case: cases.Case, hidden: np.ndarray) -> None:
    i = case.inputs
    want = values(case) @ (i["w_o"] * i["w_o_scale"][:, 0].astype(np.float64))
    # Quantisation to int8 (one step in 127 of the largest, about 3 to 4 sigma) errs by about 3.5 / 127 / sqrt(12) =
    # 0.8 %; the two roundings to bfloat16 by less than 0.2 % each.
    assert relative(wide(hidden), want) < 0.012
    heads = i["w_uv"][::-1]
    assert relative(wide(case.copy(w_uv=heads).golden()["hidden_out"]), want) > 0.5


def test_step_by_step(case: cases.Case, hidden: np.ndarray) -> None:
    """Every rounding: of the values, to int8 over all heads of a token, and of the result, token scale first."""
    i = case.inputs
    v = golden.round_bf16(values(case).astype(np.float32))
    inverse = np.float32(127) / np.abs(v).max(axis=1, keepdims=True)
    v8 = np.rint(v * inverse).astype(np.int64)
    assert (np.abs(v8).max(axis=1) == 127).all()
    total = v8 @ i["w_o"].astype(np.int64)
    assert np.abs(total).max() < 2**31
    out = total.astype(np.float32) * (np.float32(1) / inverse) * i["w_o_scale"].T
    tolerance.assert_same_bits("hidden_out", hidden, golden.float32_to_bf16(out))


def test_the_token_scale_comes_before_the_channel_scale(case: cases.Case) -> None:
    """Channel scales chosen so that the two orders round to different bfloat16 values."""
    i = case.inputs
    v8, token_scale = golden.quantise(golden.round_bf16(values(case).astype(np.float32))[:1])
    total = (v8.astype(np.int64) @ i["w_o"].astype(np.int64)).astype(np.float32)
    candidates = np.random.default_rng(0).uniform(0.5, 2, (7168, 1000)).astype(np.float32)
    right = golden.round_bf16(total[0][:, None] * token_scale[0] * candidates)
    differ = right != golden.round_bf16(total[0][:, None] * candidates * token_scale[0])
    chosen, columns = differ.argmax(axis=1), np.arange(7168)
    assert differ.any(axis=1).sum() > 10
    got = case.copy(w_o_scale=candidates[columns, chosen][:, None]).golden()["hidden_out"][0]
    np.testing.assert_array_equal(golden.bf16_to_float32(got), right[columns, chosen])


def test_a_rank_quantises_over_its_own_heads(case: cases.Case, hidden: np.ndarray) -> None:
    """The ranks' results add up to the layer's, within the quantisation."""
    i = case.inputs
    parts = []
    for heads in (slice(0, 1), slice(1, N_Q)):
        rows = slice(heads.start * 128, heads.stop * 128)
        rank = case.copy(
            attention_out=i["attention_out"][:, heads], w_uv=i["w_uv"][heads], w_o=np.ascontiguousarray(i["w_o"][rows])
        )
        parts.append(wide(rank.golden()["hidden_out"]))
    assert relative(sum(parts), wide(hidden)) < 0.012


def test_split_axes_give_the_same_bits(case: cases.Case, hidden: np.ndarray) -> None:
    split = cases.mla_epilog_case(b=3, s1=2, n_q=N_Q, seed=5, split=True)
    assert split.inputs["attention_out"].shape == (3, 2, N_Q, 512)
    tolerance.assert_same_bits("hidden_out", split.golden()["hidden_out"], hidden)


def test_a_token_alone_gives_the_same_bits(case: cases.Case, hidden: np.ndarray) -> None:
    for i in (0, 5):
        alone = case.copy(attention_out=case.inputs["attention_out"][i : i + 1])
        tolerance.assert_same_bits("hidden_out", alone.golden()["hidden_out"], hidden[i : i + 1])


@pytest.mark.parametrize("split", [False, True])
def test_no_tokens(split: bool) -> None:
    assert cases.mla_epilog_case(b=2, s1=0, n_q=1, split=split).golden()["hidden_out"].shape == (0, 7168)


@pytest.mark.parametrize("poison", [0x7FC0, 0x7F80])
def test_nan_and_inf_stay_in_their_token(case: cases.Case, hidden: np.ndarray, poison: int) -> None:
    attention = case.inputs["attention_out"].copy()
    attention[2, 1, 100] = poison
    got = case.copy(attention_out=attention).golden()["hidden_out"]
    others = np.arange(6) != 2
    tolerance.assert_same_bits("hidden_out", got[others], hidden[others])
    assert np.isnan(golden.bf16_to_float32(got[2])).all()


def test_a_zero_token(case: cases.Case, hidden: np.ndarray) -> None:
    attention = case.inputs["attention_out"].copy()
    attention[2] = 0
    got = case.copy(attention_out=attention).golden()["hidden_out"]
    assert not wide(got[2]).any()
    tolerance.assert_same_bits("hidden_out", got[3:], hidden[3:])


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("w_uv", lambda a: a[:, :-1], ValueError, r"w_uv has shape \(3, 511, 128\), expected \(n_q, kv_lora_rank, v_h"),
        ("w_uv", lambda a: a[:2], ValueError, r"attention_out has shape \(6, 3, 512\), expected \(t, n_q, kv_lora_ran"),
        ("w_uv", lambda a: a.tolist(), TypeError, "w_uv must be a numpy.ndarray, got list"),
        ("attention_out", lambda a: a.astype(np.float32), TypeError, r"attention_out must be uint16 \(bfloat16 bits\)"),
        ("attention_out", lambda a: a[..., :-1], ValueError, r"attention_out has shape \(6, 3, 511\), expected \(t, n"),
        ("w_o", lambda a: a[:-1], ValueError, r"w_o has shape \(383, 7168\), expected \(n_q \* v_head_dim, h\) = \(38"),
        ("w_o", lambda a: a.astype(np.int32), TypeError, "w_o must be int8, got int32"),
        ("w_o_scale", lambda a: a[:-1], ValueError, r"w_o_scale has shape \(7167, 1\), expected \(h, 1\) = \(71"),
        ("w_o_scale", lambda a: a[:, 0], ValueError, r"w_o_scale has shape \(7168,\), expected \(h, 1\)"),
    ],
)  # fmt: skip
def test_wrong_inputs_are_refused(case, name, change, error, message) -> None:
    bad = case.copy(**{name: change(case.inputs[name])})
    with pytest.raises(error, match=f"^mla_epilog_quant: {message}"):
        golden.mla_epilog_quant(*bad.inputs.values())
