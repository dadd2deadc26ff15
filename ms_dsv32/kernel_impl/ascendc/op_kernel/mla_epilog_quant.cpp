// mla_epilog_quant: see epilog_plan.h for the plan.
#include "epilog_cube.h"
#include "epilog_vector.h"

extern "C" __global__ __aicore__ void mla_epilog_quant(GM_ADDR attention_out, GM_ADDR w_uv, GM_ADDR w_o,
                                                       GM_ADDR w_o_scale, GM_ADDR hidden_out, GM_ADDR workspace,
                                                       GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  using namespace ms_dsv32::ascendc;
  REGISTER_TILING_DEFAULT(ms_dsv32::ascendc::EpilogTiling);
  GET_TILING_DATA(tiling_data, tiling);
  EpilogArguments arguments{};
  arguments.attention_out = attention_out;
  arguments.w_uv = w_uv;
  arguments.w_o = w_o;
  arguments.w_o_scale = w_o_scale;
  arguments.hidden_out = hidden_out;
  arguments.workspace = GetUserWorkspace(workspace);
  TPipe pipe;
  if ASCEND_IS_AIC {
    EpilogCube cube(pipe, arguments, tiling_data);
    cube.Run();
  }
  if ASCEND_IS_AIV {
    EpilogVector vector(pipe, arguments, tiling_data);
    vector.Run();
  }
}
