#include "ms_dsv32/kernel_impl/contract/value_check.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/contract/generated/operators.h"
#include "ms_dsv32/kernel_impl/contract/query_tokens.h"

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

// Checks that kv_act_seqs fits block_table, and query_act_seqs the tokens. Returns for each sequence whether all blocks
// of its positions are in the cache.
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
void CheckSparseFlashAttentionQuant(const Call& call) {
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
        call.Refuse(std::string(call.Name(kTopkIndices)) + "[" + std::to_string(i) + ", " + std::to_string(k) +
                    "] = " + std::to_string(p) + " is outside [0, " + At(call.Name(kKvActSeqs), b) +
                    ") = " + Half(kv_act_seqs[b]) + " and is not -1");
      }
      const int32_t block = block_table[b * columns + p / kBlockSize];
      if (block < 0 || block >= block_num) RefuseBlock(call, kBlockTable, b, p / kBlockSize);
    }
  }
}

// The blocks of each sequence that has tokens are in the cache.
void CheckLightningIndexerQuant(const Call& call) {
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

// Checks a step's slots, lengths and tables as its operators would, with their argument names, before the first of them
// writes.
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
    CheckLightningIndexerQuant(Call(indexer::kOp, of_indexer, given.data(), attrs, known.indexer_));
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

// The table of operators takes the function Check<Entry> of each.
void CheckMlaPrologQuant(const Call& call) { CheckCacheIndex<op_info::mla_prolog_quant::kCacheIndex>(call); }
void CheckLightningIndexerPrologQuant(const Call& call) {
  CheckCacheIndex<op_info::lightning_indexer_prolog_quant::kKCacheIndex>(call);
}
void CheckMlaIndexerPrologQuant(const Call& call) { CheckCacheIndex<prolog::kCacheIndex>(call); }
void CheckMlaEpilogQuant(const Call&) {}  // every value is right

#define MS_DSV32_CHECKED(Entry, name) {op_info::name::kOp, Check##Entry},
constexpr Operator kOperators[] = {
    MS_DSV32_KERNELS(MS_DSV32_CHECKED)  //
    {step::kOp, StepCheck::CheckValues, BindStep, false},
};

}  // namespace

const Operator& FindOperator(std::string_view name) {
  for (const Operator& op : kOperators) {
    if (name == op.info.name) return op;
  }
  throw OpError(OpError::Kind::kValue, "there is no operator " + std::string(name));
}

}  // namespace ms_dsv32
