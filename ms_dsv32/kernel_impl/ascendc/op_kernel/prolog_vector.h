// The vector half of the prologs: S2, S4 and S6 of prolog_plan.h.
#ifndef MS_DSV32_ASCENDC_PROLOG_VECTOR_H_
#define MS_DSV32_ASCENDC_PROLOG_VECTOR_H_

#include "dequant.h"
#include "norm.h"
#include "prolog_plan.h"
#include "quant.h"
#include "rope.h"
#include "scatter.h"

namespace ms_dsv32::ascendc {

template <bool kMla, bool kIndexer>
class PrologVector {
 public:
  __aicore__ inline PrologVector(TPipe& pipe, const PrologArguments& arguments, const PrologTiling& tiling)
      : a_(arguments),
        t_(tiling),
        vector_(static_cast<uint32_t>(GetBlockIdx())),
        sub_(static_cast<uint32_t>(GetSubBlockIdx())),
        core_(vector_ / kVectorsPerCore),
        steps_(CeilDiv(tiling.t, tiling.token_step)),
        items_(tiling, kIndexer, core_, steps_),
        workspace_(arguments.workspace, tiling, core_),
        arena_(pipe, kUbBytes) {}

  // S2 of the query latent is one step ahead, as S1 of the cube is. It comes between nope parts, when the cube has long
  // items to go on with; in the last step S2 of the keys comes there. Cores get there at different times, so nobody
  // waits there: an AIV tells the others of S1 before the items, and hears of their S2 before its last item.
  __aicore__ inline void Run() {
    if (steps_ == 0) {
      return;
    }
    if constexpr (kIndexer) {
      FetchBytes(a_.hadamard_q, kIdxHeadDim * kIdxHeadDim * 2, kVectorsPerCore * t_.cores);
      FetchBytes(a_.hadamard_k, kIdxHeadDim * kIdxHeadDim * 2, kVectorsPerCore * t_.cores);
    }
    Fetch(0);
    NotifyCubesOfReads(kAllVectors, kFetched);
    Fetch(1);
    if (core_ < t_.projectors) {
      AccompanyProjections();
      return;
    }
    if constexpr (kMla) {
      AwaitCore(kProjected);
      ArriveAtAllVectors(kAllProjected);
      NormLatent(0);
      TellOfLatent();
    }
    for (uint32_t step = 0; step < steps_; ++step) {
      const bool last = step + 1 == steps_;
      const uint32_t begin = items_.Begin(step), own_end = items_.Begin(step + 1);
      const uint32_t end = own_end + (last ? items_.Lag() : 0);
      uint32_t middle = begin;
      if constexpr (kMla) {
        if (!last) {
          KeyValue(step);
        }
      }
      if (t_.projectors == 0) {
        Fetch(step + 2);
      }
      if constexpr (kMla) {
        const uint32_t after = step + 2 < steps_ ? kNopesInTurn : kNopesAtEnd;
        middle += items_.NopesBegin(step);
        middle = own_end - middle > after ? own_end - after : middle;
        // Not after the last item: the cube asks for the latents before it goes on with what S6 of an item waits for.
        middle = middle == own_end && middle > begin ? middle - 1 : middle;
        if (!last) {
          AwaitCore(kProjected);
          ArriveAtAllVectors(kAllProjected);
        }
        Items(step, begin, middle, true);
        if (last) {
          KeyValue(step);
        } else {
          NormLatent(step + 1);
          if (middle < end) {
            tell_at_ = end - 1;
          } else {
            TellOfLatent();
          }
        }
      }
      Items(step, middle, end, middle == begin);
    }
  }

 private:
  // Nope parts after S2 of the next step: few while the cube still has S1 to do, more in the last steps, which have no
  // S1 left.
  static constexpr uint32_t kNopesInTurn = 2, kNopesAtEnd = 4;
  static constexpr uint32_t kLatentRows = 4;              // rows of 1536 at a time: 24 KiB of float, for each part of K
  static constexpr uint32_t kKeyRows = 8;                 // rows of 512 at a time: 32 groups of 128
  static constexpr uint32_t kHeadRows = 32;               // rows of a head at a time: 16 KiB of sums
  static constexpr uint32_t kIndexKeyRows = 4;            // all parts and cos, sin of 4 keys fit into a slot of sums
  static constexpr uint32_t kInSlots = 3, kOutSlots = 4;  // so much is under way to and from UB
  static constexpr uint32_t kSlotBytes = kHeadRows * kQkNopeHeadDim * 4;

  // Flags of events between two pipes: kSlotFlag is the first one of the slots, kNextFlag belongs to the constants of
  // the next step, and kWaitFlag is for waits that follow at once.
  static constexpr int32_t kWaitFlag = 2, kSlotFlag = 3, kNextFlag = 6;

  // Sets the tokens of a step, and this AIV's own among them for the stages that deal tokens to all AIVs.
  __aicore__ inline void SetStep(uint32_t step) {
    t0_ = step * t_.token_step;
    m_ = Min(t_.token_step, t_.t - t0_);
    own_begin_ = OwnBegin(t_, m_, vector_);
    own_end_ = OwnBegin(t_, m_, vector_ + 1);
  }

  // Brings x of a step, and latents that are an input, from HBM into L2, each AIV a share. All AICs read the same parts
  // of them at the same time. At the rate that one core gets from HBM, 128 tokens would take longer than the rest of
  // S1.
  __aicore__ MS_DSV32_NOINLINE void Fetch(uint32_t step) {
    const uint32_t t0 = step * t_.token_step;
    if (t0 >= t_.t) {
      return;
    }
    const uint32_t tokens = Min(t_.token_step, t_.t - t0);
    // Step 3 is fetched among the items of step 1, which have all of UB.
    const bool by_slots = kOnePhase && step > 2;
    if (step > 0 && !by_slots) {
      BeginPhase();
    }
    FetchBytes(a_.x + static_cast<uint64_t>(t0) * kH * 2, tokens * kH * 2, kVectorsPerCore * t_.cores, by_slots);
    if constexpr (!kMla) {
      FetchBytes(a_.q_norm + static_cast<uint64_t>(t0) * kQLoraRank, tokens * kQLoraRank, kVectorsPerCore * t_.cores,
                 by_slots);
    }
  }
  // Reads this AIV's share, one of `vectors`, of `bytes`, which are whole lines of 512. It reads to UB that is free, or
  // to slots of sums, and does not use what it reads.
  __aicore__ MS_DSV32_NOINLINE void FetchBytes(GM_ADDR address, uint32_t bytes, uint32_t vectors,
                                               bool by_slots = false) {
    constexpr uint32_t kLine = 512;
    const uint32_t most = by_slots ? kSlotBytes / kLine : 128;  // lines of a copy
    const GlobalTensor<int8_t> source = Global<int8_t>(address, bytes);
    const uint32_t lines = bytes / kLine, end = ShareBegin(lines, vector_ + 1, vectors);
    for (uint32_t line = ShareBegin(lines, vector_, vectors); line < end; line += most) {
      const uint32_t count = Min(most, end - line) * kLine;
      const GlobalTensor<int8_t> from = source[static_cast<uint64_t>(line) * kLine];
      if (by_slots) {
        CopyIn(in_[in_slots_.Acquire() * kSlotBytes / 4].ReinterpretCast<int8_t>(), from, count);
        in_slots_.Publish();
        in_slots_.Take();
        in_slots_.Release();
        continue;
      }
      if (arena_.Used() + count > kUbBytes) {
        BeginPhase();
      }
      CopyIn(arena_.Take<int8_t>(count), from, count);
    }
  }

