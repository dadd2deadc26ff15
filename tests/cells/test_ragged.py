"""Prompts in chunks and decoding together, in one call of the step and of the layer."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from calls import MODES, mode
from layers import HEADS, epilog_of, make_layer
from sequences import CACHES, Sequences, make_step, same, tensors

from ms_dsv32 import weights

TOKENS = 12
MIXES = ([7, 1, 1], [1, 0, 9], [1, 1, 1], [0, 0, 0], [1, 11, 0], [130, 1, 1])


def mixed(seed: int = 5) -> Sequences:
    return Sequences(3, HEADS, 7, seed=seed)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("how", MODES)
def test_a_layer_of_mixed_sequences(how: str, dtype: type) -> None:
    layer = make_layer(return_lse=True)
    sequences = mixed()
    caches = tensors(*sequences.caches)
    call: Any = ms.jit(layer) if how == "jit" else layer
    for counts in MIXES[:3]:
        inputs = sequences.advance_each(list(counts), TOKENS)
        want = epilog_of(sequences.bare(inputs))
        last = weights.to_tensor(inputs[-1].astype(dtype))
        with mode(how):
            hidden_out, lse = call(*tensors(*inputs[:-1]), *caches, last)
        same("hidden_out", hidden_out, want)
        assert lse.shape == (TOKENS, HEADS)
        assert np.isneginf(lse.asnumpy()).all(axis=1).tolist() == [i >= sum(counts) for i in range(TOKENS)]
        assert not np.any(weights.to_array(hidden_out)[sum(counts) :])
    for name, cache, rows in zip(CACHES, caches, sequences.caches, strict=True):
        same(name, cache, rows)


def test_one_graph_serves_prompts_beside_decoding() -> None:
    """Fixed t and b: nothing is compiled again, whatever the mix."""
    step = make_step()
    sequences = mixed()
    caches = tensors(*sequences.caches)
    with mode("graph"):
        for counts in MIXES[:-1]:
            inputs = sequences.advance_each(list(counts), TOKENS)
            want = sequences.bare(inputs)
            same(f"attention_out of {counts}", step(*tensors(*inputs[:-1]), *caches, *tensors(inputs[-1])), want)
    assert len(step.compile_cache) == 1


def test_one_graph_serves_any_number_of_tokens_and_sequences() -> None:
    layer = make_layer()
    layer.set_dynamic_tokens(7, ragged=True)
    for b, mixes in ((3, ([7, 1, 1], [130, 1, 1])), (1, ([5], [0]))):
        sequences = Sequences(b, HEADS, 7, seed=b)
        caches = tensors(*sequences.caches)
        for counts in mixes:
            inputs = sequences.advance_each(counts, sum(counts) + 2)
            want = epilog_of(sequences.bare(inputs))
            with mode("graph"):
                got = layer(*tensors(*inputs[:-1]), *caches, *tensors(inputs[-1]))
            same("hidden_out", got, want)
    assert len(layer.compile_cache) == 1


def test_the_bits_are_those_of_sequences_on_their_own() -> None:
    step = make_step()
    together, alone = mixed(), [Sequences(1, HEADS, 3, seed=n) for n in range(3)]
    caches = tensors(*together.caches)
    each = [tensors(*one.caches) for one in alone]
    for counts in MIXES[:3]:
        inputs = together.advance_each(list(counts), TOKENS)
        got = step(*tensors(*inputs[:-1]), *caches, *tensors(inputs[-1]))
        start = 0
        for one, own, count in zip(alone, each, counts, strict=True):
            own_inputs = one.advance(count)
            own_inputs[0] = inputs[0][start : start + count]
            if count:
                part = step(*tensors(*own_inputs), *own)
                rows = weights.to_array(got)[start : start + count]
                same("attention_out", part, rows.reshape(1, *rows.shape))
            start += count
