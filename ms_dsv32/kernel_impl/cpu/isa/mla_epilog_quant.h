// The CPU kernel of mla_epilog_quant: its arguments, shared by all instruction sets.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_MLA_EPILOG_QUANT_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_MLA_EPILOG_QUANT_H_

#include <stdint.h>

namespace ms_dsv32::cpu {

// bf16 is uint16_t. Pointers need the alignment of their element only. Nothing may overlap.
struct MlaEpilogQuantParams {
  int64_t t;
  int64_t n_q;
  bool packed;  // w_uv and w_o are in the layout of pack.h; else row-major

  const uint16_t* attention_out;  // [t, n_q, kv_lora_rank]
  const uint16_t* w_uv;           // [n_q, kv_lora_rank, v_head_dim]
  const int8_t* w_o;              // [n_q * v_head_dim, h]
  const float* w_o_scale;         // [h]

  uint16_t* hidden_out;  // [t, h]
};

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_MLA_EPILOG_QUANT_H_
