// Generated from op_info/sparse_flash_attention_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#include "ms_dsv32/kernel_impl/contract/generated/sparse_flash_attention_quant.h"

#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"

namespace ms_dsv32::ascendc {
ge::graphStatus TileSparseFlashAttentionQuant(gert::TilingContext* context);
}  // namespace ms_dsv32::ascendc

namespace ops {

using namespace ms_dsv32::ascendc;
using namespace ms_dsv32::op_info::sparse_flash_attention_quant;

static constexpr OutputInfo kSparseFlashAttentionQuantOutputs[] = {
    {ge::DT_BF16, -1},  // attention_out
    {ge::DT_FLOAT, -1},  // lse
};

class MsDsaSparseFlashAttentionQuant : public OpDef {
 public:
  explicit MsDsaSparseFlashAttentionQuant(const char* name) : OpDef(name) {
    this->Input("query_nope").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("query_rope").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("key_nope_2d").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("key_rope_2d").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("k_nope_scales").ParamType(REQUIRED).DataType({ge::DT_FLOAT}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("topk_indices").ParamType(REQUIRED).DataType({ge::DT_INT32}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("block_table").ParamType(REQUIRED).DataType({ge::DT_INT32}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("kv_act_seqs").ParamType(REQUIRED).DataType({ge::DT_INT32}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("query_act_seqs").ParamType(OPTIONAL).DataType({ge::DT_INT32}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Output("attention_out").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND});
    this->Output("lse").ParamType(REQUIRED).DataType({ge::DT_FLOAT}).Format({ge::FORMAT_ND});
    this->Attr("nq").AttrType(REQUIRED).Int();
    this->Attr("n_kv").AttrType(REQUIRED).Int();
    this->Attr("softmax_scale").AttrType(REQUIRED).Float();
    this->Attr("topk").AttrType(REQUIRED).Int();
    this->Attr("block_size").AttrType(REQUIRED).Int();
    this->SetInferShape(InferShape<kOp, kSparseFlashAttentionQuantOutputs>);
    this->SetInferDataType(InferDataType<kSparseFlashAttentionQuantOutputs>);
    this->AICore().SetTiling(TileSparseFlashAttentionQuant);
    OpAICoreConfig config = KernelConfig("sparse_flash_attention_quant");
    this->AICore().AddConfig("ascend910b", config);
    this->AICore().AddConfig("ascend910_93", config);
  }
};

OP_ADD(MsDsaSparseFlashAttentionQuant);

}  // namespace ops
