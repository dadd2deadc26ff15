#include "ms_dsv32/kernel_impl/contract/op_check.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <sstream>

#include "ms_dsv32/kernel_impl/contract/generated/dims.h"

namespace ms_dsv32 {
namespace {

using op_info::ArgInfo;
using op_info::AttrInfo;
using op_info::AttrType;
using op_info::kDims;
using op_info::OpInfo;

constexpr int64_t kUnknown = -1;
constexpr int64_t kUnknownRank = -2;  // CANN's and MindSpore's mark: a shape of this one axis stands for any rank
constexpr size_t kDimCount = std::size(kDims);

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0;;) {
    const size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

size_t DimIndex(std::string_view name) {
  for (size_t i = 0; i < kDimCount; ++i) {
    if (name == kDims[i].name) return i;
  }
  throw std::logic_error("op_info: no dim " + std::string(name));  // the generator checks this
}

std::string Join(const std::vector<std::string>& parts) {
  std::string out = "(";
  for (size_t i = 0; i < parts.size(); ++i) out += (i ? ", " : "") + parts[i];
  return out + (parts.size() == 1 ? ",)" : ")");  // as Python writes a tuple
}

// A dim, or the integer `number` where `dim` is kDimCount.
struct Term {
  explicit Term(std::string_view text) {
    if (text[0] >= '0' && text[0] <= '9') {
      number = std::strtoll(std::string(text).c_str(), nullptr, 10);
    } else {
      dim = DimIndex(text);
    }
  }
  int64_t Value(const int64_t* values) const { return dim == kDimCount ? number : values[dim]; }
  std::string Symbol() const { return dim == kDimCount ? std::to_string(number) : kDims[dim].name; }

  size_t dim = kDimCount;
  int64_t number = 0;
};

// Terms of one operator, '+' or '*' (also for a single term).
struct Axis {
  explicit Axis(std::string_view text) : sum(text.find('+') != text.npos) {
    for (const std::string_view term : Split(text, sum ? '+' : '*')) terms.emplace_back(term);
  }
  bool sum;
  std::vector<Term> terms;
};

using Axes = std::vector<Axis>;

// Whether the axes name s1, which sequences of different numbers of tokens do not have.
bool HasS1(const Axes& axes) {
  const size_t s1 = DimIndex("s1");
  return std::any_of(axes.begin(), axes.end(), [=](const Axis& axis) {
    return std::any_of(axis.terms.begin(), axis.terms.end(), [=](const Term& term) { return term.dim == s1; });
  });
}

// The alternatives of an argument.
std::vector<Axes> ParseShapes(const ArgInfo& arg) {
  std::vector<Axes> shapes;
  for (const std::string_view shape : Split(arg.shapes, '|')) {
    Axes& axes = shapes.emplace_back();
    for (const std::string_view axis : Split(shape, ',')) axes.emplace_back(axis);
  }
  return shapes;
}

// A dim that is the product of two others.
struct Product {
  size_t dim;
  size_t first;
  size_t second;
};

std::vector<Product> ParseProducts() {
  std::vector<Product> products;
  for (size_t i = 0; i < kDimCount; ++i) {
    if (kDims[i].equals[0]) products.push_back({i, DimIndex(kDims[i].equals[0]), DimIndex(kDims[i].equals[1])});
  }
  return products;
}

// Sizes that 64 bits do not hold become the largest number that they hold, which no tensor has.
int64_t Plus(int64_t a, int64_t b) {
  int64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<int64_t>::max() : sum;
}
int64_t Times(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<int64_t>::max() : product;
}

int64_t Evaluate(const Axis& axis, const int64_t* values) {
  int64_t result = axis.sum ? 0 : 1;
  for (const Term& term : axis.terms) {
    const int64_t value = term.Value(values);
    if (value == kUnknown) return kUnknown;
    result = axis.sum ? Plus(result, value) : Times(result, value);
  }
  return result;
}

// The axis as a reader wants it: its value if that is known, else the product with its known parts filled in.
std::string Text(const Axis& axis, const int64_t* values) {
  if (const int64_t value = Evaluate(axis, values); value != kUnknown) return std::to_string(value);
  std::string out;
  for (const Term& term : axis.terms) {
    const int64_t value = term.Value(values);
    out += (out.empty() ? "" : axis.sum ? " + " : " * ");
    out += value == kUnknown ? term.Symbol() : std::to_string(value);
  }
  return out;
}

std::string Symbols(const Axis& axis) {
  std::string out;
  for (const Term& term : axis.terms) out += (out.empty() ? "" : axis.sum ? " + " : " * ") + term.Symbol();
  return out;
}

std::string Number(double value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

std::string Bounds(const op_info::DimInfo& dim) {
  return "[" + std::to_string(dim.min) + ", " + (dim.max < 0 ? "inf)" : std::to_string(dim.max) + "]");
}

bool InBounds(const op_info::DimInfo& dim, int64_t value) {
  return value >= dim.min && (dim.max < 0 || value <= dim.max);
}

const char* TypeName(AttrType type) {
  switch (type) {
    case AttrType::kFloat:
      return "float";
    case AttrType::kInt:
      return "int";
    case AttrType::kStr:
      return "str";
    case AttrType::kBool:
      return "bool";
  }
  return "?";
}

}  // namespace

const char* DTypeName(op_info::DType dtype) {
  switch (dtype) {
    case op_info::DType::kBFloat16:
      return "bfloat16";
    case op_info::DType::kFloat16:
      return "float16";
    case op_info::DType::kFloat32:
      return "float32";
    case op_info::DType::kInt8:
      return "int8";
    case op_info::DType::kInt32:
      return "int32";
    case op_info::DType::kInt64:
      return "int64";
  }
  return "?";
}

// An operator's tables with their texts parsed, which costs more than the checks themselves.
struct Dims::Tables {
  explicit Tables(const OpInfo& op) : op(op) {
    for (size_t i = 0; i < op.input_count; ++i) any.push_back(ParseShapes(op.inputs[i]));
    for (size_t i = 0; i < op.output_count; ++i) any.push_back(ParseShapes(op.outputs[i]));
    ragged = any;
    for (std::vector<Axes>& shapes : ragged)
      shapes.erase(std::remove_if(shapes.begin(), shapes.end(), HasS1), shapes.end());
    for (size_t i = 0; i < op.attr_count; ++i) {
      binds.push_back(*op.attrs[i].binds ? DimIndex(op.attrs[i].binds) : kDimCount);
    }
  }

  // Parsed once by each thread, so there is no lock, which a child of fork() could inherit locked.
  static const Tables& Of(const OpInfo& op) {
    static thread_local std::deque<Tables> parsed;
    for (const Tables& tables : parsed) {
      if (&tables.op == &op) return tables;
    }
    return parsed.emplace_back(op);
  }

  // The alternatives of an argument in a call that is ragged or not.
  const std::vector<Axes>& Shapes(const ArgInfo& arg, bool is_ragged) const {
    const std::less<const ArgInfo*> before;
    const bool input = !before(&arg, op.inputs) && before(&arg, op.inputs + op.input_count);
    const auto& all = is_ragged ? ragged : any;
    return all[static_cast<size_t>(input ? &arg - op.inputs
                                         : &arg - op.outputs + static_cast<ptrdiff_t>(op.input_count))];
  }

  const OpInfo& op;
  std::vector<std::vector<Axes>> any, ragged;  // of the inputs, then of the outputs
  std::vector<size_t> binds;                   // kDimCount: none
  std::vector<Product> products = ParseProducts();
};

Dims::Dims(const OpInfo& op, bool ragged)
    : op_(op), tables_(Tables::Of(op)), ragged_(ragged), values_(kDimCount, kUnknown) {
  for (size_t i = 0; i < kDimCount; ++i) {
    if (kDims[i].min == kDims[i].max) values_[i] = kDims[i].min;
  }
}

int64_t Dims::operator[](std::string_view dim) const { return values_[DimIndex(dim)]; }

std::vector<int64_t> Dims::Shape(const ArgInfo& arg) const {
  std::vector<int64_t> shape;
  for (const Axis& axis : tables_.Shapes(arg, ragged_)[0]) shape.push_back(Evaluate(axis, values_.data()));
  return shape;
}

// "(t, h) = (t, 7168) or (b, s1, h) = (b, s1, 7168)"
std::string Dims::Describe(const ArgInfo& arg) const {
  std::string out;
  for (const Axes& axes : tables_.Shapes(arg, ragged_)) {
    std::vector<std::string> symbols;
    std::vector<std::string> values;
    for (const Axis& axis : axes) {
      symbols.push_back(Symbols(axis));
      values.push_back(Text(axis, values_.data()));
    }
    out += (out.empty() ? "" : " or ") + Join(symbols);
    if (symbols != values) out += " = " + Join(values);
  }
  return out;
}

void Dims::BindAttr(const AttrInfo& attr, const AttrValue& value) {
  const auto name = [&] { return std::string(op_.name) + ": " + attr.name; };
  if (value.type != attr.type) {
    throw OpError(OpError::Kind::kType, name() + " must be " + TypeName(attr.type) + ", got " + TypeName(value.type));
  }
  const auto refuse = [&](const std::string& expected, const std::string& got) {
    throw OpError(OpError::Kind::kValue, name() + " must be " + expected + ", got " + got);
  };
  if (attr.type == AttrType::kFloat) {
    if (!std::isfinite(value.number)) refuse("finite", Number(value.number));
    if (!std::isfinite(static_cast<float>(value.number))) refuse("finite as float32", Number(value.number));
    if (value.number < attr.minimum) refuse("at least " + Number(attr.minimum), Number(value.number));
  }
  if (*attr.choices) {
    std::string choices;
    for (const std::string_view choice : Split(attr.choices, '|')) {
      if (value.text == choice) return;
      choices += (choices.empty() ? "'" : " or '") + std::string(choice) + "'";
    }
    refuse(choices, "'" + value.text + "'");
  }
  if (const size_t i = tables_.binds[static_cast<size_t>(&attr - op_.attrs)]; i != kDimCount) {
    if (!InBounds(kDims[i], value.integer)) {
      const bool fixed = kDims[i].min == kDims[i].max;
      refuse(std::string(attr.binds) + (fixed ? " = " + std::to_string(kDims[i].min) : " in " + Bounds(kDims[i])),
             std::to_string(value.integer));
    }
    values_[i] = value.integer;
  }
}

void Dims::BindInput(const ArgInfo& arg, const TensorView& tensor) {
  const auto name = [&] { return std::string(op_.name) + ": " + arg.name; };
  if (tensor.dtype != nullptr && std::strcmp(tensor.dtype, DTypeName(arg.dtype)) != 0) {
    throw OpError(OpError::Kind::kType, name() + " must be " + DTypeName(arg.dtype) + ", got " + tensor.dtype);
  }
  const auto refuse = [&](const std::string& why = "") {
    std::vector<std::string> got;
    for (int i = 0; i < tensor.rank; ++i) got.push_back(std::to_string(tensor.shape[i]));
    throw OpError(OpError::Kind::kValue, name() + " has shape " + Join(got) + ", expected " + Describe(arg) + why);
  };

  if (tensor.rank == 1 && tensor.shape[0] == kUnknownRank) return;
  const Axes* axes = nullptr;
  for (const Axes& shape : tables_.Shapes(arg, ragged_)) {
    if (shape.size() == static_cast<size_t>(tensor.rank)) axes = &shape;
  }
  if (axes == nullptr) return refuse(ragged_ ? std::string(" with ") + op_.inputs[op_.input_count - 1].name : "");

  // This argument's own bindings; kept apart so that an error shows the earlier ones.
  int64_t bound[kDimCount];
  std::copy(values_.begin(), values_.end(), bound);
  for (size_t i = 0; i < axes->size(); ++i) {
    const int64_t size = tensor.shape[i];
    if (size == kUnknown) continue;
    const Axis& axis = (*axes)[i];
    if (const int64_t want = Evaluate(axis, bound); want != kUnknown) {
      if (want != size) refuse();
      continue;
    }
    // One unknown factor is solved for; with more, a later argument decides.
    int64_t known = 1;
    size_t unknown = kDimCount;
    int unknown_count = 0;
    for (const Term& term : axis.terms) {
      const int64_t value = term.Value(bound);
      if (value == kUnknown) {
        unknown = term.dim;
        ++unknown_count;
      } else {
        known = Times(known, value);
      }
    }
    if (axis.sum || unknown_count != 1) continue;
    if (known == 0 ? size != 0 : size % known != 0) refuse();
    if (known == 0) continue;
    if (!InBounds(kDims[unknown], size / known)) {
      refuse(std::string(" with ") + kDims[unknown].name + " in " + Bounds(kDims[unknown]));
    }
    bound[unknown] = size / known;
  }
  std::copy(bound, bound + kDimCount, values_.begin());
  DeriveProducts(arg, tensor);
}

// t = b * s1: derives the one that is missing. All sequences of such a call have s1 tokens.
void Dims::DeriveProducts(const ArgInfo& arg, const TensorView& tensor) {
  if (ragged_) return;
  for (const Product& p : tables_.products) {
    int64_t& product = values_[p.dim];
    int64_t& first = values_[p.first];
    int64_t& second = values_[p.second];
    if (first == kUnknown || (product == kUnknown && second == kUnknown)) continue;
    if (product == kUnknown) product = Times(first, second);
    if (second == kUnknown && (first == 0 ? product == 0 : product % first == 0)) second = first ? product / first : 0;
    if (second != kUnknown && product == Times(first, second)) continue;
    std::vector<std::string> got;
    for (int axis = 0; axis < tensor.rank; ++axis) got.push_back(std::to_string(tensor.shape[axis]));
    throw OpError(OpError::Kind::kValue,
                  std::string(op_.name) + ": " + arg.name + " has shape " + Join(got) + ", so " + kDims[p.first].name +
                      " = " + std::to_string(first) + "; expected " + kDims[p.dim].name + " = " + kDims[p.first].name +
                      " * " + kDims[p.second].name + ", but " + kDims[p.dim].name + " = " + std::to_string(product));
  }
}

Dims CheckCall(const OpInfo& op, const TensorView* inputs, const AttrSource& attrs) {
  const auto is_given = [&](size_t i) { return !op.inputs[i].optional || inputs[i].rank != TensorView::kAbsent; };
  Dims dims(op, op.inputs[op.input_count - 1].optional && is_given(op.input_count - 1));
  for (size_t i = 0; i < op.attr_count; ++i) {
    AttrValue value;
    if (!attrs.Find(op.attrs[i], &value)) {
      if (op.attrs[i].optional) continue;
      throw OpError(OpError::Kind::kType, std::string(op.name) + ": attribute " + op.attrs[i].name + " is missing");
    }
    dims.BindAttr(op.attrs[i], value);
  }
  for (size_t i = 0; i < op.input_count; ++i) {
    if (is_given(i)) dims.BindInput(op.inputs[i], inputs[i]);
  }
  return dims;
}

AttrValue GetAttr(const OpInfo& op, const AttrSource& attrs, std::string_view name) {
  for (size_t i = 0; i < op.attr_count; ++i) {
    AttrValue value;
    if (name == op.attrs[i].name && attrs.Find(op.attrs[i], &value)) return value;
  }
  throw std::logic_error("op_info: " + std::string(op.name) + " has no attribute " + std::string(name));
}

}  // namespace ms_dsv32
