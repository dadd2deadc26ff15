// Gathers selected rows of the int8 latent cache, dequantises them and lays them out for the two matrix products of
// attention.
//
//   k_strips [n / 16][288][16][2]   keys (512 latent, then 64 rope) as columns: the weight of q . k
//   v_strips [32][.. / 2][16][2]    the 512 latent dimensions as columns, keys along k: the weight of p . v
//
// Both are strips of gemm.h, made from the same bf16 rows, 16 keys at a time, which fit L1.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_GATHER_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_GATHER_H_

#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/cpu/isa/gemm.h"
#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int kLatentDim = op_info::kKvLoraRank;
constexpr int kRopeKeyDim = op_info::kRopeDim;
constexpr int kKeyDim = kLatentDim + kRopeKeyDim;
constexpr int kKeyWords = kKeyDim / 2;  // pairs of bf16
constexpr int kScaleGroups = op_info::kKScaleGroups;
constexpr int kGroupDim = kLatentDim / kScaleGroups;
constexpr int kLatentPanels = kLatentDim / kPanel;
constexpr int kGatherKeys = kStrip;  // 18 KiB of bf16 rows
// Rows to fetch ahead of use: enough to cover a DRAM access (80 ns or more) with the work on the rows between (some 100
// ns each).
constexpr int kGatherAhead = 8;
// Steps of V, two keys each, to fetch ahead of their stores. A step is a line in each of 32 strips, and stores that
// miss would wait for one line after the other.
constexpr int kStoreAhead = 4;
static_assert(kGatherKeys % kLanes == 0 && kKeyWords % kLanes == 0, "whole blocks to transpose");

struct LatentKey {
  const int8_t* nope;    // [512]
  const uint16_t* rope;  // bf16 [64]
  const float* scales;   // [4]
};

// The caches of all keys, one row each.
struct LatentCache : LatentKey {
  MS_DSV32_INLINE LatentKey Key(int64_t row) const {
    return {nope + row * kLatentDim, rope + row * kRopeKeyDim, scales + row * kScaleGroups};
  }
};

// Dequantises two neighbouring keys: bf16 rows to even and odd, and their pairs to v, the address of their step in the
// first strip. Only with kMayBeNan may a product be NaN, which needs a scale that is NaN or infinite. Meanwhile it
// fetches the `next` keys and the lines of a step of V. It spreads these prefetches out, because the CPU drops those
// that come too close together.
template <bool kMayBeNan>
MS_DSV32_INLINE void DequantPair(const LatentKey (&key)[2], const LatentKey (&next)[2], uint16_t* even, uint16_t* odd,
                                 uint16_t* v, int64_t v_strip_stride) {
  constexpr int kLine = 64;
  static_assert(kGroupDim % kLine == 0 && kLine % kStrip == 0);
  for (int line = 0; line < kLatentDim; line += kLine) {
    const VecF se = Set1(key[0].scales[line / kGroupDim]), so = Set1(key[1].scales[line / kGroupDim]);
    Prefetch(next[0].nope + line);
    Prefetch(next[1].nope + line);
    for (int strip = line; strip < line + kLine; strip += kStrip) {
      Prefetch(v + kStoreAhead * 2 * kStrip);
#pragma GCC unroll 4
      for (int c = strip; c < strip + kStrip; c += kLanes) {
        const VecF even_f = ToFloat(LoadInt8(key[0].nope + c)) * se;
        const VecF odd_f = ToFloat(LoadInt8(key[1].nope + c)) * so;
        const VecU e = kMayBeNan ? BitsToBf16(even_f) << 16 : RoundToUpperHalf(even_f);
        const VecU o = kMayBeNan ? BitsToBf16(odd_f) << 16 : RoundToUpperHalf(odd_f);
        StoreU16(even + c, e >> 16);
        StoreU16(odd + c, o >> 16);
        StoreAs(v + 2 * (c - strip), (e >> 16) | (o & 0xffff0000u));
      }
      v += v_strip_stride;
    }
  }
  memcpy(even + kLatentDim, key[0].rope, kRopeKeyDim * sizeof(uint16_t));
  memcpy(odd + kLatentDim, key[1].rope, kRopeKeyDim * sizeof(uint16_t));
  for (const LatentKey& ahead : next) {
    Prefetch(ahead.rope);
    Prefetch(ahead.rope + kRopeKeyDim / 2);
    Prefetch(ahead.scales);
  }
}

