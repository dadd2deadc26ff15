// The operands of attention's products (attention_tiles.h): keys as rows of bf16 and, dequantised a second time, as
// pairs, and the query as columns.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_OPERANDS_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_OPERANDS_H_

#include "ms_dsv32/kernel_impl/cpu/isa/attention_tiles.h"
#include "ms_dsv32/kernel_impl/cpu/isa/gather.h"
#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int kOutDims = kOutStrips * kStrip;
constexpr int kCacheLine = 64;
constexpr int kOutItems = kLatentDim / kOutDims;
static_assert(kGroupDim % kOutDims == 0, "dims of one scale are multiplied together");
static_assert(kOutDims == kVecBytes, "which are one vector of a key");

// Cache lines of a key: its 512 latent dims, its rope part, its scales.
constexpr int kNopeLines = kLatentDim / kCacheLine;
constexpr int kRopeLines = kRopeKeyDim * 2 / kCacheLine;
constexpr int kKeyLines = kNopeLines + kRopeLines + 1;

MS_DSV32_INLINE void FetchKeyLine(const LatentKey& key, int line) {
  const void* at = key.scales;
  if (line < kNopeLines) {
    at = key.nope + line * kCacheLine;
  } else if (line < kNopeLines + kRopeLines) {
    at = reinterpret_cast<const char*>(key.rope) + (line - kNopeLines) * kCacheLine;
  }
  __builtin_prefetch(at, 0, 2);  // into L2
}

// 32 float32 as bf16, `low` in the first half. The instruction rounds to nearest even and leaves NaN a NaN. It makes
// subnormals 0, as the products do anyway.
MS_DSV32_INLINE VecI PackBf16(VecF low, VecF high) {
#if defined(MS_DSV32_SIMDE)  // SIMDe lacks the instruction
  uint16_t both[2 * kLanes];
  StoreBf16(both, low);
  StoreBf16(both + kLanes, high);
  return LoadAs<VecI>(both);
#else
  return (VecI)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
#endif
}

// The words (low[i], high[i]) as bf16.
MS_DSV32_INLINE VecI ZipBf16(VecF low, VecF high) {
  const __m512i zip = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                       5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (VecI)_mm512_permutexvar_epi16(zip, (__m512i)PackBf16(low, high));
}

MS_DSV32_INLINE VecF Dequant(const int8_t* nope, VecF scale) { return ToFloat(LoadInt8(nope)) * scale; }

// kGroupDim dims of a key as bf16.
MS_DSV32_INLINE void DequantGroup(const int8_t* nope, VecF scale, uint16_t* row) {
#pragma GCC unroll 4
  for (int c = 0; c < kGroupDim; c += 2 * kLanes) {
    StoreAs(row + c, PackBf16(Dequant(nope + c, scale), Dequant(nope + c + kLanes, scale)));
  }
}

// kOutDims dims of two keys as their pairs, a line in each of kOutStrips strips.
MS_DSV32_INLINE void DequantPairs(const int8_t* even, VecF even_scale, const int8_t* odd, VecF odd_scale, uint32_t* v,
                                  int64_t v_stride) {
#pragma GCC unroll 4
  for (int c = 0; c < kOutDims; c += kLanes, v += v_stride) {
    StoreAs(v, ZipBf16(Dequant(even + c, even_scale), Dequant(odd + c, odd_scale)));
  }
}

// Up to 16 heads of a query as columns: [288][16] words. Columns without a head are zeros.
inline void PackQuery(const uint16_t* nope, const uint16_t* rope, int64_t heads, uint32_t* out) {
  alignas(64) uint32_t block[kTileWords];
  for (int word = 0; word < kKeyWords; word += kLinkWords) {
    const bool is_rope = word >= kLatentDim / 2;
    const uint16_t* from = is_rope ? rope + 2 * word - kLatentDim : nope + 2 * word;
    const int64_t ld = is_rope ? kRopeKeyDim : kLatentDim;
    for (int64_t h = 0; h < kStrip; ++h) {
      StoreAs(block + h * kLinkWords, h < heads ? LoadAs<VecI>(from + h * ld) : VecI{});
    }
    TransposeWords(block, kLinkWords, out + word * kStrip);
  }
}

// Fetches keys [key, end) into L2, a few lines with each call.
struct FetchKeys {
  const LatentCache& cache;
  const int64_t* rows;
  int64_t key;
  int64_t end;
  int64_t lines;
  int line = 0;

  MS_DSV32_INLINE void operator()() {
    for (int64_t i = 0; i < lines && key < end; ++i) {
      FetchKeyLine(cache.Key(rows[key]), line);
      if (++line == kKeyLines) {
        line = 0;
        ++key;
      }
    }
  }
};

// Dequantises keys [key, end) to rows of bf16, a few scale groups with each call. It also copies them as they are for
// DequantValues: the same dims of all keys together, and their scales. Keys from `count` on are zeros.
struct DequantKeys {
  const LatentCache& cache;
  const int64_t* rows;  // [count]
  int64_t count;
  int64_t key;
  int64_t end;
  uint16_t* out;  // the row of the first key
  int8_t* nope;   // [kOutItems] nope_stride apart: [..][kOutDims] from the first key on
  int64_t nope_stride;
  float* scales;    // [..][4] from the first key on
  int64_t groups;   // groups of one call
  FetchKeys fetch;  // called with each call
  int group = 0;

  MS_DSV32_INLINE void operator()() {
    alignas(64) static const int8_t kZeroNope[kLatentDim] = {};
    alignas(64) static const uint16_t kZeroRope[kRopeKeyDim] = {};
    static const float kZeroScales[kScaleGroups] = {};
    fetch();
    for (int64_t i = 0; i < groups && key < end; ++i) {
      const LatentKey here = key < count ? cache.Key(rows[key]) : LatentKey{kZeroNope, kZeroRope, kZeroScales};
      DequantGroup(here.nope + group * kGroupDim, Set1(here.scales[group]), out + group * kGroupDim);
      for (int c = group * kGroupDim; c < (group + 1) * kGroupDim; c += kOutDims) {
        StoreAs(nope + c / kOutDims * nope_stride, LoadAs<VecI>(here.nope + c));
      }
      if (++group < kScaleGroups) continue;
      memcpy(out + kLatentDim, here.rope, kRopeKeyDim * sizeof(uint16_t));
      memcpy(scales, here.scales, kScaleGroups * sizeof(float));
      group = 0;
      ++key;
      out += kKeyRow;
      nope += kOutDims;
      scales += kScaleGroups;
    }
  }
  MS_DSV32_INLINE void Finish() {
    while (key < end) (*this)();
  }
};

// Dequantises kOutDims dims of keys [key, end), an even number of keys, as pairs, a few with each call.
struct DequantValues {
  const int8_t* nope;   // all keys, [..][kOutDims]
  const float* scales;  // scales of these dims' group, of all keys, kScaleGroups apart
  int64_t key;
  int64_t end;
  uint32_t* v;
  int64_t v_stride;
  int64_t pairs;  // pairs of one call

  MS_DSV32_INLINE void operator()() {
    for (int64_t i = 0; i < pairs && key < end; ++i, key += 2, v += kStrip) {
      const int8_t* even = nope + key * kOutDims;
      DequantPairs(even, Set1(scales[key * kScaleGroups]), even + kOutDims, Set1(scales[(key + 1) * kScaleGroups]), v,
                   v_stride);
    }
  }
  MS_DSV32_INLINE void Finish() {
    while (key < end) (*this)();
  }
};

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_ATTENTION_OPERANDS_H_
