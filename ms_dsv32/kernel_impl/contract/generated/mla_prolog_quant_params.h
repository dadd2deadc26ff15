// Generated from op_info/mla_prolog_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include <stdint.h>

namespace ms_dsv32 {

// The arguments of a checked call. Pointers need the alignment of their element alone.
// What is not const is written, and overlaps nothing else.
struct MlaPrologQuantParams {
  int64_t t;
  int64_t n_q;
  bool packed;  // w_dq, w_uq_qr, w_uk, w_dkv_kr: in the layout of pack.h, else row-major
  const uint16_t* token_x;  // bf16 [t, h]
  const uint16_t* w_dq;  // bf16 [h, q_lora_rank]
  const int8_t* w_uq_qr;  // [q_lora_rank, n_q * q_head_dim]
  const float* dequant_scale;  // [n_q * q_head_dim, 1]
  const uint16_t* w_uk;  // bf16 [n_q, qk_nope_head_dim, kv_lora_rank]
  const uint16_t* w_dkv_kr;  // bf16 [h, kv_lora_rank + rope_dim]
  const uint16_t* gamma_cq;  // bf16 [q_lora_rank]
  const uint16_t* gamma_ckv;  // bf16 [kv_lora_rank]
  const uint16_t* cos;  // bf16 [t, rope_dim]
  const uint16_t* sin;  // bf16 [t, rope_dim]
  const int64_t* cache_index;  // [t]
  int8_t* kv_cache;  // [block_num, block_size, n_kv, kv_lora_rank]
  uint16_t* kr_cache;  // bf16 [block_num, block_size, n_kv, rope_dim]
  float* k_scale_cache;  // [block_num, block_size, n_kv, k_scale_groups]
  float epsilon_cq;
  float epsilon_ckv;
  int8_t* q_norm;  // [t, q_lora_rank]
  float* q_norm_scale;  // [t, 1]
  uint16_t* q_nope;  // bf16 [t, n_q, kv_lora_rank]
  uint16_t* q_rope;  // bf16 [t, n_q, rope_dim]
};

}  // namespace ms_dsv32
