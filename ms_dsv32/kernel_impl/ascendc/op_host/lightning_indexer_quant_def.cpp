// Generated from op_info/lightning_indexer_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_quant.h"

#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"

namespace ms_dsv32::ascendc {
ge::graphStatus TileLightningIndexerQuant(gert::TilingContext* context);
}  // namespace ms_dsv32::ascendc

namespace ops {

using namespace ms_dsv32::ascendc;
using namespace ms_dsv32::op_info::lightning_indexer_quant;

static constexpr OutputInfo kLightningIndexerQuantOutputs[] = {
    {ge::DT_INT32, -1},  // topk_indices
};

class MsDsaLightningIndexerQuant : public OpDef {
 public:
  explicit MsDsaLightningIndexerQuant(const char* name) : OpDef(name) {
    this->Input("q_int8").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("q_scale").ParamType(REQUIRED).DataType({ge::DT_FLOAT16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("weights").ParamType(REQUIRED).DataType({ge::DT_FLOAT16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("k_cache").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("k_cache_scale").ParamType(REQUIRED).DataType({ge::DT_FLOAT16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("block_table").ParamType(REQUIRED).DataType({ge::DT_INT32}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("kv_act_seqs").ParamType(REQUIRED).DataType({ge::DT_INT32}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("query_act_seqs").ParamType(OPTIONAL).DataType({ge::DT_INT32}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Output("topk_indices").ParamType(REQUIRED).DataType({ge::DT_INT32}).Format({ge::FORMAT_ND});
    this->Attr("selected_count").AttrType(OPTIONAL).Int(2048);
    this->SetInferShape(InferShape<kOp, kLightningIndexerQuantOutputs>);
    this->SetInferDataType(InferDataType<kLightningIndexerQuantOutputs>);
    this->AICore().SetTiling(TileLightningIndexerQuant);
    OpAICoreConfig config = KernelConfig("lightning_indexer_quant");
    this->AICore().AddConfig("ascend910b", config);
    this->AICore().AddConfig("ascend910_93", config);
  }
};

OP_ADD(MsDsaLightningIndexerQuant);

}  // namespace ops
