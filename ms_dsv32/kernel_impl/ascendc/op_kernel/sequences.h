// Tells which tokens of a call belong to which sequence, and how many keys they see.
#ifndef MS_DSV32_ASCENDC_SEQUENCES_H_
#define MS_DSV32_ASCENDC_SEQUENCES_H_

#include "copy.h"

namespace ms_dsv32::ascendc {

using namespace AscendC;

// Keys that a token sees: the last token of a sequence sees all of its keys, and each token before it one key fewer.
// `later` counts the tokens between. A token with fewer keys than that sees none.
__aicore__ inline constexpr uint32_t VisibleKeys(uint32_t last_sees, uint32_t later) {
  return last_sees > later ? last_sees - later : 0;
}

// A group: neighbouring tokens of one sequence.
struct TokenGroup {
  uint32_t sequence, token, tokens;
  uint32_t offset, sequence_tokens;  // of the first token among those of its sequence, and how many these are
  uint32_t length;                   // keys of the sequence
  uint32_t visible;                  // keys that the last token sees
};

// The tokens of a call in groups of at most kGroup. The groups of a sequence are as equal as whole tokens allow. The
// tokens of a sequence follow those of the sequence before it. Each sequence has s1 tokens, or as many as
// query_act_seqs says. Tokens after the last sequence are padding and belong to no group.
template <uint32_t kGroup>
class Sequences {
 public:
  __aicore__ inline Sequences(uint32_t t, uint32_t b, uint32_t s1, uint32_t ragged, GM_ADDR kv_act_seqs,
                              GM_ADDR query_act_seqs)
      : b_(b), ragged_(ragged != 0), tokens_(t), most_(s1), count_(s1) {
    lengths_ = Global<int32_t>(kv_act_seqs, b);
    if (!ragged_) {
      groups_ = b * CeilDiv(s1, kGroup);
      singles_ = s1 == 1 ? groups_ : 0;
      return;
    }
    if (b == 0) {
      tokens_ = 0;
      return;
    }
    counts_ = Global<int32_t>(query_act_seqs, b);
    Count(t, query_act_seqs);
  }

  __aicore__ inline uint32_t Tokens() const { return tokens_; }  // of all sequences
  __aicore__ inline uint32_t Groups() const { return groups_; }
  // So many groups at the end are the only tokens of their sequences.
  __aicore__ inline uint32_t Singles() const { return singles_; }
  // No group has more tokens.
  __aicore__ inline uint32_t MostTokens() const { return Min(most_, kGroup); }

  // Expects that the next group that is looked up is among the last ones. Only for a ragged call that has a group.
  __aicore__ inline void SeekLast() {
    if (groups_ == 0) {
      return;
    }
    sequence_ = b_ - 1;
    count_ = static_cast<uint32_t>(counts_.GetValue(sequence_));
    first_group_ = groups_ - CeilDiv(count_, kGroup);
    first_token_ = tokens_ - count_;
  }

  // Group `index` < Groups().
  __aicore__ MS_DSV32_NOINLINE TokenGroup Group(uint32_t index) const {
    if (ragged_) {
      Seek(index);
    }
    const uint32_t parts = CeilDiv(count_, kGroup);
    TokenGroup group;
    group.sequence = ragged_ ? sequence_ : index / parts;
    const uint32_t part = ragged_ ? index - first_group_ : index % parts;
    group.offset = ShareBegin(count_, part, parts);
    group.token = (ragged_ ? first_token_ : group.sequence * count_) + group.offset;
    group.tokens = ShareBegin(count_, part + 1, parts) - group.offset;
    group.sequence_tokens = count_;
    const int32_t length = lengths_.GetValue(group.sequence);
    group.length = length > 0 ? static_cast<uint32_t>(length) : 0;
    const uint32_t later = count_ - group.offset - group.tokens;
    group.visible = VisibleKeys(group.length, later);
    return group;
  }

 private:
  // Counts tokens and groups. If a sequence has a negative number of tokens, or all have more tokens together than
  // there are, no sequence has any: the host cannot check numbers that it does not see. Each read takes the scalar unit
  // long, so that two numbers are read at once where they lie on 8 bytes.
  __aicore__ MS_DSV32_NOINLINE void Count(uint32_t t, GM_ADDR query_act_seqs) {
    tokens_ = 0;
    count_ = static_cast<uint32_t>(counts_.GetValue(0));
    const uint32_t first = reinterpret_cast<uint64_t>(query_act_seqs) % 8 == 0 ? 0 : 1;
    const GlobalTensor<uint64_t> pairs = Global<uint64_t>(query_act_seqs + first * 4, (b_ - first) / 2);
    bool valid = true;
    for (uint32_t sequence = 0; valid && sequence < b_;) {
      if (sequence < first || sequence + 1 == b_) {
        valid = Add(counts_.GetValue(sequence), t);
        ++sequence;
      } else {
        const uint64_t pair = pairs.GetValue((sequence - first) / 2);
        valid = Add(static_cast<int32_t>(static_cast<uint32_t>(pair)), t) &&
                Add(static_cast<int32_t>(static_cast<uint32_t>(pair >> 32)), t);
        sequence += 2;
      }
    }
    if (!valid) {
      tokens_ = groups_ = singles_ = 0;
    }
  }
  __aicore__ inline bool Add(int32_t count, uint32_t t) {
    if (count < 0 || static_cast<uint32_t>(count) > t - tokens_) {
      return false;
    }
    tokens_ += static_cast<uint32_t>(count);
    groups_ += CeilDiv(static_cast<uint32_t>(count), kGroup);
    singles_ = count > 1 ? 0 : singles_ + static_cast<uint32_t>(count);
    most_ = Max(most_, static_cast<uint32_t>(count));
    return true;
  }

  // Goes from the sequence that was looked up last to the sequence of a group. A core looks up each of its groups
  // several times, and its groups are some places apart, so that the way is short.
  __aicore__ MS_DSV32_NOINLINE void Seek(uint32_t index) const {
    while (index < first_group_) {
      count_ = static_cast<uint32_t>(counts_.GetValue(--sequence_));
      first_group_ -= CeilDiv(count_, kGroup);
      first_token_ -= count_;
    }
    while (index - first_group_ >= CeilDiv(count_, kGroup)) {
      first_group_ += CeilDiv(count_, kGroup);
      first_token_ += count_;
      count_ = static_cast<uint32_t>(counts_.GetValue(++sequence_));
    }
  }

  GlobalTensor<int32_t> lengths_, counts_;
  uint32_t b_;
  bool ragged_;
  uint32_t tokens_, groups_ = 0, singles_ = 0, most_;  // most_: the most tokens of a sequence
  // In a ragged call, the sequence that was looked up last: its number, its tokens, and the groups and tokens before
  // it. In other calls, count_ is s1.
  mutable uint32_t count_, sequence_ = 0, first_group_ = 0, first_token_ = 0;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_SEQUENCES_H_
