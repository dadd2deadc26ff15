// Matrix products of few to many rows with weights in strips of 16 columns (pack.h).
//
//   GemmBf16   c[rows, 64 * panels] = x[rows, k] @ w, or c += ..; bf16 factors, float32 sums
//   GemmInt8   the same with int8 factors, exact int32 sums (any values, -128 included)
//   PackStripsBf16, PackStripsInt8   columns of a row-major weight -> strips
//
// Bits: an element of c is one chain of additions over ascending k, whatever `rows`, `panels` or the other rows hold.
// GemmBf16 with accumulate = true continues the chain that c holds, so that cutting k at multiples of kBf16Cut into
// several calls gives the bits of one call. A row reads nothing of another row: NaN and Inf stay in theirs.
//
// A step is 64 bytes of a strip: 2 (bf16) or 4 (int8) neighbours in k of each of its 16 columns. AVX-512's dot products
// take x as it lies in memory. For other instructions rows of x are converted into the form that they want, a block of
// steps at a time. Sums stay in registers for a block, and for all of k if x is not converted and has a single tile of
// rows.
//
//   GemmFew     one tile of rows. Its limit is the stream of weights, which it reads strip by strip in memory's order,
//               because hardware prefetchers follow that
//   GemmMany    more rows. Its limit is the multipliers: a converted tile of rows meets the block of all strips
//   GemmPanels  more rows, where x is not converted or weights must be: the block of a few strips meets all tiles
//
// Each tile fetches its part of the block that comes next, because the CPU drops prefetches that come too close
// together.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_GEMM_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_GEMM_H_

#include "ms_dsv32/kernel_impl/cpu/isa/gemm_amx.h"
#include "ms_dsv32/kernel_impl/cpu/isa/gemm_views.h"
#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int kBf16PerStep = 2;                     // neighbours in k, bf16
constexpr int kInt8PerStep = 4;                     // neighbours in k, int8
constexpr int kBf16Cut = MS_DSV32_IS_AMX ? 32 : 2;  // AMX adds the products of a tile, 32 deep, before it adds to c
constexpr int kMaxTileRows = MS_DSV32_IS_PORTABLE ? 4 : 6;  // the most rows of a tile in most kernels
// Steps of a block of converted rows: 8 KiB of a strip, 16 KiB widened, which stay in an L1 of 32 KiB beside a tile's
// words (6 KiB).
constexpr int kSteps = 128;
// Steps of a block of rows as they are: 128 KiB of a panel, as much of the one that is fetched, and 192 KiB of 96 rows
// stay in an L2 of 1 MiB. The token projections, 1024 deep, are one block.
constexpr int kDirectSteps = 512;
constexpr int kFewSteps = 512;    // steps that are converted at a time for one tile: 24 KiB of words
constexpr int kManyRows = 128;    // rows of a block of strips: 136 KiB of words if they are converted, which stay in L2
constexpr int kAheadSteps = 128;  // steps between a step of a stream and the one that it fetches: 8 KiB of each strip
// At most so many rows read weights as fast as memory gives them. The CPU drops prefetches then. A second prefetch, so
// many steps before the use, fetches what the first one did not.
constexpr int kStreamRows = 3;
constexpr int kAgainSteps = 32;

// The multiply-add steps of each instruction set.
//
// A step has kPhases phases. Each has one vector of weights, made from a raw vector of a strip, and one 32-bit word of
// x for a row. A tile has at most kTileRows rows. Dot adds their product to an accumulator of kLanes columns. With
// kConverts Operand makes the words of x, [phase][step]. Otherwise they are those of x itself. From kWideRows rows on,
// if it is not 0, the first tile stores the weights that it has made for the others. That pays if making them takes the
// units that the products take. With kRowOffset a row's product is too large by RowOffset.

struct Bf16Dot {
  using Element = uint16_t;
  using Sum = float;
  using Acc = VecF;
  static constexpr int kPerStep = kBf16PerStep;
  static constexpr int kTileRows = kMaxTileRows;
  static constexpr bool kConverts = !MS_DSV32_IS_AVX512_BF16;
  static constexpr bool kRowOffset = false;
  // AVX2 shifts beside its multipliers. Vectors of 512 bits, and Arm's cores, do both in the same two pipes. With
  // AVX-512 fewer rows do not repay the stores: 16 take 1.08 times as long, and 32 of some products 1.02 times.
  static constexpr int64_t kWideRows = MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_avx512         ? 48
                                       : MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_neon_dotprod ? 1
                                                                                         : 0;

#if MS_DSV32_IS_AVX512_BF16 || MS_DSV32_IS_NEON_BF16
  static constexpr int kPhases = 1;
  static MS_DSV32_INLINE VecI Weights(VecI raw, int /*phase*/) { return raw; }
  static MS_DSV32_INLINE VecI Operand(VecI raw, int /*phase*/) { return raw; }
  static MS_DSV32_INLINE VecF Dot(VecF acc, VecI w, VecI x) {
#if MS_DSV32_IS_AVX512
    return (VecF)_mm512_dpbf16_ps((__m512)acc, (__m512bh)w, (__m512bh)x);
#else
    return (VecF)vbfdotq_f32((float32x4_t)acc, (bfloat16x8_t)w, (bfloat16x8_t)x);
#endif
  }
#if MS_DSV32_IS_NEON_BF16
  // The matrix instruction adds the products of its two steps as two dot products do, bit for bit. Arm's description of
  // BFMMLA says so, whether FPCR.EBF fuses sums or not.
  static MS_DSV32_INLINE VecF DotPairs(VecF acc, VecI x, VecI w) {
    return (VecF)vbfmmlaq_f32((float32x4_t)acc, (bfloat16x8_t)x, (bfloat16x8_t)w);
  }
  static constexpr uint32_t kNoWeights = 0x80008000u;  // times 0 it is -0, which changes no sum, -0 included
#endif
#else
  // Converts to float32: k in phase 0 is the low half of each pair, k + 1 in phase 1 the high half.
  static constexpr int kPhases = 2;
  static MS_DSV32_INLINE VecI Weights(VecI raw, int phase) {
    return phase == 0 ? (VecI)((VecU)raw << 16) : raw & -65536;
  }
  static MS_DSV32_INLINE VecI Operand(VecI raw, int phase) { return Weights(raw, phase); }
  static MS_DSV32_INLINE VecF Dot(VecF acc, VecI w, VecI x) {
    // Assembly, because GCC 12 makes one expression of the intrinsics of both phases. It overwrites a factor instead of
    // the sum, or moves sums to other registers, and spills up to 4 accumulators in each step.
#if (MS_DSV32_IS_AVX512 && !defined(MS_DSV32_SIMDE)) || MS_DSV32_IS_AVX2
    asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
    return acc;
#elif MS_DSV32_IS_NEON
    asm("fmla %0.4s, %1.4s, %2.4s" : "+w"(acc) : "w"(x), "w"(w));
    return acc;
#else
    return Fma((VecF)x, (VecF)w, acc);
#endif
  }
#endif
};

