// Attention with heads as columns of scores, for instruction sets that multiply pairs of bf16 as they are
// (attention_tiles.h).
//
// A token in flight keeps its query as columns (n_q x 1152 bytes) and its scores (n_q x 2048 float32, 1 MiB), because
// the probabilities are rounded to bf16 only after the exact normalisation. Keys are dequantised twice, for q . k as
// rows and for p . v as pairs, 64 dims of all keys at a time: keeping pairs would take 2 MiB, and the gathered keys as
// they are take 1 MiB.
//
// While there are as many tokens as threads, each thread takes whole tokens, in memory of its own and without a
// barrier. The tokens that are left are fewer than threads, and their stages are cut into items. Each element of a
// product is one chain, and each head's softmax is one item, so no cut changes a result.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_HEADS_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_HEADS_H_

#include "ms_dsv32/kernel_impl/contract/generated/sparse_flash_attention_quant_params.h"
#include "ms_dsv32/kernel_impl/cpu/isa/attention_operands.h"
#include "ms_dsv32/kernel_impl/cpu/isa/attention_tiles.h"
#include "ms_dsv32/kernel_impl/cpu/isa/attention_token.h"
#include "ms_dsv32/kernel_impl/cpu/isa/softmax.h"
#include "ms_dsv32/kernel_impl/cpu/scratch.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"
#include "ms_dsv32/kernel_impl/cpu/verbose.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

// Where a few tokens are cut into items, each thread has four, so that it seldom waits at the end of a stage. Items of
// keys have up to eight blocks, because the first block of an item must be dequantised before anything is multiplied.
constexpr int64_t kThreadItems = 4;
constexpr int64_t kItemBlocks = 8;

// Softmax of 16 heads, in place: scores [padded][16] to probabilities [padded / 32][16][32], bf16(exp(s * scale - top)
// / sum), top = max(s * scale), and 0 for count <= key < padded. lse[16] = top + ln(sum). count > 0. A NaN or +infinity
// in a score makes the head NaN. It normalises as SoftmaxRow does.
inline void SoftmaxHeads(float* s, int64_t count, int64_t padded, float scale, float* lse) {
  constexpr int kChains = 4;  // independent of each other, so that additions do not wait
  const VecF least = Set1(-__builtin_inff());
  VecF best[kChains] = {least, least, least, least};
  for (int64_t i = 0; i < count; i += kChains) {
#pragma GCC unroll 4
    for (int u = 0; u < kChains; ++u) {
      if (i + u < count) best[u] = Max(best[u], LoadF(s + (i + u) * kStrip) * scale);
    }
  }
  const VecF top = Max(Max(best[0], best[1]), Max(best[2], best[3]));
  VecF sums[kChains] = {};
  for (int64_t i = 0; i < count; i += kChains) {
#pragma GCC unroll 4
    for (int u = 0; u < kChains; ++u) {
      if (i + u < count) {
        const VecF e = ExpNonPositive(LoadF(s + (i + u) * kStrip) * scale - top);
        StoreF(s + (i + u) * kStrip, e);
        sums[u] += e;
      }
    }
  }
  const VecF sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (int64_t i = count; i < padded; ++i) StoreF(s + i * kStrip, VecF{});
  const VecF inverse = 1.0f / sum;
  auto* p = reinterpret_cast<uint32_t*>(s);
  for (int64_t i = 0; i < padded; i += kLink) {
    alignas(64) uint32_t pairs[kTileWords];  // [16 pairs of keys][16 heads]
    for (int j = 0; j < kLinkWords; ++j) {
      const VecF even = LoadF(s + (i + 2 * j) * kStrip) * inverse, odd = LoadF(s + (i + 2 * j + 1) * kStrip) * inverse;
      StoreAs(pairs + j * kStrip, ZipBf16(even, odd));
    }
    TransposeWords(pairs, kStrip, p + i / kLink * kTileWords);
  }
  float tops[kStrip], all[kStrip];
  StoreF(tops, top);
  StoreF(all, sum);
  for (int h = 0; h < kStrip; ++h) lse[h] = OneNan(tops[h] + __builtin_logf(all[h]));
}

