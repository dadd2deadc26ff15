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
  TPipe pipe;
  GM_ADDR user = GetUserWorkspace(workspace);
  if ASCEND_IS_AIC {
    const IndexerPlan plan(tiling_data, static_cast<uint32_t>(GetBlockIdx()), block_table, kv_act_seqs, query_act_seqs,
                           user);
    IndexerCube cube(pipe, plan, q_int8, k_cache);
    cube.Run();
  }
  if ASCEND_IS_AIV {
    const uint32_t vector = static_cast<uint32_t>(GetBlockIdx());
    const IndexerPlan plan(tiling_data, vector / kVectorsPerCore, block_table, kv_act_seqs, query_act_seqs, user);
    IndexerVector indexer(pipe, plan, static_cast<uint32_t>(GetSubBlockIdx()), q_scale, weights, k_cache_scale,
                          topk_indices);
    indexer.Run(vector, tiling_data.cores * kVectorsPerCore);
  }
}
