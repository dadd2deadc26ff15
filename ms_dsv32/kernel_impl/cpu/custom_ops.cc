// The library's entry points: for MindSpore's ahead-of-time Custom operators, and a C interface for everybody else
// (tests, benchmarks, Python's validation). Both check a call completely, values included, before a kernel writes
// anything.
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <string>
#include <vector>

#include "ms_dsv32/kernel_impl/contract/op_check.h"
#include "ms_dsv32/kernel_impl/contract/value_check.h"
#include "ms_dsv32/kernel_impl/cpu/dispatch.h"
#include "ms_dsv32/kernel_impl/cpu/fp_env.h"
#include "ms_dsv32/kernel_impl/cpu/graph_guard.h"
#include "ms_dsv32/kernel_impl/cpu/kernel_calls.h"
#include "ms_dsv32/kernel_impl/cpu/pack.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

#define MS_DSV32_EXPORT __attribute__((visibility("default")))

namespace ms_dsv32 {
namespace {

using op_info::OpInfo;

// Those of a call; `given` tells whether the optional one is among them.
std::vector<TensorView> Inputs(const OpInfo& op, const int* ranks, const int64_t* const* shapes,
                               const char* const* dtypes, bool given) {
  std::vector<TensorView> inputs(op.input_count);
  for (size_t i = 0; i < op.input_count; ++i) {
    const bool absent = op.inputs[i].optional && !given;
    inputs[i] = absent ? TensorView{nullptr, TensorView::kAbsent, nullptr}
                       : TensorView{dtypes ? dtypes[i] : nullptr, ranks[i], shapes[i]};
  }
  return inputs;
}

// MindSpore passes None as a tensor of this dtype, and so does Python.
std::vector<TensorView> Inputs(const OpInfo& op, const int* ranks, const int64_t* const* shapes,
                               const char* const* dtypes) {
  return Inputs(op, ranks, shapes, dtypes, std::strcmp(dtypes[op.input_count - 1], "none") != 0);
}

std::vector<std::vector<int64_t>> OutputShapes(const OpInfo& op, const Dims& dims) {
  std::vector<std::vector<int64_t>> shapes;
  for (size_t i = 0; i < op.output_count; ++i) shapes.push_back(dims.Shape(op.outputs[i]));
  return shapes;
}

}  // namespace

// MindSpore's view of a primitive's attributes. Only the order of the virtual functions matters: it is that of class
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

// A kernel sizes its scratch by the number of threads: that must not change until the kernel is done. Calls share the
// lock. Whoever changes the number goes before calls that come later, unlike with std::shared_mutex, whose writers wait
// for as long as calls overlap.
class ThreadCountMutex {
 public:
  void lock() { pthread_rwlock_wrlock(&lock_); }
  void unlock() { pthread_rwlock_unlock(&lock_); }
  void lock_shared() { pthread_rwlock_rdlock(&lock_); }
  void unlock_shared() { pthread_rwlock_unlock(&lock_); }

 private:
  pthread_rwlock_t lock_ = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
};

ThreadCountMutex thread_count_mutex;

// A child of fork() would inherit the mutex as held by calls whose threads it does not have. It cannot be unlocked
// there either: glibc takes the caller's thread id, another one in the child, for that of the writer. So the child
// makes a fresh one.
const int at_fork = pthread_atfork(nullptr, nullptr, [] { new (&thread_count_mutex) ThreadCountMutex; });

void Run(const Operator& op, void** data, const std::vector<TensorView>& inputs, const AttrSource& attrs) {
  const std::shared_lock lock(thread_count_mutex);
  const cpu::DefaultFpEnv fp_env;
  const Call call(op.info, data, inputs.data(), attrs, op.bind(op.info, inputs.data(), attrs));
  op.check(call);
  try {
    if (op.has_kernel) RunKernel(call);
  } catch (const std::bad_alloc& e) {  // before the kernel has written anything
    throw std::runtime_error(std::string(op.info.name) + ": " + e.what());
  }
}

// Python's, which has a failed graph compiled again (ops/_graphs.py); null while there is nobody to tell.
std::atomic<void (*)(const char* graph)> failure_handler{nullptr};

// Runs `body` for a node of a graph. A node without the attribute is in no graph, or Python does not know which.
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
    Run(op, data, Inputs(op.info, ranks, shapes, dtypes), attrs);
    return 0;
  });
}

