// Arithmetic of one element: the operations that vector instructions apply, and the types that have them.
#ifndef ASCENDC_EMULATOR_ARITHMETIC_H_
#define ASCENDC_EMULATOR_ARITHMETIC_H_

#include "tensor.h"

namespace ascendc_emulator {

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

#endif  // ASCENDC_EMULATOR_ARITHMETIC_H_
