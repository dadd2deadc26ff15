// Checks a call against its operator's tables and infers the outputs' shapes. Every path into a kernel goes through
// here: MindSpore's shape inference (graph compilation), the kernel's start, and Python's validation before a call.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "ms_dsv32/kernel_impl/contract/tables.h"

namespace ms_dsv32 {

// What a caller did wrong. The kind tells Python which exception to raise; the text is the same on every path.
class OpError : public std::runtime_error {
 public:
  enum class Kind : int { kValue = 1, kType = 2 };
  OpError(Kind kind, const std::string& text) : std::runtime_error(text), kind(kind) {}
  const Kind kind;
};

// An attribute's value as it came; `type` tells which member holds it.
struct AttrValue {
  op_info::AttrType type = op_info::AttrType::kInt;
  double number = 0;
  int64_t integer = 0;  // also a bool
  std::string text;
};

// Where attributes come from: a MindSpore primitive, or the C interface.
class AttrSource {
 public:
  virtual ~AttrSource() = default;
  // Returns false if there is no such attribute.
  virtual bool Find(const op_info::AttrInfo& info, AttrValue* value) const = 0;
};

// A tensor of a call. An axis of -1 is not known yet; `dtype` is MindSpore's name, or null where it is not known. The
// optional input that is left out has no rank.
struct TensorView {
  static constexpr int kAbsent = -1;
  const char* dtype = nullptr;
  int rank = 0;
  const int64_t* shape = nullptr;
};

// The values of the dims that a call's shapes and attributes determine.
// Attributes and arguments are given as the entries of that operator's tables; an object belongs to the thread that
// made it.
class Dims {
 public:
  // `ragged`: the optional input is given, so that sequences may have different numbers of tokens.
  explicit Dims(const op_info::OpInfo& op, bool ragged = false);

  // Checks the value of an attribute, and the dim that it binds. Throws OpError.
  void BindAttr(const op_info::AttrInfo& attr, const AttrValue& value);
  // Checks one input's dtype and shape and binds the dims that it determines. Throws OpError.
  void BindInput(const op_info::ArgInfo& arg, const TensorView& tensor);

  // The dim's value, or -1 if it is not known.
  int64_t operator[](std::string_view dim) const;
  // The shape that an argument must have, the first of its alternatives; -1 for an unknown axis.
  std::vector<int64_t> Shape(const op_info::ArgInfo& arg) const;

 private:
  struct Tables;  // of the operator, parsed

  std::string Describe(const op_info::ArgInfo& arg) const;
  void DeriveProducts(const op_info::ArgInfo& arg, const TensorView& tensor);

  const op_info::OpInfo& op_;
  const Tables& tables_;
  const bool ragged_;
  std::vector<int64_t> values_;  // by index into op_info::kDims
};

// Checks attributes and inputs in the contract's order; `inputs` has op.input_count entries.
Dims CheckCall(const op_info::OpInfo& op, const TensorView* inputs, const AttrSource& attrs);

// The value of an attribute that CheckCall has accepted.
AttrValue GetAttr(const op_info::OpInfo& op, const AttrSource& attrs, std::string_view name);

const char* DTypeName(op_info::DType dtype);

}  // namespace ms_dsv32
