// Matrix products of few to many rows with weights in strips of 16 columns (pack.h).
//
//   GemmBf16   c[rows, 16 * strips] = x[rows, k] @ w, or c += ..; bf16 factors, float32 sums
//   GemmInt8   the same with int8 factors, exact int32 sums (any values, -128 included)
//   PackStripsBf16, PackStripsInt8   columns of a row-major weight -> strips
//
// Bits: an element of c is one chain of additions over ascending k, whatever `rows`, `strips` or the other rows hold.
// GemmBf16 with accumulate = true continues the chain that c holds, so that cutting k at multiples of kBf16Cut into
// several calls gives the bits of one call. A row reads nothing of another row: NaN and Inf stay in theirs.
//
// A step is 64 bytes of a strip: 2 (bf16) or 4 (int8) neighbours in k of each of its 16 columns. Rows of x are
// converted into the form that the instructions want, a block of steps at a time; sums stay in registers for a block.
//
//   GemmFew       one tile of rows: the speed is that of the stream of weights, read strip by strip in memory's order,
//                 which is what hardware prefetchers follow
//   GemmMany      the speed is that of the multipliers: a converted tile of rows takes the block of all strips
//   GemmManyWide  the same where weights must be widened first: the block of a strip, widened, takes all tiles
//
// Of the block that comes next every tile fetches its part: prefetches that come too close together are dropped.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_GEMM_H_
#define MS_DSV32_KERNEL_IMPL_CPU_GEMM_H_

#include "ms_dsv32/kernel_impl/cpu/gemm_amx.h"
#include "ms_dsv32/kernel_impl/cpu/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int kStrip = 16;                          // columns of a strip
constexpr int kPanel = 64;                          // columns are multiples of this: four strips
constexpr int kBf16PerStep = 2;                     // neighbours in k, bf16
constexpr int kInt8PerStep = 4;                     // neighbours in k, int8
constexpr int kStepBytes = 64;                      // kStrip columns x 4 bytes
constexpr int kBf16Cut = MS_DSV32_IS_AMX ? 32 : 2;  // AMX adds the products of a tile, 32 deep, before it adds to c
constexpr int kMaxTileRows = MS_DSV32_IS_PORTABLE ? 4 : 6;
// Steps of a block: 8 KiB of a strip, 16 KiB widened, which stay in an L1 of 32 KiB beside a tile's words (6 KiB).
constexpr int kSteps = 128;
constexpr int kFewSteps = 512;  // converted at a time for one tile: 24 KiB of words
constexpr int kManyRows = 128;  // converted at a time for all strips: 136 KiB of words, which stay in L2

// ---- one instruction set's multiply-add steps
//
// A step has kPhases phases, each with one vector of weights made from a raw vector of a strip, and one 32-bit word
// of x for a row: word [phase][step]. Dot adds their product to an accumulator of kLanes columns. With kKeepsWide the
// first of many tiles leaves the weights as it has made them for the others: worth its stores where making them takes
// the units that the products take.

