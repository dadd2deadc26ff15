"""The input makers: names as in the contract, valid values, poison where nothing may be read."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import tolerance
from cases.makers import MAKERS

from ms_dsv32 import golden, op_info

OP_INFO = Path(__file__).resolve().parents[2] / "op_info"
DTYPES = {
    "bf16": np.uint16,
    "int8": np.int8,
    "fp16": np.float16,
    "fp32": np.float32,
    "int32": np.int32,
    "int64": np.int64,
}


def small(operator: str, b: int = 1, s1: int = 1, kv_lens: Any = None, **options: Any) -> cases.Case:
    """A case of two heads, of which each token selects 16 keys."""
    return cases.make(operator, b, s1, kv_lens, n_q=2, selected=16, **options)


def test_every_operator_has_a_maker() -> None:
    assert set(MAKERS) == set(op_info.names()), "MAKERS of tests/cases/makers.py has a case of each operator"


@pytest.mark.parametrize("operator", op_info.names())
@pytest.mark.parametrize("split", [False, True])
def test_cases_follow_op_info_and_the_signatures(operator: str, split: bool) -> None:
    case = small(operator, b=2, s1=2, split=split)
    info = json.loads((OP_INFO / f"{operator}.json").read_text(encoding="utf-8"))
    assert case.operator == operator
    optional = [i["name"] for i in info["inputs"] if "optional" in i]
    assert [*case.inputs, *optional] == [i["name"] for i in info["inputs"]]
    if optional and not split:
        case = cases.ragged(case, [2, 1], padding=1)
    for i in info["inputs"][: len(case.inputs)]:
        assert case.inputs[i["name"]].dtype == DTYPES[i["dtype"]], i["name"]
    assert set(case.attributes) <= {a["name"] for a in info["attrs"]}
    assert {a["name"] for a in info["attrs"] if "default" not in a} <= set(case.attributes)
    parameters = inspect.signature(getattr(golden, operator)).parameters
    positional = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [i["name"] for i in info["inputs"]]
    outputs = [o["name"] for o in info["outputs"]]
    assert list(cases.OUTPUTS[operator]) == [o for o in outputs if o != "lse"]
    assert cases.IN_PLACE[operator] == {o["in_place_of"]: o["name"] for o in info["outputs"] if "in_place_of" in o}
    dtypes = {o["name"]: DTYPES[o["dtype"]] for o in info["outputs"]}
    for name, value in case.golden().items():
        assert value.dtype == dtypes[name], name


@pytest.mark.parametrize("operator", op_info.names())
def test_seeds(operator: str) -> None:
    one, same, other = (small(operator, b=1, s1=2, seed=seed) for seed in (1, 1, 2))
    differing = 0
    for name, value in one.inputs.items():
        tolerance.assert_same_bits(name, same.inputs[name], value)
        differing += value.tobytes() != other.inputs[name].tobytes()
    assert differing >= min(3, len(one.inputs) - 3)  # the epilog has one input beside its three weights


@pytest.mark.parametrize("operator", op_info.names())
def test_running_a_case_leaves_it_as_it_was(operator: str) -> None:
    case = small(operator, b=1, s1=2)
    before = {name: value.copy() for name, value in case.inputs.items()}
    first, second = case.golden(), case.golden()
    for name, value in before.items():
        tolerance.assert_same_bits(name, case.inputs[name], value)
    for name, value in first.items():
        tolerance.assert_same_bits(name, second[name], value)


def test_paging() -> None:
    paging = cases.make_paging(3, 2, [130, 1, 256], spare_blocks=2, spare_columns=1)
    assert paging.t == 6
    assert paging.block_num == 2 + 1 + 2 + 2
    assert paging.block_table.shape == (3, 3)
    np.testing.assert_array_equal(paging.positions, [[128, 129], [-1, 0], [254, 255]])
    np.testing.assert_array_equal(paging.visible(), [129, 130, 0, 1, 255, 256])
    assert paging.cache_index[1, 0] == -1
    assert (np.delete(paging.cache_index.reshape(-1), 2) >= 0).all()
    rows = paging.occupied_rows()
    assert np.unique(rows).size == rows.size == 130 + 1 + 256
    straight = cases.make_paging(3, 2, [130, 1, 256], shuffle=False)
    np.testing.assert_array_equal(straight.block_table[:, :2], [[0, 1], [2, -1], [3, 4]])
    lengths = cases.make_paging(4, 3).kv_act_seqs
    assert np.unique(lengths % 128).size == 4


@pytest.mark.parametrize(
    ("operator", "caches", "own_rows"),
    [
        ("mla_prolog_quant", ("kv_cache", "kr_cache", "k_scale_cache"), False),
        ("lightning_indexer_prolog_quant", ("k_cache", "k_cache_scale"), False),
        ("sparse_flash_attention_quant", ("key_nope_2d", "key_rope_2d", "k_nope_scales"), True),
        ("lightning_indexer_quant", ("k_cache", "k_cache_scale"), True),
    ],
)
def test_poison(operator: str, caches: tuple[str, ...], own_rows: bool) -> None:
    """Before a prolog, this call's rows are poisoned too; attention and indexer find them filled."""
    case = small(operator, b=2, s1=2, kv_lens=[200, 5])
    filled = np.zeros(case.paging.block_num * 128, bool)
    filled[case.paging.occupied_rows()] = True
    if not own_rows:
        filled[case.paging.cache_index.reshape(-1)] = False
    for name in caches:
        flat = case.inputs[name].reshape(filled.size, -1)
        poison = cases.POISON[flat.dtype.type]
        unsigned = np.dtype(f"u{flat.dtype.itemsize}")
        poisoned = (flat.view(unsigned) == np.asarray(poison).view(unsigned)).all(axis=1)
        np.testing.assert_array_equal(poisoned, ~filled)
        values = golden.bf16_to_float32(flat) if flat.dtype == np.uint16 else flat
        assert np.isfinite(values[filled].astype(np.float32)).all()


