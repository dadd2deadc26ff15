// Cast with exactly the pairs and rounding modes of arch 2201 (Cast.md, tables of Atlas A2/A3), and the DEQSCALE
// register.
#ifndef ASCENDC_EMULATOR_CAST_H_
#define ASCENDC_EMULATOR_CAST_H_

#include "arithmetic.h"
#include "elementwise.h"

namespace ascendc_emulator {

constexpr uint32_t Mode(AscendC::RoundMode mode) { return 1u << static_cast<int>(mode); }
constexpr uint32_t kNone = Mode(AscendC::RoundMode::CAST_NONE);
constexpr uint32_t kOdd = Mode(AscendC::RoundMode::CAST_ODD);
constexpr uint32_t kFive = Mode(AscendC::RoundMode::CAST_RINT) | Mode(AscendC::RoundMode::CAST_FLOOR) |
                           Mode(AscendC::RoundMode::CAST_CEIL) | Mode(AscendC::RoundMode::CAST_ROUND) |
                           Mode(AscendC::RoundMode::CAST_TRUNC);

// Rounding modes of a cast from S to D, or 0 if arch 2201 has no such cast.
template <class D, class S>
constexpr uint32_t CastModes() {
  if constexpr (kOneOf<S, int8_t, uint8_t> && std::is_same_v<D, half>) return kNone;
  if constexpr (std::is_same_v<S, int16_t> && std::is_same_v<D, half>) return kFive | kNone;
  if constexpr (std::is_same_v<S, int16_t> && std::is_same_v<D, float>) return kNone;
  if constexpr (std::is_same_v<S, half> && kOneOf<D, int8_t, uint8_t>) return kFive | kNone;
  if constexpr (std::is_same_v<S, half> && kOneOf<D, int16_t, int32_t>) return kFive;
  if constexpr (std::is_same_v<S, half> && std::is_same_v<D, float>) return kNone;
  if constexpr (std::is_same_v<S, bfloat16_t> && std::is_same_v<D, int32_t>) return kFive;
  if constexpr (std::is_same_v<S, bfloat16_t> && std::is_same_v<D, float>) return kNone;
  if constexpr (std::is_same_v<S, int32_t> && kOneOf<D, int16_t, int64_t>) return kNone;
  if constexpr (std::is_same_v<S, int32_t> && std::is_same_v<D, half>)
    return kFive | kNone | kOdd;  // the mode has no effect
  if constexpr (std::is_same_v<S, int32_t> && std::is_same_v<D, float>) return kFive | kNone;
  if constexpr (std::is_same_v<S, float> && kOneOf<D, int16_t, int32_t, int64_t, float, bfloat16_t>) return kFive;
  if constexpr (std::is_same_v<S, float> && std::is_same_v<D, half>) return kFive | kNone | kOdd;
  if constexpr (std::is_same_v<S, int64_t> && std::is_same_v<D, int32_t>) return kNone;
  if constexpr (std::is_same_v<S, int64_t> && std::is_same_v<D, float>) return kFive;
  return 0;
}

inline Rounding RoundingOf(AscendC::RoundMode mode) {
  switch (mode) {
    case AscendC::RoundMode::CAST_FLOOR:
      return Rounding::kFloor;
    case AscendC::RoundMode::CAST_CEIL:
      return Rounding::kCeil;
    case AscendC::RoundMode::CAST_ROUND:
      return Rounding::kRound;
    case AscendC::RoundMode::CAST_TRUNC:
      return Rounding::kTrunc;
    case AscendC::RoundMode::CAST_ODD:
      return Rounding::kOdd;
    default:
      return Rounding::kRint;
  }
}

inline double RoundToInteger(double v, Rounding rounding) {
  switch (rounding) {
    case Rounding::kFloor:
      return std::floor(v);
    case Rounding::kCeil:
      return std::ceil(v);
    case Rounding::kRound:
      return std::round(v);  // half away from zero
    case Rounding::kTrunc:
      return std::trunc(v);
    default:
      return std::nearbyint(v);  // half to even
  }
}
// Converts to an integer type. Values and infinities saturate, and NaN becomes 0.
template <class D>
inline D Saturate(double v) {
  if (v != v) return 0;
  constexpr auto kLow = static_cast<double>(std::numeric_limits<D>::min());
  constexpr auto kHigh = static_cast<double>(std::numeric_limits<D>::max());
  if (v <= kLow) return std::numeric_limits<D>::min();
  if (v >= kHigh) return std::numeric_limits<D>::max();
  return static_cast<D>(v);
}
// Nearest float in a rounding mode of a value that double holds exactly or rounds harmlessly.
inline float FloatFromInteger(int64_t v, Rounding rounding) {
  const bool negative = v < 0;
  const uint64_t magnitude = negative ? uint64_t{0} - static_cast<uint64_t>(v) : static_cast<uint64_t>(v);
  if (magnitude >> 24 == 0) return static_cast<float>(v);
  const int shift = 40 - __builtin_clzll(magnitude);
  const float result = std::ldexp(static_cast<float>(ShiftRight(magnitude, shift, negative, rounding)), shift);
  return negative ? -result : result;
}

template <class S>
inline double AsDouble(S v) {
  if constexpr (std::is_same_v<S, bfloat16_t>)
    return static_cast<double>(Bfloat16Value(v.bits));
  else
    return static_cast<double>(v);
}

template <class D, class S>
inline D CastElement(S v, Rounding rounding, float deq_scale) {
  if constexpr (std::is_integral_v<D> && std::is_integral_v<S>) {
    if constexpr (sizeof(D) >= sizeof(S))
      return static_cast<D>(v);
    else
      return v < std::numeric_limits<D>::min()   ? std::numeric_limits<D>::min()
             : v > std::numeric_limits<D>::max() ? std::numeric_limits<D>::max()
                                                 : static_cast<D>(v);
  } else if constexpr (std::is_integral_v<D>) {
    return Saturate<D>(RoundToInteger(AsDouble(v), rounding));
  } else if constexpr (std::is_same_v<D, half>) {
    half result;
    if constexpr (std::is_same_v<S, int32_t>)
      result.bits = HalfBits(static_cast<float>(v) * deq_scale);
    else
      result.bits = HalfBits(static_cast<float>(v), rounding);
    return result;
  } else if constexpr (std::is_same_v<D, bfloat16_t>) {
    bfloat16_t result;
    result.bits = Bfloat16Bits(v, rounding);
    return result;
  } else {  // to float
    if constexpr (std::is_same_v<S, float>) {
      const float rounded = static_cast<float>(RoundToInteger(static_cast<double>(v), rounding));
      return rounded == 0.0f ? 0.0f : rounded;  // -0 becomes +0
    } else if constexpr (std::is_integral_v<S>) {
      return FloatFromInteger(v, rounding);
    } else {
      return static_cast<float>(AsDouble(v));
    }
  }
}

template <class D, class S>
inline void CastInstruction(Loc loc, const Lanes& lanes, AscendC::RoundMode mode, const Operand<D>& dst,
                            const Operand<S>& src) {
  constexpr uint32_t kModes = CastModes<D, S>();
  static_assert(kModes != 0, "arch 2201 has no Cast between these types");
  if (!(kModes & Mode(mode)))
    M().Fail("argument", loc,
             Format("Cast: %s to %s does not exist with RoundMode %d on arch 2201", TypeName<S>(), TypeName<D>(),
                    static_cast<int>(mode)));
  float scale = 0;
  if constexpr (std::is_same_v<S, int32_t> && std::is_same_v<D, half>) {
    if (t_core->deq_scale < 0)
      M().Fail("argument", loc, "Cast: int32_t to half multiplies by DEQSCALE, which nobody set (SetDeqScale)");
    scale = HalfValue(static_cast<uint16_t>(t_core->deq_scale));
  }
  const Rounding rounding = RoundingOf(mode);
  Elementwise(
      "Cast", loc, 64.0 * 4 / std::max(sizeof(D), sizeof(S)), lanes, false,
      [rounding, scale](S v) { return CastElement<D, S>(v, rounding, scale); }, dst, src);
}

}  // namespace ascendc_emulator