struct Int8Dot {
  using Element = int8_t;
  using Sum = int32_t;
  using Acc = VecI;
  static constexpr int kPerStep = kInt8PerStep;

#if MS_DSV32_IS_AVX512
  // vpdpbusd multiplies unsigned with signed bytes. w + 128 is unsigned, and 128 * (sum of the row of x) is subtracted
  // again. It is exact: k * 255 * 128 < 2^31 for k < 65793. Intel's cores multiply in the two ports that also do the
  // exclusive or, so a step of 6 rows and 4 vectors takes 14 cycles instead of 12, and one of 12 rows and 2 vectors 13.
  static constexpr int kTileRows = MS_DSV32_IS_AMX ? 8 : 12;
  static constexpr int kPhases = 1;
  static constexpr bool kConverts = false;
  static constexpr bool kRowOffset = true;
  static constexpr int64_t kWideRows = 0;
  static MS_DSV32_INLINE VecI Weights(VecI raw, int /*phase*/) { return raw ^ static_cast<int32_t>(0x80808080u); }
  static MS_DSV32_INLINE VecI Dot(VecI acc, VecI w, VecI x) {
#if defined(MS_DSV32_SIMDE)
    return (VecI)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)x);
#else
    // GCC 12 copies the accumulator around the intrinsic, which spills at 24 accumulators and halves the speed.
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
    return acc;
#endif
  }
  // 128 * (sum of k elements of x); k is a multiple of 4.
  static MS_DSV32_INLINE int32_t RowOffset(const int8_t* x, int64_t k) {
    constexpr int kUnroll = 4;                                     // sums that do not wait for each other
    const VecI factor = Set1I(static_cast<int32_t>(0x80808080u));  // 128, unsigned
    VecI acc[kUnroll] = {};
    int64_t i = 0;
    for (; i + kUnroll * kVecBytes <= k; i += kUnroll * kVecBytes) {
#pragma GCC unroll 4
      for (int u = 0; u < kUnroll; ++u) acc[u] = Dot(acc[u], factor, LoadAs<VecI>(x + i + u * kVecBytes));
    }
    for (; i + kVecBytes <= k; i += kVecBytes) acc[0] = Dot(acc[0], factor, LoadAs<VecI>(x + i));
    if (i < k) {
      VecI rest{};
      memcpy(&rest, x + i, static_cast<size_t>(k - i));
      acc[0] = Dot(acc[0], factor, rest);
    }
    return ReduceAddI((acc[0] + acc[1]) + (acc[2] + acc[3]));
  }
#elif MS_DSV32_IS_NEON
  static constexpr int kTileRows = kMaxTileRows;
  static constexpr int kPhases = 1;
  static constexpr bool kConverts = true;
  static constexpr bool kRowOffset = false;
  static constexpr int64_t kWideRows = 0;
  static MS_DSV32_INLINE VecI Weights(VecI raw, int /*phase*/) { return raw; }
  static MS_DSV32_INLINE VecI Operand(VecI raw, int /*phase*/) { return raw; }
  static MS_DSV32_INLINE VecI Dot(VecI acc, VecI w, VecI x) {
    return (VecI)vdotq_s32((int32x4_t)acc, (int8x16_t)w, (int8x16_t)x);
  }
#if MS_DSV32_IS_NEON_BF16
  static MS_DSV32_INLINE VecI DotPairs(VecI acc, VecI x, VecI w) {
    return (VecI)vmmlaq_s32((int32x4_t)acc, (int8x16_t)x, (int8x16_t)w);
  }
  static constexpr uint32_t kNoWeights = 0;
