// lightning_indexer_prolog_quant: see prolog_plan.h for the plan.
#include "prolog_cube.h"
#include "prolog_vector.h"

extern "C" __global__ __aicore__ void lightning_indexer_prolog_quant(
    GM_ADDR x, GM_ADDR q_norm, GM_ADDR q_norm_scale, GM_ADDR w_qb, GM_ADDR w_qb_scale, GM_ADDR wk, GM_ADDR w_proj,
    GM_ADDR ln_gamma_k, GM_ADDR ln_beta_k, GM_ADDR cos_idx_rope, GM_ADDR sin_idx_rope, GM_ADDR hadamard_q,
    GM_ADDR hadamard_k, GM_ADDR k_cache, GM_ADDR k_cache_scale, GM_ADDR k_cache_index, GM_ADDR q_int8_out,
    GM_ADDR q_scale_out, GM_ADDR k_int8_out, GM_ADDR k_scale_out, GM_ADDR weights_out, GM_ADDR workspace,
    GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  using namespace ms_dsv32::ascendc;
  REGISTER_TILING_DEFAULT(ms_dsv32::ascendc::PrologTiling);
  GET_TILING_DATA(tiling_data, tiling);
  // A cache comes twice, as an input and as the output of the same name: CANN gives both the same address.
  (void)k_cache, (void)k_cache_scale;
  PrologArguments arguments{};
  arguments.x = x;
  arguments.q_norm = q_norm;
  arguments.q_norm_scale = q_norm_scale;
  arguments.w_qb = w_qb;
  arguments.w_qb_scale = w_qb_scale;
  arguments.wk = wk;
  arguments.w_proj = w_proj;
  arguments.ln_gamma_k = ln_gamma_k;
  arguments.ln_beta_k = ln_beta_k;
  arguments.cos = cos_idx_rope;
  arguments.sin = sin_idx_rope;
  arguments.hadamard_q = hadamard_q;
  arguments.hadamard_k = hadamard_k;
  arguments.k_cache = k_int8_out;
  arguments.k_cache_scale = k_scale_out;
  arguments.cache_index = k_cache_index;
  arguments.q_int8 = q_int8_out;
  arguments.q_scale = q_scale_out;
  arguments.weights = weights_out;
  arguments.workspace = GetUserWorkspace(workspace);
  TPipe pipe;
  if ASCEND_IS_AIC {
    PrologCube<false, true> cube(pipe, arguments, tiling_data);
    cube.Run();
  }
  if ASCEND_IS_AIV {
    PrologVector<false, true> vector(pipe, arguments, tiling_data);
    vector.Run();
  }
}
