// The CPU kernel of lightning_indexer_prolog_quant: its arguments, shared by all instruction sets.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_LIGHTNING_INDEXER_PROLOG_QUANT_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_LIGHTNING_INDEXER_PROLOG_QUANT_H_

#include <stdint.h>

namespace ms_dsv32::cpu {

// bf16 and fp16 are uint16_t. Pointers need the alignment of their element only. The caches are updated in place;
// nothing else may overlap. k_cache_index entries are rows of the caches or -1; the caller has checked them.
struct LightningIndexerPrologQuantParams {
  int64_t t;
  bool packed;  // w_qb, wk and w_proj are in the layout of pack.h; else row-major. The hadamard matrices are always
                // row-major.

  const uint16_t* x;             // bf16 [t, h]
  const int8_t* q_norm;          // [t, q_lora_rank]
  const float* q_norm_scale;     // [t]
  const int8_t* w_qb;            // [q_lora_rank, idx_n_heads * idx_head_dim]
  const float* w_qb_scale;       // [idx_n_heads * idx_head_dim]
  const uint16_t* wk;            // bf16 [h, idx_head_dim]
  const uint16_t* w_proj;        // bf16 [h, idx_n_heads]
  const uint16_t* ln_gamma_k;    // bf16 [idx_head_dim]
  const uint16_t* ln_beta_k;     // bf16 [idx_head_dim]
  const uint16_t* cos_idx_rope;  // bf16 [t, rope_dim]
  const uint16_t* sin_idx_rope;  // bf16 [t, rope_dim]
  const uint16_t* hadamard_q;    // bf16 [idx_head_dim, idx_head_dim]
  const uint16_t* hadamard_k;    // bf16 [idx_head_dim, idx_head_dim]
  const int64_t* k_cache_index;  // [t]
  float layernorm_epsilon_k;

  int8_t* k_cache;          // [rows, idx_head_dim]
  uint16_t* k_cache_scale;  // fp16 [rows]

  int8_t* q_int8;     // [t, idx_n_heads, idx_head_dim]
  uint16_t* q_scale;  // fp16 [t, idx_n_heads]
  uint16_t* weights;  // fp16 [t, idx_n_heads]
};

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_LIGHTNING_INDEXER_PROLOG_QUANT_H_