#endif
#else
  // Bytes are sign-extended to 16 bits. A lane holds two products of a column: k, k + 2 in phase 0 (even bytes), k + 1,
  // k + 3 in phase 1. This is exact, while a multiplication of unsigned with signed bytes saturates its 16-bit sums.
  static constexpr int kTileRows = kMaxTileRows;
  static constexpr int kPhases = 2;
  static constexpr bool kConverts = true;
  static constexpr bool kRowOffset = false;
  static constexpr int64_t kWideRows = 1;
  static MS_DSV32_INLINE VecI Weights(VecI raw, int phase) {
    return phase == 0 ? (VecI)(((VecI16Full)raw << 8) >> 8) : (VecI)((VecI16Full)raw >> 8);
  }
  static MS_DSV32_INLINE VecI Operand(VecI raw, int phase) { return Weights(raw, phase); }
  static MS_DSV32_INLINE VecI Dot(VecI acc, VecI w, VecI x) {
#if MS_DSV32_IS_AVX2
    const VecI product = (VecI)_mm256_madd_epi16((__m256i)w, (__m256i)x);
    // Assembly, because GCC 12 adds the products of both phases first, or into another register, and spills sums.
    asm("vpaddd %1, %0, %0" : "+x"(acc) : "x"(product));
    return acc;
#elif defined(__SSE2__)
    return acc + (VecI)_mm_madd_epi16((__m128i)w, (__m128i)x);
#else
    return acc + ((w << 16) >> 16) * ((x << 16) >> 16) + (w >> 16) * (x >> 16);
#endif
  }
#endif
};

// Vectors of columns of a tile with `rows` rows: as many accumulators as the registers hold beside weights and a word
// of x.
constexpr int TileVectors(int rows) {
#if MS_DSV32_IS_AVX512
  return rows <= 6 ? 4 : 2;  // 32 registers: up to 24 accumulators
#elif MS_DSV32_IS_AVX2
  return rows == 1 ? 8 : (rows == 2 ? 4 : 2);  // 16 registers: up to 12 accumulators
#elif MS_DSV32_IS_NEON
  return rows == 1 ? 16 : (rows <= 3 ? 8 : 4);  // 32 registers: up to 24 accumulators
#else
  return rows == 1 ? 8 : (rows == 2 ? 4 : 2);  // 16 registers, multiply and add apart: up to 8 accumulators
#endif
}

// Words between converted rows of x: one line more than a power of two, so that rows do not share cache sets.
template <typename Kernel>
constexpr int OperandStride(int steps) {
  return Kernel::kPhases * steps + 16;
}

// Words between widened strips, [step][phase][kStrip]: also one line more than a power of two.
template <typename Kernel>
constexpr int WideStride(int steps) {
  return Kernel::kPhases * steps * kStrip + kStrip;
}

// Weights of a tile's strips: raw ones, or widened.
enum class Weights { kRaw, kRawToWide, kWide };

struct Block {
  const char* w;        // weights of the tile's first column, in the first step
  int64_t strip_bytes;  // bytes to the next strip
  int steps;
  int32_t* wide;  // kRawToWide: where the widened weights are stored
  // The memory to fetch meanwhile, a line of each strip in a step, and how far it moves on in a step. After `turn`
  // steps, an even number or all, the fetch goes on at `then`.
  const char* ahead;
  int64_t ahead_step;
  const char* then;
  int turn;
};

// A block of weights that are read once. It fetches the steps kAheadSteps further on, and those at `then` if it is not
// null.
MS_DSV32_INLINE Block StreamBlock(const char* w, int64_t strip_bytes, int steps, const char* then) {
  const int turn = Max(steps - kAheadSteps, 0) / 2 * 2;
  const char* ahead = w + kAheadSteps * kStepBytes;
  return {w, strip_bytes, steps, nullptr, ahead, kStepBytes, then == nullptr ? w : then, turn};
}

// A block of weights that many tiles read. It fetches `share` bytes of each line of the next block's strips, at
// `ahead`, or nothing if that is null.
MS_DSV32_INLINE Block SharedBlock(const char* w, int64_t strip_bytes, int steps, const char* ahead, int64_t share) {
  if (ahead == nullptr) return {w, strip_bytes, steps, nullptr, w, 0, nullptr, steps};
  return {w, strip_bytes, steps, nullptr, ahead, share, nullptr, steps};
}

