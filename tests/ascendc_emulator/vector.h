// Vector instructions on UB: element-wise, scalar, reductions, Duplicate, Brcb, Gather, Transpose, Copy.
// 高维切分.md: a repeat is 256 B of the widest operand, in 8 blocks of 32 B with a stride of their own; at most 255
// repeats.
#ifndef ASCENDC_EMULATOR_VECTOR_H_
#define ASCENDC_EMULATOR_VECTOR_H_

#include "copy.h"

namespace ascendc_emulator {

// The elements that take part: the first `count`, or the mask's in each of `repeat` repeats.
struct Lanes {
  bool counted = false;
  int64_t count = 0, repeat = 0;
  uint64_t mask[2] = {0, 0};
  bool nop() const { return counted ? count == 0 : repeat == 0 || (mask[0] | mask[1]) == 0; }
  bool bit(int64_t e) const { return mask[e >> 6] >> (e & 63) & 1; }
  int64_t prefix() const {  // n if the mask is exactly the first n lanes, else -1
    int64_t n = 0;
    while (n < 128 && bit(n)) ++n;
    for (int64_t e = n; e < 128; ++e)
      if (bit(e)) return -1;
    return n;
  }
};
inline Lanes Counted(const char* api, Loc loc, int64_t count) {
  Lanes lanes;
  lanes.counted = true;
  lanes.count = Range(api, loc, "count", count, 0, 196608);
  return lanes;
}
// The mask is in units of the widest operand, `width` bytes.
inline Lanes Masked(const char* api, Loc loc, uint64_t mask, int64_t repeat, int64_t width, int64_t max_repeat = 255) {
  Lanes lanes;
  const int64_t n = Range(api, loc, "mask", static_cast<int64_t>(mask), 0, 256 / std::max<int64_t>(width, 2));
  lanes.repeat = Range(api, loc, "repeatTime", repeat, 0, max_repeat);
  lanes.mask[0] = n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1;
  lanes.mask[1] = n <= 64 ? 0 : n >= 128 ? ~uint64_t{0} : (uint64_t{1} << (n - 64)) - 1;
  return lanes;
}
inline Lanes Masked(const char* api, Loc loc, uint64_t* mask, int64_t repeat, int64_t width, int64_t max_repeat = 255) {
  Lanes lanes;
  lanes.repeat = Range(api, loc, "repeatTime", repeat, 0, max_repeat);
  lanes.mask[0] = mask[0];
  lanes.mask[1] = mask[1];
  if (width == 4 && mask[1] != 0)
    M().Fail("argument", loc, Format("%s: mask[1] must be 0 for 4-byte types, a repeat has 64 of them", api));
  return lanes;
}

// An operand of a vector instruction with its strides in bytes.
template <class T>
struct Operand {
  LocalTensor<T> tensor;
  int64_t blk = 32, rep = 256;
  const char* what = "dst";
  static constexpr int64_t kSize = static_cast<int64_t>(sizeof(T));
  static constexpr int64_t kPerBlock = 32 / kSize;
  int64_t Offset(int64_t repeat, int64_t element) const {
    return repeat * rep + element / kPerBlock * blk + element % kPerBlock * kSize;
  }
};

template <class T>
inline Operand<T> Strided(const char* api, Loc loc, const char* what, const LocalTensor<T>& tensor, int64_t blk,
                          int64_t rep, int64_t blk_max, int64_t rep_max) {
  Operand<T> operand;
  operand.tensor = tensor;
  operand.blk = Range(api, loc, Format("block stride of %s (32 B)", what).c_str(), blk, 0, blk_max) * 32;
  operand.rep = Range(api, loc, Format("repeat stride of %s (32 B)", what).c_str(), rep, 0, rep_max) * 32;
  operand.what = what;
  return operand;
}
template <class T>
inline Operand<T> Whole(const char* what, const LocalTensor<T>& tensor) {
  Operand<T> operand;
  operand.tensor = tensor;
  operand.what = what;
  return operand;
}

// The ranges that an operand touches.
template <class T>
inline void AddRanges(Ranges& ranges, const Operand<T>& o, const Lanes& lanes, bool write) {
  if (lanes.counted) {
    ranges.Local(o.what, o.tensor, write, 0, lanes.count * o.kSize);
    return;
  }
  int64_t e = 0;
  const int64_t all = 128;
  while (e < all) {
    if (!lanes.bit(e)) {
      ++e;
      continue;
    }
    int64_t end = e;
    while (end < all && lanes.bit(end) && (o.blk == 32 || end / o.kPerBlock == e / o.kPerBlock)) ++end;
    ranges.Local(o.what, o.tensor, write, o.Offset(0, e), (end - e) * o.kSize, lanes.repeat, o.rep);
    e = end;
  }
}

// 通用地址重叠约束: within a repeat a source is the destination or does not touch it, and no repeat reads what an
// earlier one wrote. This check is stricter where elements become narrower in place, about which the page is not clear.
// With `accumulates` the second source may be the destination with a repeat stride of 0.
template <class D, class S>
inline void CheckOverlap(const char* api, Loc loc, const Operand<D>& dst, const Operand<S>& src, const Lanes& lanes,
                         bool accumulates) {
  const int64_t d0 = dst.tensor.address(), s0 = src.tensor.address();
  if (lanes.counted) {
    const int64_t dn = lanes.count * dst.kSize, sn = lanes.count * src.kSize;
    if (d0 + dn <= s0 || s0 + sn <= d0) return;
    if (d0 == s0 && dst.kSize == src.kSize) return;
    M().Fail(
        "overlap", loc,
        Format("%s: dst [%lld, %lld) and %s [%lld, %lld) overlap in part", api, static_cast<long long>(d0),
               static_cast<long long>(d0 + dn), src.what, static_cast<long long>(s0), static_cast<long long>(s0 + sn)));
  }
  if (d0 == s0 && dst.kSize == src.kSize && dst.blk == src.blk && dst.rep == src.rep && dst.blk != 0 &&
      (dst.rep != 0 || lanes.repeat == 1))
    return;
  if (dst.blk == 32 && src.blk == 32) {  // quick: whole footprints apart
    const int64_t dn = (lanes.repeat - 1) * dst.rep + 256, sn = (lanes.repeat - 1) * src.rep + 256;
    if (d0 + dn <= s0 || s0 + sn <= d0) return;
  }
  if (accumulates && d0 == s0 && dst.blk == src.blk && (dst.rep == 0 || src.rep == 0)) return;
  // Block by block: operands are aligned to 32 B, so two of one element size meet in whole blocks.
  struct Stamp {
    uint64_t write_call = 0, read_call = 0;
    int32_t write_repeat = 0, read_repeat = 0, read_block = 0;
  };
  thread_local std::vector<Stamp> stamps(196608 / 32);
  thread_local uint64_t call = 0;
  ++call;
  const int64_t widest = std::max(dst.kSize, src.kSize);
  const auto blocks = [&](const auto& operand, auto visit) {
    const int64_t per_block = 32 / operand.kSize, count = 256 / widest / per_block;
    for (int64_t j = 0; j < count; ++j) {
      bool any = false;
      for (int64_t e = j * per_block; e < (j + 1) * per_block; ++e) any = any || lanes.bit(e);
      if (any) visit(j);
    }
  };
  for (int64_t r = 0; r < lanes.repeat; ++r) {
    blocks(src, [&](int64_t j) {
      Stamp& stamp = stamps[static_cast<size_t>((s0 + r * src.rep + j * src.blk) / 32)];
      if (stamp.write_call == call)
        M().Fail("overlap", loc,
                 Format("%s: repeat %lld reads from %s what repeat %d writes to dst", api, static_cast<long long>(r),
                        src.what, stamp.write_repeat));
      stamp.read_call = call;
      stamp.read_repeat = static_cast<int32_t>(r);
      stamp.read_block = static_cast<int32_t>(j);
    });
    blocks(dst, [&](int64_t j) {
      Stamp& stamp = stamps[static_cast<size_t>((d0 + r * dst.rep + j * dst.blk) / 32)];
      if (stamp.read_call == call && stamp.read_repeat == r && (stamp.read_block != j || dst.kSize != src.kSize))
        M().Fail("overlap", loc,
                 Format("%s: dst and %s overlap in part within repeat %lld", api, src.what, static_cast<long long>(r)));
      stamp.write_call = call;
      stamp.write_repeat = static_cast<int32_t>(r);
    });
  }
}

template <class T>
inline bool ElementValid(const uint8_t* valid, int64_t i) {
  const uint8_t* v = valid + i * static_cast<int64_t>(sizeof(T));
  return v[0] && v[sizeof(T) - 1];
}

// Operands that held nothing defined at all. That is not padding, but a missing copy.
struct Seen {
  bool any[2] = {false, false};
};

template <class D, class F>
inline void Chunk(int64_t n, View dst, F f, Seen&) {
  auto* d = reinterpret_cast<D*>(dst.data);
  for (int64_t i = 0; i < n; ++i) d[i] = f();
  std::memset(dst.valid, 1, static_cast<size_t>(n) * sizeof(D));
}
template <class D, class S, class F>
inline void Chunk(int64_t n, View dst, View src, F f, Seen& seen) {
  auto* d = reinterpret_cast<D*>(dst.data);
  auto* s = reinterpret_cast<const S*>(src.data);
  if (AllValid(src.valid, n * static_cast<int64_t>(sizeof(S)))) {
    seen.any[0] = true;
    std::memset(dst.valid, 1, static_cast<size_t>(n) * sizeof(D));
  } else {
    for (int64_t i = 0; i < n; ++i) {
      const bool ok = ElementValid<S>(src.valid, i);
      seen.any[0] |= ok;
      std::memset(dst.valid + i * static_cast<int64_t>(sizeof(D)), ok, sizeof(D));
    }
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) d[i] = f(s[i]);
}
template <class D, class S, class S1, class F>
inline void Chunk(int64_t n, View dst, View src0, View src1, F f, Seen& seen) {
  auto* d = reinterpret_cast<D*>(dst.data);
  auto* a = reinterpret_cast<const S*>(src0.data);
  auto* b = reinterpret_cast<const S*>(src1.data);
  const int64_t bytes = n * static_cast<int64_t>(sizeof(S));
  if (AllValid(src0.valid, bytes) && AllValid(src1.valid, bytes)) {
    seen.any[0] = seen.any[1] = true;
    std::memset(dst.valid, 1, static_cast<size_t>(n) * sizeof(D));
  } else {
    for (int64_t i = 0; i < n; ++i) {
      const bool ok0 = ElementValid<S>(src0.valid, i), ok1 = ElementValid<S>(src1.valid, i);
      seen.any[0] |= ok0;
      seen.any[1] |= ok1;
      std::memset(dst.valid + i * static_cast<int64_t>(sizeof(D)), ok0 && ok1, sizeof(D));
    }
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) d[i] = f(a[i], b[i]);
}

inline void ReportUnseen(const char* api, Loc loc, bool seen, const char* what) {
  if (!seen) M().Note("uninitialised", loc, Format("%s: no value of %s was ever defined", api, what));
}

// One instruction on a destination and up to two sources of one type.
template <class D, class F, class... S>
inline void Elementwise(const char* api, Loc loc, double rate, const Lanes& lanes, bool accumulates, F f,
                        const Operand<D>& dst, const Operand<S>&... src) {
  constexpr int64_t kWidest = std::max({static_cast<int64_t>(sizeof(D)), static_cast<int64_t>(sizeof(S))...});
  constexpr int64_t kChunk = 32 / kWidest;
  CheckKind(api, loc, dst.what, dst.tensor, Kind::kUb);
  CheckAlign(api, loc, dst.what, dst.tensor, 32);
  (CheckKind(api, loc, src.what, src.tensor, Kind::kUb), ...);
  (CheckAlign(api, loc, src.what, src.tensor, 32), ...);
  if (lanes.nop()) return;
  Ranges ranges(api, loc);
  (AddRanges(ranges, src, lanes, false), ...);
  AddRanges(ranges, dst, lanes, true);
  int position = 0;
  (CheckOverlap(api, loc, dst, src, lanes, accumulates && ++position == 2), ...);
  const int64_t repeats = lanes.counted ? (lanes.count * kWidest + 255) / 256 : lanes.repeat;
  const double busy = kVectorIssue + static_cast<double>(repeats * (256 / kWidest)) / rate;
  M().Issue(PIPE_V, api, loc, ranges.list(), {busy, kVectorHead}, [=] {
    Seen seen;
    const View to = dst.tensor.view();
    if (lanes.counted) {
      Chunk<D, S...>(lanes.count, to, src.tensor.view()..., f, seen);
    } else {
      const int64_t prefix = lanes.prefix();
      const bool dense = prefix > 0 && dst.blk == 32 && ((src.blk == 32) && ... && true);
      for (int64_t r = 0; r < lanes.repeat; ++r) {
        if (dense) {
          Chunk<D, S...>(prefix, to + r * dst.rep, (src.tensor.view() + r * src.rep)..., f, seen);
          continue;
        }
        for (int64_t e = 0; e < 256 / kWidest; e += kChunk) {
          int64_t run = 0;
          while (run < kChunk && lanes.bit(e + run)) ++run;
          if (run == kChunk) {
            Chunk<D, S...>(kChunk, to + dst.Offset(r, e), (src.tensor.view() + src.Offset(r, e))..., f, seen);
          } else {
            for (int64_t i = e; i < e + kChunk; ++i)
              if (lanes.bit(i))
                Chunk<D, S...>(1, to + dst.Offset(r, i), (src.tensor.view() + src.Offset(r, i))..., f, seen);
          }
        }
      }
    }
    int k = 0;
    (ReportUnseen(api, loc, seen.any[k++], src.what), ...);
  });
}

// Arithmetic of one element.

// half computes in float and rounds once, which gives the correctly rounded result of each of these operations.
template <class T>
inline float Wide(T v) {
  return static_cast<float>(v);
}
template <class T>
inline T Overflowed(Loc loc, const char* api) {
  M().Note("argument", loc, Format("%s: %s overflows", api, TypeName<T>()));
  return T{};
}

template <class T>
constexpr bool kArithmetic = kOneOf<T, half, float, int16_t, int32_t>;
template <class T>
constexpr bool kFloating = kOneOf<T, half, float>;
template <class T>
constexpr double kFullRate = 256.0 / sizeof(T);

template <class T>
inline auto AddOp(const char* api, Loc loc) {
  return [=](T a, T b) -> T {
    if constexpr (std::is_integral_v<T>) {
      T r;
      return __builtin_add_overflow(a, b, &r) ? Overflowed<T>(loc, api) : r;
    } else {
      return T(Wide(a) + Wide(b));
    }
  };
}
template <class T>
inline auto SubOp(const char* api, Loc loc) {
  return [=](T a, T b) -> T {
    if constexpr (std::is_integral_v<T>) {
      T r;
      return __builtin_sub_overflow(a, b, &r) ? Overflowed<T>(loc, api) : r;
    } else {
      return T(Wide(a) - Wide(b));
    }
  };
}
template <class T>
inline auto MulOp(const char* api, Loc loc) {
  return [=](T a, T b) -> T {
    if constexpr (std::is_integral_v<T>) {
      T r;
      return __builtin_mul_overflow(a, b, &r) ? Overflowed<T>(loc, api) : r;
    } else {
      return T(Wide(a) * Wide(b));
    }
  };
}
template <class T>
inline auto DivOp(const char*, Loc) {
  return [](T a, T b) -> T { return T(Wide(a) / Wide(b)); };
}
template <class T>
inline T MaxOf(T a, T b) {
  if constexpr (std::is_integral_v<T>) return a > b ? a : b;
  return Wide(a) > Wide(b) || Wide(a) != Wide(a) ? a : b;
}
template <class T>
inline T MinOf(T a, T b) {
  if constexpr (std::is_integral_v<T>) return a < b ? a : b;
  return Wide(a) < Wide(b) || Wide(a) != Wide(a) ? a : b;
}
template <class T>
inline auto MaxOp(const char*, Loc) {
  return [](T a, T b) -> T { return MaxOf(a, b); };
}
template <class T>
inline auto MinOp(const char*, Loc) {
  return [](T a, T b) -> T { return MinOf(a, b); };
}
// Rsqrt and Reciprocal do not reach 1e-4 in float on arch 2201. Results here are off by up to 1e-3, so that a kernel
// that needs better ones fails.
template <class T>
inline T Approximate(float exact) {
  if (!std::isfinite(exact)) return T(exact);
  const uint32_t hash = BitCast<uint32_t>(exact) * 2654435761u >> 22;
  return T(exact * (1.0f + (static_cast<float>(hash) - 511.5f) * (1e-3f / 511.5f)));
}

template <class T>
inline bool IsNan(T v) {
  if constexpr (std::is_integral_v<T>)
    return false;
  else
    return Wide(v) != Wide(v);
}

}  // namespace ascendc_emulator

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

