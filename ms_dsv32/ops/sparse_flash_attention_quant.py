"""Attention over the selected keys of a quantised paged cache."""

from __future__ import annotations

from mindspore import Tensor

from ms_dsv32.config import SaTileShapeConfig
from ms_dsv32.ops._custom import Operator


def _no_gradient(  # type: ignore[no-untyped-def]
    query_nope,
    query_rope,
    key_nope_2d,
    key_rope_2d,
    k_nope_scales,
    topk_indices,
    block_table,
    kv_act_seqs,
    query_act_seqs,
    out,
    dout,
):
    raise NotImplementedError("sparse_flash_attention_quant: inference only, there is no gradient")


_operator = Operator("sparse_flash_attention_quant", _no_gradient)


def sparse_flash_attention_quant(
    query_nope: Tensor,
    query_rope: Tensor,
    key_nope_2d: Tensor,
    key_rope_2d: Tensor,
    k_nope_scales: Tensor,
    topk_indices: Tensor,
    block_table: Tensor,
    kv_act_seqs: Tensor,
    query_act_seqs: Tensor | None = None,
    *,
    nq: int,
    n_kv: int,
    softmax_scale: float,
    topk: int,
    block_size: int,
    max_blocknum_perbatch: int | None = None,
    tile_config: SaTileShapeConfig | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Absorbed attention of each token over the keys that the indexer selected. The values are the latent keys.

    Source: PyPTO, ``models/deepseek_v32_exp``, ``sparse_flash_attention_quant_compute``. The steps are in
    ``ms_dsv32.golden.sparse_flash_attention_quant``. Inference only.

    Args:
        query_nope: bf16 [t * nq, 512], [t, nq, 512] or [b, s1, nq, 512]. query_rope: bf16, the same with 64.
        key_nope_2d: int8 [block_num * 128, 512] or as kv_cache [block_num, 128, 1, 512]. key_rope_2d: bf16, the same
            with 64. k_nope_scales: fp32, the same with 4. They are the caches of `mla_prolog_quant`, without a copy.
        topk_indices: int32 [t, topk] or [b, s1, topk]: positions in the sequence. Entries of -1 are skipped. Entries
            beyond the keys that a token sees are not read.
        block_table: int32 [b, max_blocknum_perbatch]; unused entries -1.
        kv_act_seqs: int32 [b], keys of each sequence, this call's tokens included. Token j of s1 sees the first
            ``max(kv_act_seqs[b] - s1 + 1 + j, 0)``.
        query_act_seqs: int32 [b], or None. The query tokens of each sequence in this call, 0 included, if sequences
            differ. It then replaces s1, and the tokens of a sequence follow those of the sequence before it. The token
            axis is merged. Tokens beyond the sum are padding, which reads nothing.
        nq: query heads, 1..128. n_kv: 1. softmax_scale: factor on the scores, see `ms_dsv32.config.SOFTMAX_SCALE`.
        topk: columns of topk_indices, 1..2048. block_size: 128. max_blocknum_perbatch: columns of block_table, or None.
        tile_config: the source's tile sizes. They have no effect: every target chooses its own.
        return_lse: also return the log-sum-exp.

    Returns:
        attention_out bf16 [b, s1, nq, 512]; with return_lse also lse fp32 [b, s1, nq], the natural-log log-sum-exp of
        the scaled scores. With query_act_seqs: [t, nq, 512] and [t, nq]. A token without a valid entry, and padding,
        give zeros and an lse of -inf.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or attribute, a kv_act_seqs entry outside
            [0, max_blocknum_perbatch * 128], a query_act_seqs entry that is negative or more than t together, a
            topk_indices entry outside its sequence, or a block_table entry outside the cache for a selected position.
            In a compiled graph a wrong value raises RuntimeError with the same text.
    """
    tensors = (
        query_nope,
        query_rope,
        key_nope_2d,
        key_rope_2d,
        k_nope_scales,
        topk_indices,
        block_table,
        kv_act_seqs,
        query_act_seqs,
    )
    attrs = (nq, n_kv, softmax_scale, topk, block_size, max_blocknum_perbatch, tile_config, return_lse)
    kernel, constants = _operator(*attrs, *tensors)
    given = tensors if query_act_seqs is not None else tensors[:-1]
    attention_out, lse = kernel(*given, *constants)
    if return_lse:
        return attention_out, lse
    return attention_out