#if MS_DSV32_IS_NEON_BF16
// Two rows or more by the matrix instructions. They multiply two rows of x in two steps with two columns, twice as much
// as a dot product. An accumulator holds two columns of a pair of rows, the first row in its first half.
template <typename Kernel, int kRows, int kStrips, int kDepth>
MS_DSV32_INLINE void PairTile(const int32_t* x, const Block& block, const Sums<typename Kernel::Sum>& sums) {
  using Acc = typename Kernel::Acc;
  constexpr int kStride = OperandStride<Kernel>(kDepth);
  constexpr int kPairs = (kRows + 1) / 2;  // the last row of an odd number is paired with itself
  constexpr int kQuads = kStrip / 4;       // groups of four columns
  const auto second = [](int pair) { return Min(2 * pair + 1, kRows - 1); };
  const int steps = block.steps;
  const int64_t ahead_step = block.ahead_step, ldc = sums.ld;
  typename Kernel::Sum* c = sums.c;
  const bool load = sums.accumulate;
  for (int strip = 0; strip < kStrips; ++strip, c += kStrip) {
    const char* w = block.w + strip * block.strip_bytes;
    const char* ahead = block.ahead + strip * block.strip_bytes;
    Acc acc[kPairs][kQuads][2];
#pragma GCC unroll 3
    for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 4
      for (int q = 0; q < kQuads; ++q) {
        const VecI top = load ? LoadAs<VecI>(c + 2 * p * ldc + 4 * q) : VecI{};
        const VecI bottom = load ? LoadAs<VecI>(c + second(p) * ldc + 4 * q) : VecI{};
        acc[p][q][0] = (Acc)ZipLow64(top, bottom);
        acc[p][q][1] = (Acc)ZipHigh64(top, bottom);
      }
    }
    // Two steps: rows(p) is a pair of rows, low(q) and high(q) are columns 4 q to 4 q + 3 in either step.
    const auto multiply = [&](auto rows, auto low, auto high) __attribute__((always_inline)) {
      VecI xs[kPairs];
#pragma GCC unroll 3
      for (int p = 0; p < kPairs; ++p) xs[p] = rows(p);
#pragma GCC unroll 4
      for (int q = 0; q < kQuads; ++q) {
        const VecI first = low(q), next = high(q);
        const VecI left = (VecI)vzip1q_s32((int32x4_t)first, (int32x4_t)next);
        const VecI right = (VecI)vzip2q_s32((int32x4_t)first, (int32x4_t)next);
#pragma GCC unroll 3
        for (int p = 0; p < kPairs; ++p) acc[p][q][0] = Kernel::DotPairs(acc[p][q][0], xs[p], left);
#pragma GCC unroll 3
        for (int p = 0; p < kPairs; ++p) acc[p][q][1] = Kernel::DotPairs(acc[p][q][1], xs[p], right);
        KeepLoadsInOrder();
      }
    };
    const auto raw = [&](int q) { return LoadAs<VecI>(w + 16 * q); };
    int s = 0;
    for (int part = 0; part < 2; ++part) {
      const int end = part == 0 ? block.turn : steps;
      for (; s + 1 < end; s += 2) {
        const auto rows = [&](int p) {
          return (VecI)vcombine_s32(vld1_s32(x + 2 * p * kStride + s), vld1_s32(x + second(p) * kStride + s));
        };
        multiply(rows, raw, [&](int q) { return LoadAs<VecI>(w + kStepBytes + 16 * q); });
        w += 2 * kStepBytes;
        for (int i = 0; i < 2; ++i, ahead += ahead_step) __builtin_prefetch(ahead, 0, 2);  // into L2
      }
      ahead = block.then + strip * block.strip_bytes;
    }
    if (s < steps) {
      const auto rows = [&](int p) { return VecI{x[2 * p * kStride + s], 0, x[second(p) * kStride + s], 0}; };
      multiply(rows, raw, [](int) { return (VecI)Set1U(Kernel::kNoWeights); });
    }
#pragma GCC unroll 3
    for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 4
      for (int q = 0; q < kQuads; ++q) {
        const VecI left = (VecI)acc[p][q][0], right = (VecI)acc[p][q][1];
        StoreAs(c + 2 * p * ldc + 4 * q, ZipLow64(left, right));
        if (2 * p + 1 < kRows) StoreAs(c + (2 * p + 1) * ldc + 4 * q, ZipHigh64(left, right));
      }
    }
  }
}
#endif

// sums[kRows, kLanes * kVectors] of x @ w. Rows of x are `row_bytes` apart, or with kConverts [phase][kDepth] words at
// a constant distance. `offsets` of the rows are subtracted if the kernel has them.
template <typename Kernel, int kRows, int kVectors, int kDepth, Weights kWeights>
__attribute__((noinline)) void GemmTile(const char* x, int64_t row_bytes, const Block& block,
                                        const Sums<typename Kernel::Sum>& sums, const int32_t* offsets) {
  using Acc = typename Kernel::Acc;
  constexpr int kStrips = Max(1, kVectors * kLanes / kStrip);
  constexpr int kStripVectors = kStrip / kLanes;
  constexpr int kWideStride = WideStride<Kernel>(kDepth);
#if MS_DSV32_IS_NEON_BF16
  if constexpr (kRows > 1) {
    return PairTile<Kernel, kRows, kStrips, kDepth>(reinterpret_cast<const int32_t*>(x), block, sums);
  }
#endif
  // The addresses of six rows take three registers beside that of the first one, for 1, 3 and 5 times the distance.
  // More rows get an address of their own, or GCC would run out of registers.
  constexpr int kAddressed = 6;
  const int64_t x_stride = Kernel::kConverts ? 4 * OperandStride<Kernel>(kDepth) : row_bytes;
  const char* lower_x = x + kAddressed * x_stride;
  if (kRows > kAddressed && !Kernel::kConverts) asm("" : "+r"(lower_x));  // hides that the two are related
  const char* w = block.w;
  const char* ahead = block.ahead;
  int32_t* wide = block.wide;
  const int64_t strip_bytes = block.strip_bytes, ahead_step = block.ahead_step;
  typename Kernel::Sum* c = sums.c;
  const int64_t ldc = sums.ld;
  Acc acc[kRows][kVectors];
  if (sums.accumulate) {
#pragma GCC unroll 12
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) acc[m][v] = LoadAs<Acc>(c + m * ldc + v * kLanes);
    }
  } else {
#pragma GCC unroll 12
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) acc[m][v] = Acc{};
    }
  }
  int left = block.turn;
  for (int part = 0; part < 2; ++part) {
    for (; left > 0; --left) {
#pragma GCC unroll 2
      for (int phase = 0; phase < Kernel::kPhases; ++phase) {
        const auto weights = [&](int v) {
          constexpr int kBytes = 4 * kWideStride;
          const int strip = v / kStripVectors, vector = v % kStripVectors;
          if (kWeights == Weights::kWide) {
            return LoadAs<VecI>(w + strip * kBytes + phase * kStepBytes + vector * kVecBytes);
          }
          const VecI value = Kernel::Weights(LoadAs<VecI>(w + strip * strip_bytes + vector * kVecBytes), phase);
          if (kWeights == Weights::kRawToWide) {
            StoreAs(wide + strip * kWideStride + phase * kStrip + vector * kLanes, value);
          }
          return value;
        };
        const auto word = [&](int m) {
          const char* row = m < kAddressed ? x + m * x_stride : lower_x + (m - kAddressed) * x_stride;
          return Set1I(LoadAs<int32_t>(row + 4 * phase * kDepth));
        };
        // Hides that the address is the same, because loading the raw weights again is cheaper than keeping them.
        if (phase == 1 && kWeights != Weights::kWide) asm("" : "+r"(w));
        if (kRows < kVectors) {
          VecI xs[kRows];
#pragma GCC unroll 12
          for (int m = 0; m < kRows; ++m) xs[m] = word(m);
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) {
            const VecI ws = weights(v);
#pragma GCC unroll 12
            for (int m = 0; m < kRows; ++m) acc[m][v] = Kernel::Dot(acc[m][v], ws, xs[m]);
            KeepLoadsInOrder();
          }
        } else {
          VecI ws[kVectors];
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) {
            ws[v] = weights(v);
            if (kWeights == Weights::kWide || !Kernel::kConverts) KeepInRegister(ws[v]);
          }
#pragma GCC unroll 12
          for (int m = 0; m < kRows; ++m) {
            const VecI xs = word(m);
#pragma GCC unroll 16
            for (int v = 0; v < kVectors; ++v) acc[m][v] = Kernel::Dot(acc[m][v], ws[v], xs);
            KeepLoadsInOrder();
          }
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < kStrips; ++i) __builtin_prefetch(ahead + i * strip_bytes, 0, 2);  // into L2
      if (kRows <= kStreamRows && !Kernel::kConverts && kWeights == Weights::kRaw) {
#pragma GCC unroll 4
        for (int i = 0; i < kStrips; ++i) __builtin_prefetch(w + kAgainSteps * kStepBytes + i * strip_bytes, 0, 2);
      }
      ahead += ahead_step;
      w += (kWeights == Weights::kWide ? Kernel::kPhases : 1) * kStepBytes;
      if (kWeights == Weights::kRawToWide) wide += Kernel::kPhases * kStrip;
      x += 4;
      lower_x += 4;
    }
    left = block.steps - block.turn;
    ahead = block.then;
  }
