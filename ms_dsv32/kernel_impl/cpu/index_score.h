// Scores of the lightning indexer for one token and a run of keys: exact int8 dot products in int32, then float32.
//
//   score[p] = k_scale[p] * sum_n w[n] * relu(q[n] . k[p]),   w[n] = q_scale[n] * weights[n]
//
// Summation order, the same on every ISA and for every way to split the work, without FMA: 16 partial sums, number i
// over the heads i, i + 16, i + 32, i + 48 in this order; then the 16 are halved, i + (i + 8), i + (i + 4), i + (i +
// 2), i + (i + 1). So the bits of a score depend on nothing but the token and the key.
//
// Vector lanes hold heads and a key's elements are broadcast, so that keys need no transposition. The query is packed
// once per token as [pass][128 / kDotDepth][kPassHeads][kDotDepth]. A pass is as many heads as fit the accumulators
// together with kKeyTile keys.
//   AVX-512   vpdpbusd, keys as k + 128 (uint8); each head starts at -128 * sum(q[n]), which takes the offset out again
//   NEON      sdot
//   others    int16 pairs (pmaddwd). pmaddubsw would saturate: 2 * 128 * 128 does not fit int16.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_INDEX_SCORE_H_
#define MS_DSV32_KERNEL_IMPL_CPU_INDEX_SCORE_H_

#include "ms_dsv32/kernel_impl/cpu/simd.h"
#include "ms_dsv32/kernel_impl/generated/dims.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int kIndexHeads = op_info::kIdxNHeads;
constexpr int kIndexDim = op_info::kIdxHeadDim;
constexpr int kPartialSums = 16;

#if MS_DSV32_IS_AVX512
typedef uint8_t IndexKey;
typedef int8_t IndexQuery;
constexpr int kDotDepth = 4;
constexpr int kPassHeads = 64;
constexpr int kKeyTile = 6;  // 6 x 4 accumulators + 4 of the query of 32 registers
#elif MS_DSV32_IS_NEON
typedef int8_t IndexKey;
typedef int8_t IndexQuery;
constexpr int kDotDepth = 4;
constexpr int kPassHeads = 16;
constexpr int kKeyTile = 4;  // 4 x 4 accumulators + 4 of the query + 4 of the keys of 32 registers
#else
typedef int16_t IndexKey;
typedef int16_t IndexQuery;
constexpr int kDotDepth = 2;
constexpr int kPassHeads = 16;
#if MS_DSV32_IS_AVX2
constexpr int kKeyTile = 6;  // 6 x 2 accumulators + 2 of the query + 1 key + 1 product of 16 registers
#else
constexpr int kKeyTile = 2;  // 2 x 4 accumulators + 4 of the query + 1 key + 1 product of 16 registers
#endif
#endif
constexpr int kPasses = kIndexHeads / kPassHeads;
constexpr int kPassVecs = kPassHeads / kLanes;
// Keys scored together: the widened keys (12 KiB as int16), one pass of the query (4 KiB) and the partial sums (3 KiB)
// stay in L1.
constexpr int kKeyRun = 48;
static_assert(kKeyRun % kKeyTile == 0 && kKeyRun % 16 == 0, "a run is whole tiles and whole vectors");

// What the scores of one token need.
struct IndexToken {
  alignas(64) IndexQuery q[kIndexHeads * kIndexDim];
  alignas(64) float w[kIndexHeads];
  alignas(64) int32_t start[kIndexHeads];  // initial accumulators
};

// Buffers of one thread.
struct IndexRun {
  alignas(64) IndexKey keys[kKeyRun * kIndexDim];
  alignas(64) float k_scale[kKeyRun];
  alignas(64) float sums[kKeyRun * kPartialSums];
  alignas(64) float scores[kKeyRun];
};

inline void PackIndexToken(const int8_t* q, const uint16_t* q_scale, const uint16_t* weights, IndexToken* token) {
  IndexQuery wide[kPassHeads * kIndexDim];
  for (int pass = 0; pass < kPasses; ++pass) {
    for (int i = 0; i < kPassHeads * kIndexDim; ++i) wide[i] = q[pass * kPassHeads * kIndexDim + i];
    IndexQuery* out = token->q + pass * kPassHeads * kIndexDim;
    for (int d = 0; d < kIndexDim; d += kDotDepth) {
      for (int h = 0; h < kPassHeads; ++h) {
        StoreAs(out + d * kPassHeads + h * kDotDepth, LoadAs<uint32_t>(wide + h * kIndexDim + d));
      }
    }
  }
  for (int h = 0; h < kIndexHeads; ++h) {
    int32_t start = 0;
#if MS_DSV32_IS_AVX512
    for (int d = 0; d < kIndexDim; ++d) start -= 128 * q[h * kIndexDim + d];
#endif
    token->start[h] = start;
  }
  for (int h = 0; h < kIndexHeads; h += kLanes) StoreF(token->w + h, LoadFp16(q_scale + h) * LoadFp16(weights + h));
}

