// What the cube and the vector half of the prologs agree on: arguments, workspace, work list, flags.
//
// A step is up to 128 tokens. In each step
//   S1  cube    x times the down-projections, parts of K and columns dealt to the cores        -> workspace of the step
//   S2  vector  sum of the parts, RmsNorm and quantisation of the query latent, tokens dealt   -> q_norm, q_norm_scale
//   S3  cube    int8 up-projection, item by item, items dealt to the cores                     -> workspace of the core
//   S4  vector  dequantisation, RoPE; the two AIVs of the core share the tokens                -> workspace of the core
//   S5  cube    the nope part times w_uk, or the indexer's query times the Hadamard matrix
//   S6  vector  quantisation of the indexer's query
// Numbers in brackets are the steps of the golden reference, of the MLA half or of the indexer's. One of its steps goes
// through several stages: (1) of the MLA half is S1 and S2, and (1) of the indexer's is S3 to S6.
// An item is the nope or the rope part of an MLA head, or a head of the indexer. It stays on one AI core from S3 to S6,
// so only S1 and S2 need all cores. The indexer's keys of a core's own tokens are one more item, which has no S3.
//
// Distances are such that nobody waits for what has only just begun. The cube runs S1 of step s + 1 before S3 of step
// s, and S5 of an item two to four items after its S3.
//
// Without the MLA half and with more tokens than a step has, a few cores do only S1, and the others do all items
// (PrologTiling::projectors). Then x is read once, instead of once by each core that has some columns. The latents
// follow each other in L1 without a pause. The heads are dealt over the steps, so that all cores end at about the same
// time. Only the indexer's keys and the head weights of a step wait for its S1.
#ifndef MS_DSV32_ASCENDC_PROLOG_PLAN_H_
#define MS_DSV32_ASCENDC_PROLOG_PLAN_H_

#include "copy.h"
#include "prolog_tiling.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

// CrossCore flags. An id is only ever used in one mode.
enum PrologFlag : int64_t {
  kProjected = 0,    // S1 of this core is done; set once more after S1 of the head weights where that comes late
  kLatentReady = 1,  // S2 of all cores is done
  kAccumulated = 2,  // S3 of an item is done, and S5 of the item kHeadSlots before it has read its operands
  kQueryReady = 3,   // S4 of an item is done. To a core that does only S1: all have read the sums of the step before
                     // the one it has just done, and x of the step after the next is in L2
  kTurned = 4,       // S5 of an item that S6 waits for is done
  // kAll... are barriers of all AIVs.
  kAllVectors = 5,    // what is fetched is in L2; later: S1 of what keys and head weights need is done
  kFetched = 6,       // the x of step 0, and what all cores need beside it, is in L2
  kAllProjected = 7,  // S1 of all cores is done
  kAllNormed = 8,     // S2 of the query latent of all AIVs is done
  kAllKeys = 9,       // the indexer's cache rows of a step are written
};

// Null where an operator has no such argument. q_norm and q_norm_scale are outputs, inputs or workspace.
struct PrologArguments {
  GmAddress x, w_dq, w_uq_qr, dequant_scale, w_uk, w_dkv_kr, gamma_cq, gamma_ckv, cos, sin, cache_index;
  GmAddress kv_cache, kr_cache, k_scale_cache;
  GmAddress w_qb, w_qb_scale, wk, w_proj, ln_gamma_k, ln_beta_k, hadamard_q, hadamard_k, k_cache, k_cache_scale;
  GmAddress q_norm, q_norm_scale, q_nope, q_rope, q_int8, q_scale, weights;
  GmAddress workspace;  // after the part that CANN keeps for itself
};

enum class PrologKind { kMlaNope, kMlaRope, kIndexerHead, kIndexerKeys };
struct PrologItem {
  PrologKind kind;
  uint32_t step, head;
};

// Whether S1 of the head weights comes after S3 of the heads. Without the MLA half nothing else is left to stream while
// the last head goes through S4, S5 and S6, and the head weights have few steps to go after S1. This needs a place of
// its own for x in L1.
template <bool kMla>
__aicore__ inline bool WeightsLate(const PrologTiling& tiling) {
  return !kMla && tiling.t <= tiling.token_step && tiling.x_l1 != 0;
}