  // For the AIVs of a core that does only S1. They take part in the barriers of all AIVs, and bring what the cubes read
  // of the steps from the third one on into L2.
  __aicore__ MS_DSV32_NOINLINE void AccompanyProjections() {
    FetchPart(2);
    for (uint32_t step = 0; step < steps_; ++step) {
      AwaitCore(kProjected);
      ArriveAtAllVectors(kAllVectors);
      LeaveAllVectors(kAllVectors);
      CrossCoreSetFlag<2, PIPE_MTE2>(kQueryReady);
      if (step > 0) {
        if (step > 1) {
          LeaveAllVectors(kAllKeys);
        }
        ArriveAtAllVectors(kAllKeys);
      }
      FetchPart(step + 3);
    }
    LeaveAllVectors(kAllKeys);
  }
  // Fetches what the core's cube reads of x in a step, and a share of the latents.
  __aicore__ MS_DSV32_NOINLINE void FetchPart(uint32_t step) {
    const uint32_t t0 = step * t_.token_step;
    if (t0 >= t_.t) {
      return;
    }
    constexpr uint32_t kRows = 48;  // rows of a part of x, 3584 bytes each, that fit into UB: 168 of 191.75 KiB
    const uint32_t tokens = Min(t_.token_step, t_.t - t0), end = ShareBegin(tokens, sub_ + 1, kVectorsPerCore);
    const GlobalTensor<bfloat16_t> x = Global<bfloat16_t>(a_.x, static_cast<uint64_t>(t_.t) * kH);
    for (uint32_t r = ShareBegin(tokens, sub_, kVectorsPerCore); r < end; r += kRows) {
      const uint32_t rows = Min(kRows, end - r);
      BeginPhase();
      CopyRowsIn(arena_.Take<bfloat16_t>(rows * kPartRows), x[static_cast<uint64_t>(t0 + r) * kH + core_ * kPartRows],
                 rows, kPartRows, kH, kPartRows);
    }
    FetchBytes(a_.q_norm + static_cast<uint64_t>(t0) * kQLoraRank, tokens * kQLoraRank,
               kVectorsPerCore * t_.projectors);
  }

  // Starts a phase with all of UB: nothing of the phase before is under way.
  __aicore__ inline void BeginPhase() {
    PipeBarrier<PIPE_ALL>();
    arena_.Reset();
  }

  // Loads bfloat16 values [count] from GM as float, through `raw`. No other copy may be under way.
  __aicore__ MS_DSV32_NOINLINE void LoadFloats(const LocalTensor<float>& dst, const LocalTensor<bfloat16_t>& raw,
                                               const GlobalTensor<bfloat16_t>& src, uint32_t count) {
    WaitPipe<HardEvent::V_MTE2>(kWaitFlag);
    CopyIn(raw, src, count);
    WaitPipe<HardEvent::MTE2_V>(kWaitFlag);
    Cast(dst, raw, RoundMode::CAST_NONE, count);
    PipeBarrier<PIPE_V>();
  }

  // parts[0, count) += the other parts of K, in their order, which are `count` apart.
  __aicore__ MS_DSV32_NOINLINE void SumParts(const LocalTensor<float>& parts, uint32_t count) {
    for (uint32_t part = 1; part < kProjectParts; ++part) {
      Add(parts, parts, parts[part * count], static_cast<int32_t>(count));
      PipeBarrier<PIPE_V>();
    }
  }

  // Copies all parts of sums [count], which lie at `offset` of each part, one after the other by one copy.
  __aicore__ MS_DSV32_NOINLINE void CopyPartsIn(const LocalTensor<float>& dst, GM_ADDR sums, uint32_t offset,
                                                uint32_t count) {
    const uint32_t part = static_cast<uint32_t>(t_.part_bytes) / 4;
    CopyRowsIn(dst, Global<float>(sums, (kProjectParts - 1) * part + offset + count)[offset], kProjectParts, count,
               part, count);
  }

  // S2 (1) query latent: RmsNorm, quantisation per token. The constants of the items stay in UB.
  __aicore__ MS_DSV32_NOINLINE void NormLatent(uint32_t step) {
    SetStep(step);
    BeginPhase();
    TakeConstants();
    constexpr uint32_t kCount = kLatentRows * kQLoraRank;
    const LocalTensor<float> parts = arena_.Take<float>(kProjectParts * kCount);
    const LocalTensor<bfloat16_t> rounded = arena_.Take<bfloat16_t>(kCount);
    const LocalTensor<float> work = arena_.Take<float>(kCount);
    const LocalTensor<int8_t> q = arena_.Take<int8_t>(kCount);
    const LocalTensor<float> scale = arena_.Take<float>(kLanes);
    const LocalTensor<float> gamma = arena_.Take<float>(kQLoraRank);
    RowScratch scratch;
    scratch.Place(arena_);
    const GlobalTensor<int8_t> q_norm = Global<int8_t>(a_.q_norm, static_cast<uint64_t>(t_.t) * kQLoraRank);
    const GlobalTensor<float> q_norm_scale = Global<float>(a_.q_norm_scale, t_.t);
    CopyIn(rounded, Global<bfloat16_t>(a_.gamma_cq, kQLoraRank), kQLoraRank);
    LeaveAllVectors(kAllProjected);
    for (uint32_t r = own_begin_; r < own_end_; r += kLatentRows) {
      const uint32_t rows = Min(kLatentRows, own_end_ - r);
      const uint32_t count = rows * kQLoraRank;
      WaitPipe<HardEvent::V_MTE2>(kWaitFlag);
      CopyPartsIn(parts, workspace_.Parts(t_, step) + t_.latent_offset, r * kQLoraRank, count);
      WaitPipe<HardEvent::MTE2_V>(kWaitFlag);
      if (r == own_begin_) {
        Cast(gamma, rounded, RoundMode::CAST_NONE, kQLoraRank);
        PipeBarrier<PIPE_V>();
      }
      SumParts(parts, count);
      const LocalTensor<float> x = parts;
      RoundBf16(rounded, x, count);
      RmsNorm<kQLoraRank>(x, work, gamma, t_.epsilon_cq, scratch, rows);
      RoundBf16(rounded, x, count);
      WaitPipe<HardEvent::MTE3_V>(kWaitFlag);
      QuantRows<kQLoraRank>(q, scale, x, work, scratch, rows);
      WaitPipe<HardEvent::V_MTE3>(kWaitFlag);
      CopyOut(q_norm[static_cast<uint64_t>(t0_ + r) * kQLoraRank], q, count);
      CopyOut(q_norm_scale[t0_ + r], scale, rows);
    }
    ArriveAtAllVectors(kAllNormed);
  }
  // Tells the cube that S2 of all AIVs is done, so that it may load the results.
  __aicore__ inline void TellOfLatent() {
    LeaveAllVectors(kAllNormed);
    NotifyCube(kLatentReady);
  }