#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      if constexpr (Kernel::kRowOffset) acc[m][v] -= offsets[m];
      StoreAs(c + m * ldc + v * kLanes, acc[m][v]);
    }
  }
  static_cast<void>(offsets);
}

// Converts `steps` steps of a row to words [phase][kDepth].
template <typename Kernel, int kDepth>
MS_DSV32_INLINE void ConvertOperand(const typename Kernel::Element* x, int steps, int32_t* words) {
  for (int s = 0; s < steps; s += kLanes) {
    VecI raw{};
    const int bytes = 4 * Min(steps - s, kLanes);
    if (bytes == kVecBytes) {
      raw = LoadAs<VecI>(x + s * Kernel::kPerStep);
    } else {
      memcpy(&raw, x + s * Kernel::kPerStep, static_cast<size_t>(bytes));
    }
    for (int phase = 0; phase < Kernel::kPhases; ++phase) {
      StoreAs(words + phase * kDepth + s, Kernel::Operand(raw, phase));
    }
  }
}

template <int kRows>
struct RowCount {
  static constexpr int value = kRows;
};

// Calls body(RowCount<rows>{}), kLeast <= rows <= kMost.
template <int kLeast, int kMost, typename Body>
MS_DSV32_INLINE void WithRowCount(int rows, const Body& body) {
  if constexpr (kLeast < kMost) {
    if (rows < kMost) return WithRowCount<kLeast, kMost - 1>(rows, body);
  }
  body(RowCount<kMost>{});
}

// Calls body(RowCount<height>{}, tile, first row) for each tile. There are as few tiles as possible. Their heights are
// nearly equal, so with several tiles none is less than half of the most.
template <typename Kernel, typename Body>
MS_DSV32_INLINE void WithTileRows(int64_t rows, int64_t tiles, const Body& body) {
  int64_t m = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int count = static_cast<int>(CeilDiv(rows - m, tiles - tile));
    WithRowCount<Kernel::kTileRows / 2, Kernel::kTileRows>(count, [&](auto row_count) { body(row_count, tile, m); });
    m += count;
  }
}

// kRows rows as one tile. For the arguments see GemmBf16.
template <typename Kernel, int kRows>
inline void GemmFew(const Rows<typename Kernel::Element>& x, const Strips<typename Kernel::Element>& w, int64_t k,
                    const Sums<typename Kernel::Sum>& c) {
  constexpr int kVectors = TileVectors(kRows);
  constexpr int kColumns = kVectors * kLanes;
  static_assert(kPanel % kColumns == 0, "tiles cover a panel");
  constexpr int kStride = OperandStride<Kernel>(kFewSteps);
  alignas(64) int32_t words[Kernel::kConverts ? kRows * kStride : 1];
  int32_t offsets[Kernel::kRowOffset ? kRows : 1] = {};
  if constexpr (Kernel::kRowOffset) {
    for (int m = 0; m < kRows; ++m) offsets[m] = Kernel::RowOffset(x.x + m * x.ld, k);
  }
  const int64_t depth = Kernel::kConverts ? kFewSteps * Kernel::kPerStep : k;
  const int64_t strip_bytes = w.StrideBytes();
  for (int64_t k0 = 0; k0 < k; k0 += depth) {
    const int steps = static_cast<int>(Min(depth, k - k0) / Kernel::kPerStep);
    const char* rows = x.Bytes();
    if constexpr (Kernel::kConverts) {
      for (int m = 0; m < kRows; ++m) {
        ConvertOperand<Kernel, kFewSteps>(x.x + m * x.ld + k0, steps, words + m * kStride);
      }
      rows = reinterpret_cast<const char*>(words);
    }
    const char* column = reinterpret_cast<const char*>(w.w + k0 * kStrip);
    for (int j = 0; j < w.panels * kPanel; j += kColumns) {
      const auto at = [&](int first) { return column + first / kStrip * strip_bytes + first % kStrip * 4; };
      // The next columns, after the last ones the first of the next block, and in the end what the caller says.
      const char* then = at(j + kColumns);
      if (j + kColumns == w.panels * kPanel) then = k0 + depth < k ? column + steps * kStepBytes : w.Next();
      GemmTile<Kernel, kRows, kVectors, kFewSteps, Weights::kRaw>(
          rows, x.StrideBytes(), StreamBlock(at(j), strip_bytes, steps, then), c.From(0, j, k0 > 0), offsets);
    }
  }
}

