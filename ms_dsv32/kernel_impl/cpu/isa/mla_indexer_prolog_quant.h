// The CPU kernel of mla_indexer_prolog_quant: its arguments, shared by all instruction sets.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_MLA_INDEXER_PROLOG_QUANT_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_MLA_INDEXER_PROLOG_QUANT_H_

#include "ms_dsv32/kernel_impl/cpu/isa/lightning_indexer_prolog_quant.h"
#include "ms_dsv32/kernel_impl/cpu/isa/mla_prolog_quant.h"

namespace ms_dsv32::cpu {

// The two operators' own arguments. What they share is read from `mla`: t, packed, token_x, cos, sin and cache_index.
// The latent query is an intermediate result here, so that `mla.q_norm`, `mla.q_norm_scale` and these members of
// `indexer` are ignored and may be left unset: t, packed, x, q_norm, q_norm_scale, cos_idx_rope, sin_idx_rope,
// k_cache_index.
struct MlaIndexerPrologQuantParams {
  MlaPrologQuantParams mla;
  LightningIndexerPrologQuantParams indexer;
};

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_MLA_INDEXER_PROLOG_QUANT_H_