  // S2 (5) latent key: RmsNorm, quantisation per group of 128; RoPE of the rope key; (6) cache rows
  __aicore__ MS_DSV32_NOINLINE void KeyValue(uint32_t step) {
    SetStep(step);
    if (own_begin_ == own_end_) {
      return;
    }
    BeginPhase();
    TakeConstants();
    constexpr uint32_t kCount = kKeyRows * kKvLoraRank;
    constexpr uint32_t kGroups = kKeyRows * kKScaleGroups;
    const LocalTensor<float> parts = arena_.Take<float>(kProjectParts * kKeyRows * kKeyDim);
    const LocalTensor<bfloat16_t> raw = arena_.Take<bfloat16_t>(kKeyRows * kKeyDim);
    const LocalTensor<bfloat16_t> rounded = arena_.Take<bfloat16_t>(kCount);
    const LocalTensor<float> x = arena_.Take<float>(kCount);
    const LocalTensor<float> work = arena_.Take<float>(kCount);
    const LocalTensor<int8_t> q = arena_.Take<int8_t>(kCount);
    const LocalTensor<float> scale = arena_.Take<float>(kLanes);
    const LocalTensor<float> scale_blocks = arena_.Take<float>(kGroups * 8);
    const LocalTensor<float> gamma = arena_.Take<float>(kKvLoraRank);
    const LocalTensor<float> cos = arena_.Take<float>(kKeyRows * kRopeDim);
    const LocalTensor<float> sin = arena_.Take<float>(kKeyRows * kRopeDim);
    const LocalTensor<bfloat16_t> raw_cos = arena_.Take<bfloat16_t>(kKeyRows * kRopeDim);
    const LocalTensor<bfloat16_t> raw_sin = arena_.Take<bfloat16_t>(kKeyRows * kRopeDim);
    const LocalTensor<float> rope = arena_.Take<float>(kKeyRows * kRopeDim);
    const LocalTensor<float> pairs = arena_.Take<float>(kKeyRows * kRopeDim);
    const LocalTensor<float> turned = arena_.Take<float>(kKeyRows * kRopeDim);
    const LocalTensor<float> rope_work = arena_.Take<float>(kKeyRows * kRopeDim);
    const LocalTensor<bfloat16_t> key_rope = arena_.Take<bfloat16_t>(kKeyRows * kRopeDim);
    const LocalTensor<int64_t> index = arena_.Take<int64_t>(kMaxTokenStep);
    RowScratch scratch;
    scratch.Place(arena_);
    const uint64_t tokens = t_.t;
    const GlobalTensor<bfloat16_t> gm_cos = Global<bfloat16_t>(a_.cos, tokens * kRopeDim);
    const GlobalTensor<bfloat16_t> gm_sin = Global<bfloat16_t>(a_.sin, tokens * kRopeDim);
    const GlobalTensor<int8_t> kv_cache = Global<int8_t>(a_.kv_cache, t_.cache_rows * kKvLoraRank);
    const GlobalTensor<bfloat16_t> kr_cache = Global<bfloat16_t>(a_.kr_cache, t_.cache_rows * kRopeDim);
    const GlobalTensor<float> k_scale_cache = Global<float>(a_.k_scale_cache, t_.cache_rows * kKScaleGroups);
    CacheRows<kMaxTokenStep> cache_rows;
    cache_rows.Place(index, arena_);
    LoadCacheRows(cache_rows, index, m_);
    LoadFloats(gamma, rounded, Global<bfloat16_t>(a_.gamma_ckv, kKvLoraRank), kKvLoraRank);
    for (uint32_t r = own_begin_; r < own_end_; r += kKeyRows) {
      const uint32_t rows = Min(kKeyRows, own_end_ - r);
      const uint64_t token = t0_ + r;
      WaitPipe<HardEvent::V_MTE2>(kWaitFlag);
      CopyPartsIn(parts, workspace_.Parts(t_, step) + t_.key_value_offset, r * kKeyDim, rows * kKeyDim);
      CopyIn(raw_cos, gm_cos[token * kRopeDim], rows * kRopeDim);
      CopyIn(raw_sin, gm_sin[token * kRopeDim], rows * kRopeDim);
      WaitPipe<HardEvent::MTE2_V>(kWaitFlag);
      SumParts(parts, rows * kKeyDim);
      Cast(raw, parts, RoundMode::CAST_RINT, rows * kKeyDim);
      PipeBarrier<PIPE_V>();
      for (uint32_t i = 0; i < rows; ++i) {
        Cast(x[i * kKvLoraRank], raw[i * kKeyDim], RoundMode::CAST_NONE, kKvLoraRank);
      }
      Cast(rope, raw[kKvLoraRank], RoundMode::CAST_NONE, static_cast<uint64_t>(kRopeDim), static_cast<uint8_t>(rows),
           UnaryRepeatParams(1, 1, kRopeDim / 8, kKeyDim / 16));
      Cast(cos, raw_cos, RoundMode::CAST_NONE, rows * kRopeDim);
      SpreadSin(sin, raw_sin, rows);
      PipeBarrier<PIPE_V>();
      RmsNorm<kKvLoraRank>(x, work, gamma, t_.epsilon_ckv, scratch, rows);
      RoundBf16(rounded, x, rows * kKvLoraRank);
      WaitPipe<HardEvent::MTE3_V>(kWaitFlag);
      QuantRows<kScaleGroup>(q, scale, x, work, scratch, rows * kKScaleGroups);
      SpreadScalars(scale_blocks, scale, rows * kKScaleGroups);
      RopeInterleaved(turned, rope_work, pairs, rope, cos, sin, rows);
      Cast(key_rope, turned, RoundMode::CAST_RINT, rows * kRopeDim);
      WaitPipe<HardEvent::V_MTE3>(kWaitFlag);
      for (uint32_t i = 0; i < rows; ++i) {
        const int64_t row = cache_rows.Of(r + i);
        if (row < 0) {
          continue;
        }
        CopyOut(kv_cache[row * kKvLoraRank], q[i * kKvLoraRank], kKvLoraRank);
        CopyOut(kr_cache[row * kRopeDim], key_rope[i * kRopeDim], kRopeDim);
        // The scale of each group is the first float of a block of its own.
        CopyRowsOut(k_scale_cache[row * kKScaleGroups], scale_blocks[i * kKScaleGroups * 8], kKScaleGroups, 1, 1, 8);
      }
    }
  }

