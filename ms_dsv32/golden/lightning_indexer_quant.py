"""Golden reference of `lightning_indexer_quant`."""

from __future__ import annotations

import numpy as np

from ms_dsv32.golden.checks import Checker
from ms_dsv32.golden.numerics import Array, Float16, Float32, Int8, Int32

OPERATOR = "lightning_indexer_quant"

IDX_N_HEADS = 64
IDX_HEAD_DIM = 128
# Keys that are scored at a time: 64 heads x 4096 keys are 2 MiB in float64.
_KEYS = 4096


def lightning_indexer_scores(
    q_int8: Int8,
    q_scale: Float16,
    weights: Float16,
    k_cache: Int8,
    k_cache_scale: Float16,
    block_table: Int32,
    kv_act_seqs: Int32,
    query_act_seqs: Int32 | None = None,
) -> list[Float32]:
    """The scores that `lightning_indexer_quant` ranks: for each token a float32 array over its visible positions.

    Padding sees none. Arguments and errors are those of `lightning_indexer_quant`. Tests compare selections by these
    scores.
    """
    checker = Checker(OPERATOR)
    head_count = ("idx_n_heads", IDX_N_HEADS)
    head_dim = ("idx_head_dim", IDX_HEAD_DIM)
    q8 = checker.tokens("q_int8", q_int8, np.int8, [head_count, head_dim])
    t = q8.shape[0]
    qs = checker.tokens("q_scale", q_scale, np.float16, [head_count, ("1", 1)], t)[:, :, 0]
    w = checker.tokens("weights", weights, np.float16, [head_count], t)
    checker.array("k_cache", k_cache, np.int8, [("block_num", None), ("block_size", None), ("n_kv", 1), head_dim])
    block_num, block_size = k_cache.shape[:2]
    blocks = [("block_num", block_num), ("block_size", block_size), ("n_kv", 1), ("1", 1)]
    checker.array("k_cache_scale", k_cache_scale, np.float16, blocks)
    tokens = checker.sequences(kv_act_seqs, query_act_seqs, t)
    b = kv_act_seqs.shape[0]
    checker.array("block_table", block_table, np.int32, [("b", b), ("max_blocknum_perbatch", None)])
    checker.capacity(kv_act_seqs, block_table, block_size)
    k_rows = k_cache.reshape(-1, IDX_HEAD_DIM)
    scale_rows = k_cache_scale.reshape(-1)

    # (1) the cache rows of every sequence that has tokens, from the block table
    members: list[list[int]] = [[] for _ in range(b)]
    for i, (sequence, _) in enumerate(tokens):
        members[sequence].append(i)
    lengths = [int(kv_act_seqs[n]) if members[n] else 0 for n in range(b)]
    rows = [checker.rows(block_table, n, np.arange(lengths[n]), block_size, block_num) for n in range(b)]

    # (2) one factor for each token and head
    factor = qs.astype(np.float32) * w.astype(np.float32)

    scores = [np.zeros(visible, np.float32) for _, visible in tokens]
    scores += [np.zeros(0, np.float32)] * (t - len(tokens))
    for sequence in range(b):
        for p0 in range(0, lengths[sequence], _KEYS):
            row = rows[sequence][p0 : p0 + _KEYS]
            k = k_rows[row].astype(np.float32).T
            k_scale = scale_rows[row].astype(np.float32)
            for i in members[sequence]:
                n = min(scores[i].size - p0, row.size)
                if n <= 0:
                    continue
                with np.errstate(invalid="ignore", over="ignore"):
                    # (3) relu of the int8 products. |dot| <= 128 * 2^14 = 2^21, so every partial sum is exact in
                    # float32.
                    dot = np.maximum(q8[i].astype(np.float32) @ k[:, :n], np.float32(0.0))

                    # (4) weighted sum over the heads in float64, rounded to float32 once, then times the key's scale.
                    # Heads are added in the same order for every key, so that equal keys get equal scores: np.sum would
                    # add the heads of a lone key in pairs.
                    total = np.zeros(n, np.float64)
                    for head in factor[i].astype(np.float64)[:, None] * dot:
                        total += head
                    scores[i][p0 : p0 + n] = total.astype(np.float32) * k_scale[:n]
    return scores


def select_topk(scores: Array, selected_count: int) -> Int32:
    """Positions of the `selected_count` largest of `scores` (1-D), ascending, then -1 up to `selected_count`.

    Among equal scores the smaller position wins; 0.0 and -0.0 are equal. NaN ranks with -inf, below finite scores.
    """
    out = np.full(selected_count, -1, np.int32)
    count = min(scores.size, selected_count)
    if count == scores.size:
        out[:count] = np.arange(count, dtype=np.int32)
        return out
    if count == 0:
        return out
    ranked = np.where(np.isnan(scores), np.float32(-np.inf), scores)
    kth = np.partition(ranked, ranked.size - count)[ranked.size - count]
    above = np.flatnonzero(ranked > kth)
    ties = np.flatnonzero(ranked == kth)[: count - above.size]
    out[:count] = np.sort(np.concatenate([above, ties]))
    return out


def lightning_indexer_quant(
    q_int8: Int8,
    q_scale: Float16,
    weights: Float16,
    k_cache: Int8,
    k_cache_scale: Float16,
    block_table: Int32,
    kv_act_seqs: Int32,
    query_act_seqs: Int32 | None = None,
    *,
    selected_count: int = 2048,
) -> Int32:
    """Scores every visible key of every token and selects the best.

    ``score[i, p] = k_scale[p] * sum_n (q_scale[i, n] * weights[i, n]) * relu(q_int8[i, n] . k_int8[p])`` for
    ``p < visible = max(kv_act_seqs[b] - s1 + 1 + j, 0)``, where token i has offset j in sequence b, and s1 = t / b.
    With query_act_seqs the sequence's entry replaces s1.

    Args:
        q_int8: int8 [t, 64, 128] or [b, s1, 64, 128]. q_scale: fp16 [t, 64, 1] or [b, s1, 64, 1]. weights: fp16 [t, 64]
            or [b, s1, 64].
        k_cache: int8 [block_num, block_size, 1, 128]. k_cache_scale: fp16 [block_num, block_size, 1, 1].
        block_table: int32 [b, max_blocknum_perbatch], unused entries -1. kv_act_seqs: int32 [b], keys of each sequence.
        query_act_seqs: int32 [b], query tokens of each sequence, which follow those of the sequence before it. Tokens
            beyond the sum are padding. The token axis is merged then.
        selected_count: positions to select for each token.

    Returns:
        topk_indices int32 [t, selected_count]: the selected positions ascending, then -1. Among equal scores the
        smaller position wins. A NaN score ranks below every finite one. Padding has -1 only.

    Raises:
        TypeError, ValueError: wrong dtype, shape or attribute; kv_act_seqs outside [0, max_blocknum_perbatch *
            block_size]; a negative query_act_seqs entry, or a sum above t; a block_table entry outside the cache for a
            position of a sequence that has tokens.
    """
    if selected_count < 1:
        raise ValueError(f"{OPERATOR}: selected_count must be at least 1, got {selected_count}")
    scores = lightning_indexer_scores(
        q_int8, q_scale, weights, k_cache, k_cache_scale, block_table, kv_act_seqs, query_act_seqs
    )

    # (5) the largest scores of each token
    topk_indices = np.full((len(scores), selected_count), -1, np.int32)
    for i, score in enumerate(scores):
        topk_indices[i] = select_topk(score, selected_count)
    return topk_indices
