// The operators of CANN's own library (libopapi) that MindSpore puts around ours: copies of views and of host tensors,
// casts, fills, arithmetic, joins. They work on any strides, one element after another. Source: documentation of each
// function.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "element.h"
#include "memory.h"
#include "tensor.h"

namespace ascend_virtual {
namespace {

using Function = std::function<Element(const std::vector<Element>&)>;

// The element of a tensor at an index of a shape that it is broadcast to.
char* At(const aclTensor& tensor, const std::vector<int64_t>& index) {
  int64_t at = tensor.offset;
  const size_t skipped = index.size() - tensor.view.size();
  for (size_t i = 0; i < tensor.view.size(); ++i) {
    if (tensor.view[i] != 1) at += index[skipped + i] * tensor.strides[i];
  }
  return Memory::Get().Alias(tensor.data) + at * static_cast<int64_t>(tensor.ElementBytes());
}

bool Broadcasts(const aclTensor& from, const aclTensor& to) {
  if (from.view.size() > to.view.size()) return false;
  const size_t skipped = to.view.size() - from.view.size();
  for (size_t i = 0; i < from.view.size(); ++i) {
    if (from.view[i] != 1 && from.view[i] != to.view[skipped + i]) return false;
  }
  return true;
}

Element Same(const std::vector<Element>& operands) { return operands[0]; }

// Copies a tensor that is one piece of memory on both sides. Returns false if it is not. It exists for weights, which
// are large, because copying by elements is slow.
bool CopyWhole(const aclTensor& to, const aclTensor& from) {
  if (to.dtype != from.dtype || to.view != from.view || !to.Contiguous() || !from.Contiguous()) return false;
  std::memmove(Memory::Get().Alias(to.Begin()), Memory::Get().Alias(from.Begin()), to.Bytes());
  return true;
}

// Writes one value everywhere. Returns false if the tensor is not one piece of memory.
bool FillWhole(const aclTensor& to, const Element& value) {
  if (!to.Contiguous() || to.Elements() == 0) return false;
  char* data = Memory::Get().Alias(to.Begin());
  WriteElement(data, to.dtype, to.ElementBytes(), value);
  for (size_t done = to.ElementBytes(); done < to.Bytes(); done *= 2) {
    std::memcpy(data + done, data, std::min(done, to.Bytes() - done));
  }
  return true;
}

// tensors[out] = function(the other tensors), element by element. The other tensors are broadcast.
int Elementwise(const char* name, std::vector<const aclTensor*> tensors, size_t out, const Function& function,
                uint64_t* workspace_size, aclOpExecutor** executor) {
  auto call = std::make_unique<aclOpExecutor>();
  call->name = name;
  call->tensors = std::move(tensors);
  for (const aclTensor* tensor : call->tensors) {
    const aclTensor* to = call->tensors[out];
    if (Alive(tensor) && Alive(to) && !Broadcasts(*tensor, *to)) {  // Prepare reports tensors that are not alive
      return Fail(ACLNN_ERR_PARAM_INVALID, call->name + ": " + Describe(*tensor) + " for " + Describe(*to));
    }
  }
  call->run = [function, out](const std::vector<aclTensor>& all, char*) -> std::string {
    const aclTensor& to = all[out];
    const auto* plain = function.target<Element (*)(const std::vector<Element>&)>();
    if (plain != nullptr && *plain == Same && CopyWhole(to, all[1 - out])) return "";
    if (all.size() == 1 && FillWhole(to, function({}))) return "";
    std::vector<Element> operands(all.size() - 1);
    ForEach(to.view, [&](const std::vector<int64_t>& index) {
      for (size_t i = 0, k = 0; i < all.size(); ++i) {
        if (i != out) operands[k++] = ReadElement(At(all[i], index), all[i].dtype);
      }
      WriteElement(At(to, index), to.dtype, to.ElementBytes(), function(operands));
    });
    return "";
  };
  return Prepare(std::move(call), workspace_size, executor);
}

// The bits of an integer, because sums and products of unsigned integers may wrap around, and signed ones may not.
uint64_t Bits(const Element& element) { return static_cast<uint64_t>(element.integer); }

// a + alpha * b
Element MultiplyAdd(const Element& a, const Element& alpha, const Element& b) {
  return {a.number + alpha.number * b.number, static_cast<int64_t>(Bits(a) + Bits(alpha) * Bits(b))};
}

Element Negated(const Element& element) { return {-element.number, static_cast<int64_t>(-Bits(element))}; }

Element Multiply(const Element& a, const Element& b) {
  return {a.number * b.number, static_cast<int64_t>(Bits(a) * Bits(b))};
}

// Copies the tensors one after another along an axis to the last tensor.
std::string Concatenate(const std::vector<aclTensor>& tensors, size_t axis) {
  const aclTensor& to = tensors.back();
  int64_t begin = 0;
  for (size_t i = 0; i + 1 < tensors.size(); ++i) {
    ForEach(tensors[i].view, [&](const std::vector<int64_t>& index) {
      std::vector<int64_t> place = index;
      place[axis] += begin;
      WriteElement(At(to, place), to.dtype, to.ElementBytes(), ReadElement(At(tensors[i], index), tensors[i].dtype));
    });
    begin += tensors[i].view[axis];
  }
  return begin == to.view[axis] ? "" : "the parts have " + std::to_string(begin) + " rows together";
}

}  // namespace
}  // namespace ascend_virtual