namespace ascendc_emulator {

// Reductions.

enum class Reduce { kSum, kMax, kMin };

// The sum of n <= 128 values as the hardware adds them: a binary tree over the whole repeat, neighbours first
// (ReduceDataBlock.md). Each step of half is rounded to half.
template <class T>
inline T TreeSum(T* v, int64_t n) {
  for (; n > 1; n /= 2)
    for (int64_t i = 0; i < n / 2; ++i) v[i] = T(Wide(v[2 * i]) + Wide(v[2 * i + 1]));
  return v[0];
}

template <class T>
struct Best {
  T value{};
  int64_t index = -1;
  void Take(T v, int64_t i, Reduce kind) {
    const bool better =
        index < 0 ||
        (!IsNan(value) && (IsNan(v) || (kind == Reduce::kMax ? Wide(v) > Wide(value) : Wide(v) < Wide(value))));
    if (better) value = v, index = i;
  }
};

// WholeReduce*, BlockReduce*, PairReduceSum: `group` elements of a repeat make one result.
template <class T, class Mask>
inline void ReduceInstruction(const char* api, Loc loc, Reduce kind, int64_t group, const LocalTensor<T>& dst,
                              const LocalTensor<T>& src, Mask mask, int64_t repeat, int64_t dst_rep, int64_t src_blk,
                              int64_t src_rep, AscendC::ReduceOrder order, double rate) {
  static_assert(kFloating<T>, "reductions take half and float on arch 2201");
  using Order = AscendC::ReduceOrder;
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  constexpr int64_t kLanes = 256 / kSize;
  const Lanes lanes = Masked(api, loc, mask, repeat, kSize);
  const bool whole = group == kLanes;
  const bool pair =
      whole && kind != Reduce::kSum && (order == Order::ORDER_VALUE_INDEX || order == Order::ORDER_INDEX_VALUE);
  // ReduceRepeat.md, table 3. ReduceDataBlock.md: a repeat gives 8 results, and dstRepStride counts such groups.
  const int64_t results = kLanes / group;
  const int64_t unit = whole ? (pair                                                       ? 2 * kSize
                                : order == Order::ORDER_ONLY_INDEX && kind != Reduce::kSum ? 4
                                                                                           : kSize)
                             : results * kSize;
  const int64_t written = whole ? (pair                                                       ? 2 * kSize
                                   : order == Order::ORDER_ONLY_INDEX && kind != Reduce::kSum ? 4
                                                                                              : kSize)
                                : kSize;
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckKind(api, loc, "src", src, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, unit);
  CheckAlign(api, loc, "src", src, 32);
  dst_rep = Range(api, loc, "dstRepStride", dst_rep, 0, 65535) * unit;
  Operand<T> source = Strided(api, loc, "src", src, src_blk, src_rep, 65535, 65535);
  if (lanes.nop()) return;
  Ranges ranges(api, loc);
  AddRanges(ranges, source, lanes, false);
  for (int64_t g = 0; g < results; ++g) {
    bool any = false;
    for (int64_t e = g * group; e < (g + 1) * group; ++e) any |= lanes.bit(e);
    // A block without a lane in the mask does not change its result.
    if (any) ranges.Local("dst", dst, true, g * kSize, written, lanes.repeat, dst_rep);
  }
  const View to = dst.view();
  M().Issue(PIPE_V, api, loc, ranges.list(),
            {kVectorIssue + static_cast<double>(lanes.repeat * kLanes) / rate, kVectorHead}, [=] {
              Seen seen;
              for (int64_t r = 0; r < lanes.repeat; ++r) {
                T results_of[kLanes];
                bool valid_of[kLanes], any_of[kLanes];
                int64_t index_of[kLanes];
                for (int64_t g = 0; g < results; ++g) {
                  T values[kLanes];
                  Best<T> best;
                  bool ok = true, any = false;
                  for (int64_t i = 0; i < group; ++i) {
                    const int64_t e = g * group + i;
                    values[i] = T(0.0f);
                    if (!lanes.bit(e)) continue;
                    const View at = source.tensor.view() + source.Offset(r, e);
                    const bool defined = ElementValid<T>(at.valid, 0);
                    ok &= defined;
                    seen.any[0] |= defined;
                    any = true;
                    std::memcpy(&values[i], at.data, sizeof(T));
                    if (kind != Reduce::kSum) best.Take(values[i], e, kind);
                  }
                  results_of[g] = kind == Reduce::kSum ? TreeSum(values, group) : best.value;
                  valid_of[g] = ok;
                  any_of[g] = any;
                  index_of[g] = best.index;
                }
                for (int64_t g = 0; g < results; ++g) {
                  if (!any_of[g]) continue;
                  const View at = to + (r * dst_rep + g * kSize);
                  uint8_t bytes[8] = {};
                  const auto index = static_cast<uint32_t>(std::max<int64_t>(index_of[g], 0));
                  if (pair) {
                    const bool value_first = order == Order::ORDER_VALUE_INDEX;
                    std::memcpy(bytes + (value_first ? 0 : kSize), &results_of[g], sizeof(T));
                    std::memcpy(bytes + (value_first ? kSize : 0), &index, sizeof(T));
                  } else if (whole && kind != Reduce::kSum && order == Order::ORDER_ONLY_INDEX) {
                    std::memcpy(bytes, &index, 4);
                  } else {
                    std::memcpy(bytes, &results_of[g], sizeof(T));
                  }
                  std::memcpy(at.data, bytes, static_cast<size_t>(written));
                  std::memset(at.valid, valid_of[g], static_cast<size_t>(written));
                }
              }
              ReportUnseen(api, loc, seen.any[0], "src");
            });
}

}  // namespace ascendc_emulator