// out[j * 16 + i] = in[i * ld + j] for i, j < kLanes: words of kLanes keys to columns of a strip.
MS_DSV32_INLINE void TransposeWords(const uint32_t* in, int64_t ld, uint32_t* out) {
#if MS_DSV32_IS_AVX512
  const __m512i low = _mm512_setr_epi64(0, 1, 2, 3, 8, 9, 10, 11), high = _mm512_setr_epi64(4, 5, 6, 7, 12, 13, 14, 15);
  const __m512i even = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13), odd = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
  __m512i quad[4][4];  // [rows 4 m ..][k]: 128-bit lane i holds column 4 i + k of the four rows
#pragma GCC unroll 4
  for (int m = 0; m < 4; ++m) {
    const __m512i r0 = _mm512_loadu_si512(in + (4 * m) * ld), r1 = _mm512_loadu_si512(in + (4 * m + 1) * ld);
    const __m512i r2 = _mm512_loadu_si512(in + (4 * m + 2) * ld), r3 = _mm512_loadu_si512(in + (4 * m + 3) * ld);
    const __m512i a = _mm512_unpacklo_epi32(r0, r1), b = _mm512_unpackhi_epi32(r0, r1);
    const __m512i c = _mm512_unpacklo_epi32(r2, r3), d = _mm512_unpackhi_epi32(r2, r3);
    quad[m][0] = _mm512_unpacklo_epi64(a, c);
    quad[m][1] = _mm512_unpackhi_epi64(a, c);
    quad[m][2] = _mm512_unpacklo_epi64(b, d);
    quad[m][3] = _mm512_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const __m512i p_low = _mm512_permutex2var_epi64(quad[0][k], low, quad[1][k]);
    const __m512i p_high = _mm512_permutex2var_epi64(quad[0][k], high, quad[1][k]);
    const __m512i q_low = _mm512_permutex2var_epi64(quad[2][k], low, quad[3][k]);
    const __m512i q_high = _mm512_permutex2var_epi64(quad[2][k], high, quad[3][k]);
    StoreAs(out + k * kStrip, (VecU)_mm512_permutex2var_epi64(p_low, even, q_low));
    StoreAs(out + (k + 4) * kStrip, (VecU)_mm512_permutex2var_epi64(p_low, odd, q_low));
    StoreAs(out + (k + 8) * kStrip, (VecU)_mm512_permutex2var_epi64(p_high, even, q_high));
    StoreAs(out + (k + 12) * kStrip, (VecU)_mm512_permutex2var_epi64(p_high, odd, q_high));
  }
#elif MS_DSV32_IS_AVX2
  __m256i quad[2][4];  // [rows 4 m ..][k]: 128-bit lane i holds column 4 i + k of the four rows
#pragma GCC unroll 2
  for (int m = 0; m < 2; ++m) {
    const __m256i r0 = (__m256i)LoadAs<VecI>(in + (4 * m) * ld), r1 = (__m256i)LoadAs<VecI>(in + (4 * m + 1) * ld);
    const __m256i r2 = (__m256i)LoadAs<VecI>(in + (4 * m + 2) * ld), r3 = (__m256i)LoadAs<VecI>(in + (4 * m + 3) * ld);
    const __m256i a = _mm256_unpacklo_epi32(r0, r1), b = _mm256_unpackhi_epi32(r0, r1);
    const __m256i c = _mm256_unpacklo_epi32(r2, r3), d = _mm256_unpackhi_epi32(r2, r3);
    quad[m][0] = _mm256_unpacklo_epi64(a, c);
    quad[m][1] = _mm256_unpackhi_epi64(a, c);
    quad[m][2] = _mm256_unpacklo_epi64(b, d);
    quad[m][3] = _mm256_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    StoreAs(out + k * kStrip, (VecI)_mm256_permute2x128_si256(quad[0][k], quad[1][k], 0x20));
    StoreAs(out + (k + 4) * kStrip, (VecI)_mm256_permute2x128_si256(quad[0][k], quad[1][k], 0x31));
  }