  template <typename Rows>
  __aicore__ MS_DSV32_NOINLINE void LoadCacheRows(Rows& rows, const LocalTensor<int64_t>& index, uint32_t tokens) {
    WaitPipe<HardEvent::V_MTE2>(kWaitFlag);
    CopyIn(index, Global<int64_t>(a_.cache_index, t_.t)[t0_], tokens);
    WaitPipe<HardEvent::MTE2_S>(kWaitFlag);
    WaitPipe<HardEvent::MTE2_V>(kWaitFlag);
    rows.Load(tokens, t_.cache_rows);
  }

  // Without the MLA half all items are one phase, from the first step to the last, and UB keeps what they need. Then
  // the cache rows of a step are there before its items. S6 of its keys, which may come as late as in the step after
  // the next, does not wait for them.
  static constexpr bool kOnePhase = !kMla;
  static constexpr uint32_t kRowSlots = kOnePhase ? 4 : 1;
  // In one phase, S6 of the keys waits only for S6 of the keys two steps before. The keys of the next step may be
  // written at the same time, so S6 must know their rows too.
  static constexpr uint32_t kRowSteps = kOnePhase ? 2 : 1;
  using KeyRows = CacheRows<kRowSteps * kMaxTokenStep>;
  __aicore__ inline uint32_t RowTokens(uint32_t t0) const { return Min(kRowSteps * t_.token_step, t_.t - t0); }
  // Resolves the cache rows of this AIV's own tokens of the step that SetStep has chosen.
  __aicore__ inline void ResolveRows(uint32_t step) {
    if (own_begin_ < own_end_) {
      cache_rows_[step % kRowSlots].Resolve(own_begin_, own_end_);
    }
  }

  // Both AIVs of a core work on every item: AIV 0 on the first half of the step's tokens, AIV 1 on the second.
  __aicore__ inline uint32_t HalfBegin(uint32_t tokens) const {
    return sub_ == 0 ? 0 : CeilDiv(tokens, kVectorsPerCore);
  }
  __aicore__ inline uint32_t HalfEnd(uint32_t tokens) const {
    return sub_ == 0 ? CeilDiv(tokens, kVectorsPerCore) : tokens;
  }
  __aicore__ inline uint32_t HalfBegin() const { return HalfBegin(m_); }
  __aicore__ inline uint32_t HalfEnd() const { return HalfEnd(m_); }

  // Takes the UB of the items' constants, which keep their place whatever comes between the items.
  __aicore__ inline void TakeConstants() {
    constexpr uint32_t kHalfRows = kMaxTokenStep / kVectorsPerCore;
    cos_ = arena_.Take<float>(kHalfRows * kRopeDim);
    sin_ = arena_.Take<float>(kHalfRows * kRopeDim);
    token_blocks_ = arena_.Take<float>(kHalfRows * 8);
    if constexpr (kIndexer) {
      gamma_ = arena_.Take<float>(kIdxHeadDim);
      beta_ = arena_.Take<float>(kIdxHeadDim);
    }
  }

  // S4 of items [begin, end) of a step, each followed by S6 of an earlier item. `first` says that the constants of the
  // step are not in UB yet.
  __aicore__ MS_DSV32_NOINLINE void Items(uint32_t step, uint32_t begin, uint32_t end, bool first) {
    if (begin == end) {
      return;
    }
    SetStep(step);
    if (!kOnePhase || step == 0) {
      BeginPhase();
      TakeItems();
      if (first) {
        LoadConstants();
      }
      if constexpr (kOnePhase) {
        if (own_begin_ < own_end_) {
          LoadCacheRows(cache_rows_[0], index_[0], RowTokens(0));
        }
        ResolveRows(0);
      }
      in_slots_.Begin();
      out_slots_.Begin();
    } else {
      NextConstants(step);
    }
    if (kOnePhase && step + 1 < steps_) {
      SetFlag<HardEvent::V_MTE2>(kNextFlag);
    }
    for (uint32_t i = begin; i < end; ++i) {
      if (kOnePhase && step + 1 < steps_ && i + 1 == end) {
        LoadNextConstants(step + 1);
      }
      if (i == tell_at_) {
        TellOfLatent();
        tell_at_ = kNever;
      }
      if (kIndexer && i == items_.Begin(step) && (t_.projectors == 0 || step == 0)) {
        // The keys wait for S1 of all cores. Nothing before them does, so this AIV tells of its core's S1 here.
        if constexpr (!kMla) {
          AwaitCore(kProjected);
        }
        ArriveAtAllVectors(kAllVectors);
      }
      // Where S5 comes in the middle of S3, the operand of S6 is there before that of S4.
      if (t_.projectors > 0 && (i + 1 >= items_.Total() || items_.At(i).kind == PrologKind::kIndexerHead)) {
        FinishAll(i);
      }
      if (i < items_.Total()) {
        SetStep(step);
        AwaitCore(kAccumulated);
        Prepare(i);
        NotifyCube(kQueryReady);
        if constexpr (kIndexer) {
          const PrologItem item = items_.At(i);
          if (item.kind == PrologKind::kIndexerKeys) {
            FollowKeys(item.step);
          }
        }
      }
      if constexpr (kIndexer) {
        if (i + 1 == end && WeightsLate<kMla>(t_)) {
          LateHeadWeights(step);
        }
      }
      FinishAll(i);
    }
    if (!kOnePhase || step + 1 == steps_) {
      in_slots_.End();
      out_slots_.End();
    }
  }
  // Takes the UB of the items.
  __aicore__ MS_DSV32_NOINLINE void TakeItems() {
    constexpr uint32_t kRopeCount = kHeadRows * kRopeDim;
    TakeConstants();
    in_ = arena_.Take<int32_t>(kInSlots * kSlotBytes / 4);
    channel_ = arena_.Take<float>(kInSlots * kQkNopeHeadDim);
    out_ = arena_.Take<bfloat16_t>(kOutSlots * kHeadRows * kQkNopeHeadDim);
    rope_out_ = arena_.Take<bfloat16_t>(kOutSlots * kRopeCount);
    rope_ = arena_.Take<float>(kRopeCount);
    pairs_ = arena_.Take<float>(kRopeCount);
    turned_ = arena_.Take<float>(2 * kRopeCount);
    rope_work_ = turned_[kRopeCount];
    if constexpr (kIndexer) {
      x_ = turned_;  // S6 and LayerNorm do not run at the same time as RoPE
      scale_ = arena_.Take<float>(kLanes);
      next_scales_ = arena_.Take<float>(kLanes);
      half_scale_ = arena_.Take<half>(kLanes);
      for (uint32_t i = 0; i < kRowSlots; ++i) {
        index_[i] = arena_.Take<int64_t>(kRowSteps * kMaxTokenStep);
        cache_rows_[i].Place(index_[i], arena_);
      }
      scratch_.Place(arena_);
    }
  }

