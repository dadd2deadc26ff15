"""The cells on Ascend: each has the bits of its operator, and a step of all the bits of the operators in a row."""

from __future__ import annotations

from typing import Any

import cases
import mindspore as ms
import pytest
import tolerance
from calls import MODES, mode, tensor
from mindspore import Parameter, Tensor
from runs import inputs_of, prepared, run
from test_cells import CACHES, FUSED_EPSILONS, SCALE, WIDTHS, Sequences, layer_weights

from ms_dsv32 import cells, ops, weights


def call(cell: Any, mode_name: str, *inputs: Tensor) -> tuple[Tensor, ...]:
    with mode(mode_name):
        results = (ms.jit(cell) if mode_name == "jit" else cell)(*inputs)
    return results if isinstance(results, tuple) else (results,)


def mla_prolog() -> tuple[Any, cases.Case, tuple[str, ...]]:
    cell = cells.MLAProlog(3, epsilon_cq=0.5, epsilon_ckv=0.25)
    cell.set_weights(cases.mla_weights(3))
    case = cases.mla_prolog_case(2, 2, 3, [5, 130]).with_attributes(epsilon_cq=0.5, epsilon_ckv=0.25)
    return cell, case, ("q_norm_out", "q_norm_scale_out", "query_nope_out", "query_rope_out")


def indexer_prolog() -> tuple[Any, cases.Case, tuple[str, ...]]:
    cell = cells.LightningIndexerProlog(layernorm_epsilon_k=0.5)
    cell.set_weights(cases.indexer_weights())
    case = cases.indexer_prolog_case(2, 2, [5, 130]).with_attributes(layernorm_epsilon_k=0.5)
    return cell, case, ("q_int8_out", "q_scale_out", "weights_out")


def fused_prolog() -> tuple[Any, cases.Case, tuple[str, ...]]:
    cell = cells.MLAIndexerProlog(3, epsilon_cq=0.5, layernorm_epsilon_k=0.25)
    cell.set_weights(layer_weights(3))
    case = cases.fused_prolog_case(2, 2, 3, [5, 130]).with_attributes(mla_epsilon_cq=0.5, ip_attrs=cell.ip_attrs)
    outputs = ("mla_query_nope_out", "mla_query_rope_out", "ip_q_int8_out", "ip_q_scale_out", "ip_weights_out")
    return cell, case, outputs


def indexer() -> tuple[Any, cases.Case, tuple[str, ...]]:
    case = cases.indexer_case(2, 2, [5, 130], selected_count=64)
    return cells.LightningIndexer(64), case, ("topk_indices",)


def attention() -> tuple[Any, cases.Case, tuple[str, ...]]:
    case = cases.with_lse(cases.attention_case(2, 2, 3, [5, 130], topk=64))
    columns, scale = case.paging.block_table.shape[1], case.attributes["softmax_scale"]
    cell = cells.SparseFlashAttention(columns, 3, softmax_scale=scale, topk=64, return_lse=True)
    return cell, case, ("attention_out", "lse")


@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize("make", [mla_prolog, indexer_prolog, fused_prolog, indexer, attention])
def test_a_cell_is_its_operator(make: Any, mode_name: str) -> None:
    cell, case, outputs = make()
    want = run(case, "pynative")
    given = inputs_of(case)
    held = {p.name.split(".")[-1] for p in cell.get_parameters()}
    own = [n for n in given if n.removeprefix("mla_").removeprefix("ip_").removesuffix("_in") not in held]
    for name, result in zip(outputs, call(cell, mode_name, *(given[n] for n in own)), strict=True):
        tolerance.assert_same_bits(name, weights.to_array(result), want[name])
    for cache, output in cases.IN_PLACE[case.operator].items():
        tolerance.assert_same_bits(cache, weights.to_array(given[cache]), want[output])


def caches_of(sequences: Sequences) -> list[Tensor]:
    return [weights.to_tensor(a.copy()).to("Ascend") for a in sequences.caches]


