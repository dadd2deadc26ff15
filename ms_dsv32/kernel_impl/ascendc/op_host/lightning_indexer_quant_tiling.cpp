// Hands a call of lightning_indexer_quant to its tiling function.
#include "ms_dsv32/kernel_impl/ascendc/op_host/lightning_indexer_quant_make_tiling.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_quant.h"

namespace ms_dsv32::ascendc {

ge::graphStatus TileLightningIndexerQuant(gert::TilingContext* context) {
  return Tile<LightningIndexerTiling>(op_info::lightning_indexer_quant::kOp, context,
                                      [](const Call& call, const Platform& platform, LightningIndexerTiling& tiling) {
                                        const LightningIndexerShape shape{
                                            Dim(call, "t"),
                                            Dim(call, "b"),
                                            Dim(call, "selected_count"),
                                            Dim(call, "block_num"),
                                            Dim(call, "block_size"),
                                            Dim(call, "max_blocknum_perbatch"),
                                            call.Given(op_info::lightning_indexer_quant::kQueryActSeqs)};
                                        return MakeTiling(shape, platform, tiling);
                                      });
}

}  // namespace ms_dsv32::ascendc
