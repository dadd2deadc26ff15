"""Golden reference of `sparse_flash_attention_quant`."""

from __future__ import annotations

import numpy as np

from ms_dsv32.golden.checks import Checker
from ms_dsv32.golden.numerics import (
    Array,
    Bf16,
    Float32,
    Int8,
    Int32,
    bf16_to_float32,
    float32_to_bf16,
    one_nan,
    round_bf16,
)

OPERATOR = "sparse_flash_attention_quant"


def _merge_query(checker: Checker, name: str, query: Array, n_q: int, dim: tuple[str, int]) -> Array:
    """[t * n_q, d], [t, n_q, d] or [b, s1, n_q, d] as [t, n_q, d]."""
    if isinstance(query, np.ndarray) and query.ndim > 2:
        return checker.tokens(name, query, np.uint16, [("n_q", n_q), dim])
    checker.array(name, query, np.uint16, [("t * n_q", None), dim])
    if query.shape[0] % n_q:
        raise ValueError(f"{checker.label(name)} has {query.shape[0]} rows, expected t * n_q with n_q = {n_q}")
    return query.reshape(query.shape[0] // n_q, n_q, dim[1])


def _merge_cache(
    checker: Checker,
    name: str,
    cache: Array,
    dtype: type[np.generic],
    n_kv: int,
    block_size: int,
    dim: tuple[str, int],
    rows: int | None = None,
) -> Array:
    """[block_num * block_size, d] or [block_num, block_size, n_kv, d] as rows."""
    if isinstance(cache, np.ndarray) and cache.ndim == 4:
        checker.array(name, cache, dtype, [("block_num", None), ("block_size", block_size), ("n_kv", n_kv), dim])
        cache = cache.reshape(-1, dim[1])
    checker.array(name, cache, dtype, [("block_num * block_size", rows), dim])
    if cache.shape[0] % block_size:
        raise ValueError(
            f"{checker.label(name)} has {cache.shape[0]} rows, expected a multiple of block_size = {block_size}"
        )
    return cache


def sparse_flash_attention_quant(
    query_nope: Bf16,
    query_rope: Bf16,
    key_nope_2d: Int8,
    key_rope_2d: Bf16,
    k_nope_scales: Float32,
    topk_indices: Int32,
    block_table: Int32,
    kv_act_seqs: Int32,
    query_act_seqs: Int32 | None = None,
    *,
    nq: int,
    n_kv: int,
    softmax_scale: float,
    topk: int,
    block_size: int,
    max_blocknum_perbatch: int | None = None,
    tile_config: object = None,
    return_lse: bool = False,
) -> Bf16 | tuple[Bf16, Float32]:
    """Attention of each token over the keys that topk_indices selects from the quantised paged latent cache.

    bf16 means bit patterns in uint16. b comes from kv_act_seqs, and s1 = t / b. With query_act_seqs the sequence's
    entry replaces s1.

    Args:
        query_nope: bf16 [t * nq, 512], [t, nq, 512] or [b, s1, nq, 512]. query_rope: the same with 64.
        key_nope_2d: int8 [block_num * block_size, 512] or [block_num, block_size, n_kv, 512]. key_rope_2d: bf16 [..,
            64].
        k_nope_scales: fp32 [.., 4], one scale for each 128 of a key.
        topk_indices: int32 [t, n_kv * topk] or [b, s1, n_kv * topk]; positions in the sequence. For token i, at offset
            j of sequence b, the first min(visible, topk) are read, visible = max(kv_act_seqs[b] - s1 + 1 + j, 0). -1
            among them is skipped.
        block_table: int32 [b, max_blocknum_perbatch], unused entries -1. kv_act_seqs: int32 [b], keys of each sequence.
        query_act_seqs: int32 [b], query tokens of each sequence, which follow those of the sequence before it. Tokens
            beyond the sum are padding. The token axis is merged then.
        nq: query heads, 1..128. n_kv: 1. softmax_scale: factor on the scores. topk: entries of a topk_indices row.
        block_size: tokens of a cache block. max_blocknum_perbatch: columns of block_table, or None.
        tile_config: accepted, and without effect on results.
        return_lse: also return the natural-log log-sum-exp of the scaled scores.

    Returns:
        attention_out bf16 [b, s1, nq, 512]; with return_lse also lse fp32 [b, s1, nq]. With query_act_seqs: [t, nq,
        512] and [t, nq]. A row without a valid entry, and padding, give zeros and lse -inf.

    Raises:
        TypeError, ValueError: wrong dtype, shape or attribute; kv_act_seqs outside [0, max_blocknum_perbatch *
            block_size]; a negative query_act_seqs entry, or a sum above t; a topk_indices entry that is read and is
            < -1 or >= kv_act_seqs[b]; a block_table entry outside the cache for one that is read.
    """
    checker = Checker(OPERATOR)
    if not 1 <= nq <= 128:
        raise ValueError(f"{OPERATOR}: nq must be n_q in [1, 128], got {nq}")
    if n_kv != 1:
        raise ValueError(f"{OPERATOR}: n_kv must be 1, got {n_kv}")
    if topk < 1:
        raise ValueError(f"{OPERATOR}: topk must be at least 1, got {topk}")
    if block_size < 1:
        raise ValueError(f"{OPERATOR}: block_size must be at least 1, got {block_size}")
    q_nope = _merge_query(checker, "query_nope", query_nope, nq, ("kv_lora_rank", 512))
    t = q_nope.shape[0]
    q_rope = _merge_query(checker, "query_rope", query_rope, nq, ("rope_dim", 64))
    if q_rope.shape[0] != t:
        raise ValueError(f"{OPERATOR}: query_rope has {q_rope.shape[0]} tokens, expected t = {t}, as query_nope")
    k8_rows = _merge_cache(checker, "key_nope_2d", key_nope_2d, np.int8, n_kv, block_size, ("kv_lora_rank", 512))
    rows = k8_rows.shape[0]
    kr_rows = _merge_cache(checker, "key_rope_2d", key_rope_2d, np.uint16, n_kv, block_size, ("rope_dim", 64), rows)
    scale_rows = _merge_cache(checker, "k_nope_scales", k_nope_scales, np.float32, n_kv, block_size, ("4", 4), rows)
    indices = checker.tokens("topk_indices", topk_indices, np.int32, [("n_kv * topk", n_kv * topk)], t)
    tokens = checker.sequences(kv_act_seqs, query_act_seqs, t)
    b = kv_act_seqs.shape[0]
    checker.array("block_table", block_table, np.int32, [("b", b), ("max_blocknum_perbatch", max_blocknum_perbatch)])
    checker.capacity(kv_act_seqs, block_table, block_size)

    # (1) the valid entries of every token and their cache rows. Everything is checked before anything is computed.
    selected: list[Array] = []
    for i, (sequence, visible) in enumerate(tokens):
        length = int(kv_act_seqs[sequence])
        entries = indices[i, : min(visible, topk)]
        bad = np.flatnonzero((entries < -1) | (entries >= length))
        if bad.size:
            raise ValueError(
                f"{OPERATOR}: topk_indices[{i}, {bad[0]}] = {entries[bad[0]]} is outside "
                f"[0, kv_act_seqs[{sequence}]) = [0, {length}) and is not -1"
            )
        positions = entries[entries >= 0]
        selected.append(checker.rows(block_table, sequence, positions, block_size, rows // block_size))

    attention_out = np.zeros((t, nq, 512), np.uint16)
    lse = np.full((t, nq), -np.inf, np.float32)
    for i, cache_row in enumerate(selected):
        if cache_row.size == 0:
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            # (2) gather the keys and dequantise by groups of 128, rounded to bf16
            k8 = k8_rows[cache_row].astype(np.float32).reshape(-1, 4, 128)
            k8 *= scale_rows[cache_row][:, :, None]
            k = round_bf16(k8).reshape(-1, 512)

            # (3) scores in float32: nope and rope parts together, then the scale
            query = np.concatenate([bf16_to_float32(q_nope[i]), bf16_to_float32(q_rope[i])], axis=-1)
            key = np.concatenate([k, bf16_to_float32(kr_rows[cache_row])], axis=-1)
            score = query @ key.T
            score *= np.float32(softmax_scale)

            # (4) softmax over the valid entries, normalised in float32, then rounded to bf16
            top = np.max(score, axis=-1, keepdims=True)
            p = np.exp(score - top)
            total = np.sum(p, axis=-1, keepdims=True)
            p = round_bf16(p / total)

            # (5) weighted sum of the dequantised keys in float32, rounded to bf16
            attention_out[i] = float32_to_bf16(p @ k)
            lse[i] = one_nan(top + np.log(total))[:, 0]
    if query_act_seqs is None:
        b, s1 = checker.lengths(kv_act_seqs, t)
        attention_out, lse = attention_out.reshape(b, s1, nq, 512), lse.reshape(b, s1, nq)
    return (attention_out, lse) if return_lse else attention_out