struct Bf16Dot {
  using Element = uint16_t;
  using Sum = float;
  using Acc = VecF;
  static constexpr int kPerStep = kBf16PerStep;
  static constexpr bool kVirtualRow = false;
  // x86 shifts beside its multipliers; Arm's cores have two pipes for both.
  static constexpr bool kKeepsWide = MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_neon_dotprod;

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
  // The matrix instruction adds the products of its two steps as two dot products do, bit for bit: so Arm's description
  // of BFMMLA, whether FPCR.EBF fuses sums or not.
  static MS_DSV32_INLINE VecF DotPairs(VecF acc, VecI x, VecI w) {
    return (VecF)vbfmmlaq_f32((float32x4_t)acc, (bfloat16x8_t)x, (bfloat16x8_t)w);
  }
  static constexpr uint32_t kNoWeights = 0x80008000u;  // times 0 it is -0, which changes no sum, -0 included
#endif
#else
  // As float32: k in phase 0 is the low half of each pair, k + 1 in phase 1 the high half.
  static constexpr int kPhases = 2;
  static MS_DSV32_INLINE VecI Weights(VecI raw, int phase) {
    return phase == 0 ? (VecI)((VecU)raw << 16) : raw & -65536;
  }
  static MS_DSV32_INLINE VecI Operand(VecI raw, int phase) { return Weights(raw, phase); }
  static MS_DSV32_INLINE VecF Dot(VecF acc, VecI w, VecI x) {
    // Of the intrinsics GCC 12 makes one expression for both phases, in forms that overwrite a factor instead of the
    // sum, or with sums that move to other registers, and spills up to 4 accumulators in each step.
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
  // vpdpbusd multiplies unsigned with signed bytes: x + 128 is unsigned, and 128 * (column sum), the product with a
  // virtual row of 128s, is subtracted again. Exact: k * 255 * 128 < 2^31 for k < 65793. The first tile has that row
  // beside its own: alone it would be a tile of four sums, each of which waits for itself.
  static constexpr int kPhases = 1;
  static constexpr bool kVirtualRow = true;
  static constexpr bool kKeepsWide = false;
  static MS_DSV32_INLINE VecI Weights(VecI raw, int /*phase*/) { return raw; }
  static MS_DSV32_INLINE VecI Operand(VecI raw, int /*phase*/) { return raw ^ static_cast<int32_t>(0x80808080u); }
  static MS_DSV32_INLINE VecI Dot(VecI acc, VecI w, VecI x) {
#if defined(MS_DSV32_SIMDE)
    return (VecI)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)x, (__m512i)w);
#else
    // GCC 12 copies the accumulator around the intrinsic, which spills at 24 accumulators and halves the speed.
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
    return acc;
#endif
  }
