// The two products of attention, for instruction sets that multiply pairs of bf16 as they are: AMX and AVX512_BF16.
//
//   MultiplyKeys     scores = keys @ query        keys bf16 [kBlockKeys][kKeyRow], as rows of the cache
//                                                 query [strips][288][16][2], heads as columns
//                                                 scores [strips][keys][16]
//   MultiplyValues   sums (+)= probabilities @ v  probabilities [strips][keys / 32][16][32], bf16
//                                                 v [kOutStrips][keys / 2][16][2], dims as columns
//                                                 sums [strips][kOutStrips][16][16]
//
// A strip is 16 heads or 16 dims. Heads are columns of the first product, so that only the query is transposed, once
// for each token. Tiles of AMX take all five layouts as they are.
//
// Bits: an element is one chain of additions over ascending dims or keys (on AMX in links of 32, see gemm_amx.h),
// whatever the other rows and columns hold and however the keys are cut at multiples of 32.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_TILES_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_TILES_H_

#include "ms_dsv32/kernel_impl/cpu/isa/gather.h"
#include "ms_dsv32/kernel_impl/cpu/isa/gemm.h"
#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int kLink = 32;  // dims or keys that one instruction of AMX multiplies
constexpr int kLinkWords = kLink / 2;
constexpr int kKeyLinks = kKeyDim / kLink;
constexpr int kKeyRow = kKeyDim + 32;            // an odd number of lines, so that rows spread over all sets of a cache
constexpr int kTileWords = kStrip * kLinkWords;  // words of a link of 16 rows or columns
constexpr int kQueryStripWords = kKeyWords * kStrip;  // words of 16 heads
constexpr int kStripSums = kStrip * kStrip;           // sums of 16 heads times 16 dims
static_assert(kKeyDim % kLink == 0 && kLatentDim % kLink == 0, "whole links");

#if MS_DSV32_IS_AMX

// Keys of a block: two tiles of rows.
constexpr int kBlockKeys = 2 * kTileRows;
static_assert(kLink % kBlockKeys == 0, "numbers of keys that are multiples of a link are whole blocks");
// Strips of dims of an item of p . v, one cache line of a key, and keys that are taken at a time: 32 KiB of V in two
// strips, which all heads use before the other two.
constexpr int kOutStrips = 4;
constexpr int64_t kOutKeys = 512;
// The next keys are dequantised between the instructions of tiles, into a second buffer.
constexpr int kBuffers = 2;

