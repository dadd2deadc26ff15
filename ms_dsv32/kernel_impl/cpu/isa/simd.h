// Vectors for the CPU kernels: one spelling for every instruction set.
//
// A kernel source file is compiled once per instruction set (ISA) with -DMS_DSV32_ISA=<name> and that ISA's -m flags.
// Everything it defines lives in namespace ms_dsv32::cpu::<name>. These translation units must not emit weak symbols
// that the baseline also has, because the linker keeps either copy. So this header uses no std templates. It uses GNU
// vector extensions, and intrinsics where they pay.
//
//   VecF, VecI, VecU   kLanes x float32 / int32 / uint32 in one vector of kVecBytes (64, 32 or 16 by ISA)
//   LoadF/StoreF, LoadBf16/StoreBf16 (round to nearest even), LoadInt8/StoreInt8, LoadFp16     all unaligned
//   Set1, Fma (explicit; fused on every ISA but portable), Select, Abs, Max, ReduceAdd, ReduceAddI, ReduceMax, AnySet,
//   Rint
//   Bf16ToF32, F32ToBf16, Fp16ToF32, F32ToFp16, OneNan   scalar, any ISA, same bits everywhere
//
// bf16 and fp16 are uint16_t bit patterns. No function here contracts a*b+c unless it says Fma.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_SIMD_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_SIMD_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef MS_DSV32_ISA
#define MS_DSV32_ISA portable  // baseline translation units (pack.cc) use the portable vectors
#endif

// Turns the ISA's name into a number the preprocessor can compare.
#define MS_DSV32_ISA_ID_portable 1
#define MS_DSV32_ISA_ID_avx2 2
#define MS_DSV32_ISA_ID_avx512 3
#define MS_DSV32_ISA_ID_avx512_bf16 4
#define MS_DSV32_ISA_ID_amx 5
#define MS_DSV32_ISA_ID_neon_dotprod 6
#define MS_DSV32_ISA_ID_neon_bf16 7
#define MS_DSV32_CAT_(a, b) a##b
#define MS_DSV32_CAT(a, b) MS_DSV32_CAT_(a, b)
#define MS_DSV32_ISA_ID MS_DSV32_CAT(MS_DSV32_ISA_ID_, MS_DSV32_ISA)
#if MS_DSV32_ISA_ID < MS_DSV32_ISA_ID_portable || MS_DSV32_ISA_ID > MS_DSV32_ISA_ID_neon_bf16
#error "MS_DSV32_ISA must be portable, avx2, avx512, avx512_bf16, amx, neon_dotprod or neon_bf16"
#endif
#define MS_DSV32_IS_AMX (MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_amx)  // AVX512_BF16 as well
#define MS_DSV32_IS_AVX512_BF16 (MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_avx512_bf16 || MS_DSV32_IS_AMX)
#define MS_DSV32_IS_AVX512 (MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_avx512 || MS_DSV32_IS_AVX512_BF16)
#define MS_DSV32_IS_NEON \
  (MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_neon_dotprod || MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_neon_bf16)
#define MS_DSV32_IS_NEON_BF16 (MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_neon_bf16)  // FEAT_BF16 and FEAT_I8MM
#define MS_DSV32_IS_AVX2 (MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_avx2)
#define MS_DSV32_IS_PORTABLE (MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_portable)

#if MS_DSV32_IS_AVX512 && defined(MS_DSV32_SIMDE)
// SIMDe runs the AVX-512 sources on a CPU without AVX-512 (tests); built with -mavx2 -mfma -mf16c.
#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#pragma GCC diagnostic pop
#elif MS_DSV32_IS_AVX512 || MS_DSV32_IS_AVX2
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // gcc 12 blames its own _mm512_undefined_*: GCC PR 105593
#pragma GCC diagnostic ignored "-Wuninitialized"        // the same, where they are inlined into a loop
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#elif MS_DSV32_IS_NEON
#include <arm_neon.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

// 64-byte vectors passed between always-inlined functions never cross a real call, so the ABI note is noise.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#define MS_DSV32_INLINE inline __attribute__((always_inline))

