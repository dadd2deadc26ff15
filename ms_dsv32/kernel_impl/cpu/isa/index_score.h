// Scores of the lightning indexer for one token and a run of keys: exact int8 dot products in int32, then float32.
//
//   score[p] = k_scale[p] * sum_n w[n] * relu(q[n] . k[p]),   w[n] = q_scale[n] * weights[n]
//
// Summation order, the same on every ISA and for every way to split the work, without FMA: 16 partial sums, number i
// over the heads i, i + 16, i + 32, i + 48 in this order; then the 16 are halved, i + (i + 8), i + (i + 4), i + (i +
// 2), i + (i + 1). So the bits of a score depend on nothing but the token and the key.
//
// Vector lanes hold heads, and a key's elements are broadcast, so that keys need no transposition. The query is packed
// once per token as [pass][128 / kDotDepth][form][kPassHeads][kDotDepth]. A pass is as many heads as fit the
// accumulators together with kKeyTile keys.
//   AVX-512   vpdpbusd, keys as k + 128 (uint8); each head starts at -128 * sum(q[n]), which takes the offset out again
//   AVX2      vpmaddubsw, the query as uint8; see below
//   NEON      smmla with FEAT_I8MM, two keys with two heads at a time; else sdot
//   others    int16 pairs (pmaddwd)
//
// vpmaddubsw multiplies uint8 by int8 and adds the products of a pair in int16, which holds the sum if the products
// have opposite signs: 255 * 127 < 2^15. So if both keys of a pair have the same sign, the second one is negated. It is
// then multiplied by the mirror image 127 - q instead of q + 128:
//   k * q = k * (q + 128) - 128 * k = -k * (127 - q) + 127 * k
// What is added to the products of uint8 and int8 is the same for all heads, so each key starts at it. A vector holds
// four elements of a head, two pairs. Either may be mirrored, which makes four forms of the query. With the vpmaddwd
// and vpaddd that widen the pairs this takes three instructions for 32 products, while vpmaddwd on int16 takes four.
// -128 cannot be negated. It counts as -127, and for runs of keys that have it the missing -1 is multiplied by the
// plain form (quantised keys are in [-127, 127]).
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_INDEX_SCORE_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_INDEX_SCORE_H_

#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

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
constexpr int kKeyRun = 48;
#elif MS_DSV32_IS_AVX2
typedef int8_t IndexKey;
typedef uint8_t IndexQuery;
constexpr int kDotDepth = 4;
constexpr int kPassHeads = 32;
constexpr int kKeyTile = 2;  // 2 x 4 accumulators + 4 products + 1 key + ones of 16 registers
constexpr int kKeyRun = 64;
#elif MS_DSV32_IS_NEON
typedef int8_t IndexKey;
typedef int8_t IndexQuery;
constexpr int kDotDepth = MS_DSV32_IS_NEON_BF16 ? 8 : 4;
constexpr int kPassHeads = 16;
// 32 registers: 3 x 8 accumulators of pairs + 3 of the keys + the query, or 4 x 4 + 4 of the query + 4 of the keys.
constexpr int kKeyTile = MS_DSV32_IS_NEON_BF16 ? 6 : 4;
constexpr int kKeyRun = 48;
#else
typedef int16_t IndexKey;
typedef int16_t IndexQuery;
constexpr int kDotDepth = 2;
constexpr int kPassHeads = 16;
constexpr int kKeyTile = 2;  // 2 x 4 accumulators + 4 of the query + 1 key + 1 product of 16 registers
constexpr int kKeyRun = 48;
#endif
constexpr int kPasses = kIndexHeads / kPassHeads;
constexpr int kPassVecs = kPassHeads / kLanes;
constexpr int kSumVecs = kPartialSums / kLanes;
constexpr int kQueryForms = MS_DSV32_IS_AVX2 ? 4 : 1;
constexpr int kFormSize = kPassHeads * kDotDepth;
constexpr int kKeyGroups = kIndexDim / kDotDepth;
constexpr int kPackHeads = 16;
// kKeyRun keys are scored together. L1 holds them (6 KiB; 12 KiB as int16, or with the offsets of forms), one pass of
// the query (2 to 16 KiB) and the partial sums (3 or 4 KiB).
static_assert(kKeyRun % kKeyTile == 0 && kKeyRun % 16 == 0, "a run is whole tiles and whole vectors");
static_assert(kPassHeads % kPackHeads == 0 && kPassVecs % kSumVecs == 0, "a pass is whole parts");

