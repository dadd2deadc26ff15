#include "ms_dsv32/kernel_impl/contract/query_tokens.h"

#include <algorithm>
#include <string>

namespace ms_dsv32 {

void CheckQueryActSeqs(const Call& call, int query_act_seqs_index) {
  if (!call.Given(query_act_seqs_index)) return;
  const auto* query_act_seqs = call.Data<const int32_t>(query_act_seqs_index);
  const std::string name = call.Name(query_act_seqs_index);
  const std::string t = std::to_string(call.Dim("t"));
  int64_t sum = 0;
  for (int64_t b = 0; b < call.Dim("b"); ++b) {
    if (query_act_seqs[b] < 0 || query_act_seqs[b] > call.Dim("t")) {
      call.Refuse(name + "[" + std::to_string(b) + "] = " + std::to_string(query_act_seqs[b]) +
                  " is outside [0, t] = [0, " + t + "]");
    }
    sum += query_act_seqs[b];
  }
  if (sum > call.Dim("t")) {
    call.Refuse(name + " has " + std::to_string(sum) + " tokens together, expected at most t = " + t);
  }
}

std::vector<QueryToken> QueryTokens(const Call& call, int kv_act_seqs_index, int query_act_seqs_index) {
  const auto* kv_act_seqs = call.Data<const int32_t>(kv_act_seqs_index);
  const auto* query_act_seqs =
      call.Given(query_act_seqs_index) ? call.Data<const int32_t>(query_act_seqs_index) : nullptr;
  std::vector<QueryToken> tokens;
  tokens.reserve(static_cast<size_t>(call.Dim("t")));
  for (int64_t b = 0; b < call.Dim("b"); ++b) {
    const int64_t count = query_act_seqs != nullptr ? query_act_seqs[b] : call.Dim("s1");
    for (int64_t j = 0; j < count; ++j) {
      const int64_t visible = std::max<int64_t>(kv_act_seqs[b] - count + 1 + j, 0);
      tokens.push_back({static_cast<int32_t>(b), static_cast<int32_t>(visible)});
    }
  }
  return tokens;
}

}  // namespace ms_dsv32