namespace ms_dsv32::cpu::MS_DSV32_ISA {

#if MS_DSV32_IS_AVX512
constexpr int kVecBytes = 64;
#elif MS_DSV32_IS_AVX2
constexpr int kVecBytes = 32;
#else
constexpr int kVecBytes = 16;
#endif
constexpr int kLanes = kVecBytes / 4;

typedef float VecF __attribute__((vector_size(kVecBytes), may_alias));
typedef int32_t VecI __attribute__((vector_size(kVecBytes), may_alias));
typedef uint32_t VecU __attribute__((vector_size(kVecBytes), may_alias));
// kLanes narrow elements.
typedef uint16_t VecU16 __attribute__((vector_size(kVecBytes / 2), may_alias));
typedef int8_t VecI8 __attribute__((vector_size(kVecBytes / 4), may_alias));
// kVecBytes of narrow elements.
typedef int16_t VecI16Full __attribute__((vector_size(kVecBytes), may_alias));

template <typename V>
MS_DSV32_INLINE V LoadAs(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
template <typename V>
MS_DSV32_INLINE void StoreAs(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

template <typename T>
MS_DSV32_INLINE constexpr T Min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
MS_DSV32_INLINE constexpr T Max(T a, T b) {
  return a < b ? b : a;
}
MS_DSV32_INLINE constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
MS_DSV32_INLINE constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// Scalar conversions.

MS_DSV32_INLINE uint32_t FloatBits(float f) { return LoadAs<uint32_t>(&f); }
MS_DSV32_INLINE float BitsFloat(uint32_t u) { return LoadAs<float>(&u); }
MS_DSV32_INLINE float Bf16ToF32(uint16_t v) { return BitsFloat(static_cast<uint32_t>(v) << 16); }
// Every NaN in a result is the positive quiet one, because which of two NaNs an operation passes on, and the sign of a
// new one, depend on the instruction set and on the compiler.
constexpr uint16_t kNanBf16 = 0x7fc0;
constexpr uint16_t kNanFp16 = 0x7e00;
MS_DSV32_INLINE float OneNan(float f) { return f == f ? f : __builtin_nanf(""); }
MS_DSV32_INLINE uint16_t F32ToBf16(float f) {
  const uint32_t u = FloatBits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return kNanBf16;
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
MS_DSV32_INLINE float Fp16ToF32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fffu) << 13;
  // Shifted into place the exponent is 112 too small. Multiplying by 2^112 repairs normals and subnormals alike, but
  // not Inf and NaN.
  if ((h & 0x7c00u) == 0x7c00u) return BitsFloat(sign | 0x7f800000u | magnitude);
  return BitsFloat(sign | FloatBits(BitsFloat(magnitude) * 0x1p112f));
}
MS_DSV32_INLINE uint16_t F32ToFp16(float f) {
  const uint32_t u = FloatBits(f);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return kNanFp16;
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves the fp16 subnormal (units of 2^-24) in the low mantissa bits, rounded to nearest
    // even.
    return static_cast<uint16_t>(sign | (FloatBits(BitsFloat(magnitude) + 0.5f) - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
}

// Vectors.

MS_DSV32_INLINE VecF Set1(float v) { return v - VecF{}; }
MS_DSV32_INLINE VecI Set1I(int32_t v) { return v - VecI{}; }
MS_DSV32_INLINE VecU Set1U(uint32_t v) { return v - VecU{}; }

MS_DSV32_INLINE VecF LoadF(const float* p) { return LoadAs<VecF>(p); }
MS_DSV32_INLINE void StoreF(float* p, VecF v) { StoreAs(p, v); }
MS_DSV32_INLINE VecI LoadI(const int32_t* p) { return LoadAs<VecI>(p); }
MS_DSV32_INLINE void StoreI(int32_t* p, VecI v) { StoreAs(p, v); }
MS_DSV32_INLINE VecF ToFloat(VecI v) { return __builtin_convertvector(v, VecF); }  // round to nearest even

// Bitwise choice: mask lanes are all ones or all zeros.
MS_DSV32_INLINE VecF Select(VecI mask, VecF yes, VecF no) { return (VecF)(((VecI)yes & mask) | ((VecI)no & ~mask)); }
MS_DSV32_INLINE VecU SelectU(VecI mask, VecU yes, VecU no) { return (yes & (VecU)mask) | (no & ~(VecU)mask); }

MS_DSV32_INLINE VecF Bf16BitsToF(VecU16 v) { return (VecF)(__builtin_convertvector(v, VecU) << 16); }
MS_DSV32_INLINE VecF LoadBf16(const uint16_t* p) { return Bf16BitsToF(LoadAs<VecU16>(p)); }
// Rounds to nearest even to bf16, in the low 16 bits of each lane. NaN as in F32ToBf16.
MS_DSV32_INLINE VecU BitsToBf16(VecF v) {
  const VecU u = (VecU)v;
  const VecU rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return SelectU((VecI)((VecI)(u & 0x7fffffffu) > 0x7f800000), Set1U(kNanBf16), rounded);
}
MS_DSV32_INLINE VecF RoundBf16(VecF v) { return (VecF)(BitsToBf16(v) << 16); }

MS_DSV32_INLINE void StoreU16(uint16_t* p, VecU v) {  // the low 16 bits of each lane; the others must be 0
#if MS_DSV32_IS_AVX2
  const __m256i packed = _mm256_packus_epi32((__m256i)v, (__m256i)v);
  _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
#else
  StoreAs(p, __builtin_convertvector(v, VecU16));
#endif
}
MS_DSV32_INLINE void StoreBf16(uint16_t* p, VecF v) { StoreU16(p, BitsToBf16(v)); }

// Uses intrinsics, because gcc 12 converts a vector of 4, 8 or 16 int8 element by element through scalar registers.
// They have a mask, because the plain ones warn of an uninitialised variable in gcc 12.
MS_DSV32_INLINE VecI LoadInt8(const int8_t* p) {
#if MS_DSV32_IS_AVX512 && !defined(MS_DSV32_SIMDE)  // SIMDe lacks the masked intrinsic
  return (VecI)_mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128((const __m128i*)p));
#elif MS_DSV32_IS_AVX2
  return (VecI)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p));
#elif MS_DSV32_IS_PORTABLE && defined(__SSE2__)
  const __m128i bytes = _mm_cvtsi32_si128(LoadAs<int32_t>(p));
  const __m128i pairs = _mm_unpacklo_epi8(bytes, bytes);
  return (VecI)_mm_srai_epi32(_mm_unpacklo_epi16(pairs, pairs), 24);
#else
  return __builtin_convertvector(LoadAs<VecI8>(p), VecI);
#endif
}
MS_DSV32_INLINE void StoreInt8(int8_t* p, VecI v) {  // truncates
#if MS_DSV32_IS_AVX512 && !defined(MS_DSV32_SIMDE)
  _mm_storeu_si128((__m128i*)p, _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)v));