// What the scores of one token need.
struct IndexToken {
  alignas(64) IndexQuery q[kQueryForms * kIndexHeads * kIndexDim];
  alignas(64) float w[kIndexHeads];
#if MS_DSV32_IS_AVX512
  alignas(64) int32_t start[kIndexHeads];  // initial accumulators
#endif
};

// Buffers of one thread.
struct IndexRun {
  alignas(64) IndexKey keys[kKeyRun * kIndexDim];
#if MS_DSV32_IS_AVX2
  alignas(64) uint16_t forms[kKeyRun * kKeyGroups];  // offset of the query's form for each group of elements
  alignas(64) int32_t start[kKeyRun];                // initial accumulators
  alignas(64) int8_t rest[kKeyRun * kIndexDim];      // -1 where a key is -128; only if has_rest
  bool has_rest;
#endif
  const int8_t* next[kKeyRun];  // the keys that will be scored after these, or any readable ones
  alignas(64) float k_scale[kKeyRun];
  alignas(64) float sums[kKeyRun * kPartialSums];
  alignas(64) float scores[kKeyRun];
};

// Packs heads [head, head + kPackHeads) of a token. q, q_scale and weights point to its head 0.
inline void PackIndexHeads(const int8_t* q, const uint16_t* q_scale, const uint16_t* weights, int head,
                           IndexToken* token) {
  IndexQuery wide[kPackHeads * kIndexDim];
  for (int i = 0; i < kPackHeads * kIndexDim; ++i) {
    const int8_t v = q[head * kIndexDim + i];
    wide[i] = static_cast<IndexQuery>(MS_DSV32_IS_AVX2 ? v ^ -128 : v);  // v + 128
  }
  IndexQuery* out = token->q + head / kPassHeads * (kQueryForms * kPassHeads * kIndexDim);
  for (int d = 0; d < kIndexDim; d += kDotDepth) {
    IndexQuery* forms = out + d * kQueryForms * kPassHeads + head % kPassHeads * kDotDepth;
    IndexQuery* plain = forms + (kQueryForms - 1) * kFormSize;
    for (int h = 0; h < kPackHeads; ++h) {
      memcpy(plain + h * kDotDepth, wide + h * kIndexDim + d, kDotDepth * sizeof(IndexQuery));
    }
#if MS_DSV32_IS_AVX2
    for (int i = 0; i < kPackHeads * kDotDepth; i += kVecBytes) {
      const VecU v = LoadAs<VecU>(plain + i);  // 255 - (q + 128) = 127 - q
      StoreAs(forms + i, v ^ 0xff00ff00u);
      StoreAs(forms + i + kFormSize, v ^ 0xff000000u);
      StoreAs(forms + i + 2 * kFormSize, v ^ 0x0000ff00u);
    }
#endif
  }
#if MS_DSV32_IS_AVX512
  for (int h = head; h < head + kPackHeads; ++h) {
    int32_t start = 0;
    for (int d = 0; d < kIndexDim; ++d) start -= 128 * q[h * kIndexDim + d];
    token->start[h] = start;
  }
#endif
  for (int h = head; h < head + kPackHeads; h += kLanes) {
    StoreF(token->w + h, LoadFp16(q_scale + h) * LoadFp16(weights + h));
  }
}

