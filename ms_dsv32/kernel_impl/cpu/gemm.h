// Matrix products of few to many rows with weights in panels of 64 columns (pack.h).
//
//   GemmBf16   c[rows, 64 * panels] = x[rows, k] @ w, or c += ..; bf16 factors, float32 sums
//   GemmInt8   the same with int8 factors, exact int32 sums (any values, -128 included)
//   PackPanelsBf16, PackPanelsInt8   columns of a row-major weight -> panels
//
// Bits: an element of c is one chain of additions over ascending k, whatever `rows`, `panels` or the other rows hold.
// GemmBf16 with accumulate = true continues the chain that c holds, so that cutting k into several calls gives the bits
// of one call. A row reads nothing of another row: NaN and Inf stay in theirs.
//
// Blocks: kSteps steps of the panels are used by all rows before the next ones. A tile of up to kMaxTileRows
// rows is converted once into the form that the instructions want (3.5 KiB) and multiplied with all panels;
// accumulators stay in registers for kSteps steps. A step is 256 bytes of a panel: 2 (bf16) or 4 (int8) neighbours in k
// of each of the 64 columns.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_GEMM_H_
#define MS_DSV32_KERNEL_IMPL_CPU_GEMM_H_

#include "ms_dsv32/kernel_impl/cpu/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int kPanel = 64;       // columns of a panel
constexpr int kBf16PerStep = 2;  // neighbours in k, bf16
constexpr int kInt8PerStep = 4;  // neighbours in k, int8
constexpr int kStepBytes = 256;  // kPanel columns x 4 bytes
constexpr int kSteps = 128;      // steps of a block: 32 KiB of each panel
constexpr int kGroupPanels = 8;  // panels that share a converted tile
constexpr int kMaxTileRows = MS_DSV32_IS_PORTABLE ? 4 : 6;

// ---- one instruction set's multiply-add steps
//
// A step has kPhases phases, each with one vector of weights made from a raw vector of the panel, and one 32-bit word
// of x for a row: word [phase][step]. Dot adds their product to an accumulator of kLanes columns.

struct Bf16Dot {
  using Element = uint16_t;
  using Sum = float;
  using Acc = VecF;
  static constexpr int kPerStep = kBf16PerStep;
  static constexpr bool kVirtualRow = false;

#if MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_avx512_bf16 || MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_neon_bf16
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
#else
  // As float32: k in phase 0 is the low half of each pair, k + 1 in phase 1 the high half.
  static constexpr int kPhases = 2;
  static MS_DSV32_INLINE VecI Weights(VecI raw, int phase) {
    return phase == 0 ? (VecI)((VecU)raw << 16) : raw & -65536;
  }
  static MS_DSV32_INLINE VecI Operand(VecI raw, int phase) { return Weights(raw, phase); }
  static MS_DSV32_INLINE VecF Dot(VecF acc, VecI w, VecI x) {
#if MS_DSV32_IS_AVX512 && !defined(MS_DSV32_SIMDE)
    // Of the intrinsic GCC 12 makes one expression for both phases, and spills 4 of 24 accumulators in each step.
    asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
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
  // virtual row of 128s, is subtracted again. Exact: k * 255 * 128 < 2^31 for k < 65793.
  static constexpr int kPhases = 1;
  static constexpr bool kVirtualRow = true;
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
  static MS_DSV32_INLINE VecI Weights(VecI raw, int /*phase*/) { return raw; }
  static MS_DSV32_INLINE VecI Operand(VecI raw, int /*phase*/) { return raw; }
  static MS_DSV32_INLINE VecI Dot(VecI acc, VecI w, VecI x) {
    return (VecI)vdotq_s32((int32x4_t)acc, (int8x16_t)w, (int8x16_t)x);
  }
#else
  // Sign-extended to 16 bits, two products of a column in one lane: k, k + 2 in phase 0 (even bytes), k + 1, k + 3 in
  // phase 1. Unlike a multiplication of unsigned with signed bytes, which saturates its 16-bit sums, this is exact.
  static constexpr int kPhases = 2;
  static constexpr bool kVirtualRow = false;
  static MS_DSV32_INLINE VecI Weights(VecI raw, int phase) {
    return phase == 0 ? (VecI)(((VecI16Full)raw << 8) >> 8) : (VecI)((VecI16Full)raw >> 8);
  }
  static MS_DSV32_INLINE VecI Operand(VecI raw, int phase) { return Weights(raw, phase); }
  static MS_DSV32_INLINE VecI Dot(VecI acc, VecI w, VecI x) {
#if MS_DSV32_IS_AVX2
    acc += (VecI)_mm256_madd_epi16((__m256i)w, (__m256i)x);
    asm("" : "+x"(acc));  // else GCC adds the products of both phases first, and spills them
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

// Words between the rows of a converted tile: a line more than a power of two, so that rows do not share cache sets.
template <typename Kernel>
constexpr int kOperandStride = Kernel::kPhases* kSteps + 16;

// c[kRows, kLanes * kVectors] += x @ w over `steps` steps; with `load` false from 0. w points to the tile's columns of
// a panel. `compensation` (kVirtualRow only) is subtracted. With kPrefetch, as many bytes as are read of the panel are
// fetched from `ahead` on.
template <typename Kernel, int kRows, int kVectors, bool kPrefetch>
MS_DSV32_INLINE void GemmTile(const int32_t* x, const char* w, int steps, typename Kernel::Sum* c, int64_t ldc,
                              bool load, const typename Kernel::Sum* compensation, const char* ahead) {
  using Acc = typename Kernel::Acc;
  constexpr int kAheadBytes = kVectors * kVecBytes;
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
  for (int s = 0; s < steps; ++s) {
#pragma GCC unroll 2
    for (int phase = 0; phase < Kernel::kPhases; ++phase) {
      // Loading the raw weights a second time is cheaper than keeping them: hide that it is the same address.
      if (phase == 1) asm("" : "+r"(w));
      if (kRows < kVectors) {
        VecI xs[kRows];
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) xs[m] = Set1I(x[m * kOperandStride<Kernel> + phase * kSteps]);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
          const VecI ws = Kernel::Weights(LoadAs<VecI>(w + v * kVecBytes), phase);
#pragma GCC unroll 8
          for (int m = 0; m < kRows; ++m) acc[m][v] = Kernel::Dot(acc[m][v], ws, xs[m]);
        }
      } else {
        VecI ws[kVectors];
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) ws[v] = Kernel::Weights(LoadAs<VecI>(w + v * kVecBytes), phase);
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) {
          const VecI xs = Set1I(x[m * kOperandStride<Kernel> + phase * kSteps]);
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) acc[m][v] = Kernel::Dot(acc[m][v], ws[v], xs);
        }
      }
    }
    if constexpr (kPrefetch) {
#pragma GCC unroll 4
      for (int line = 0; line < kAheadBytes; line += 64) __builtin_prefetch(ahead + line, 0, 2);  // into L2
      ahead += kAheadBytes;
    }
    w += kStepBytes;
    ++x;
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      if (Kernel::kVirtualRow && compensation != nullptr) acc[m][v] -= LoadAs<Acc>(compensation + v * kLanes);
      StoreAs(c + m * ldc + v * kLanes, acc[m][v]);
    }
  }
}

