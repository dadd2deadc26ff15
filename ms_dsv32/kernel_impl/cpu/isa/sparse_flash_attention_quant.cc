#include "ms_dsv32/kernel_impl/contract/generated/sparse_flash_attention_quant_params.h"
#include "ms_dsv32/kernel_impl/cpu/isa/attention_token.h"
#if MS_DSV32_IS_AVX512_BF16
#include "ms_dsv32/kernel_impl/cpu/isa/attention_heads.h"
#else
#include "ms_dsv32/kernel_impl/cpu/isa/attention_strips.h"
#endif

namespace ms_dsv32::cpu::MS_DSV32_ISA {

void SparseFlashAttentionQuant(const SparseFlashAttentionQuantParams& p) {
  if (p.t == 0) return;
  int64_t max_keys = 0;
  for (int64_t i = 0; i < p.t; ++i) max_keys = Max(max_keys, Entries(p, i));
#if MS_DSV32_IS_AVX512_BF16
  AttentionByHeads(p, max_keys);
#else
  AttentionByStrips(p, max_keys);
#endif
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA
