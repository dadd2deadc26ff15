// Hands a call of lightning_indexer_prolog_quant to its tiling function.
#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/prolog_make_tiling.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_prolog_quant.h"

namespace ms_dsv32::ascendc {

ge::graphStatus TileLightningIndexerPrologQuant(gert::TilingContext* context) {
  return Tile<PrologTiling>(op_info::lightning_indexer_prolog_quant::kOp, context,
                            [](const Call& call, const Platform& platform, PrologTiling& tiling) {
                              PrologShape shape{};
                              shape.t = Dim(call, "t");
                              shape.cache_rows = CacheRows(call);
                              shape.indexer = true;
                              shape.epsilon_k = call.Float("layernorm_epsilon_k");
                              return MakePrologTiling(shape, platform, tiling);
                            });
}

}  // namespace ms_dsv32::ascendc
