"""A step of all operators on Ascend has the bits of the operators in a row."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import pytest
import tolerance
from calls import mode, tensor
from mindspore import Parameter, Tensor
from runs import caches_of, prepared
from sequences import CACHES, FUSED_EPSILONS, SCALE, WIDTHS, Sequences, step_weights

from ms_dsv32 import cells, ops, weights


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
    step.prolog.set_weights(step_weights(4))
    sequences = Sequences(2, 4, 6, seed=1)
    caches, reference = caches_of(sequences.caches), caches_of(sequences.caches)
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
    step.prolog.set_weights(step_weights(128))
    sequences = Sequences(2, 128, 64, columns=32)
    caches, reference = caches_of(sequences.caches), caches_of(sequences.caches)
    assert len(caches) == len(WIDTHS)
    with mode("graph"):
        for s1 in (130, 126, 4, 1):
            inputs = sequences.advance(s1)
            got = weights.to_array(step(*map(weights.to_tensor, inputs), *caches))
            with mode("pynative"):
                want = operators_in_a_row(128, inputs, reference)
            tolerance.assert_same_bits(f"attention_out at {sequences.lengths}", got, want)
