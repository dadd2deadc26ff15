// The CPU kernel of mla_prolog_quant: its arguments, shared by all instruction sets.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_MLA_PROLOG_QUANT_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_MLA_PROLOG_QUANT_H_

#include <stdint.h>

namespace ms_dsv32::cpu {

// bf16 is uint16_t. Pointers need the alignment of their element only. The caches are updated in place; nothing else
// may overlap. cache_index entries are rows of the caches or -1; the caller has checked them.
struct MlaPrologQuantParams {
  int64_t t;
  int64_t n_q;
  bool packed;  // w_dq, w_uq_qr, w_uk and w_dkv_kr are in the layout of pack.h; else row-major

  const uint16_t* token_x;     // [t, h]
  const uint16_t* w_dq;        // [h, q_lora_rank]
  const int8_t* w_uq_qr;       // [q_lora_rank, n_q * q_head_dim]
  const float* dequant_scale;  // [n_q * q_head_dim]
  const uint16_t* w_uk;        // [n_q, qk_nope_head_dim, kv_lora_rank]
  const uint16_t* w_dkv_kr;    // [h, kv_lora_rank + rope_dim]
  const uint16_t* gamma_cq;    // [q_lora_rank]
  const uint16_t* gamma_ckv;   // [kv_lora_rank]
  const uint16_t* cos;         // [t, rope_dim]
  const uint16_t* sin;         // [t, rope_dim]
  const int64_t* cache_index;  // [t]
  float epsilon_cq;
  float epsilon_ckv;

  int8_t* kv_cache;      // [rows, kv_lora_rank]
  uint16_t* kr_cache;    // [rows, rope_dim]
  float* k_scale_cache;  // [rows, k_scale_groups]

  int8_t* q_norm;       // [t, q_lora_rank]
  float* q_norm_scale;  // [t]
  uint16_t* q_nope;     // [t, n_q, kv_lora_rank]
  uint16_t* q_rope;     // [t, n_q, rope_dim]
};

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_MLA_PROLOG_QUANT_H_