#elif MS_DSV32_IS_NEON
  static constexpr int kPhases = 1;
  static constexpr bool kVirtualRow = false;
  static constexpr bool kKeepsWide = false;
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
  // Sign-extended to 16 bits, two products of a column in one lane: k, k + 2 in phase 0 (even bytes), k + 1, k + 3 in
  // phase 1. Unlike a multiplication of unsigned with signed bytes, which saturates its 16-bit sums, this is exact.
  static constexpr int kPhases = 2;
  static constexpr bool kVirtualRow = false;
  static constexpr bool kKeepsWide = true;
  static MS_DSV32_INLINE VecI Weights(VecI raw, int phase) {
    return phase == 0 ? (VecI)(((VecI16Full)raw << 8) >> 8) : (VecI)((VecI16Full)raw >> 8);
  }
  static MS_DSV32_INLINE VecI Operand(VecI raw, int phase) { return Weights(raw, phase); }
  static MS_DSV32_INLINE VecI Dot(VecI acc, VecI w, VecI x) {
#if MS_DSV32_IS_AVX2
    const VecI product = (VecI)_mm256_madd_epi16((__m256i)w, (__m256i)x);
    // Else GCC 12 adds the products of both phases first, or into another register, and spills sums.
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

// Vectors of columns of a tile with `rows` rows: as many accumulators as the registers hold, beside weights and a word
// of x.
constexpr int TileVectors(int rows) {
#if MS_DSV32_IS_AVX512
  return rows > 0 ? 4 : 0;  // 32 registers: up to 24 accumulators
#elif MS_DSV32_IS_AVX2
  return rows == 1 ? 8 : (rows == 2 ? 4 : 2);  // 16 registers: up to 12 accumulators
#elif MS_DSV32_IS_NEON
  return rows == 1 ? 16 : (rows <= 3 ? 8 : 4);  // 32 registers: up to 24 accumulators
#else
  return rows == 1 ? 8 : (rows == 2 ? 4 : 2);  // 16 registers, multiply and add apart: up to 8 accumulators
#endif
}

// Words between the rows of x: a line more than a power of two, so that rows do not share cache sets.
template <typename Kernel>
constexpr int OperandStride(int steps) {
  return Kernel::kPhases * steps + 16;
}

// Weights of a tile: raw ones of one to four strips; or of one strip, widened, as [step][phase][kStrip] words.
enum class Weights { kRaw, kRawToWide, kWide };

struct Block {
  const char* w;        // of the tile's first column, in the first step
  int64_t strip_bytes;  // to the next strip
  int steps;
  int32_t* wide;  // kRawToWide: where the widened weights are left
  // The memory to fetch meanwhile, a line of each strip in a step, and how far it moves on in a step.
  const char* ahead;
  int64_t ahead_step;
};

#if MS_DSV32_IS_NEON_BF16
// Two rows or more by the matrix instructions, which multiply two rows of x in two steps with two columns: twice what
// a dot product multiplies. An accumulator holds two columns of a pair of rows, the first row in its first half.
template <typename Kernel, int kRows, int kStrips, int kDepth>
MS_DSV32_INLINE void PairTile(const int32_t* x, const Block& block, typename Kernel::Sum* c, int64_t ldc, bool load) {
  using Acc = typename Kernel::Acc;
  constexpr int kStride = OperandStride<Kernel>(kDepth);
  constexpr int kPairs = (kRows + 1) / 2;  // the last row of an odd number is paired with itself
  constexpr int kQuads = kStrip / 4;       // of columns
  const auto second = [](int pair) { return Min(2 * pair + 1, kRows - 1); };
  const int steps = block.steps;
  const int64_t ahead_step = block.ahead_step;
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
    // Two steps: rows(p) is of a pair of rows, low(q) and high(q) are of columns 4 q to 4 q + 3 in either step.
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
    for (; s + 1 < steps; s += 2) {
      const auto rows = [&](int p) {
        return (VecI)vcombine_s32(vld1_s32(x + 2 * p * kStride + s), vld1_s32(x + second(p) * kStride + s));
      };
      multiply(rows, raw, [&](int q) { return LoadAs<VecI>(w + kStepBytes + 16 * q); });
      w += 2 * kStepBytes;
      for (int i = 0; i < 2; ++i, ahead += ahead_step) __builtin_prefetch(ahead, 0, 2);  // into L2
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

// c[kRows, kLanes * kVectors] += x @ w; with `load` false from 0. x: words [kRows][phase][kDepth]. `compensation`, the
// product with the virtual row of a kernel that has one, is subtracted; with kVirtual it is computed and left there.
template <typename Kernel, int kRows, int kVectors, int kDepth, Weights kWeights, bool kVirtual>
__attribute__((noinline)) void GemmTile(const int32_t* x, const Block& block, typename Kernel::Sum* c, int64_t ldc,
                                        bool load, typename Kernel::Sum* compensation) {
  using Acc = typename Kernel::Acc;
  constexpr int kStride = OperandStride<Kernel>(kDepth);
  constexpr int kStrips = Max(1, kVectors * kLanes / kStrip);
  constexpr int kStripVectors = kStrip / kLanes;
  static_assert(kStrips == 1 || kWeights == Weights::kRaw, "widened numbers are those of one strip");
  static_assert(!kVirtual || (Kernel::kPhases == 1 && kRows < kMaxTileRows), "the virtual row is a row of the tile");
#if MS_DSV32_IS_NEON_BF16
  if constexpr (kRows > 1) return PairTile<Kernel, kRows, kStrips, kDepth>(x, block, c, ldc, load);
#endif
  const char* w = block.w;
  const char* ahead = block.ahead;
  int32_t* wide = block.wide;
  const int steps = block.steps;
  const int64_t strip_bytes = block.strip_bytes, ahead_step = block.ahead_step;
  Acc acc[kRows][kVectors];
  if (load) {
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) acc[m][v] = LoadAs<Acc>(c + m * ldc + v * kLanes);
    }
  } else {
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) acc[m][v] = Acc{};
    }
  }
  Acc virtual_acc[kVectors];
  const VecI virtual_x = Kernel::Operand(VecI{}, 0);  // zeros of x are 128s
  if (kVirtual) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) virtual_acc[v] = Acc{};
  }
  for (int s = 0; s < steps; ++s) {
#pragma GCC unroll 2
    for (int phase = 0; phase < Kernel::kPhases; ++phase) {
      const auto weights = [&](int v) {
        if (kWeights == Weights::kWide) return LoadAs<VecI>(w + phase * kStepBytes + v * kVecBytes);
        const char* strip = w + v / kStripVectors * strip_bytes;
        const VecI value = Kernel::Weights(LoadAs<VecI>(strip + v % kStripVectors * kVecBytes), phase);
        if (kWeights == Weights::kRawToWide) StoreAs(wide + phase * kStrip + v * kLanes, value);
        return value;
      };
      // Loading the raw weights a second time is cheaper than keeping them: hide that it is the same address.
      if (phase == 1 && kWeights != Weights::kWide) asm("" : "+r"(w));
      if (kRows < kVectors) {
        VecI xs[kRows];
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) xs[m] = Set1I(x[m * kStride + phase * kDepth]);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
          const VecI ws = weights(v);
#pragma GCC unroll 8
          for (int m = 0; m < kRows; ++m) acc[m][v] = Kernel::Dot(acc[m][v], ws, xs[m]);
          if (kVirtual) virtual_acc[v] = Kernel::Dot(virtual_acc[v], ws, virtual_x);
          KeepLoadsInOrder();
        }
      } else {
        VecI ws[kVectors];
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
          ws[v] = weights(v);
          if (kWeights == Weights::kWide) KeepInRegister(ws[v]);
        }
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) {
          const VecI xs = Set1I(x[m * kStride + phase * kDepth]);
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) acc[m][v] = Kernel::Dot(acc[m][v], ws[v], xs);
          KeepLoadsInOrder();
        }
        if (kVirtual) {
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) virtual_acc[v] = Kernel::Dot(virtual_acc[v], ws[v], virtual_x);
        }
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kStrips; ++i) __builtin_prefetch(ahead + i * strip_bytes, 0, 2);  // into L2
    ahead += ahead_step;
    w += (kWeights == Weights::kWide ? Kernel::kPhases : 1) * kStepBytes;
    if (kWeights == Weights::kRawToWide) wide += Kernel::kPhases * kStrip;
    ++x;
  }
  if (kVirtual) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) StoreAs(compensation + v * kLanes, virtual_acc[v]);
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      if (kVirtual) {
        acc[m][v] -= virtual_acc[v];
      } else if (Kernel::kVirtualRow) {
        acc[m][v] -= LoadAs<Acc>(compensation + v * kLanes);
      }
      StoreAs(c + m * ldc + v * kLanes, acc[m][v]);
    }
  }
}

