// The library's entry points: for MindSpore's ahead-of-time Custom operators, and a C interface for everybody else
// (tests, benchmarks, Python's validation). Both check a call completely, values included, before a kernel writes
// anything.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "ms_dsv32/kernel_impl/cpu/dispatch.h"
#include "ms_dsv32/kernel_impl/cpu/fp_env.h"
#include "ms_dsv32/kernel_impl/cpu/graph_guard.h"
#include "ms_dsv32/kernel_impl/cpu/lightning_indexer_prolog_quant.h"
#include "ms_dsv32/kernel_impl/cpu/lightning_indexer_quant.h"
#include "ms_dsv32/kernel_impl/cpu/mla_indexer_prolog_quant.h"
#include "ms_dsv32/kernel_impl/cpu/mla_prolog_quant.h"
#include "ms_dsv32/kernel_impl/cpu/op_check.h"
#include "ms_dsv32/kernel_impl/cpu/pack.h"
#include "ms_dsv32/kernel_impl/cpu/sparse_flash_attention_quant.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"
#include "ms_dsv32/kernel_impl/generated/dims.h"
#include "ms_dsv32/kernel_impl/generated/lightning_indexer_prolog_quant.h"
#include "ms_dsv32/kernel_impl/generated/lightning_indexer_quant.h"
#include "ms_dsv32/kernel_impl/generated/mla_indexer_prolog_quant.h"
#include "ms_dsv32/kernel_impl/generated/mla_prolog_quant.h"
#include "ms_dsv32/kernel_impl/generated/sparse_flash_attention_quant.h"

#define MS_DSV32_EXPORT __attribute__((visibility("default")))

namespace ms_dsv32 {
namespace {

using op_info::kBlockSize;
using op_info::OpInfo;

// One checked call: its arguments by index (inputs, then kernel outputs), its dims and attributes.
class Call {
 public:
  // Throws OpError.
  Call(const OpInfo& op, void** data, const TensorView* inputs, const AttrSource& attrs)
      : op_(op), data_(data), attrs_(attrs), dims_(CheckCall(op, inputs, attrs)) {}

  template <typename T>
  T* Data(int index) const {
    return static_cast<T*>(data_[index]);
  }
  int64_t Dim(std::string_view name) const { return dims_[name]; }
  float Float(std::string_view attr) const { return static_cast<float>(GetAttr(op_, attrs_, attr).number); }
  bool Packed() const { return GetAttr(op_, attrs_, "weight_format").text == "PACKED"; }

  [[noreturn]] void Refuse(const std::string& text) const {
    throw OpError(OpError::Kind::kValue, std::string(op_.name) + ": " + text);
  }
  const char* Name(int index) const { return op_.inputs[index].name; }

