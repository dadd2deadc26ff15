// Sparse attention of each token over its selected keys in the int8 latent paged cache.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_SPARSE_FLASH_ATTENTION_QUANT_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_SPARSE_FLASH_ATTENTION_QUANT_H_

#include <stdint.h>

#include "ms_dsv32/kernel_impl/contract/query_token.h"

namespace ms_dsv32::cpu {

// Row-major buffers. kv_lora_rank = 512, rope_dim = 64, block_size = 128, 4 scale groups of 128. bf16 as bit patterns.
// The first min(visible, selected_count) entries of a token's row of topk_indices are read. Each is -1 (skipped) or a
// position whose block_table entry is valid.
struct SparseFlashAttentionQuantParams {
  const uint16_t* query_nope;   // bf16 [t, n_q, 512]
  const uint16_t* query_rope;   // bf16 [t, n_q, 64]
  const int8_t* key_nope_2d;    // [block_num * 128, 512]
  const uint16_t* key_rope_2d;  // bf16 [block_num * 128, 64]
  const float* k_nope_scales;   // [block_num * 128, 4]
  const int32_t* topk_indices;  // [t, selected_count]
  const int32_t* block_table;   // [sequences, max_blocknum_perbatch]
  const QueryToken* tokens;     // [t]
  uint16_t* attention_out;      // bf16 [t, n_q, 512]
  float* lse;                   // [t, n_q]
  int64_t t;
  int64_t n_q;
  int64_t selected_count;
  int64_t max_blocknum_perbatch;
  float softmax_scale;
};

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_SPARSE_FLASH_ATTENTION_QUANT_H_