// One row's `steps` steps as words [phase][kDepth].
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

// body(RowCount<rows>{}), 0 < rows <= kMaxTileRows.
template <typename Body>
MS_DSV32_INLINE void WithRowCount(int rows, const Body& body) {
  switch (rows) {
    case 1:
      return body(RowCount<1>{});
    case 2:
      return body(RowCount<2>{});
    case 3:
      return body(RowCount<3>{});
    case 4:
      return body(RowCount<4>{});
    case 5:
      return body(RowCount<Min(5, kMaxTileRows)>{});
    default:
      return body(RowCount<kMaxTileRows>{});
  }
}

// kRows rows as one tile; for the arguments see GemmBf16.
template <typename Kernel, int kRows>
inline void GemmFew(const typename Kernel::Element* x, int64_t ldx, const typename Kernel::Element* w,
                    int64_t strip_stride, int panels, int64_t k, typename Kernel::Sum* c, int64_t ldc, bool accumulate,
                    const void* next) {
  constexpr int kVectors = TileVectors(kRows);
  constexpr int kColumns = kVectors * kLanes;
  static_assert(kPanel % kColumns == 0, "tiles cover a panel");
  constexpr int kStride = OperandStride<Kernel>(kFewSteps);
  constexpr int64_t kDepth = kFewSteps * Kernel::kPerStep;
  alignas(64) int32_t words[kRows * kStride];
  const int64_t strip_bytes = strip_stride * static_cast<int64_t>(sizeof(*w));
  for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
    const int steps = static_cast<int>(Min(kDepth, k - k0) / Kernel::kPerStep);
    for (int m = 0; m < kRows; ++m) ConvertOperand<Kernel, kFewSteps>(x + m * ldx + k0, steps, words + m * kStride);
    const char* column = reinterpret_cast<const char*>(w + k0 * kStrip);
    for (int j = 0; j < panels * kPanel; j += kColumns) {
      // After a strip comes the next one, and after the last what the caller says.
      const bool last_columns = j + kColumns == panels * kPanel;
      const char* then = column + (j + kColumns) / kStrip * strip_bytes + (j + kColumns) % kStrip * 4;
      if (last_columns && k0 + kDepth >= k && next != nullptr) then = static_cast<const char*>(next);
      for (int s = 0; s < steps; s += kSteps) {
        const char* block_w = column + j / kStrip * strip_bytes + j % kStrip * 4 + s * kStepBytes;
        const bool last = s + kSteps >= steps;
        const Block block = {
            block_w,   strip_bytes, Min(kSteps, steps - s), nullptr, last ? then : block_w + kSteps * kStepBytes,
            kStepBytes};
        alignas(64) typename Kernel::Sum compensation[Kernel::kVirtualRow ? kColumns : 1];
        GemmTile<Kernel, kRows, kVectors, kFewSteps, Weights::kRaw, Kernel::kVirtualRow>(
            words + s, block, c + j, ldc, accumulate || k0 > 0 || s > 0, compensation);
      }
    }
  }
}

