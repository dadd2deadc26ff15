// One call of an operator whose shapes, dtypes and attributes have been checked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ms_dsv32/kernel_impl/contract/op_check.h"

namespace ms_dsv32 {

// One checked call: its arguments by index (inputs, then kernel outputs), its dims and attributes.
class Call {
 public:
  // Throws OpError.
  Call(const op_info::OpInfo& op, void** data, const TensorView* inputs, const AttrSource& attrs)
      : Call(op, data, inputs, attrs, CheckCall(op, inputs, attrs)) {}
  // A call of which `dims` is known already.
  Call(const op_info::OpInfo& op, void** data, const TensorView* inputs, const AttrSource& attrs, const Dims& dims)
      : op_(op), data_(data), attrs_(attrs), dims_(dims) {
    for (size_t i = 0; i < op.input_count; ++i) given_.push_back(inputs[i].rank != TensorView::kAbsent);
  }

  template <typename T>
  T* Data(int index) const {
    return static_cast<T*>(data_[index]);
  }
  // Whether an input came; only the optional one may not.
  bool Given(int index) const { return given_[static_cast<size_t>(index)]; }
  const op_info::OpInfo& Op() const { return op_; }
  // The shape of an input or output.
  std::vector<int64_t> Shape(const op_info::ArgInfo& arg) const { return dims_.Shape(arg); }
  int64_t Dim(std::string_view name) const { return dims_[name]; }
  float Float(std::string_view attr) const { return static_cast<float>(GetAttr(op_, attrs_, attr).number); }
  bool Packed() const { return GetAttr(op_, attrs_, "weight_format").text == "PACKED"; }

  [[noreturn]] void Refuse(const std::string& text) const {
    throw OpError(OpError::Kind::kValue, std::string(op_.name) + ": " + text);
  }
  const char* Name(int index) const { return op_.inputs[index].name; }

 private:
  const op_info::OpInfo& op_;
  void** data_;
  const AttrSource& attrs_;
  Dims dims_;
  std::vector<bool> given_;
};

}  // namespace ms_dsv32