// All 64 columns of one panel for a tile of rows.
template <typename Kernel, int kRows, bool kPrefetch>
__attribute__((noinline)) void GemmPanelTile(const int32_t* x, const char* w, int steps, typename Kernel::Sum* c,
                                             int64_t ldc, bool load, const typename Kernel::Sum* compensation,
                                             const char* ahead) {
  constexpr int kVectors = TileVectors(kRows);
  constexpr int kColumns = kVectors * kLanes;
  static_assert(kPanel % kColumns == 0, "tiles cover the panel");
  for (int j = 0; j < kPanel; j += kColumns) {
    GemmTile<Kernel, kRows, kVectors, kPrefetch>(x, w + 4 * j, steps, c + j, ldc, load,
                                                 compensation == nullptr ? nullptr : compensation + j, ahead);
    if constexpr (kPrefetch) ahead += steps * kColumns * 4;
  }
}

// `ahead`: what to fetch meanwhile, as many bytes as the block has; null for nothing.
template <typename Kernel, int kRows>
MS_DSV32_INLINE void GemmPanelRows(const int32_t* x, const char* w, int steps, typename Kernel::Sum* c, int64_t ldc,
                                   bool load, const typename Kernel::Sum* compensation, const char* ahead) {
  if (ahead != nullptr) {
    GemmPanelTile<Kernel, kRows, true>(x, w, steps, c, ldc, load, compensation, ahead);
  } else {
    GemmPanelTile<Kernel, kRows, false>(x, w, steps, c, ldc, load, compensation, nullptr);
  }
}
template <typename Kernel>
MS_DSV32_INLINE void GemmPanelTileRows(int rows, const int32_t* x, const char* w, int steps, typename Kernel::Sum* c,
                                       int64_t ldc, bool load, const typename Kernel::Sum* compensation,
                                       const char* ahead) {
  switch (rows) {
    case 1:
      return GemmPanelRows<Kernel, 1>(x, w, steps, c, ldc, load, compensation, ahead);
    case 2:
      return GemmPanelRows<Kernel, 2>(x, w, steps, c, ldc, load, compensation, ahead);
    case 3:
      return GemmPanelRows<Kernel, 3>(x, w, steps, c, ldc, load, compensation, ahead);
    case 4:
      return GemmPanelRows<Kernel, 4>(x, w, steps, c, ldc, load, compensation, ahead);
    case 5:
      return GemmPanelRows<Kernel, Min(5, kMaxTileRows)>(x, w, steps, c, ldc, load, compensation, ahead);
    default:
      return GemmPanelRows<Kernel, kMaxTileRows>(x, w, steps, c, ldc, load, compensation, ahead);
  }
}

