// Hands a call of mla_indexer_prolog_quant to its tiling function.
#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/prolog_make_tiling.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_indexer_prolog_quant.h"

namespace ms_dsv32::ascendc {

ge::graphStatus TileMlaIndexerPrologQuant(gert::TilingContext* context) {
  return Tile<PrologTiling>(op_info::mla_indexer_prolog_quant::kOp, context,
                            [](const Call& call, const Platform& platform, PrologTiling& tiling) {
                              PrologShape shape{};
                              shape.t = Dim(call, "t");
                              shape.n_q = Dim(call, "n_q");
                              shape.cache_rows = CacheRows(call);
                              shape.mla = true;
                              shape.indexer = true;
                              shape.epsilon_cq = call.Float("mla_epsilon_cq");
                              shape.epsilon_ckv = call.Float("mla_epsilon_ckv");
                              shape.epsilon_k = call.Float("ip_attrs.layernorm_epsilon_k");
                              return MakePrologTiling(shape, platform, tiling);
                            });
}

}  // namespace ms_dsv32::ascendc
