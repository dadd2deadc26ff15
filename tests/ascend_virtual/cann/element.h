// Elements of any dtype, read and written as a double and, so that no bit of an int64 is lost, as an int64.
#ifndef ASCEND_VIRTUAL_ELEMENT_H_
#define ASCEND_VIRTUAL_ELEMENT_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "acl.h"
#include "types.h"  // the emulator's: conversions of half and bfloat16

namespace ascend_virtual {

struct Element {
  double number;
  int64_t integer;
};

template <typename T>
T Load(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

inline Element Whole(int64_t value) { return {static_cast<double>(value), value}; }

// Rounds towards zero, as aclnnCast does.
inline Element Floating(double value) {
  return {value, std::abs(value) < 0x1p63 ? static_cast<int64_t>(value) : INT64_MIN};
}

inline Element ReadElement(const void* from, int dtype) {
  switch (dtype) {
    case ACL_FLOAT:
      return Floating(Load<float>(from));
    case ACL_DOUBLE:
      return Floating(Load<double>(from));
    case ACL_FLOAT16:
      return Floating(ascendc_emulator::HalfValue(Load<uint16_t>(from)));
    case ACL_BF16:
      return Floating(ascendc_emulator::Bfloat16Value(Load<uint16_t>(from)));
    case ACL_INT8:
      return Whole(Load<int8_t>(from));
    case ACL_UINT8:
    case ACL_BOOL:
      return Whole(Load<uint8_t>(from));
    case ACL_INT16:
      return Whole(Load<int16_t>(from));
    case ACL_UINT16:
      return Whole(Load<uint16_t>(from));
    case ACL_INT32:
      return Whole(Load<int32_t>(from));
    case ACL_UINT32:
      return Whole(Load<uint32_t>(from));
    default:
      return Whole(Load<int64_t>(from));
  }
}

// Rounds to the nearest float, half or bfloat16, ties to even. An integer keeps its low bits.
inline void WriteElement(void* to, int dtype, size_t bytes, const Element& value) {
  const auto narrow = static_cast<float>(value.number);
  uint16_t bits = 0;
  switch (dtype) {
    case ACL_FLOAT:
      std::memcpy(to, &narrow, sizeof(narrow));
      break;
    case ACL_DOUBLE:
      std::memcpy(to, &value.number, sizeof(value.number));
      break;
    case ACL_FLOAT16:
      bits = ascendc_emulator::HalfBits(narrow);
      std::memcpy(to, &bits, sizeof(bits));
      break;
    case ACL_BF16:
      bits = ascendc_emulator::Bfloat16Bits(narrow);
      std::memcpy(to, &bits, sizeof(bits));
      break;
    case ACL_BOOL:
      *static_cast<uint8_t*>(to) = value.number != 0;
      break;
    default:
      std::memcpy(to, &value.integer, bytes);  // the machines of this package are little-endian
  }
}

}  // namespace ascend_virtual

#endif  // ASCEND_VIRTUAL_ELEMENT_H_