// Fetches rows [first, last) of x, `steps` steps of each, because they are more rows than the hardware follows.
template <typename Kernel>
MS_DSV32_INLINE void PrefetchRows(const typename Kernel::Element* x, int64_t ldx, int64_t first, int64_t last,
                                  int steps) {
  for (int64_t m = first; m < last; ++m) {
    const char* row = reinterpret_cast<const char*>(x + m * ldx);
    for (int byte = 0; byte < 4 * steps; byte += 64) Prefetch(row + byte);
  }
}

// More rows, see the top of this file.
template <typename Kernel>
inline void GemmMany(const Rows<typename Kernel::Element>& x, const Strips<typename Kernel::Element>& w, int64_t k,
                     const Sums<typename Kernel::Sum>& c) {
  constexpr int64_t kDepth = kSteps * Kernel::kPerStep;
  constexpr int kStride = OperandStride<Kernel>(kSteps);
  constexpr int kVectors = TileVectors(Kernel::kTileRows);
  constexpr int kColumns = kVectors * kLanes;
  constexpr int kGroup = 8 * kPanel;  // blocks of more columns would not stay in L2
  alignas(64) int32_t words[Kernel::kTileRows * kStride];
  const int64_t tiles = CeilDiv(x.count, Kernel::kTileRows);
  const int64_t strip_bytes = w.StrideBytes();
  const int64_t share = CeilDiv(kStepBytes, tiles);
  for (int begin = 0; begin < w.panels * kPanel; begin += kGroup) {
    const int end = Min(begin + kGroup, w.panels * kPanel);
    for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
      const int steps = static_cast<int>(Min(kDepth, k - k0) / Kernel::kPerStep);
      const bool last = k0 + kDepth >= k;
      const auto block = [&](int j, int64_t tile) {
        const char* here = reinterpret_cast<const char*>(w.w + k0 * kStrip) + j / kStrip * strip_bytes + j % kStrip * 4;
        const char* ahead = here + steps * kStepBytes;
        if (last) ahead = end < w.panels * kPanel || w.next == nullptr ? nullptr : w.Next() + j / kStrip * strip_bytes;
        if (ahead != nullptr) ahead += tile * steps * share;
        return SharedBlock(here, strip_bytes, steps, ahead, share);
      };
      WithTileRows<Kernel>(x.count, tiles, [&](auto count, int64_t tile, int64_t m) {
        constexpr int kRows = decltype(count)::value;
        for (int i = 0; i < kRows; ++i) {
          ConvertOperand<Kernel, kSteps>(x.x + (m + i) * x.ld + k0, steps, words + i * kStride);
        }
        PrefetchRows<Kernel>(x.x + k0, x.ld, m + kRows, Min(m + 2 * kRows, x.count), steps);
        for (int j = begin; j < end; j += kColumns) {
          GemmTile<Kernel, kRows, kVectors, kSteps, Weights::kRaw>(reinterpret_cast<const char*>(words), 0,
                                                                   block(j, tile), c.From(m, j, k0 > 0), nullptr);
        }
      });
    }
  }
}

