// Attention with heads as rows of scores, for all instruction sets but those of attention_heads.h. The strips of gemm.h
// are made of keys, so that what a product does to its weights is done once for all heads.
//
// Tokens are taken in waves. A token in flight keeps its scores (n_q x 2048 float32, 1 MiB) and its dequantised keys as
// the strips of p . v (2048 x 512 bf16, 2 MiB), because the probabilities are rounded to bf16 only after the exact
// normalisation. The stages of a wave are cut into items of (token, keys), (token, heads), (token, columns, heads), so
// that a single token occupies all threads too. Each element of a product is one chain over ascending k (gemm.h), and
// each softmax row is one item, so no cut changes a result.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_STRIPS_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_STRIPS_H_

#include "ms_dsv32/kernel_impl/contract/generated/sparse_flash_attention_quant_params.h"
#include "ms_dsv32/kernel_impl/cpu/isa/attention_token.h"
#include "ms_dsv32/kernel_impl/cpu/isa/gather.h"
#include "ms_dsv32/kernel_impl/cpu/isa/gemm.h"
#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"
#include "ms_dsv32/kernel_impl/cpu/isa/softmax.h"
#include "ms_dsv32/kernel_impl/cpu/scratch.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"
#include "ms_dsv32/kernel_impl/cpu/verbose.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int64_t kWaveTokens = 32;      // tokens in flight, 3.1 MiB each
constexpr int64_t kTokensPerThread = 2;  // tokens in flight, so that threads seldom wait at the end of a stage
constexpr int64_t kItemsPerThread = 4;   // the same, where a few tokens are cut into items
// Keys of one item: their K strips are 72 KiB for each 64, and stay in L2 while all heads use them.
constexpr int64_t kTileKeys = 128;
constexpr int64_t kSoftmaxHeads = 8;
// Columns of one item, in panels: with 64 KiB of sums for 128 heads, a block of the V strips and the heads' P stay
// in L2.
constexpr int64_t kOutPanels = 2;
static_assert(kLatentDim % kBf16Cut == 0, "q . k is cut between a key's parts");
constexpr int64_t kMinHeads = 4 * kMaxTileRows;  // fewer rows would not repay loading the strips

struct Token {
  int64_t count;   // valid entries
  int64_t padded;  // count, rounded up to a multiple of 64
};