namespace AscendC {

template <class D, class S>
inline void Cast(const LocalTensor<D>& dst, const LocalTensor<S>& src, const RoundMode& mode, uint32_t count,
                 Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  CastInstruction(loc, Counted("Cast", loc, count), mode, Whole("dst", dst), Whole("src", src));
}
// The mask counts the wider of both types.
template <class D, class S, class Mask>
inline void Cast(const LocalTensor<D>& dst, const LocalTensor<S>& src, const RoundMode& mode, Mask mask, int64_t repeat,
                 const UnaryRepeatParams& p, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  CastInstruction(loc, Masked("Cast", loc, mask, repeat, std::max(sizeof(D), sizeof(S))), mode,
                  Strided("Cast", loc, "dst", dst, p.dstBlkStride.value, p.dstRepStride.value, 65535, 255),
                  Strided("Cast", loc, "src", src, p.srcBlkStride.value, p.srcRepStride.value, 65535, 255));
}

// SetDeqScale.md, the form for int32_t to half. An instruction takes the scale with it when it is issued, because the
// page's example has nothing between this call and the Cast.
inline void SetDeqScale(half scale) { ascendc_emulator::t_core->deq_scale = scale.bits; }

}  // namespace AscendC

#endif  // ASCENDC_EMULATOR_CAST_H_
