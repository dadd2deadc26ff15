"""`mla_prolog_quant`: the model's own mathematics in float64, and the rules of the contract."""

from __future__ import annotations

import cases
import numpy as np
import pytest
import tolerance
from measures import relative, wide, written

from ms_dsv32 import golden

CACHES = cases.IN_PLACE["mla_prolog_quant"]


def turn(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The model's RoPE: adjacent pairs as complex numbers, times e^(i p w), left where they are."""
    z = x[..., 0::2] + 1j * x[..., 1::2]
    return z * np.exp(1j * positions * 10000.0 ** (-np.arange(32) / 32))


class Model:
    """The unquantised layer in float64, from the same weights: query and key of each head as the paper has them."""

    def __init__(self, case: cases.Case) -> None:
        i = case.inputs
        self.n_q = case.n_q
        x = wide(i["token_x"]).reshape(-1, 7168)
        positions = case.paging.positions.reshape(-1)
        cq = x @ wide(i["w_dq"])
        self.cq = cq / np.sqrt((cq**2).mean(-1, keepdims=True) + 1e-5) * wide(i["gamma_cq"])
        w_uq_qr = i["w_uq_qr"].astype(np.float64) * i["dequant_scale"][:, 0]
        q = (self.cq @ w_uq_qr).reshape(-1, self.n_q, 192)
        self.q_nope = q[..., :128]
        self.q_rope = turn(q[..., 128:], positions[:, None, None])
        kv = x @ wide(i["w_dkv_kr"])
        self.ckv = kv[:, :512] / np.sqrt((kv[:, :512] ** 2).mean(-1, keepdims=True) + 1e-5) * wide(i["gamma_ckv"])
        self.k_nope = np.einsum("tc,ndc->tnd", self.ckv, wide(i["w_uk"]))
        self.k_rope = turn(kv[:, 512:], positions[:, None])

    def scores(self) -> np.ndarray:
        """[n_q, t, t]: query of token i against key of token j."""
        rope = np.einsum("ind,jd->nij", self.q_rope, self.k_rope.conj()).real
        return np.einsum("ind,jnd->nij", self.q_nope, self.k_nope) + rope


@pytest.fixture(scope="module")
def case() -> cases.Case:
    return cases.mla_prolog_case(b=3, s1=2, n_q=4, seed=5)


@pytest.fixture(scope="module")
def result(case: cases.Case) -> dict[str, np.ndarray]:
    return case.golden()


def test_absorbed_scores_are_the_models_scores(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    model = Model(case)
    k8 = written(case, result, "kv_cache_out").astype(np.float64).reshape(-1, 4, 128)
    ckv = (k8 * written(case, result, "k_scale_cache_out")[:, :, None]).reshape(-1, 512)
    kr = wide(written(case, result, "kr_cache_out"))
    q_nope, q_rope = wide(result["query_nope_out"]), wide(result["query_rope_out"])
    nope = np.einsum("inc,jc->nij", q_nope, ckv)
    want = model.scores()
    # Quantisation to int8 (one step in 127 of the largest, about 3 to 4 sigma) of cq and ckv errs by about
    # 3.5 / 127 / sqrt(12) = 0.8 % each; bfloat16 adds up to 0.4 % a rounding.
    assert relative(nope + np.einsum("ind,jd->nij", q_rope, kr), want) < 0.02
    # the other RoPE mode on the keys alone breaks the scores
    swapped = np.concatenate([kr[:, 0::2], kr[:, 1::2]], axis=-1)
    assert relative(nope + np.einsum("ind,jd->nij", q_rope, swapped), want) > 0.1


def test_outputs_are_the_models_values(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    model = Model(case)
    q_norm = result["q_norm_out"] * result["q_norm_scale_out"].astype(np.float64)
    assert relative(q_norm, model.cq) < 0.012
    assert (
        relative(wide(result["query_nope_out"]), np.einsum("ind,ndc->inc", model.q_nope, wide(case.inputs["w_uk"])))
        < 0.015
    )
    rope = np.concatenate([model.q_rope.real, model.q_rope.imag], axis=-1)
    assert relative(wide(result["query_rope_out"]), rope) < 0.015
    rope = np.concatenate([model.k_rope.real, model.k_rope.imag], axis=-1)
    assert relative(wide(written(case, result, "kr_cache_out")), rope) < 0.005


def test_int8_up_projection_is_dequantised_in_order(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    """Steps 2 and 4 restated from q_norm in plain integers: (int32 * token scale) * channel scale, in float32."""
    i = case.inputs
    total = result["q_norm_out"].astype(np.int64) @ i["w_uq_qr"].astype(np.int64)
    assert np.abs(total).max() < 2**31
    qb = total.astype(np.float32) * result["q_norm_scale_out"] * i["dequant_scale"].T
    qb = golden.round_bf16(qb).reshape(-1, 4, 192)
    cos, sin = (golden.bf16_to_float32(i[name]) for name in ("cos", "sin"))
    for n in range(4):
        rope = golden.rope_interleaved(qb[:, n, 128:], cos, sin)
        tolerance.assert_same_bits("q_rope", result["query_rope_out"][:, n], golden.float32_to_bf16(rope))
        nope = golden.float32_to_bf16(golden.matmul_bf16(qb[:, n, :128], i["w_uk"][n]))
        tolerance.assert_same_bits("q_nope", result["query_nope_out"][:, n], nope)


def test_latents_step_by_step(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    """Steps 1 and 5 restated, with every rounding: of the projection, and of the norm."""
    i = case.inputs
    x = golden.bf16_to_float32(i["token_x"]).astype(np.float64)

    def project(w: np.ndarray) -> np.ndarray:
        return golden.round_bf16((x @ wide(w)).astype(np.float32))

    def norm(v: np.ndarray, gamma: np.ndarray) -> np.ndarray:
        rms = np.sqrt((v.astype(np.float64) ** 2).mean(-1, keepdims=True).astype(np.float32) + np.float32(1e-5))
        return golden.round_bf16(v / rms * golden.bf16_to_float32(gamma))

    q_norm, q_norm_scale = golden.quantise(norm(project(i["w_dq"]), i["gamma_cq"]))
    tolerance.assert_same_bits("q_norm", result["q_norm_out"], q_norm)
    tolerance.assert_same_bits("q_norm_scale", result["q_norm_scale_out"], q_norm_scale)
    kv = project(i["w_dkv_kr"])
    k8, ks = golden.quantise(norm(kv[:, :512], i["gamma_ckv"]).reshape(6, 4, 128))
    tolerance.assert_same_bits("kv_cache", written(case, result, "kv_cache_out"), k8.reshape(6, 512))
    tolerance.assert_same_bits("k_scale_cache", written(case, result, "k_scale_cache_out"), ks[..., 0])
    kr = golden.rope_interleaved(kv[:, 512:], *(golden.bf16_to_float32(i[name]) for name in ("cos", "sin")))
    tolerance.assert_same_bits("kr_cache", written(case, result, "kr_cache_out"), golden.float32_to_bf16(kr))


def test_the_token_scale_comes_before_the_channel_scale(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    """Channel scales chosen so that the two orders round to different bfloat16 values."""
    total = (result["q_norm_out"][:1].astype(np.int64) @ case.inputs["w_uq_qr"].astype(np.int64)).astype(np.float32)
    token_scale = result["q_norm_scale_out"][0]
    candidates = np.random.default_rng(0).uniform(0.5, 2, (768, 10000)).astype(np.float32)
    right = golden.round_bf16(total[0][:, None] * token_scale * candidates)
    differ = right != golden.round_bf16(total[0][:, None] * candidates * token_scale)
    chosen = differ.argmax(axis=1)
    rope = np.arange(768).reshape(4, 192)[:, 128:]
    assert differ[rope].any(axis=-1).sum() > 3
    columns = np.arange(768)
    still = case.copy(
        dequant_scale=candidates[columns, chosen][:, None],
        cos=np.full_like(case.inputs["cos"], 0x3F80),
        sin=np.zeros_like(case.inputs["sin"]),
    )
    want = right[columns, chosen][rope]
    want = np.concatenate([want[:, 0::2], want[:, 1::2]], axis=-1)  # cos = 1 and sin = 0: reordered, not turned
    got = golden.bf16_to_float32(still.golden()["query_rope_out"][0])
    np.testing.assert_array_equal(got, want)


def test_latents_are_rounded_to_bf16_before_they_are_quantised(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    """scale * 127 is the largest |cq| (or |ckv| of a group): a bfloat16 value, up to the scale's own rounding."""
    for scale in (result["q_norm_scale_out"], written(case, result, "k_scale_cache_out")):
        amax = scale.astype(np.float64) * 127
        nearest = golden.round_bf16(amax.astype(np.float32)).astype(np.float64)
        np.testing.assert_allclose(amax, nearest, rtol=3 * 2**-23)


def test_caches_are_updated_in_place_and_only_there(case: cases.Case) -> None:
    mine = case.copy()
    results = golden.mla_prolog_quant(*mine.inputs.values())
    outputs = dict(zip(case.outputs, results, strict=True))
    case.check(outputs, outputs)
    for name, output in CACHES.items():
        assert outputs[output] is mine.inputs[name]
        rows = written(case, outputs, output)
        assert (rows != -128).all()  # the poison is gone
        assert np.isfinite(wide(rows) if rows.dtype == np.uint16 else rows).all()
    for name, value in case.inputs.items():
        if name not in CACHES:
            assert mine.inputs[name] is value


def test_padding_tokens_write_nothing(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    index = case.inputs["cache_index"].copy()
    index[[1, 4]] = -1
    padded = case.copy(cache_index=index)
    outputs = padded.golden()
    padded.check(outputs, result)
    for output in ("q_norm_out", "q_norm_scale_out", "query_nope_out", "query_rope_out"):
        tolerance.assert_same_bits(output, outputs[output], result[output])
    kept = np.array([0, 2, 3, 5])
    for output in CACHES.values():
        tolerance.assert_same_bits(output, written(case, outputs, output)[kept], written(case, result, output)[kept])


def test_the_later_token_wins(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    index = case.inputs["cache_index"].copy()
    index[[0, 3, 5]] = index[3]
    outputs = case.copy(cache_index=index).golden()
    for output in CACHES.values():
        flat = outputs[output].reshape(-1, outputs[output].shape[-1])
        tolerance.assert_same_bits(output, flat[index[3]], written(case, result, output)[5])


def test_split_axes_give_the_same_bits(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    split = cases.mla_prolog_case(b=3, s1=2, n_q=4, seed=5, split=True)
    assert split.inputs["token_x"].shape == (3, 2, 7168)
    assert split.inputs["cache_index"].shape == (3, 2)
    for name, value in split.golden().items():
        tolerance.assert_same_bits(name, value, result[name])


def test_a_token_alone_gives_the_same_bits(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    for i in (0, 5):
        alone = case.copy(**{name: case.inputs[name][i : i + 1] for name in ("token_x", "cos", "sin", "cache_index")})
        outputs = alone.golden()
        for name in ("q_norm_out", "q_norm_scale_out", "query_nope_out", "query_rope_out"):
            tolerance.assert_same_bits(name, outputs[name], result[name][i : i + 1])
        for name in CACHES.values():
            tolerance.assert_same_bits(name, written(case, outputs, name)[i], written(case, result, name)[i])


def test_fewer_heads_are_the_first_heads(result: dict[str, np.ndarray]) -> None:
    one = cases.mla_prolog_case(b=3, s1=2, n_q=1, seed=5).golden()
    for name in ("query_nope_out", "query_rope_out"):
        tolerance.assert_same_bits(name, one[name], result[name][:, :1])
    tolerance.assert_same_bits("q_norm_out", one["q_norm_out"], result["q_norm_out"])


def test_no_tokens() -> None:
    for split in (False, True):
        case = cases.mla_prolog_case(b=2, s1=0, n_q=3, kv_lens=130, split=split)
        outputs = case.golden()
        assert outputs["q_norm_out"].shape == (0, 1536)
        assert outputs["q_norm_scale_out"].shape == (0, 1)
        assert outputs["query_nope_out"].shape == (0, 3, 512)
        assert outputs["query_rope_out"].shape == (0, 3, 64)
        for name, output in CACHES.items():
            tolerance.assert_same_bits(output, outputs[output], case.inputs[name])


@pytest.mark.parametrize("poison", [0x7FC0, 0x7F80])
def test_nan_and_inf_stay_in_their_token(case: cases.Case, result: dict[str, np.ndarray], poison: int) -> None:
    x = case.inputs["token_x"].copy()
    x[2, 100] = poison
    outputs = case.copy(token_x=x).golden()
    others = np.array([0, 1, 3, 4, 5])
    for name in ("q_norm_out", "q_norm_scale_out", "query_nope_out", "query_rope_out"):
        tolerance.assert_same_bits(name, outputs[name][others], result[name][others])
    for name in CACHES.values():
        tolerance.assert_same_bits(name, written(case, outputs, name)[others], written(case, result, name)[others])
    assert not np.isfinite(outputs["q_norm_scale_out"][2, 0])


def test_a_zero_token(case: cases.Case) -> None:
    x = case.inputs["token_x"].copy()
    x[2] = 0
    outputs = case.copy(token_x=x).golden()
    assert not outputs["q_norm_out"][2].any()
    assert not wide(outputs["query_nope_out"][2]).any()
    assert not written(case, outputs, "kv_cache_out")[2].any()
    assert np.isfinite(outputs["q_norm_scale_out"]).all()
    assert np.isfinite(written(case, outputs, "k_scale_cache_out")).all()


def test_epsilon_counts(case: cases.Case, result: dict[str, np.ndarray]) -> None:
    """epsilon 3 makes cq half as large (its mean square is about 1), and only cq. So does ckv's for ckv."""
    outputs = case.with_attributes(epsilon_cq=3.0).golden()
    ratio = outputs["q_norm_scale_out"] / result["q_norm_scale_out"]
    np.testing.assert_allclose(ratio, 0.5, atol=0.02)
    tolerance.assert_same_bits("kv", written(case, outputs, "kv_cache_out"), written(case, result, "kv_cache_out"))
    outputs = case.with_attributes(epsilon_ckv=3.0).golden()
    ratio = written(case, outputs, "k_scale_cache_out") / written(case, result, "k_scale_cache_out")
    np.testing.assert_allclose(ratio, 0.5, atol=0.05)
    tolerance.assert_same_bits("q_norm", outputs["q_norm_out"], result["q_norm_out"])


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        (
            "w_dq",
            lambda a: a[:, :-1],
            ValueError,
            r"w_uq_qr has shape \(1536, 768\), expected \(q_lora_rank, n_q \* q_head_dim\)",
        ),
        (
            "w_dq",
            lambda a: a[:-1],
            ValueError,
            r"w_dq has shape \(7167, 1536\), expected \(h, q_lora_rank\) = \(7168, q_lora",
        ),
        (
            "token_x",
            lambda a: a.astype(np.float32),
            TypeError,
            r"token_x must be uint16 \(bfloat16 bits\), got float32",
        ),
        ("kv_cache", lambda a: a.astype(np.float16), TypeError, "kv_cache must be int8, got float16"),
        (
            "kr_cache",
            lambda a: a[:-1],
            ValueError,
            r"kr_cache has shape .*, expected \(block_num, block_size, n_kv, rope_dim\)",
        ),
        ("kv_cache", lambda a: np.repeat(a, 2, axis=3)[..., ::2], ValueError, "kv_cache must be contiguous"),
        (
            "kr_cache",
            lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),  # of bytes, which are not to be written
            ValueError,
            "kr_cache must be contiguous and writeable",
        ),
        ("cos", lambda a: a[:-1], ValueError, r"cos has shape \(5, 64\), expected \(t, rope_dim\) = \(6, 64\)"),
        ("cos", lambda a: a.reshape(2, 3, 64), ValueError, None),
        ("w_uk", lambda a: a.tolist(), TypeError, "w_uk must be a numpy.ndarray, got list"),
        ("cache_index", lambda a: a.astype(np.int32), TypeError, "cache_index must be int64, got int32"),
        (
            "cache_index",
            lambda a: np.where(np.arange(6) == 4, 10**9, a),
            ValueError,
            r"cache_index\[4\] = 1000000000 is outside \[0, block_num \* block_size\) = \[0, \d+\) "
            r"and is not -1 \(padding\)",
        ),
        (
            "cache_index",
            lambda a: np.where(np.arange(6) == 0, 128 * 7, a),
            ValueError,
            r"cache_index\[0\] = 896 is outside \[0, .* = \[0, 896\)",
        ),
        ("cache_index", lambda a: np.where(np.arange(6) == 5, -2, a), ValueError, r"cache_index\[5\] = -2 is outside"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_is_written(case, name, change, error, message) -> None:
    bad = case.copy(**{name: change(case.inputs[name])})
    before = {cache: bad.inputs[cache].copy() for cache in CACHES}
    if message is None:  # two arguments split differently
        bad = bad.copy(token_x=bad.inputs["token_x"].reshape(3, 2, 7168))
        message = r"cos has \(b, s1\) = \(2, 3\), expected \(3, 2\), as token_x"
    with pytest.raises(error, match=rf"^mla_prolog_quant: {message}"):
        golden.mla_prolog_quant(*bad.inputs.values())
    for cache, value in before.items():
        tolerance.assert_same_bits(cache, bad.inputs[cache], value)


def test_another_cache_mode_is_refused(case: cases.Case) -> None:
    with pytest.raises(ValueError, match=r"^mla_prolog_quant: cache_mode must be 'PA_BSND', got 'BNSD'"):
        golden.mla_prolog_quant(*case.inputs.values(), cache_mode="BNSD")