// Loads key `i` of a run. Key 0 must be loaded first.
MS_DSV32_INLINE void LoadIndexKey(const int8_t* key, int64_t i, IndexRun* run) {
#if MS_DSV32_IS_AVX512
  for (int d = 0; d < kIndexDim; ++d) run->keys[i * kIndexDim + d] = static_cast<uint8_t>(key[d] ^ -128);
#elif MS_DSV32_IS_AVX2
  if (i == 0) run->has_rest = false;
  const __m256i ones = _mm256_set1_epi16(1), low = _mm256_set1_epi8(-128);
  const __m256i upper = _mm256_set1_epi16(-256);
  // Form 0 has both pairs mirrored. A plain first pair adds one to the form, a plain second pair two.
  const __m256i form_of_pair = _mm256_set1_epi32((-kFormSize & 0xffff) | -2 * kFormSize * 65536);
  __m256i start = _mm256_setzero_si256(), any_rest = start, forms[4], rest[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    __m256i k = _mm256_loadu_si256((const __m256i*)(key + 32 * j));
    rest[j] = _mm256_cmpeq_epi8(k, low);
    any_rest = _mm256_or_si256(any_rest, rest[j]);
    k = _mm256_sub_epi8(k, rest[j]);
    // The upper byte of a pair has the sign of the pair's product.
    const __m256i product = _mm256_xor_si256(k, _mm256_slli_epi16(k, 8));
    const __m256i plain = _mm256_srai_epi16(product, 15);
    const __m256i negated = _mm256_andnot_si256(plain, upper);
    k = _mm256_sub_epi8(_mm256_xor_si256(k, negated), negated);
    _mm256_store_si256((__m256i*)(run->keys + i * kIndexDim + 32 * j), k);
    forms[j] = _mm256_madd_epi16(plain, form_of_pair);
    // -128 * k, and for mirrored keys 127 * k = -127 * -k
    const __m256i offset = _mm256_add_epi8(low, negated);
    start = _mm256_sub_epi32(start, _mm256_madd_epi16(_mm256_maddubs_epi16(offset, k), ones));
  }
#pragma GCC unroll 2
  for (int j = 0; j < 4; j += 2) {
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(forms[j], forms[j + 1]), 0xd8);
    _mm256_store_si256((__m256i*)(run->forms + i * kKeyGroups + 8 * j), packed);
  }
  if (_mm256_movemask_epi8(any_rest) != 0) {
    if (!run->has_rest) memset(run->rest, 0, sizeof(run->rest));
    run->has_rest = true;
    for (int j = 0; j < 4; ++j) {
      _mm256_store_si256((__m256i*)(run->rest + i * kIndexDim + 32 * j), rest[j]);
      start = _mm256_sub_epi32(start, _mm256_madd_epi16(_mm256_maddubs_epi16(low, rest[j]), ones));
    }
  }
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(start), _mm256_extracti128_si256(start, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  run->start[i] = _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
#elif MS_DSV32_IS_NEON_BF16
  // A pair of keys is [128 / kDotDepth][2][kDotDepth].
  int8_t* out = run->keys + i / 2 * (2 * kIndexDim) + i % 2 * kDotDepth;
  for (int d = 0; d < kIndexDim; d += kDotDepth) memcpy(out + 2 * d, key + d, kDotDepth);
#else
  for (int d = 0; d < kIndexDim; ++d) run->keys[i * kIndexDim + d] = key[d];
#endif
}

#if MS_DSV32_IS_AVX2
// acc[m][j] += dot products of kKeyTile keys with the heads of one pass, as vpmaddubsw takes both.
MS_DSV32_INLINE void IndexDots(const int8_t* keys, const uint16_t* forms, const IndexQuery* q,
                               VecI (&acc)[kKeyTile][kPassVecs]) {
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 2
  for (int group = 0; group < kKeyGroups; ++group) {
#pragma GCC unroll 2
    for (int m = 0; m < kKeyTile; ++m) {
      const IndexQuery* form = q + group * kQueryForms * kFormSize + forms[m * kKeyGroups + group];
      const __m256i k = _mm256_set1_epi32(LoadAs<int32_t>(keys + m * kIndexDim + group * kDotDepth));
      __m256i product[kPassVecs];
#pragma GCC unroll 4
      for (int j = 0; j < kPassVecs; ++j) {
        product[j] = _mm256_maddubs_epi16(_mm256_load_si256((const __m256i*)form + j), k);
      }
#pragma GCC unroll 4
      for (int j = 0; j < kPassVecs; ++j) product[j] = _mm256_madd_epi16(product[j], ones);
#pragma GCC unroll 4
      for (int j = 0; j < kPassVecs; ++j) acc[m][j] += (VecI)product[j];
    }
  }
}
#endif