def test_topk_rows() -> None:
    paging = cases.make_paging(2, 2, [40, 3])
    indices = cases.random_topk(np.random.default_rng(0), paging, 16, tail=77)
    for row, visible in zip(indices, paging.visible(), strict=True):
        n = min(int(visible), 16)
        assert np.unique(row[:n]).size == n
        assert ((row[:n] >= 0) & (row[:n] < visible)).all()
        assert (row[n:] == 77).all()
    holey = cases.random_topk(np.random.default_rng(0), paging, 16, holes=0.5)
    assert 0 < (holey[0] == -1).sum() < 16


def test_weights_are_made_once_and_cannot_be_changed() -> None:
    assert cases.mla_weights(2) is cases.mla_weights(2)
    assert small("mla_prolog_quant").inputs["w_dq"] is cases.mla_weights(2)["w_dq"]
    with pytest.raises(ValueError, match="read-only"):
        cases.mla_weights(2)["w_dq"][0, 0] = 0


def test_fused_inputs_are_those_of_the_halves() -> None:
    fused = small("mla_indexer_prolog_quant", b=1, s1=2, seed=4)
    mla = small("mla_prolog_quant", b=1, s1=2, seed=4)
    indexer = small("lightning_indexer_prolog_quant", b=1, s1=2, seed=4)
    for name in ("token_x", "cos", "sin", "cache_index"):
        tolerance.assert_same_bits(name, fused.inputs[name], mla.inputs[name])
    tolerance.assert_same_bits("mla_kv_cache", fused.inputs["mla_kv_cache"], mla.inputs["kv_cache"])
    tolerance.assert_same_bits("ip_k_cache", fused.inputs["ip_k_cache"], indexer.inputs["k_cache"])


def test_changes() -> None:
    case = small("lightning_indexer_quant")
    weights = np.zeros_like(case.inputs["weights"])
    assert case.copy(weights=weights).inputs["weights"] is weights
    assert list(case.copy(weights=weights).inputs) == list(case.inputs)
    with pytest.raises(KeyError, match="has no input"):
        case.copy(wieghts=weights)
    changed: Any = case.with_attributes(selected_count=3)
    assert changed.attributes == {"selected_count": 3}
    assert case.attributes == {"selected_count": 16}


def test_a_check_names_the_operator_and_the_output() -> None:
    case = cases.mla_prolog_case(2, 2, 2)
    want = case.golden()
    case.check(want)
    wrong = {**want, "query_rope_out": np.full_like(want["query_rope_out"], 0x4080)}  # 4
    with pytest.raises(
        AssertionError, match=r"mla_prolog_quant: query_rope_out: \d+ of 512 values .* largest difference"
    ):
        case.check(wrong, want)
    with pytest.raises(AssertionError, match="mla_prolog_quant: q_norm_out: missing"):
        case.check({}, want)
    split = {**want, "query_rope_out": want["query_rope_out"].reshape(2, 2, 2, 64)}
    with pytest.raises(AssertionError, match="mla_prolog_quant: query_rope_out: shape"):
        case.check(split, want)


@pytest.mark.parametrize("operator", op_info.names())
def test_a_check_of_some_tokens_looks_at_no_other(operator: str) -> None:
    case = small(operator, b=2, s1=2)
    want = case.golden()
    tokens = np.array([True, False, True, True])
    for token in range(4):
        got = {name: array.copy() for name, array in want.items()}
        index = case.paging.cache_index.reshape(-1)
        for name, array in got.items():
            in_place = name in cases.IN_PLACE[operator].values()
            row = array.reshape(-1, array.shape[-1])[index[token]] if in_place else array.reshape(4, -1)[token]
            row[...] = row[::-1] + 9 if name != "topk_indices" else 0
        if tokens[token]:
            with pytest.raises(AssertionError, match=f"{operator}: "):
                case.check(got, want, tokens=tokens)
        else:
            case.check(got, want, tokens=tokens)
    if cases.IN_PLACE[operator]:
        output = next(iter(cases.IN_PLACE[operator].values()))
        got = {**want, output: want[output].copy()}
        other = np.setdiff1d(np.arange(case.paging.block_num * 128), index)[0]
        got[output].reshape(-1, got[output].shape[-1])[other] = 7
        with pytest.raises(AssertionError, match="rows not written"):
            case.check(got, want, tokens=tokens)
