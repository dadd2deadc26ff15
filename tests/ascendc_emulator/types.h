// Scalar types, enumerations and parameter structures of the AscendC API, with the field widths of NPU arch 2201.
// A field that the hardware narrows is held wider here (Field<>), so that a value that would be cut is seen.
// Documentation: asc-devkit docs/zh/api/SIMD-API, page names beside each structure.
#ifndef ASCENDC_EMULATOR_TYPES_H_
#define ASCENDC_EMULATOR_TYPES_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#define __aicore__
#define __global__
#define __gm__
#define __ubuf__
#define __cbuf__
#define GM_ADDR __gm__ uint8_t*

namespace ascendc_emulator {

template <class To, class From>
inline To BitCast(From from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// Shifts the magnitude `value` right by `shift` bits, in one of the rounding modes of Cast.
enum class Rounding { kRint, kFloor, kCeil, kRound, kTrunc, kOdd };

inline uint64_t ShiftRight(uint64_t value, int shift, bool negative, Rounding rounding) {
  if (shift <= 0) return value << -shift;
  if (shift > 63) {
    value = value != 0;
    shift = 2;  // keeps "not zero, less than half"
  }
  const uint64_t kept = value >> shift;
  const uint64_t rest = value & ((uint64_t{1} << shift) - 1);
  const uint64_t half = uint64_t{1} << (shift - 1);
  if (rest == 0) return kept;
  switch (rounding) {
    case Rounding::kRint:
      return kept + (rest > half || (rest == half && (kept & 1)));
    case Rounding::kFloor:
      return kept + negative;
    case Rounding::kCeil:
      return kept + !negative;
    case Rounding::kRound:
      return kept + (rest >= half);
    case Rounding::kTrunc:
      return kept;
    case Rounding::kOdd:
      return kept | 1;
  }
  return kept;
}

// Binary16 from binary32 in any rounding mode. Overflow becomes infinity in the modes that round to nearest.
inline uint16_t HalfBits(float value, Rounding rounding = Rounding::kRint) {
#if defined(__F16C__)
  if (rounding == Rounding::kRint) return static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
#endif
  const uint32_t bits = BitCast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude == 0x7f800000) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude == 0) return sign;
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  uint64_t mantissa = (magnitude & 0x7fffff) | (magnitude >= 0x800000 ? 0x800000 : 0);
  const int true_exponent = magnitude >= 0x800000 ? exponent : -126;
  // Normal halves keep 10 bits below the leading one; below 2^-14 the unit stays 2^-24.
  const int shift = true_exponent >= -14 ? 13 : 13 + (-14 - true_exponent);
  uint64_t rounded = ShiftRight(mantissa, shift, sign != 0, rounding);
  if (true_exponent >= -14) rounded += static_cast<uint64_t>(true_exponent + 14) << 10;
  if (rounded >= 0x7c00) {
    const bool to_infinity = rounding == Rounding::kRint || rounding == Rounding::kRound ||
                             (rounding == Rounding::kFloor && sign) || (rounding == Rounding::kCeil && !sign);
    return static_cast<uint16_t>(sign | (to_infinity ? 0x7c00 : 0x7bff));
  }
  return static_cast<uint16_t>(sign | rounded);
}

inline float HalfValue(uint16_t bits) {
#if defined(__F16C__)
  return _cvtsh_ss(bits);
#else
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 0x3ff;
  if (exponent == 31) return BitCast<float>(sign | 0x7f800000 | (mantissa << 13) | (mantissa ? 0x400000 : 0));
  if (exponent) return BitCast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
#endif
}

inline uint16_t Bfloat16Bits(float value, Rounding rounding = Rounding::kRint) {
  const uint32_t bits = BitCast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  if ((bits & 0x7fffffff) == 0x7f800000) return static_cast<uint16_t>(bits >> 16);
  return static_cast<uint16_t>(sign | ShiftRight(bits & 0x7fffffff, 16, sign != 0, rounding));
}

inline float Bfloat16Value(uint16_t bits) { return BitCast<float>(static_cast<uint32_t>(bits) << 16); }

}  // namespace ascendc_emulator

// The device compiler's half is a storage type with conversions. Arithmetic on scalars happens in float.
struct half {
  uint16_t bits;
  half() = default;
  template <class A, class = std::enable_if_t<std::is_arithmetic_v<A>>>
  half(A value) : bits(ascendc_emulator::HalfBits(static_cast<float>(value))) {}  // NOLINT: implicit as on device
  operator float() const { return ascendc_emulator::HalfValue(bits); }            // NOLINT
};

