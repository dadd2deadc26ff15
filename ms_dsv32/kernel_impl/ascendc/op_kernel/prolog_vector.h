// The vector half of the prologs: S2, S4 and S6 of prolog.h.
#ifndef MS_DSV32_ASCENDC_PROLOG_VECTOR_H_
#define MS_DSV32_ASCENDC_PROLOG_VECTOR_H_

#include "dequant.h"
#include "norm.h"
#include "prolog.h"
#include "quant.h"
#include "rope.h"
#include "scatter.h"

namespace ms_dsv32::ascendc {

template <bool kMla, bool kIndexer>
class PrologVector {
 public:
  __aicore__ inline void Init(TPipe& pipe, const PrologArguments& arguments, const PrologTiling& tiling) {
    a_ = arguments;
    t_ = tiling;
    vector_ = static_cast<uint32_t>(GetBlockIdx());
    sub_ = static_cast<uint32_t>(GetSubBlockIdx());
    core_ = vector_ / 2;
    items_.Init(tiling, kMla, kIndexer, core_);
    workspace_.Init(arguments.workspace, tiling, core_);
    arena_.Init(pipe, kUbBytes);
  }

  __aicore__ inline void Process() {
    uint32_t step = 0;
    for (uint32_t t0 = 0; t0 < t_.t; t0 += t_.token_step, ++step) {
      t0_ = t0;
      m_ = Smaller(t_.token_step, t_.t - t0);
      own_begin_ = ShareBegin(m_, vector_, 2 * t_.cores);
      own_end_ = ShareBegin(m_, vector_ + 1, 2 * t_.cores);
      if constexpr (kMla) {
        AwaitCore(kProjected);
        AwaitAllVectors(kAllVectors);
        NormLatent(step);
        AwaitAllVectors(kAllVectors);
        NotifyCube(kLatentReady);
        KeyValue(step);
      }
      FetchNext();
      Items(step);
    }
  }

 private:
  static constexpr uint32_t kUbBytes = 196352;
  static constexpr uint32_t kLatentRows = 4;  // rows of 1536 at a time: 24 KiB of float
  static constexpr uint32_t kKeyRows = 8;     // rows of 512 at a time: 32 groups of 128
  static constexpr uint32_t kHeadRows = 32;   // rows of a head at a time: 24 KiB of sums
  static constexpr uint32_t kIndexKeyRows = 16;
  static constexpr uint32_t kSlotBytes = kHeadRows * kQHeadDim * 4;

  // Brings the x of the next step from HBM into L2, each AIV a share. All AICs read the same parts of x at the same
  // time: at what one core gets from HBM, 128 tokens would take 30 us.
  __aicore__ inline void FetchNext() {
    constexpr uint32_t kLine = 256, kMost = 128;  // elements of a line of 512 bytes; lines of a copy, 64 KiB
    const uint32_t t0 = t0_ + t_.token_step;
    if (t0 >= t_.t) return;
    const uint32_t lines = Smaller(t_.token_step, t_.t - t0) * (kH / kLine);
    const uint32_t end = ShareBegin(lines, vector_ + 1, 2 * t_.cores);
    const GlobalTensor<bfloat16_t> x = Global<bfloat16_t>(a_.x, static_cast<uint64_t>(t_.t) * kH);
    BeginPhase();
    const LocalTensor<bfloat16_t> unused = arena_.Take<bfloat16_t>(kMost * kLine);
    for (uint32_t line = ShareBegin(lines, vector_, 2 * t_.cores); line < end; line += kMost) {
      PipeBarrier<PIPE_MTE2>();
      CopyIn(unused, x[static_cast<uint64_t>(t0) * kH + line * kLine], Smaller(kMost, end - line) * kLine);
    }
  }

  // Starts a phase with all of UB: nothing of the phase before is under way.
  __aicore__ inline void BeginPhase() {
    PipeBarrier<PIPE_ALL>();
    arena_.Reset();
  }