class HeadsAttention {
 public:
  // Memory of a token in flight.
  struct Place {
    int64_t* rows;    // rows of the caches, [max_keys]
    int8_t* nope;     // keys as they are, [kOutItems] nope_stride apart: [max_keys][kOutDims]
    float* scales;    // [max_keys][4]
    uint32_t* query;  // [strips][288][16]
    float* scores;    // [strips] score_stride apart: [max_keys][16], then probabilities [max_keys / 32][16][32]
    int64_t token;
    int64_t count;   // valid entries
    int64_t padded;  // count, rounded up to a multiple of 32
  };
  // Memory of a thread.
  struct Buffers {
    uint16_t* keys;  // [kBuffers][kBlockKeys][kKeyRow]
    uint32_t* v;     // [kBuffers][kOutStrips] v_stride apart: [kOutKeys / 2][16]
    float* sums;     // [strips][kOutStrips][16][16]
  };

  MS_DSV32_INLINE HeadsAttention(const SparseFlashAttentionQuantParams& p, int64_t max_keys)
      : p_(p),
        cache_{{p.key_nope_2d, p.key_rope_2d, p.k_nope_scales}},
        max_keys_(RoundUp(max_keys, kLink)),
        strips_(CeilDiv(p.n_q, kStrip)),
        // Strips are a line longer than a power of two, so that neighbours do not share cache sets.
        score_stride_(max_keys_ * kStrip + kStrip),
        nope_stride_(max_keys_ * kOutDims + kCacheLine),
        v_stride_(Min(max_keys_, kOutKeys) / 2 * kStrip + kStrip) {}

  MS_DSV32_INLINE int64_t Strips() const { return strips_; }

  // The next parts of a plan, in its block. The block is null while the plan is made.
  MS_DSV32_INLINE Place AddPlace(ScratchPlan& plan, char* block) const {
    Place place = {};
    place.rows = In(block, plan.Add<int64_t>(max_keys_));
    place.nope = In(block, plan.Add<int8_t>(kOutItems * nope_stride_));
    place.scales = In(block, plan.Add<float>(max_keys_ * kScaleGroups));
    place.query = In(block, plan.Add<uint32_t>(strips_ * kQueryStripWords));
    place.scores = In(block, plan.Add<float>(strips_ * score_stride_));
    return place;
  }
  MS_DSV32_INLINE Buffers AddBuffers(ScratchPlan& plan, char* block) const {
    return {In(block, plan.Add<uint16_t>(kBuffers * kBlockKeys * kKeyRow)),
            In(block, plan.Add<uint32_t>(kBuffers * kOutStrips * v_stride_)),
            In(block, plan.Add<float>(strips_ * kOutStrips * kStripSums))};
  }

  // (1) cache rows of the valid entries. Fetches their first block.
  void Select(int64_t token, Place& place) const {
    place.token = token;
    place.count = SelectRows(p_, token, place.rows);
    place.padded = RoundUp(place.count, kLink);
    FetchKeys fetch = Fetch(place, 0, kBlockKeys * kKeyLines);
    fetch();
  }

  // Packs the query of a strip of heads as columns, for (3).
  void Pack(int64_t token, int64_t strip, const Place& place) const {
    const int64_t head = token * p_.n_q + strip * kStrip;
    PackQuery(p_.query_nope + head * kLatentDim, p_.query_rope + head * kRopeKeyDim, Heads(strip),
              place.query + strip * kQueryStripWords);
  }

  // (2) gather and dequantise, (3) q . k of keys [begin, end). While a block is multiplied, the next one is dequantised
  // and the one after that is fetched. `next` is the key with which this thread continues after `end`.
  void Score(const Place& place, int64_t begin, int64_t end, int64_t next, const Buffers& buffers) const {
    [[maybe_unused]] const AttentionTiles tiles;
    const int64_t steps = KeySteps(strips_);
    const auto dequant = [&](int64_t key, uint16_t * out) __attribute__((always_inline)) {
      const int64_t after = key + kBlockKeys;
      return DequantKeys{
          cache_,
          place.rows,
          place.count,
          key,
          Min(after, end),
          out,
          place.nope + key * kOutDims,
          nope_stride_,
          place.scales + key * kScaleGroups,
          CeilDiv(kBlockKeys * kScaleGroups, steps),
          Fetch(place, after < end ? after : next + after - end, CeilDiv(kBlockKeys * kKeyLines, steps))};
    };
    uint16_t* keys = buffers.keys;
    uint16_t* next_keys = buffers.keys + (kBuffers - 1) * kBlockKeys * kKeyRow;
    dequant(begin, keys).Finish();
    for (int64_t key = begin; key < end; key += kBlockKeys) {
      const int count = static_cast<int>(Min<int64_t>(kBlockKeys, end - key));
      DequantKeys ahead = dequant(key + kBlockKeys, next_keys);
      MultiplyKeys(keys, count, place.query, strips_, place.scores + key * kStrip, score_stride_, ahead);
      ahead.Finish();
      uint16_t* done = keys;
      keys = next_keys;
      next_keys = done;
    }
  }

