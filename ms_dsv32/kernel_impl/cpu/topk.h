// Exact top-k by radix selection: no sort, no [n] copy, worst case three passes over the row whatever the values are.
//
// Scores are compared as "order keys": uint32 numbers that sort as the scores do. The three histograms take 11, 11 and
// 10 bits of a key, so that after the third the k-th largest key is known exactly; one last pass writes positions in
// ascending order. Many equal scores, narrow ranges, infinities and NaN only change how many of the passes are needed.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_TOPK_H_
#define MS_DSV32_KERNEL_IMPL_CPU_TOPK_H_

#include "ms_dsv32/kernel_impl/cpu/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int kTopKBins = 2048;    // 11 bits
constexpr int kTopKTopShift = 21;  // the first histogram takes bits 31..21
constexpr int kTopKMidShift = 10;  // the second bits 20..10, the third bits 9..0
constexpr int kTopKLanes = 16;     // rows of keys must be readable up to a multiple of this

// Order key: a larger score has a larger key; -0 and +0 have the same one; NaN has that of -infinity, so it loses to
// every finite score. Finite numbers and infinities: the sign bit is set for positive ones, all bits are inverted for
// negative ones, which is monotone.
MS_DSV32_INLINE VecU OrderKey(VecF score) {
  const VecI bits = (VecI)(score + 0.0f);  // -0 + 0 = +0
  const VecU key = (VecU)(bits ^ ((bits >> 31) | INT32_MIN));
  return SelectU(NanMask(score), Set1U(0x007fffffu), key);
}

// Bit i is set where keys[i] >= bound, i < 16.
MS_DSV32_INLINE uint32_t MaskAtLeast(const uint32_t* keys, uint32_t bound) {
#if MS_DSV32_IS_AVX512
  return _mm512_cmpge_epu32_mask(_mm512_loadu_si512(keys), _mm512_set1_epi32(static_cast<int32_t>(bound)));
#elif MS_DSV32_IS_AVX2
  const __m256i b = _mm256_set1_epi32(static_cast<int32_t>(bound));
  const __m256i lo = _mm256_loadu_si256((const __m256i*)keys);
  const __m256i hi = _mm256_loadu_si256((const __m256i*)(keys + 8));
  const int lo_mask = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_max_epu32(lo, b), lo)));
  const int hi_mask = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_max_epu32(hi, b), hi)));
  return static_cast<uint32_t>(lo_mask | (hi_mask << 8));
#else
  VecU any{};
#pragma GCC unroll 4
  for (int i = 0; i < kTopKLanes; i += kLanes) any |= (VecU)(LoadAs<VecU>(keys + i) >= bound);
  if (!AnySet((VecI)any)) return 0;  // most groups of 16 hold nothing
  uint32_t mask = 0;
#pragma GCC unroll 16
  for (int i = 0; i < kTopKLanes; ++i) mask |= static_cast<uint32_t>(keys[i] >= bound) << i;
  return mask;
#endif
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
  for (int64_t i = 0; i < n; i += kTopKLanes) {
    uint32_t mask = MaskAtLeast(keys + i, first);
    if (n - i < kTopKLanes) mask &= (1u << (n - i)) - 1;
    for (; mask != 0; mask &= mask - 1) {
      const uint32_t key = keys[i + __builtin_ctz(mask)];
      if (key <= last) ++histogram[(key >> shift) & (bins - 1)];
    }
  }
}

// Writes the positions of the k largest of n order keys to `positions`, ascending; of equal keys the smaller positions
// win. 0 < k < n. `histogram` [kTopKBins] comes with the counts of key >> kTopKTopShift over the row and is
// overwritten.
inline void SelectTopK(const uint32_t* keys, int64_t n, uint32_t k, uint32_t* histogram, int32_t* positions) {
  // `least`: all keys >= least are taken, except that of those equal to it only the first `quota` are.
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
  const bool all_equal_taken = quota == cut.count;  // also when a whole bin is taken
  int64_t count = 0;
  for (int64_t i = 0; i < n && count < k; i += kTopKLanes) {
    uint32_t mask = MaskAtLeast(keys + i, least);
    if (n - i < kTopKLanes) mask &= (1u << (n - i)) - 1;
    for (; mask != 0; mask &= mask - 1) {
      const int64_t position = i + __builtin_ctz(mask);
      if (!all_equal_taken && keys[position] == least) {
        if (quota == 0) continue;
        --quota;
      }
      positions[count++] = static_cast<int32_t>(position);
    }
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_TOPK_H_
