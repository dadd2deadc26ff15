// The library's entries for MindSpore's ahead-of-time Custom operators. A kernel's entry checks the whole call, values
// included, before anything is written.
#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "ms_dsv32/kernel_impl/contract/generated/operators.h"
#include "ms_dsv32/kernel_impl/cpu/c_api.h"
#include "ms_dsv32/kernel_impl/cpu/graph_guard.h"
#include "ms_dsv32/kernel_impl/cpu/run_call.h"

namespace ms_dsv32 {

// MindSpore's view of a primitive's attributes. Only the order of the virtual functions matters. It is that of class
// AotExtra in MindSpore 2.10's custom_aot_extra.h, which cannot be included without all of MindSpore's headers.
class AotExtra {
 public:
  virtual ~AotExtra() = default;
  virtual bool HasAttr(std::string name) = 0;
  virtual bool GetAttrBool(std::string name) = 0;
  virtual int64_t GetAttrInt(std::string name) = 0;
  virtual float GetAttrFloat(std::string name) = 0;
  virtual std::string GetAttrStr(std::string name) = 0;
};

namespace {

class MindSporeAttrs : public AttrSource {
 public:
  explicit MindSporeAttrs(void* extra) : extra_(static_cast<AotExtra*>(extra)) {}
  bool Find(const op_info::AttrInfo& info, AttrValue* value) const override {
    if (!extra_->HasAttr(info.name)) return false;
    value->type = info.type;  // Python has checked it: MindSpore aborts on a getter of another type
    switch (info.type) {
      case op_info::AttrType::kFloat:
        value->number = static_cast<double>(extra_->GetAttrFloat(info.name));
        break;
      case op_info::AttrType::kInt:
        value->integer = extra_->GetAttrInt(info.name);
        break;
      case op_info::AttrType::kStr:
        value->text = extra_->GetAttrStr(info.name);
        break;
      case op_info::AttrType::kBool:
        value->integer = extra_->GetAttrBool(info.name);
        break;
    }
    return true;
  }

 private:
  AotExtra* extra_;
};

// Python's handler, which makes MindSpore compile a failed graph again (ops/_graphs.py), or null.
std::atomic<void (*)(const char* graph)> failure_handler{nullptr};

// Runs `body` for a node of a graph. A node without the attribute is in no graph, or in one that Python does not know.
template <typename Body>
auto InGraph(AotExtra* extra, const Body& body) {
  try {
    return body();
  } catch (...) {
    auto* const tell = failure_handler.load();
    if (tell != nullptr && extra->HasAttr("graph")) tell(extra->GetAttrStr("graph").c_str());
    throw;
  }
}

int RunFromMindSpore(const char* name, int count, void** data, int* ranks, int64_t** shapes, const char** dtypes,
                     void* extra) {
  return InGraph(static_cast<AotExtra*>(extra), [&] {
    const Operator& op = FindOperator(name);
    const int expected = static_cast<int>(op.info.input_count + op.info.output_count);
    if (count != expected) {
      throw OpError(OpError::Kind::kType, std::string(name) + ": got " + std::to_string(count) + " tensors, expected " +
                                              std::to_string(expected));
    }
    const MindSporeAttrs attrs(extra);
    RunCall(op, data, Inputs(op.info, ranks, shapes, dtypes), attrs);
    return 0;
  });
}

// The shapes of the outputs; of an operator with one output MindSpore wants one vector.
template <size_t kOutputs>
auto InferFromMindSpore(const char* name, int* ranks, int64_t** shapes, AotExtra* extra) {
  return InGraph(extra, [&] {
    const Operator& op = FindOperator(name);
    // ops/_custom.py sets this attribute to the names of in-place arguments that are not Parameters.
    if (extra->HasAttr("plain_caches") && InRunTimeBranch()) {
      throw OpError(OpError::Kind::kValue,
                    std::string(name) + ": " + extra->GetAttrStr("plain_caches") +
                        " must be a Parameter inside a branch or loop whose condition is known only at "
                        "run time: MindSpore copies a plain tensor there, and the write would be lost");
    }
    // MindSpore tells no dtypes here, and leaves None out. So ops/_custom.py sets an attribute with the optional
    // input's name if that is given.
    const bool given = extra->HasAttr(op.info.inputs[op.info.input_count - 1].name);
    const std::vector<TensorView> inputs = Inputs(op.info, ranks, shapes, nullptr, given);
    auto outputs = OutputShapes(op.info, op.bind(op.info, inputs.data(), MindSporeAttrs(extra)));
    if constexpr (kOutputs == 1) {
      return std::move(outputs[0]);
    } else {
      return outputs;
    }
  });
}

}  // namespace
}  // namespace ms_dsv32

#if defined(__clang__)
#pragma clang diagnostic ignored \
    "-Wreturn-type-c-linkage"  // MindSpore's interface returns std::vector through C linkage
#endif

#define MS_DSV32_ENTRY(Entry, name)                                                                               \
  extern "C" MS_DSV32_EXPORT int Entry(int count, void** data, int* ranks, int64_t** shapes, const char** dtypes, \
                                       void* /*stream*/, void* extra) {                                           \
    return ms_dsv32::RunFromMindSpore(#name, count, data, ranks, shapes, dtypes, extra);                          \
  }                                                                                                               \
  extern "C" MS_DSV32_EXPORT auto Entry##InferShape(int* ranks, int64_t** shapes, ms_dsv32::AotExtra* extra) {    \
    return ms_dsv32::InferFromMindSpore<ms_dsv32::op_info::name::kOp.output_count>(#name, ranks, shapes, extra);  \
  }
MS_DSV32_KERNELS(MS_DSV32_ENTRY)
MS_DSV32_INTERNAL(MS_DSV32_ENTRY)

extern "C" void ms_dsv32_set_failure_handler(void (*handler)(const char* graph)) {
  ms_dsv32::failure_handler = handler;
}
