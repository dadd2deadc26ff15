// Generated from op_info/ by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include <vector>

#include "ms_dsv32/kernel_impl/contract/call.h"
#include "ms_dsv32/kernel_impl/contract/generated/operators.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_prolog_quant_params.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_quant_params.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_epilog_quant_params.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_indexer_prolog_quant_params.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_prolog_quant_params.h"
#include "ms_dsv32/kernel_impl/contract/generated/sparse_flash_attention_quant_params.h"

namespace ms_dsv32 {

// Fills the parameters of a kernel. What the caller of a fused operator does not see is left alone.
inline void Unpack(const Call& call, LightningIndexerPrologQuantParams& params) {
  using namespace op_info::lightning_indexer_prolog_quant;
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
  params.k_cache = call.Data<int8_t>(kKCache);
  params.k_cache_scale = call.Data<uint16_t>(kKCacheScale);
  params.k_cache_index = call.Data<const int64_t>(kKCacheIndex);
  params.layernorm_epsilon_k = call.Float("layernorm_epsilon_k");
  params.q_int8 = call.Data<int8_t>(kQInt8Out);
  params.q_scale = call.Data<uint16_t>(kQScaleOut);
  params.weights = call.Data<uint16_t>(kWeightsOut);
}

inline void Unpack(const Call& call, const std::vector<QueryToken>& tokens, LightningIndexerQuantParams& params) {
  using namespace op_info::lightning_indexer_quant;
  params.t = static_cast<int64_t>(tokens.size());
  params.selected_count = call.Dim("selected_count");
  params.max_blocknum_perbatch = call.Dim("max_blocknum_perbatch");
  params.q_int8 = call.Data<const int8_t>(kQInt8);
  params.q_scale = call.Data<const uint16_t>(kQScale);
  params.weights = call.Data<const uint16_t>(kWeights);
  params.k_cache = call.Data<const int8_t>(kKCache);
  params.k_cache_scale = call.Data<const uint16_t>(kKCacheScale);
  params.block_table = call.Data<const int32_t>(kBlockTable);
  params.topk_indices = call.Data<int32_t>(kTopkIndices);
  params.tokens = tokens.data();
}

inline void Unpack(const Call& call, MlaEpilogQuantParams& params) {
  using namespace op_info::mla_epilog_quant;
  params.t = call.Dim("t");
  params.n_q = call.Dim("n_q");
  params.packed = call.Packed();
  params.attention_out = call.Data<const uint16_t>(kAttentionOut);
  params.w_uv = call.Data<const uint16_t>(kWUv);
  params.w_o = call.Data<const int8_t>(kWO);
  params.w_o_scale = call.Data<const float>(kWOScale);
  params.hidden = call.Data<uint16_t>(kHiddenOut);
}

inline void Unpack(const Call& call, MlaIndexerPrologQuantParams& params) {
  using namespace op_info::mla_indexer_prolog_quant;
  params.mla.t = call.Dim("t");
  params.mla.n_q = call.Dim("n_q");
  params.mla.packed = call.Packed();
  params.mla.token_x = call.Data<const uint16_t>(kTokenX);
  params.mla.w_dq = call.Data<const uint16_t>(kMlaWDq);
  params.mla.w_uq_qr = call.Data<const int8_t>(kMlaWUqQr);
  params.mla.dequant_scale = call.Data<const float>(kMlaDequantScale);
  params.mla.w_uk = call.Data<const uint16_t>(kMlaWUk);
  params.mla.w_dkv_kr = call.Data<const uint16_t>(kMlaWDkvKr);
  params.mla.gamma_cq = call.Data<const uint16_t>(kMlaGammaCq);
  params.mla.gamma_ckv = call.Data<const uint16_t>(kMlaGammaCkv);
  params.mla.cos = call.Data<const uint16_t>(kCos);
  params.mla.sin = call.Data<const uint16_t>(kSin);
  params.mla.cache_index = call.Data<const int64_t>(kCacheIndex);
  params.mla.kv_cache = call.Data<int8_t>(kMlaKvCache);
  params.mla.kr_cache = call.Data<uint16_t>(kMlaKrCache);
  params.mla.k_scale_cache = call.Data<float>(kMlaKScaleCache);
  params.mla.epsilon_cq = call.Float("mla_epsilon_cq");
  params.mla.epsilon_ckv = call.Float("mla_epsilon_ckv");
  params.mla.q_nope = call.Data<uint16_t>(kMlaQueryNopeOut);
  params.mla.q_rope = call.Data<uint16_t>(kMlaQueryRopeOut);
  params.indexer.t = params.mla.t;
  params.indexer.packed = params.mla.packed;
  params.indexer.x = call.Data<const uint16_t>(kTokenX);
  params.indexer.w_qb = call.Data<const int8_t>(kIpWQbIn);
  params.indexer.w_qb_scale = call.Data<const float>(kIpWQbScaleIn);
  params.indexer.wk = call.Data<const uint16_t>(kIpWkIn);
  params.indexer.w_proj = call.Data<const uint16_t>(kIpWProjIn);
  params.indexer.ln_gamma_k = call.Data<const uint16_t>(kIpLnGammaKIn);
  params.indexer.ln_beta_k = call.Data<const uint16_t>(kIpLnBetaKIn);
  params.indexer.cos_idx_rope = call.Data<const uint16_t>(kCos);
  params.indexer.sin_idx_rope = call.Data<const uint16_t>(kSin);
  params.indexer.hadamard_q = call.Data<const uint16_t>(kIpHadamardQIn);
  params.indexer.hadamard_k = call.Data<const uint16_t>(kIpHadamardKIn);
  params.indexer.k_cache = call.Data<int8_t>(kIpKCache);
  params.indexer.k_cache_scale = call.Data<uint16_t>(kIpKCacheScale);
  params.indexer.k_cache_index = call.Data<const int64_t>(kCacheIndex);
  params.indexer.layernorm_epsilon_k = call.Float("ip_attrs.layernorm_epsilon_k");
  params.indexer.q_int8 = call.Data<int8_t>(kIpQInt8Out);
  params.indexer.q_scale = call.Data<uint16_t>(kIpQScaleOut);
  params.indexer.weights = call.Data<uint16_t>(kIpWeightsOut);
}

inline void Unpack(const Call& call, MlaPrologQuantParams& params) {
  using namespace op_info::mla_prolog_quant;
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
  params.kv_cache = call.Data<int8_t>(kKvCache);
  params.kr_cache = call.Data<uint16_t>(kKrCache);
  params.k_scale_cache = call.Data<float>(kKScaleCache);
  params.epsilon_cq = call.Float("epsilon_cq");
  params.epsilon_ckv = call.Float("epsilon_ckv");
  params.q_norm = call.Data<int8_t>(kQNormOut);
  params.q_norm_scale = call.Data<float>(kQNormScaleOut);
  params.q_nope = call.Data<uint16_t>(kQueryNopeOut);
  params.q_rope = call.Data<uint16_t>(kQueryRopeOut);
}

inline void Unpack(const Call& call, const std::vector<QueryToken>& tokens, SparseFlashAttentionQuantParams& params) {
  using namespace op_info::sparse_flash_attention_quant;
  params.t = static_cast<int64_t>(tokens.size());
  params.n_q = call.Dim("n_q");
  params.selected_count = call.Dim("selected_count");
  params.max_blocknum_perbatch = call.Dim("max_blocknum_perbatch");
  params.query_nope = call.Data<const uint16_t>(kQueryNope);
  params.query_rope = call.Data<const uint16_t>(kQueryRope);
  params.key_nope_2d = call.Data<const int8_t>(kKeyNope2d);
  params.key_rope_2d = call.Data<const uint16_t>(kKeyRope2d);
  params.k_nope_scales = call.Data<const float>(kKNopeScales);
  params.topk_indices = call.Data<const int32_t>(kTopkIndices);
  params.block_table = call.Data<const int32_t>(kBlockTable);
  params.softmax_scale = call.Float("softmax_scale");
  params.attention = call.Data<uint16_t>(kAttentionOut);
  params.lse = call.Data<float>(kLse);
  params.tokens = tokens.data();
}

}  // namespace ms_dsv32
