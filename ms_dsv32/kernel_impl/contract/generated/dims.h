// Generated from op_info/dims.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include <cstdint>

namespace ms_dsv32::op_info {

inline constexpr int64_t kH = 7168;  // hidden size
inline constexpr int64_t kNKv = 1;  // latent key-value heads
inline constexpr int64_t kQLoraRank = 1536;  // rank of the query latent
inline constexpr int64_t kKvLoraRank = 512;  // rank of the key-value latent
inline constexpr int64_t kRopeDim = 64;  // rotated dimensions of a query or key
inline constexpr int64_t kQkNopeHeadDim = 128;  // unrotated dimensions of a query head
inline constexpr int64_t kQHeadDim = 192;  // qk_nope_head_dim + rope_dim
inline constexpr int64_t kVHeadDim = 128;  // dimensions of a head's value
inline constexpr int64_t kKScaleGroups = 4;  // scales of one latent key: one for each 128 of kv_lora_rank
inline constexpr int64_t kIdxNHeads = 64;  // indexer heads
inline constexpr int64_t kIdxHeadDim = 128;  // dimensions of an indexer head
inline constexpr int64_t kBlockSize = 128;  // tokens of one cache block

// `equals` is a product of two dims or empty; max -1 is no bound.
struct DimInfo {
  const char* name;
  int64_t min;
  int64_t max;
  const char* equals[2];
};
inline constexpr DimInfo kDims[] = {
    {"b", 0, -1, {nullptr, nullptr}},
    {"s1", 0, -1, {nullptr, nullptr}},
    {"t", 0, -1, {"b", "s1"}},
    {"h", 7168, 7168, {nullptr, nullptr}},
    {"n_q", 1, 128, {nullptr, nullptr}},
    {"n_kv", 1, 1, {nullptr, nullptr}},
    {"q_lora_rank", 1536, 1536, {nullptr, nullptr}},
    {"kv_lora_rank", 512, 512, {nullptr, nullptr}},
    {"rope_dim", 64, 64, {nullptr, nullptr}},
    {"qk_nope_head_dim", 128, 128, {nullptr, nullptr}},
    {"q_head_dim", 192, 192, {nullptr, nullptr}},
    {"v_head_dim", 128, 128, {nullptr, nullptr}},
    {"k_scale_groups", 4, 4, {nullptr, nullptr}},
    {"idx_n_heads", 64, 64, {nullptr, nullptr}},
    {"idx_head_dim", 128, 128, {nullptr, nullptr}},
    {"selected_count", 1, 2048, {nullptr, nullptr}},
    {"block_size", 128, 128, {nullptr, nullptr}},
    {"block_num", 0, -1, {nullptr, nullptr}},
    {"max_blocknum_perbatch", 0, -1, {nullptr, nullptr}},
};

}  // namespace ms_dsv32::op_info