// Begin of an AIV's share of things that are dealt to all AIVs whose cores have items.
__aicore__ inline uint32_t OwnBegin(const PrologTiling& tiling, uint32_t count, uint32_t vector) {
  const uint32_t others = kVectorsPerCore * tiling.projectors;
  return vector < others ? 0 : ShareBegin(count, vector - others, kVectorsPerCore * tiling.cores - others);
}

// The items of one AI core, counted over all steps. Steps differ only in their heads of the indexer. The nope parts
// come last, so that w_uk of one nope part streams while the vector units do S4 of the next. The keys come early,
// because their S4 waits for all cores. Where a few cores do only S1, S1 takes as long as the heads of the others. Then
// the keys of a step come among the heads of the next step, and those of the last step after its last head.
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
    // S4 of an item takes as long as S3 of three rope parts. Where few items wait for HBM, the last ones are done
    // sooner with a lag of two. Where only the cube is waited for, S4 with its copies from and to GM, at 1400 cycles
    // each, takes as long as two heads; one more item of the lag is the keys, which give the cube nothing to do.
    few_ = steps == 1 && tiling.n_q == 0;
    lag_ = few_ ? 2 : tiling.projectors > 0 ? 4 : 3;
  }
  // Whether the launch has few items, so that the latency of the last one is a good part of the time.
  __aicore__ inline bool Few() const { return few_; }
  // Items from S3 to S5, and from S4 to S6. So many places after the last item have S5 and S6 only.
  __aicore__ inline uint32_t Lag() const { return lag_; }
  // S5 and S6 of the items before this one are done beside S3 and S4 of item i. In the first step the weights come from
  // HBM, and its heads take long enough for a lag of two.
  __aicore__ inline uint32_t DoneEnd(uint32_t i) const {
    const uint32_t end = i + 1 > lag_ ? Min(i + 1 - lag_, total_) : 0;
    if (!late_keys_) {
      return end;
    }
    constexpr uint32_t kFirstLag = 2;
    const uint32_t first = Min(i + 1, Begin(1));
    return first > kFirstLag ? Max(end, first - kFirstLag) : end;
  }
  // Items of the steps before `step`, and of all steps.
  __aicore__ inline uint32_t Begin(uint32_t step) const {
    const uint32_t keys = late_keys_ && step > 0 && step < steps_ ? step - 1 : step;
    return step / kDeals * begin_[kDeals] + begin_[step % kDeals] + keys * keys_;
  }
  __aicore__ inline uint32_t Total() const { return total_; }
  __aicore__ inline bool IsFirst(uint32_t i) const { return i < total_ && i == Begin(StepOf(i)); }
  // The nope parts of a step come after so many of its items, the keys among them.
  __aicore__ inline uint32_t NopesBegin(uint32_t step) const { return ropes_ + heads_[step % kDeals] + keys_; }
  __aicore__ inline PrologItem At(uint32_t i) const {
    const uint32_t step = StepOf(i), heads = heads_[step % kDeals];
    uint32_t place = i - Begin(step);
    if (keys_ > 0 && late_keys_ && step > 0) {
      const uint32_t keys = Max(1, Min(heads - 1, 2));
      if (place == keys) {
        return {PrologKind::kIndexerKeys, step - 1, 0};
      }
      place -= place > keys ? 1 : 0;
    }
    if (keys_ > 0 && (!late_keys_ || step + 1 == steps_)) {
      const uint32_t keys = late_keys_ ? heads : ropes_ + Min(heads, 1);
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
  // Searches from where the last call ended, because calls are for items of the same step or of one beside it.
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
  // Parts of the projections: each is a sum over kPartRows of K.
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
    return Global<int32_t>(Head(t, item), t.token_step * kQkNopeHeadDim);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Query(const PrologTiling& t, uint32_t item) const {
    return Global<bfloat16_t>(Head(t, item) + t.query_offset, t.token_step * kQkNopeHeadDim);
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
