// What the cube and the vector half of sparse_flash_attention_quant agree on: tasks, workspace, flags.
//
// A task is one token, on a team of AI cores. The AIVs of each core gather and dequantise a part of the keys to the
// workspace, and its AIC multiplies them with the query. Then the AIVs make probabilities of the scores, each AIV for a
// part of the heads. The AICs multiply those with the keys, each AIC for a part of the heads and of the columns of the
// output. Several tasks are under way at a time, so that the AIVs gather the keys of one while the AICs work on
// another. Few tokens have large teams. With many tokens a team is one core.
#ifndef MS_DSV32_ASCENDC_ATTENTION_PLAN_H_
#define MS_DSV32_ASCENDC_ATTENTION_PLAN_H_

#include "attention_tiling.h"
#include "copy.h"
#include "sequences.h"

namespace ms_dsv32::ascendc {

// Flags between the AIC and its AIVs.
constexpr int64_t kKeysReady = 0;           // AIV to AIC, for each chunk of keys
constexpr int64_t kScoresReady = 1;         // AIC to AIV
constexpr int64_t kProbabilitiesReady = 2;  // AIV to AIC
constexpr int64_t kSlotFree = 3;            // AIC to AIV: the team has read all of a task's part of the workspace
// Flags between all AICs, where a team is more than one core.
constexpr int64_t kScoresShared = 4;         // the scores of the team are there, and so are all of its keys
constexpr int64_t kProbabilitiesShared = 5;  // the probabilities of the team are there

struct AttentionTask {
  uint32_t token, sequence, heads;
  uint32_t offset, sequence_tokens;  // of the token among those of its sequence, and how many these are
  uint32_t length;                   // positions of the sequence
  uint32_t count;                    // entries of topk_indices that are read
  uint32_t keys;                // count in whole fractals: rows of keys in the workspace, which are zeros from count on
  uint32_t key_begin, key_end;  // the part of them that this core gathers and scores
  uint32_t early;               // entries that each AIV takes as they come, while the others are sorted
};

struct AttentionArguments {
  GmAddress query_nope, query_rope, key_nope_2d, key_rope_2d, k_nope_scales, topk_indices, block_table, kv_act_seqs;
  GmAddress query_act_seqs, attention_out, lse;
  GmAddress workspace;  // after the part that CANN keeps for itself
};

// What one AI core has to do, and where it is in the workspace.
class AttentionPlan {
 public:
  __aicore__ inline AttentionPlan(const AttentionArguments& arguments, const AttentionTiling& tiling, uint32_t core)
      : tiling_(tiling),
        team_(core / tiling.team),
        member_(core % tiling.team),
        workspace_(arguments.workspace),
        sequences_(tiling.t, tiling.b, tiling.s1, tiling.ragged, arguments.kv_act_seqs, arguments.query_act_seqs) {
    tasks_ = Max(CeilDiv(sequences_.Tokens(), tiling.cores / tiling.team), 1);
  }
  __aicore__ inline const AttentionTiling& Tiling() const { return tiling_; }
  // This core's team, and its number there.
  __aicore__ inline uint32_t Team() const { return team_; }
  __aicore__ inline uint32_t Member() const { return member_; }
  // Tokens that belong to a sequence. The others are padding.
  __aicore__ inline uint32_t Tokens() const { return sequences_.Tokens(); }
  // All cores take part in the same number of tasks.
  __aicore__ inline uint32_t Tasks() const { return tasks_; }

  __aicore__ inline uint64_t CacheRows() const { return static_cast<uint64_t>(tiling_.block_num) * tiling_.block_size; }

  // Task `index` of this team. A task after the last token has neither heads nor keys.
  __aicore__ inline AttentionTask Task(uint32_t index) const {
    AttentionTask task{};
    task.token = index * (tiling_.cores / tiling_.team) + team_;
    if (task.token >= sequences_.Tokens()) {
      return task;
    }
    const TokenGroup token = sequences_.Group(task.token);
    task.heads = tiling_.n_q;
    task.sequence = token.sequence;
    task.offset = token.offset;
    task.sequence_tokens = token.sequence_tokens;
    task.length = token.length;
    task.count = Min(token.visible, tiling_.topk);
    const uint32_t fractals = CeilDiv(task.count, kFractal);
    task.keys = fractals * kFractal;
    task.key_begin = ShareBegin(fractals, member_, tiling_.team) * kFractal;
    task.key_end = ShareBegin(fractals, member_ + 1, tiling_.team) * kFractal;
    // While the entries of its only task are sorted, an AIV has nothing else to do, so that it begins with entries that
    // are not sorted. Its share of the first chunk must be at least as many. Whether it does must not depend on the
    // padding of the call, because it decides on the order of sums.
    const bool enough = task.count / kFractal / tiling_.team * kFractal >= tiling_.key_chunk;
    const bool only = tiling_.t <= tiling_.cores / tiling_.team;
    if (tiling_.sort_offset > 0 && only && enough) {
      task.early = kEarlyEntries;
    }
    return task;
  }

  // The part of the workspace that belongs to task `index`.
  template <typename T>
  __aicore__ inline GlobalTensor<T> Slot(uint32_t index, uint64_t offset, uint64_t elements) const {
    return Global<T>(workspace_ + (team_ * tiling_.slots + index % tiling_.slots) * tiling_.slot_bytes + offset,
                     elements);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Latent(uint32_t index) const {
    return Slot<bfloat16_t>(index, 0, tiling_.key_rows * kKvLoraRank);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Rope(uint32_t index) const {
    return Slot<bfloat16_t>(index, tiling_.rope_offset, tiling_.key_rows * kRopeDim);
  }
  // 1 for an entry that is skipped, else 0.
  __aicore__ inline GlobalTensor<float> Skipped(uint32_t index) const {
    return Slot<float>(index, tiling_.skipped_offset, tiling_.key_rows);
  }
  __aicore__ inline GlobalTensor<float> Scores(uint32_t index) const {
    return Slot<float>(index, tiling_.score_offset, tiling_.key_rows * tiling_.n_q);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Probabilities(uint32_t index) const {
    return Slot<bfloat16_t>(index, tiling_.probability_offset, tiling_.key_rows * tiling_.n_q);
  }

 private:
  const AttentionTiling& tiling_;
  const uint32_t team_, member_;
  GM_ADDR workspace_;
  Sequences<1> sequences_;
  uint32_t tasks_ = 0;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_ATTENTION_PLAN_H_
