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

#include "ms_dsv32/kernel_impl/contract/call.h"
#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_prolog_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_epilog_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_indexer_prolog_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_prolog_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/sparse_attention_step.h"
#include "ms_dsv32/kernel_impl/contract/generated/sparse_flash_attention_quant.h"
#include "ms_dsv32/kernel_impl/contract/op_check.h"
#include "ms_dsv32/kernel_impl/contract/query_tokens.h"
#include "ms_dsv32/kernel_impl/cpu/dispatch.h"
#include "ms_dsv32/kernel_impl/cpu/fp_env.h"
#include "ms_dsv32/kernel_impl/cpu/graph_guard.h"
#include "ms_dsv32/kernel_impl/cpu/kernel_calls.h"
#include "ms_dsv32/kernel_impl/cpu/pack.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

#define MS_DSV32_EXPORT __attribute__((visibility("default")))

namespace ms_dsv32 {
namespace {

using op_info::kBlockSize;
using op_info::OpInfo;
namespace attention = op_info::sparse_flash_attention_quant;
namespace indexer = op_info::lightning_indexer_quant;
namespace prolog = op_info::mla_indexer_prolog_quant;
namespace step = op_info::sparse_attention_step;

std::string At(const char* name, int64_t i) { return std::string(name) + "[" + std::to_string(i) + "]"; }

std::string Half(int64_t end) { return "[0, " + std::to_string(end) + ")"; }

// Every entry is a row of the caches, or -1.
template <int index>
void CheckCacheIndex(const Call& call) {
  const int64_t rows = call.Dim("block_num") * kBlockSize;
  const auto* cache_index = call.Data<const int64_t>(index);
  const int64_t t = call.Dim("t");
  for (int64_t i = 0; i < t; ++i) {
    if (cache_index[i] >= -1 && cache_index[i] < rows) continue;
    call.Refuse(At(call.Name(index), i) + " = " + std::to_string(cache_index[i]) +
                " is outside [0, block_num * block_size) = " + Half(rows) + " and is not -1 (padding)");
  }
}

// kv_act_seqs fits block_table, and query_act_seqs the tokens. Returns for each sequence whether all blocks behind its
// positions are in the cache.
std::vector<bool> CheckSequences(const Call& call, int block_table_index, int kv_act_seqs_index,
                                 int query_act_seqs_index) {
  const auto* block_table = call.Data<const int32_t>(block_table_index);
  const auto* kv_act_seqs = call.Data<const int32_t>(kv_act_seqs_index);
  const int64_t columns = call.Dim("max_blocknum_perbatch");
  const int64_t block_num = call.Dim("block_num");
  const int64_t sequences = call.Dim("b");
  std::vector<bool> complete;
  for (int64_t b = 0; b < sequences; ++b) {
    if (kv_act_seqs[b] < 0 || kv_act_seqs[b] > columns * kBlockSize) {
      call.Refuse(At(call.Name(kv_act_seqs_index), b) + " = " + std::to_string(kv_act_seqs[b]) +
                  " is outside [0, max_blocknum_perbatch * block_size] = [0, " + std::to_string(columns * kBlockSize) +
                  "]");
    }
    const int32_t* row = block_table + b * columns;
    const int64_t used = (kv_act_seqs[b] + kBlockSize - 1) / kBlockSize;
    complete.push_back(std::all_of(row, row + used, [&](int32_t block) { return block >= 0 && block < block_num; }));
  }
  CheckQueryActSeqs(call, query_act_seqs_index);
  return complete;
}

[[noreturn]] void RefuseBlock(const Call& call, int block_table_index, int64_t b, int64_t column) {
  const int32_t block = call.Data<const int32_t>(block_table_index)[b * call.Dim("max_blocknum_perbatch") + column];
  call.Refuse(std::string(call.Name(block_table_index)) + "[" + std::to_string(b) + ", " + std::to_string(column) +
              "] = " + std::to_string(block) + " is outside [0, block_num) = " + Half(call.Dim("block_num")) +
              " behind a position that is read");
}

// The entries that count are positions of their sequence whose blocks are in the cache, or -1.
void CheckSelection(const Call& call) {
  using namespace op_info::sparse_flash_attention_quant;
  const std::vector<bool> complete = CheckSequences(call, kBlockTable, kKvActSeqs, kQueryActSeqs);
  const std::vector<QueryToken> tokens = QueryTokens(call, kKvActSeqs, kQueryActSeqs);
  const auto* topk_indices = call.Data<const int32_t>(kTopkIndices);
  const auto* block_table = call.Data<const int32_t>(kBlockTable);
  const auto* kv_act_seqs = call.Data<const int32_t>(kKvActSeqs);
  const int64_t topk = call.Dim("selected_count");
  const int64_t columns = call.Dim("max_blocknum_perbatch");
  const int64_t block_num = call.Dim("block_num");
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int64_t b = tokens[i].sequence;
    const int32_t* row = topk_indices + static_cast<int64_t>(i) * topk;
    const int64_t n = std::min<int64_t>(tokens[i].visible, topk);
    int32_t low = 0;
    int32_t high = -1;
    for (int64_t k = 0; k < n; ++k) {
      low = std::min(low, row[k]);
      high = std::max(high, row[k]);
    }
    if (low >= -1 && high < kv_act_seqs[b] && complete[static_cast<size_t>(b)]) continue;
    for (int64_t k = 0; k < n; ++k) {
      const int32_t p = row[k];
      if (p == -1) continue;
      if (p < -1 || p >= kv_act_seqs[b]) {
        call.Refuse(std::string("topk_indices[") + std::to_string(i) + ", " + std::to_string(k) +
                    "] = " + std::to_string(p) + " is outside [0, kv_act_seqs[" + std::to_string(b) +
                    "]) = " + Half(kv_act_seqs[b]) + " and is not -1");
      }
      const int32_t block = block_table[b * columns + p / kBlockSize];
      if (block < 0 || block >= block_num) RefuseBlock(call, kBlockTable, b, p / kBlockSize);
    }
  }
}

// The blocks of each sequence that has tokens are in the cache.
void CheckBlocks(const Call& call) {
  using namespace op_info::lightning_indexer_quant;
  const std::vector<bool> complete = CheckSequences(call, kBlockTable, kKvActSeqs, kQueryActSeqs);
  const auto* query_act_seqs = call.Given(kQueryActSeqs) ? call.Data<const int32_t>(kQueryActSeqs) : nullptr;
  const int64_t columns = call.Dim("max_blocknum_perbatch");
  const int64_t block_num = call.Dim("block_num");
  for (size_t b = 0; b < complete.size(); ++b) {
    if (complete[b] || (query_act_seqs != nullptr && query_act_seqs[b] == 0)) continue;
    const int32_t* row = call.Data<const int32_t>(kBlockTable) + static_cast<int64_t>(b) * columns;
    const int32_t* bad =
        std::find_if(row, row + columns, [&](int32_t block) { return block < 0 || block >= block_num; });
    RefuseBlock(call, kBlockTable, static_cast<int64_t>(b), bad - row);
  }
}

// What a step's operators say of its slots, lengths and tables, by their own names, before the first of them writes.
class StepCheck {
 public:
  // The shapes; -1 for an axis that is not known yet. `inputs` are those of sparse_attention_step. Throws OpError.
  StepCheck(const TensorView* inputs, const AttrSource& attrs)
      : prolog_(prolog::kOp), indexer_(indexer::kOp, inputs[step::kQueryActSeqs].rank != TensorView::kAbsent) {
    prolog_.BindInput(prolog::kInputs[prolog::kCacheIndex], inputs[step::kCacheIndex]);
    prolog_.BindInput(prolog::kInputs[prolog::kIpKCache], inputs[step::kKCache]);

    const int64_t tokens[] = {prolog_["t"], op_info::kIdxNHeads};
    indexer_.BindInput(indexer::kInputs[indexer::kWeights], {nullptr, std::size(tokens), tokens});
    constexpr int kShared[][2] = {{indexer::kKCache, step::kKCache},
                                  {indexer::kBlockTable, step::kBlockTable},
                                  {indexer::kKvActSeqs, step::kKvActSeqs},
                                  {indexer::kQueryActSeqs, step::kQueryActSeqs}};
    for (const auto& [of_indexer, of_step] : kShared) {
      if (inputs[of_step].rank != TensorView::kAbsent)
        indexer_.BindInput(indexer::kInputs[of_indexer], inputs[of_step]);
    }

    AttrValue columns;
    if (!attrs.Find(step::kAttrs[0], &columns)) return;
    Dims attention(attention::kOp);
    for (const op_info::AttrInfo& attr : attention::kAttrs) {
      if (std::strcmp(attr.name, step::kAttrs[0].name) == 0) attention.BindAttr(attr, columns);
    }
    attention.BindInput(attention::kInputs[attention::kBlockTable], inputs[step::kBlockTable]);
  }

