// Cube side: LoadData, LoadDataWithTranspose, Mmad, Fixpipe, on fractals in the byte order of arch 2201.
// 关键分形格式详解.md: L1 is NZ [D/C0][N][C0]; L0A zZ [M/16][K/C0][16][C0]; L0B nZ [K/C0][N/16][16 n][C0 k]; L0C NZ
// [N/16][M][16].
#ifndef ASCENDC_EMULATOR_CUBE_H_
#define ASCENDC_EMULATOR_CUBE_H_

#include "cast.h"
#include "copy.h"

namespace ascendc_emulator {

constexpr int64_t kFractal = 512;

template <class T>
inline void CheckL1ToL0(const char* api, Loc loc, const LocalTensor<T>& dst, const LocalTensor<T>& src) {
  if ((dst.kind() != Kind::kL0a && dst.kind() != Kind::kL0b) || src.kind() != Kind::kL1)
    M().Fail(
        "position", loc,
        Format("%s: the path is L1 to L0A or L0B, not %s to %s", api, Model(src.kind()).name, Model(dst.kind()).name));
  CheckKind(api, loc, "src", src, Kind::kL1);
  CheckAlign(api, loc, "dst", dst, 512);
  CheckAlign(api, loc, "src", src, 32);
}

inline void TransposeFractal(View to, View from) {  // 16x16 of 2 bytes
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) {
      std::memcpy(to.data + (j * 16 + i) * 2, from.data + (i * 16 + j) * 2, 2);
      std::memcpy(to.valid + (j * 16 + i) * 2, from.valid + (i * 16 + j) * 2, 2);
    }
}

inline double Mte1Cycles(Kind kind, int64_t bytes) {
  t_core->bytes_l1_l0 += static_cast<uint64_t>(bytes);
  return static_cast<double>(bytes) / (kind == Kind::kL0a ? kL1ToL0a : kL1ToL0b);
}

typedef float Float8 __attribute__((vector_size(32), aligned(4)));

// c[m][16] += a[m][k] * b[k][16], in the order of k.
inline void Tile(const float* a, int64_t lda, const float* b, float* c, int64_t m, int64_t k) {
  int64_t i = 0;
  for (; i + 4 <= m; i += 4) {
    Float8 acc[4][2];
    for (int r = 0; r < 4; ++r)
      for (int h = 0; h < 2; ++h) std::memcpy(&acc[r][h], c + (i + r) * 16 + h * 8, 32);
    for (int64_t p = 0; p < k; ++p) {
      Float8 b0, b1;
      std::memcpy(&b0, b + p * 16, 32);
      std::memcpy(&b1, b + p * 16 + 8, 32);
      for (int r = 0; r < 4; ++r) {
        const float v = a[(i + r) * lda + p];
        acc[r][0] += v * b0;
        acc[r][1] += v * b1;
      }
    }
    for (int r = 0; r < 4; ++r)
      for (int h = 0; h < 2; ++h) std::memcpy(c + (i + r) * 16 + h * 8, &acc[r][h], 32);
  }
  for (; i < m; ++i) {
    Float8 acc[2];
    for (int h = 0; h < 2; ++h) std::memcpy(&acc[h], c + i * 16 + h * 8, 32);
    for (int64_t p = 0; p < k; ++p) {
      Float8 b0, b1;
      std::memcpy(&b0, b + p * 16, 32);
      std::memcpy(&b1, b + p * 16 + 8, 32);
      const float v = a[i * lda + p];
      acc[0] += v * b0;
      acc[1] += v * b1;
    }
    for (int h = 0; h < 2; ++h) std::memcpy(c + i * 16 + h * 8, &acc[h], 32);
  }
}

template <class T>
inline float CubeValue(const uint8_t* p) {
  if constexpr (std::is_same_v<T, int8_t>) {
    return static_cast<float>(static_cast<int8_t>(*p));
  } else {
    uint16_t bits;
    std::memcpy(&bits, p, 2);
    return std::is_same_v<T, half> ? HalfValue(bits) : Bfloat16Value(bits);
  }
}