 private:
  const OpInfo& op_;
  void** data_;
  const AttrSource& attrs_;
  Dims dims_;
};

std::string At(const char* name, int64_t i) { return std::string(name) + "[" + std::to_string(i) + "]"; }

std::string Half(int64_t end) { return "[0, " + std::to_string(end) + ")"; }

// Every entry is a row of the caches, or -1.
void CheckCacheIndex(const Call& call, int index) {
  const int64_t rows = call.Dim("block_num") * kBlockSize;
  const auto* cache_index = call.Data<const int64_t>(index);
  for (int64_t i = 0; i < call.Dim("t"); ++i) {
    if (cache_index[i] >= -1 && cache_index[i] < rows) continue;
    call.Refuse(At(call.Name(index), i) + " = " + std::to_string(cache_index[i]) +
                " is outside [0, block_num * block_size) = " + Half(rows) + " and is not -1 (padding)");
  }
}

// kv_act_seqs fits block_table. Returns for each sequence whether all blocks behind its positions are in the cache.
std::vector<bool> CheckSequences(const Call& call, int block_table_index, int kv_act_seqs_index) {
  const auto* block_table = call.Data<const int32_t>(block_table_index);
  const auto* kv_act_seqs = call.Data<const int32_t>(kv_act_seqs_index);
  const int64_t columns = call.Dim("max_blocknum_perbatch");
  const int64_t block_num = call.Dim("block_num");
  std::vector<bool> complete;
  for (int64_t b = 0; b < call.Dim("b"); ++b) {
    if (kv_act_seqs[b] < 0 || kv_act_seqs[b] > columns * kBlockSize) {
      call.Refuse(At(call.Name(kv_act_seqs_index), b) + " = " + std::to_string(kv_act_seqs[b]) +
                  " is outside [0, max_blocknum_perbatch * block_size] = [0, " + std::to_string(columns * kBlockSize) +
                  "]");
    }
    const int32_t* row = block_table + b * columns;
    const int64_t used = (kv_act_seqs[b] + kBlockSize - 1) / kBlockSize;
    complete.push_back(std::all_of(row, row + used, [&](int32_t block) { return block >= 0 && block < block_num; }));
  }
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
  const std::vector<bool> complete = CheckSequences(call, kBlockTable, kKvActSeqs);
  const auto* topk_indices = call.Data<const int32_t>(kTopkIndices);
  const auto* block_table = call.Data<const int32_t>(kBlockTable);
  const auto* kv_act_seqs = call.Data<const int32_t>(kKvActSeqs);
  const int64_t topk = call.Dim("selected_count");
  const int64_t s1 = call.Dim("s1");
  for (int64_t i = 0; i < call.Dim("t"); ++i) {
    const int64_t b = i / s1;
    const int32_t* row = topk_indices + i * topk;
    const int64_t visible = std::max<int64_t>(kv_act_seqs[b] - s1 + 1 + i % s1, 0);
    const int64_t n = std::min(visible, topk);
    int32_t low = 0;
    int32_t high = -1;
    for (int64_t k = 0; k < n; ++k) {
      low = std::min(low, row[k]);
      high = std::max(high, row[k]);
    }
    if (low >= -1 && high < kv_act_seqs[b] && complete[b]) continue;
    for (int64_t k = 0; k < n; ++k) {
      const int32_t p = row[k];
      if (p == -1) continue;
      if (p < -1 || p >= kv_act_seqs[b]) {
        call.Refuse(std::string("topk_indices[") + std::to_string(i) + ", " + std::to_string(k) +
                    "] = " + std::to_string(p) + " is outside [0, kv_act_seqs[" + std::to_string(b) +
                    "]) = " + Half(kv_act_seqs[b]) + " and is not -1");
      }
      const int32_t block = block_table[b * call.Dim("max_blocknum_perbatch") + p / kBlockSize];
      if (block < 0 || block >= call.Dim("block_num")) RefuseBlock(call, kBlockTable, b, p / kBlockSize);
    }
  }
}

// The inputs of mla_prolog_quant; mla_indexer_prolog_quant's begin with the same ones.
cpu::MlaPrologQuantParams MlaInputs(const Call& call, const char* epsilon_cq, const char* epsilon_ckv) {
  using namespace op_info::mla_prolog_quant;
  static_assert(static_cast<int>(kKScaleCache) == op_info::mla_indexer_prolog_quant::kMlaKScaleCache);
  cpu::MlaPrologQuantParams params{};
  params.t = call.Dim("t");
  params.n_q = call.Dim("n_q");
  params.packed = call.Packed();
  params.token_x = call.Data<const uint16_t>(kTokenX);
  params.w_dq = call.Data<const uint16_t>(kWDq);
  params.w_uq_qr = call.Data<const int8_t>(kWUqQr);
  params.dequant_scale = call.Data<const float>(kDequantScale);
  params.w_uk = call.Data<const uint16_t>(kWUk);
  params.w_dkv_kr = call.Data<const uint16_t>(kWDkvKr);
  params.gamma_cq = call.Data<const uint16_t>(kGammaCq);
  params.gamma_ckv = call.Data<const uint16_t>(kGammaCkv);
  params.cos = call.Data<const uint16_t>(kCos);
  params.sin = call.Data<const uint16_t>(kSin);
  params.cache_index = call.Data<const int64_t>(kCacheIndex);
  params.epsilon_cq = call.Float(epsilon_cq);
  params.epsilon_ckv = call.Float(epsilon_ckv);
  params.kv_cache = call.Data<int8_t>(kKvCache);
  params.kr_cache = call.Data<uint16_t>(kKrCache);
  params.k_scale_cache = call.Data<float>(kKScaleCache);
  return params;
}

void RunMlaPrologQuant(const Call& call) {
  using namespace op_info::mla_prolog_quant;
  CheckCacheIndex(call, kCacheIndex);
  cpu::MlaPrologQuantParams params = MlaInputs(call, "epsilon_cq", "epsilon_ckv");
  params.q_norm = call.Data<int8_t>(kQNormOut);
  params.q_norm_scale = call.Data<float>(kQNormScaleOut);
  params.q_nope = call.Data<uint16_t>(kQueryNopeOut);
  params.q_rope = call.Data<uint16_t>(kQueryRopeOut);
  cpu::Kernels().mla_prolog_quant(params);
}

void RunLightningIndexerPrologQuant(const Call& call) {
  using namespace op_info::lightning_indexer_prolog_quant;
  CheckCacheIndex(call, kKCacheIndex);
  cpu::LightningIndexerPrologQuantParams params{};
  params.t = call.Dim("t");
  params.packed = call.Packed();
  params.x = call.Data<const uint16_t>(kX);
  params.q_norm = call.Data<const int8_t>(kQNorm);
  params.q_norm_scale = call.Data<const float>(kQNormScale);
  params.w_qb = call.Data<const int8_t>(kWQb);
  params.w_qb_scale = call.Data<const float>(kWQbScale);
  params.wk = call.Data<const uint16_t>(kWk);
  params.w_proj = call.Data<const uint16_t>(kWProj);
  params.ln_gamma_k = call.Data<const uint16_t>(kLnGammaK);
  params.ln_beta_k = call.Data<const uint16_t>(kLnBetaK);
  params.cos_idx_rope = call.Data<const uint16_t>(kCosIdxRope);
  params.sin_idx_rope = call.Data<const uint16_t>(kSinIdxRope);
  params.hadamard_q = call.Data<const uint16_t>(kHadamardQ);
  params.hadamard_k = call.Data<const uint16_t>(kHadamardK);
  params.k_cache_index = call.Data<const int64_t>(kKCacheIndex);
  params.layernorm_epsilon_k = call.Float("layernorm_epsilon_k");
  params.k_cache = call.Data<int8_t>(kKCache);
  params.k_cache_scale = call.Data<uint16_t>(kKCacheScale);
  params.q_int8 = call.Data<int8_t>(kQInt8Out);
  params.q_scale = call.Data<uint16_t>(kQScaleOut);
  params.weights = call.Data<uint16_t>(kWeightsOut);
  cpu::Kernels().lightning_indexer_prolog_quant(params);
}

void RunMlaIndexerPrologQuant(const Call& call) {
  using namespace op_info::mla_indexer_prolog_quant;
  CheckCacheIndex(call, kCacheIndex);
  cpu::MlaIndexerPrologQuantParams params{};
  params.mla = MlaInputs(call, "mla_epsilon_cq", "mla_epsilon_ckv");
  params.mla.q_nope = call.Data<uint16_t>(kMlaQueryNopeOut);
  params.mla.q_rope = call.Data<uint16_t>(kMlaQueryRopeOut);
  params.indexer.w_qb = call.Data<const int8_t>(kIpWQbIn);
  params.indexer.w_qb_scale = call.Data<const float>(kIpWQbScaleIn);
  params.indexer.wk = call.Data<const uint16_t>(kIpWkIn);
  params.indexer.w_proj = call.Data<const uint16_t>(kIpWProjIn);
  params.indexer.ln_gamma_k = call.Data<const uint16_t>(kIpLnGammaKIn);
  params.indexer.ln_beta_k = call.Data<const uint16_t>(kIpLnBetaKIn);
  params.indexer.hadamard_q = call.Data<const uint16_t>(kIpHadamardQIn);
  params.indexer.hadamard_k = call.Data<const uint16_t>(kIpHadamardKIn);
  params.indexer.layernorm_epsilon_k = call.Float("ip_attrs.layernorm_epsilon_k");
  params.indexer.k_cache = call.Data<int8_t>(kIpKCache);
  params.indexer.k_cache_scale = call.Data<uint16_t>(kIpKCacheScale);
  params.indexer.q_int8 = call.Data<int8_t>(kIpQInt8Out);
  params.indexer.q_scale = call.Data<uint16_t>(kIpQScaleOut);
  params.indexer.weights = call.Data<uint16_t>(kIpWeightsOut);
  cpu::Kernels().mla_indexer_prolog_quant(params);
}

void RunSparseFlashAttentionQuant(const Call& call) {
  using namespace op_info::sparse_flash_attention_quant;
  CheckSelection(call);
  cpu::SparseFlashAttentionQuantParams params{};
  params.query_nope = call.Data<const uint16_t>(kQueryNope);
  params.query_rope = call.Data<const uint16_t>(kQueryRope);
  params.key_nope_2d = call.Data<const int8_t>(kKeyNope2d);
  params.key_rope_2d = call.Data<const uint16_t>(kKeyRope2d);
  params.k_nope_scales = call.Data<const float>(kKNopeScales);
  params.topk_indices = call.Data<const int32_t>(kTopkIndices);
  params.block_table = call.Data<const int32_t>(kBlockTable);
  params.kv_act_seqs = call.Data<const int32_t>(kKvActSeqs);
  params.attention_out = call.Data<uint16_t>(kAttentionOut);
  params.lse = call.Data<float>(kLse);
  params.b = call.Dim("b");
  params.s1 = call.Dim("s1");
  params.n_q = call.Dim("n_q");
  params.selected_count = call.Dim("selected_count");
  params.max_blocknum_perbatch = call.Dim("max_blocknum_perbatch");
  params.softmax_scale = call.Float("softmax_scale");
  cpu::Kernels().sparse_flash_attention_quant(params);
}

void RunLightningIndexerQuant(const Call& call) {
  using namespace op_info::lightning_indexer_quant;
  const std::vector<bool> complete = CheckSequences(call, kBlockTable, kKvActSeqs);
  const int64_t columns = call.Dim("max_blocknum_perbatch");
  for (int64_t b = 0; b < call.Dim("b"); ++b) {
    if (complete[b]) continue;
    const int32_t* row = call.Data<const int32_t>(kBlockTable) + b * columns;
    const int32_t* bad =
        std::find_if(row, row + columns, [&](int32_t block) { return block < 0 || block >= call.Dim("block_num"); });
    RefuseBlock(call, kBlockTable, b, bad - row);
  }
  cpu::LightningIndexerQuantParams params{};
  params.q_int8 = call.Data<const int8_t>(kQInt8);
  params.q_scale = call.Data<const uint16_t>(kQScale);
  params.weights = call.Data<const uint16_t>(kWeights);
  params.k_cache = call.Data<const int8_t>(kKCache);
  params.k_cache_scale = call.Data<const uint16_t>(kKCacheScale);
  params.block_table = call.Data<const int32_t>(kBlockTable);
  params.kv_act_seqs = call.Data<const int32_t>(kKvActSeqs);
  params.topk_indices = call.Data<int32_t>(kTopkIndices);
  params.b = call.Dim("b");
  params.s1 = call.Dim("s1");
  params.selected_count = call.Dim("selected_count");
  params.max_blocknum_perbatch = columns;
  cpu::Kernels().lightning_indexer_quant(params);
}

struct Operator {
  const OpInfo& info;
  void (*run)(const Call& call);
};

constexpr Operator kOperators[] = {
    {op_info::mla_prolog_quant::kOp, RunMlaPrologQuant},
    {op_info::lightning_indexer_prolog_quant::kOp, RunLightningIndexerPrologQuant},
    {op_info::mla_indexer_prolog_quant::kOp, RunMlaIndexerPrologQuant},
    {op_info::sparse_flash_attention_quant::kOp, RunSparseFlashAttentionQuant},
    {op_info::lightning_indexer_quant::kOp, RunLightningIndexerQuant},
};

const Operator& FindOperator(std::string_view name) {
  for (const Operator& op : kOperators) {
    if (name == op.info.name) return op;
  }
  throw OpError(OpError::Kind::kValue, "there is no operator " + std::string(name));
}

std::vector<TensorView> Inputs(const OpInfo& op, const int* ranks, const int64_t* const* shapes,
                               const char* const* dtypes) {
  std::vector<TensorView> inputs(op.input_count);
  for (size_t i = 0; i < op.input_count; ++i) inputs[i] = {dtypes ? dtypes[i] : nullptr, ranks[i], shapes[i]};
  return inputs;
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

// A kernel sizes its scratch by the number of threads: that must not change until the kernel is done.
std::shared_mutex thread_count_mutex;

void Run(const Operator& op, const Call& call) {
  const std::shared_lock lock(thread_count_mutex);
  const cpu::DefaultFpEnv fp_env;
  op.run(call);
}

int RunFromMindSpore(const char* name, int count, void** data, int* ranks, int64_t** shapes, const char** dtypes,
                     void* extra) {
  const Operator& op = FindOperator(name);
  const int expected = static_cast<int>(op.info.input_count + op.info.output_count);
  if (count != expected) {
    throw OpError(OpError::Kind::kType, std::string(name) + ": got " + std::to_string(count) + " tensors, expected " +
                                            std::to_string(expected));
  }
  const MindSporeAttrs attrs(extra);
  Run(op, Call(op.info, data, Inputs(op.info, ranks, shapes, dtypes).data(), attrs));
  return 0;
}

std::vector<std::vector<int64_t>> InferFromMindSpore(const char* name, int* ranks, int64_t** shapes, AotExtra* extra) {
  const OpInfo& op = FindOperator(name).info;
  // Set by ops/_custom.py: the names of in-place arguments that are no Parameters.
  if (extra->HasAttr("plain_caches") && InRunTimeBranch()) {
    throw OpError(OpError::Kind::kValue,
                  std::string(name) + ": " + extra->GetAttrStr("plain_caches") +
                      " must be a Parameter inside a branch or loop whose condition is known only at "
                      "run time: MindSpore copies a plain tensor there, and the write would be lost");
  }
  return OutputShapes(op, CheckCall(op, Inputs(op, ranks, shapes, nullptr).data(), MindSporeAttrs(extra)));
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

// The C interface. Functions that can fail return 0, or a status and a text (see Guard).
extern "C" {

// Chooses the kernels and starts the threads; fails if the environment asks for what is not there.
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

// Checks the inputs of a call and writes the output shapes, each to a row of `out_shapes` (8 wide), and their ranks.
MS_DSV32_EXPORT int ms_dsv32_check(const char* name, const int* ranks, const int64_t* const* shapes,
                                   const char* const* dtypes, int attr_count, const ms_dsv32::CAttr* attrs,
                                   int64_t (*out_shapes)[8], int* out_ranks, char* message, size_t message_size) {
  using namespace ms_dsv32;
  return Guard(message, message_size, [&] {
    const OpInfo& op = FindOperator(name).info;
    const Dims dims = CheckCall(op, Inputs(op, ranks, shapes, dtypes).data(), CAttrs(attr_count, attrs));
    const auto outputs = OutputShapes(op, dims);
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
    Run(op, Call(op.info, data, Inputs(op.info, ranks, shapes, dtypes).data(), CAttrs(attr_count, attrs)));
  });
}

// Packs `batch` row-major [k, n] weights of 1-byte or 2-byte elements, see pack.h.
MS_DSV32_EXPORT void ms_dsv32_pack(const void* weight, void* packed, int element_size, int64_t batch, int64_t k,
                                   int64_t n) {
  if (element_size == 1) {
    ms_dsv32::cpu::PackInt8(static_cast<const int8_t*>(weight), batch, k, n, static_cast<int8_t*>(packed));
  } else {
    ms_dsv32::cpu::PackBf16(static_cast<const uint16_t*>(weight), batch, k, n, static_cast<uint16_t*>(packed));
  }
}

}  // extern "C"