MS_DSV32_INLINE void LoadIndexKey(const int8_t* key, IndexKey* out) {
#if MS_DSV32_IS_AVX512
  for (int d = 0; d < kIndexDim; ++d) out[d] = static_cast<uint8_t>(key[d] ^ -128);
#else
  for (int d = 0; d < kIndexDim; ++d) out[d] = key[d];
#endif
}

// acc[m][j] += dot products of kKeyTile keys with the heads of one pass.
MS_DSV32_INLINE void IndexDots(const IndexKey* keys, const IndexQuery* q, VecI (&acc)[kKeyTile][kPassVecs]) {
#if MS_DSV32_IS_AVX512
  for (int d = 0; d < kIndexDim; d += kDotDepth) {
    __m512i b[kPassVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kPassVecs; ++j) b[j] = _mm512_loadu_si512(q + d * kPassHeads + j * 64);
#pragma GCC unroll 6
    for (int m = 0; m < kKeyTile; ++m) {
      const __m512i k = _mm512_set1_epi32(LoadAs<int32_t>(keys + m * kIndexDim + d));
#pragma GCC unroll 4
      for (int j = 0; j < kPassVecs; ++j) {
#if defined(MS_DSV32_SIMDE)
        acc[m][j] = (VecI)_mm512_dpbusd_epi32((__m512i)acc[m][j], k, b[j]);
#else
        // gcc 12 copies the accumulator at each call of the intrinsic, which halves the speed.
        __asm__("vpdpbusd %2, %1, %0" : "+v"(acc[m][j]) : "v"(k), "v"(b[j]));
#endif
      }
    }
  }
#elif MS_DSV32_IS_NEON
  for (int d = 0; d < kIndexDim; d += 16) {
    int8x16_t k[kKeyTile];
#pragma GCC unroll 4
    for (int m = 0; m < kKeyTile; ++m) k[m] = vld1q_s8(keys + m * kIndexDim + d);
#define MS_DSV32_INDEX_LANE(lane)                                             \
  _Pragma("GCC unroll 4") for (int j = 0; j < kPassVecs; ++j) {               \
    const int8x16_t b = vld1q_s8(q + (d + 4 * (lane)) * kPassHeads + j * 16); \
    _Pragma("GCC unroll 4") for (int m = 0; m < kKeyTile; ++m) {              \
      acc[m][j] = (VecI)vdotq_laneq_s32((int32x4_t)acc[m][j], b, k[m], lane); \
    }                                                                         \
  }
    MS_DSV32_INDEX_LANE(0)
    MS_DSV32_INDEX_LANE(1)
    MS_DSV32_INDEX_LANE(2)
    MS_DSV32_INDEX_LANE(3)
#undef MS_DSV32_INDEX_LANE
  }
#else
  for (int d = 0; d < kIndexDim; d += kDotDepth) {
    VecI b[kPassVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kPassVecs; ++j) b[j] = LoadAs<VecI>(q + d * kPassHeads + j * 2 * kLanes);
#pragma GCC unroll 6
    for (int m = 0; m < kKeyTile; ++m) {
      const VecI k = Set1I(LoadAs<int32_t>(keys + m * kIndexDim + d));
#pragma GCC unroll 4
      for (int j = 0; j < kPassVecs; ++j) {
#if MS_DSV32_IS_AVX2
        acc[m][j] += (VecI)_mm256_madd_epi16((__m256i)k, (__m256i)b[j]);
#elif defined(__SSE2__)
        typedef short Pairs __attribute__((vector_size(16)));
        acc[m][j] += (VecI)__builtin_ia32_pmaddwd128((Pairs)k, (Pairs)b[j]);
#else
        acc[m][j] += ((k << 16) >> 16) * ((b[j] << 16) >> 16) + (k >> 16) * (b[j] >> 16);
#endif
      }
    }
  }
#endif
}