#elif MS_DSV32_IS_AVX2
  const __m256i low = _mm256_set1_epi32(0x0c080400);  // byte 0 of each lane
  const __m256i quads = _mm256_shuffle_epi8((__m256i)v, low);
  const __m128i all = _mm_unpacklo_epi32(_mm256_castsi256_si128(quads), _mm256_extracti128_si256(quads, 1));
  _mm_storel_epi64((__m128i*)p, all);
#elif MS_DSV32_IS_PORTABLE && defined(__SSE2__)
  const __m128i bytes = _mm_and_si128((__m128i)v, _mm_set1_epi32(0xff));
  const __m128i words = _mm_packs_epi32(bytes, bytes);
  StoreAs(p, _mm_cvtsi128_si32(_mm_packus_epi16(words, words)));
#else
  StoreAs(p, __builtin_convertvector(v, VecI8));
#endif
}

MS_DSV32_INLINE VecF LoadFp16(const uint16_t* p) {
  const VecU h = __builtin_convertvector(LoadAs<VecU16>(p), VecU);
  const VecU sign = (h & 0x8000u) << 16;
  const VecU magnitude = (h & 0x7fffu) << 13;
  const VecU finite = (VecU)((VecF)magnitude * 0x1p112f);  // as in Fp16ToF32
  return (VecF)(sign | SelectU((VecI)((VecI)(h & 0x7c00u) == 0x7c00), magnitude | 0x7f800000u, finite));
}