namespace AscendC {

// ReduceRepeat.md (WholeReduce*): one result for each repeat; (value, index) pairs unless the order says otherwise.
template <class T, class Mask>
inline void WholeReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, int32_t repeat,
                           int32_t dst_rep, int32_t src_blk, int32_t src_rep, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("WholeReduceSum", loc, Reduce::kSum, 256 / int64_t{sizeof(T)}, dst, src, mask, repeat, dst_rep,
                    src_blk, src_rep, ReduceOrder::ORDER_ONLY_VALUE, kFullRate<T> / 7);
}
template <class T, class Mask>
inline void WholeReduceMax(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, int32_t repeat,
                           int32_t dst_rep, int32_t src_blk, int32_t src_rep,
                           ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("WholeReduceMax", loc, Reduce::kMax, 256 / int64_t{sizeof(T)}, dst, src, mask, repeat, dst_rep,
                    src_blk, src_rep, order, kFullRate<T> / 7);
}
template <class T, class Mask>
inline void WholeReduceMin(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, int32_t repeat,
                           int32_t dst_rep, int32_t src_blk, int32_t src_rep,
                           ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("WholeReduceMin", loc, Reduce::kMin, 256 / int64_t{sizeof(T)}, dst, src, mask, repeat, dst_rep,
                    src_blk, src_rep, order, kFullRate<T> / 7);
}
// ReduceDataBlock.md (BlockReduce*): one result for each 32 B block. The repeat count comes before the mask.
template <class T, class Mask>
inline void BlockReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t repeat, Mask mask,
                           int32_t dst_rep, int32_t src_blk, int32_t src_rep, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("BlockReduceSum", loc, Reduce::kSum, 32 / int64_t{sizeof(T)}, dst, src, mask, repeat, dst_rep,
                    src_blk, src_rep, ReduceOrder::ORDER_ONLY_VALUE, kFullRate<T>);
}
template <class T, class Mask>
inline void BlockReduceMax(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t repeat, Mask mask,
                           int32_t dst_rep, int32_t src_blk, int32_t src_rep, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("BlockReduceMax", loc, Reduce::kMax, 32 / int64_t{sizeof(T)}, dst, src, mask, repeat, dst_rep,
                    src_blk, src_rep, ReduceOrder::ORDER_ONLY_VALUE, kFullRate<T>);
}
template <class T, class Mask>
inline void BlockReduceMin(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t repeat, Mask mask,
                           int32_t dst_rep, int32_t src_blk, int32_t src_rep, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("BlockReduceMin", loc, Reduce::kMin, 32 / int64_t{sizeof(T)}, dst, src, mask, repeat, dst_rep,
                    src_blk, src_rep, ReduceOrder::ORDER_ONLY_VALUE, kFullRate<T>);
}
// ReducePairElem.md (PairReduceSum)
template <class T, class Mask>
inline void PairReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t repeat, Mask mask,
                          int32_t dst_rep, int32_t src_blk, int32_t src_rep, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("PairReduceSum", loc, Reduce::kSum, 2, dst, src, mask, repeat, dst_rep, src_blk, src_rep,
                    ReduceOrder::ORDER_ONLY_VALUE, kFullRate<T>);
}

