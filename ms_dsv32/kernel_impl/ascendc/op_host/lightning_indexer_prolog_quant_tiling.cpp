// Hands a call of lightning_indexer_prolog_quant to its tiling function.
#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/prolog_make_tiling.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_prolog_quant.h"

namespace ms_dsv32::ascendc {

ge::graphStatus TileLightningIndexerPrologQuant(gert::TilingContext* context) {
  return Tile<PrologTiling>(op_info::lightning_indexer_prolog_quant::kOp, context,
                            [](const Call& call, const Platform& platform, PrologTiling& tiling) {
                              return MakeLightningIndexerPrologQuantTiling(
                                  Dim(call, "t"), CacheRows(call), call.Float("layernorm_epsilon_k"), platform, tiling);
                            });
}

}  // namespace ms_dsv32::ascendc