// Two tiles of keys times kStrips strips of heads.
template <int kStrips, typename Work>
MS_DSV32_INLINE void KeyTiles(const uint16_t* keys, const uint32_t* query, float* scores, int64_t score_stride,
                              Work& work) {
  constexpr int64_t kRowBytes = kKeyRow * sizeof(uint16_t);
  _tile_zero(0);
  _tile_zero(2);
  if constexpr (kStrips > 1) {
    _tile_zero(1);
    _tile_zero(3);
  }
#pragma GCC unroll 1
  for (int link = 0; link < kKeyLinks; ++link) {
    const uint32_t* heads = query + link * kTileWords;
    _tile_loadd(4, keys + link * kLink, kRowBytes);
    _tile_loadd(6, heads, kTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, keys + kTileRows * kKeyRow + link * kLink, kRowBytes);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kStrips > 1) {
      _tile_loadd(7, heads + kQueryStripWords, kTileBytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    work();
  }
  _tile_stored(0, scores, kTileBytes);
  _tile_stored(2, scores + kTileRows * kStrip, kTileBytes);
  if constexpr (kStrips > 1) {
    _tile_stored(1, scores + score_stride, kTileBytes);
    _tile_stored(3, scores + score_stride + kTileRows * kStrip, kTileBytes);
  }
}

// kStrips strips of heads times kOutStrips strips of dims.
template <int kStrips, typename Work>
MS_DSV32_INLINE void ValueTiles(const uint32_t* p, int64_t p_stride, const uint32_t* v, int64_t v_stride, int64_t links,
                                float* sums, bool load, Work& work) {
  float* bottom = sums + kOutStrips * kStripSums;
  if (load) {
    _tile_loadd(0, sums, kTileBytes);
    _tile_loadd(1, sums + kStripSums, kTileBytes);
    if constexpr (kStrips > 1) {
      _tile_loadd(2, bottom, kTileBytes);
      _tile_loadd(3, bottom + kStripSums, kTileBytes);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kStrips > 1) {
      _tile_zero(2);
      _tile_zero(3);
    }
  }
#pragma GCC unroll 1
  for (int64_t word = 0; word < links * kTileWords; word += kTileWords) {
    _tile_loadd(4, p + word, kTileBytes);
    _tile_loadd(6, v + word, kTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, v + v_stride + word, kTileBytes);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kStrips > 1) {
      _tile_loadd(5, p + p_stride + word, kTileBytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    work();
  }
  _tile_stored(0, sums, kTileBytes);
  _tile_stored(1, sums + kStripSums, kTileBytes);
  if constexpr (kStrips > 1) {
    _tile_stored(2, bottom, kTileBytes);
    _tile_stored(3, bottom + kStripSums, kTileBytes);
  }
}

// How often the products below call work(), which uses the time that the vector units have to spare.
MS_DSV32_INLINE int64_t KeySteps(int64_t strips) { return CeilDiv(strips, 2) * kKeyLinks; }
MS_DSV32_INLINE int64_t ValueSteps(int64_t heads, int64_t links) {
  return CeilDiv(heads, 2 * kStrip) * (kOutStrips / 2) * links;
}

// All rows of a block are multiplied, so all must be readable, and there must be room for their scores.
template <typename Work>
inline void MultiplyKeys(const uint16_t* keys, int /*count*/, const uint32_t* query, int64_t strips, float* scores,
                         int64_t score_stride, Work& work) {
  asm volatile("" ::: "memory");  // GCC does not know that tile loads read memory
  for (int64_t strip = 0; strip < strips; strip += 2, query += 2 * kQueryStripWords, scores += 2 * score_stride) {
    if (strip + 1 < strips) {
      KeyTiles<2>(keys, query, scores, score_stride, work);
    } else {
      KeyTiles<1>(keys, query, scores, score_stride, work);
    }
  }
}

template <typename Work>
inline void MultiplyValues(const uint32_t* p, int64_t p_stride, int64_t heads, const uint32_t* v, int64_t v_stride,
                           int64_t links, float* sums, bool load, Work& work) {
  asm volatile("" ::: "memory");  // GCC does not know that tile loads read memory
  const int64_t strips = CeilDiv(heads, kStrip);
  for (int dims = 0; dims < kOutStrips; dims += 2, v += 2 * v_stride) {
    for (int64_t strip = 0; strip < strips; strip += 2) {
      const uint32_t* heads_p = p + strip * p_stride;
      float* out = sums + (strip * kOutStrips + dims) * kStripSums;
      if (strip + 1 < strips) {
        ValueTiles<2>(heads_p, p_stride, v, v_stride, links, out, load, work);
      } else {
        ValueTiles<1>(heads_p, p_stride, v, v_stride, links, out, load, work);
      }
    }
  }
}

// Keeps the tiles configured in its scope.
class AttentionTiles {
 public:
  MS_DSV32_INLINE AttentionTiles() { ConfigureTiles(kTileRows, kTileRows, kTileBytes); }
  MS_DSV32_INLINE ~AttentionTiles() { _tile_release(); }
  AttentionTiles(const AttentionTiles&) = delete;
  AttentionTiles& operator=(const AttentionTiles&) = delete;
};

#else

constexpr int kBlockKeys = kMaxTileRows;
// Strips of dims of an item of p . v, and keys that are taken at a time: 128 KiB of V, which stay in L2 while all heads
// use them.
constexpr int kOutStrips = 4;
constexpr int64_t kOutKeys = 1024;
constexpr int kBuffers = 1;

// c[kRows][kStrips] vectors = start(row, strip) + x @ w, passed to store(row, strip, vector). x has words, rows kRow
// apart and links kXLink apart. w has [links * 16][16] words for each of kStrips strips, w_stride apart.
template <int kRows, int kStrips, int64_t kRow, int64_t kXLink, typename Start, typename Store>
MS_DSV32_INLINE void RowsTile(const uint32_t* x, const uint32_t* w, int64_t w_stride, int64_t links, const Start& start,
                              const Store& store) {
  VecF acc[kRows][kStrips];
#pragma GCC unroll 6
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < kStrips; ++v) acc[m][v] = start(m, v);
  }
#pragma GCC unroll 1
  for (int64_t link = 0; link < links; ++link) {
#pragma GCC unroll 1
    for (int s = 0; s < kLinkWords; ++s) {
      VecI weights[kStrips];
#pragma GCC unroll 4
      for (int v = 0; v < kStrips; ++v) weights[v] = LoadAs<VecI>(w + v * w_stride);
#pragma GCC unroll 6
      for (int m = 0; m < kRows; ++m) {
        const VecI word = Set1I(static_cast<int32_t>(x[m * kRow + s]));
#pragma GCC unroll 4
        for (int v = 0; v < kStrips; ++v) acc[m][v] = Bf16Dot::Dot(acc[m][v], weights[v], word);
      }
      w += kStrip;
    }
    x += kXLink;
  }
#pragma GCC unroll 6
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < kStrips; ++v) store(m, v, acc[m][v]);
  }
}

