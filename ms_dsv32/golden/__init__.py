"""Golden reference: the operators in NumPy, for reading and for comparison.

It imports only NumPy, `ms_dsv32.paging` and `ms_dsv32.rope`.

bfloat16 arrays are bit patterns in ``numpy.uint16``. Each operator is a function of its contract's inputs, in order,
with the attributes as keywords. The steps are numbered, and the kernels repeat the numbers.
"""

from ms_dsv32.golden.lightning_indexer_prolog_quant import lightning_indexer_prolog_quant
from ms_dsv32.golden.lightning_indexer_quant import lightning_indexer_quant, lightning_indexer_scores, select_topk
from ms_dsv32.golden.merge_attention import merge_attention
from ms_dsv32.golden.mla_epilog_quant import mla_epilog_quant
from ms_dsv32.golden.mla_indexer_prolog_quant import mla_indexer_prolog_quant
from ms_dsv32.golden.mla_prolog_quant import mla_prolog_quant
from ms_dsv32.golden.numerics import (
    bf16_to_float32,
    float32_to_bf16,
    layer_norm,
    matmul_bf16,
    matmul_int8,
    quantise,
    rms_norm,
    rope_half_split,
    rope_interleaved,
    round_bf16,
    round_fp16,
)
from ms_dsv32.golden.sparse_flash_attention_quant import sparse_flash_attention_quant
from ms_dsv32.golden.weights import (
    fused_weights,
    hadamard_matrix,
    make_epilog_weights,
    make_indexer_weights,
    make_mla_weights,
    make_weights,
    quantise_weight,
    rope_frequencies,
    rope_tables,
    softmax_scale,
)
from ms_dsv32.paging import (
    BLOCK_SIZE,
    block_num_of,
    blocks_of,
    cache_index_of,
    make_block_table,
    read_sequence,
    rows_of,
    token_positions,
    write_sequence,
)

__all__ = [
    "BLOCK_SIZE",
    "bf16_to_float32",
    "block_num_of",
    "blocks_of",
    "cache_index_of",
    "float32_to_bf16",
    "fused_weights",
    "hadamard_matrix",
    "layer_norm",
    "lightning_indexer_prolog_quant",
    "lightning_indexer_quant",
    "lightning_indexer_scores",
    "make_block_table",
    "make_epilog_weights",
    "make_indexer_weights",
    "make_mla_weights",
    "make_weights",
    "matmul_bf16",
    "matmul_int8",
    "merge_attention",
    "mla_epilog_quant",
    "mla_indexer_prolog_quant",
    "mla_prolog_quant",
    "quantise",
    "quantise_weight",
    "read_sequence",
    "rms_norm",
    "rope_frequencies",
    "rope_half_split",
    "rope_interleaved",
    "rope_tables",
    "round_bf16",
    "round_fp16",
    "rows_of",
    "select_topk",
    "softmax_scale",
    "sparse_flash_attention_quant",
    "token_positions",
    "write_sequence",
]
