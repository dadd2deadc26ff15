// Generated from op_info/mla_epilog_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#include "ms_dsv32/kernel_impl/contract/generated/mla_epilog_quant.h"

#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"

namespace ms_dsv32::ascendc {
ge::graphStatus TileMlaEpilogQuant(gert::TilingContext* context);
}  // namespace ms_dsv32::ascendc

namespace ops {

using namespace ms_dsv32::ascendc;
using namespace ms_dsv32::op_info::mla_epilog_quant;

static constexpr OutputInfo kMlaEpilogQuantOutputs[] = {
    {ge::DT_BF16, -1},  // hidden_out
};

class MsDsaMlaEpilogQuant : public OpDef {
 public:
  explicit MsDsaMlaEpilogQuant(const char* name) : OpDef(name) {
    this->Input("attention_out").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("w_uv").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("w_o").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("w_o_scale").ParamType(REQUIRED).DataType({ge::DT_FLOAT}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Output("hidden_out").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND});
    this->SetInferShape(InferShape<kOp, kMlaEpilogQuantOutputs>);
    this->SetInferDataType(InferDataType<kMlaEpilogQuantOutputs>);
    this->AICore().SetTiling(TileMlaEpilogQuant);
    OpAICoreConfig config = KernelConfig("mla_epilog_quant");
    this->AICore().AddConfig("ascend910b", config);
    this->AICore().AddConfig("ascend910_93", config);
  }
};

OP_ADD(MsDsaMlaEpilogQuant);

}  // namespace ops
