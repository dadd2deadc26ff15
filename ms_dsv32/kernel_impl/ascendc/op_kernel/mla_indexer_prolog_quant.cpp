// mla_indexer_prolog_quant: the stages of mla_prolog_quant and of lightning_indexer_prolog_quant in one launch. See
// prolog_plan.h for the plan.
#include "prolog_cube.h"
#include "prolog_vector.h"

extern "C" __global__ __aicore__ void mla_indexer_prolog_quant(
    GM_ADDR token_x, GM_ADDR mla_w_dq, GM_ADDR mla_w_uq_qr, GM_ADDR mla_dequant_scale, GM_ADDR mla_w_uk,
    GM_ADDR mla_w_dkv_kr, GM_ADDR mla_gamma_cq, GM_ADDR mla_gamma_ckv, GM_ADDR cos, GM_ADDR sin, GM_ADDR cache_index,
    GM_ADDR mla_kv_cache, GM_ADDR mla_kr_cache, GM_ADDR mla_k_scale_cache, GM_ADDR ip_w_qb_in, GM_ADDR ip_w_qb_scale_in,
    GM_ADDR ip_wk_in, GM_ADDR ip_w_proj_in, GM_ADDR ip_ln_gamma_k_in, GM_ADDR ip_ln_beta_k_in, GM_ADDR ip_hadamard_q_in,
    GM_ADDR ip_hadamard_k_in, GM_ADDR ip_k_cache, GM_ADDR ip_k_cache_scale, GM_ADDR mla_query_nope_out,
    GM_ADDR mla_query_rope_out, GM_ADDR mla_kv_cache_out, GM_ADDR mla_kr_cache_out, GM_ADDR mla_k_scale_cache_out,
    GM_ADDR ip_q_int8_out, GM_ADDR ip_q_scale_out, GM_ADDR ip_k_int8_out, GM_ADDR ip_k_scale_out,
    GM_ADDR ip_weights_out, GM_ADDR workspace, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  using namespace ms_dsv32::ascendc;
  REGISTER_TILING_DEFAULT(ms_dsv32::ascendc::PrologTiling);
  GET_TILING_DATA(tiling_data, tiling);
  // A cache comes twice, as an input and as the output of the same name: CANN gives both the same address.
  (void)mla_kv_cache, (void)mla_kr_cache, (void)mla_k_scale_cache, (void)ip_k_cache, (void)ip_k_cache_scale;
  PrologArguments arguments{};
  arguments.x = token_x;
  arguments.w_dq = mla_w_dq;
  arguments.w_uq_qr = mla_w_uq_qr;
  arguments.dequant_scale = mla_dequant_scale;
  arguments.w_uk = mla_w_uk;
  arguments.w_dkv_kr = mla_w_dkv_kr;
  arguments.gamma_cq = mla_gamma_cq;
  arguments.gamma_ckv = mla_gamma_ckv;
  arguments.cos = cos;
  arguments.sin = sin;
  arguments.cache_index = cache_index;
  arguments.kv_cache = mla_kv_cache_out;
  arguments.kr_cache = mla_kr_cache_out;
  arguments.k_scale_cache = mla_k_scale_cache_out;
  arguments.w_qb = ip_w_qb_in;
  arguments.w_qb_scale = ip_w_qb_scale_in;
  arguments.wk = ip_wk_in;
  arguments.w_proj = ip_w_proj_in;
  arguments.ln_gamma_k = ip_ln_gamma_k_in;
  arguments.ln_beta_k = ip_ln_beta_k_in;
  arguments.hadamard_q = ip_hadamard_q_in;
  arguments.hadamard_k = ip_hadamard_k_in;
  arguments.k_cache = ip_k_int8_out;
  arguments.k_cache_scale = ip_k_scale_out;
  arguments.q_nope = mla_query_nope_out;
  arguments.q_rope = mla_query_rope_out;
  arguments.q_int8 = ip_q_int8_out;
  arguments.q_scale = ip_q_scale_out;
  arguments.weights = ip_weights_out;
  arguments.workspace = GetUserWorkspace(workspace);
  arguments.q_norm = arguments.workspace + tiling_data.q_norm_offset;
  arguments.q_norm_scale = arguments.workspace + tiling_data.q_norm_scale_offset;
  TPipe pipe;
  if ASCEND_IS_AIC {
    PrologCube<true, true> cube(pipe, arguments, tiling_data);
    cube.Run();
  }
  if ASCEND_IS_AIV {
    PrologVector<true, true> vector(pipe, arguments, tiling_data);
    vector.Run();
  }
}
