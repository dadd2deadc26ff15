// Exact top-k by radix selection. It needs no sort and no [n] copy, and at most four passes over the row, whatever the
// values are.
//
// Scores are compared as "order keys": uint32 numbers that sort as the scores do. Three histograms take 11, 11 and 10
// bits of a key, so that after the third the k-th largest key is known exactly. One last pass writes positions in
// ascending order. Many equal scores, narrow ranges, infinities and NaN only change how many of the passes are needed.
// A pass looks for the positions of keys in some range. That takes the same few instructions for 16 keys whether none
// or all of them are in it.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_TOPK_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_TOPK_H_

#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int kTopKBins = 2048;    // 11 bits
constexpr int kTopKTopShift = 21;  // the first histogram takes bits 31..21
constexpr int kTopKMidShift = 10;  // the second bits 20..10, the third bits 9..0
constexpr int kTopKLanes = 16;     // keys that are examined together; so many must be readable after a row
constexpr int kTopKChunk = 1024;   // positions that are found at a time: 4 KiB, which stay in L1

// Order key: a larger score has a larger key, -0 and +0 have the same one, and NaN has that of -infinity, so it loses
// to every finite score. For finite numbers and infinities the sign bit is set if they are positive, and all bits are
// inverted if they are negative, which is monotone.
MS_DSV32_INLINE VecU OrderKey(VecF score) {
  const VecI bits = (VecI)(score + 0.0f);  // -0 + 0 = +0
  const VecU key = (VecU)(bits ^ ((bits >> 31) | INT32_MIN));
  return SelectU(NanMask(score), Set1U(0x007fffffu), key);
}

#if MS_DSV32_IS_AVX2
// The set bits of a byte, ascending, then zeros.
struct SetBits {
  uint8_t of[256][8];
  constexpr SetBits() : of() {
    for (int byte = 0; byte < 256; ++byte) {
      int count = 0;
      for (int bit = 0; bit < 8; ++bit) {
        if ((byte >> bit & 1) != 0) of[byte][count++] = static_cast<uint8_t>(bit);
      }
    }
  }
};
alignas(64) constexpr SetBits kSetBits;
#endif

// Writes the positions p in [begin, end) with first <= keys[p] <= last, ascending, and returns how many there are. end
// - begin is at most kTopKChunk. `positions` has room for kTopKChunk + kTopKLanes.
inline int FindKeys(const uint32_t* keys, int64_t begin, int64_t end, uint32_t first, uint32_t last,
                    int32_t* positions) {
  const uint32_t span = last - first;  // a key outside, less `first`, is larger as an unsigned number
  int count = 0;
  for (int64_t i = begin; i < end; i += kTopKLanes) {
    const uint32_t inside = end - i < kTopKLanes ? (1u << (end - i)) - 1 : (1u << kTopKLanes) - 1;
#if MS_DSV32_IS_AVX512
    const __m512i above = _mm512_sub_epi32(_mm512_loadu_si512(keys + i), _mm512_set1_epi32((int32_t)first));
    const uint32_t found = _mm512_cmple_epu32_mask(above, _mm512_set1_epi32((int32_t)span)) & inside;
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i position = _mm512_add_epi32(_mm512_set1_epi32((int32_t)i), lane);
    _mm512_storeu_si512(positions + count, _mm512_maskz_compress_epi32((__mmask16)found, position));
    count += __builtin_popcount(found);
#elif MS_DSV32_IS_AVX2
#pragma GCC unroll 2
    for (int half = 0; half < kTopKLanes; half += 8) {
      const __m256i key = _mm256_loadu_si256((const __m256i*)(keys + i + half));
      const __m256i above = _mm256_sub_epi32(key, _mm256_set1_epi32((int32_t)first));
      const __m256i most = _mm256_min_epu32(above, _mm256_set1_epi32((int32_t)span));
      const int mask = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(above, most)));
      const uint32_t found = static_cast<uint32_t>(mask) & (inside >> half);
      const __m256i lane = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)kSetBits.of[found]));
      const __m256i position = _mm256_add_epi32(_mm256_set1_epi32((int32_t)i + half), lane);
      _mm256_storeu_si256((__m256i*)(positions + count), position);
      count += __builtin_popcount(found);
    }
#else
    VecI any{};
#pragma GCC unroll 4
    for (int j = 0; j < kTopKLanes; j += kLanes) any |= (VecI)(LoadAs<VecU>(keys + i + j) - first <= span);
    if (!AnySet(any)) continue;  // most groups of 16 hold nothing
