// sparse_flash_attention_quant: attention of each token over its selected keys of the quantised paged latent cache. See
// attention_plan.h for the plan.
#include "attention_cube.h"
#include "attention_vector.h"

extern "C" __global__ __aicore__ void sparse_flash_attention_quant(GM_ADDR query_nope, GM_ADDR query_rope,
                                                                   GM_ADDR key_nope_2d, GM_ADDR key_rope_2d,
                                                                   GM_ADDR k_nope_scales, GM_ADDR topk_indices,
                                                                   GM_ADDR block_table, GM_ADDR kv_act_seqs,
                                                                   GM_ADDR query_act_seqs, GM_ADDR attention_out,
                                                                   GM_ADDR lse, GM_ADDR workspace, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  using namespace ms_dsv32::ascendc;
  REGISTER_TILING_DEFAULT(ms_dsv32::ascendc::AttentionTiling);
  GET_TILING_DATA(tiling_data, tiling);
  if (tiling_data.t == 0) {
    return;
  }
  TPipe pipe;
  GM_ADDR user = GetUserWorkspace(workspace);
  if ASCEND_IS_AIC {
    const AttentionPlan plan(tiling_data, static_cast<uint32_t>(GetBlockIdx()), kv_act_seqs, query_act_seqs, user);
    AttentionCube cube(pipe, plan, query_nope, query_rope, attention_out);
    cube.Run();
  }
  if ASCEND_IS_AIV {
    const AttentionPlan plan(tiling_data, static_cast<uint32_t>(GetBlockIdx()) / kVectorsPerCore, kv_act_seqs,
                             query_act_seqs, user);
    AttentionVector vector(pipe, plan, static_cast<uint32_t>(GetSubBlockIdx()), key_nope_2d, key_rope_2d, k_nope_scales,
                           topk_indices, block_table, attention_out, lse);
    vector.Run();
  }
}
