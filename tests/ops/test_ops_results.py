"""Through MindSpore the operators compute, bit for bit, what the bare kernels do, in every mode and at every size.

The bare kernels are compared with the golden reference in ``tests/kernels``; here one case of each operator is.
"""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
import tolerance
from calls import MODES, arrays, bare, run, tensors
from cases import PARTS, PROLOGS, READERS, WITH_WEIGHTS, make

from ms_dsv32 import op_info, ops, weights
from ms_dsv32.config import ModelConfig


@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize("operator", op_info.names())
def test_golden(operator: str, mode_name: str) -> None:
    case = make(operator, 2, 2, [131, 257])
    case.check(run(case, mode_name))


@pytest.mark.parametrize("operator", op_info.names())
def test_the_example_of_the_contract_is_golden(operator: str) -> None:
    case = make(operator, 2, 2, [131, 257])
    if operator == "sparse_flash_attention_quant":
        case = case.with_attributes(softmax_scale=ModelConfig().softmax_scale)
    names: dict[str, Any] = dict(tensors(case))
    exec("\n".join(op_info.load(operator).example), names)
    case.check(arrays(case.outputs, [names[name] for name in case.outputs]))


# b, s1, n_q: no token, one, few, many; s1 1..4; heads of a whole model and of a part of it.
TOKENS = [(0, 1, 16), (1, 1, 128), (3, 1, 16), (1, 4, 1), (127, 1, 1), (128, 1, 16), (43, 3, 1)]
MANY_TOKENS = [(128, 4, 1), (1, 1024, 1)]  # the largest decode step, and a chunk of a prompt


@pytest.mark.parametrize(
    ("operator", "b", "s1", "n_q"),
    [
        *((o, *size) for o in WITH_WEIGHTS for size in TOKENS),
        *((o, *size) for o in WITH_WEIGHTS if o not in PARTS for size in MANY_TOKENS),
    ],
)
def test_prologs_and_epilog_at_all_sizes(operator: str, b: int, s1: int, n_q: int) -> None:
    case = make(operator, b, s1, s1 + 3, n_q=n_q)  # short sequences: the caches of 128 long ones are large
    want = bare(case)
    for mode_name in ("pynative", "graph"):
        tolerance.assert_same_outputs(run(case, mode_name), want)


@pytest.mark.parametrize(
    ("b", "s1", "kv", "n_q"),
    [
        (0, 1, None, 16),
        (1, 1, 1, 128),
        (2, 2, [127, 128], 16),
        (3, 1, [129, 2047, 2048], 1),
        (2, 4, [2049, 4096], 128),
        (4, 3, [2, 3, 4, 130], 16),
        (1, 1024, 1152, 1),
    ],
)
@pytest.mark.parametrize("operator", READERS)
def test_attention_and_indexer_at_all_sizes(operator: str, b: int, s1: int, kv: Any, n_q: int) -> None:
    case = make(operator, b, s1, kv, n_q)
    want = bare(case)
    for mode_name in ("pynative", "graph"):
        tolerance.assert_same_outputs(run(case, mode_name), want)


@pytest.mark.slow
@pytest.mark.parametrize("operator", READERS)
def test_attention_and_indexer_over_128k_keys(operator: str) -> None:
    case = make(operator, 1, 2, 131072, 4, shuffle=False)
    want = bare(case)
    for mode_name in ("pynative", "graph"):
        tolerance.assert_same_outputs(run(case, mode_name), want)


@pytest.mark.parametrize("operator", op_info.names())
def test_a_split_token_axis(operator: str) -> None:
    want = bare(make(operator, 2, 3))
    case = make(operator, 2, 3, split=True)
    for mode_name in MODES:
        tolerance.assert_same_outputs(run(case, mode_name), want)


PACKABLE = ("w_dq", "w_uq_qr", "w_uk", "w_dkv_kr", "w_qb", "wk", "w_proj", "w_uv", "w_o")
"""The weights that may be packed, stated once more beside the contract."""


@pytest.mark.parametrize("operator", WITH_WEIGHTS)
def test_packed_weights_give_the_same_bits(operator: str) -> None:
    case = make(operator, 2, 1)
    changed = {n: weights.pack(array) for n, array in case.inputs.items() if cases.weight_name(n) in PACKABLE}
    assert set(changed) == set(op_info.load(operator).packable)
    packed = case.copy(**changed).with_attributes(weight_format="PACKED")
    for mode_name in ("pynative", "graph"):
        tolerance.assert_same_outputs(run(packed, mode_name), bare(case))