// Whether the first `k` values of line `i` (a row of A, a column of B) are defined. Lines of a fractal are 32 B, and
// `step` leads from one fractal along K to the next. If only a part of a line is defined, K was padded with rubbish.
inline bool LineDefined(const uint8_t* valid, int64_t step, int64_t k_bytes, const char* matrix, int64_t line,
                        int64_t size, Loc loc) {
  bool all = true, any = false;
  int64_t first_bad = -1;
  for (int64_t at = 0; at < k_bytes; at += 32) {
    const int64_t n = std::min<int64_t>(32, k_bytes - at);
    const uint8_t* p = valid + at / 32 * step;
    const auto* bad = static_cast<const uint8_t*>(std::memchr(p, 0, static_cast<size_t>(n)));
    if (bad == nullptr) {
      any = true;
    } else {
      any = any || std::memchr(p, 1, static_cast<size_t>(n)) != nullptr;
      if (first_bad < 0) first_bad = (at + (bad - p)) / size;
      all = false;
    }
  }
  if (!all && any)
    M().Note("uninitialised", loc,
             Format("Mmad: %s %lld is defined in part, not at k = %lld: K is padded with what nothing defined", matrix,
                    static_cast<long long>(line), static_cast<long long>(first_bad)));
  return all;
}

template <class C, class T>
inline void MmadExecute(View c, View a, View b, int64_t m, int64_t n, int64_t k, bool init, Loc loc) {
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  constexpr int64_t kC0 = 32 / kSize;
  // int8 products in float are exact for as long as the sum stays below 2^24: 512 * 2^14 = 2^23.
  constexpr int64_t kSlice = std::is_same_v<T, int8_t> ? 512 : 4096;
  const int64_t k_blocks = (k + kC0 - 1) / kC0, n_blocks = (n + 15) / 16, m_rows = (m + 15) / 16 * 16;
  thread_local std::vector<float> left, right;
  left.resize(static_cast<size_t>(m * k));
  right.resize(static_cast<size_t>(k_blocks * kC0 * 16));
  std::vector<uint8_t> row_ok(static_cast<size_t>(m));
  for (int64_t i = 0; i < m; ++i) {
    // GEMV.md: with m = 1 the cube reads A as k values in a row, not as fractals.
    const bool gemv = m == 1;
    const int64_t row = gemv ? 0 : i / 16 * k_blocks * kFractal + i % 16 * 32;
    const int64_t step = gemv ? 32 : kFractal;
    row_ok[static_cast<size_t>(i)] = LineDefined(a.valid + row, step, k * kSize, "row of A", i, kSize, loc);
    // Mmad.md: it must not be given NaN. A row that nothing defined may hold any value.
    if (kSize > 1 && !row_ok[static_cast<size_t>(i)] && !AnyValid(a.valid + row, std::min<int64_t>(32, k * kSize)))
      M().Note("uninitialised", loc,
               Format("Mmad: row of A %lld of %lld was never defined: it may hold NaN, which must not come to the cube",
                      static_cast<long long>(i), static_cast<long long>(m)));
    for (int64_t p = 0; p < k; ++p)
      left[static_cast<size_t>(i * k + p)] = CubeValue<T>(a.data + row + p / kC0 * step + p % kC0 * kSize);
  }
  for (int64_t nb = 0; nb < n_blocks; ++nb) {
    const int64_t columns = std::min<int64_t>(16, n - nb * 16);
    bool column_ok[16];
    for (int64_t j = 0; j < columns; ++j)
      column_ok[j] = LineDefined(b.valid + nb * kFractal + j * 32, n_blocks * kFractal, k * kSize, "column of B",
                                 nb * 16 + j, kSize, loc);
    for (int64_t kb = 0; kb < k_blocks; ++kb) {
      const uint8_t* fractal = b.data + (kb * n_blocks + nb) * kFractal;
      float* out = right.data() + kb * kC0 * 16;
      for (int64_t j = 0; j < 16; ++j)
        for (int64_t p = 0; p < kC0; ++p) out[p * 16 + j] = CubeValue<T>(fractal + j * 32 + p * kSize);
    }
    auto* tile = reinterpret_cast<C*>(c.data) + nb * m_rows * 16;
    uint8_t* tile_valid = c.valid + nb * m_rows * 64;
    if constexpr (std::is_same_v<C, float>) {
      if (init) std::memset(tile, 0, static_cast<size_t>(m) * 64);
      Tile(left.data(), k, right.data(), tile, m, k);
    } else {
      if (init) std::memset(tile, 0, static_cast<size_t>(m) * 64);
      std::vector<float> part(static_cast<size_t>(m * 16));
      for (int64_t k0 = 0; k0 < k; k0 += kSlice) {
        std::fill(part.begin(), part.end(), 0.0f);
        Tile(left.data() + k0, k, right.data() + k0 * 16, part.data(), m, std::min(kSlice, k - k0));
        for (int64_t e = 0; e < m * 16; ++e)
          tile[e] = static_cast<int32_t>(static_cast<uint32_t>(tile[e]) +
                                         static_cast<uint32_t>(static_cast<int32_t>(part[static_cast<size_t>(e)])));
      }
    }
    for (int64_t i = 0; i < m_rows; ++i)
      for (int64_t j = 0; j < 16; ++j) {
        uint8_t* v = tile_valid + (i * 16 + j) * 4;
        const bool ok = i < m && j < columns && row_ok[static_cast<size_t>(i)] && column_ok[j] && (init || *v);
        std::memset(v, ok, 4);
      }
  }
}

}  // namespace ascendc_emulator

