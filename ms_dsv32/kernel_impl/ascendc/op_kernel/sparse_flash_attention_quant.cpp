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
  AttentionArguments arguments{};
  arguments.query_nope = query_nope;
  arguments.query_rope = query_rope;
  arguments.key_nope_2d = key_nope_2d;
  arguments.key_rope_2d = key_rope_2d;
  arguments.k_nope_scales = k_nope_scales;
  arguments.topk_indices = topk_indices;
  arguments.block_table = block_table;
  arguments.kv_act_seqs = kv_act_seqs;
  arguments.query_act_seqs = query_act_seqs;
  arguments.attention_out = attention_out;
  arguments.lse = lse;
  arguments.workspace = GetUserWorkspace(workspace);
  TPipe pipe;
  if ASCEND_IS_AIC {
    AttentionCube cube(pipe, arguments, tiling_data);
    cube.Run();
  }
  if ASCEND_IS_AIV {
    AttentionVector vector(pipe, arguments, tiling_data);
    vector.Run();
  }
}
