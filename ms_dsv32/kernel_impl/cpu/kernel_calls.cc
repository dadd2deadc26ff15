// The CPU kernel of a call: its arguments as the kernel's parameters.
#include "ms_dsv32/kernel_impl/cpu/kernel_calls.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_prolog_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_epilog_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_indexer_prolog_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_prolog_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/sparse_flash_attention_quant.h"
#include "ms_dsv32/kernel_impl/contract/query_tokens.h"
#include "ms_dsv32/kernel_impl/cpu/dispatch.h"
#include "ms_dsv32/kernel_impl/cpu/isa/lightning_indexer_prolog_quant.h"
#include "ms_dsv32/kernel_impl/cpu/isa/lightning_indexer_quant.h"
#include "ms_dsv32/kernel_impl/cpu/isa/mla_epilog_quant.h"
#include "ms_dsv32/kernel_impl/cpu/isa/mla_indexer_prolog_quant.h"
#include "ms_dsv32/kernel_impl/cpu/isa/mla_prolog_quant.h"
#include "ms_dsv32/kernel_impl/cpu/isa/sparse_flash_attention_quant.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

namespace ms_dsv32 {
namespace {

// The inputs of mla_prolog_quant; mla_indexer_prolog_quant's begin with the same ones.
cpu::MlaPrologQuantParams MlaInputs(const Call& call, const char* epsilon_cq, const char* epsilon_ckv) {
  using namespace op_info::mla_prolog_quant;
  static_assert(static_cast<int>(kKScaleCache) == op_info::mla_indexer_prolog_quant::kMlaKScaleCache);
  cpu::MlaPrologQuantParams params{};
  params.t = call.Dim("t");
  params.n_q = call.Dim("n_q");
  params.packed = call.Packed();
  params.token_x = call.Data<const uint16_t>(kTokenX);
  params.w_dq = call.Data<const uint16_t>(kWDq);
  params.w_uq_qr = call.Data<const int8_t>(kWUqQr);
  params.dequant_scale = call.Data<const float>(kDequantScale);
  params.w_uk = call.Data<const uint16_t>(kWUk);
  params.w_dkv_kr = call.Data<const uint16_t>(kWDkvKr);
  params.gamma_cq = call.Data<const uint16_t>(kGammaCq);
  params.gamma_ckv = call.Data<const uint16_t>(kGammaCkv);
  params.cos = call.Data<const uint16_t>(kCos);
  params.sin = call.Data<const uint16_t>(kSin);
  params.cache_index = call.Data<const int64_t>(kCacheIndex);
  params.epsilon_cq = call.Float(epsilon_cq);
  params.epsilon_ckv = call.Float(epsilon_ckv);
  params.kv_cache = call.Data<int8_t>(kKvCache);
  params.kr_cache = call.Data<uint16_t>(kKrCache);
  params.k_scale_cache = call.Data<float>(kKScaleCache);
  return params;
}

void RunMlaPrologQuant(const Call& call) {
  using namespace op_info::mla_prolog_quant;
  cpu::MlaPrologQuantParams params = MlaInputs(call, "epsilon_cq", "epsilon_ckv");
  params.q_norm = call.Data<int8_t>(kQNormOut);
  params.q_norm_scale = call.Data<float>(kQNormScaleOut);
  params.q_nope = call.Data<uint16_t>(kQueryNopeOut);
  params.q_rope = call.Data<uint16_t>(kQueryRopeOut);
  cpu::Kernels().mla_prolog_quant(params);
}

void RunLightningIndexerPrologQuant(const Call& call) {
  using namespace op_info::lightning_indexer_prolog_quant;
  cpu::LightningIndexerPrologQuantParams params{};
  params.t = call.Dim("t");
  params.packed = call.Packed();
  params.x = call.Data<const uint16_t>(kX);
  params.q_norm = call.Data<const int8_t>(kQNorm);
  params.q_norm_scale = call.Data<const float>(kQNormScale);
  params.w_qb = call.Data<const int8_t>(kWQb);
  params.w_qb_scale = call.Data<const float>(kWQbScale);
  params.wk = call.Data<const uint16_t>(kWk);
  params.w_proj = call.Data<const uint16_t>(kWProj);
  params.ln_gamma_k = call.Data<const uint16_t>(kLnGammaK);
  params.ln_beta_k = call.Data<const uint16_t>(kLnBetaK);
  params.cos_idx_rope = call.Data<const uint16_t>(kCosIdxRope);
  params.sin_idx_rope = call.Data<const uint16_t>(kSinIdxRope);
  params.hadamard_q = call.Data<const uint16_t>(kHadamardQ);
  params.hadamard_k = call.Data<const uint16_t>(kHadamardK);
  params.k_cache_index = call.Data<const int64_t>(kKCacheIndex);
  params.layernorm_epsilon_k = call.Float("layernorm_epsilon_k");
  params.k_cache = call.Data<int8_t>(kKCache);
  params.k_cache_scale = call.Data<uint16_t>(kKCacheScale);
  params.q_int8 = call.Data<int8_t>(kQInt8Out);
  params.q_scale = call.Data<uint16_t>(kQScaleOut);
  params.weights = call.Data<uint16_t>(kWeightsOut);
  cpu::Kernels().lightning_indexer_prolog_quant(params);
}

void RunMlaIndexerPrologQuant(const Call& call) {
  using namespace op_info::mla_indexer_prolog_quant;
  cpu::MlaIndexerPrologQuantParams params{};
  params.mla = MlaInputs(call, "mla_epsilon_cq", "mla_epsilon_ckv");
  params.mla.q_nope = call.Data<uint16_t>(kMlaQueryNopeOut);
  params.mla.q_rope = call.Data<uint16_t>(kMlaQueryRopeOut);
  params.indexer.w_qb = call.Data<const int8_t>(kIpWQbIn);
  params.indexer.w_qb_scale = call.Data<const float>(kIpWQbScaleIn);
  params.indexer.wk = call.Data<const uint16_t>(kIpWkIn);
  params.indexer.w_proj = call.Data<const uint16_t>(kIpWProjIn);
  params.indexer.ln_gamma_k = call.Data<const uint16_t>(kIpLnGammaKIn);
  params.indexer.ln_beta_k = call.Data<const uint16_t>(kIpLnBetaKIn);
  params.indexer.hadamard_q = call.Data<const uint16_t>(kIpHadamardQIn);
  params.indexer.hadamard_k = call.Data<const uint16_t>(kIpHadamardKIn);
  params.indexer.layernorm_epsilon_k = call.Float("ip_attrs.layernorm_epsilon_k");
  params.indexer.k_cache = call.Data<int8_t>(kIpKCache);
  params.indexer.k_cache_scale = call.Data<uint16_t>(kIpKCacheScale);
  params.indexer.q_int8 = call.Data<int8_t>(kIpQInt8Out);
  params.indexer.q_scale = call.Data<uint16_t>(kIpQScaleOut);
  params.indexer.weights = call.Data<uint16_t>(kIpWeightsOut);
  cpu::Kernels().mla_indexer_prolog_quant(params);
}

// Fills the rows of an output that belong to padding, the tokens [begin, end), of which each has `width` elements.
template <typename T>
void FillPadding(T* output, int64_t begin, int64_t end, int64_t width, T value) {
  cpu::ParallelFor(end - begin, [=](int64_t i, int) { std::fill_n(output + (begin + i) * width, width, value); });
}

void RunSparseFlashAttentionQuant(const Call& call) {
  using namespace op_info::sparse_flash_attention_quant;
  const std::vector<QueryToken> tokens = QueryTokens(call, kKvActSeqs, kQueryActSeqs);
  cpu::SparseFlashAttentionQuantParams params{};
  params.query_nope = call.Data<const uint16_t>(kQueryNope);
  params.query_rope = call.Data<const uint16_t>(kQueryRope);
  params.key_nope_2d = call.Data<const int8_t>(kKeyNope2d);
  params.key_rope_2d = call.Data<const uint16_t>(kKeyRope2d);
  params.k_nope_scales = call.Data<const float>(kKNopeScales);
  params.topk_indices = call.Data<const int32_t>(kTopkIndices);
  params.block_table = call.Data<const int32_t>(kBlockTable);
  params.tokens = tokens.data();
  params.attention_out = call.Data<uint16_t>(kAttentionOut);
  params.lse = call.Data<float>(kLse);
  params.t = static_cast<int64_t>(tokens.size());
  params.n_q = call.Dim("n_q");
  params.selected_count = call.Dim("selected_count");
  params.max_blocknum_perbatch = call.Dim("max_blocknum_perbatch");
  params.softmax_scale = call.Float("softmax_scale");
  cpu::Kernels().sparse_flash_attention_quant(params);
  const int64_t t = call.Dim("t");
  FillPadding<uint16_t>(params.attention_out, params.t, t, params.n_q * op_info::kKvLoraRank, 0);
  FillPadding(params.lse, params.t, t, params.n_q, -std::numeric_limits<float>::infinity());
}

void RunLightningIndexerQuant(const Call& call) {
  using namespace op_info::lightning_indexer_quant;
  const std::vector<QueryToken> tokens = QueryTokens(call, kKvActSeqs, kQueryActSeqs);
  cpu::LightningIndexerQuantParams params{};
  params.q_int8 = call.Data<const int8_t>(kQInt8);
  params.q_scale = call.Data<const uint16_t>(kQScale);
  params.weights = call.Data<const uint16_t>(kWeights);
  params.k_cache = call.Data<const int8_t>(kKCache);
  params.k_cache_scale = call.Data<const uint16_t>(kKCacheScale);
  params.block_table = call.Data<const int32_t>(kBlockTable);
  params.tokens = tokens.data();
  params.topk_indices = call.Data<int32_t>(kTopkIndices);
  params.t = static_cast<int64_t>(tokens.size());
  params.selected_count = call.Dim("selected_count");
  params.max_blocknum_perbatch = call.Dim("max_blocknum_perbatch");
  cpu::Kernels().lightning_indexer_quant(params);
  FillPadding(params.topk_indices, params.t, call.Dim("t"), params.selected_count, -1);
}

void RunMlaEpilogQuant(const Call& call) {
  using namespace op_info::mla_epilog_quant;
  cpu::MlaEpilogQuantParams params{};
  params.t = call.Dim("t");
  params.n_q = call.Dim("n_q");
  params.packed = call.Packed();
  params.attention_out = call.Data<const uint16_t>(kAttentionOut);
  params.w_uv = call.Data<const uint16_t>(kWUv);
  params.w_o = call.Data<const int8_t>(kWO);
  params.w_o_scale = call.Data<const float>(kWOScale);
  params.hidden_out = call.Data<uint16_t>(kHiddenOut);
  cpu::Kernels().mla_epilog_quant(params);
}

struct Kernel {
  const op_info::OpInfo& op;
  void (*run)(const Call& call);
};

constexpr Kernel kKernels[] = {
    {op_info::mla_prolog_quant::kOp, RunMlaPrologQuant},
    {op_info::lightning_indexer_prolog_quant::kOp, RunLightningIndexerPrologQuant},
    {op_info::mla_indexer_prolog_quant::kOp, RunMlaIndexerPrologQuant},
    {op_info::sparse_flash_attention_quant::kOp, RunSparseFlashAttentionQuant},
    {op_info::lightning_indexer_quant::kOp, RunLightningIndexerQuant},
    {op_info::mla_epilog_quant::kOp, RunMlaEpilogQuant},
};

}  // namespace

void RunKernel(const Call& call) {
  for (const Kernel& kernel : kKernels) {
    if (&kernel.op == &call.Op()) return kernel.run(call);
  }
  throw std::logic_error(std::string("ms_dsv32: no kernel for ") + call.Op().name);
}

}  // namespace ms_dsv32