  // The values, of a call of sparse_attention_step. Throws OpError.
  static void CheckValues(const Call& call) {
    std::vector<std::vector<int64_t>> shapes;
    std::vector<TensorView> inputs;
    for (int i = 0; i < static_cast<int>(step::kOp.input_count); ++i) {
      const std::vector<int64_t>& shape = shapes.emplace_back(call.Shape(step::kInputs[i]));
      inputs.push_back({nullptr, call.Given(i) ? static_cast<int>(shape.size()) : TensorView::kAbsent, shape.data()});
    }
    const NoAttrs attrs;
    const StepCheck known(inputs.data(), attrs);

    void* of_prolog[prolog::kArgCount] = {};
    of_prolog[prolog::kCacheIndex] = call.Data<void>(step::kCacheIndex);
    const std::vector<TensorView> all(prolog::kOp.input_count);
    CheckCacheIndex<prolog::kCacheIndex>(Call(prolog::kOp, of_prolog, all.data(), attrs, known.prolog_));

    void* of_indexer[indexer::kArgCount] = {};
    of_indexer[indexer::kBlockTable] = call.Data<void>(step::kBlockTable);
    of_indexer[indexer::kKvActSeqs] = call.Data<void>(step::kKvActSeqs);
    of_indexer[indexer::kQueryActSeqs] = call.Data<void>(step::kQueryActSeqs);
    std::vector<TensorView> given(indexer::kOp.input_count);
    given[indexer::kQueryActSeqs].rank = inputs[step::kQueryActSeqs].rank;
    CheckBlocks(Call(indexer::kOp, of_indexer, given.data(), attrs, known.indexer_));
  }