// max_keys: the most entries that a token reads.
inline void AttentionByStrips(const SparseFlashAttentionQuantParams& p, int64_t max_keys) {
  const int64_t t = p.t;
  max_keys = RoundUp(max_keys, kPanel);

  const int threads = NumThreads();
  const int64_t wave_tokens = Min(t, Min<int64_t>(kWaveTokens, kTokensPerThread * threads));
  const int64_t tile_keys = wave_tokens * CeilDiv(max_keys, kTileKeys) < kItemsPerThread * threads ? kPanel : kTileKeys;
  const int64_t tiles = CeilDiv(max_keys, tile_keys);
  const int64_t softmax_items = CeilDiv(p.n_q, kSoftmaxHeads);
  const int64_t column_items = kLatentPanels / kOutPanels;
  const int64_t head_items =
      Max<int64_t>(1, Min(p.n_q / kMinHeads, CeilDiv(kItemsPerThread * threads, wave_tokens * column_items)));
  const int64_t head_step = CeilDiv(p.n_q, head_items);
  if (kVerbose) {
    const PlanItem items[] = {
        {"heads_as_columns", 0}, {"wave_tokens", wave_tokens}, {"item_keys", tile_keys}, {"item_heads", head_step}};
    TellPlan("sparse_flash_attention_quant", items);
  }
  // Rows of the scores, and strips of V, are a line longer than a power of two, so that neighbours do not share cache
  // sets.
  const int64_t score_stride = max_keys + 16;
  const int64_t v_strip_stride = max_keys * kStrip + 32;
  const int64_t v_size = kLatentDim / kStrip * v_strip_stride;

  ScratchPlan plan;
  const auto token_part = plan.Add<Token>(wave_tokens);
  const auto row_part = plan.Add<int64_t>(wave_tokens * max_keys);
  const auto score_part = plan.Add<float>(wave_tokens * p.n_q * score_stride);
  const auto v_part = plan.Add<uint16_t>(wave_tokens * v_size);
  const auto k_part = plan.Add<uint16_t>(threads * kTileKeys * kKeyDim);
  const auto buffer_part = plan.Add<uint16_t>(threads * kGatherKeys * kKeyDim);
  const auto out_part = plan.Add<float>(threads * head_step * kOutPanels * kPanel);
  const Scratch scratch(plan);
  Token* tokens = scratch[token_part];
  int64_t* rows = scratch[row_part];
  float* scores = scratch[score_part];
  uint16_t* v_strips = scratch[v_part];
  uint16_t* k_strips = scratch[k_part];
  uint16_t* buffers = scratch[buffer_part];
  float* outs = scratch[out_part];
  const LatentCache cache = {p.key_nope_2d, p.key_rope_2d, p.k_nope_scales};

  for (int64_t first = 0; first < t; first += wave_tokens) {
    const int64_t wave = Min(wave_tokens, t - first);

    // (1) cache rows of the valid entries
    ParallelFor(wave, [&](int64_t w, int) {
      const int64_t count = SelectRows(p, first + w, rows + w * max_keys);
      tokens[w] = {count, RoundUp(count, kPanel)};
    });

    // (2) gather and dequantise, (3) q . k
    ParallelFor(wave * tiles, [&](int64_t item, int thread) {
      const int64_t w = item / tiles, begin = item % tiles * tile_keys;
      const Token token = tokens[w];
      if (begin >= token.padded) return;
      const int64_t keys = Min(tile_keys, token.padded - begin);
      const int64_t count = Min(keys, token.count - begin);
      uint16_t* k = k_strips + thread * kTileKeys * kKeyDim;
      GatherKeys(cache, rows + w * max_keys + begin, count, token.count - begin - count, keys, k,
                 v_strips + w * v_size + begin * kStrip, v_strip_stride, buffers + thread * kGatherKeys * kKeyDim);
      const int64_t query = (first + w) * p.n_q;
      const int panels = static_cast<int>(keys / kPanel);
      float* s = scores + w * p.n_q * score_stride + begin;
      GemmBf16({p.query_nope + query * kLatentDim, kLatentDim, p.n_q}, {k, kStrip * kKeyDim, panels}, kLatentDim,
               {s, score_stride, false});
      GemmBf16({p.query_rope + query * kRopeKeyDim, kRopeKeyDim, p.n_q},
               {k + kLatentDim * kStrip, kStrip * kKeyDim, panels}, kRopeKeyDim, {s, score_stride, true});
    });

    // (4) softmax, bf16(p)
    ParallelFor(wave * softmax_items, [&](int64_t item, int) {
      const int64_t w = item / softmax_items;
      const Token token = tokens[w];
      const int64_t begin = item % softmax_items * kSoftmaxHeads, end = Min(begin + kSoftmaxHeads, p.n_q);
      for (int64_t h = begin; h < end; ++h) {
        float lse = -__builtin_inff();
        if (token.count > 0) {
          lse = SoftmaxRow(scores + (w * p.n_q + h) * score_stride, token.count, token.padded, p.softmax_scale);
        }
        p.lse[(first + w) * p.n_q + h] = lse;
      }
    });

    // (5) p . v
    ParallelFor(wave * column_items * head_items, [&](int64_t item, int thread) {
      const int64_t w = item / (column_items * head_items);
      const int64_t head = item % head_items * head_step, heads = Min(head_step, p.n_q - head);
      if (heads <= 0) return;
      const int64_t panel = item / head_items % column_items * kOutPanels;
      const Token token = tokens[w];
      uint16_t* attention_out = p.attention + ((first + w) * p.n_q + head) * kLatentDim + panel * kPanel;
      if (token.count == 0) {
        for (int64_t h = 0; h < heads; ++h)
          memset(attention_out + h * kLatentDim, 0, kOutPanels * kPanel * sizeof(uint16_t));
        return;
      }
      float* out = outs + thread * head_step * kOutPanels * kPanel;
      const float* probabilities = scores + (w * p.n_q + head) * score_stride;  // bf16, in the first half of each row
      const uint16_t* v = v_strips + w * v_size + panel * (kPanel / kStrip) * v_strip_stride;
      GemmBf16({reinterpret_cast<const uint16_t*>(probabilities), 2 * score_stride, heads},
               {v, v_strip_stride, kOutPanels}, token.padded, {out, kOutPanels * kPanel, false});
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t c = 0; c < kOutPanels * kPanel; c += kLanes) {
          StoreBf16(attention_out + h * kLatentDim + c, LoadF(out + h * kOutPanels * kPanel + c));
        }
      }
    });
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_STRIPS_H_