std::vector<std::vector<int64_t>> InferFromMindSpore(const char* name, int* ranks, int64_t** shapes, AotExtra* extra) {
  return InGraph(extra, [&] {
    const Operator& op = FindOperator(name);
    // Set by ops/_custom.py: the names of in-place arguments that are no Parameters.
    if (extra->HasAttr("plain_caches") && InRunTimeBranch()) {
      throw OpError(OpError::Kind::kValue,
                    std::string(name) + ": " + extra->GetAttrStr("plain_caches") +
                        " must be a Parameter inside a branch or loop whose condition is known only at "
                        "run time: MindSpore copies a plain tensor there, and the write would be lost");
    }
    // MindSpore tells no dtypes here, and leaves None out: ops/_custom.py sets an attribute of the optional input's
    // name.
    const bool given = extra->HasAttr(op.info.inputs[op.info.input_count - 1].name);
    const std::vector<TensorView> inputs = Inputs(op.info, ranks, shapes, nullptr, given);
    return OutputShapes(op.info, op.bind(op.info, inputs.data(), MindSporeAttrs(extra)));
  });
}

// An attribute through the C interface; mirrored by _Attr of kernel_impl/__init__.py.
struct CAttr {
  const char* name;
  int type;  // op_info::AttrType
  double number;
  int64_t integer;
  const char* text;
};

class CAttrs : public AttrSource {
 public:
  CAttrs(int count, const CAttr* attrs) : count_(count), attrs_(attrs) {}
  bool Find(const op_info::AttrInfo& info, AttrValue* value) const override {
    for (int i = 0; i < count_; ++i) {
      const CAttr& attr = attrs_[i];
      if (std::strcmp(attr.name, info.name) != 0) continue;
      *value = {static_cast<op_info::AttrType>(attr.type), attr.number, attr.integer, attr.text ? attr.text : ""};
      return true;
    }
    return false;
  }

 private:
  int count_;
  const CAttr* attrs_;
};

constexpr int kFailed = 3;

// Runs `body`; an exception becomes a status (OpError::Kind, or kFailed) and a text.
template <typename Body>
int Guard(char* message, size_t message_size, const Body& body) {
  const auto report = [&](int status, const char* text) {
    std::strncpy(message, text, message_size - 1);
    message[message_size - 1] = '\0';
    return status;
  };
  try {
    body();
    return 0;
  } catch (const OpError& e) {
    return report(static_cast<int>(e.kind), e.what());
  } catch (const std::exception& e) {
    return report(kFailed, e.what());
  }
}

}  // namespace
}  // namespace ms_dsv32

#if defined(__clang__)
#pragma clang diagnostic ignored \
    "-Wreturn-type-c-linkage"  // MindSpore's interface returns std::vector through C linkage
#endif

#define MS_DSV32_KERNEL(Entry, name)                                                                              \
  extern "C" MS_DSV32_EXPORT int Entry(int count, void** data, int* ranks, int64_t** shapes, const char** dtypes, \
                                       void* /*stream*/, void* extra) {                                           \
    return ms_dsv32::RunFromMindSpore(name, count, data, ranks, shapes, dtypes, extra);                           \
  }
#define MS_DSV32_OPERATOR(Entry, name)                                                                         \
  MS_DSV32_KERNEL(Entry, name)                                                                                 \
  extern "C" MS_DSV32_EXPORT std::vector<std::vector<int64_t>> Entry##InferShape(int* ranks, int64_t** shapes, \
                                                                                 ms_dsv32::AotExtra* extra) {  \
    return ms_dsv32::InferFromMindSpore(name, ranks, shapes, extra);                                           \
  }
// MindSpore wants one vector from an operator with one output.
#define MS_DSV32_OPERATOR_ONE_OUTPUT(Entry, name)                                                 \
  MS_DSV32_KERNEL(Entry, name)                                                                    \
  extern "C" MS_DSV32_EXPORT std::vector<int64_t> Entry##InferShape(int* ranks, int64_t** shapes, \
                                                                    ms_dsv32::AotExtra* extra) {  \
    return ms_dsv32::InferFromMindSpore(name, ranks, shapes, extra)[0];                           \
  }