namespace AscendC {

// LoadData_2D.md, L1 to L0A and L0B: fractals of 512 B, optionally each 16x16 transposed.
template <class T>
inline void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LoadData2DParams& p,
                     Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(kOneOf<T, half, bfloat16_t, int8_t, uint8_t, int16_t, uint16_t>,
                "LoadData is modelled for 1- and 2-byte types");
  const char* api = "LoadData";
  CheckL1ToL0(api, loc, dst, src);
  const int64_t start = Range(api, loc, "startIndex (512 B)", p.startIndex, 0, 65535) * kFractal;
  const int64_t repeat = Range(api, loc, "repeatTimes", p.repeatTimes, 0, 255);
  const int64_t src_step = Range(api, loc, "srcStride (512 B)", p.srcStride, 0, 65535) * kFractal;
  const int64_t dst_step = (Range(api, loc, "dstGap (512 B)", p.dstGap, 0, 65535) + 1) * kFractal;
  Range(api, loc, "addrMode", p.addrMode, 0, 0);
  if (p.ifTranspose && sizeof(T) != 2) M().Fail("argument", loc, "LoadData: ifTranspose takes 2-byte types only");
  if (repeat == 0) return;
  Ranges ranges(api, loc);
  ranges.Local("src", src, false, start, kFractal, repeat, src_step);
  ranges.Local("dst", dst, true, 0, kFractal, repeat, dst_step);
  const View to = dst.view(), from = src.view() + start;
  const bool transpose = p.ifTranspose;
  M().Issue(PIPE_MTE1, api, loc, ranges.list(), {Mte1Cycles(dst.kind(), repeat * kFractal), kMte1Head}, [=] {
    for (int64_t r = 0; r < repeat; ++r) {
      if (transpose)
        TransposeFractal(to + r * dst_step, from + r * src_step);
      else
        Move(to + r * dst_step, from + r * src_step, kFractal);
    }
  });
}

// LoadDataWithTranspose.md: squares of 32x32 (1-byte types, two fractals) or 16x16 (2-byte types) are transposed.
template <class T>
inline void LoadDataWithTranspose(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                                  const LoadData2dTransposeParams& p, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(kOneOf<T, half, bfloat16_t, int8_t, uint8_t>,
                "LoadDataWithTranspose is modelled for 1-byte types, half and bfloat16_t");
  const char* api = "LoadDataWithTranspose";
  CheckL1ToL0(api, loc, dst, src);
  constexpr int64_t kFractals = sizeof(T) == 1 ? 2 : 1;
  constexpr int64_t kSquare = kFractals * kFractal;
  const int64_t start = Range(api, loc, "startIndex (squares)", p.startIndex, 0, 65535) * kSquare;
  const int64_t repeat = Range(api, loc, "repeatTimes", p.repeatTimes, 0, 255);
  const int64_t src_step = Range(api, loc, "srcStride (squares)", p.srcStride, 0, 65535) * kSquare;
  const int64_t dst_step = (Range(api, loc, "dstGap (512 B)", p.dstGap, 0, 65535) + 1) * kFractal;
  const int64_t frac_step = (Range(api, loc, "dstFracGap (512 B)", p.dstFracGap, 0, 65535) + 1) * kFractal;
  Range(api, loc, "addrMode", p.addrMode, 0, 0);
  if (repeat == 0) return;
  if (kFractals == 2 && repeat > 1 && dst_step == frac_step)
    M().Fail("overlap", loc,
             "LoadDataWithTranspose: the second fractal of a square lands on the first one of the next (dstGap, "
             "dstFracGap)");
  Ranges ranges(api, loc);
  ranges.Local("src", src, false, start, kSquare, repeat, src_step);
  ranges.Local("dst", dst, true, 0, kFractal, kFractals, frac_step, repeat, dst_step);
  const View to = dst.view(), from = src.view() + start;
  M().Issue(PIPE_MTE1, api, loc, ranges.list(), {Mte1Cycles(dst.kind(), repeat * kSquare), kMte1Head}, [=] {
    for (int64_t r = 0; r < repeat; ++r) {
      const View source = from + r * src_step, target = to + r * dst_step;
      if constexpr (kFractals == 1) {
        TransposeFractal(target, source);
      } else {
        for (int64_t i = 0; i < 32; ++i)
          for (int64_t j = 0; j < 32; ++j) {
            const int64_t at = j / 16 * frac_step + j % 16 * 32 + i;
            target.data[at] = source.data[i * 32 + j];
            target.valid[at] = source.valid[i * 32 + j];
          }
      }
    }
  });
}