// Fetches rows [first, last) of x, `steps` steps of each: more rows than the hardware follows.
template <typename Kernel>
MS_DSV32_INLINE void PrefetchRows(const typename Kernel::Element* x, int64_t ldx, int64_t first, int64_t last,
                                  int steps) {
  for (int64_t m = first; m < last; ++m) {
    const char* row = reinterpret_cast<const char*>(x + m * ldx);
    for (int byte = 0; byte < 4 * steps; byte += 64) Prefetch(row + byte);
  }
}

// More rows, see above.
template <typename Kernel>
inline void GemmMany(const typename Kernel::Element* x, int64_t ldx, int64_t rows, const typename Kernel::Element* w,
                     int64_t strip_stride, int panels, int64_t k, typename Kernel::Sum* c, int64_t ldc, bool accumulate,
                     const void* next) {
  constexpr int64_t kDepth = kSteps * Kernel::kPerStep;
  constexpr int kStride = OperandStride<Kernel>(kSteps);
  constexpr int kVectors = TileVectors(kMaxTileRows);
  constexpr int kColumns = kVectors * kLanes;
  // All columns at a time would need more sums of a virtual row than the stack should hold, and of blocks than L2.
  constexpr int kGroup = 8 * kPanel;
  alignas(64) int32_t words[kMaxTileRows * kStride];
  alignas(64) typename Kernel::Sum compensation[Kernel::kVirtualRow ? kGroup : 1];
  constexpr int kVirtualRows = Kernel::kVirtualRow ? 1 : 0;
  const int64_t tiles = CeilDiv(rows + kVirtualRows, kMaxTileRows);
  const int64_t strip_bytes = strip_stride * static_cast<int64_t>(sizeof(*w));
  const int64_t ahead_step = CeilDiv(kStepBytes, tiles);
  for (int begin = 0; begin < panels * kPanel; begin += kGroup) {
    const int end = Min(begin + kGroup, panels * kPanel);
    for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
      const int steps = static_cast<int>(Min(kDepth, k - k0) / Kernel::kPerStep);
      const bool last = k0 + kDepth >= k;
      const auto block = [&](int j, int64_t tile) {
        const char* here = reinterpret_cast<const char*>(w + k0 * kStrip) + j / kStrip * strip_bytes + j % kStrip * 4;
        if (last && (next == nullptr || end < panels * kPanel)) {
          return Block{here, strip_bytes, steps, nullptr, here, 0};
        }
        const char* ahead =
            last ? static_cast<const char*>(next) + j / kStrip * strip_bytes : here + steps * kStepBytes;
        return Block{here, strip_bytes, steps, nullptr, ahead + tile * steps * ahead_step, ahead_step};
      };
      int64_t m = 0;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        // Nearly equal heights; the virtual row is one of the first tile's.
        const int virtual_rows = tile == 0 ? kVirtualRows : 0;
        const int tile_rows = static_cast<int>(CeilDiv(rows - m + virtual_rows, tiles - tile)) - virtual_rows;
        for (int i = 0; i < tile_rows; ++i) {
          ConvertOperand<Kernel, kSteps>(x + (m + i) * ldx + k0, steps, words + i * kStride);
        }
        PrefetchRows<Kernel>(x + k0, ldx, m + tile_rows, Min(m + 2 * tile_rows, rows), steps);
        WithRowCount(tile_rows, [&](auto count) {
          constexpr bool kMayBeFirst = Kernel::kVirtualRow && count.value < kMaxTileRows;
          for (int j = begin; j < end; j += kColumns) {
            typename Kernel::Sum* sums = c + m * ldc + j;
            typename Kernel::Sum* product = compensation + (Kernel::kVirtualRow ? j - begin : 0);
            const bool load = accumulate || k0 > 0;
            if (kMayBeFirst && tile == 0) {
              GemmTile<Kernel, count.value, kVectors, kSteps, Weights::kRaw, kMayBeFirst>(words, block(j, tile), sums,
                                                                                          ldc, load, product);
            } else {
              GemmTile<Kernel, count.value, kVectors, kSteps, Weights::kRaw, false>(words, block(j, tile), sums, ldc,
                                                                                    load, product);
            }
          }
        });
        m += tile_rows;
      }
    }
  }
}