MS_DSV32_OPERATOR(MlaPrologQuant, "mla_prolog_quant")
MS_DSV32_OPERATOR(LightningIndexerPrologQuant, "lightning_indexer_prolog_quant")
MS_DSV32_OPERATOR(MlaIndexerPrologQuant, "mla_indexer_prolog_quant")
MS_DSV32_OPERATOR(SparseFlashAttentionQuant, "sparse_flash_attention_quant")
MS_DSV32_OPERATOR_ONE_OUTPUT(LightningIndexerQuant, "lightning_indexer_quant")
MS_DSV32_OPERATOR_ONE_OUTPUT(MlaEpilogQuant, "mla_epilog_quant")
MS_DSV32_OPERATOR_ONE_OUTPUT(SparseAttentionStep, "sparse_attention_step")

// The C interface. Functions that can fail return 0, or a status and a text (see Guard).
extern "C" {

// Chooses the kernels and reads the number of threads; fails if the environment asks for what is not there.
MS_DSV32_EXPORT int ms_dsv32_init(char* message, size_t message_size) {
  return ms_dsv32::Guard(message, message_size, [] {
    ms_dsv32::cpu::Kernels();
    ms_dsv32::cpu::NumThreads();
  });
}

MS_DSV32_EXPORT const char* ms_dsv32_isa() { return ms_dsv32::cpu::Kernels().isa; }

MS_DSV32_EXPORT const char* ms_dsv32_isas(int supported_only) { return ms_dsv32::cpu::IsaNames(supported_only != 0); }

MS_DSV32_EXPORT int ms_dsv32_thread_count() { return ms_dsv32::cpu::NumThreads(); }

MS_DSV32_EXPORT void ms_dsv32_set_thread_count(int count) {
  const std::unique_lock lock(ms_dsv32::thread_count_mutex);
  ms_dsv32::cpu::SetNumThreads(count);
}

// Has `handler` told the attribute "graph" of each node of a MindSpore graph that fails; null: nobody. It is called on
// the thread that the node runs on, before the error goes on.
MS_DSV32_EXPORT void ms_dsv32_set_failure_handler(void (*handler)(const char* graph)) {
  ms_dsv32::failure_handler = handler;
}

// Checks the inputs of a call and writes the output shapes, each to a row of `out_shapes` (8 wide), and their ranks.
MS_DSV32_EXPORT int ms_dsv32_check(const char* name, const int* ranks, const int64_t* const* shapes,
                                   const char* const* dtypes, int attr_count, const ms_dsv32::CAttr* attrs,
                                   int64_t (*out_shapes)[8], int* out_ranks, char* message, size_t message_size) {
  using namespace ms_dsv32;
  return Guard(message, message_size, [&] {
    const Operator& op = FindOperator(name);
    const Dims dims = op.bind(op.info, Inputs(op.info, ranks, shapes, dtypes).data(), CAttrs(attr_count, attrs));
    const auto outputs = OutputShapes(op.info, dims);
    for (size_t i = 0; i < outputs.size(); ++i) {
      out_ranks[i] = static_cast<int>(outputs[i].size());
      std::copy(outputs[i].begin(), outputs[i].end(), out_shapes[i]);
    }
  });
}

// Runs a kernel; `data` holds the inputs, then the outputs, whose shapes ms_dsv32_check tells.
MS_DSV32_EXPORT int ms_dsv32_call(const char* name, const int* ranks, const int64_t* const* shapes,
                                  const char* const* dtypes, int attr_count, const ms_dsv32::CAttr* attrs, void** data,
                                  char* message, size_t message_size) {
  using namespace ms_dsv32;
  return Guard(message, message_size, [&] {
    const Operator& op = FindOperator(name);
    Run(op, data, Inputs(op.info, ranks, shapes, dtypes), CAttrs(attr_count, attrs));
  });
}

// Packs `batch` row-major [k, n] weights of 1-byte or 2-byte elements, see pack.h.
MS_DSV32_EXPORT int ms_dsv32_pack(const void* weight, void* packed, int element_size, int64_t batch, int64_t k,
                                  int64_t n, char* message, size_t message_size) {
  return ms_dsv32::Guard(message, message_size, [&] {
    if (element_size == 1) {
      ms_dsv32::cpu::PackInt8(static_cast<const int8_t*>(weight), batch, k, n, static_cast<int8_t*>(packed));
    } else {
      ms_dsv32::cpu::PackBf16(static_cast<const uint16_t*>(weight), batch, k, n, static_cast<uint16_t*>(packed));
    }
  });
}

}  // extern "C"