  // bfloat16 values [count] from GM as float, through `raw`. No other copy may be under way.
  __aicore__ inline void LoadFloats(const LocalTensor<float>& dst, const LocalTensor<bfloat16_t>& raw,
                                    const GlobalTensor<bfloat16_t>& src, uint32_t count) {
    WaitPipe<HardEvent::V_MTE2>(2);
    CopyIn(raw, src, count);
    WaitPipe<HardEvent::MTE2_V>(2);
    Cast(dst, raw, RoundMode::CAST_NONE, count);
    VectorBarrier();
  }

  // S2 (1) query latent: RmsNorm, quantisation per token
  __aicore__ inline void NormLatent(uint32_t step) {
    if (own_begin_ == own_end_) {
      return;
    }
    BeginPhase();
    constexpr uint32_t kCount = kLatentRows * kQLoraRank;
    const LocalTensor<bfloat16_t> raw = arena_.Take<bfloat16_t>(kCount);
    const LocalTensor<float> x = arena_.Take<float>(kCount);
    const LocalTensor<float> work = arena_.Take<float>(kCount);
    const LocalTensor<int8_t> q = arena_.Take<int8_t>(kCount);
    const LocalTensor<float> scale = arena_.Take<float>(kLanes);
    const LocalTensor<float> gamma = arena_.Take<float>(kQLoraRank);
    RowScratch scratch;
    scratch.Init(arena_);
    const GlobalTensor<bfloat16_t> latent = workspace_.Latent(t_, step);
    const GlobalTensor<int8_t> q_norm = Global<int8_t>(a_.q_norm, static_cast<uint64_t>(t_.t) * kQLoraRank);
    const GlobalTensor<float> q_norm_scale = Global<float>(a_.q_norm_scale, t_.t);
    LoadFloats(gamma, raw, Global<bfloat16_t>(a_.gamma_cq, kQLoraRank), kQLoraRank);
    for (uint32_t r = own_begin_; r < own_end_; r += kLatentRows) {
      const uint32_t rows = Smaller(kLatentRows, own_end_ - r);
      const uint32_t count = rows * kQLoraRank;
      LoadFloats(x, raw, latent[r * kQLoraRank], count);
      RmsNorm<kQLoraRank>(x, work, gamma, t_.epsilon_cq, scratch, rows);
      RoundBf16(raw, x, count);
      WaitPipe<HardEvent::MTE3_V>(2);
      QuantRows<kQLoraRank>(q, scale, x, work, scratch, rows);
      WaitPipe<HardEvent::V_MTE3>(2);
      CopyOut(q_norm[static_cast<uint64_t>(t0_ + r) * kQLoraRank], q, count);
      CopyOut(q_norm_scale[t0_ + r], scale, rows);
    }
  }

