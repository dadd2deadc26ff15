// Generated from op_info/mla_epilog_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include <stdint.h>

namespace ms_dsv32 {

// The arguments of a checked call. Pointers need the alignment of their element alone.
// What is not const is written, and overlaps nothing else.
struct MlaEpilogQuantParams {
  int64_t t;
  int64_t n_q;
  bool packed;  // w_uv, w_o: in the layout of pack.h, else row-major
  const uint16_t* attention_out;  // bf16 [t, n_q, kv_lora_rank]
  const uint16_t* w_uv;  // bf16 [n_q, kv_lora_rank, v_head_dim]
  const int8_t* w_o;  // [n_q * v_head_dim, h]
  const float* w_o_scale;  // [h, 1]
  uint16_t* hidden;  // bf16 [t, h]
};

}  // namespace ms_dsv32
