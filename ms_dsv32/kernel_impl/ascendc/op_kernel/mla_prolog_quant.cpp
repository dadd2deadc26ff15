// mla_prolog_quant: see prolog_plan.h for the plan.
#include "prolog_cube.h"
#include "prolog_vector.h"

extern "C" __global__ __aicore__ void mla_prolog_quant(
    GM_ADDR token_x, GM_ADDR w_dq, GM_ADDR w_uq_qr, GM_ADDR dequant_scale, GM_ADDR w_uk, GM_ADDR w_dkv_kr,
    GM_ADDR gamma_cq, GM_ADDR gamma_ckv, GM_ADDR cos, GM_ADDR sin, GM_ADDR cache_index, GM_ADDR kv_cache,
    GM_ADDR kr_cache, GM_ADDR k_scale_cache, GM_ADDR q_norm_out, GM_ADDR q_norm_scale_out, GM_ADDR query_nope_out,
    GM_ADDR query_rope_out, GM_ADDR kv_cache_out, GM_ADDR kr_cache_out, GM_ADDR k_scale_cache_out, GM_ADDR workspace,
    GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  using namespace ms_dsv32::ascendc;
  REGISTER_TILING_DEFAULT(ms_dsv32::ascendc::PrologTiling);
  GET_TILING_DATA(tiling_data, tiling);
  // A cache comes twice, as an input and as the output of the same name: CANN gives both the same address.
  (void)kv_cache, (void)kr_cache, (void)k_scale_cache;
  PrologArguments arguments{};
  arguments.x = token_x;
  arguments.w_dq = w_dq;
  arguments.w_uq_qr = w_uq_qr;
  arguments.dequant_scale = dequant_scale;
  arguments.w_uk = w_uk;
  arguments.w_dkv_kr = w_dkv_kr;
  arguments.gamma_cq = gamma_cq;
  arguments.gamma_ckv = gamma_ckv;
  arguments.cos = cos;
  arguments.sin = sin;
  arguments.cache_index = cache_index;
  arguments.kv_cache = kv_cache_out;
  arguments.kr_cache = kr_cache_out;
  arguments.k_scale_cache = k_scale_cache_out;
  arguments.q_norm = q_norm_out;
  arguments.q_norm_scale = q_norm_scale_out;
  arguments.q_nope = query_nope_out;
  arguments.q_rope = query_rope_out;
  arguments.workspace = GetUserWorkspace(workspace);
  TPipe pipe;
  if ASCEND_IS_AIC {
    PrologCube<true, false> cube(pipe, arguments, tiling_data);
    cube.Run();
  }
  if ASCEND_IS_AIV {
    PrologVector<true, false> vector(pipe, arguments, tiling_data);
    vector.Run();
  }
}
