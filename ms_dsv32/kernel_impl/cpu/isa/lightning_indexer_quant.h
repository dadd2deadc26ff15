// The lightning indexer: scores of all visible keys of each token, and the positions of the largest.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_LIGHTNING_INDEXER_QUANT_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_LIGHTNING_INDEXER_QUANT_H_

#include <stdint.h>

#include "ms_dsv32/kernel_impl/contract/query_token.h"

namespace ms_dsv32::cpu {

// Row-major buffers. idx_n_heads = 64, idx_head_dim = 128, block_size = 128. fp16 as bit patterns. Every block_table
// entry behind a visible position is valid; the others are not read. Tokens of one sequence stand together, and the
// last of them sees most.
struct LightningIndexerQuantParams {
  const int8_t* q_int8;           // [t, 64, 128]
  const uint16_t* q_scale;        // fp16 [t, 64]
  const uint16_t* weights;        // fp16 [t, 64]
  const int8_t* k_cache;          // [block_num, 128, 128]
  const uint16_t* k_cache_scale;  // fp16 [block_num, 128]
  const int32_t* block_table;     // [sequences, max_blocknum_perbatch]
  const QueryToken* tokens;       // [t]
  int32_t* topk_indices;          // [t, selected_count]: ascending positions, then -1
  int64_t t;
  int64_t selected_count;
  int64_t max_blocknum_perbatch;
};

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_LIGHTNING_INDEXER_QUANT_H_