// At most kManyRows rows. With kWideRows the first tile stores the widened weights for the others.
template <typename Kernel>
inline void GemmPanels(const Rows<typename Kernel::Element>& x, const Strips<typename Kernel::Element>& w, int64_t k,
                       const Sums<typename Kernel::Sum>& c) {
  constexpr int kBlock = Kernel::kConverts ? kSteps : kDirectSteps;
  constexpr int64_t kDepth = kBlock * Kernel::kPerStep;
  constexpr int kStride = OperandStride<Kernel>(kBlock);
  constexpr int kVectors = TileVectors(Kernel::kTileRows);
  constexpr int kColumns = kVectors * kLanes;
  constexpr int kGroup = Max(kStrip, kColumns);  // columns of a block
  static_assert(kGroup % kColumns == 0, "a block is whole tiles");
  alignas(64) int32_t words[Kernel::kConverts ? kManyRows * kStride : 1];
  alignas(64) int32_t wide[Kernel::kWideRows > 0 ? kGroup / kStrip * WideStride<Kernel>(kBlock) : 1];
  int32_t offsets[Kernel::kRowOffset ? kManyRows : 1] = {};
  const int64_t tiles = CeilDiv(x.count, Kernel::kTileRows);
  const int64_t strip_bytes = w.StrideBytes();
  const int64_t row_bytes = Kernel::kConverts ? 4 * kStride : x.StrideBytes();
  const int64_t share = CeilDiv(kStepBytes, tiles * (kGroup / kColumns));
  for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
    const int steps = static_cast<int>(Min(kDepth, k - k0) / Kernel::kPerStep);
    const char* rows = reinterpret_cast<const char*>(x.x + k0);
    if constexpr (Kernel::kConverts) {
      for (int64_t m = 0; m < x.count; ++m) {
        ConvertOperand<Kernel, kBlock>(x.x + m * x.ld + k0, steps, words + m * kStride);
        PrefetchRows<Kernel>(x.x + k0, x.ld, m + Kernel::kTileRows, Min(m + Kernel::kTileRows + 1, x.count), steps);
      }
      rows = reinterpret_cast<const char*>(words);
    }
    if constexpr (Kernel::kRowOffset) {
      for (int64_t m = 0; m < x.count; ++m) {
        offsets[m] = Kernel::RowOffset(x.x + m * x.ld + k0, steps * Kernel::kPerStep);
      }
    }
    const char* column = reinterpret_cast<const char*>(w.w + k0 * kStrip);
    for (int j = 0; j < w.panels * kPanel; j += kGroup) {
      const char* here = column + j / kStrip * strip_bytes;
      const char* ahead = here + kGroup / kStrip * strip_bytes;  // each tile fetches its part of the next block
      if (j + kGroup == w.panels * kPanel) ahead = k0 + kDepth < k ? column + steps * kStepBytes : w.Next();
      WithTileRows<Kernel>(x.count, tiles, [&](auto count, int64_t tile, int64_t m) {
        constexpr int kRows = decltype(count)::value;
        const char* tile_x = rows + m * row_bytes;
        const int32_t* tile_offsets = offsets + (Kernel::kRowOffset ? m : 0);
        for (int part = 0; part < kGroup; part += kColumns) {
          Block block = SharedBlock(here + 4 * part, strip_bytes, steps, ahead, share);
          if (ahead != nullptr) ahead += steps * share;
          const Sums<typename Kernel::Sum> sums = c.From(m, j + part, k0 > 0);
          if constexpr (Kernel::kWideRows == 0) {
            GemmTile<Kernel, kRows, kVectors, kBlock, Weights::kRaw>(tile_x, row_bytes, block, sums, tile_offsets);
          } else if (tile == 0) {
            block.wide = wide + part;
            GemmTile<Kernel, kRows, kVectors, kBlock, Weights::kRawToWide>(tile_x, row_bytes, block, sums,
                                                                           tile_offsets);
          } else {
            block.w = reinterpret_cast<const char*>(wide + part);
            GemmTile<Kernel, kRows, kVectors, kBlock, Weights::kWide>(tile_x, row_bytes, block, sums, tile_offsets);
          }
        }
      });
    }
  }
}

template <typename Kernel>
inline void GemmOneTile(const Rows<typename Kernel::Element>& x, const Strips<typename Kernel::Element>& w, int64_t k,
                        const Sums<typename Kernel::Sum>& c) {
  WithRowCount<1, Kernel::kTileRows>(static_cast<int>(x.count),
                                     [&](auto count) { GemmFew<Kernel, count.value>(x, w, k, c); });
}

#if !MS_DSV32_IS_AMX
template <typename Kernel>
inline void Gemm(const Rows<typename Kernel::Element>& x, const Strips<typename Kernel::Element>& w, int64_t k,
                 const Sums<typename Kernel::Sum>& c) {
  if (x.count <= Kernel::kTileRows) return GemmOneTile<Kernel>(x, w, k, c);
  if constexpr (Kernel::kConverts && Kernel::kWideRows != 1) {
    if (Kernel::kWideRows == 0 || x.count < Kernel::kWideRows) return GemmMany<Kernel>(x, w, k, c);
  }
  if constexpr (!Kernel::kConverts || Kernel::kWideRows > 0) {
    const int64_t parts = CeilDiv(x.count, kManyRows);
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t first = part * x.count / parts, count = (part + 1) * x.count / parts - first;
      GemmPanels<Kernel>({x.x + first * x.ld, x.ld, count}, w, k, c.From(first, 0, false));
    }
  }
}
#endif

// c = x @ w, or c += x @ w. Strips of w hold [k/2][16][2]; k is even. Nothing needs to be aligned.
inline void GemmBf16(const Rows<uint16_t>& x, const Strips<uint16_t>& w, int64_t k, const Sums<float>& c) {
#if MS_DSV32_IS_AMX
  GemmAmx(x, w, k, c);
#else
  Gemm<Bf16Dot>(x, w, k, c);
#endif
}

// Whether AMX's tiles multiply so many rows of int8. With fewer rows the stream of weights bounds both ways, and
// AVX-512 reads it a little faster. The bits are the same.
constexpr bool Int8OnTiles(int64_t rows) { return MS_DSV32_IS_AMX && rows > Int8Dot::kTileRows; }

// As GemmBf16 with strips [k/4][16][4]; k is a multiple of 4, below 65536.
inline void GemmInt8(const Rows<int8_t>& x, const Strips<int8_t>& w, int64_t k, const Sums<int32_t>& c) {
#if MS_DSV32_IS_AMX
  if (Int8OnTiles(x.count)) return GemmAmx(x, w, k, c);
  GemmOneTile<Int8Dot>(x, w, k, c);
#else
  Gemm<Int8Dot>(x, w, k, c);
#endif
}

// Columns of a row-major weight [k, ..] with ldw elements a row -> strips [4 * panels][k/2][16][2] or [..][k/4][16][4].
//
// Rows are too far apart for the hardware to follow them, so rows kPackAhead steps ahead are fetched, all columns of a
// row together.
constexpr int kPackAhead = 16;

