// Hands a call of mla_prolog_quant to its tiling function.
#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/prolog_make_tiling.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_prolog_quant.h"

namespace ms_dsv32::ascendc {

ge::graphStatus TileMlaPrologQuant(gert::TilingContext* context) {
  return Tile<PrologTiling>(op_info::mla_prolog_quant::kOp, context,
                            [](const Call& call, const Platform& platform, PrologTiling& tiling) {
                              PrologShape shape{};
                              shape.t = Dim(call, "t");
                              shape.n_q = Dim(call, "n_q");
                              shape.cache_rows = CacheRows(call);
                              shape.mla = true;
                              shape.epsilon_cq = call.Float("epsilon_cq");
                              shape.epsilon_ckv = call.Float("epsilon_ckv");
                              return MakePrologTiling(shape, platform, tiling);
                            });
}

}  // namespace ms_dsv32::ascendc