  // S4 of item i
  __aicore__ MS_DSV32_NOINLINE void Prepare(uint32_t i) {
    const PrologItem item = items_.At(i);
    if (item.kind == PrologKind::kIndexerKeys) {
      if constexpr (kIndexer) {
        PrepareKeys(i);
      }
      return;
    }
    for (uint32_t r = HalfBegin(); r < HalfEnd(); r += kHeadRows) {
      const uint32_t rows = Min(kHeadRows, HalfEnd() - r);
      if (item.kind == PrologKind::kMlaNope) {
        MlaNope(i, item.head, r, rows);
      } else if (item.kind == PrologKind::kMlaRope) {
        MlaRope(i, item.head, r, rows);
      } else {
        if constexpr (kIndexer) {
          IndexerHead(i, item.head, r, rows);
        }
      }
    }
  }

  // Every S6 that is due with S4 of item i
  __aicore__ MS_DSV32_NOINLINE void FinishAll(uint32_t i) {
    if constexpr (kIndexer) {
      for (; finished_ < items_.DoneEnd(i); ++finished_) {
        Finish(finished_);
      }
    }
  }
  // S6 of item i
  __aicore__ inline void Finish(uint32_t i) {
    const PrologItem item = items_.At(i);
    SetStep(item.step);
    if (item.kind == PrologKind::kIndexerHead) {
      AwaitCore(kTurned);
      QuantQuery(i, item.head);
    } else if (item.kind == PrologKind::kIndexerKeys) {
      QuantKeys(i);
    }
  }

  // Loads cos, sin and the scales of the latents of this AIV's half of the tokens, and the norm's parameters of the
  // indexer's keys. The raw values pass through the slots of sums, which are empty.
  __aicore__ MS_DSV32_NOINLINE void LoadConstants() {
    constexpr uint32_t kRaw = kMaxTokenStep / kVectorsPerCore * kRopeDim;
    const LocalTensor<bfloat16_t> raw_cos = in_.ReinterpretCast<bfloat16_t>();
    const LocalTensor<bfloat16_t> raw_sin = raw_cos[kRaw];
    const LocalTensor<bfloat16_t> raw_gamma = raw_cos[2 * kRaw];
    const LocalTensor<bfloat16_t> raw_beta = raw_gamma[kIdxHeadDim];
    const uint32_t rows = HalfEnd() - HalfBegin();
    const uint64_t token = t0_ + HalfBegin();
    const uint64_t tokens = t_.t;
    const LocalTensor<float> scales = rope_;
    if (rows > 0) {
      CopyIn(raw_cos, Global<bfloat16_t>(a_.cos, tokens * kRopeDim)[token * kRopeDim], rows * kRopeDim);
      CopyIn(raw_sin, Global<bfloat16_t>(a_.sin, tokens * kRopeDim)[token * kRopeDim], rows * kRopeDim);
      CopyIn(scales, Global<float>(a_.q_norm_scale, tokens)[token], rows);
    }
    if constexpr (kIndexer) {
      CopyIn(raw_gamma, Global<bfloat16_t>(a_.ln_gamma_k, kIdxHeadDim), kIdxHeadDim);
      CopyIn(raw_beta, Global<bfloat16_t>(a_.ln_beta_k, kIdxHeadDim), kIdxHeadDim);
    }
    WaitPipe<HardEvent::MTE2_V>(kWaitFlag);
    if (rows > 0) {
      Cast(cos_, raw_cos, RoundMode::CAST_NONE, rows * kRopeDim);
      SpreadSin(sin_, raw_sin, rows);
      SpreadScalars(token_blocks_, scales, rows);
    }
    if constexpr (kIndexer) {
      Cast(gamma_, raw_gamma, RoundMode::CAST_NONE, kIdxHeadDim);
      Cast(beta_, raw_beta, RoundMode::CAST_NONE, kIdxHeadDim);
    }
    PipeBarrier<PIPE_V>();
  }