def operators_in_a_row(n_q: int, inputs: list[Any], caches: list[Tensor]) -> Any:
    """attention_out of one step by the functions, in PyNative mode; updates the caches."""
    token_x, cos, sin, index, block_table, lengths = (weights.to_tensor(a) for a in inputs)
    mla, ip = (
        [tensor(prepared(name, n_q)) for name in names] for names in (weights.MLA_WEIGHTS, weights.INDEXER_WEIGHTS)
    )
    q_nope, q_rope, _, _, _, q_int8, q_scale, _, _, head_weights = ops.mla_indexer_prolog_quant(
        token_x, *mla, cos, sin, index, *caches[:3], *ip, *caches[3:], weight_format="PACKED", **FUSED_EPSILONS
    )  # fmt: skip
    topk_indices = ops.lightning_indexer_quant(q_int8, q_scale, head_weights, *caches[3:], block_table, lengths)
    attention_out = ops.sparse_flash_attention_quant(
        q_nope, q_rope, *caches[:3], topk_indices, block_table, lengths,
        nq=n_q, n_kv=1, softmax_scale=SCALE, topk=2048, block_size=128, max_blocknum_perbatch=block_table.shape[1],
    )  # fmt: skip
    return weights.to_array(attention_out)


@pytest.mark.parametrize(
    ("mode_name", "parameters"),
    [
        ("pynative", False),
        pytest.param("graph", False, marks=pytest.mark.cpu_kernels),
        pytest.param("jit", False, marks=pytest.mark.cpu_kernels),
        ("dynamic", False),
        pytest.param("graph", True, marks=pytest.mark.cpu_kernels),
    ],
)
def test_steps_have_the_bits_of_the_operators_in_a_row(mode_name: str, parameters: bool) -> None:
    """Chunks of a prompt, then decoding, over a block boundary; "dynamic" is one graph for all numbers of tokens."""
    step = cells.SparseAttentionStep(3, 4, softmax_scale=SCALE)
    step.prolog.set_weights(layer_weights(4))
    sequences = Sequences(2, 4, 6, seed=1)
    caches, reference = caches_of(sequences), caches_of(sequences)
    if parameters:
        caches = [Parameter(c, name=n, requires_grad=False) for n, c in zip(CACHES, caches, strict=True)]
    if mode_name == "dynamic":
        step.set_dynamic_tokens(6)
    run_step = ms.jit(step) if mode_name == "jit" else step
    for s1 in (100, 28, 2, 2):
        inputs = sequences.advance(s1)
        want = operators_in_a_row(4, inputs, reference)
        with mode("graph" if mode_name == "dynamic" else mode_name):
            got = run_step(*map(weights.to_tensor, inputs), *caches)
        tolerance.assert_same_bits(f"attention_out at {sequences.lengths}", weights.to_array(got), want)
    for name, cache, other in zip(CACHES, caches, reference, strict=True):
        tolerance.assert_same_bits(name, weights.to_array(cache), weights.to_array(other))


@pytest.mark.cpu_kernels
def test_the_whole_models_heads() -> None:
    """Chunks of more tokens than the 128 that the prologs take at a time, which end in the middle of a block and at the
    end of one; then decoding."""
    step = cells.SparseAttentionStep(32, softmax_scale=SCALE)
    step.prolog.set_weights(layer_weights(128))
    sequences = Sequences(2, 128, 64, columns=32)
    caches, reference = caches_of(sequences), caches_of(sequences)
    assert len(caches) == len(WIDTHS)
    with mode("graph"):
        for s1 in (130, 126, 4, 1):
            inputs = sequences.advance(s1)
            got = weights.to_array(step(*map(weights.to_tensor, inputs), *caches))
            with mode("pynative"):
                want = operators_in_a_row(128, inputs, reference)
            tolerance.assert_same_bits(f"attention_out at {sequences.lengths}", got, want)