// Mmad.md
template <class C, class T>
inline void Mmad(const LocalTensor<C>& dst, const LocalTensor<T>& fm, const LocalTensor<T>& filter, const MmadParams& p,
                 Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert((std::is_same_v<C, int32_t> && std::is_same_v<T, int8_t>) ||
                    (std::is_same_v<C, float> && kOneOf<T, half, bfloat16_t>),
                "Mmad is modelled for int8 x int8 to int32, and half or bfloat16 to float");
  const char* api = "Mmad";
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  constexpr int64_t kC0 = 32 / kSize;
  CheckKind(api, loc, "dst", dst, Kind::kL0c);
  CheckKind(api, loc, "fm", fm, Kind::kL0a);
  CheckKind(api, loc, "filter", filter, Kind::kL0b);
  CheckAlign(api, loc, "dst", dst, 1024);
  CheckAlign(api, loc, "fm", fm, 512);
  CheckAlign(api, loc, "filter", filter, 512);
  const int64_t m = Range(api, loc, "m", p.m, 0, 4095), n = Range(api, loc, "n", p.n, 0, 4095),
                k = Range(api, loc, "k", p.k, 0, 4095);
  if (p.unitFlag.value != 0 || p.isBias || p.cmatrixSource || p.kDirectionAlign)
    M().Fail("argument", loc, "Mmad: unitFlag, isBias, cmatrixSource and kDirectionAlign are not modelled");
  if (m == 0 || n == 0 || k == 0) return;
  const int64_t m_blocks = (m + 15) / 16, n_blocks = (n + 15) / 16, k_blocks = (k + kC0 - 1) / kC0;
  Ranges ranges(api, loc);
  ranges.Local("fm", fm, false, 0, m == 1 ? k * kSize : m_blocks * k_blocks * kFractal);
  ranges.Local("filter", filter, false, 0, n_blocks * k_blocks * kFractal);
  if (!p.cmatrixInitVal) ranges.Local("dst", dst, false, 0, m_blocks * n_blocks * 1024);
  ranges.Local("dst", dst, true, 0, m_blocks * n_blocks * 1024);
  const View c = dst.view(), a = fm.view(), b = filter.view();
  const bool init = p.cmatrixInitVal;
  t_core->macs += static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  // From 10 fractals on, successive Mmads on one tile need no PipeBarrier<PIPE_M>.
  Machine::mmad_ordered = m_blocks * n_blocks >= 10;
  M().Issue(PIPE_M, api, loc, ranges.list(), {static_cast<double>(m_blocks * n_blocks * k_blocks), kMmadHead},
            [=] { MmadExecute<C, T>(c, a, b, m, n, k, init, loc); });
  Machine::mmad_ordered = false;
}

}  // namespace AscendC