  // S2 (5) latent key: RmsNorm, quantisation per group of 128; RoPE of the rope key; (6) cache rows
  __aicore__ inline void KeyValue(uint32_t step) {
    if (own_begin_ == own_end_) {
      return;
    }
    BeginPhase();
    constexpr uint32_t kCount = kKeyRows * kKvLoraRank;
    constexpr uint32_t kGroups = kKeyRows * kKScaleGroups;
    const LocalTensor<bfloat16_t> raw = arena_.Take<bfloat16_t>(kKeyRows * kLatentDim);
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
    scratch.Init(arena_);
    const GlobalTensor<bfloat16_t> key_value = workspace_.KeyValue(t_, step);
    const uint64_t tokens = t_.t;
    const GlobalTensor<bfloat16_t> gm_cos = Global<bfloat16_t>(a_.cos, tokens * kRopeDim);
    const GlobalTensor<bfloat16_t> gm_sin = Global<bfloat16_t>(a_.sin, tokens * kRopeDim);
    const GlobalTensor<int8_t> kv_cache = Global<int8_t>(a_.kv_cache, t_.cache_rows * kKvLoraRank);
    const GlobalTensor<bfloat16_t> kr_cache = Global<bfloat16_t>(a_.kr_cache, t_.cache_rows * kRopeDim);
    const GlobalTensor<float> k_scale_cache = Global<float>(a_.k_scale_cache, t_.cache_rows * kKScaleGroups);
    CacheRows cache_rows = LoadCacheRows(index);
    LoadFloats(gamma, rounded, Global<bfloat16_t>(a_.gamma_ckv, kKvLoraRank), kKvLoraRank);
    for (uint32_t r = own_begin_; r < own_end_; r += kKeyRows) {
      const uint32_t rows = Smaller(kKeyRows, own_end_ - r);
      const uint64_t token = t0_ + r;
      WaitPipe<HardEvent::V_MTE2>(2);
      CopyIn(raw, key_value[r * kLatentDim], rows * kLatentDim);
      CopyIn(raw_cos, gm_cos[token * kRopeDim], rows * kRopeDim);
      CopyIn(raw_sin, gm_sin[token * kRopeDim], rows * kRopeDim);
      WaitPipe<HardEvent::MTE2_V>(2);
      for (uint32_t i = 0; i < rows; ++i) {
        Cast(x[i * kKvLoraRank], raw[i * kLatentDim], RoundMode::CAST_NONE, kKvLoraRank);
      }
      Cast(rope, raw[kKvLoraRank], RoundMode::CAST_NONE, static_cast<uint64_t>(kRopeDim), static_cast<uint8_t>(rows),
           UnaryRepeatParams(1, 1, kRopeDim / 8, kLatentDim / 16));
      Cast(cos, raw_cos, RoundMode::CAST_NONE, rows * kRopeDim);
      Cast(sin, raw_sin, RoundMode::CAST_NONE, rows * kRopeDim);
      VectorBarrier();
      RmsNorm<kKvLoraRank>(x, work, gamma, t_.epsilon_ckv, scratch, rows);
      RoundBf16(rounded, x, rows * kKvLoraRank);
      WaitPipe<HardEvent::MTE3_V>(2);
      QuantRows<kScaleGroup>(q, scale, x, work, scratch, rows * kKScaleGroups);
      SpreadScalars(scale_blocks, scale, rows * kKScaleGroups);
      RopeInterleaved(turned, rope_work, pairs, rope, cos, sin, rows);
      Cast(key_rope, turned, RoundMode::CAST_RINT, rows * kRopeDim);
      WaitPipe<HardEvent::V_MTE3>(2);
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

  __aicore__ inline CacheRows LoadCacheRows(const LocalTensor<int64_t>& index) {
    CopyIn(index, Global<int64_t>(a_.cache_index, t_.t)[t0_], m_);
    WaitPipe<HardEvent::MTE2_S>(2);
    CacheRows rows;
    rows.Init(index, m_, t_.cache_rows);
    return rows;
  }

  // Of the items, both AIVs of a core share the tokens: the first half is the first one's.
  __aicore__ inline uint32_t HalfBegin() const { return sub_ == 0 ? 0 : (m_ + 1) / 2; }
  __aicore__ inline uint32_t HalfEnd() const { return sub_ == 0 ? (m_ + 1) / 2 : m_; }

  // S4 and S6 of all items
  __aicore__ inline void Items(uint32_t step) {
    BeginPhase();
    constexpr uint32_t kHalfRows = kMaxTokenStep / 2;
    constexpr uint32_t kRopeCount = kHeadRows * kRopeDim;
    cos_ = arena_.Take<float>(kHalfRows * kRopeDim);
    sin_ = arena_.Take<float>(kHalfRows * kRopeDim);
    token_blocks_ = arena_.Take<float>(kHalfRows * 8);
    in_ = arena_.Take<int32_t>(2 * kSlotBytes / 4);
    channel_ = arena_.Take<float>(2 * kQHeadDim);
    out_ = arena_.Take<bfloat16_t>(2 * kHeadRows * kQHeadDim);
    rope_out_ = arena_.Take<bfloat16_t>(2 * kRopeCount);
    rope_ = arena_.Take<float>(kRopeCount);
    pairs_ = arena_.Take<float>(kRopeCount);
    turned_ = arena_.Take<float>(kRopeCount);
    rope_work_ = arena_.Take<float>(kRopeCount);
    if constexpr (kIndexer) {
      x_ = arena_.Take<float>(kHeadRows * kIdxHeadDim);
      scale_ = arena_.Take<float>(kLanes);
      half_scale_ = arena_.Take<half>(kLanes);
      gamma_ = arena_.Take<float>(kIdxHeadDim);
      beta_ = arena_.Take<float>(kIdxHeadDim);
      index_ = arena_.Take<int64_t>(kMaxTokenStep);
      scratch_.Init(arena_);
      LoadFloats(gamma_, out_, Global<bfloat16_t>(a_.ln_gamma_k, kIdxHeadDim), kIdxHeadDim);
      LoadFloats(beta_, out_, Global<bfloat16_t>(a_.ln_beta_k, kIdxHeadDim), kIdxHeadDim);
    }
    LoadTokens();
    in_slots_.Begin();
    out_slots_.Begin();
    const uint32_t count = items_.Count();
    for (uint32_t i = 0; i <= count; ++i) {
      if (i < count) {
        const PrologItem item = items_.At(i);
        AwaitCore(kAccumulated);
        if (item.kind == PrologKind::kIndexerKeys) {
          if constexpr (kIndexer) {
            PrepareKeys(step, i);
          }
        } else {
          for (uint32_t r = HalfBegin(); r < HalfEnd(); r += kHeadRows) {
            const uint32_t rows = Smaller(kHeadRows, HalfEnd() - r);
            if (item.kind == PrologKind::kMlaHead) {
              if constexpr (kMla) {
                MlaHead(i, item.head, r, rows);
              }
            } else {
              if constexpr (kIndexer) {
                IndexerHead(i, item.head, r, rows);
              }
            }
          }
        }
        NotifyCube(kQueryReady);
      }
      if constexpr (kIndexer) {
        if (i > 0 && items_.At(i - 1).kind != PrologKind::kMlaHead) {
          AwaitCore(kTurned);
          if (items_.At(i - 1).kind == PrologKind::kIndexerHead) {
            QuantQuery(i - 1, items_.At(i - 1).head);
          } else {
            QuantKeys(i - 1);
          }
        }
      }
    }
    in_slots_.End();
    out_slots_.End();
  }

  // cos, sin and the scale of the latent of this AIV's half of the tokens
  __aicore__ inline void LoadTokens() {
    const uint32_t rows = HalfEnd() - HalfBegin();
    if (rows == 0) {
      return;
    }
    const uint64_t token = t0_ + HalfBegin();
    const uint64_t tokens = t_.t;
    LoadFloats(cos_, out_, Global<bfloat16_t>(a_.cos, tokens * kRopeDim)[token * kRopeDim], rows * kRopeDim);
    LoadFloats(sin_, out_, Global<bfloat16_t>(a_.sin, tokens * kRopeDim)[token * kRopeDim], rows * kRopeDim);
    const LocalTensor<float> scales = rope_;
    CopyIn(scales, Global<float>(a_.q_norm_scale, tokens)[token], rows);
    WaitPipe<HardEvent::MTE2_V>(2);
    SpreadScalars(token_blocks_, scales, rows);
  }

  // Sums [rows, kD] of an item and the scales of its channels, dequantised in their slot.
  template <uint32_t kD>
  __aicore__ inline LocalTensor<float> Dequantised(uint32_t i, const GlobalTensor<float>& channel_scale, uint32_t r,
                                                   uint32_t rows) {
    const uint32_t slot = in_slots_.Acquire();
    const LocalTensor<int32_t> sums = in_[slot * kSlotBytes / 4];
    const LocalTensor<float> channel = channel_[slot * kQHeadDim];
    CopyIn(sums, workspace_.Sums(t_, i)[r * kD], rows * kD);
    CopyIn(channel, channel_scale, kD);
    in_slots_.Publish();
    in_slots_.Take();
    return DequantRows<kD>(sums, token_blocks_[(r - HalfBegin()) * 8], channel, rows);
  }

  // S4 (2) dequantisation, (4) RoPE (interleaved) on the rope part
  __aicore__ inline void MlaHead(uint32_t i, uint32_t head, uint32_t r, uint32_t rows) {
    const uint64_t channels = static_cast<uint64_t>(t_.n_q) * kQHeadDim;
    const LocalTensor<float> x =
        Dequantised<kQHeadDim>(i, Global<float>(a_.dequant_scale, channels)[head * kQHeadDim], r, rows);
    const uint32_t slot = out_slots_.Acquire();
    const LocalTensor<bfloat16_t> out = out_[slot * kHeadRows * kQHeadDim];
    const LocalTensor<bfloat16_t> rope_out = rope_out_[slot * kHeadRows * kRopeDim];
    Cast(out, x, RoundMode::CAST_RINT, rows * kQHeadDim);
    VectorBarrier();
    in_slots_.Release();
    Cast(rope_, out[kNopeDim], RoundMode::CAST_NONE, static_cast<uint64_t>(kRopeDim), static_cast<uint8_t>(rows),
         UnaryRepeatParams(1, 1, kRopeDim / 8, kQHeadDim / 16));
    VectorBarrier();
    const uint32_t token = (r - HalfBegin()) * kRopeDim;
    RopeInterleaved(turned_, rope_work_, pairs_, rope_, cos_[token], sin_[token], rows);
    Cast(rope_out, turned_, RoundMode::CAST_RINT, rows * kRopeDim);
    VectorBarrier();
    out_slots_.Publish();
    out_slots_.Take();
    CopyRowsOut(workspace_.Query(t_, i)[r * kNopeDim], out, rows, kNopeDim, kNopeDim, kQHeadDim);
    const uint64_t row = static_cast<uint64_t>(t_.n_q) * kRopeDim;
    CopyRowsOut(Global<bfloat16_t>(a_.query_rope, t_.t * row)[(t0_ + r) * row + head * kRopeDim], rope_out, rows,
                kRopeDim, static_cast<uint32_t>(row), kRopeDim);
    out_slots_.Release();
  }

  // x [rows, 128] to out in bfloat16, with RoPE (half-split) on its first 64.
  __aicore__ inline void RoundAndTurn(const LocalTensor<bfloat16_t>& out, const LocalTensor<float>& x,
                                      const LocalTensor<float>& cos, const LocalTensor<float>& sin, uint32_t rows) {
    RoundBf16(out, x, rows * kIdxHeadDim);
    RopeHalfSplit(turned_, rope_work_, x, kIdxHeadDim / 8, cos, sin, rows);
    Cast(out, turned_, RoundMode::CAST_RINT, static_cast<uint64_t>(kRopeDim), static_cast<uint8_t>(rows),
         UnaryRepeatParams(1, 1, kIdxHeadDim / 16, kRopeDim / 8));
    VectorBarrier();
  }

  // S4 (1) indexer query: dequantisation, RoPE
  __aicore__ inline void IndexerHead(uint32_t i, uint32_t head, uint32_t r, uint32_t rows) {
    const GlobalTensor<float> channel_scale =
        Global<float>(a_.w_qb_scale, kIdxNHeads * kIdxHeadDim)[head * kIdxHeadDim];
    const LocalTensor<float> x = Dequantised<kIdxHeadDim>(i, channel_scale, r, rows);
    const uint32_t token = (r - HalfBegin()) * kRopeDim;
    const LocalTensor<bfloat16_t> out = out_[out_slots_.Acquire() * kHeadRows * kQHeadDim];
    RoundAndTurn(out, x, cos_[token], sin_[token], rows);
    in_slots_.Release();
    out_slots_.Publish();
    out_slots_.Take();
    CopyOut(workspace_.Query(t_, i)[r * kIdxHeadDim], out, rows * kIdxHeadDim);
    out_slots_.Release();
  }

  // S4 (2) indexer keys of this AIV's own tokens: LayerNorm, RoPE; (3) head weights
  __aicore__ inline void PrepareKeys(uint32_t step, uint32_t i) {
    if constexpr (!kMla) {
      AwaitCore(kProjected);
      AwaitAllVectors(kAllVectors);
    }
    if (own_begin_ == own_end_) {
      return;
    }
    const uint64_t tokens = t_.t;
    const GlobalTensor<float> keys = workspace_.IndexKey(t_, step);
    const GlobalTensor<bfloat16_t> projected = workspace_.Weights(t_, step);
    const GlobalTensor<bfloat16_t> gm_cos = Global<bfloat16_t>(a_.cos, tokens * kRopeDim);
    const GlobalTensor<bfloat16_t> gm_sin = Global<bfloat16_t>(a_.sin, tokens * kRopeDim);
    const GlobalTensor<half> weights = Global<half>(a_.weights, tokens * kIdxNHeads);
    // Rows of the query slot begin with the first token of the AIC.
    const uint32_t core_begin = ShareBegin(m_, 2 * core_, 2 * t_.cores);
    for (uint32_t r = own_begin_; r < own_end_; r += kIndexKeyRows) {
      const uint32_t rows = Smaller(kIndexKeyRows, own_end_ - r);
      const uint64_t token = t0_ + r;
      const LocalTensor<int32_t> slot = in_[in_slots_.Acquire() * kSlotBytes / 4];
      constexpr uint32_t kKeyWords = kIndexKeyRows * kIdxHeadDim;
      constexpr uint32_t kHalfWords = kIndexKeyRows * kRopeDim / 2;  // [rows, 64] in bfloat16
      const LocalTensor<float> x = slot.ReinterpretCast<float>();
      const LocalTensor<bfloat16_t> raw_cos = slot[kKeyWords].ReinterpretCast<bfloat16_t>();
      const LocalTensor<bfloat16_t> raw_sin = slot[kKeyWords + kHalfWords].ReinterpretCast<bfloat16_t>();
      const LocalTensor<bfloat16_t> raw_weights = slot[kKeyWords + 2 * kHalfWords].ReinterpretCast<bfloat16_t>();
      CopyIn(x, keys[r * kIdxHeadDim], rows * kIdxHeadDim);
      CopyIn(raw_cos, gm_cos[token * kRopeDim], rows * kRopeDim);
      CopyIn(raw_sin, gm_sin[token * kRopeDim], rows * kRopeDim);
      CopyIn(raw_weights, projected[r * kIdxNHeads], rows * kIdxNHeads);
      in_slots_.Publish();
      in_slots_.Take();
      const LocalTensor<float> cos = pairs_;
      const LocalTensor<float> sin = pairs_[kIndexKeyRows * kRopeDim];
      Cast(cos, raw_cos, RoundMode::CAST_NONE, rows * kRopeDim);
      Cast(sin, raw_sin, RoundMode::CAST_NONE, rows * kRopeDim);
      LayerNorm<kIdxHeadDim>(x, x_, gamma_, beta_, t_.epsilon_k, scratch_, rows);
      const uint32_t out_slot = out_slots_.Acquire();
      const LocalTensor<bfloat16_t> out = out_[out_slot * kHeadRows * kQHeadDim];
      const LocalTensor<half> weights_out = rope_out_[out_slot * kHeadRows * kRopeDim].ReinterpretCast<half>();
      RoundAndTurn(out, x, cos, sin, rows);
      Cast(rope_, raw_weights, RoundMode::CAST_NONE, rows * kIdxNHeads);
      VectorBarrier();
      in_slots_.Release();
      Muls(rope_, rope_, 0.125f, static_cast<int32_t>(rows * kIdxNHeads));  // idx_n_heads ** -0.5
      VectorBarrier();
      Muls(rope_, rope_, 0.08838834764831845f, static_cast<int32_t>(rows * kIdxNHeads));  // idx_head_dim ** -0.5
      VectorBarrier();
      Cast(weights_out, rope_, RoundMode::CAST_RINT, rows * kIdxNHeads);
      VectorBarrier();
      out_slots_.Publish();
      out_slots_.Take();
      CopyOut(workspace_.Query(t_, i)[(r - core_begin) * kIdxHeadDim], out, rows * kIdxHeadDim);
      CopyOut(weights[token * kIdxNHeads], weights_out, rows * kIdxNHeads);
      out_slots_.Release();
    }
  }

  // S6: rows [rows, 128] after the Hadamard product, quantised. The slot of `out_` and `rope_out_` that is to be
  // published then holds the int8 values and the scales, one at the begin of each block.
  __aicore__ inline uint32_t Quantised(const GlobalTensor<bfloat16_t>& src, uint32_t rows) {
    const LocalTensor<int32_t> slot = in_[in_slots_.Acquire() * kSlotBytes / 4];
    const LocalTensor<bfloat16_t> raw = slot.ReinterpretCast<bfloat16_t>();
    CopyIn(raw, src, rows * kIdxHeadDim);
    in_slots_.Publish();
    in_slots_.Take();
    Cast(x_, raw, RoundMode::CAST_NONE, rows * kIdxHeadDim);
    VectorBarrier();
    const uint32_t out_slot = out_slots_.Acquire();
    // The raw values are used up: the slot is the scratch of the quantisation.
    QuantRows<kIdxHeadDim>(QuantisedRows(out_slot), scale_, x_, slot.ReinterpretCast<float>(), scratch_, rows);
    in_slots_.Release();
    Cast(half_scale_, scale_, RoundMode::CAST_RINT, rows);
    VectorBarrier();
    SpreadScalars(ScaleBlocks(out_slot), half_scale_, rows);
    return out_slot;
  }
  __aicore__ inline LocalTensor<int8_t> QuantisedRows(uint32_t slot) {
    return out_[slot * kHeadRows * kQHeadDim].ReinterpretCast<int8_t>();
  }
  __aicore__ inline LocalTensor<half> ScaleBlocks(uint32_t slot) {
    return rope_out_[slot * kHeadRows * kRopeDim].ReinterpretCast<half>();
  }
  static constexpr uint32_t kHalfBlock = 16;  // values of half in a block

  // S6 (1) quantisation per token and head
  __aicore__ inline void QuantQuery(uint32_t i, uint32_t head) {
    const uint64_t heads = static_cast<uint64_t>(t_.t) * kIdxNHeads;
    const GlobalTensor<int8_t> q_int8 = Global<int8_t>(a_.q_int8, heads * kIdxHeadDim);
    const GlobalTensor<half> q_scale = Global<half>(a_.q_scale, heads);
    for (uint32_t r = HalfBegin(); r < HalfEnd(); r += kHeadRows) {
      const uint32_t rows = Smaller(kHeadRows, HalfEnd() - r);
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

  // S6 (2) quantisation of the keys, cache rows
  __aicore__ inline void QuantKeys(uint32_t i) {
    if (own_begin_ == own_end_) {
      return;
    }
    const GlobalTensor<int8_t> k_cache = Global<int8_t>(a_.k_cache, t_.cache_rows * kIdxHeadDim);
    const GlobalTensor<half> k_cache_scale = Global<half>(a_.k_cache_scale, t_.cache_rows);
    const uint32_t core_begin = ShareBegin(m_, 2 * core_, 2 * t_.cores);
    CacheRows cache_rows = LoadCacheRows(index_);
    for (uint32_t r = own_begin_; r < own_end_; r += kIndexKeyRows) {
      const uint32_t rows = Smaller(kIndexKeyRows, own_end_ - r);
      const uint32_t slot = Quantised(workspace_.Turned(t_, i)[(r - core_begin) * kIdxHeadDim], rows);
      out_slots_.Publish();
      out_slots_.Take();
      for (uint32_t j = 0; j < rows; ++j) {
        const int64_t row = cache_rows.Of(r + j);
        if (row < 0) {
          continue;
        }
        CopyOut(k_cache[row * kIdxHeadDim], QuantisedRows(slot)[j * kIdxHeadDim], kIdxHeadDim);
        CopyOut(k_cache_scale[row], ScaleBlocks(slot)[j * kHalfBlock], 1);
      }
      out_slots_.Release();
    }
  }

  PrologArguments a_;
  PrologTiling t_;
  PrologItems items_;
  PrologWorkspace workspace_;
  UbArena arena_;
  uint32_t vector_ = 0, sub_ = 0, core_ = 0, t0_ = 0, m_ = 0, own_begin_ = 0, own_end_ = 0;

  PingPong<HardEvent::MTE2_V, HardEvent::V_MTE2, 0> in_slots_;
  PingPong<HardEvent::V_MTE3, HardEvent::MTE3_V, 0> out_slots_;
  LocalTensor<float> cos_, sin_, token_blocks_, channel_, rope_, pairs_, turned_, rope_work_;
  LocalTensor<int32_t> in_;
  LocalTensor<bfloat16_t> out_, rope_out_;
  LocalTensor<float> x_, scale_, gamma_, beta_;
  LocalTensor<half> half_scale_;
  LocalTensor<int64_t> index_;
  RowScratch scratch_;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_PROLOG_VECTOR_H_
