// Which rows of the cache a token of sparse attention reads.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_TOKEN_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_TOKEN_H_

#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/contract/generated/sparse_flash_attention_quant_params.h"
#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

// The number of entries that are read of the token's row of topk_indices. Each is -1, which is skipped, or a position
// whose block is in the cache.
MS_DSV32_INLINE int64_t Entries(const SparseFlashAttentionQuantParams& p, int64_t token) {
  return Min<int64_t>(p.tokens[token].visible, p.selected_count);
}

// Writes the cache rows of the token's valid entries, at most Entries(p, token), and returns how many there are.
inline int64_t SelectRows(const SparseFlashAttentionQuantParams& p, int64_t token, int64_t* rows) {
  using op_info::kBlockSize;
  const int32_t* block_table = p.block_table + p.tokens[token].sequence * p.max_blocknum_perbatch;
  const int32_t* positions = p.topk_indices + token * p.selected_count;
  const int64_t entries = Entries(p, token);
  int64_t count = 0;
  for (int64_t i = 0; i < entries; ++i) {
    if (positions[i] < 0) continue;
    const auto position = static_cast<uint32_t>(positions[i]);
    rows[count++] = block_table[position / kBlockSize] * int64_t{kBlockSize} + position % kBlockSize;
  }
  return count;
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_TOKEN_H_
