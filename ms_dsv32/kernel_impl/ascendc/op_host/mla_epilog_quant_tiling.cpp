// Hands a call of mla_epilog_quant to its tiling function.
#include "ms_dsv32/kernel_impl/ascendc/op_host/epilog_make_tiling.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_epilog_quant.h"

namespace ms_dsv32::ascendc {

ge::graphStatus TileMlaEpilogQuant(gert::TilingContext* context) {
  return Tile<EpilogTiling>(op_info::mla_epilog_quant::kOp, context,
                            [](const Call& call, const Platform& platform, EpilogTiling& tiling) {
                              return MakeEpilogTiling({Dim(call, "t"), Dim(call, "n_q")}, platform, tiling);
                            });
}

}  // namespace ms_dsv32::ascendc
