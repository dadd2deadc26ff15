// The tokens of a call by their sequences: the one place that knows how a call divides its tokens.
#pragma once

#include <vector>

#include "ms_dsv32/kernel_impl/contract/call.h"
#include "ms_dsv32/kernel_impl/contract/query_token.h"

namespace ms_dsv32 {

// Throws OpError unless query_act_seqs, if it is given, divides the call's tokens: no entry is negative, and together
// they are no more than t.
void CheckQueryActSeqs(const Call& call, int query_act_seqs_index);

// The tokens that belong to a sequence, in order: all t, or the first sum(query_act_seqs), which CheckQueryActSeqs has
// accepted.
std::vector<QueryToken> QueryTokens(const Call& call, int kv_act_seqs_index, int query_act_seqs_index);

}  // namespace ms_dsv32
