// Hands a call of sparse_flash_attention_quant to its tiling function.
#include "ms_dsv32/kernel_impl/ascendc/op_host/attention_make_tiling.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"
#include "ms_dsv32/kernel_impl/contract/generated/sparse_flash_attention_quant.h"

namespace ms_dsv32::ascendc {

ge::graphStatus TileSparseFlashAttentionQuant(gert::TilingContext* context) {
  return Tile<AttentionTiling>(op_info::sparse_flash_attention_quant::kOp, context,
                               [](const Call& call, const Platform& platform, AttentionTiling& tiling) {
                                 const AttentionShape shape{
                                     Dim(call, "t"),
                                     Dim(call, "b"),
                                     Dim(call, "n_q"),
                                     Dim(call, "selected_count"),
                                     Dim(call, "block_num"),
                                     Dim(call, "block_size"),
                                     Dim(call, "max_blocknum_perbatch"),
                                     call.Float("softmax_scale"),
                                     call.Given(op_info::sparse_flash_attention_quant::kQueryActSeqs)};
                                 return MakeAttentionTiling(shape, platform, tiling);
                               });
}

}  // namespace ms_dsv32::ascendc