MS_DSV32_INLINE VecF Fma(VecF a, VecF b, VecF c) {  // a * b + c
#if MS_DSV32_IS_AVX512
  return (VecF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif MS_DSV32_IS_AVX2
  return (VecF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif MS_DSV32_IS_NEON
  return (VecF)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

MS_DSV32_INLINE VecF Abs(VecF v) { return (VecF)((VecU)v & 0x7fffffffu); }
// A lane where one operand is NaN, or both are zeros, keeps `a`, as x86's instruction keeps its second operand. The
// intrinsic has a mask for the reason in LoadInt8.
MS_DSV32_INLINE VecF Max(VecF a, VecF b) {
#if MS_DSV32_IS_AVX512 && !defined(MS_DSV32_SIMDE)  // SIMDe lacks the masked intrinsic
  return (VecF)_mm512_maskz_max_ps(0xffff, (__m512)b, (__m512)a);
#elif MS_DSV32_IS_AVX2
  return (VecF)_mm256_max_ps((__m256)b, (__m256)a);
#else
  return Select((VecI)(b > a), b, a);
#endif
}
MS_DSV32_INLINE VecI NanMask(VecF v) { return (VecI)(v != v); }

// Sum of the lanes in a fixed order, by halving: lane i + lane i + n/2, for n = kLanes, kLanes/2, .., 2.
MS_DSV32_INLINE float ReduceAdd(VecF v) {
  float lane[kLanes];
  StoreF(lane, v);
#pragma GCC unroll 8
  for (int n = kLanes / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) lane[i] += lane[i + n];
  }
  return lane[0];
}
MS_DSV32_INLINE int32_t ReduceAddI(VecI v) {
  int32_t lane[kLanes];
  StoreI(lane, v);
  int32_t sum = 0;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) sum += lane[i];
  return sum;
}
MS_DSV32_INLINE float ReduceMax(VecF v) {  // ignores NaN lanes unless lane 0 is NaN
  float lane[kLanes];
  StoreF(lane, v);
  float best = lane[0];
#pragma GCC unroll 16
  for (int i = 1; i < kLanes; ++i) best = lane[i] > best ? lane[i] : best;
  return best;
}
MS_DSV32_INLINE bool AnySet(VecI mask) {  // any lane not 0
  int32_t lane[kLanes];
  StoreI(lane, mask);
  int32_t any = 0;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) any |= lane[i];
  return any != 0;
}

// Nearest integer, ties to even, for |v| <= 2^22: adding 1.5 * 2^23 puts the integer into the low mantissa bits. NaN
// stays NaN.
MS_DSV32_INLINE VecF Rint(VecF v) { return (v + 0x1.8p23f) - 0x1.8p23f; }

// bf16(v) in the upper half of each lane, garbage in the lower half. v must not be NaN. Half the work of BitsToBf16.
MS_DSV32_INLINE VecU RoundToUpperHalf(VecF v) { return (VecU)v + 0x7fffu + (((VecU)v >> 16) & 1u); }

#if MS_DSV32_IS_NEON_BF16
// The first halves of both vectors, or the second halves.
MS_DSV32_INLINE VecI ZipLow64(VecI a, VecI b) { return (VecI)vzip1q_s64((int64x2_t)a, (int64x2_t)b); }
MS_DSV32_INLINE VecI ZipHigh64(VecI a, VecI b) { return (VecI)vzip2q_s64((int64x2_t)a, (int64x2_t)b); }
#endif

// Keeps the compiler from loading the value again at each use, because a core does fewer loads than it takes operands.
MS_DSV32_INLINE void KeepInRegister(VecI& v) {
#if MS_DSV32_IS_AVX2 || (MS_DSV32_IS_AVX512 && !defined(MS_DSV32_SIMDE))
  asm("" : "+v"(v));
#else
  static_cast<void>(v);
#endif
}

// Keeps GCC on Arm from moving later loads before this. In inner loops whose sums take 24 of 32 registers it loads so
// far ahead that sums go to the stack.
MS_DSV32_INLINE void KeepLoadsInOrder() {
#if MS_DSV32_IS_NEON
  asm volatile("" ::: "memory");
#endif
}

MS_DSV32_INLINE void Prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }  // for reading, all cache levels

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_SIMD_H_
