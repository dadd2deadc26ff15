// The CPU kernel of a call: its arguments as the kernel's parameters.
#include "ms_dsv32/kernel_impl/cpu/kernel_calls.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/contract/generated/unpack.h"
#include "ms_dsv32/kernel_impl/contract/query_tokens.h"
#include "ms_dsv32/kernel_impl/cpu/dispatch.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

namespace ms_dsv32 {
namespace {

// Most kernels take a call as it is.
template <typename Params>
void Run(const Call& call, void (*kernel)(const Params&)) {
  Params params{};
  Unpack(call, params);
  kernel(params);
}

// Fills the rows of an output that belong to padding, the tokens [begin, end), of which each has `width` elements.
template <typename T>
void FillPadding(T* output, int64_t begin, int64_t end, int64_t width, T value) {
  cpu::ParallelFor(end - begin, [=](int64_t i, int) { std::fill_n(output + (begin + i) * width, width, value); });
}

void Run(const Call& call, void (*kernel)(const SparseFlashAttentionQuantParams&)) {
  using namespace op_info::sparse_flash_attention_quant;
  const std::vector<QueryToken> tokens = QueryTokens(call, kKvActSeqs, kQueryActSeqs);
  SparseFlashAttentionQuantParams params{};
  Unpack(call, tokens, params);
  kernel(params);
  const int64_t t = call.Dim("t");
  FillPadding<uint16_t>(params.attention, params.t, t, params.n_q * op_info::kKvLoraRank, 0);
  FillPadding(params.lse, params.t, t, params.n_q, -std::numeric_limits<float>::infinity());
}

void Run(const Call& call, void (*kernel)(const LightningIndexerQuantParams&)) {
  using namespace op_info::lightning_indexer_quant;
  const std::vector<QueryToken> tokens = QueryTokens(call, kKvActSeqs, kQueryActSeqs);
  LightningIndexerQuantParams params{};
  Unpack(call, tokens, params);
  kernel(params);
  FillPadding(params.topk_indices, params.t, call.Dim("t"), params.selected_count, -1);
}

}  // namespace

void RunKernel(const Call& call) {
#define MS_DSV32_RUN(Entry, name) \
  if (&call.Op() == &op_info::name::kOp) return Run(call, cpu::Kernels().name);
  MS_DSV32_KERNELS(MS_DSV32_RUN)
#undef MS_DSV32_RUN
  throw std::logic_error(std::string("ms_dsv32: no kernel for ") + call.Op().name);
}

}  // namespace ms_dsv32