template <int kPerStep, typename T>
MS_DSV32_INLINE void PrefetchStep(const T* w, int64_t ldw, int64_t step, int64_t steps, int panels) {
  if (step + kPackAhead >= steps) return;
  for (int r = 0; r < kPerStep; ++r) {
    const char* row = reinterpret_cast<const char*>(w + (kPackAhead * kPerStep + r) * ldw);
    for (int byte = 0; byte < panels * kPanel * static_cast<int>(sizeof(T)); byte += 64) Prefetch(row + byte);
  }
}

inline void PackStripsBf16(const uint16_t* w, int64_t ldw, int64_t k, int panels, uint16_t* out) {
  const int64_t steps = k / kBf16PerStep;
  for (int64_t s = 0; s < steps; ++s, w += kBf16PerStep * ldw) {
    PrefetchStep<kBf16PerStep>(w, ldw, s, steps, panels);
    for (int j = 0; j < panels * kPanel; j += kStrip) {
      uint16_t* step = out + (j * steps + s * kStrip) * kBf16PerStep;
#pragma GCC unroll 4
      for (int i = 0; i < kStrip; i += kLanes) {
        const VecU even = __builtin_convertvector(LoadAs<VecU16>(w + j + i), VecU);
        const VecU odd = __builtin_convertvector(LoadAs<VecU16>(w + ldw + j + i), VecU);
        StoreAs(step + kBf16PerStep * i, even | (odd << 16));
      }
    }
  }
}
// Interleaves one step of a panel: 64 columns of 4 rows -> [4] x [16][4], `stride` bytes apart.
MS_DSV32_INLINE void InterleaveInt8(const int8_t* w, int64_t ldw, int8_t* out, int64_t stride) {
#if MS_DSV32_IS_AVX2 || MS_DSV32_IS_AVX512
  for (int j = 0; j < kPanel; j += 32) {
    const __m256i r0 = LoadAs<__m256i>(w + j);
    const __m256i r1 = LoadAs<__m256i>(w + ldw + j);
    const __m256i r2 = LoadAs<__m256i>(w + 2 * ldw + j);
    const __m256i r3 = LoadAs<__m256i>(w + 3 * ldw + j);
    // Unpacking works on 16-byte halves: q0 holds columns 0..3 and 16..19, q1 4..7 and 20..23, and so on.
    const __m256i lo01 = _mm256_unpacklo_epi8(r0, r1), hi01 = _mm256_unpackhi_epi8(r0, r1);
    const __m256i lo23 = _mm256_unpacklo_epi8(r2, r3), hi23 = _mm256_unpackhi_epi8(r2, r3);
    const __m256i q0 = _mm256_unpacklo_epi16(lo01, lo23), q1 = _mm256_unpackhi_epi16(lo01, lo23);
    const __m256i q2 = _mm256_unpacklo_epi16(hi01, hi23), q3 = _mm256_unpackhi_epi16(hi01, hi23);
    int8_t* strip = out + j / kStrip * stride;
    StoreAs(strip, _mm256_permute2x128_si256(q0, q1, 0x20));
    StoreAs(strip + 32, _mm256_permute2x128_si256(q2, q3, 0x20));
    StoreAs(strip + stride, _mm256_permute2x128_si256(q0, q1, 0x31));
    StoreAs(strip + stride + 32, _mm256_permute2x128_si256(q2, q3, 0x31));
  }
#elif MS_DSV32_IS_NEON
  for (int j = 0; j < kPanel; j += 16) {
    const int8x16x4_t rows = {
        {vld1q_s8(w + j), vld1q_s8(w + ldw + j), vld1q_s8(w + 2 * ldw + j), vld1q_s8(w + 3 * ldw + j)}};
    vst4q_s8(out + j / kStrip * stride, rows);
  }
#elif defined(__SSE2__)
  for (int j = 0; j < kPanel; j += 16) {
    const __m128i r0 = LoadAs<__m128i>(w + j);
    const __m128i r1 = LoadAs<__m128i>(w + ldw + j);
    const __m128i r2 = LoadAs<__m128i>(w + 2 * ldw + j);
    const __m128i r3 = LoadAs<__m128i>(w + 3 * ldw + j);
    const __m128i lo01 = _mm_unpacklo_epi8(r0, r1), hi01 = _mm_unpackhi_epi8(r0, r1);
    const __m128i lo23 = _mm_unpacklo_epi8(r2, r3), hi23 = _mm_unpackhi_epi8(r2, r3);
    int8_t* strip = out + j / kStrip * stride;
    StoreAs(strip, _mm_unpacklo_epi16(lo01, lo23));
    StoreAs(strip + 16, _mm_unpackhi_epi16(lo01, lo23));
    StoreAs(strip + 32, _mm_unpacklo_epi16(hi01, hi23));
    StoreAs(strip + 48, _mm_unpackhi_epi16(hi01, hi23));
  }
#else
  for (int j = 0; j < kPanel; j += kLanes) {
    VecU quad{};
    for (int r = 0; r < kInt8PerStep; ++r) quad |= ((VecU)LoadInt8(w + r * ldw + j) & 0xffu) << (8 * r);
    StoreAs(out + j / kStrip * stride + 4 * (j % kStrip), quad);
  }
#endif
}
inline void PackStripsInt8(const int8_t* w, int64_t ldw, int64_t k, int panels, int8_t* out) {
  const int64_t steps = k / kInt8PerStep;
  for (int64_t s = 0; s < steps; ++s, w += kInt8PerStep * ldw) {
    PrefetchStep<kInt8PerStep>(w, ldw, s, steps, panels);
    for (int j = 0; j < panels * kPanel; j += kPanel) {
      InterleaveInt8(w + j, ldw, out + j * k + s * kStepBytes, kStrip * k);
    }
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_GEMM_H_
