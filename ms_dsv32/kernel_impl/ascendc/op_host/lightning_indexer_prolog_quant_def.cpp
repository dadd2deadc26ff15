// Generated from op_info/lightning_indexer_prolog_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_prolog_quant.h"

#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"

namespace ms_dsv32::ascendc {
ge::graphStatus TileLightningIndexerPrologQuant(gert::TilingContext* context);
}  // namespace ms_dsv32::ascendc

namespace ops {

using namespace ms_dsv32::ascendc;
using namespace ms_dsv32::op_info::lightning_indexer_prolog_quant;

static constexpr OutputInfo kLightningIndexerPrologQuantOutputs[] = {
    {ge::DT_INT8, -1},  // q_int8_out
    {ge::DT_FLOAT16, -1},  // q_scale_out
    {ge::DT_INT8, kKCache},  // k_int8_out
    {ge::DT_FLOAT16, kKCacheScale},  // k_scale_out
    {ge::DT_FLOAT16, -1},  // weights_out
};

class MsDsaLightningIndexerPrologQuant : public OpDef {
 public:
  explicit MsDsaLightningIndexerPrologQuant(const char* name) : OpDef(name) {
    this->Input("x").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("q_norm").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("q_norm_scale").ParamType(REQUIRED).DataType({ge::DT_FLOAT}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("w_qb").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("w_qb_scale").ParamType(REQUIRED).DataType({ge::DT_FLOAT}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("wk").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("w_proj").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("ln_gamma_k").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("ln_beta_k").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("cos_idx_rope").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("sin_idx_rope").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("hadamard_q").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("hadamard_k").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("k_cache").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("k_cache_scale").ParamType(REQUIRED).DataType({ge::DT_FLOAT16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("k_cache_index").ParamType(REQUIRED).DataType({ge::DT_INT64}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Output("q_int8_out").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND});
    this->Output("q_scale_out").ParamType(REQUIRED).DataType({ge::DT_FLOAT16}).Format({ge::FORMAT_ND});
    this->Output("k_cache").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND});
    this->Output("k_cache_scale").ParamType(REQUIRED).DataType({ge::DT_FLOAT16}).Format({ge::FORMAT_ND});
    this->Output("weights_out").ParamType(REQUIRED).DataType({ge::DT_FLOAT16}).Format({ge::FORMAT_ND});
    this->Attr("layernorm_epsilon_k").AttrType(OPTIONAL).Float(1e-06);
    this->SetInferShape(InferShape<kOp, kLightningIndexerPrologQuantOutputs>);
    this->SetInferDataType(InferDataType<kLightningIndexerPrologQuantOutputs>);
    this->AICore().SetTiling(TileLightningIndexerPrologQuant);
    OpAICoreConfig config = KernelConfig("lightning_indexer_prolog_quant");
    this->AICore().AddConfig("ascend910b", config);
    this->AICore().AddConfig("ascend910_93", config);
  }
};

OP_ADD(MsDsaLightningIndexerPrologQuant);

}  // namespace ops
