// Generated from op_info/mla_prolog_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#include "ms_dsv32/kernel_impl/contract/generated/mla_prolog_quant.h"

#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"

namespace ms_dsv32::ascendc {
ge::graphStatus TileMlaPrologQuant(gert::TilingContext* context);
}  // namespace ms_dsv32::ascendc

namespace ops {

using namespace ms_dsv32::ascendc;
using namespace ms_dsv32::op_info::mla_prolog_quant;

static constexpr OutputInfo kMlaPrologQuantOutputs[] = {
    {ge::DT_INT8, -1},  // q_norm_out
    {ge::DT_FLOAT, -1},  // q_norm_scale_out
    {ge::DT_BF16, -1},  // query_nope_out
    {ge::DT_BF16, -1},  // query_rope_out
    {ge::DT_INT8, kKvCache},  // kv_cache_out
    {ge::DT_BF16, kKrCache},  // kr_cache_out
    {ge::DT_FLOAT, kKScaleCache},  // k_scale_cache_out
};

class MsDsaMlaPrologQuant : public OpDef {
 public:
  explicit MsDsaMlaPrologQuant(const char* name) : OpDef(name) {
    this->Input("token_x").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("w_dq").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("w_uq_qr").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("dequant_scale").ParamType(REQUIRED).DataType({ge::DT_FLOAT}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("w_uk").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("w_dkv_kr").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("gamma_cq").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("gamma_ckv").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("cos").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("sin").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("cache_index").ParamType(REQUIRED).DataType({ge::DT_INT64}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("kv_cache").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("kr_cache").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("k_scale_cache").ParamType(REQUIRED).DataType({ge::DT_FLOAT}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Output("q_norm_out").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND});
    this->Output("q_norm_scale_out").ParamType(REQUIRED).DataType({ge::DT_FLOAT}).Format({ge::FORMAT_ND});
    this->Output("query_nope_out").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND});
    this->Output("query_rope_out").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND});
    this->Output("kv_cache").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND});
    this->Output("kr_cache").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND});
    this->Output("k_scale_cache").ParamType(REQUIRED).DataType({ge::DT_FLOAT}).Format({ge::FORMAT_ND});
    this->Attr("epsilon_cq").AttrType(OPTIONAL).Float(1e-05);
    this->Attr("epsilon_ckv").AttrType(OPTIONAL).Float(1e-05);
    this->SetInferShape(InferShape<kOp, kMlaPrologQuantOutputs>);
    this->SetInferDataType(InferDataType<kMlaPrologQuantOutputs>);
    this->AICore().SetTiling(TileMlaPrologQuant);
    OpAICoreConfig config = KernelConfig("mla_prolog_quant");
    this->AICore().AddConfig("ascend910b", config);
    this->AICore().AddConfig("ascend910_93", config);
  }
};

OP_ADD(MsDsaMlaPrologQuant);

}  // namespace ops