def test_lse() -> None:
    case = cases.with_lse(make("sparse_flash_attention_quant", 2, 2, [1, 140]))  # a row without a visible key
    want = bare(case)
    assert np.isneginf(want["lse"][0, 0]).all()
    for mode_name in MODES:
        tolerance.assert_same_outputs(run(case, mode_name), want)


@pytest.mark.parametrize("operator", PROLOGS)
def test_the_caches_that_come_back_are_those_that_were_passed(operator: str) -> None:
    case = make(operator, 1, 1)
    inputs = tensors(case)
    results = dict(zip(case.outputs, getattr(ops, operator)(*inputs.values()), strict=True))
    for cache, output in cases.IN_PLACE[operator].items():
        assert results[output] is inputs[cache]


@pytest.mark.parametrize("mode_name", MODES)
def test_subnormals_count_in_every_mode(mode_name: str) -> None:
    """The threads on which MindSpore runs graphs flush subnormals to zero; the kernels must not."""
    case = make("lightning_indexer_quant", 1, 1, 200, selected_count=16)
    tiny = np.full_like(case.inputs["weights"], np.float16(2.0**-24))
    case = case.copy(weights=tiny)
    want = bare(case)
    assert (want["topk_indices"] != np.arange(16)).any()  # what weights of zero would give
    tolerance.assert_same_outputs(run(case, mode_name), want)


def test_a_prompt_in_chunks_is_the_prompt() -> None:
    whole = make("mla_indexer_prolog_quant", 1, 150, 150, n_q=1)
    want = bare(whole)
    inputs = tensors(whole)
    names = list(inputs)
    pieces: dict[str, list[Any]] = {}
    for start, stop in ((0, 1), (1, 129), (129, 150)):
        part = dict(inputs)
        for name in ("token_x", "cos", "sin", "cache_index"):
            part[name] = weights.to_tensor(whole.inputs[name][start:stop])
        for name, result in zip(whole.outputs, ops.mla_indexer_prolog_quant(*(part[n] for n in names)), strict=True):
            pieces.setdefault(name, []).append(weights.to_array(result).copy())
    caches = cases.IN_PLACE["mla_indexer_prolog_quant"].values()
    for name, parts in pieces.items():
        tolerance.assert_same_bits(name, parts[-1] if name in caches else np.concatenate(parts), want[name])


@pytest.mark.parametrize("operator", READERS)
def test_tokens_of_a_sequence_one_by_one(operator: str) -> None:
    whole = make(operator, 2, 4, [70, 300], n_q=3)
    want = bare(whole)
    queries = [name for name, array in whole.inputs.items() if array.shape[0] in (8, 24)]
    assert len(queries) == 3
    for token in range(4):
        part = dict(whole.inputs)
        for name in queries:
            array = whole.inputs[name]
            part[name] = np.ascontiguousarray(array.reshape(2, 4, -1)[:, token]).reshape(-1, *array.shape[1:])
        part["kv_act_seqs"] = (whole.inputs["kv_act_seqs"] - 3 + token).astype(np.int32)
        results = getattr(ops, operator)(*map(weights.to_tensor, part.values()), **whole.attributes)
        got = weights.to_array(results).reshape(2, -1)
        name = whole.outputs[0]
        tolerance.assert_same_bits(name, got, np.ascontiguousarray(want[name].reshape(2, 4, -1)[:, token]))


def test_padding_nan_and_equal_rows() -> None:
    case = make("mla_prolog_quant", 4, 1, n_q=1)
    index = case.inputs["cache_index"].copy()
    token_x = case.inputs["token_x"].copy()
    clean = bare(case)
    index[1] = -1  # padding
    token_x[2] = 0x7FC0  # NaN
    index[3] = index[0]  # the later token wins
    hard = case.copy(cache_index=index, token_x=token_x)
    want = bare(hard)
    for mode_name in MODES:
        tolerance.assert_same_outputs(run(hard, mode_name), want)
    for name in ("q_norm_out", "query_nope_out", "query_rope_out"):
        rows = [0, 1, 3]
        tolerance.assert_same_bits(name, want[name][rows], clean[name][rows])
    flat = {n: want[n].reshape(-1, want[n].shape[-1]) for n in ("kv_cache_out", "kr_cache_out")}
    was = {n: clean[n].reshape(-1, clean[n].shape[-1]) for n in flat}
    own = case.inputs["cache_index"]
    for name in flat:
        tolerance.assert_same_bits(name, flat[name][own[0]], was[name][own[3]])
    untouched = case.inputs["kv_cache"].reshape(-1, 512)[own[1]]
    tolerance.assert_same_bits("padding row", flat["kv_cache_out"][own[1]], untouched)