using namespace ascend_virtual;  // NOLINT: the functions below are this library's whole interface

// aclnn<name> and aclnn<name>GetWorkspaceSize, from its parameters, its tensors in their order, the index of the
// result.
#define OPERATOR(name, parameters, tensors, out, function)                                                           \
  ASCEND_VIRTUAL_API int aclnn##name##GetWorkspaceSize(parameters, uint64_t* workspace_size,                         \
                                                       aclOpExecutor** executor) {                                   \
    return Elementwise("aclnn" #name, tensors, out, function, workspace_size, executor);                             \
  }                                                                                                                  \
  ASCEND_VIRTUAL_API int aclnn##name(void* workspace, uint64_t bytes, aclOpExecutor* executor, aclrtStream stream) { \
    return Launch(workspace, bytes, executor, stream);                                                               \
  }
#define LIST(...) __VA_ARGS__

OPERATOR(Cast, LIST(const aclTensor* self, int, aclTensor* out), LIST({self, out}), 1, Same)
OPERATOR(InplaceCopy, LIST(aclTensor* self, const aclTensor* source), LIST({self, source}), 0, Same)
OPERATOR(InplaceZero, aclTensor* self, {self}, 0, [](const auto&) { return Whole(0); })
OPERATOR(InplaceOne, aclTensor* self, {self}, 0, [](const auto&) { return Whole(1); })
OPERATOR(InplaceFillScalar, LIST(aclTensor* self, const aclScalar* value), {self}, 0,
         [v = value->value](const auto&) { return v; })
OPERATOR(Adds, LIST(const aclTensor* self, const aclScalar* other, const aclScalar* alpha, aclTensor* out),
         LIST({self, out}), 1,
         LIST([b = other->value, a = alpha->value](const auto& x) { return MultiplyAdd(x[0], a, b); }))
OPERATOR(Add, LIST(const aclTensor* self, const aclTensor* other, const aclScalar* alpha, aclTensor* out),
         LIST({self, other, out}), 2, [a = alpha->value](const auto& x) { return MultiplyAdd(x[0], a, x[1]); })
OPERATOR(Sub, LIST(const aclTensor* self, const aclTensor* other, const aclScalar* alpha, aclTensor* out),
         LIST({self, other, out}), 2,
         LIST([a = Negated(alpha->value)](const auto& x) { return MultiplyAdd(x[0], a, x[1]); }))
OPERATOR(Div, LIST(const aclTensor* self, const aclTensor* other, aclTensor* out), LIST({self, other, out}), 2,
         LIST([](const auto& x) { return Floating(x[0].number / x[1].number); }))
OPERATOR(Maximum, LIST(const aclTensor* self, const aclTensor* other, aclTensor* out), LIST({self, other, out}), 2,
         LIST([](const auto& x) { return x[0].number > x[1].number ? x[0] : x[1]; }))
OPERATOR(Minimum, LIST(const aclTensor* self, const aclTensor* other, aclTensor* out), LIST({self, other, out}), 2,
         LIST([](const auto& x) { return x[0].number < x[1].number ? x[0] : x[1]; }))
OPERATOR(Exp, LIST(const aclTensor* self, aclTensor* out), LIST({self, out}), 1,
         [](const auto& x) { return Floating(std::exp(x[0].number)); })
OPERATOR(Log, LIST(const aclTensor* self, aclTensor* out), LIST({self, out}), 1,
         [](const auto& x) { return Floating(std::log(x[0].number)); })
OPERATOR(Muls, LIST(const aclTensor* self, const aclScalar* other, aclTensor* out), LIST({self, out}), 1,
         [b = other->value](const auto& x) { return Multiply(x[0], b); })
OPERATOR(Mul, LIST(const aclTensor* self, const aclTensor* other, aclTensor* out), LIST({self, other, out}), 2,
         LIST([](const auto& x) { return Multiply(x[0], x[1]); }))

ASCEND_VIRTUAL_API int aclnnCatGetWorkspaceSize(const aclTensorList* tensors, int64_t dim, aclTensor* out,
                                                uint64_t* workspace_size, aclOpExecutor** executor) {
  auto call = std::make_unique<aclOpExecutor>();
  call->name = "aclnnCat";
  call->tensors.assign(tensors->tensors.begin(), tensors->tensors.end());
  call->tensors.push_back(out);
  call->first = {0, tensors->tensors.size()};
  const size_t axis = dim < 0 ? dim + out->view.size() : dim;
  call->run = [axis](const std::vector<aclTensor>& all, char*) { return Concatenate(all, axis); };
  return Prepare(std::move(call), workspace_size, executor);
}
ASCEND_VIRTUAL_API int aclnnCat(void* workspace, uint64_t bytes, aclOpExecutor* executor, aclrtStream stream) {
  return Launch(workspace, bytes, executor, stream);
}
