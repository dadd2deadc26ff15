"""Checks a whole step for the cells before its first operator writes a cache. It is not an operator of the contract.

On Ascend nothing is checked, because the host would have to wait for the device.
"""

from __future__ import annotations

from typing import Any

from mindspore import Tensor

from ms_dsv32.ops._custom import Operator, device_target


def _no_gradient(  # type: ignore[no-untyped-def]
    cache_index, k_cache, block_table, kv_act_seqs, query_act_seqs, out, dout
):
    raise NotImplementedError("sparse_attention_step: inference only, there is no gradient")


class _Check(Operator):
    """An `Operator` that returns nothing on Ascend."""

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        return () if device_target() == "Ascend" else super().__call__(*args)

    def __infer__(self, *args: dict[str, Any]) -> dict[str, Any]:
        if device_target() == "Ascend":
            return {"shape": None, "dtype": None, "value": ()}
        return super().__infer__(*args)

    def _owner(self, argument: str) -> str:
        return "mla_indexer_prolog_quant" if argument == "cache_index" else "lightning_indexer_quant"


_check = _Check("sparse_attention_step", _no_gradient)


def check_step(
    cache_index: Tensor,
    k_cache: Tensor,
    block_table: Tensor,
    kv_act_seqs: Tensor,
    query_act_seqs: Tensor | None,
    max_blocknum_perbatch: int | None,
) -> None:
    """Checks the slots, lengths and tables of a step. All operators of a graph run in program order, and so does this.

    Args:
        cache_index: int64 [t] or [b, s1], see `mla_indexer_prolog_quant`.
        k_cache: int8 [block_num, 128, 1, 128], block_table: int32 [b, max_blocknum_perbatch], kv_act_seqs: int32 [b],
            query_act_seqs: int32 [b] or None, see `lightning_indexer_quant`.
        max_blocknum_perbatch: see `sparse_flash_attention_quant`.

    Raises:
        TypeError, ValueError, RuntimeError: as those operators, with their texts.
    """
    tensors = (cache_index, k_cache, block_table, kv_act_seqs, query_act_seqs)
    given = tensors if query_act_seqs is not None else tensors[:-1]
    check = _check(max_blocknum_perbatch, *tensors)
    if len(check) > 0:
        kernel, constants = check
        kernel(*given, *constants)
