"""The operators as functions on MindSpore tensors: in PyNative mode, in graph mode and under ``mindspore.jit``.

Tensors are positional, in the contract's order, and attributes are keywords. Caches are updated in place.

`merge_attention` is not an operator of the contract. It is made of MindSpore's own operators, and runs wherever they
do.
"""

from ms_dsv32.ops.lightning_indexer_prolog_quant import lightning_indexer_prolog_quant
from ms_dsv32.ops.lightning_indexer_quant import lightning_indexer_quant
from ms_dsv32.ops.merge_attention import merge_attention
from ms_dsv32.ops.mla_epilog_quant import mla_epilog_quant
from ms_dsv32.ops.mla_indexer_prolog_quant import mla_indexer_prolog_quant
from ms_dsv32.ops.mla_prolog_quant import mla_prolog_quant
from ms_dsv32.ops.sparse_flash_attention_quant import sparse_flash_attention_quant

__all__ = [
    "lightning_indexer_prolog_quant",
    "lightning_indexer_quant",
    "merge_attention",
    "mla_epilog_quant",
    "mla_indexer_prolog_quant",
    "mla_prolog_quant",
    "sparse_flash_attention_quant",
]