// One row's `steps` steps as words [phase][step].
template <typename Kernel>
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
      StoreAs(words + phase * kSteps + s, Kernel::Operand(raw, phase));
    }
  }
}

template <typename Kernel>
inline void GemmPanels(const typename Kernel::Element* x, int64_t ldx, int64_t rows, const typename Kernel::Element* w,
                       int64_t panel_stride, int panels, int64_t k, typename Kernel::Sum* c, int64_t ldc,
                       bool accumulate, const void* next) {
  using Element = typename Kernel::Element;
  using Sum = typename Kernel::Sum;
  constexpr int64_t kBlock = kSteps * Kernel::kPerStep;
  // One tile takes panel after panel, as they lie in memory, which its speed is that of. More tiles take a block of
  // several panels at a time, so that a converted tile serves them all; the compensation of so many fits the stack.
  const int group = rows <= kMaxTileRows ? 1 : kGroupPanels;
  if (panels > group) {
    for (int p = 0; p < panels; p += group) {
      const void* group_next = p + group < panels ? w + (p + group) * panel_stride : next;
      GemmPanels<Kernel>(x, ldx, rows, w + p * panel_stride, panel_stride, Min(group, panels - p), k, c + p * kPanel,
                         ldc, accumulate, group_next);
    }
    return;
  }
  alignas(64) int32_t words[kMaxTileRows * kOperandStride<Kernel>];
  const int64_t tiles = CeilDiv(rows, kMaxTileRows);
  for (int64_t k0 = 0; k0 < k; k0 += kBlock) {
    const int steps = static_cast<int>(Min(kBlock, k - k0) / Kernel::kPerStep);
    const bool load = accumulate || k0 > 0;
    const auto block = [&](int p) { return reinterpret_cast<const char*>(w + p * panel_stride + k0 * kPanel); };
    // The first to touch a block fetches what comes after it.
    const auto ahead = [&](int p) {
      if (k0 + kBlock < k) return block(p) + steps * kStepBytes;
      return next == nullptr ? nullptr : static_cast<const char*>(next) + p * steps * kStepBytes;
    };
    bool first_touch = true;
    alignas(64) Sum compensation[Kernel::kVirtualRow ? kGroupPanels * kPanel : 1];
    if constexpr (Kernel::kVirtualRow) {
      alignas(64) int32_t virtual_row[kSteps];
      for (int s = 0; s < steps; ++s) virtual_row[s] = static_cast<int32_t>(0x80808080u);
      for (int p = 0; p < panels; ++p) {
        GemmPanelRows<Kernel, 1>(virtual_row, block(p), steps, compensation + p * kPanel, kPanel, false, nullptr,
                                 ahead(p));
      }
      first_touch = false;
    }
    for (int64_t tile = 0, m = 0; tile < tiles; ++tile) {
      const int tile_rows = static_cast<int>(CeilDiv(rows - m, tiles - tile));  // tiles of nearly equal height
      for (int i = 0; i < tile_rows; ++i) {
        const Element* row = x + (m + i) * ldx + k0;
        ConvertOperand<Kernel>(row, steps, words + i * kOperandStride<Kernel>);
        if (tile + 1 == tiles) continue;
        // The next tile's row: the hardware does not follow so many rows.
        const char* next_row = reinterpret_cast<const char*>(row + tile_rows * ldx);
        for (int byte = 0; byte < 4 * steps; byte += 64) Prefetch(next_row + byte);
      }
      for (int p = 0; p < panels; ++p) {
        GemmPanelTileRows<Kernel>(tile_rows, words, block(p), steps, c + m * ldc + p * kPanel, ldc, load,
                                  Kernel::kVirtualRow ? compensation + p * kPanel : nullptr,
                                  first_touch ? ahead(p) : nullptr);
      }
      first_touch = false;
      m += tile_rows;
    }
  }
}

// c[rows, 64 * panels] (leading dimension ldc) = x[rows, k] (leading dimension ldx) @ w; with `accumulate` added to c,
// see above. Panel p of w starts at w + p * panel_stride elements and holds [k/2][64][2]; k is even. Nothing needs to
// be aligned.
inline void GemmBf16(const uint16_t* x, int64_t ldx, int64_t rows, const uint16_t* w, int64_t panel_stride, int panels,
                     int64_t k, float* c, int64_t ldc, bool accumulate, const void* next = nullptr) {
  GemmPanels<Bf16Dot>(x, ldx, rows, w, panel_stride, panels, k, c, ldc, accumulate, next);
}

