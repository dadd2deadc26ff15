// Vector instructions on UB that give each element by itself: arithmetic, comparison, Copy, Duplicate, CreateVecIndex,
// Brcb, Gather, Transpose.
#ifndef ASCENDC_EMULATOR_VECTOR_H_
#define ASCENDC_EMULATOR_VECTOR_H_

#include "arithmetic.h"
#include "elementwise.h"

namespace AscendC {

// Add.md, Sub.md, Mul.md, Div.md, Max.md, Min.md
#define ASCENDC_EMULATOR_BINARY(NAME, OP, TYPES, RATE, ACCUMULATES)                                                  \
  template <class T>                                                                                                 \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, int32_t count, \
                   Loc loc = Loc::Here()) {                                                                          \
    using namespace ascendc_emulator;                                                                                \
    static_assert(TYPES<T>, #NAME " does not exist for this type on arch 2201");                                     \
    Elementwise(#NAME, loc, RATE, Counted(#NAME, loc, count), false, OP<T>(#NAME, loc), Whole("dst", dst),           \
                Whole("src0", src0), Whole("src1", src1));                                                           \
  }                                                                                                                  \
  template <class T, class Mask>                                                                                     \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, Mask mask,     \
                   int64_t repeat, const BinaryRepeatParams& p, Loc loc = Loc::Here()) {                             \
    using namespace ascendc_emulator;                                                                                \
    static_assert(TYPES<T>, #NAME " does not exist for this type on arch 2201");                                     \
    Elementwise(#NAME, loc, RATE, Masked(#NAME, loc, mask, repeat, sizeof(T)), ACCUMULATES, OP<T>(#NAME, loc),       \
                Strided(#NAME, loc, "dst", dst, p.dstBlkStride.value, p.dstRepStride.value, 255, 255),               \
                Strided(#NAME, loc, "src0", src0, p.src0BlkStride.value, p.src0RepStride.value, 255, 255),           \
                Strided(#NAME, loc, "src1", src1, p.src1BlkStride.value, p.src1RepStride.value, 255, 255));          \
  }
ASCENDC_EMULATOR_BINARY(Add, AddOp, kArithmetic, kFullRate<T>, true)
ASCENDC_EMULATOR_BINARY(Sub, SubOp, kArithmetic, kFullRate<T>, true)
ASCENDC_EMULATOR_BINARY(Mul, MulOp, kArithmetic, kFullRate<T>, true)
ASCENDC_EMULATOR_BINARY(Div, DivOp, kFloating, 32, false)
ASCENDC_EMULATOR_BINARY(Max, MaxOp, kArithmetic, kFullRate<T>, true)
ASCENDC_EMULATOR_BINARY(Min, MinOp, kArithmetic, kFullRate<T>, true)

// Adds.md, Muls.md, Maxs.md, Mins.md
#define ASCENDC_EMULATOR_SCALAR(NAME, OP)                                                                              \
  template <class T>                                                                                                   \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar, int32_t count,               \
                   Loc loc = Loc::Here()) {                                                                            \
    using namespace ascendc_emulator;                                                                                  \
    static_assert(kArithmetic<T>, #NAME " does not exist for this type on arch 2201");                                 \
    auto f = [op = OP<T>(#NAME, loc), scalar](T a) { return op(a, scalar); };                                          \
    Elementwise(#NAME, loc, kFullRate<T>, Counted(#NAME, loc, count), false, f, Whole("dst", dst), Whole("src", src)); \
  }                                                                                                                    \
  template <class T, class Mask>                                                                                       \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar, Mask mask, int64_t repeat,   \
                   const UnaryRepeatParams& p, Loc loc = Loc::Here()) {                                                \
    using namespace ascendc_emulator;                                                                                  \
    static_assert(kArithmetic<T>, #NAME " does not exist for this type on arch 2201");                                 \
    auto f = [op = OP<T>(#NAME, loc), scalar](T a) { return op(a, scalar); };                                          \
    Elementwise(#NAME, loc, kFullRate<T>, Masked(#NAME, loc, mask, repeat, sizeof(T)), false, f,                       \
                Strided(#NAME, loc, "dst", dst, p.dstBlkStride.value, p.dstRepStride.value, 65535, 255),               \
                Strided(#NAME, loc, "src", src, p.srcBlkStride.value, p.srcRepStride.value, 65535, 255));              \
  }
ASCENDC_EMULATOR_SCALAR(Adds, AddOp)
ASCENDC_EMULATOR_SCALAR(Muls, MulOp)
ASCENDC_EMULATOR_SCALAR(Maxs, MaxOp)
ASCENDC_EMULATOR_SCALAR(Mins, MinOp)

// Exp.md, Ln.md, Sqrt.md, Abs.md, Relu.md, Rsqrt.md, Reciprocal.md
#define ASCENDC_EMULATOR_UNARY(NAME, TYPES, RATE, EXPRESSION)                                                        \
  template <class T>                                                                                                 \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t count, Loc loc = Loc::Here()) {     \
    using namespace ascendc_emulator;                                                                                \
    static_assert(TYPES<T>, #NAME " does not exist for this type on arch 2201");                                     \
    Elementwise(                                                                                                     \
        #NAME, loc, RATE, Counted(#NAME, loc, count), false, [](T a) -> T { return EXPRESSION; }, Whole("dst", dst), \
        Whole("src", src));                                                                                          \
  }                                                                                                                  \
  template <class T, class Mask>                                                                                     \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, int64_t repeat,                  \
                   const UnaryRepeatParams& p, Loc loc = Loc::Here()) {                                              \
    using namespace ascendc_emulator;                                                                                \
    static_assert(TYPES<T>, #NAME " does not exist for this type on arch 2201");                                     \
    Elementwise(                                                                                                     \
        #NAME, loc, RATE, Masked(#NAME, loc, mask, repeat, sizeof(T)), false, [](T a) -> T { return EXPRESSION; },   \
        Strided(#NAME, loc, "dst", dst, p.dstBlkStride.value, p.dstRepStride.value, 65535, 255),                     \
        Strided(#NAME, loc, "src", src, p.srcBlkStride.value, p.srcRepStride.value, 65535, 255));                    \
  }
ASCENDC_EMULATOR_UNARY(Exp, kFloating, 32, T(std::exp(Wide(a))))
ASCENDC_EMULATOR_UNARY(Ln, kFloating, 32, T(std::log(Wide(a))))
ASCENDC_EMULATOR_UNARY(Sqrt, kFloating, 32, T(std::sqrt(Wide(a))))
ASCENDC_EMULATOR_UNARY(Abs, kFloating, kFullRate<T>, T(std::fabs(Wide(a))))
ASCENDC_EMULATOR_UNARY(Relu, kFloating, kFullRate<T>, T(Wide(a) > 0 || IsNan(a) ? Wide(a) : 0.0f))
ASCENDC_EMULATOR_UNARY(Rsqrt, kFloating, kFullRate<T>, Approximate<T>(1.0f / std::sqrt(Wide(a))))
ASCENDC_EMULATOR_UNARY(Reciprocal, kFloating, kFullRate<T>, Approximate<T>(1.0f / Wide(a)))
#undef ASCENDC_EMULATOR_BINARY
#undef ASCENDC_EMULATOR_SCALAR
#undef ASCENDC_EMULATOR_UNARY

// And.md, Or.md: int16_t and uint16_t.
template <class T>
inline void And(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, int32_t count,
                Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(kOneOf<T, int16_t, uint16_t>, "And exists for 16-bit integers only");
  Elementwise(
      "And", loc, 128, Counted("And", loc, count), false, [](T a, T b) -> T { return static_cast<T>(a & b); },
      Whole("dst", dst), Whole("src0", src0), Whole("src1", src1));
}
template <class T>
inline void Or(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, int32_t count,
               Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(kOneOf<T, int16_t, uint16_t>, "Or exists for 16-bit integers only");
  Elementwise(
      "Or", loc, 128, Counted("Or", loc, count), false, [](T a, T b) -> T { return static_cast<T>(a | b); },
      Whole("dst", dst), Whole("src0", src0), Whole("src1", src1));
}

// CompareScalar.md: one bit an element, the first in bit 0 of the first byte. A comparison with NaN is false, except
// NE.
template <class T>
inline void CompareScalar(const LocalTensor<uint8_t>& dst, const LocalTensor<T>& src0, const T scalar, CMPMODE mode,
                          uint32_t count, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(kFloating<T>, "CompareScalar is modelled for half and float");
  const char* api = "CompareScalar";
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckKind(api, loc, "src0", src0, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, 32);
  CheckAlign(api, loc, "src0", src0, 32);
  const int64_t n = Range(api, loc, "count", count, 0, 196608);
  if (n * kSize % 256 != 0)
    M().Fail("argument", loc,
             Format("CompareScalar: %lld elements of %s are no multiple of 256 bytes", static_cast<long long>(n),
                    TypeName<T>()));
  if (n == 0) return;
  Ranges ranges(api, loc);
  ranges.Local("src0", src0, false, 0, n * kSize);
  ranges.Local("dst", dst, true, 0, n / 8);
  const View to = dst.view(), from = src0.view();
  M().Issue(PIPE_V, api, loc, ranges.list(), {kVectorIssue + static_cast<double>(n) / 64, kVectorHead}, [=] {
    const float right = Wide(scalar);
    Seen seen;
    for (int64_t byte = 0; byte < n / 8; ++byte) {
      uint8_t bits = 0;
      for (int64_t i = 0; i < 8; ++i) {
        T value;
        std::memcpy(&value, from.data + (byte * 8 + i) * kSize, sizeof(T));
        const float left = Wide(value);
        const bool truth = mode == CMPMODE::LT   ? left < right
                           : mode == CMPMODE::GT ? left > right
                           : mode == CMPMODE::EQ ? left == right
                           : mode == CMPMODE::LE ? left <= right
                           : mode == CMPMODE::GE ? left >= right
                                                 : left != right;
        bits = static_cast<uint8_t>(bits | (truth ? 1u << i : 0u));
      }
      to.data[byte] = bits;
      const bool ok = AllValid(from.valid + byte * 8 * kSize, 8 * kSize);
      seen.any[0] |= ok;
      to.valid[byte] = ok;
    }
    ReportUnseen(api, loc, seen.any[0], "src0");
  });
}

// Copy（UBToUB掩码式高维数据搬运）.md
template <class T, class Mask>
inline void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, int64_t repeat,
                 const CopyRepeatParams& p, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Copy moves 2- and 4-byte types");
  Elementwise(
      "Copy", loc, kFullRate<T>, Masked("Copy", loc, mask, repeat, sizeof(T)), false, [](T a) { return a; },
      Strided("Copy", loc, "dst", dst, p.dstStride.value, p.dstRepeatSize.value, 65535, 4095),
      Strided("Copy", loc, "src", src, p.srcStride.value, p.srcRepeatSize.value, 65535, 4095));
}

// Duplicate.md: no 8-bit types.
template <class T>
inline void Duplicate(const LocalTensor<T>& dst, const T& scalar, int32_t count, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Duplicate fills 2- and 4-byte types; view int8_t as int16_t");
  Elementwise(
      "Duplicate", loc, kFullRate<T>, Counted("Duplicate", loc, count), false, [scalar] { return scalar; },
      Whole("dst", dst));
}
template <class T, class Mask>
inline void Duplicate(const LocalTensor<T>& dst, const T& scalar, Mask mask, int64_t repeat, int64_t dst_blk,
                      int64_t dst_rep, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Duplicate fills 2- and 4-byte types; view int8_t as int16_t");
  Elementwise(
      "Duplicate", loc, kFullRate<T>, Masked("Duplicate", loc, mask, repeat, sizeof(T)), false,
      [scalar] { return scalar; }, Strided("Duplicate", loc, "dst", dst, dst_blk, dst_rep, 65535, 255));
}

// CreateVecIndex.md. On arch 2201 the scalar unit writes the whole first block, whatever `count` is, and the vector
// pipe goes on from there after a flag. Nothing makes the scalar unit wait for the vector pipe.
template <class T>
inline void CreateVecIndex(const LocalTensor<T>& dst, const T& first, uint32_t count, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(kArithmetic<T>, "CreateVecIndex does not exist for this type on arch 2201");
  constexpr uint32_t kBlock = 32 / sizeof(T);
  const char* api = "CreateVecIndex";
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, 32);
  for (uint32_t i = 0; i < kBlock; ++i) dst.SetValue(i, static_cast<T>(first + static_cast<T>(i)), loc);
  M().SetFlag(static_cast<int>(HardEvent::S_V), 0, loc);
  M().WaitFlag(static_cast<int>(HardEvent::S_V), 0, loc);
  if (count <= kBlock) return;
  Ranges ranges(api, loc);
  const auto bytes = static_cast<int64_t>(count * sizeof(T));
  ranges.Local("dst", dst, false, 0, 32);
  ranges.Local("dst", dst, true, 32, bytes - 32);
  const View to = dst.view();
  M().Issue(PIPE_V, api, loc, ranges.list(), {kVectorIssue + count / 64.0, kVectorHead}, [to, first, count, bytes] {
    auto* d = reinterpret_cast<T*>(to.data);
    for (uint32_t i = kBlock; i < count; ++i) d[i] = static_cast<T>(first + static_cast<T>(i));
    std::memset(to.valid, 1, static_cast<size_t>(bytes));
  });
}

// Brcb.md: each of 8 scalars fills a block.
template <class T>
inline void Brcb(const LocalTensor<T>& dst, const LocalTensor<T>& src, int64_t repeat, const BrcbRepeatParams& p,
                 Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Brcb takes 2- and 4-byte types");
  const char* api = "Brcb";
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckKind(api, loc, "src", src, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, 32);
  CheckAlign(api, loc, "src", src, 32);
  repeat = Range(api, loc, "repeatTime", repeat, 0, 255);
  const int64_t blk = Range(api, loc, "dstBlkStride (32 B)", p.dstBlkStride, 1, 65535) * 32;
  const int64_t rep = Range(api, loc, "dstRepStride (32 B)", p.dstRepStride, 0, 65535) * 32;
  if (repeat == 0) return;
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  Ranges ranges(api, loc);
  ranges.Local("src", src, false, 0, repeat * 8 * kSize);
  ranges.Local("dst", dst, true, 0, 32, 8, blk, repeat, rep);
  const int64_t d0 = dst.address(), d1 = d0 + (repeat - 1) * rep + 7 * blk + 32, s0 = src.address(),
                s1 = s0 + repeat * 8 * kSize;
  if (d0 < s1 && s0 < d1) M().Fail("overlap", loc, "Brcb: dst and src overlap");
  const View to = dst.view(), from = src.view();
  M().Issue(PIPE_V, api, loc, ranges.list(), {kVectorIssue + static_cast<double>(repeat), kVectorHead}, [=] {
    Seen seen;
    for (int64_t r = 0; r < repeat; ++r)
      for (int64_t j = 0; j < 8; ++j) {
        const View block = to + (r * rep + j * blk), value = from + (r * 8 + j) * kSize;
        const bool ok = ElementValid<T>(value.valid, 0);
        seen.any[0] |= ok;
        for (int64_t e = 0; e < 32; e += kSize) std::memcpy(block.data + e, value.data, sizeof(T));
        std::memset(block.valid, ok, 32);
      }
    ReportUnseen(api, loc, seen.any[0], "src");
  });
}

// Gather.md: offsets in bytes.
template <class T>
inline void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& offsets,
                   uint32_t base, uint32_t count, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Gather takes 2- and 4-byte types");
  const char* api = "Gather";
  for (const auto& [what, address] :
       {std::pair("dst", dst.address()), {"src", src.address()}, {"srcOffset", offsets.address()}})
    if (address % 32 != 0)
      M().Fail("alignment", loc,
               Format("Gather: %s is at UB address %lld, which is no multiple of 32", what,
                      static_cast<long long>(address)));
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckKind(api, loc, "src", src, Kind::kUb);
  if (count == 0) return;
  Ranges ranges(api, loc);
  ranges.Local("src", src, false, 0, src.bytes());
  ranges.Local("srcOffset", offsets, false, 0, int64_t{count} * 4);
  ranges.Local("dst", dst, true, 0, int64_t{count} * static_cast<int64_t>(sizeof(T)));
  if (dst.address() == src.address()) M().Fail("overlap", loc, "Gather: dst is src");
  const View to = dst.view(), from = src.view(), index = offsets.view();
  const int64_t limit = src.bytes();
  M().Issue(PIPE_V, api, loc, ranges.list(), {kVectorIssue + count / 5.0, kVectorHead}, [=] {
    constexpr auto kSize = static_cast<int64_t>(sizeof(T));
    for (int64_t i = 0; i < count; ++i) {
      const auto offset =
          ScalarRead<uint32_t>(index + i * 4, api, loc, Format("srcOffset[%lld]", static_cast<long long>(i)));
      const int64_t at = int64_t{base} + offset;
      if (at % kSize != 0 || at + kSize > limit)
        M().Fail("argument", loc,
                 Format("Gather: srcOffset[%lld] + base is %lld in a source of %lld bytes", static_cast<long long>(i),
                        static_cast<long long>(at), static_cast<long long>(limit)));
      Move(to + i * kSize, from + at, kSize);
    }
  });
}

// Transpose.md: one 16x16 matrix of 2-byte elements.
template <class T>
inline void Transpose(const LocalTensor<T>& dst, const LocalTensor<T>& src, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(kOneOf<T, int16_t, uint16_t, half>, "Transpose takes int16_t, uint16_t and half");
  const char* api = "Transpose";
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckKind(api, loc, "src", src, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, 32);
  CheckAlign(api, loc, "src", src, 32);
  Ranges ranges(api, loc);
  ranges.Local("src", src, false, 0, 512);
  ranges.Local("dst", dst, true, 0, 512);
  const View to = dst.view(), from = src.view();
  M().Issue(PIPE_V, api, loc, ranges.list(), {kVectorIssue + 2, kVectorHead}, [to, from] {
    uint8_t data[512], valid[512];
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 16; ++j) {
        std::memcpy(data + (j * 16 + i) * 2, from.data + (i * 16 + j) * 2, 2);
        std::memcpy(valid + (j * 16 + i) * 2, from.valid + (i * 16 + j) * 2, 2);
      }
    std::memcpy(to.data, data, 512);
    std::memcpy(to.valid, valid, 512);
  });
}

}  // namespace AscendC

#endif  // ASCENDC_EMULATOR_VECTOR_H_
