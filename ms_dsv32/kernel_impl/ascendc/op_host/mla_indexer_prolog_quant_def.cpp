// Generated from op_info/mla_indexer_prolog_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#include "ms_dsv32/kernel_impl/contract/generated/mla_indexer_prolog_quant.h"

#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"

namespace ms_dsv32::ascendc {
ge::graphStatus TileMlaIndexerPrologQuant(gert::TilingContext* context);
}  // namespace ms_dsv32::ascendc

namespace ops {

using namespace ms_dsv32::ascendc;
using namespace ms_dsv32::op_info::mla_indexer_prolog_quant;

static constexpr OutputInfo kMlaIndexerPrologQuantOutputs[] = {
    {ge::DT_BF16, -1},  // mla_query_nope_out
    {ge::DT_BF16, -1},  // mla_query_rope_out
    {ge::DT_INT8, kMlaKvCache},  // mla_kv_cache_out
    {ge::DT_BF16, kMlaKrCache},  // mla_kr_cache_out
    {ge::DT_FLOAT, kMlaKScaleCache},  // mla_k_scale_cache_out
    {ge::DT_INT8, -1},  // ip_q_int8_out
    {ge::DT_FLOAT16, -1},  // ip_q_scale_out
    {ge::DT_INT8, kIpKCache},  // ip_k_int8_out
    {ge::DT_FLOAT16, kIpKCacheScale},  // ip_k_scale_out
    {ge::DT_FLOAT16, -1},  // ip_weights_out
};

class MsDsaMlaIndexerPrologQuant : public OpDef {
 public:
  explicit MsDsaMlaIndexerPrologQuant(const char* name) : OpDef(name) {
    this->Input("token_x").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("mla_w_dq").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("mla_w_uq_qr").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("mla_dequant_scale").ParamType(REQUIRED).DataType({ge::DT_FLOAT}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("mla_w_uk").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("mla_w_dkv_kr").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("mla_gamma_cq").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("mla_gamma_ckv").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("cos").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("sin").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("cache_index").ParamType(REQUIRED).DataType({ge::DT_INT64}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("mla_kv_cache").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("mla_kr_cache").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("mla_k_scale_cache").ParamType(REQUIRED).DataType({ge::DT_FLOAT}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("ip_w_qb_in").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("ip_w_qb_scale_in").ParamType(REQUIRED).DataType({ge::DT_FLOAT}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("ip_wk_in").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("ip_w_proj_in").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("ip_ln_gamma_k_in").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("ip_ln_beta_k_in").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("ip_hadamard_q_in").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("ip_hadamard_k_in").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("ip_k_cache").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Input("ip_k_cache_scale").ParamType(REQUIRED).DataType({ge::DT_FLOAT16}).Format({ge::FORMAT_ND}).AutoContiguous();
    this->Output("mla_query_nope_out").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND});
    this->Output("mla_query_rope_out").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND});
    this->Output("mla_kv_cache").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND});
    this->Output("mla_kr_cache").ParamType(REQUIRED).DataType({ge::DT_BF16}).Format({ge::FORMAT_ND});
    this->Output("mla_k_scale_cache").ParamType(REQUIRED).DataType({ge::DT_FLOAT}).Format({ge::FORMAT_ND});
    this->Output("ip_q_int8_out").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND});
    this->Output("ip_q_scale_out").ParamType(REQUIRED).DataType({ge::DT_FLOAT16}).Format({ge::FORMAT_ND});
    this->Output("ip_k_cache").ParamType(REQUIRED).DataType({ge::DT_INT8}).Format({ge::FORMAT_ND});
    this->Output("ip_k_cache_scale").ParamType(REQUIRED).DataType({ge::DT_FLOAT16}).Format({ge::FORMAT_ND});
    this->Output("ip_weights_out").ParamType(REQUIRED).DataType({ge::DT_FLOAT16}).Format({ge::FORMAT_ND});
    this->Attr("mla_epsilon_cq").AttrType(OPTIONAL).Float(1e-05);
    this->Attr("mla_epsilon_ckv").AttrType(OPTIONAL).Float(1e-05);
    this->Attr("ip_attrs_layernorm_epsilon_k").AttrType(OPTIONAL).Float(1e-06);
    this->SetInferShape(InferShape<kOp, kMlaIndexerPrologQuantOutputs>);
    this->SetInferDataType(InferDataType<kMlaIndexerPrologQuantOutputs>);
    this->AICore().SetTiling(TileMlaIndexerPrologQuant);
    OpAICoreConfig config = KernelConfig("mla_indexer_prolog_quant");
    this->AICore().AddConfig("ascend910b", config);
    this->AICore().AddConfig("ascend910_93", config);
  }
};

OP_ADD(MsDsaMlaIndexerPrologQuant);

}  // namespace ops
