"""Compares results with the golden reference, so that no contender is timed on wrong work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import cases
import numpy as np
import tolerance
from cases import Case

from benchmarks.shapes import ATTENTION, INDEXER, STEP, Array, Shape
from ms_dsv32 import golden, op_info

PER_TOKEN = {"token_x", "x", "q_norm", "q_norm_scale", "cos", "sin", "cos_idx_rope", "sin_idx_rope", "attention_out"}
CACHE_INDEX = {"cache_index", "k_cache_index"}


def sample(t: int, count: int = 3) -> list[int]:
    """Tokens to compare: the first, the last and some between."""
    return sorted({round(i * (t - 1) / (count - 1)) for i in range(count)})


def forget(case: Case) -> None:
    """Poisons the cache rows that the case writes, so that a contender that does not write them is found out."""
    rows = case.paging.cache_index.reshape(-1)
    for name in cases.IN_PLACE[case.operator]:
        cache = case.inputs[name]
        cache.reshape(-1, cache.shape[-1])[rows] = cases.POISON[cache.dtype.type]


def check(shape: Shape, case: Case, got: Mapping[str, Array], tokens: Sequence[int]) -> None:
    """Compares the outputs `got` of a contender at some tokens. A token's outputs do not depend on other tokens.

    Args:
        got: outputs by the contract's names, [t, ...], and whole caches. For the step, those of its three operators.

    Raises:
        AssertionError: an output differs by more than the contract's tolerances.
    """
    tokens = list(tokens)
    if shape.op not in (INDEXER, ATTENTION):
        check_projection(case, got, tokens)
    if shape.op == INDEXER:
        indexer_check(case, case.inputs, tokens)(got["topk_indices"][tokens])
    elif shape.op == ATTENTION:
        attention_check(case, case.inputs, tokens)(_rows(case, got["attention_out"])[tokens])
    elif shape.op == STEP:
        # The indexer and the attention are compared on the outputs of the contender's own earlier stages.
        indexer = {n: got[f"ip_{n}_out"] for n in ("q_int8", "q_scale", "weights")}
        indexer |= {"k_cache": got["ip_k_int8_out"], "k_cache_scale": got["ip_k_scale_out"]}
        indexer_check(case, indexer, tokens)(got["topk_indices"][tokens])
        attention = {n: got[f"mla_{n}_out"] for n in ("query_nope", "query_rope")} | {
            "topk_indices": got["topk_indices"]
        }
        keys = {"key_nope_2d": "kv_cache", "key_rope_2d": "kr_cache", "k_nope_scales": "k_scale_cache"}
        attention |= {n: got[f"mla_{cache}_out"] for n, cache in keys.items()}
        attention_check(case, attention, tokens)(_rows(case, got["attention_out"])[tokens])


def _rows(case: Case, value: Array) -> Array:
    """A value as [t, heads, channels]. It may have axes for sequences and their tokens."""
    return value.reshape(case.paging.t, -1, value.shape[-1])


def check_projection(case: Case, got: Mapping[str, Array], tokens: Sequence[int]) -> None:
    """Compares all outputs of a prolog or of the epilog at some tokens, as `check` does."""
    tokens = list(tokens)
    in_place = cases.IN_PLACE[case.operator]
    inputs = {}
    for name, value in case.inputs.items():
        if name in PER_TOKEN:
            inputs[name] = value[tokens]
        elif name in CACHE_INDEX:
            inputs[name] = np.arange(len(tokens))
        elif name in in_place:
            inputs[name] = np.zeros((1, *value.shape[1:]), value.dtype)
        else:
            inputs[name] = value
    rows = case.paging.cache_index.reshape(-1)[tokens]
    caches = set(in_place.values())
    for name, want in replace(case, inputs=inputs).golden().items():
        value = got[name]
        value = value.reshape(-1, value.shape[-1])[rows] if name in caches else value[tokens]
        want = want.reshape(-1, want.shape[-1])[: len(tokens)] if name in caches else want
        tolerance.assert_close_output(name, value, want)


def _paging(case: Case, tokens: list[int]) -> dict[str, Array]:
    """Each token as a sequence of its own, with the keys that it sees."""
    paging = case.paging
    return {
        "block_table": paging.block_table[[i // paging.s1 for i in tokens]],
        "kv_act_seqs": paging.visible()[tokens].astype(np.int32),
    }


def indexer_check(case: Case, inputs: Mapping[str, Array], tokens: Sequence[int]) -> Callable[[Array], None]:
    """A function that compares rows of topk_indices, int32 [len(tokens), selected_count], with golden's.

    Args:
        inputs: inputs of the indexer, without block_table and kv_act_seqs, which `case` has.
    """
    tokens = list(tokens)
    some = {n: inputs[n][tokens] for n in ("q_int8", "q_scale", "weights")}
    some |= {n: inputs[n] for n in ("k_cache", "k_cache_scale")} | _paging(case, tokens)
    inputs = {arg.name: some[arg.name] for arg in op_info.load(INDEXER).required_inputs}
    scores, magnitudes = cases.indexer_scores(replace(case, operator=INDEXER, inputs=inputs))

    def compare(got: Array) -> None:
        want = np.stack([golden.select_topk(score, got.shape[1]) for score in scores])
        tolerance.assert_topk(got, want, scores, magnitudes)

    return compare


def attention_check(case: Case, inputs: Mapping[str, Array], tokens: Sequence[int]) -> Callable[[Array], None]:
    """A function that compares rows of attention_out, bfloat16 [len(tokens), n_q, 512], with golden's.

    Args:
        inputs: inputs of the attention, without block_table and kv_act_seqs, which `case` has.
    """
    tokens = list(tokens)
    keys = ("key_nope_2d", "key_rope_2d", "k_nope_scales")
    topk = inputs["topk_indices"]
    want = golden.sparse_flash_attention_quant(
        *(_rows(case, inputs[n])[tokens] for n in ("query_nope", "query_rope")),
        *(inputs[n].reshape(-1, inputs[n].shape[-1]) for n in keys),
        topk_indices=topk[tokens],
        **_paging(case, tokens),
        nq=case.n_q,
        n_kv=1,
        softmax_scale=golden.softmax_scale(),
        topk=topk.shape[1],
        block_size=case.paging.block_size,
        max_blocknum_perbatch=case.paging.block_table.shape[1],
    )[:, 0]
    return lambda got: tolerance.assert_close_output("attention_out", got, want)