  // (4) softmax, bf16(p)
  void Softmax(int64_t strip, const Place& place) const {
    float lse[kStrip];
    for (float& value : lse) value = -__builtin_inff();
    if (place.count > 0) {
      SoftmaxHeads(place.scores + strip * score_stride_, place.count, place.padded, p_.softmax_scale, lse);
    }
    memcpy(p_.lse + place.token * p_.n_q + strip * kStrip, lse, static_cast<size_t>(Heads(strip)) * sizeof(float));
  }

  // (5) p . v, items [begin, end) of kOutDims dims each, of the heads of strips [first, last). While keys are
  // multiplied, the next ones are dequantised.
  void Out(const Place& place, int64_t begin, int64_t end, int64_t first, int64_t last, const Buffers& buffers) const {
    const int64_t head = first * kStrip, heads = Min(last * kStrip, p_.n_q) - head;
    uint16_t* out = p_.attention + (place.token * p_.n_q + head) * kLatentDim;
    if (place.count == 0) {
      const auto bytes = static_cast<size_t>((end - begin) * kOutDims) * sizeof(uint16_t);
      for (int64_t h = 0; h < heads; ++h) memset(out + h * kLatentDim + begin * kOutDims, 0, bytes);
      return;
    }
    [[maybe_unused]] const AttentionTiles tiles;
    const auto dequant = [&](int64_t item, int64_t key, uint32_t * v, int64_t pairs) __attribute__((always_inline)) {
      return DequantValues{place.nope + item * nope_stride_,
                           place.scales + item * kOutDims / kGroupDim,
                           key,
                           item < end ? Min(key + kOutKeys, place.padded) : 0,
                           v,
                           v_stride_,
                           pairs};
    };
    const auto* p = reinterpret_cast<const uint32_t*>(place.scores + first * score_stride_);
    uint32_t* v = buffers.v;
    uint32_t* next_v = buffers.v + (kBuffers - 1) * kOutStrips * v_stride_;
    dequant(begin, 0, v, kOutKeys / 2).Finish();
    for (int64_t item = begin; item < end; ++item) {
      for (int64_t key = 0; key < place.padded; key += kOutKeys) {
        const int64_t links = Min(kOutKeys, place.padded - key) / kLink;
        const bool is_last = key + kOutKeys >= place.padded;
        DequantValues ahead = dequant(is_last ? item + 1 : item, is_last ? 0 : key + kOutKeys, next_v,
                                      CeilDiv(kOutKeys / 2, ValueSteps(heads, links)));
        MultiplyValues(p + key / kLink * kTileWords, score_stride_, heads, v, v_stride_, links, buffers.sums, key > 0,
                       ahead);
        ahead.Finish();
        uint32_t* done = v;
        v = next_v;
        next_v = done;
      }
      for (int64_t h = 0; h < heads; ++h) {
        const float* sums = buffers.sums + h / kStrip * kOutStrips * kStripSums + h % kStrip * kStrip;
#pragma GCC unroll 4
        for (int s = 0; s < kOutStrips; ++s) {
          StoreBf16(out + h * kLatentDim + item * kOutDims + s * kStrip, LoadF(sums + s * kStripSums));
        }
      }
    }
  }

 private:
  MS_DSV32_INLINE int64_t Heads(int64_t strip) const { return Min<int64_t>(kStrip, p_.n_q - strip * kStrip); }

  template <typename T>
  static MS_DSV32_INLINE T* In(char* block, ScratchPart<T> part) {
    return block == nullptr ? nullptr : part.In(block);
  }