  // Loads the constants and the cache rows of the next step. This comes before the last item of a step, so that nothing
  // waits for the copies.
  __aicore__ MS_DSV32_NOINLINE void LoadNextConstants(uint32_t step) {
    const uint32_t t0 = step * t_.token_step, m = Min(t_.token_step, t_.t - t0);
    const uint32_t begin = HalfBegin(m), rows = HalfEnd(m) - begin;
    const uint64_t token = t0 + begin, tokens = t_.t;
    WaitFlag<HardEvent::V_MTE2>(kNextFlag);
    WaitPipe<HardEvent::S_MTE2>(kWaitFlag);  // the scalar unit has read the cache rows whose place these take
    if (rows > 0) {
      CopyIn(rope_.ReinterpretCast<bfloat16_t>(), Global<bfloat16_t>(a_.cos, tokens * kRopeDim)[token * kRopeDim],
             rows * kRopeDim);
      CopyIn(pairs_.ReinterpretCast<bfloat16_t>(), Global<bfloat16_t>(a_.sin, tokens * kRopeDim)[token * kRopeDim],
             rows * kRopeDim);
      CopyIn(next_scales_, Global<float>(a_.q_norm_scale, tokens)[token], rows);
    }
    CopyIn(index_[step % kRowSlots], Global<int64_t>(a_.cache_index, t_.t)[t0], RowTokens(t0));
    SetFlag<HardEvent::MTE2_V>(kNextFlag);
    SetFlag<HardEvent::MTE2_S>(kNextFlag);
  }
  __aicore__ MS_DSV32_NOINLINE void NextConstants(uint32_t step) {
    static_assert(kMaxTokenStep / kVectorsPerCore * kRopeDim * 2 <= kHeadRows * kRopeDim * 4,
                  "raw cos and sin have the places of RoPE");
    const uint32_t rows = HalfEnd() - HalfBegin();
    WaitFlag<HardEvent::MTE2_V>(kNextFlag);
    WaitFlag<HardEvent::MTE2_S>(kNextFlag);
    if (rows > 0) {
      Cast(cos_, rope_.ReinterpretCast<bfloat16_t>(), RoundMode::CAST_NONE, rows * kRopeDim);
      SpreadSin(sin_, pairs_.ReinterpretCast<bfloat16_t>(), rows);
      SpreadScalars(token_blocks_, next_scales_, rows);
    }
    if (own_begin_ < own_end_) {
      cache_rows_[step % kRowSlots].Load(RowTokens(t0_), t_.cache_rows);
    }
    ResolveRows(step);
  }

  // Loads sums [rows, kD] of an item and the scales of its channels, and dequantises the sums in their slot.
  template <uint32_t kD>
  __aicore__ inline LocalTensor<float> Dequantised(uint32_t i, const GlobalTensor<float>& channel_scale, uint32_t r,
                                                   uint32_t rows) {
    const uint32_t slot = in_slots_.Acquire();
    const LocalTensor<int32_t> sums = in_[slot * kSlotBytes / 4];
    const LocalTensor<float> channel = channel_[slot * kQkNopeHeadDim];
    CopyIn(sums, workspace_.Sums(t_, i)[r * kD], rows * kD);
    CopyIn(channel, channel_scale, kD);
    in_slots_.Publish();
    in_slots_.Take();
    return DequantRows<kD>(sums, token_blocks_[(r - HalfBegin()) * 8], channel, rows);
  }

  // S4 (2) dequantisation of the nope part of a head
  __aicore__ MS_DSV32_NOINLINE void MlaNope(uint32_t i, uint32_t head, uint32_t r, uint32_t rows) {
    const uint64_t channels = static_cast<uint64_t>(t_.n_q) * kQHeadDim;
    const LocalTensor<float> x =
        Dequantised<kQkNopeHeadDim>(i, Global<float>(a_.dequant_scale, channels)[head * kQHeadDim], r, rows);
    const LocalTensor<bfloat16_t> out = out_[out_slots_.Acquire() * kHeadRows * kQkNopeHeadDim];
    Cast(out, x, RoundMode::CAST_RINT, rows * kQkNopeHeadDim);
    PipeBarrier<PIPE_V>();
    in_slots_.Release();
    out_slots_.Publish();
    out_slots_.Take();
    CopyOut(workspace_.Query(t_, i)[r * kQkNopeHeadDim], out, rows * kQkNopeHeadDim);
    out_slots_.Release();
  }

  // S4 (2) dequantisation of the rope part, (4) RoPE (interleaved)
  __aicore__ MS_DSV32_NOINLINE void MlaRope(uint32_t i, uint32_t head, uint32_t r, uint32_t rows) {
    const uint64_t channels = static_cast<uint64_t>(t_.n_q) * kQHeadDim;
    const LocalTensor<float> x =
        Dequantised<kRopeDim>(i, Global<float>(a_.dequant_scale, channels)[head * kQHeadDim + kQkNopeHeadDim], r, rows);
    const LocalTensor<bfloat16_t> out = rope_out_[out_slots_.Acquire() * kHeadRows * kRopeDim];
    RoundBf16(out, x, rows * kRopeDim);
    const uint32_t token = (r - HalfBegin()) * kRopeDim;
    RopeInterleaved(turned_, rope_work_, pairs_, x, cos_[token], sin_[token], rows);
    in_slots_.Release();
    Cast(out, turned_, RoundMode::CAST_RINT, rows * kRopeDim);
    PipeBarrier<PIPE_V>();
    out_slots_.Publish();
    out_slots_.Take();
    const uint64_t row = static_cast<uint64_t>(t_.n_q) * kRopeDim;
    CopyRowsOut(Global<bfloat16_t>(a_.q_rope, t_.t * row)[(t0_ + r) * row + head * kRopeDim], out, rows, kRopeDim,
                static_cast<uint32_t>(row), kRopeDim);
    out_slots_.Release();
  }

  // Writes x [rows, 128] to out in bfloat16, with RoPE (half-split) on its first 64 values.
  __aicore__ MS_DSV32_NOINLINE void RoundAndTurn(const LocalTensor<bfloat16_t>& out, const LocalTensor<float>& x,
                                                 const LocalTensor<float>& cos, const LocalTensor<float>& sin,
                                                 uint32_t rows) {
    Cast(out, x, RoundMode::CAST_RINT, rows * kIdxHeadDim);
    PipeBarrier<PIPE_V>();
    Cast(x, out, RoundMode::CAST_NONE, static_cast<uint64_t>(kRopeDim), static_cast<uint8_t>(rows),
         UnaryRepeatParams(1, 1, kIdxHeadDim / 8, kIdxHeadDim / 16));
    PipeBarrier<PIPE_V>();
    RopeHalfSplit(turned_, rope_work_, x, kIdxHeadDim / 8, cos, sin, rows);
    Cast(out, turned_, RoundMode::CAST_RINT, static_cast<uint64_t>(kRopeDim), static_cast<uint8_t>(rows),
         UnaryRepeatParams(1, 1, kIdxHeadDim / 16, kRopeDim / 8));
    PipeBarrier<PIPE_V>();
  }

