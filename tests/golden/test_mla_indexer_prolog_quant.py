"""`mla_indexer_prolog_quant` is the pair of its halves, bit for bit."""

from __future__ import annotations

from types import SimpleNamespace

import cases
import numpy as np
import pytest
import tolerance

from ms_dsv32 import golden

CACHES = cases.IN_PLACE["mla_indexer_prolog_quant"]


def run_pair(case: cases.Case, epsilon_k: float = 1e-6, **mla_attributes: float) -> dict[str, np.ndarray]:
    """mla_prolog_quant, then the indexer's prolog, on copies of the fused case's inputs, with its output names."""
    i = case.copy().inputs
    mla = [i[name] for name in i if name in ("token_x", "cos", "sin", "cache_index") or name.startswith("mla_")]
    q_norm, q_norm_scale, *rest = golden.mla_prolog_quant(*mla, **mla_attributes)
    indexer = golden.lightning_indexer_prolog_quant(
        x=i["token_x"],
        q_norm=q_norm,
        q_norm_scale=q_norm_scale,
        w_qb=i["ip_w_qb_in"],
        w_qb_scale=i["ip_w_qb_scale_in"],
        wk=i["ip_wk_in"],
        w_proj=i["ip_w_proj_in"],
        ln_gamma_k=i["ip_ln_gamma_k_in"],
        ln_beta_k=i["ip_ln_beta_k_in"],
        cos_idx_rope=i["cos"],
        sin_idx_rope=i["sin"],
        hadamard_q=i["ip_hadamard_q_in"],
        hadamard_k=i["ip_hadamard_k_in"],
        k_cache=i["ip_k_cache"],
        k_cache_scale=i["ip_k_cache_scale"],
        k_cache_index=i["cache_index"],
        layernorm_epsilon_k=epsilon_k,
    )
    return dict(zip(case.outputs, [*rest, *indexer], strict=True))


@pytest.fixture(scope="module")
def case() -> cases.Case:
    return cases.fused_prolog_case(b=2, s1=2, n_q=3, seed=8)


@pytest.mark.parametrize("split", [False, True])
def test_fused_is_the_pair(split: bool) -> None:
    case = cases.fused_prolog_case(b=2, s1=2, n_q=3, seed=8, split=split)
    fused, pair = case.golden(), run_pair(cases.fused_prolog_case(b=2, s1=2, n_q=3, seed=8))
    for name, value in fused.items():
        tolerance.assert_same_bits(name, value, pair[name])


def test_attributes_reach_their_half(case: cases.Case) -> None:
    attrs = SimpleNamespace(layernorm_epsilon_k=0.5, layout_query="TND", layout_key="PA_BSND")
    fused = case.with_attributes(mla_epsilon_cq=0.25, mla_epsilon_ckv=0.75, ip_attrs=attrs).golden()
    pair = run_pair(case, 0.5, epsilon_cq=0.25, epsilon_ckv=0.75)
    plain = case.golden()
    for name, value in fused.items():
        tolerance.assert_same_bits(name, value, pair[name])
    for name in ("mla_query_nope_out", "mla_k_scale_cache_out", "ip_k_int8_out"):
        with pytest.raises(AssertionError, match="differ in their bits"):
            tolerance.assert_same_bits(name, fused[name], plain[name])


def test_caches_are_updated_in_place(case: cases.Case) -> None:
    mine = case.copy()
    outputs = dict(zip(case.outputs, golden.mla_indexer_prolog_quant(*mine.inputs.values()), strict=True))
    case.check(outputs, outputs)
    for name, output in CACHES.items():
        assert outputs[output] is mine.inputs[name]


def test_no_tokens() -> None:
    case = cases.fused_prolog_case(b=1, s1=0, n_q=2, kv_lens=5)
    outputs = case.golden()
    assert outputs["mla_query_nope_out"].shape == (0, 2, 512)
    assert outputs["ip_q_int8_out"].shape == (0, 64, 128)
    for name, output in CACHES.items():
        tolerance.assert_same_bits(output, outputs[output], case.inputs[name])


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("mla_w_dq", lambda a: a[:-1], ValueError, r"mla_w_dq has shape \(7167, 1536\)"),
        ("ip_wk_in", lambda a: a.astype(np.float32), TypeError, r"ip_wk_in must be uint16 \(bfloat16 bits\)"),
        ("ip_k_cache", lambda a: np.concatenate([a, a]), ValueError, r"ip_k_cache has shape .* expected \(block_num, "),
        ("ip_k_cache_scale", lambda a: np.repeat(a, 2, 1)[:, ::2], ValueError, "ip_k_cache_scale must be contiguous"),
        ("cache_index", lambda a: a + 10**6, ValueError, r"cache_index\[0\] = \d+ is outside"),
        ("token_x", lambda a: a[:, :-1], ValueError, r"mla_w_dq has shape \(7168, 1536\), expected \(h, q_lora_rank\)"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_is_written(case, name, change, error, message) -> None:
    bad = case.copy(**{name: change(case.inputs[name])})
    before = {cache: bad.inputs[cache].copy() for cache in CACHES}
    with pytest.raises(error, match=rf"^mla_indexer_prolog_quant: {message}"):
        golden.mla_indexer_prolog_quant(*bad.inputs.values())
    for cache, value in before.items():
        tolerance.assert_same_bits(cache, bad.inputs[cache], value)


def test_wrong_attributes_are_refused(case: cases.Case) -> None:
    with pytest.raises(ValueError, match=r"^mla_indexer_prolog_quant: mla_cache_mode must be 'PA_BSND', got 'BSND'"):
        golden.mla_indexer_prolog_quant(*case.inputs.values(), mla_cache_mode="BSND")
    attrs = SimpleNamespace(layernorm_epsilon_k=1e-6, layout_query="BSND", layout_key="PA_BSND")
    with pytest.raises(ValueError, match=r"^mla_indexer_prolog_quant: ip_attrs.layout_query must be 'TND', got 'BSND'"):
        golden.mla_indexer_prolog_quant(*case.inputs.values(), ip_attrs=attrs)
