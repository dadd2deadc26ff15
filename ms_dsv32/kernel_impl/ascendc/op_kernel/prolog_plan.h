// What the cube and the vector half of the prologs agree on: arguments, workspace, work list, flags.
//
// A step is up to 128 tokens. In each step
//   S1  cube    x times the down-projections, parts of K and columns dealt to the cores        -> workspace of the step
//   S2  vector  sum of the parts, RmsNorm and quantisation of the query latent, tokens dealt   -> q_norm, q_norm_scale
//   S3  cube    item by item, items dealt to the cores: int8 up-projection                     -> workspace of the core
//   S4  vector  dequantisation, RoPE; the two AIVs of the core share the tokens                -> workspace of the core
//   S5  cube    the nope part times w_uk, or the indexer's query times the Hadamard matrix
//   S6  vector  quantisation of the indexer's query
// An item is the nope or the rope part of an MLA head, or a head of the indexer. It stays on one AI core from S3 to S6,
// so only S1 and S2 need all cores. The indexer's keys of a core's own tokens are one more item, without S3.
//
// Nobody waits for what was only just begun: the cube runs S1 of a step before S3 of the step before it, and S5 of an
// item two to four items after its S3.
//
// Without the MLA half and with more tokens than a step has, a few cores have S1 to themselves, and the others all
// items (PrologTiling::projectors). x is then read once, not by each core that has some columns; the latents follow
// each other in L1 without a pause; and the heads are dealt over the steps, so that all cores end at about the same
// time. Nothing but the indexer's keys and the head weights of a step waits for its S1.
#ifndef MS_DSV32_ASCENDC_PROLOG_PLAN_H_
#define MS_DSV32_ASCENDC_PROLOG_PLAN_H_

#include "copy.h"
#include "prolog_tiling.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

// CrossCore flags. The modes are mixed on no id.
enum PrologFlag : int64_t {
  kProjected = 0,    // S1 of this core is done, and once more S1 of the head weights where it comes late
  kLatentReady = 1,  // S2 of all cores is done
  kAccumulated = 2,  // S3 of an item; S5 of the item kHeadSlots before it has read its operands
  kQueryReady = 3,   // S4 of an item; to a core that has S1 to itself, that all have read the sums of the step before
                     // the one it has just done, and that x of the step after the next is in L2
  kTurned = 4,       // S5 of an item that S6 waits for
  kAllVectors = 5,  // what is fetched is in L2; then S1 of what keys and head weights need is done: barrier of all AIVs
  kFetched = 6,     // the x of step 0, and what all cores need beside it, is in L2
  kAllProjected = 7,  // S1 of all cores is done: barrier of all AIVs
  kAllNormed = 8,     // S2 of the query latent of all AIVs is done: likewise
  kAllKeys = 9,       // the indexer's cache rows of a step are written: likewise
};

// Null where an operator has no such argument. q_norm and q_norm_scale are outputs, inputs or workspace.
struct PrologArguments {
  GmAddress x, w_dq, w_uq_qr, dequant_scale, w_uk, w_dkv_kr, gamma_cq, gamma_ckv, cos, sin, cache_index;
  GmAddress kv_cache, kr_cache, k_scale_cache;
  GmAddress w_qb, w_qb_scale, wk, w_proj, ln_gamma_k, ln_beta_k, hadamard_q, hadamard_k, k_cache, k_cache_scale;
  GmAddress q_norm, q_norm_scale, query_nope, query_rope, q_int8, q_scale, weights;
  GmAddress workspace;  // the user's part
};

enum class PrologKind { kMlaNope, kMlaRope, kIndexerHead, kIndexerKeys };
struct PrologItem {
  PrologKind kind;
  uint32_t step, head;
};

// Whether S1 of the head weights comes behind S3 of the heads. Without the MLA half nothing else is left to stream
// while the last head is on its way through S4, S5 and S6; theirs is short. Only where x has a place of its own in L1.
template <bool kMla>
__aicore__ inline bool WeightsLate(const PrologTiling& tiling) {
  return !kMla && tiling.t <= tiling.token_step && tiling.x_l1 != 0;
}