  // S4 (1) indexer query: dequantisation, RoPE
  __aicore__ MS_DSV32_NOINLINE void IndexerHead(uint32_t i, uint32_t head, uint32_t r, uint32_t rows) {
    const GlobalTensor<float> channel_scale =
        Global<float>(a_.w_qb_scale, kIdxNHeads * kIdxHeadDim)[head * kIdxHeadDim];
    const LocalTensor<float> x = Dequantised<kIdxHeadDim>(i, channel_scale, r, rows);
    const uint32_t token = (r - HalfBegin()) * kRopeDim;
    const LocalTensor<bfloat16_t> out = out_[out_slots_.Acquire() * kHeadRows * kQkNopeHeadDim];
    RoundAndTurn(out, x, cos_[token], sin_[token], rows);
    in_slots_.Release();
    out_slots_.Publish();
    out_slots_.Take();
    CopyOut(workspace_.Query(t_, i)[r * kIdxHeadDim], out, rows * kIdxHeadDim);
    out_slots_.Release();
  }

  // S4 (2) indexer keys of this AIV's own tokens: LayerNorm, RoPE
  __aicore__ MS_DSV32_NOINLINE void PrepareKeys(uint32_t i) {
    const uint32_t step = items_.At(i).step;
    SetStep(step);
    const uint64_t tokens = t_.t;
    const GlobalTensor<bfloat16_t> gm_cos = Global<bfloat16_t>(a_.cos, tokens * kRopeDim);
    const GlobalTensor<bfloat16_t> gm_sin = Global<bfloat16_t>(a_.sin, tokens * kRopeDim);
    // Rows of the query slot begin with the first token of the AIC.
    const uint32_t core_begin = OwnBegin(t_, m_, kVectorsPerCore * core_);
    for (uint32_t r = own_begin_; r < own_end_; r += kIndexKeyRows) {
      const uint32_t rows = Min(kIndexKeyRows, own_end_ - r);
      const uint64_t token = t0_ + r;
      const LocalTensor<int32_t> slot = in_[in_slots_.Acquire() * kSlotBytes / 4];
      const uint32_t keys = rows * kIdxHeadDim;
      constexpr uint32_t kHalfWords = kIndexKeyRows * kRopeDim / 2;  // [rows, 64] in bfloat16
      const LocalTensor<float> x = slot.ReinterpretCast<float>();
      const LocalTensor<int32_t> rest = slot[kProjectParts * kIndexKeyRows * kIdxHeadDim];
      const LocalTensor<bfloat16_t> raw_cos = rest.ReinterpretCast<bfloat16_t>();
      const LocalTensor<bfloat16_t> raw_sin = rest[kHalfWords].ReinterpretCast<bfloat16_t>();
      CopyIn(raw_cos, gm_cos[token * kRopeDim], rows * kRopeDim);
      CopyIn(raw_sin, gm_sin[token * kRopeDim], rows * kRopeDim);
      if (r == own_begin_) {
        LeaveAllVectors(kAllVectors);
      }
      CopyPartsIn(x, workspace_.Parts(t_, step) + t_.index_key_offset, r * kIdxHeadDim, keys);
      in_slots_.Publish();
      in_slots_.Take();
      SumParts(x, keys);
      // cos and sin lie after what RoPE and LayerNorm use of these places.
      const LocalTensor<float> cos = turned_[keys];
      const LocalTensor<float> sin = rope_work_[keys];
      Cast(cos, raw_cos, RoundMode::CAST_NONE, rows * kRopeDim);
      SpreadSin(sin, raw_sin, rows);
      LayerNorm<kIdxHeadDim>(x, x_, gamma_, beta_, t_.epsilon_k, scratch_, rows);
      const LocalTensor<bfloat16_t> out = out_[out_slots_.Acquire() * kHeadRows * kQkNopeHeadDim];
      RoundAndTurn(out, x, cos, sin, rows);
      in_slots_.Release();
      out_slots_.Publish();
      out_slots_.Take();
      CopyOut(workspace_.Query(t_, i)[(r - core_begin) * kIdxHeadDim], out, rows * kIdxHeadDim);
      out_slots_.Release();
    }
    if (own_begin_ == own_end_) {
      LeaveAllVectors(kAllVectors);
    }
  }
  // What follows S4 of the keys of a step, after the cube has been told of it.
  __aicore__ inline void FollowKeys(uint32_t step) {
    if (!WeightsLate<kMla>(t_)) {
      HeadWeights(step);
    }
    if (t_.projectors > 0 && step + 1 < steps_) {
      AwaitCore(kProjected);
      ArriveAtAllVectors(kAllVectors);
    }
  }

  // S4 (3) head weights of this AIV's own tokens
  __aicore__ MS_DSV32_NOINLINE void HeadWeights(uint32_t step) {
    const GlobalTensor<half> weights = Global<half>(a_.weights, static_cast<uint64_t>(t_.t) * kIdxNHeads);
    for (uint32_t r = own_begin_; r < own_end_; r += kIndexKeyRows) {
      const uint32_t rows = Min(kIndexKeyRows, own_end_ - r), count = rows * kIdxNHeads;
      const LocalTensor<int32_t> slot = in_[in_slots_.Acquire() * kSlotBytes / 4];
      const LocalTensor<float> sums = slot.ReinterpretCast<float>();
      CopyPartsIn(sums, workspace_.Parts(t_, step) + t_.weights_offset, r * kIdxNHeads, count);
      in_slots_.Publish();
      in_slots_.Take();
      SumParts(sums, count);
      const LocalTensor<bfloat16_t> rounded = slot[kIndexKeyRows * kIdxNHeads].ReinterpretCast<bfloat16_t>();
      RoundBf16(rounded, sums, count);
      Muls(sums, sums, kIdxNHeadsScale, static_cast<int32_t>(count));
      PipeBarrier<PIPE_V>();
      Muls(sums, sums, kIdxHeadDimScale, static_cast<int32_t>(count));
      PipeBarrier<PIPE_V>();
      const LocalTensor<half> out = rope_out_[out_slots_.Acquire() * kHeadRows * kRopeDim].ReinterpretCast<half>();
      Cast(out, sums, RoundMode::CAST_RINT, count);
      PipeBarrier<PIPE_V>();
      in_slots_.Release();
      out_slots_.Publish();
      out_slots_.Take();
      CopyOut(weights[static_cast<uint64_t>(t0_ + r) * kIdxNHeads], out, count);
      out_slots_.Release();
    }
  }
  // S4 (3) where S1 of the head weights comes late
  __aicore__ MS_DSV32_NOINLINE void LateHeadWeights(uint32_t step) {
    AwaitCore(kProjected);
    ArriveAtAllVectors(kAllVectors);
    LeaveAllVectors(kAllVectors);
    HeadWeights(step);
  }