// At most kManyRows rows; the first tile leaves the weights widened for the others.
template <typename Kernel>
inline void GemmManyWide(const typename Kernel::Element* x, int64_t ldx, int64_t rows,
                         const typename Kernel::Element* w, int64_t strip_stride, int panels, int64_t k,
                         typename Kernel::Sum* c, int64_t ldc, bool accumulate, const void* next) {
  constexpr int64_t kDepth = kSteps * Kernel::kPerStep;
  constexpr int kStride = OperandStride<Kernel>(kSteps);
  constexpr int kVectors = TileVectors(kMaxTileRows);
  constexpr int kColumns = kVectors * kLanes;
  static_assert(!Kernel::kKeepsWide || kStrip % kColumns == 0, "a strip is whole tiles");
  alignas(64) int32_t words[kManyRows * kStride];
  alignas(64) int32_t wide[kSteps * Kernel::kPhases * kStrip];
  const int64_t tiles = CeilDiv(rows, kMaxTileRows);
  const int64_t strip_bytes = strip_stride * static_cast<int64_t>(sizeof(*w));
  for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
    const int steps = static_cast<int>(Min(kDepth, k - k0) / Kernel::kPerStep);
    const char* column = reinterpret_cast<const char*>(w + k0 * kStrip);
    for (int64_t m = 0; m < rows; ++m) {
      ConvertOperand<Kernel, kSteps>(x + m * ldx + k0, steps, words + m * kStride);
      PrefetchRows<Kernel>(x + k0, ldx, m + kMaxTileRows, Min(m + kMaxTileRows + 1, rows), steps);
    }
    for (int j = 0; j < panels * kPanel; j += kStrip) {
      Block block = {column + j / kStrip * strip_bytes,
                     strip_bytes,
                     steps,
                     wide,
                     nullptr,
                     CeilDiv(kStepBytes, tiles * (kStrip / kColumns))};
      block.ahead = block.w + strip_bytes;  // each tile fetches its part of the next strip
      if (j + kStrip == panels * kPanel) {
        block.ahead = k0 + kDepth < k ? column + steps * kStepBytes : static_cast<const char*>(next);
      }
      if (block.ahead == nullptr) {
        block.ahead = block.w;
        block.ahead_step = 0;
      }
      int64_t m = 0;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int tile_rows = static_cast<int>(CeilDiv(rows - m, tiles - tile));  // nearly equal heights
        WithRowCount(tile_rows, [&](auto count) {
          for (int part = 0; part < kStrip; part += kColumns) {
            Block own = block;
            own.w += 4 * part;
            own.wide += part;
            typename Kernel::Sum* sums = c + m * ldc + j + part;
            const int32_t* tile_words = words + m * kStride;
            const bool load = accumulate || k0 > 0;
            if (tile == 0) {
              GemmTile<Kernel, count.value, kVectors, kSteps, Weights::kRawToWide, false>(tile_words, own, sums, ldc,
                                                                                          load, nullptr);
            } else {
              GemmTile<Kernel, count.value, kVectors, kSteps, Weights::kWide, false>(tile_words, own, sums, ldc, load,
                                                                                     nullptr);
            }
            block.ahead += steps * block.ahead_step;
          }
        });
        m += tile_rows;
        block.w = reinterpret_cast<const char*>(wide);
      }
    }
  }
}

