// lightning_indexer_quant: scores of all visible keys of each token, and the positions of the largest. See
// indexer_plan.h for the plan.
#include "indexer_cube.h"
#include "indexer_vector.h"

extern "C" __global__ __aicore__ void lightning_indexer_quant(GM_ADDR q_int8, GM_ADDR q_scale, GM_ADDR weights,
                                                              GM_ADDR k_cache, GM_ADDR k_cache_scale,
                                                              GM_ADDR block_table, GM_ADDR kv_act_seqs,
                                                              GM_ADDR query_act_seqs, GM_ADDR topk_indices,
                                                              GM_ADDR workspace, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  using namespace ms_dsv32::ascendc;
  REGISTER_TILING_DEFAULT(ms_dsv32::ascendc::IndexerTiling);
  GET_TILING_DATA(tiling_data, tiling);
  if (tiling_data.t == 0) {
    return;
  }
  IndexerArguments arguments{};
  arguments.q_int8 = q_int8;
  arguments.q_scale = q_scale;
  arguments.weights = weights;
  arguments.k_cache = k_cache;
  arguments.k_cache_scale = k_cache_scale;
  arguments.block_table = block_table;
  arguments.kv_act_seqs = kv_act_seqs;
  arguments.query_act_seqs = query_act_seqs;
  arguments.topk_indices = topk_indices;
  arguments.workspace = GetUserWorkspace(workspace);
  TPipe pipe;
  if ASCEND_IS_AIC {
    IndexerCube cube(pipe, arguments, tiling_data);
    cube.Run();
  }
  if ASCEND_IS_AIV {
    IndexerVector vector(pipe, arguments, tiling_data);
    vector.Run();
  }
}