#elif MS_DSV32_IS_NEON
  const uint32x4_t r0 = vld1q_u32(in), r1 = vld1q_u32(in + ld), r2 = vld1q_u32(in + 2 * ld),
                   r3 = vld1q_u32(in + 3 * ld);
  const uint64x2_t a = vreinterpretq_u64_u32(vtrn1q_u32(r0, r1)), b = vreinterpretq_u64_u32(vtrn2q_u32(r0, r1));
  const uint64x2_t c = vreinterpretq_u64_u32(vtrn1q_u32(r2, r3)), d = vreinterpretq_u64_u32(vtrn2q_u32(r2, r3));
  vst1q_u32(out, vreinterpretq_u32_u64(vtrn1q_u64(a, c)));
  vst1q_u32(out + kStrip, vreinterpretq_u32_u64(vtrn1q_u64(b, d)));
  vst1q_u32(out + 2 * kStrip, vreinterpretq_u32_u64(vtrn2q_u64(a, c)));
  vst1q_u32(out + 3 * kStrip, vreinterpretq_u32_u64(vtrn2q_u64(b, d)));
#else
  for (int j = 0; j < kLanes; ++j) {
#pragma GCC unroll 4
    for (int i = 0; i < kLanes; ++i) out[j * kStrip + i] = in[i * ld + j];
  }
#endif
}

// Gathers keys `rows[0 .. count)`, and zero keys up to n (a multiple of 64). v points to the step of the first key in
// the first strip of v_strips. `ahead` more row numbers after rows[count) may be read to prefetch. buffer: [kGatherKeys
// * kKeyDim].
inline void GatherKeys(const LatentCache& cache, const int64_t* rows, int64_t count, int64_t ahead, int64_t n,
                       uint16_t* k_strips, uint16_t* v, int64_t v_strip_stride, uint16_t* buffer) {
  alignas(64) static const int8_t kZeroNope[kLatentDim] = {};
  alignas(64) static const uint16_t kZeroRope[kRopeKeyDim] = {};
  static const float kZeroScales[kScaleGroups] = {};
  const LatentKey kZero = {kZeroNope, kZeroRope, kZeroScales};
  for (int64_t base = 0; base < n; base += kGatherKeys) {
    for (int i = 0; i < kGatherKeys; i += 2) {
      LatentKey key[2], next[2];
      bool finite = true;
      for (int u = 0; u < 2; ++u) {
        const int64_t j = base + i + u;
        key[u] = j < count ? cache.Key(rows[j]) : kZero;
        next[u] = j + kGatherAhead < count + ahead ? cache.Key(rows[j + kGatherAhead]) : kZero;
        for (int g = 0; g < kScaleGroups; ++g) finite &= (FloatBits(key[u].scales[g]) & 0x7f800000u) != 0x7f800000u;
      }
      uint16_t* even = buffer + i * kKeyDim;
      uint16_t* step = v + (base + i) * kStrip;
      if (finite) {
        DequantPair<false>(key, next, even, even + kKeyDim, step, v_strip_stride);
      } else {
        DequantPair<true>(key, next, even, even + kKeyDim, step, v_strip_stride);
      }
    }
    uint16_t* strip = k_strips + base * kKeyDim;
    for (int w = 0; w < kKeyWords; w += kLanes) {
      for (int i = 0; i < kGatherKeys; i += kLanes) {
        TransposeWords(reinterpret_cast<const uint32_t*>(buffer + i * kKeyDim) + w, kKeyWords,
                       reinterpret_cast<uint32_t*>(strip + 2 * i) + w * kStrip);
      }
    }
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_GATHER_H_