  // A block of keys, `lines` lines with each call.
  MS_DSV32_INLINE FetchKeys Fetch(const Place& place, int64_t key, int64_t lines) const {
    return {cache_, place.rows, key, Min(key + kBlockKeys, place.count), lines};
  }

  const SparseFlashAttentionQuantParams& p_;
  const LatentCache cache_;
  const int64_t max_keys_;
  const int64_t strips_;
  const int64_t score_stride_;
  const int64_t nope_stride_;
  const int64_t v_stride_;
};

// max_keys: the most entries that a token reads.
inline void AttentionByHeads(const SparseFlashAttentionQuantParams& p, int64_t max_keys) {
  const int64_t t = p.t;
  const int64_t threads = NumThreads();
  const HeadsAttention attention(p, max_keys);
  const int64_t strips = attention.Strips();
  const int64_t whole = t / threads * threads, left = t - whole;
  const int64_t in_flight = Min(t, threads);

  ScratchPlan plan;
  const auto place_part = plan.Add<HeadsAttention::Place>(in_flight);
  const auto buffer_part = plan.Add<HeadsAttention::Buffers>(threads);
  ScratchPlan taken = plan;
  for (int64_t i = 0; i < in_flight; ++i) attention.AddPlace(plan, nullptr);
  for (int64_t i = 0; i < threads; ++i) attention.AddBuffers(plan, nullptr);
  const Scratch scratch(plan);
  auto* places = scratch[place_part];
  auto* buffers = scratch[buffer_part];
  char* block = scratch[ScratchPart<char>{0}];
  for (int64_t i = 0; i < in_flight; ++i) places[i] = attention.AddPlace(taken, block);
  for (int64_t i = 0; i < threads; ++i) buffers[i] = attention.AddBuffers(taken, block);

  if (kVerbose && whole > 0) {
    const PlanItem items[] = {{"heads_as_columns", 1}, {"token_threads", 1}};
    TellPlan("sparse_flash_attention_quant", items);
  }
  ParallelFor(whole, [&](int64_t token, int thread) {
    HeadsAttention::Place& place = places[thread];
    attention.Select(token, place);
    for (int64_t strip = 0; strip < strips; ++strip) attention.Pack(token, strip, place);
    attention.Score(place, 0, place.padded, place.padded, buffers[thread]);
    for (int64_t strip = 0; strip < strips; ++strip) attention.Softmax(strip, place);
    attention.Out(place, 0, kOutItems, 0, strips, buffers[thread]);
  });
  if (left == 0) return;

  ParallelFor(left * (strips + 1), [&](int64_t item, int) {
    const int64_t i = item / (strips + 1), part = item % (strips + 1);
    if (part == 0) {
      attention.Select(whole + i, places[i]);
    } else {
      attention.Pack(whole + i, part - 1, places[i]);
    }
  });
  const int64_t blocks = CeilDiv(RoundUp(max_keys, kLink), kBlockKeys);
  const int64_t item_keys = kBlockKeys * Max<int64_t>(1, Min(kItemBlocks, left * blocks / (kThreadItems * threads)));
  const int64_t key_items = CeilDiv(blocks * kBlockKeys, item_keys);
  const int64_t parts = Min(strips, CeilDiv(2 * threads, left * kOutItems));  // each dequantises for itself
  if (kVerbose) {
    const PlanItem items[] = {
        {"heads_as_columns", 1}, {"token_threads", threads}, {"item_keys", item_keys}, {"output_parts", parts}};
    TellPlan("sparse_flash_attention_quant", items);
  }
  ParallelFor(left * key_items, [&](int64_t item, int thread) {
    const HeadsAttention::Place& place = places[item / key_items];
    const int64_t begin = item % key_items * item_keys, end = Min(begin + item_keys, place.padded);
    // While all threads are equally fast, the other threads take the items in between.
    if (begin < end) attention.Score(place, begin, end, begin + threads * item_keys, buffers[thread]);
  });
  ParallelFor(left * strips, [&](int64_t item, int) { attention.Softmax(item % strips, places[item / strips]); });
  ParallelFor(left * kOutItems * parts, [&](int64_t item, int thread) {
    const int64_t part = item % parts, dims = item / parts % kOutItems;
    attention.Out(places[item / (parts * kOutItems)], dims, dims + 1, part * strips / parts,
                  (part + 1) * strips / parts, buffers[thread]);
  });
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_HEADS_H_
