// Generated from op_info/lightning_indexer_prolog_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include <stdint.h>

namespace ms_dsv32 {

// The arguments of a checked call. Pointers need the alignment of their element alone.
// What is not const is written, and overlaps nothing else.
struct LightningIndexerPrologQuantParams {
  int64_t t;
  bool packed;  // w_qb, wk, w_proj: in the layout of pack.h, else row-major
  const uint16_t* x;  // bf16 [t, h]
  const int8_t* q_norm;  // [t, q_lora_rank]
  const float* q_norm_scale;  // [t, 1]
  const int8_t* w_qb;  // [q_lora_rank, idx_n_heads * idx_head_dim]
  const float* w_qb_scale;  // [idx_n_heads * idx_head_dim, 1]
  const uint16_t* wk;  // bf16 [h, idx_head_dim]
  const uint16_t* w_proj;  // bf16 [h, idx_n_heads]
  const uint16_t* ln_gamma_k;  // bf16 [idx_head_dim]
  const uint16_t* ln_beta_k;  // bf16 [idx_head_dim]
  const uint16_t* cos_idx_rope;  // bf16 [t, rope_dim]
  const uint16_t* sin_idx_rope;  // bf16 [t, rope_dim]
  const uint16_t* hadamard_q;  // bf16 [idx_head_dim, idx_head_dim]
  const uint16_t* hadamard_k;  // bf16 [idx_head_dim, idx_head_dim]
  int8_t* k_cache;  // [block_num, block_size, n_kv, idx_head_dim]
  uint16_t* k_cache_scale;  // fp16 [block_num, block_size, n_kv, 1]
  const int64_t* k_cache_index;  // [t]
  float layernorm_epsilon_k;
  int8_t* q_int8;  // [t, idx_n_heads, idx_head_dim]
  uint16_t* q_scale;  // fp16 [t, idx_n_heads, 1]
  uint16_t* weights;  // fp16 [t, idx_n_heads]
};

}  // namespace ms_dsv32