// It has no arithmetic, because arch 2201 has none for bfloat16. ToFloat and ToBfloat16 convert.
struct bfloat16_t {
  uint16_t bits;
  bfloat16_t() = default;
};

using event_t = int32_t;
enum : int32_t { EVENT_ID0, EVENT_ID1, EVENT_ID2, EVENT_ID3, EVENT_ID4, EVENT_ID5, EVENT_ID6, EVENT_ID7 };

enum pipe_t { PIPE_S, PIPE_V, PIPE_M, PIPE_MTE1, PIPE_MTE2, PIPE_MTE3, PIPE_FIX, PIPE_ALL };

// Fixpipe（L0C到GM数据搬运）.md, table 4: modes of arch 2201 that are modelled.
enum QuantMode_t { NoQuant, F322F16, F322BF16, DEQF16 };

enum KernelType {
  KERNEL_TYPE_AIV_ONLY,
  KERNEL_TYPE_AIC_ONLY,
  KERNEL_TYPE_MIX_AIV_1_0,
  KERNEL_TYPE_MIX_AIC_1_0,
  KERNEL_TYPE_MIX_AIC_1_1,
  KERNEL_TYPE_MIX_AIC_1_2
};

namespace AscendC {

enum class TPosition : uint8_t { GM, A1, A2, B1, B2, C1, C2, CO1, CO2, VECIN, VECOUT, VECCALC, TSCM, C2PIPE2GM };
using QuePosition = TPosition;

enum class HardEvent : uint8_t {
  MTE2_MTE1,
  MTE1_MTE2,
  MTE1_M,
  M_MTE1,
  MTE2_V,
  V_MTE2,
  MTE3_V,
  V_MTE3,
  M_FIX,
  FIX_M,
  MTE3_MTE2,
  MTE2_MTE3,
  S_V,
  V_S,
  S_MTE2,
  MTE2_S,
  S_MTE3,
  MTE3_S,
  MTE2_FIX,
  FIX_MTE2,
  FIX_S,
  M_S,
  FIX_MTE3,
  FIX_MTE1,
  MTE1_FIX,
  MTE3_MTE1,
  MTE1_MTE3,
  MTE2_M,
  M_MTE2,
  MTE1_S,
  S_MTE1,
  S_M,
  S_FIX,
  V_V,
  MAX
};

// Cast.md, "RoundMode取值说明".
enum class RoundMode { CAST_NONE = 0, CAST_RINT, CAST_FLOOR, CAST_CEIL, CAST_ROUND, CAST_TRUNC, CAST_ODD };
enum class ReduceOrder { ORDER_VALUE_INDEX = 0, ORDER_INDEX_VALUE, ORDER_ONLY_VALUE, ORDER_ONLY_INDEX };
enum class CMPMODE : uint8_t { LT = 0, GT, EQ, LE, GE, NE };
enum class CacheLine { SINGLE_CACHE_LINE = 0, ENTIRE_DATA_CACHE };
enum class DcciDst { CACHELINE_ALL = 0, CACHELINE_UB, CACHELINE_OUT };
enum class CO2Layout : uint8_t { NZ = 0, ROW_MAJOR };
struct FixpipeConfig {
  CO2Layout format;
};
constexpr FixpipeConfig CFG_NZ{CO2Layout::NZ};
constexpr FixpipeConfig CFG_ROW_MAJOR{CO2Layout::ROW_MAJOR};

constexpr uint32_t ONE_BLK_SIZE = 32;

using ::bfloat16_t;
using ::half;

inline float ToFloat(const bfloat16_t& value) { return ascendc_emulator::Bfloat16Value(value.bits); }
inline bfloat16_t ToBfloat16(const float& value) {
  bfloat16_t result;
  result.bits = ascendc_emulator::Bfloat16Bits(value);
  return result;
}

// A field of type T on the device. It keeps the 64-bit value that it was given, so that the API that uses it can report
// a value that T cannot hold.
template <class T>
struct Field {
  int64_t value = 0;
  Field() = default;
  template <class A, class = std::enable_if_t<std::is_integral_v<A> || std::is_enum_v<A>>>
  Field(A given) : value(static_cast<int64_t>(given)) {}  // NOLINT: implicit as a plain integer field
  operator T() const { return static_cast<T>(value); }    // NOLINT
  template <class A>
  Field& operator+=(A given) {
    value += given;
    return *this;
  }
};
using FieldU8 = Field<uint8_t>;
using FieldU16 = Field<uint16_t>;
using FieldU32 = Field<uint32_t>;

// DataCopy（GM与UB高维切分数据搬运）.md: gaps and lengths in 32 B.
struct DataCopyParams {
  FieldU16 blockCount = 1, blockLen = 0;
  union {
    FieldU16 srcStride;
    FieldU16 srcGap;
  };
  union {
    FieldU16 dstStride;
    FieldU16 dstGap;
  };
  DataCopyParams() : srcStride(0), dstStride(0) {}
  DataCopyParams(FieldU16 count, FieldU16 len, FieldU16 src_gap, FieldU16 dst_gap)
      : blockCount(count), blockLen(len), srcStride(src_gap), dstStride(dst_gap) {}
};

// DataCopyPad（GMToUB非对齐数据搬运）.md: lengths and the GM gap in bytes, the UB gap in 32 B.
struct DataCopyExtParams {
  FieldU16 blockCount = 1;
  FieldU32 blockLen = 0;
  Field<int64_t> srcStride = 0, dstStride = 0;
  FieldU32 rsv = 0;
  DataCopyExtParams() = default;
  DataCopyExtParams(FieldU16 count, FieldU32 len, Field<int64_t> src, Field<int64_t> dst, FieldU32 reserved)
      : blockCount(count), blockLen(len), srcStride(src), dstStride(dst), rsv(reserved) {}
};
template <class T>
struct DataCopyPadExtParams {
  bool isPad = false;
  FieldU8 leftPadding = 0, rightPadding = 0;
  T paddingValue{};
  DataCopyPadExtParams() = default;
  DataCopyPadExtParams(bool pad, FieldU8 left, FieldU8 right, T value)
      : isPad(pad), leftPadding(left), rightPadding(right), paddingValue(value) {}
};

// DataCopy（GMToL1随路转换-ND2NZ搬运）.md
struct Nd2NzParams {
  FieldU16 ndNum = 0, nValue = 0, dValue = 0, srcNdMatrixStride = 0, srcDValue = 0, dstNzC0Stride = 0, dstNzNStride = 0,
           dstNzMatrixStride = 0;
  Nd2NzParams() = default;
  Nd2NzParams(FieldU16 nd_num, FieldU16 n, FieldU16 d, FieldU16 src_matrix, FieldU16 src_d, FieldU16 c0,
              FieldU16 n_stride, FieldU16 dst_matrix)
      : ndNum(nd_num),
        nValue(n),
        dValue(d),
        srcNdMatrixStride(src_matrix),
        srcDValue(src_d),
        dstNzC0Stride(c0),
        dstNzNStride(n_stride),
        dstNzMatrixStride(dst_matrix) {}
};

// Copy（UBToUB掩码式高维数据搬运）.md
struct CopyRepeatParams {
  FieldU16 dstStride = 1, srcStride = 1, dstRepeatSize = 8, srcRepeatSize = 8;
  CopyRepeatParams() = default;
  CopyRepeatParams(FieldU16 dst, FieldU16 src, FieldU16 dst_repeat, FieldU16 src_repeat)
      : dstStride(dst), srcStride(src), dstRepeatSize(dst_repeat), srcRepeatSize(src_repeat) {}
};

// LoadData_2D.md
struct LoadData2DParams {
  FieldU16 startIndex = 0;
  FieldU8 repeatTimes = 0;
  FieldU16 srcStride = 0;
  FieldU8 sid = 0;
  FieldU16 dstGap = 0;
  bool ifTranspose = false;
  FieldU8 addrMode = 0;
  LoadData2DParams() = default;
  LoadData2DParams(FieldU16 start, FieldU8 repeat, FieldU16 src_stride, FieldU8 sid_in, FieldU16 dst_gap,
                   bool transpose, FieldU8 mode)
      : startIndex(start),
        repeatTimes(repeat),
        srcStride(src_stride),
        sid(sid_in),
        dstGap(dst_gap),
        ifTranspose(transpose),
        addrMode(mode) {}
};

// LoadDataWithTranspose.md
struct LoadData2dTransposeParams {
  FieldU16 startIndex = 0;
  FieldU8 repeatTimes = 0;
  FieldU16 srcStride = 0, dstGap = 0, dstFracGap = 0;
  FieldU8 addrMode = 0;
  LoadData2dTransposeParams() = default;
  LoadData2dTransposeParams(FieldU16 start, FieldU8 repeat, FieldU16 src_stride, FieldU16 dst_gap, FieldU16 frac_gap,
                            FieldU8 mode = 0)
      : startIndex(start),
        repeatTimes(repeat),
        srcStride(src_stride),
        dstGap(dst_gap),
        dstFracGap(frac_gap),
        addrMode(mode) {}
};

// Mmad.md, table 4. disableGemv does not exist on arch 2201, so it does not exist here.
struct MmadParams {
  FieldU16 m = 0, n = 0, k = 0;
  bool isBias = false;
  FieldU8 unitFlag = 0;
  bool kDirectionAlign = false;
  bool cmatrixSource = false;
  bool cmatrixInitVal = true;
};

// Fixpipe（L0C到GM数据搬运）.md, table 4.
struct FixpipeParamsV220 {
  FieldU16 nSize = 0, mSize = 0, srcStride = 0;
  FieldU32 dstStride = 0;
  QuantMode_t quantPre = QuantMode_t::NoQuant;
  uint64_t deqScalar = 0;
  FieldU16 ndNum = 1, srcNdStride = 0, dstNdStride = 0;
  bool reluEn = false;
  FieldU8 unitFlag = 0;
  bool isChannelSplit = false;
};

// BinaryRepeatParams.md, UnaryRepeatParams.md: block strides in 32 B, repeat strides in 32 B of 8 bits.
struct BinaryRepeatParams {
  FieldU8 dstBlkStride = 1, src0BlkStride = 1, src1BlkStride = 1, dstRepStride = 8, src0RepStride = 8,
          src1RepStride = 8;
  BinaryRepeatParams() = default;
  BinaryRepeatParams(FieldU8 dst_blk, FieldU8 src0_blk, FieldU8 src1_blk, FieldU8 dst_rep, FieldU8 src0_rep,
                     FieldU8 src1_rep)
      : dstBlkStride(dst_blk),
        src0BlkStride(src0_blk),
        src1BlkStride(src1_blk),
        dstRepStride(dst_rep),
        src0RepStride(src0_rep),
        src1RepStride(src1_rep) {}
};
struct UnaryRepeatParams {
  FieldU16 dstBlkStride = 1, srcBlkStride = 1;
  FieldU8 dstRepStride = 8, srcRepStride = 8;
  UnaryRepeatParams() = default;
  UnaryRepeatParams(FieldU16 dst_blk, FieldU16 src_blk, FieldU8 dst_rep, FieldU8 src_rep)
      : dstBlkStride(dst_blk), srcBlkStride(src_blk), dstRepStride(dst_rep), srcRepStride(src_rep) {}
};
// Brcb.md
struct BrcbRepeatParams {
  FieldU16 dstBlkStride = 1, dstRepStride = 8;
  BrcbRepeatParams() = default;
  BrcbRepeatParams(FieldU16 blk, FieldU16 rep) : dstBlkStride(blk), dstRepStride(rep) {}
};
// GatherMask.md
struct GatherMaskParams {
  FieldU8 src0BlockStride = 1;
  FieldU16 repeatTimes = 0, src0RepeatStride = 0;
  FieldU8 src1RepeatStride = 0;
  GatherMaskParams() = default;
  GatherMaskParams(FieldU8 blk, FieldU16 repeat, FieldU16 rep_stride, FieldU8 src1_rep)
      : src0BlockStride(blk), repeatTimes(repeat), src0RepeatStride(rep_stride), src1RepeatStride(src1_rep) {}
};
// MrgSort.md
struct MrgSort4Info {
  FieldU16 elementLengths[4];
  bool ifExhaustedSuspension = false;
  FieldU16 validBit = 0;
  FieldU8 repeatTimes = 1;
  MrgSort4Info() = default;
  MrgSort4Info(const uint16_t lengths[4], bool suspend, FieldU16 valid, FieldU8 repeat)
      : ifExhaustedSuspension(suspend), validBit(valid), repeatTimes(repeat) {
    for (int i = 0; i < 4; ++i) elementLengths[i] = lengths[i];
  }
};

}  // namespace AscendC

#endif  // ASCENDC_EMULATOR_TYPES_H_