 private:
  class NoAttrs final : public AttrSource {
    bool Find(const op_info::AttrInfo&, AttrValue*) const override { return false; }
  };

  Dims prolog_;
  Dims indexer_;
};

Dims BindStep(const OpInfo& op, const TensorView* inputs, const AttrSource& attrs) {
  const StepCheck check(inputs, attrs);
  return CheckCall(op, inputs, attrs);
}

struct Operator {
  const OpInfo& info;
  void (*check)(const Call& call);  // of the arguments' values
  // Checks shapes, dtypes and attributes.
  Dims (*bind)(const OpInfo& op, const TensorView* inputs, const AttrSource& attrs) = CheckCall;
  void (*run)(const Call& call) = RunKernel;
};

constexpr Operator kOperators[] = {
    {op_info::mla_prolog_quant::kOp, CheckCacheIndex<op_info::mla_prolog_quant::kCacheIndex>},
    {op_info::lightning_indexer_prolog_quant::kOp,
     CheckCacheIndex<op_info::lightning_indexer_prolog_quant::kKCacheIndex>},
    {op_info::mla_indexer_prolog_quant::kOp, CheckCacheIndex<op_info::mla_indexer_prolog_quant::kCacheIndex>},
    {op_info::sparse_flash_attention_quant::kOp, CheckSelection},
    {op_info::lightning_indexer_quant::kOp, CheckBlocks},
    {op_info::mla_epilog_quant::kOp, [](const Call&) {}},  // every value is right
    {step::kOp, StepCheck::CheckValues, BindStep, [](const Call&) {}},
};

const Operator& FindOperator(std::string_view name) {
  for (const Operator& op : kOperators) {
    if (name == op.info.name) return op;
  }
  throw OpError(OpError::Kind::kValue, "there is no operator " + std::string(name));
}

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
    op.run(call);
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