// Begin of what an AIV has of things that are dealt to all AIVs whose cores have items.
__aicore__ inline uint32_t OwnBegin(const PrologTiling& tiling, uint32_t count, uint32_t vector) {
  const uint32_t others = kVectorsPerCore * tiling.projectors;
  return vector < others ? 0 : ShareBegin(count, vector - others, kVectorsPerCore * tiling.cores - others);
}

// The items of one AI core, counted over all steps. Each step has the same but for the indexer's heads. The nope parts
// come last: while the vector units are at S4 of the last one, w_uk of the one before it streams. The keys come early,
// as S4 of them waits for all cores. Where few cores are at S1 for as long as the others are at their heads, the keys
// of a step come among the heads of the next one, and those of the last step after its last head.
class PrologItems {
 public:
  __aicore__ inline PrologItems(const PrologTiling& tiling, bool indexer, uint32_t core, uint32_t steps)
      : steps_(steps),
        rope_begin_(tiling.ropes.begin[core]),
        nope_begin_(tiling.nopes.begin[core]),
        ropes_(tiling.ropes.begin[core + 1] - rope_begin_),
        nopes_(tiling.nopes.begin[core + 1] - nope_begin_),
        keys_(indexer && core >= tiling.projectors ? 1 : 0),
        late_keys_(tiling.projectors > 0) {
    for (uint32_t deal = 0; deal < kDeals; ++deal) {
      head_begin_[deal] = tiling.indexer_heads[deal].begin[core];
      heads_[deal] = tiling.indexer_heads[deal].begin[core + 1] - head_begin_[deal];
      begin_[deal + 1] = begin_[deal] + ropes_ + heads_[deal] + nopes_;
    }
    total_ = Begin(steps);
    // S4 of an item takes as long as S3 of three rope parts. Where few items wait for HBM, the way of the last ones is
    // shorter with two. Where nothing but the cube is waited for, S4 and its ways from and to GM take as long as two
    // heads at 1400 cycles a way, and one item of four is the keys, which the cube has nothing to do for.
    few_ = steps == 1 && tiling.n_q == 0;
    lag_ = few_ ? 2 : tiling.projectors > 0 ? 4 : 3;
  }
  // Whether the launch has few items, so that the way of the last one is a good part of the time.
  __aicore__ inline bool Few() const { return few_; }
  // Items from S3 to S5, and from S4 to S6; so many places after the last item have no more than S5 and S6.
  __aicore__ inline uint32_t Lag() const { return lag_; }
  // Where S3 and S4 of item i are done, S5 and S6 of the items before this one are. Where the weights of the first step
  // come from HBM, its heads take long enough for two.
  __aicore__ inline uint32_t DoneEnd(uint32_t i) const {
    const uint32_t end = i + 1 > lag_ ? Smaller(i + 1 - lag_, total_) : 0;
    if (!late_keys_) {
      return end;
    }
    constexpr uint32_t kFirstLag = 2;
    const uint32_t first = Smaller(i + 1, Begin(1));
    return first > kFirstLag ? Larger(end, first - kFirstLag) : end;
  }
  // Items of the steps before `step`, and of all steps.
  __aicore__ inline uint32_t Begin(uint32_t step) const {
    const uint32_t keys = late_keys_ && step > 0 && step < steps_ ? step - 1 : step;
    return step / kDeals * begin_[kDeals] + begin_[step % kDeals] + keys * keys_;
  }
  __aicore__ inline uint32_t Total() const { return total_; }
  __aicore__ inline bool IsFirst(uint32_t i) const { return i < total_ && i == Begin(StepOf(i)); }
  // The nope parts of a step come after so many items of it, and the keys are among these.
  __aicore__ inline uint32_t NopesBegin(uint32_t step) const { return ropes_ + heads_[step % kDeals] + keys_; }
  __aicore__ inline PrologItem At(uint32_t i) const {
    const uint32_t step = StepOf(i), heads = heads_[step % kDeals];
    uint32_t place = i - Begin(step);
    if (keys_ > 0 && late_keys_ && step > 0) {
      const uint32_t keys = Larger(1, Smaller(heads - 1, 2));
      if (place == keys) {
        return {PrologKind::kIndexerKeys, step - 1, 0};
      }
      place -= place > keys ? 1 : 0;
    }
    if (keys_ > 0 && (!late_keys_ || step + 1 == steps_)) {
      const uint32_t keys = late_keys_ ? heads : ropes_ + Smaller(heads, 1);
      if (place == keys) {
        return {PrologKind::kIndexerKeys, step, 0};
      }
      place -= place > keys ? 1 : 0;
    }
    if (place < ropes_) {
      return {PrologKind::kMlaRope, step, rope_begin_ + place};
    }
    if (place < ropes_ + heads) {
      return {PrologKind::kIndexerHead, step, head_begin_[step % kDeals] + place - ropes_};
    }
    return {PrologKind::kMlaNope, step, nope_begin_ + place - ropes_ - heads};
  }