template <typename Kernel>
inline void Gemm(const typename Kernel::Element* x, int64_t ldx, int64_t rows, const typename Kernel::Element* w,
                 int64_t strip_stride, int panels, int64_t k, typename Kernel::Sum* c, int64_t ldc, bool accumulate,
                 const void* next) {
  constexpr int kFewRows = kMaxTileRows - (Kernel::kVirtualRow ? 1 : 0);
  if (rows <= kFewRows) {
    WithRowCount(static_cast<int>(rows), [&](auto count) {
      GemmFew<Kernel, Min(count.value, kFewRows)>(x, ldx, w, strip_stride, panels, k, c, ldc, accumulate, next);
    });
  } else if constexpr (Kernel::kKeepsWide) {
    const int64_t parts = CeilDiv(rows, kManyRows);
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t first = part * rows / parts, count = (part + 1) * rows / parts - first;
      GemmManyWide<Kernel>(x + first * ldx, ldx, count, w, strip_stride, panels, k, c + first * ldc, ldc, accumulate,
                           next);
    }
  } else {
    GemmMany<Kernel>(x, ldx, rows, w, strip_stride, panels, k, c, ldc, accumulate, next);
  }
}

// c[rows, 64 * panels] (leading dimension ldc) = x[rows, k] (leading dimension ldx) @ w; with `accumulate` added to c,
// see above. Strip s of w, columns 16 s to 16 s + 15, starts at w + s * strip_stride elements and holds [k/2][16][2]; k
// is even. Nothing needs to be aligned. `next`: strips that will be read after these, to be fetched meanwhile, or null.
inline void GemmBf16(const uint16_t* x, int64_t ldx, int64_t rows, const uint16_t* w, int64_t strip_stride, int panels,
                     int64_t k, float* c, int64_t ldc, bool accumulate, const void* next = nullptr) {
#if MS_DSV32_IS_AMX
  GemmAmx(x, ldx, rows, w, strip_stride, panels * kPanel / kStrip, k, c, ldc, accumulate, next);
#else
  Gemm<Bf16Dot>(x, ldx, rows, w, strip_stride, panels, k, c, ldc, accumulate, next);
#endif
}

// As GemmBf16 with strips [k/4][16][4]; k is a multiple of 4, below 65536.
inline void GemmInt8(const int8_t* x, int64_t ldx, int64_t rows, const int8_t* w, int64_t strip_stride, int panels,
                     int64_t k, int32_t* c, int64_t ldc, bool accumulate, const void* next = nullptr) {
#if MS_DSV32_IS_AMX
  if (rows >= kMinRowsAmxInt8) {
    return GemmAmx(x, ldx, rows, w, strip_stride, panels * kPanel / kStrip, k, c, ldc, accumulate, next);
  }
#endif
  Gemm<Int8Dot>(x, ldx, rows, w, strip_stride, panels, k, c, ldc, accumulate, next);
}

// Columns of a row-major weight [k, ..] with ldw elements a row -> strips [4 * panels][k/2][16][2] or [..][k/4][16][4].
//
// Rows are too far apart for the hardware to see them coming: those kPackAhead steps ahead are fetched, all columns of
// a row together.
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
// One step of a panel: 64 columns of 4 rows -> [4] x [16][4], `stride` bytes apart.
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

#endif  // MS_DSV32_KERNEL_IMPL_CPU_GEMM_H_