// acc[m][j] = dot products of the kKeyTile keys from `key` on with the heads of the pass from `head` on.
MS_DSV32_INLINE void IndexDots(const IndexRun& run, int key, const IndexToken& token, int head,
                               VecI (&acc)[kKeyTile][kPassVecs]) {
  const IndexKey* keys = run.keys + key * kIndexDim;
  const IndexQuery* q = token.q + head * kQueryForms * kIndexDim;
#pragma GCC unroll 6
  for (int m = 0; m < kKeyTile; ++m) {
#pragma GCC unroll 4
    for (int j = 0; j < kPassVecs; ++j) {
#if MS_DSV32_IS_AVX512
      acc[m][j] = LoadI(token.start + head + j * kLanes);
#elif MS_DSV32_IS_AVX2
      acc[m][j] = Set1I(run.start[key + m]);
#else
      acc[m][j] = VecI{};
#endif
    }
  }
#if MS_DSV32_IS_AVX2
  IndexDots(keys, run.forms + key * kKeyGroups, q, acc);
  if (run.has_rest) {
    alignas(64) static constexpr uint16_t kFirst[kKeyTile * kKeyGroups] = {};
    IndexDots(run.rest + key * kIndexDim, kFirst, q + (kQueryForms - 1) * kFormSize, acc);
  }
#elif MS_DSV32_IS_AVX512
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
#elif MS_DSV32_IS_NEON_BF16
  // Sums of a pair of keys with two pairs of heads, 4 j and 4 j + 2. The first key has the first half.
  constexpr int kKeyPairs = kKeyTile / 2;
  int32x4_t pairs[kKeyPairs][kPassVecs][2] = {};
  for (int d = 0; d < kIndexDim; d += kDotDepth) {
    int8x16_t k[kKeyPairs];
#pragma GCC unroll 3
    for (int m = 0; m < kKeyPairs; ++m) k[m] = vld1q_s8(keys + 2 * (m * kIndexDim + d));
#pragma GCC unroll 4
    for (int j = 0; j < kPassVecs; ++j) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const int8x16_t b = vld1q_s8(q + d * kPassHeads + (2 * j + half) * 16);
#pragma GCC unroll 3
        for (int m = 0; m < kKeyPairs; ++m) pairs[m][j][half] = vmmlaq_s32(pairs[m][j][half], k[m], b);
      }
    }
  }
#pragma GCC unroll 3
  for (int m = 0; m < kKeyPairs; ++m) {
#pragma GCC unroll 4
    for (int j = 0; j < kPassVecs; ++j) {
      acc[2 * m][j] = ZipLow64((VecI)pairs[m][j][0], (VecI)pairs[m][j][1]);
      acc[2 * m + 1][j] = ZipHigh64((VecI)pairs[m][j][0], (VecI)pairs[m][j][1]);
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
#if defined(__SSE2__)
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

// Fetches keys of run.next into L1. The hardware cannot foresee them, because blocks of keys lie anywhere in the cache.
MS_DSV32_INLINE void PrefetchNext(const IndexRun& run, int first, int count) {
#pragma GCC unroll 6
  for (int i = first; i < first + count; ++i) {
    for (int byte = 0; byte < kIndexDim; byte += 64) Prefetch(run.next[i] + byte);
  }
}

// run->sums[key][i], the partial sums over all heads.
MS_DSV32_INLINE void IndexPartialSums(const IndexToken& token, IndexRun* run) {
  for (int pass = 0; pass < kPasses; ++pass) {
    const int head = pass * kPassHeads;
    for (int key = 0; key < kKeyRun; key += kKeyTile) {
      // Fetches a few at a time, because a core has some 20 loads under way, and waits if there are more.
      if (pass == 0) PrefetchNext(*run, key, kKeyTile);
      VecI acc[kKeyTile][kPassVecs];
      IndexDots(*run, key, token, head, acc);
#pragma GCC unroll 6
      for (int m = 0; m < kKeyTile; ++m) {
        float* sums = run->sums + (key + m) * kPartialSums;
        VecF sum[kSumVecs];
#pragma GCC unroll 4
        for (int j = 0; j < kPassVecs; ++j) {
          const VecF term = ToFloat(acc[m][j] > 0 ? acc[m][j] : VecI{}) * LoadF(token.w + head + j * kLanes);
          VecF& partial = sum[j % kSumVecs];
          if (j < kSumVecs) {
            partial = pass == 0 ? term : LoadF(sums + j * kLanes) + term;
          } else {
            partial += term;
          }
        }
#pragma GCC unroll 4
        for (int i = 0; i < kSumVecs; ++i) StoreF(sums + i * kLanes, sum[i]);
      }
    }
  }
}

// scores[i] = the sum of the 16 partial sums of key i by halving, times k_scale[i]; 16 keys.
MS_DSV32_INLINE void IndexReduce(const float* sums, const float* k_scale, float* scores) {
#if MS_DSV32_IS_AVX512
  // Row 4 i + c goes to 128-bit lane i of vector c. The four elements of a lane are then added.
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

// Computes run->scores from the keys of the run and run->k_scale.
MS_DSV32_INLINE void IndexScores(const IndexToken& token, IndexRun* run) {
  IndexPartialSums(token, run);
  for (int key = 0; key < kKeyRun; key += 16) {
    IndexReduce(run->sums + key * kPartialSums, run->k_scale + key, run->scores + key);
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_INDEX_SCORE_H_