template <int kRows, int kStrips>
__attribute__((noinline)) void KeyTile(const uint32_t* keys, const uint32_t* query, float* scores,
                                       int64_t score_stride) {
  RowsTile<kRows, kStrips, kKeyRow / 2, kLinkWords>(
      keys, query, kQueryStripWords, kKeyLinks, [](int, int) __attribute__((always_inline)) { return VecF{}; },
      [&](int m, int v, VecF sum)
          __attribute__((always_inline)) { StoreF(scores + v * score_stride + m * kStrip, sum); });
}

template <int kRows>
__attribute__((noinline)) void ValueTile(const uint32_t* p, const uint32_t* v, int64_t v_stride, int64_t links,
                                         float* sums, bool load) {
  const auto at = [&](int m, int s) __attribute__((always_inline)) { return sums + s * kStripSums + m * kStrip; };
  RowsTile<kRows, kOutStrips, kLinkWords, kTileWords>(
      p, v, v_stride,
      links, [&](int m, int s) __attribute__((always_inline)) { return load ? LoadF(at(m, s)) : VecF{}; },
      [&](int m, int s, VecF sum) __attribute__((always_inline)) { StoreF(at(m, s), sum); });
}

// The vector units have no time to spare here, so the products do not call work(), and one call does all of it.
MS_DSV32_INLINE int64_t KeySteps(int64_t /*strips*/) { return 1; }
MS_DSV32_INLINE int64_t ValueSteps(int64_t /*heads*/, int64_t /*links*/) { return 1; }

template <typename Work>
inline void MultiplyKeys(const uint16_t* keys, int count, const uint32_t* query, int64_t strips, float* scores,
                         int64_t score_stride, Work& /*work*/) {
  const auto* words = reinterpret_cast<const uint32_t*>(keys);
  WithRowCount<1, kMaxTileRows>(count, [&](auto rows) {
    for (int64_t strip = 0; strip < strips; strip += 4, query += 4 * kQueryStripWords, scores += 4 * score_stride) {
      switch (Min<int64_t>(strips - strip, 4)) {
        case 1:
          KeyTile<rows.value, 1>(words, query, scores, score_stride);
          break;
        case 2:
          KeyTile<rows.value, 2>(words, query, scores, score_stride);
          break;
        case 3:
          KeyTile<rows.value, 3>(words, query, scores, score_stride);
          break;
        default:
          KeyTile<rows.value, 4>(words, query, scores, score_stride);
      }
    }
  });
}

template <typename Work>
inline void MultiplyValues(const uint32_t* p, int64_t p_stride, int64_t heads, const uint32_t* v, int64_t v_stride,
                           int64_t links, float* sums, bool load, Work& /*work*/) {
  for (int64_t first = 0; first < heads; first += kStrip, p += p_stride, sums += kOutStrips * kStripSums) {
    const int64_t rows = Min<int64_t>(heads - first, kStrip), tiles = CeilDiv(rows, kMaxTileRows);
    for (int64_t tile = 0, m = 0; tile < tiles; ++tile) {
      const int64_t tile_rows = CeilDiv(rows - m, tiles - tile);  // nearly equal heights
      WithRowCount<1, kMaxTileRows>(static_cast<int>(tile_rows), [&](auto count) {
        ValueTile<count.value>(p + m * kLinkWords, v, v_stride, links, sums + m * kStrip, load);
      });
      m += tile_rows;
    }
  }
}

struct AttentionTiles {};  // there are none to configure

#endif

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_TILES_H_
