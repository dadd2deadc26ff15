// Sparse attention of each token over its selected keys in the int8 latent paged cache.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_SPARSE_FLASH_ATTENTION_QUANT_H_
#define MS_DSV32_KERNEL_IMPL_CPU_SPARSE_FLASH_ATTENTION_QUANT_H_

#include <stdint.h>

namespace ms_dsv32::cpu {

// Row-major buffers. kv_lora_rank = 512, rope_dim = 64, block_size = 128, 4 scale groups of 128. bf16 as bit patterns.
// Token i is token i % s1 of sequence i / s1; of its row of topk_indices the first min(max(kv_act_seqs[i / s1] - s1 + 1
// + i % s1, 0), selected_count) entries are read. Each is -1 (skipped) or a position whose block_table entry is valid.
struct SparseFlashAttentionQuantParams {
  const uint16_t* query_nope;   // bf16 [b * s1, n_q, 512]
  const uint16_t* query_rope;   // bf16 [b * s1, n_q, 64]
  const int8_t* key_nope_2d;    // [block_num * 128, 512]
  const uint16_t* key_rope_2d;  // bf16 [block_num * 128, 64]
  const float* k_nope_scales;   // [block_num * 128, 4]
  const int32_t* topk_indices;  // [b * s1, selected_count]
  const int32_t* block_table;   // [b, max_blocknum_perbatch]
  const int32_t* kv_act_seqs;   // [b]
  uint16_t* attention_out;      // bf16 [b * s1, n_q, 512]
  float* lse;                   // [b * s1, n_q]
  int64_t b;
  int64_t s1;
  int64_t n_q;
  int64_t selected_count;
  int64_t max_blocknum_perbatch;
  float softmax_scale;
};

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_SPARSE_FLASH_ATTENTION_QUANT_H_