 private:
  // From where the last call ended, as calls are for items of the same step or of one beside it.
  __aicore__ inline uint32_t StepOf(uint32_t i) const {
    while (step_ > 0 && i < Begin(step_)) {
      --step_;
    }
    while (step_ + 1 < steps_ && i >= Begin(step_ + 1)) {
      ++step_;
    }
    return step_;
  }

  uint32_t steps_, rope_begin_, nope_begin_, ropes_, nopes_, keys_;
  bool late_keys_;
  uint32_t head_begin_[kDeals] = {}, heads_[kDeals] = {}, begin_[kDeals + 1] = {};
  uint32_t total_ = 0, lag_ = 0;
  mutable uint32_t step_ = 0;
  bool few_ = false;
};

// Addresses in the workspace.
class PrologWorkspace {
 public:
  __aicore__ inline PrologWorkspace(GM_ADDR base, const PrologTiling& tiling, uint32_t core)
      : step_(base), head_(base + tiling.head_offset + core * kHeadSlots * tiling.head_bytes) {}
  // Parts of the projections: sums over kPartRows of K.
  __aicore__ inline GlobalTensor<float> Latent(const PrologTiling& t, uint32_t step, uint32_t part) const {
    return Global<float>(Part(t, step, part) + t.latent_offset, t.token_step * kQLoraRank);
  }
  __aicore__ inline GlobalTensor<float> KeyValue(const PrologTiling& t, uint32_t step, uint32_t part) const {
    return Global<float>(Part(t, step, part) + t.key_value_offset, t.token_step * kKeyDim);
  }
  __aicore__ inline GlobalTensor<float> IndexKey(const PrologTiling& t, uint32_t step, uint32_t part) const {
    return Global<float>(Part(t, step, part) + t.index_key_offset, t.token_step * kIdxHeadDim);
  }
  __aicore__ inline GlobalTensor<float> Weights(const PrologTiling& t, uint32_t step, uint32_t part) const {
    return Global<float>(Part(t, step, part) + t.weights_offset, t.token_step * kIdxNHeads);
  }
  // The first of the parts of a step.
  __aicore__ inline GM_ADDR Parts(const PrologTiling& t, uint32_t step) const { return Part(t, step, 0); }
  __aicore__ inline GlobalTensor<int32_t> Sums(const PrologTiling& t, uint32_t item) const {
    return Global<int32_t>(Head(t, item), t.token_step * kNopeDim);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Query(const PrologTiling& t, uint32_t item) const {
    return Global<bfloat16_t>(Head(t, item) + t.query_offset, t.token_step * kNopeDim);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Turned(const PrologTiling& t, uint32_t item) const {
    return Global<bfloat16_t>(Head(t, item) + t.turned_offset, t.token_step * kIdxHeadDim);
  }

 private:
  __aicore__ inline GM_ADDR Part(const PrologTiling& t, uint32_t step, uint32_t part) const {
    return step_ + (step % kStepSlots) * t.step_bytes + part * t.part_bytes;
  }
  __aicore__ inline GM_ADDR Head(const PrologTiling& t, uint32_t item) const {
    return head_ + (item % kHeadSlots) * t.head_bytes;
  }
  GmAddress step_, head_;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_PROLOG_PLAN_H_
