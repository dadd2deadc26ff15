// Hands a call of lightning_indexer_quant to its tiling function.
#include "ms_dsv32/kernel_impl/ascendc/op_host/indexer_make_tiling.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_quant.h"

namespace ms_dsv32::ascendc {

ge::graphStatus TileLightningIndexerQuant(gert::TilingContext* context) {
  return Tile<IndexerTiling>(op_info::lightning_indexer_quant::kOp, context,
                             [](const Call& call, const Platform& platform, IndexerTiling& tiling) {
                               const IndexerShape shape{Dim(call, "t"),
                                                        Dim(call, "b"),
                                                        Dim(call, "selected_count"),
                                                        Dim(call, "block_num"),
                                                        Dim(call, "block_size"),
                                                        Dim(call, "max_blocknum_perbatch"),
                                                        call.Given(op_info::lightning_indexer_quant::kQueryActSeqs)};
                               return MakeIndexerTiling(shape, platform, tiling);
                             });
}

}  // namespace ms_dsv32::ascendc