#pragma GCC unroll 16
    for (int j = 0; j < kTopKLanes; ++j) {
      positions[count] = static_cast<int32_t>(i + j);
      count += static_cast<int>(keys[i + j] - first <= span) & static_cast<int>(inside >> j & 1);
    }
#endif
  }
  return count;
}

// The highest bin such that it and the bins above it hold at least k keys.
struct TopKCut {
  uint32_t bin;
  uint32_t above;  // keys in higher bins, fewer than k
  uint32_t count;  // keys in the bin
};
inline TopKCut FindCut(const uint32_t* histogram, uint32_t bins, uint32_t k) {
  uint32_t bin = bins - 1, above = 0;
  while (bin > 0 && above + histogram[bin] < k) above += histogram[bin--];
  return {bin, above, histogram[bin]};
}

// histogram[(key >> shift) & (bins - 1)] over the keys with (key >> prefix_shift) == prefix.
inline void HistogramBelow(const uint32_t* keys, int64_t n, uint32_t prefix, int prefix_shift, int shift, uint32_t bins,
                           uint32_t* histogram) {
  for (uint32_t i = 0; i < bins; ++i) histogram[i] = 0;
  const uint32_t first = prefix << prefix_shift;
  const uint32_t last = first | ((1u << prefix_shift) - 1);
  int32_t found[kTopKChunk + kTopKLanes];
  for (int64_t i = 0; i < n; i += kTopKChunk) {
    const int count = FindKeys(keys, i, Min(i + kTopKChunk, n), first, last, found);
    for (int j = 0; j < count; ++j) ++histogram[(keys[found[j]] >> shift) & (bins - 1)];
  }
}

// Position after the first `count` keys that are equal to `key`, of which the row has at least so many.
inline int64_t EndOfEqual(const uint32_t* keys, int64_t n, uint32_t key, int64_t count) {
  int32_t found[kTopKChunk + kTopKLanes];
  for (int64_t i = 0;; i += kTopKChunk) {
    const int here = FindKeys(keys, i, Min(i + kTopKChunk, n), key, key, found);
    if (here >= count) return found[count - 1] + 1;
    count -= here;
  }
}

// Writes the positions in [begin, end) of the keys that are at least `least` to `positions`, and returns how many.
inline int64_t WriteAtLeast(const uint32_t* keys, int64_t begin, int64_t end, uint32_t least, int32_t* positions) {
  int32_t found[kTopKChunk + kTopKLanes];  // FindKeys writes more than it finds, and a row of positions may be full
  int64_t count = 0;
  for (int64_t i = begin; i < end; i += kTopKChunk) {
    const int here = FindKeys(keys, i, Min(i + kTopKChunk, end), least, UINT32_MAX, found);
    memcpy(positions + count, found, static_cast<size_t>(here) * sizeof(int32_t));
    count += here;
  }
  return count;
}

// Writes the positions of the k largest of n order keys to `positions`, ascending. Among equal keys the smaller
// positions win. 0 < k < n. `histogram` [kTopKBins] comes with the counts of key >> kTopKTopShift over the row and is
// overwritten.
inline void SelectTopK(const uint32_t* keys, int64_t n, uint32_t k, uint32_t* histogram, int32_t* positions) {
  // All keys above `least` are taken, and the first `quota` of those equal to it.
  uint32_t quota = k;
  TopKCut cut = FindCut(histogram, kTopKBins, quota);
  quota -= cut.above;
  uint32_t prefix = cut.bin;
  int prefix_shift = kTopKTopShift;
  if (quota < cut.count) {
    HistogramBelow(keys, n, prefix, kTopKTopShift, kTopKMidShift, kTopKBins, histogram);
    cut = FindCut(histogram, kTopKBins, quota);
    quota -= cut.above;
    prefix = (prefix << (kTopKTopShift - kTopKMidShift)) | cut.bin;
    prefix_shift = kTopKMidShift;
  }
  if (quota < cut.count) {
    HistogramBelow(keys, n, prefix, kTopKMidShift, 0, 1u << kTopKMidShift, histogram);
    cut = FindCut(histogram, 1u << kTopKMidShift, quota);
    quota -= cut.above;
    prefix = (prefix << kTopKMidShift) | cut.bin;
    prefix_shift = 0;
  }
  const uint32_t least = prefix << prefix_shift;
  // A bin that is taken as a whole needs no look at equal keys. Otherwise the prefix is a whole key.
  const int64_t end_of_equal = quota == cut.count ? n : EndOfEqual(keys, n, least, quota);
  const int64_t count = WriteAtLeast(keys, 0, end_of_equal, least, positions);
  if (end_of_equal < n) WriteAtLeast(keys, end_of_equal, n, least + 1, positions + count);
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_TOPK_H_
