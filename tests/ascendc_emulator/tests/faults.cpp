// Kernels with one mistake each. A fault's number is its place in the files that are included here, in this order.
#include "cross_faults.h"
#include "cube_faults.h"
#include "vector_faults.h"

extern "C" __global__ __aicore__ void fault(GM_ADDR in, GM_ADDR out, GM_ADDR workspace, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  GET_TILING_DATA_WITH_STRUCT(FaultTiling, t, tiling);
  const bool first = GetBlockIdx() == 0;
  if (ASCEND_IS_AIV && first && TILING_KEY_IS(0)) VectorFaults(t, in, out, workspace);
  if (ASCEND_IS_AIC && first && TILING_KEY_IS(1)) CubeFaults(t, in, out);
  if (TILING_KEY_IS(2)) CrossFaults(t, in, out, workspace);
  if (ASCEND_IS_AIV && first && TILING_KEY_IS(3)) BareFaults(t, in, out);
}