// As GemmBf16 with panels [k/4][64][4]; k is a multiple of 4, below 65536.
inline void GemmInt8(const int8_t* x, int64_t ldx, int64_t rows, const int8_t* w, int64_t panel_stride, int panels,
                     int64_t k, int32_t* c, int64_t ldc, bool accumulate, const void* next = nullptr) {
  GemmPanels<Int8Dot>(x, ldx, rows, w, panel_stride, panels, k, c, ldc, accumulate, next);
}

// Columns of a row-major weight [k, ..] with ldw elements a row -> panels [panels][k/2][64][2] or [panels][k/4][64][4].
//
// Rows are too far apart for the hardware to see them coming: those kPackAhead steps ahead are fetched, all panels of a
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

inline void PackPanelsBf16(const uint16_t* w, int64_t ldw, int64_t k, int panels, uint16_t* out) {
  const int64_t steps = k / kBf16PerStep;
  for (int64_t s = 0; s < steps; ++s, w += kBf16PerStep * ldw) {
    PrefetchStep<kBf16PerStep>(w, ldw, s, steps, panels);
    for (int p = 0; p < panels; ++p) {
      uint16_t* step = out + (p * steps + s) * kBf16PerStep * kPanel;
#pragma GCC unroll 4
      for (int j = 0; j < kPanel; j += kLanes) {
        const VecU even = __builtin_convertvector(LoadAs<VecU16>(w + p * kPanel + j), VecU);
        const VecU odd = __builtin_convertvector(LoadAs<VecU16>(w + ldw + p * kPanel + j), VecU);
        StoreAs(step + kBf16PerStep * j, even | (odd << 16));
      }
    }
  }
}
// One step: 64 columns of 4 rows -> [64][4].
MS_DSV32_INLINE void InterleaveInt8(const int8_t* w, int64_t ldw, int8_t* out) {
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
    StoreAs(out + 4 * j, _mm256_permute2x128_si256(q0, q1, 0x20));
    StoreAs(out + 4 * j + 32, _mm256_permute2x128_si256(q2, q3, 0x20));
    StoreAs(out + 4 * j + 64, _mm256_permute2x128_si256(q0, q1, 0x31));
    StoreAs(out + 4 * j + 96, _mm256_permute2x128_si256(q2, q3, 0x31));
  }
#elif MS_DSV32_IS_NEON
  for (int j = 0; j < kPanel; j += 16) {
    const int8x16x4_t rows = {
        {vld1q_s8(w + j), vld1q_s8(w + ldw + j), vld1q_s8(w + 2 * ldw + j), vld1q_s8(w + 3 * ldw + j)}};
    vst4q_s8(out + 4 * j, rows);
  }
#elif defined(__SSE2__)
  for (int j = 0; j < kPanel; j += 16) {
    const __m128i r0 = LoadAs<__m128i>(w + j);
    const __m128i r1 = LoadAs<__m128i>(w + ldw + j);
    const __m128i r2 = LoadAs<__m128i>(w + 2 * ldw + j);
    const __m128i r3 = LoadAs<__m128i>(w + 3 * ldw + j);
    const __m128i lo01 = _mm_unpacklo_epi8(r0, r1), hi01 = _mm_unpackhi_epi8(r0, r1);
    const __m128i lo23 = _mm_unpacklo_epi8(r2, r3), hi23 = _mm_unpackhi_epi8(r2, r3);
    StoreAs(out + 4 * j, _mm_unpacklo_epi16(lo01, lo23));
    StoreAs(out + 4 * j + 16, _mm_unpackhi_epi16(lo01, lo23));
    StoreAs(out + 4 * j + 32, _mm_unpacklo_epi16(hi01, hi23));
    StoreAs(out + 4 * j + 48, _mm_unpackhi_epi16(hi01, hi23));
  }
#else
  for (int j = 0; j < kPanel; j += kLanes) {
    VecU quad{};
    for (int r = 0; r < kInt8PerStep; ++r) quad |= ((VecU)LoadInt8(w + r * ldw + j) & 0xffu) << (8 * r);
    StoreAs(out + 4 * j, quad);
  }
#endif
}
inline void PackPanelsInt8(const int8_t* w, int64_t ldw, int64_t k, int panels, int8_t* out) {
  const int64_t steps = k / kInt8PerStep;
  for (int64_t s = 0; s < steps; ++s, w += kInt8PerStep * ldw) {
    PrefetchStep<kInt8PerStep>(w, ldw, s, steps, panels);
    for (int p = 0; p < panels; ++p) InterleaveInt8(w + p * kPanel, ldw, out + (p * steps + s) * kStepBytes);
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_GEMM_H_
