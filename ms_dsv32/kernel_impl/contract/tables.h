// The form of the generated tables in kernel_impl/contract/generated/: what op_info/<op>.json says, for C++.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

namespace ms_dsv32::op_info {

enum class DType : uint8_t { kBFloat16, kFloat16, kFloat32, kInt8, kInt32, kInt64 };

// `shapes` holds the alternatives, separated by '|', their axes by ','; an axis is a sum or product of dims and
// integers. The optional input of an operator is its last; with it shapes with s1 do not occur.
struct ArgInfo {
  const char* name;
  DType dtype;
  const char* shapes;
  bool in_place;
  bool optional;
};

enum class AttrType : uint8_t { kFloat, kInt, kStr, kBool };

inline constexpr double kNoMinimum = -1e308;

// `binds` is the dim whose value the attribute is; `choices` are separated by '|'. Both may be empty. An optional
// attribute may be missing: the inputs' shapes tell what it would say.
struct AttrInfo {
  const char* name;
  AttrType type;
  const char* binds;
  const char* choices;
  double minimum;
  bool optional;
};

// `outputs` are those that the kernel writes apart from its in-place inputs.
struct OpInfo {
  const char* name;
  const char* entry;
  const ArgInfo* inputs;
  size_t input_count;
  const ArgInfo* outputs;
  size_t output_count;
  const AttrInfo* attrs;
  size_t attr_count;
};

}  // namespace ms_dsv32::op_info