namespace ascendc_emulator {

// 随路量化.md: the scale has 1 + 8 + 10 bits, the low 13 of the float's mantissa do not count.
inline float FixpipeScale(uint64_t scalar, Loc loc) {
  const float scale = BitCast<float>(static_cast<uint32_t>(scalar) & 0xffffe000u);
  if ((scalar >> 32 & 0x1f) != 0)
    M().Fail("argument", loc, "Fixpipe: bits 32-36 of deqScalar (shift mode) are not modelled");
  if (!std::isnormal(scale)) M().Fail("argument", loc, "Fixpipe: deqScalar is zero, denormal, infinite or NaN");
  return scale;
}

template <class D, class S>
inline D FixpipeElement(S v, float scale, bool relu) {
  if constexpr (std::is_same_v<D, S>) {
    return relu && v < 0 ? S{0} : v;
  } else {
    float f = std::is_same_v<S, int32_t> ? static_cast<float>(v) * scale : static_cast<float>(v);
    if (relu && f < 0) f = 0;
    D result;
    result.bits = std::is_same_v<D, half> ? HalfBits(f) : Bfloat16Bits(f);
    return result;
  }
}

// A row of `n` values from L0C as bytes of D, with their marks.
template <class D, class S>
inline void FixpipeRow(View src, int64_t src_step, int64_t n, float scale, bool relu, uint8_t* data, uint8_t* valid) {
  for (int64_t j0 = 0; j0 < n; j0 += 16) {
    const View block = src + j0 / 16 * src_step;
    for (int64_t j = 0; j < 16; ++j) {
      S v;
      std::memcpy(&v, block.data + j * 4, 4);
      const D d = FixpipeElement<D, S>(v, scale, relu);
      std::memcpy(data + (j0 + j) * static_cast<int64_t>(sizeof(D)), &d, sizeof(D));
      std::memset(valid + (j0 + j) * static_cast<int64_t>(sizeof(D)), block.valid[j * 4], sizeof(D));
    }
  }
}

template <class D, class S>
inline float FixpipeChecks(const LocalTensor<S>& src, const AscendC::FixpipeParamsV220& p, Loc loc) {
  constexpr bool kPlain = std::is_same_v<D, S> && kOneOf<D, float, int32_t>;
  constexpr QuantMode_t kMode = kPlain                       ? NoQuant
                                : std::is_same_v<S, int32_t> ? DEQF16
                                : std::is_same_v<D, half>    ? F322F16
                                                             : F322BF16;
  static_assert(kPlain || (std::is_same_v<S, float> && kOneOf<D, half, bfloat16_t>) ||
                    (std::is_same_v<S, int32_t> && std::is_same_v<D, half>),
                "Fixpipe of arch 2201 makes float, half, bfloat16 from float, and int32, half from int32");
  const char* api = "Fixpipe";
  CheckKind(api, loc, "src", src, Kind::kL0c);
  CheckAlign(api, loc, "src", src, 64);
  if (p.quantPre != kMode)
    M().Fail("argument", loc,
             Format("Fixpipe: quantPre is %d, %s to %s needs %d", p.quantPre, TypeName<S>(), TypeName<D>(), kMode));
  const int64_t n = Range(api, loc, "nSize", p.nSize, 0, 4095);
  if (n % 16 != 0)
    M().Fail("argument", loc, Format("Fixpipe: nSize is %lld, it must be a multiple of 16", static_cast<long long>(n)));
  const int64_t m = Range(api, loc, "mSize", p.mSize, 0, 8192);
  const int64_t stride = Range(api, loc, "srcStride (rows of 16)", p.srcStride, 0, 65535);
  if (n > 16 && stride < m)
    M().Fail("argument", loc,
             Format("Fixpipe: srcStride is %lld rows, less than mSize %lld", static_cast<long long>(stride),
                    static_cast<long long>(m)));
  if (p.unitFlag.value != 0 || p.isChannelSplit || p.ndNum.value != 1)
    M().Fail("argument", loc, "Fixpipe: unitFlag, isChannelSplit and ndNum other than 1 are not modelled");
  t_core->bytes_l0c_out += static_cast<uint64_t>(m * n * static_cast<int64_t>(sizeof(D)));
  return kMode == DEQF16 ? FixpipeScale(p.deqScalar, loc) : 1.0f;
}

}  // namespace ascendc_emulator

