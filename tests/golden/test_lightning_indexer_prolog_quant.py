"""`lightning_indexer_prolog_quant`: the model's own mathematics in float64, and the rules of the contract."""

from __future__ import annotations

import cases
import numpy as np
import pytest
import tolerance
from measures import relative, wide, written

from ms_dsv32 import golden

CACHES = cases.IN_PLACE["lightning_indexer_prolog_quant"]
TOKEN_INPUTS = ("x", "q_norm", "q_norm_scale", "cos_idx_rope", "sin_idx_rope", "k_cache_index")
TOKEN_OUTPUTS = ("q_int8_out", "q_scale_out", "weights_out")


def turn(x: np.ndarray, positions: np.ndarray, interleaved: bool) -> np.ndarray:
    """RoPE on the first 64 of the last axis, in the order that the operator writes."""
    head = x[..., :64]
    z = head[..., 0::2] + 1j * head[..., 1::2] if interleaved else head[..., :32] + 1j * head[..., 32:]
    z = z * np.exp(1j * positions * 10000.0 ** (-np.arange(32) / 32))
    return np.concatenate([z.real, z.imag, x[..., 64:]], axis=-1)


def model(case: cases.Case, interleaved: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unquantised queries [t, 64, 128], keys [t, 128], head weights [t, 64] in float64, before the Hadamard product."""
    i = case.inputs
    positions = case.paging.positions.reshape(-1)
    q = (i["q_norm"] * i["q_norm_scale"].astype(np.float64)) @ (i["w_qb"] * i["w_qb_scale"][:, 0].astype(np.float64))
    q = turn(q.reshape(-1, 64, 128), positions[:, None, None], interleaved)
    x = wide(i["x"])
    k = x @ wide(i["wk"])
    k = (k - k.mean(-1, keepdims=True)) / np.sqrt(k.var(-1, keepdims=True) + 1e-6)
    k = turn(k * wide(i["ln_gamma_k"]) + wide(i["ln_beta_k"]), positions[:, None], interleaved)
    return q, k, x @ wide(i["w_proj"]) / 8.0 / np.sqrt(128.0)


@pytest.fixture(scope="module")
def case() -> cases.Case:
    return cases.indexer_prolog_case(b=3, s1=2, seed=6)


@pytest.fixture(scope="module")
def result(case: cases.Case) -> dict[str, np.ndarray]:
    return case.golden()


def values(case: cases.Case, outputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Dequantised queries and keys."""
    q = outputs["q_int8_out"] * outputs["q_scale_out"].astype(np.float64)
    k = written(case, outputs, "k_int8_out") * written(case, outputs, "k_scale_out").astype(np.float64)
    return q, k


def test_outputs_are_the_models_values(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    q, k = values(case, result)
    want_q, want_k, want_weights = model(case)
    # int8 errs by about 3.5 / 127 / sqrt(12) = 0.8 %, bfloat16 up to 0.4 % a rounding
    assert relative(q, want_q @ wide(case.inputs["hadamard_q"])) < 0.015
    assert relative(k, want_k @ wide(case.inputs["hadamard_k"])) < 0.015
    assert relative(result["weights_out"].astype(np.float64), want_weights) < 0.004
    wrong_q, wrong_k, _ = model(case, interleaved=True)
    assert relative(q, wrong_q @ wide(case.inputs["hadamard_q"])) > 0.5
    assert relative(k, wrong_k @ wide(case.inputs["hadamard_k"])) > 0.5


def test_the_hadamard_product_keeps_the_scores(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    q, k = values(case, result)
    want_q, want_k, _ = model(case)
    assert relative(np.einsum("ind,jd->nij", q, k), np.einsum("ind,jd->nij", want_q, want_k)) < 0.03


def test_the_key_is_not_rounded_before_the_layer_norm(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    """Step 2 with and without a bfloat16 rounding between projection and norm: one of them has the operator's bits."""
    i = case.inputs
    x = golden.bf16_to_float32(i["x"])
    gamma, beta = golden.bf16_to_float32(i["ln_gamma_k"]), golden.bf16_to_float32(i["ln_beta_k"])
    cos, sin = golden.bf16_to_float32(i["cos_idx_rope"]), golden.bf16_to_float32(i["sin_idx_rope"])

    def keys(projected: np.ndarray) -> np.ndarray:
        k = golden.round_bf16(golden.layer_norm(projected, gamma, beta, 1e-6))
        k = np.concatenate([golden.round_bf16(golden.rope_half_split(k[:, :64], cos, sin)), k[:, 64:]], axis=-1)
        return golden.quantise(golden.round_bf16(golden.matmul_bf16(k, i["hadamard_k"])))[0]

    projected = golden.matmul_bf16(x, i["wk"])
    k_int8 = written(case, result, "k_int8_out")
    tolerance.assert_same_bits("k_int8", k_int8, keys(projected))
    assert (k_int8 != keys(golden.round_bf16(projected))).mean() > 0.02


def test_queries_step_by_step(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    """Step 1 restated head by head in plain integers."""
    i = case.inputs
    total = i["q_norm"].astype(np.int64) @ i["w_qb"].astype(np.int64)
    q = golden.round_bf16(total.astype(np.float32) * i["q_norm_scale"] * i["w_qb_scale"].T)
    cos, sin = golden.bf16_to_float32(i["cos_idx_rope"]), golden.bf16_to_float32(i["sin_idx_rope"])
    for n in (0, 17, 63):
        head = q[:, n * 128 : (n + 1) * 128]
        turned = golden.round_bf16(golden.rope_half_split(head[:, :64], cos, sin))
        head = np.concatenate([turned, head[:, 64:]], axis=-1)
        q_int8, q_scale = golden.quantise(golden.round_bf16(golden.matmul_bf16(head, i["hadamard_q"])))
        tolerance.assert_same_bits("q_int8", result["q_int8_out"][:, n], q_int8)
        tolerance.assert_same_bits("q_scale", result["q_scale_out"][:, n], q_scale.astype(np.float16))


def test_weights_are_rounded_to_bf16_before_they_are_scaled(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    projected = golden.matmul_bf16(golden.bf16_to_float32(case.inputs["x"]), case.inputs["w_proj"])
    scale = np.float32(64**-0.5) * np.float32(128**-0.5)  # the first is a power of two, so the order does not matter
    tolerance.assert_same_bits(
        "weights", result["weights_out"], (golden.round_bf16(projected) * scale).astype(np.float16)
    )
    assert (result["weights_out"] != (projected * scale).astype(np.float16)).any()


def test_caches_are_updated_in_place_and_only_there(case: cases.Case) -> None:
    mine = case.copy()
    outputs = dict(zip(case.outputs, golden.lightning_indexer_prolog_quant(*mine.inputs.values()), strict=True))
    case.check(outputs, outputs)
    for name, output in CACHES.items():
        assert outputs[output] is mine.inputs[name]
    assert (written(case, outputs, "k_int8_out") != -128).all()
    assert np.isfinite(written(case, outputs, "k_scale_out")).all()


def test_padding_and_repeated_rows(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    index = case.inputs["k_cache_index"].copy()
    index[1] = -1
    index[[0, 2, 5]] = index[2]
    outputs = case.copy(k_cache_index=index).golden()
    for name in TOKEN_OUTPUTS:
        tolerance.assert_same_bits(name, outputs[name], result[name])
    for name, output in CACHES.items():
        flat = outputs[output].reshape(-1, outputs[output].shape[-1])
        want = case.inputs[name].copy().reshape(flat.shape)
        rows = written(case, result, output)
        want[index[[3, 4, 5]]] = rows[[3, 4, 5]]
        tolerance.assert_same_bits(output, flat, want)


def test_split_axes_give_the_same_bits(result: dict[str, np.ndarray]) -> None:
    split = cases.indexer_prolog_case(b=3, s1=2, seed=6, split=True)
    assert split.inputs["q_norm_scale"].shape == (3, 2, 1)
    for name, value in split.golden().items():
        tolerance.assert_same_bits(name, value, result[name])


def test_a_token_alone_gives_the_same_bits(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    outputs = case.copy(**{name: case.inputs[name][3:4] for name in TOKEN_INPUTS}).golden()
    for name in TOKEN_OUTPUTS:
        tolerance.assert_same_bits(name, outputs[name], result[name][3:4])
    for name in CACHES.values():
        tolerance.assert_same_bits(name, written(case, outputs, name)[3], written(case, result, name)[3])


def test_no_tokens() -> None:
    case = cases.indexer_prolog_case(b=0, s1=1)
    outputs = case.golden()
    assert outputs["q_int8_out"].shape == (0, 64, 128)
    assert outputs["q_scale_out"].shape == (0, 64, 1)
    assert outputs["weights_out"].shape == (0, 64)
    for name, output in CACHES.items():
        tolerance.assert_same_bits(output, outputs[output], case.inputs[name])


@pytest.mark.parametrize("poison", [0x7FC0, 0xFF80])
def test_nan_and_inf_stay_in_their_token(case: cases.Case, result: dict[str, np.ndarray], poison: int) -> None:
    x = case.inputs["x"].copy()
    x[4, 0] = poison
    q_norm_scale = case.inputs["q_norm_scale"].copy()
    q_norm_scale[4] = np.nan if poison == 0x7FC0 else np.inf
    outputs = case.copy(x=x, q_norm_scale=q_norm_scale).golden()
    others = np.array([0, 1, 2, 3, 5])
    for name in TOKEN_OUTPUTS:
        tolerance.assert_same_bits(name, outputs[name][others], result[name][others])
    for name in CACHES.values():
        tolerance.assert_same_bits(name, written(case, outputs, name)[others], written(case, result, name)[others])
    assert not np.isfinite(outputs["weights_out"][4]).any()


def test_a_zero_token(case: cases.Case) -> None:
    """x = 0 gives k = beta before RoPE (no NaN from the norm's 0 / sqrt(0 + epsilon)) and zero weights."""
    x = case.inputs["x"].copy()
    x[2] = 0
    outputs = case.copy(x=x).golden()
    assert not outputs["weights_out"][2].any()
    k = written(case, outputs, "k_int8_out")[2] * written(case, outputs, "k_scale_out")[2].astype(np.float64)
    positions = case.paging.positions.reshape(-1)[2]
    want = turn(wide(case.inputs["ln_beta_k"]), positions, False) @ wide(case.inputs["hadamard_k"])
    assert relative(k, want) < 0.02


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        (
            "wk",
            lambda a: a[:, :127],
            ValueError,
            r"wk has shape \(7168, 127\), expected \(h, idx_head_dim\) = \(7168, 128\)",
        ),
        (
            "w_qb",
            lambda a: a[:1535],
            ValueError,
            r"w_qb has shape \(1535, 8192\), expected \(q_lora_rank, idx_n_heads \* idx_head_dim\)",
        ),
        ("k_cache_scale", lambda a: a.astype(np.float32), TypeError, "k_cache_scale must be float16, got float32"),
        ("k_cache", lambda a: np.asfortranarray(a), ValueError, "k_cache must be contiguous"),
        (
            "k_cache_index",
            lambda a: np.where(np.arange(6) == 0, 128 * 99, a),
            ValueError,
            r"k_cache_index\[0\] = 12672 is outside",
        ),
        (
            "q_norm",
            lambda a: a[:3],
            ValueError,
            r"q_norm has shape \(3, 1536\), expected \(t, q_lora_rank\) = \(6, q_lora_rank\)",
        ),
    ],
)
def test_wrong_inputs_are_refused_before_anything_is_written(case, name, change, error, message) -> None:
    bad = case.copy(**{name: change(case.inputs[name])})
    before = {cache: bad.inputs[cache].copy() for cache in CACHES}
    with pytest.raises(error, match=rf"^lightning_indexer_prolog_quant: {message}"):
        golden.lightning_indexer_prolog_quant(*bad.inputs.values())
    for cache, value in before.items():
        tolerance.assert_same_bits(cache, bad.inputs[cache], value)


@pytest.mark.parametrize(("attribute", "value"), [("layout_query", "BSND"), ("layout_key", "BSND")])
def test_other_layouts_are_refused(case: cases.Case, attribute: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"^lightning_indexer_prolog_quant: {attribute} must be '\w+', got '{value}'"):
        golden.lightning_indexer_prolog_quant(*case.inputs.values(), **{attribute: value})
