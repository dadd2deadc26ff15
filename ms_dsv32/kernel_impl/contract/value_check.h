// The library's operators, and how a call of each is checked: its shapes, dtypes and attributes as op_check.h does it,
// then the values of its arguments. Ascend's host side checks no values, because its tensors are on the device.
#pragma once

#include <string_view>

#include "ms_dsv32/kernel_impl/contract/call.h"

namespace ms_dsv32 {

struct Operator {
  const op_info::OpInfo& info;
  // Checks the values of the arguments. Throws OpError.
  void (*check)(const Call& call);
  // Checks shapes, dtypes and attributes. Throws OpError.
  Dims (*bind)(const op_info::OpInfo& op, const TensorView* inputs, const AttrSource& attrs) = CheckCall;
  // sparse_attention_step has none: its checks are all that it does.
  bool has_kernel = true;
};

// Throws OpError if no operator has the name.
const Operator& FindOperator(std::string_view name);

}  // namespace ms_dsv32