  // S6: quantises rows [rows, 128] of the Hadamard product. Returns the slot of `out_` and `rope_out_`, still to be
  // published, that holds the int8 values and the scales, each scale at the begin of a block.
  __aicore__ MS_DSV32_NOINLINE uint32_t Quantised(const GlobalTensor<bfloat16_t>& src, uint32_t rows) {
    const LocalTensor<int32_t> slot = in_[in_slots_.Acquire() * kSlotBytes / 4];
    const LocalTensor<bfloat16_t> raw = slot.ReinterpretCast<bfloat16_t>();
    CopyIn(raw, src, rows * kIdxHeadDim);
    in_slots_.Publish();
    in_slots_.Take();
    Cast(x_, raw, RoundMode::CAST_NONE, rows * kIdxHeadDim);
    PipeBarrier<PIPE_V>();
    const uint32_t out_slot = out_slots_.Acquire();
    // The raw values are not needed any more, so their slot is the scratch of the quantisation.
    QuantRows<kIdxHeadDim, true>(QuantisedRows(out_slot), scale_, x_, slot.ReinterpretCast<float>(), scratch_, rows,
                                 {half_scale_, ScaleBlocks(out_slot)});
    in_slots_.Release();
    return out_slot;
  }
  __aicore__ inline LocalTensor<int8_t> QuantisedRows(uint32_t slot) {
    return out_[slot * kHeadRows * kQkNopeHeadDim].ReinterpretCast<int8_t>();
  }
  __aicore__ inline LocalTensor<half> ScaleBlocks(uint32_t slot) {
    return rope_out_[slot * kHeadRows * kRopeDim].ReinterpretCast<half>();
  }
  static constexpr uint32_t kHalfBlock = 16;  // values of half in a block

  // S6 (1) quantisation per token and head
  __aicore__ MS_DSV32_NOINLINE void QuantQuery(uint32_t i, uint32_t head) {
    const uint64_t heads = static_cast<uint64_t>(t_.t) * kIdxNHeads;
    const GlobalTensor<int8_t> q_int8 = Global<int8_t>(a_.q_int8, heads * kIdxHeadDim);
    const GlobalTensor<half> q_scale = Global<half>(a_.q_scale, heads);
    for (uint32_t r = HalfBegin(); r < HalfEnd(); r += kHeadRows) {
      const uint32_t rows = Min(kHeadRows, HalfEnd() - r);
      const uint32_t slot = Quantised(workspace_.Turned(t_, i)[r * kIdxHeadDim], rows);
      out_slots_.Publish();
      out_slots_.Take();
      const uint64_t row = static_cast<uint64_t>(t0_ + r) * kIdxNHeads + head;
      CopyRowsOut(q_int8[row * kIdxHeadDim], QuantisedRows(slot), rows, kIdxHeadDim, kIdxNHeads * kIdxHeadDim,
                  kIdxHeadDim);
      CopyRowsOut(q_scale[row], ScaleBlocks(slot), rows, 1, kIdxNHeads, kHalfBlock);
      out_slots_.Release();
    }
  }

  // S6 (2) quantisation of the keys, cache rows. The rows of step - kRowSteps must be written before those of `step`.
  __aicore__ MS_DSV32_NOINLINE void QuantKeys(uint32_t i) {
    const uint32_t step = items_.At(i).step;
    KeyRows& cache_rows = cache_rows_[step % kRowSlots];
    if constexpr (!kOnePhase) {
      if (own_begin_ < own_end_) {
        WaitPipe<HardEvent::S_MTE2>(kWaitFlag);  // the scalar unit has read the rows of the step before
        LoadCacheRows(cache_rows_[0], index_[0], RowTokens(t0_));
      }
      ResolveRows(step);
    }
    AwaitCore(kTurned);
    if (!kOnePhase && step > 0) {
      LeaveAllVectors(kAllKeys);
    }
    const GlobalTensor<int8_t> k_cache = Global<int8_t>(a_.k_cache, t_.cache_rows * kIdxHeadDim);
    const GlobalTensor<half> k_cache_scale = Global<half>(a_.k_cache_scale, t_.cache_rows);
    const uint32_t core_begin = OwnBegin(t_, m_, kVectorsPerCore * core_);
    for (uint32_t r = own_begin_; r < own_end_; r += kIndexKeyRows) {
      const uint32_t rows = Min(kIndexKeyRows, own_end_ - r);
      const uint32_t slot = Quantised(workspace_.Turned(t_, i)[(r - core_begin) * kIdxHeadDim], rows);
      out_slots_.Publish();
      out_slots_.Take();
      for (uint32_t j = 0, count = 1; j < rows; j += count, count = 1) {
        const int64_t row = cache_rows.Resolved(r + j);
        if (row < 0) {
          continue;
        }
        // Tokens of one sequence mostly have rows that follow each other.
        while (j + count < rows && cache_rows.Resolved(r + j + count) == row + count) {
          ++count;
        }
        CopyOut(k_cache[row * kIdxHeadDim], QuantisedRows(slot)[j * kIdxHeadDim], count * kIdxHeadDim);
        CopyRowsOut(k_cache_scale[row], ScaleBlocks(slot)[j * kHalfBlock], count, 1, 1, kHalfBlock);
      }
      out_slots_.Release();
    }
    if (kOnePhase && step > 0) {
      LeaveAllVectors(kAllKeys);
    }
    if (step + 1 < steps_) {
      ArriveAtAllVectors(kAllKeys);
    }
  }

  PrologArguments a_;
  PrologTiling t_;
  uint32_t vector_, sub_, core_, steps_;
  PrologItems items_;
  PrologWorkspace workspace_;
  UbArena arena_;
  uint32_t t0_ = 0, m_ = 0, own_begin_ = 0, own_end_ = 0;
  static constexpr uint32_t kNever = 0xffffffff;
  uint32_t finished_ = 0;      // items whose S6 is done
  uint32_t tell_at_ = kNever;  // the item before which the cube hears of the latents of the next step

  Ring<HardEvent::MTE2_V, HardEvent::V_MTE2, kSlotFlag, kInSlots> in_slots_;
  Ring<HardEvent::V_MTE3, HardEvent::MTE3_V, kSlotFlag, kOutSlots> out_slots_;
  LocalTensor<float> cos_, sin_, token_blocks_, channel_, rope_, pairs_, turned_, rope_work_;
  LocalTensor<int32_t> in_;
  LocalTensor<bfloat16_t> out_, rope_out_;
  LocalTensor<float> x_, scale_, next_scales_, gamma_, beta_;
  LocalTensor<half> half_scale_;
  LocalTensor<int64_t> index_[kRowSlots];
  KeyRows cache_rows_[kRowSlots];
  RowScratch scratch_;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_PROLOG_VECTOR_H_