namespace AscendC {

// Fixpipe（L0C到GM数据搬运）.md: rows (CFG_ROW_MAJOR, dstStride in elements) or NZ (dstStride in 32 B).
template <class D, class S, const FixpipeConfig& config = CFG_ROW_MAJOR>
inline void Fixpipe(const GlobalTensor<D>& dst, const LocalTensor<S>& src, const FixpipeParamsV220& p,
                    Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  const char* api = "Fixpipe";
  constexpr auto kSize = static_cast<int64_t>(sizeof(D));
  const float scale = FixpipeChecks<D, S>(src, p, loc);
  const int64_t m = p.mSize.value, n = p.nSize.value, src_step = p.srcStride.value * 64;
  if (m == 0 || n == 0) return;
  constexpr bool kRows = config.format == CO2Layout::ROW_MAJOR;
  const int64_t stride = Range(api, loc, "dstStride", p.dstStride, 1, 4294967295) * (kRows ? kSize : 32);
  if (kRows ? m > 1 && stride < n * kSize : n > 16 && stride < m * 16 * kSize)
    M().Fail("argument", loc,
             Format("Fixpipe: dstStride is %lld bytes, parts of %lld bytes overlap", static_cast<long long>(stride),
                    static_cast<long long>(kRows ? n * kSize : m * 16 * kSize)));
  const Atomic atomic = AtomicMode<D>(api, loc);
  Ranges ranges(api, loc);
  ranges.Local("src", src, false, 0, m * 64, n / 16, src_step);
  if (kRows)
    ranges.Gm("dst", dst, true, 0, n * kSize, m, stride);
  else
    ranges.Gm("dst", dst, true, 0, m * 16 * kSize, n / 16, stride);
  const View to = GmView(dst), from = src.view();
  GmBuffer* buffer = M().gm[static_cast<size_t>(dst.gm())].get();
  if (!kRows && (to.data - buffer->base) % 32 != 0)
    M().Fail("alignment", loc, "Fixpipe: an NZ destination in GM must be a multiple of 32 bytes");
  const bool relu = p.reluEn;
  const double cycles = std::max(static_cast<double>(m * n) / kFixpipeElements, ranges.gm_cycles(kL2Write));
  M().Issue(PIPE_FIX, api, loc, ranges.list(), {cycles, kFixpipeHead}, [=] {
    std::vector<uint8_t> data(static_cast<size_t>(n * kSize)), valid(data.size());
    for (int64_t i = 0; i < m; ++i) {
      FixpipeRow<D, S>(from + i * 64, src_step, n, scale, relu, data.data(), valid.data());
      const View row{data.data(), valid.data()};
      if (kRows) {
        WriteGm(*buffer, to + i * stride, row, n * kSize, atomic, api, loc);
      } else {
        for (int64_t j = 0; j < n / 16; ++j)
          WriteGm(*buffer, to + (j * stride + i * 16 * kSize), row + j * 16 * kSize, 16 * kSize, atomic, api, loc);
      }
    }
  });
}

// Fixpipe（L0C到L1数据搬运）.md: NZ only, and never without conversion.
template <class D, class S, const FixpipeConfig& config = CFG_ROW_MAJOR>
inline void Fixpipe(const LocalTensor<D>& dst, const LocalTensor<S>& src, const FixpipeParamsV220& p,
                    Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(!std::is_same_v<D, S>, "Fixpipe to L1 has no NoQuant mode");
  static_assert(config.format == CO2Layout::NZ, "Fixpipe to L1 is modelled with CFG_NZ");
  const char* api = "Fixpipe";
  constexpr auto kSize = static_cast<int64_t>(sizeof(D));
  CheckKind(api, loc, "dst", dst, Kind::kL1);
  CheckAlign(api, loc, "dst", dst, 32);
  const float scale = FixpipeChecks<D, S>(src, p, loc);
  const int64_t m = p.mSize.value, n = p.nSize.value, src_step = p.srcStride.value * 64;
  if (m == 0 || n == 0) return;
  const int64_t stride = Range(api, loc, "dstStride (32 B)", p.dstStride, 1, 65535) * 32;
  if (n > 16 && stride < m * 16 * kSize)
    M().Fail("argument", loc,
             Format("Fixpipe: dstStride is %lld bytes, columns of %lld bytes overlap", static_cast<long long>(stride),
                    static_cast<long long>(m * 16 * kSize)));
  Ranges ranges(api, loc);
  ranges.Local("src", src, false, 0, m * 64, n / 16, src_step);
  ranges.Local("dst", dst, true, 0, m * 16 * kSize, n / 16, stride);
  const View to = dst.view(), from = src.view();
  const bool relu = p.reluEn;
  M().Issue(PIPE_FIX, api, loc, ranges.list(), {static_cast<double>(m * n) / kFixpipeElements, kFixpipeHead}, [=] {
    std::vector<uint8_t> data(static_cast<size_t>(n * kSize)), valid(data.size());
    for (int64_t i = 0; i < m; ++i) {
      FixpipeRow<D, S>(from + i * 64, src_step, n, scale, relu, data.data(), valid.data());
      for (int64_t j = 0; j < n / 16; ++j)
        Move(to + (j * stride + i * 16 * kSize), View{data.data(), valid.data()} + j * 16 * kSize, 16 * kSize);
    }
  });
}

}  // namespace AscendC

#endif  // ASCENDC_EMULATOR_CUBE_H_