// ReduceSum.md: a tree inside each repeat, the repeats one after another.
template <class T>
inline void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work, int32_t count,
                      Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(kFloating<T>, "ReduceSum takes half and float on arch 2201");
  const char* api = "ReduceSum";
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  constexpr int64_t kLanes = 256 / kSize;
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckKind(api, loc, "src", src, Kind::kUb);
  CheckKind(api, loc, "sharedTmpBuffer", work, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, kSize);
  CheckAlign(api, loc, "src", src, 32);
  const int64_t n = Range(api, loc, "count", count, 0, 196608);
  if (n == 0) return;
  Ranges ranges(api, loc);
  ranges.Local("src", src, false, 0, n * kSize);
  ranges.Local("dst", dst, true, 0, kSize);
  const View to = dst.view(), from = src.view();
  M().Issue(PIPE_V, api, loc, ranges.list(),
            {kVectorIssue + static_cast<double>((n + kLanes - 1) / kLanes) * 7, kVectorHead}, [=] {
              T sum = T(0.0f);
              for (int64_t at = 0; at < n; at += kLanes) {
                T values[kLanes];
                std::fill(values, values + kLanes, T(0.0f));
                std::memcpy(values, from.data + at * kSize, static_cast<size_t>(std::min(kLanes, n - at) * kSize));
                const T part = TreeSum(values, kLanes);
                sum = at == 0 ? part : T(Wide(sum) + Wide(part));
              }
              const bool ok = AllValid(from.valid, n * kSize);
              ReportUnseen(api, loc, AnyValid(from.valid, n * kSize), "src");
              std::memcpy(to.data, &sum, sizeof(T));
              std::memset(to.valid, ok, sizeof(T));
            });
}
// ReduceMax.md. With calIndex the index follows the value, in its type's bits.
template <class T>
inline void ReduceMax(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work, int32_t count,
                      bool cal_index = false, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(kFloating<T>, "ReduceMax takes half and float on arch 2201");
  const char* api = "ReduceMax";
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  constexpr int64_t kLanes = 256 / kSize;
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckKind(api, loc, "src", src, Kind::kUb);
  CheckKind(api, loc, "sharedTmpBuffer", work, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, 2 * kSize);
  CheckAlign(api, loc, "src", src, 32);
  CheckAlign(api, loc, "sharedTmpBuffer", work, 32);
  const int64_t n = Range(api, loc, "count", count, 0, 196608);
  if (n == 0) return;
  Ranges ranges(api, loc);
  ranges.Local("src", src, false, 0, n * kSize);
  const int64_t pairs = (std::max<int64_t>(n / kLanes, 1) * 2 + 32 / kSize - 1) / (32 / kSize) * (32 / kSize) * kSize;
  ranges.Local("sharedTmpBuffer", work, true, 0, pairs);
  ranges.Local("dst", dst, true, 0, cal_index ? 2 * kSize : kSize);
  const View to = dst.view(), from = src.view(), scratch = work.view();
  M().Issue(PIPE_V, api, loc, ranges.list(),
            {kVectorIssue + static_cast<double>((n + kLanes - 1) / kLanes) * 8, kVectorHead}, [=] {
              Best<T> best;
              for (int64_t i = 0; i < n; ++i) {
                T v;
                std::memcpy(&v, from.data + i * kSize, sizeof(T));
                best.Take(v, i, Reduce::kMax);
              }
              const bool ok = AllValid(from.valid, n * kSize);
              ReportUnseen(api, loc, AnyValid(from.valid, n * kSize), "src");
              std::memset(scratch.valid, 0, static_cast<size_t>(pairs));
              std::memcpy(to.data, &best.value, sizeof(T));
              std::memset(to.valid, ok, sizeof(T));
              if (cal_index) {
                const auto index = static_cast<uint32_t>(best.index);
                std::memcpy(to.data + kSize, &index, sizeof(T));
                std::memset(to.valid + kSize, ok, sizeof(T));
              }
            });
}

}  // namespace AscendC

#endif  // ASCENDC_EMULATOR_VECTOR_H_