// partial_sums[key][i] over all heads, for a run of keys.
MS_DSV32_INLINE void IndexPartialSums(const IndexKey* keys, const IndexToken& token, float* partial_sums) {
  for (int pass = 0; pass < kPasses; ++pass) {
    const int head = pass * kPassHeads;
    for (int key = 0; key < kKeyRun; key += kKeyTile) {
      VecI acc[kKeyTile][kPassVecs];
#pragma GCC unroll 6
      for (int m = 0; m < kKeyTile; ++m) {
#pragma GCC unroll 4
        for (int j = 0; j < kPassVecs; ++j) {
          acc[m][j] = MS_DSV32_IS_AVX512 ? LoadI(token.start + head + j * kLanes) : VecI{};
        }
      }
      IndexDots(keys + key * kIndexDim, token.q + head * kIndexDim, acc);
#pragma GCC unroll 6
      for (int m = 0; m < kKeyTile; ++m) {
        float* sums = partial_sums + (key + m) * kPartialSums;
#pragma GCC unroll 4
        for (int j = 0; j < kPassVecs; ++j) {
          const int slot = j * kLanes % kPartialSums;
          const VecF term = ToFloat(acc[m][j] & ~(acc[m][j] >> 31)) * LoadF(token.w + head + j * kLanes);
          StoreF(sums + slot, pass == 0 && j * kLanes < kPartialSums ? term : LoadF(sums + slot) + term);
        }
      }
    }
  }
}

// scores[i] = the sum of the 16 partial sums of key i by halving, times k_scale[i]; 16 keys.
MS_DSV32_INLINE void IndexReduce(const float* sums, const float* k_scale, float* scores) {
#if MS_DSV32_IS_AVX512
  // Row 4 i + c goes to 128-bit lane i of vector c, whose four elements are then added.
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
  const __m512i high = _mm512_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  const __m512i even = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
  const __m512i odd = _mm512_setr_epi32(4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  __m512 quad[4];
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 r0 = _mm512_loadu_ps(sums + 16 * c), r1 = _mm512_loadu_ps(sums + 16 * (c + 4));
    const __m512 r2 = _mm512_loadu_ps(sums + 16 * (c + 8)), r3 = _mm512_loadu_ps(sums + 16 * (c + 12));
    const __m512 e01 = _mm512_add_ps(_mm512_permutex2var_ps(r0, low, r1), _mm512_permutex2var_ps(r0, high, r1));
    const __m512 e23 = _mm512_add_ps(_mm512_permutex2var_ps(r2, low, r3), _mm512_permutex2var_ps(r2, high, r3));
    quad[c] = _mm512_add_ps(_mm512_permutex2var_ps(e01, even, e23), _mm512_permutex2var_ps(e01, odd, e23));
  }
  const __m512 p01 =
      _mm512_add_ps(_mm512_shuffle_ps(quad[0], quad[1], 0x44), _mm512_shuffle_ps(quad[0], quad[1], 0xee));
  const __m512 p23 =
      _mm512_add_ps(_mm512_shuffle_ps(quad[2], quad[3], 0x44), _mm512_shuffle_ps(quad[2], quad[3], 0xee));
  const __m512 total = _mm512_add_ps(_mm512_shuffle_ps(p01, p23, 0x88), _mm512_shuffle_ps(p01, p23, 0xdd));
  StoreF(scores, (VecF)total * LoadF(k_scale));
#elif MS_DSV32_IS_AVX2
  for (int key = 0; key < 16; key += 8) {
    const float* s = sums + key * kPartialSums;
    __m256 quad[4];  // row 4 i + c in 128-bit lane i of vector c
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const __m256 a = (__m256)(LoadF(s + 16 * c) + LoadF(s + 16 * c + 8));
      const __m256 b = (__m256)(LoadF(s + 16 * (c + 4)) + LoadF(s + 16 * (c + 4) + 8));
      quad[c] = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    }
    const __m256 p01 =
        _mm256_add_ps(_mm256_shuffle_ps(quad[0], quad[1], 0x44), _mm256_shuffle_ps(quad[0], quad[1], 0xee));
    const __m256 p23 =
        _mm256_add_ps(_mm256_shuffle_ps(quad[2], quad[3], 0x44), _mm256_shuffle_ps(quad[2], quad[3], 0xee));
    const __m256 total = _mm256_add_ps(_mm256_shuffle_ps(p01, p23, 0x88), _mm256_shuffle_ps(p01, p23, 0xdd));
    StoreF(scores + key, (VecF)total * LoadF(k_scale + key));
  }
#else
  for (int key = 0; key < 16; ++key) {
    const float* s = sums + key * kPartialSums;
    const VecF low = LoadF(s) + LoadF(s + 8), high = LoadF(s + 4) + LoadF(s + 12);
    scores[key] = ReduceAdd(low + high) * k_scale[key];
  }
#endif
}

// run->scores from run->keys and run->k_scale.
MS_DSV32_INLINE void IndexScores(const IndexToken& token, IndexRun* run) {
  IndexPartialSums(run->keys, token, run->sums);
  for (int key = 0; key < kKeyRun; key += 16) {
    IndexReduce(run->sums + key * kPartialSums, run->k_scale + key, run->scores + key);
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_INDEX_SCORE_H_
