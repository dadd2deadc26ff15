"""The lightning indexer: selects the keys that each token attends to."""

from __future__ import annotations

from mindspore import Tensor

from ms_dsv32.config import SELECTED_COUNT
from ms_dsv32.ops._custom import Operator


def _no_gradient(  # type: ignore[no-untyped-def]
    q_int8, q_scale, weights, k_cache, k_cache_scale, block_table, kv_act_seqs, query_act_seqs, out, dout
):
    raise NotImplementedError("lightning_indexer_quant: inference only, there is no gradient")


_operator = Operator("lightning_indexer_quant", _no_gradient)


def lightning_indexer_quant(
    q_int8: Tensor,
    q_scale: Tensor,
    weights: Tensor,
    k_cache: Tensor,
    k_cache_scale: Tensor,
    block_table: Tensor,
    kv_act_seqs: Tensor,
    query_act_seqs: Tensor | None = None,
    *,
    selected_count: int = SELECTED_COUNT,
) -> Tensor:
    """Scores all visible keys of each token and returns the positions of the largest.

    Source: PyPTO, ``models/deepseek_v32_exp``, ``lightning_indexer_decode_compute``. The steps are in
    ``ms_dsv32.golden.lightning_indexer_quant``. Inference only.

    Args:
        q_int8: int8 [t, 64, 128] or [b, s1, 64, 128]. q_scale: fp16, the same with 1. weights: fp16 [t, 64] or
            [b, s1, 64]. All as `lightning_indexer_prolog_quant` returns them.
        k_cache: int8 [block_num, 128, 1, 128]. k_cache_scale: fp16 [block_num, 128, 1, 1].
        block_table: int32 [b, max_blocknum_perbatch]; unused entries -1.
        kv_act_seqs: int32 [b], keys of each sequence, this call's tokens included. Token j of s1 sees the first
            ``max(kv_act_seqs[b] - s1 + 1 + j, 0)``.
        query_act_seqs: int32 [b], or None. The query tokens of each sequence in this call, 0 included, if sequences
            differ. It then replaces s1, and the tokens of a sequence follow those of the sequence before it. The token
            axis is merged. Tokens beyond the sum are padding, which reads nothing.
        selected_count: how many to select, 1..2048.

    Returns:
        topk_indices int32 [t, selected_count]: positions in the sequence, valid ones first, then -1. Among equal scores
        the smaller position wins. Padding has no valid ones.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or attribute, a kv_act_seqs entry outside
            [0, max_blocknum_perbatch * 128], a query_act_seqs entry that is negative or more than t together, or a
            block_table entry outside the cache for a visible position. In a compiled graph a wrong value raises
            RuntimeError with the same text.
    """
    tensors = (q_int8, q_scale, weights, k_cache, k_cache_scale, block_table, kv_act_seqs, query_act_seqs)
    kernel, constants = _operator(selected_count, *tensors)
    given = tensors if query_act_seqs is not None else tensors[:-1]
    return kernel(*given, *constants)
