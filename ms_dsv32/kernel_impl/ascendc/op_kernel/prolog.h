// What the cube and the vector half of the prologs agree on: arguments, workspace, work list, flags.
//
// A step is up to 128 tokens. In each step
//   S1  cube    x times the down-projections, columns dealt to the cores                       -> workspace of the step
//   S2  vector  RmsNorm and quantisation of the query latent, tokens dealt to the AIVs         -> q_norm, q_norm_scale
//   S3  cube    head by head, heads dealt to the cores: int8 up-projection                     -> workspace of the core
//   S4  vector  dequantisation, RoPE; the two AIVs of the core share the tokens                -> workspace of the core
//   S5  cube    the nope part times w_uk, or the indexer's query times the Hadamard matrix
//   S6  vector  quantisation of the indexer's query
// A head stays on one AI core from S3 to S6, so only S1 and S2 need all cores. The cube runs S3 of a head before S5 of
// the head before it, so that it has work while the vector units are at S4. The indexer's keys of a core's own tokens
// are one more item of this list, without S3.
#ifndef MS_DSV32_ASCENDC_PROLOG_H_
#define MS_DSV32_ASCENDC_PROLOG_H_

#include "copy.h"
#include "prolog_tiling.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

// CrossCore flags. The modes are mixed on no id.
enum PrologFlag : int64_t {
  kProjected = 0,    // S1 of this core is done
  kLatentReady = 1,  // S2 of all cores is done
  kAccumulated = 2,  // S3 of an item; S5 of the item before the last one has read its operands
  kQueryReady = 3,   // S4 of an item
  kTurned = 4,       // S5 of an item that S6 waits for
  kAllVectors = 5,   // barrier of all AIVs
};

using GmAddress = GM_ADDR;  // GM_ADDR is a macro: it makes a pointer of the first name of a declaration only

// Null where an operator has no such argument. q_norm and q_norm_scale are outputs, inputs or workspace.
struct PrologArguments {
  GmAddress x, w_dq, w_uq_qr, dequant_scale, w_uk, w_dkv_kr, gamma_cq, gamma_ckv, cos, sin, cache_index;
  GmAddress kv_cache, kr_cache, k_scale_cache;
  GmAddress w_qb, w_qb_scale, wk, w_proj, ln_gamma_k, ln_beta_k, hadamard_q, hadamard_k, k_cache, k_cache_scale;
  GmAddress q_norm, q_norm_scale, query_nope, query_rope, q_int8, q_scale, weights;
  GmAddress workspace;  // the user's part
};

enum class PrologKind { kMlaHead, kIndexerHead, kIndexerKeys };
struct PrologItem {
  PrologKind kind;
  uint32_t head;
};

// Begin of the share of `part` when `count` things are dealt whole: the first owners, or the last ones, get one more.
__aicore__ inline uint32_t FrontBegin(uint32_t count, uint32_t part, uint32_t parts) {
  return part * (count / parts) + Smaller(part, count % parts);
}
__aicore__ inline uint32_t BackBegin(uint32_t count, uint32_t part, uint32_t parts) {
  return count - FrontBegin(count, parts - part, parts);
}

// The items of one AI core, the same for each step. What is left over of the columns of S1, of the MLA heads and of the
// indexer's heads goes to different cores: columns to the first ones, MLA heads to the last ones, indexer heads to the
// first ones, or to the last ones where no MLA heads are there. With 24 cores that makes 6 columns and 5 heads, or 5
// and 6, never 6 and 6.
class PrologItems {
 public:
  __aicore__ inline void Init(const PrologTiling& tiling, bool mla, bool indexer, uint32_t core) {
    mla_begin_ = BackBegin(tiling.n_q, core, tiling.cores);
    mla_count_ = BackBegin(tiling.n_q, core + 1, tiling.cores) - mla_begin_;
    const uint32_t heads = indexer ? kIdxNHeads : 0;
    indexer_begin_ = mla ? FrontBegin(heads, core, tiling.cores) : BackBegin(heads, core, tiling.cores);
    indexer_count_ =
        (mla ? FrontBegin(heads, core + 1, tiling.cores) : BackBegin(heads, core + 1, tiling.cores)) - indexer_begin_;
    count_ = mla_count_ + indexer_count_ + (indexer ? 1 : 0);
    // The keys come before the last head, not behind it: the last item runs through its stages with nothing beside it.
    keys_ = !indexer ? count_ : count_ > 1 ? count_ - 2 : 0;
  }
  __aicore__ inline uint32_t Count() const { return count_; }
  __aicore__ inline PrologItem At(uint32_t i) const {
    if (i == keys_) {
      return {PrologKind::kIndexerKeys, 0};
    }
    i -= i > keys_ ? 1 : 0;
    if (i < mla_count_) {
      return {PrologKind::kMlaHead, mla_begin_ + i};
    }
    return {PrologKind::kIndexerHead, indexer_begin_ + i - mla_count_};
  }

 private:
  uint32_t mla_begin_ = 0, mla_count_ = 0, indexer_begin_ = 0, indexer_count_ = 0, count_ = 0, keys_ = 0;
};

// Addresses in the workspace.
class PrologWorkspace {
 public:
  __aicore__ inline void Init(GM_ADDR base, const PrologTiling& tiling, uint32_t core) {
    step_ = base;
    head_ = base + tiling.head_offset + core * kHeadSlots * tiling.head_bytes;
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Latent(const PrologTiling& t, uint32_t step) const {
    return Global<bfloat16_t>(Step(t, step) + t.latent_offset, t.token_step * kQLoraRank);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> KeyValue(const PrologTiling& t, uint32_t step) const {
    return Global<bfloat16_t>(Step(t, step) + t.key_value_offset, t.token_step * kLatentDim);
  }
  __aicore__ inline GlobalTensor<float> IndexKey(const PrologTiling& t, uint32_t step) const {
    return Global<float>(Step(t, step) + t.index_key_offset, t.token_step * kIdxHeadDim);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Weights(const PrologTiling& t, uint32_t step) const {
    return Global<bfloat16_t>(Step(t, step) + t.weights_offset, t.token_step * kIdxNHeads);
  }
  __aicore__ inline GlobalTensor<int32_t> Sums(const PrologTiling& t, uint32_t item) const {
    return Global<int32_t>(Head(t, item), t.token_step * kQHeadDim);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Query(const PrologTiling& t, uint32_t item) const {
    return Global<bfloat16_t>(Head(t, item) + t.query_offset, t.token_step * kNopeDim);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Turned(const PrologTiling& t, uint32_t item) const {
    return Global<bfloat16_t>(Head(t, item) + t.turned_offset, t.token_step * kIdxHeadDim);
  }

 private:
  __aicore__ inline GM_ADDR Step(const PrologTiling& t, uint32_t step) const {
    return step_ + (step % kStepSlots) * t.step_bytes;
  }
  __aicore__ inline GM_ADDR Head(const PrologTiling& t, uint32_t item) const {
    return head_ + (item % kHeadSlots) * t.head_bytes;
  }
  GM_ADDR step_ = nullptr;
  GM_ADDR head_ = nullptr;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_PROLOG_H_
