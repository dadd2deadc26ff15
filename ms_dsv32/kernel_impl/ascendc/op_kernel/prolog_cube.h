// The cube half of the prologs: S1, S3 and S5 of prolog.h.
#ifndef MS_DSV32_ASCENDC_PROLOG_CUBE_H_
#define MS_DSV32_ASCENDC_PROLOG_CUBE_H_

#include "cube_tile.h"
#include "prolog.h"

namespace ms_dsv32::ascendc {

template <bool kMla, bool kIndexer>
class PrologCube {
 public:
  __aicore__ inline void Init(TPipe& pipe, const PrologArguments& arguments, const PrologTiling& tiling) {
    a_ = arguments;
    t_ = tiling;
    core_ = static_cast<uint32_t>(GetBlockIdx());
    items_.Init(tiling, kMla, kIndexer, core_);
    workspace_.Init(arguments.workspace, tiling, core_);
    tile_.Init(pipe);
  }

  __aicore__ inline void Process() {
    uint32_t step = 0;
    for (uint32_t t0 = 0; t0 < t_.t; t0 += t_.token_step, ++step) {
      t0_ = t0;
      m_ = Smaller(t_.token_step, t_.t - t0);
      m16_ = RoundUp(m_, kFractal);
      Project(step);
      NotifyVectors(kProjected);
      if constexpr (kMla) {
        AwaitCore(kLatentReady);
      }
      LoadLatent();
      const uint32_t count = items_.Count();
      for (uint32_t i = 0; i <= count; ++i) {
        if (i < count) {
          Accumulate(i);
        }
        if (i > 0) {
          Turn(i - 1);
        }
      }
    }
    tile_.Finish();
  }

 private:
  static constexpr uint32_t kUnit = kC0<bfloat16_t>;  // columns of an NZ weight that one DMA block holds
  static constexpr uint32_t kPassUnits = 6;           // 96 columns of an accumulator, 96 KiB of weights in L1
  static constexpr uint32_t kChunk = 512;             // K of one copy: 16 KiB of each unit
  static constexpr uint32_t kStep = 128;              // K of one product in bfloat16: 128 x 128 fill a slot of L0A
  static constexpr uint32_t kInt8Chunk = kQLoraRank / 2;
  static constexpr uint32_t kInt8Step = 256;  // likewise in int8

  // Units of each projection of x, in this order: w_dq, w_dkv_kr, wk, w_proj.
  static constexpr uint32_t kLatentUnits = kMla ? kQLoraRank / kUnit : 0;
  static constexpr uint32_t kKeyValueEnd = kLatentUnits + (kMla ? kLatentDim / kUnit : 0);
  static constexpr uint32_t kIndexKeyEnd = kKeyValueEnd + (kIndexer ? kIdxHeadDim / kUnit : 0);
  static constexpr uint32_t kUnits = kIndexKeyEnd + (kIndexer ? kIdxNHeads / kUnit : 0);

  // Left operands in the resident area. All of them lie in columns of m16 rows from a place that is a multiple of m16
  // blocks, so that the rows behind the last token, which nothing loads, stay apart from the others whatever was there
  // before.
  __aicore__ inline LocalTensor<bfloat16_t> XChunk(uint32_t slot) {
    return tile_.Resident<bfloat16_t>(slot * m16_ * kChunk * 2, m16_ * kChunk);
  }
  __aicore__ inline LocalTensor<int8_t> Latent() { return tile_.Resident<int8_t>(0, m16_ * kQLoraRank); }
  __aicore__ inline LocalTensor<bfloat16_t> Query(uint32_t item) {
    return tile_.Resident<bfloat16_t>(m16_ * (kQLoraRank + item % kHeadSlots * kNopeDim * 2), m16_ * kNopeDim);
  }

  // S1
  __aicore__ inline void Project(uint32_t step) {
    WaitPipe<HardEvent::MTE1_MTE2>(2);  // the latents of the step before are used up
    const uint32_t end = FrontBegin(kUnits, core_ + 1, t_.cores);
    for (uint32_t begin = FrontBegin(kUnits, core_, t_.cores); begin < end; begin += kPassUnits) {
      ProjectPass(step, begin, Smaller(begin + kPassUnits, end));
    }
  }

  // End of the projection that `unit` belongs to.
  __aicore__ inline uint32_t ProjectionEnd(uint32_t unit) const {
    return unit < kLatentUnits   ? kLatentUnits
           : unit < kKeyValueEnd ? kKeyValueEnd
           : unit < kIndexKeyEnd ? kIndexKeyEnd
                                 : kUnits;
  }

  __aicore__ inline void ProjectPass(uint32_t step, uint32_t begin, uint32_t end) {
    const GlobalTensor<bfloat16_t> x = Global<bfloat16_t>(a_.x, static_cast<uint64_t>(t_.t) * kH);
    tile_.BeginProduct();
    for (uint32_t k0 = 0; k0 < kH; k0 += kChunk) {
      const uint32_t slot = tile_.BeginStream();
      const LocalTensor<bfloat16_t> x_chunk = XChunk(slot);
      const LocalTensor<bfloat16_t> weights = tile_.Stream<bfloat16_t>(slot);
      CopyNdToL1(x_chunk, x[static_cast<uint64_t>(t0_) * kH + k0], m_, kChunk, kH, m16_);
      for (uint32_t unit = begin; unit < end;) {
        const uint32_t run = Smaller(end, ProjectionEnd(unit)) - unit;
        CopyWeights(weights[(unit - begin) * kUnit * kChunk], unit, run, k0);
        unit += run;
      }
      tile_.EndStream();
      tile_.TakeStream();
      tile_.Add(x_chunk, m16_, 0, weights, kChunk, 0, kChunk, 0, (end - begin) * kUnit, kStep);
      tile_.ReturnStream();
    }
    const LocalTensor<float> product = tile_.Product<float>();
    for (uint32_t unit = begin; unit < end;) {
      const uint32_t run = Smaller(end, ProjectionEnd(unit)) - unit;
      StoreProjection(step, product, unit, run, (unit - begin) * kUnit);
      unit += run;
    }
    tile_.EndProduct();
  }

  __aicore__ inline void CopyWeights(const LocalTensor<bfloat16_t>& dst, uint32_t unit, uint32_t run, uint32_t k0) {
    if (unit < kLatentUnits) {
      CopyNzToL1(dst, Global<bfloat16_t>(a_.w_dq, uint64_t{kH} * kQLoraRank), kH, k0, kChunk, unit * kUnit,
                 run * kUnit);
    } else if (unit < kKeyValueEnd) {
      CopyNzToL1(dst, Global<bfloat16_t>(a_.w_dkv_kr, uint64_t{kH} * kLatentDim), kH, k0, kChunk,
                 (unit - kLatentUnits) * kUnit, run * kUnit);
    } else if (unit < kIndexKeyEnd) {
      CopyNzToL1(dst, Global<bfloat16_t>(a_.wk, uint64_t{kH} * kIdxHeadDim), kH, k0, kChunk,
                 (unit - kKeyValueEnd) * kUnit, run * kUnit);
    } else {
      CopyNzToL1(dst, Global<bfloat16_t>(a_.w_proj, uint64_t{kH} * kIdxNHeads), kH, k0, kChunk,
                 (unit - kIndexKeyEnd) * kUnit, run * kUnit);
    }
  }

  __aicore__ inline void StoreProjection(uint32_t step, const LocalTensor<float>& product, uint32_t unit, uint32_t run,
                                         uint32_t column) {
    if (unit < kLatentUnits) {
      StoreC(workspace_.Latent(t_, step)[unit * kUnit], product, m_, m16_, column, run * kUnit, kQLoraRank);
    } else if (unit < kKeyValueEnd) {
      StoreC(workspace_.KeyValue(t_, step)[(unit - kLatentUnits) * kUnit], product, m_, m16_, column, run * kUnit,
             kLatentDim);
    } else if (unit < kIndexKeyEnd) {
      // The indexer's keys go to their norm unrounded.
      StoreC(workspace_.IndexKey(t_, step)[(unit - kKeyValueEnd) * kUnit], product, m_, m16_, column, run * kUnit,
             kIdxHeadDim);
    } else {
      StoreC(workspace_.Weights(t_, step)[(unit - kIndexKeyEnd) * kUnit], product, m_, m16_, column, run * kUnit,
             kIdxNHeads);
    }
  }

  // The quantised latents of the step, which all heads use, stay in L1.
  __aicore__ inline void LoadLatent() {
    WaitPipe<HardEvent::MTE1_MTE2>(2);
    const GlobalTensor<int8_t> q_norm = Global<int8_t>(a_.q_norm, static_cast<uint64_t>(t_.t) * kQLoraRank);
    CopyNdToL1(Latent(), q_norm[static_cast<uint64_t>(t0_) * kQLoraRank], m_, kQLoraRank, kQLoraRank, m16_);
    WaitPipe<HardEvent::MTE2_MTE1>(2);
  }

  // S3
  __aicore__ inline void Accumulate(uint32_t i) {
    const PrologItem item = items_.At(i);
    if (item.kind == PrologKind::kMlaHead) {
      constexpr uint32_t kHalf = kQHeadDim / 2;
      const GlobalTensor<int8_t> weights = Global<int8_t>(a_.w_uq_qr, uint64_t{kQLoraRank} * t_.n_q * kQHeadDim);
      for (uint32_t half = 0; half < 2; ++half) {
        UpProject<kHalf>(workspace_.Sums(t_, i)[half * kHalf], kQHeadDim, weights,
                         item.head * kQHeadDim + half * kHalf);
      }
    } else if (item.kind == PrologKind::kIndexerHead) {
      UpProject<kIdxHeadDim>(workspace_.Sums(t_, i), kIdxHeadDim,
                             Global<int8_t>(a_.w_qb, uint64_t{kQLoraRank} * kIdxNHeads * kIdxHeadDim),
                             item.head * kIdxHeadDim);
    }
    // The keys have no sums, but the slot that S4 is about to write must have been read.
    NotifyVectors(kAccumulated);
  }

  template <uint32_t kN>
  __aicore__ inline void UpProject(const GlobalTensor<int32_t>& dst, uint32_t dst_row,
                                   const GlobalTensor<int8_t>& weights, uint32_t column) {
    tile_.BeginProduct();
    for (uint32_t k0 = 0; k0 < kQLoraRank; k0 += kInt8Chunk) {
      const uint32_t slot = tile_.BeginStream();
      const LocalTensor<int8_t> chunk = tile_.Stream<int8_t>(slot);
      CopyNzToL1(chunk, weights, kQLoraRank, k0, kInt8Chunk, column, kN);
      tile_.EndStream();
      tile_.TakeStream();
      tile_.Add(Latent(), m16_, k0, chunk, kInt8Chunk, 0, kInt8Chunk, 0, kN, kInt8Step);
      tile_.ReturnStream();
    }
    StoreC(dst, tile_.Product<int32_t>(), m_, m16_, 0, kN, dst_row);
    tile_.EndProduct();
  }

  // S5
  __aicore__ inline void Turn(uint32_t i) {
    const PrologItem item = items_.At(i);
    AwaitCore(kQueryReady);
    if (item.kind == PrologKind::kMlaHead) {
      Absorb(i, item.head);
      return;
    }
    if (item.kind == PrologKind::kIndexerHead) {
      Hadamard(i, a_.hadamard_q, m_);
    } else {
      const uint32_t vectors = 2 * t_.cores;
      Hadamard(i, a_.hadamard_k, ShareBegin(m_, 2 * core_ + 2, vectors) - ShareBegin(m_, 2 * core_, vectors));
    }
    NotifyVectors(kTurned);
  }

  // (3) nope part of a head times its w_uk [128, 512]
  __aicore__ inline void Absorb(uint32_t i, uint32_t head) {
    constexpr uint32_t kWide = 256;  // columns of one copy: rows of 512 bytes in GM
    constexpr uint32_t kN = 128;     // columns of one accumulator
    const uint64_t row = static_cast<uint64_t>(t_.n_q) * kKvLoraRank;
    const GlobalTensor<bfloat16_t> w_uk = Global<bfloat16_t>(a_.w_uk, uint64_t{t_.n_q} * kNopeDim * kKvLoraRank);
    const GlobalTensor<bfloat16_t> out = Global<bfloat16_t>(a_.query_nope, t_.t * row);
    for (uint32_t n0 = 0; n0 < kKvLoraRank; n0 += kWide) {
      const uint32_t slot = tile_.BeginStream();
      const LocalTensor<bfloat16_t> weights = tile_.Stream<bfloat16_t>(slot);
      if (n0 == 0) {
        CopyNdToL1(Query(i), workspace_.Query(t_, i), m_, kNopeDim, kNopeDim, m16_);
      }
      CopyNdToL1(weights, w_uk[static_cast<uint64_t>(head) * kNopeDim * kKvLoraRank + n0], kNopeDim, kWide, kKvLoraRank,
                 kNopeDim);
      tile_.EndStream();
      tile_.TakeStream();
      for (uint32_t n = 0; n < kWide; n += kN) {
        tile_.BeginProduct();
        tile_.Add(Query(i), m16_, 0, weights, kNopeDim, 0, kNopeDim, n, kN, kStep);
        StoreC(out[t0_ * row + head * kKvLoraRank + n0 + n], tile_.Product<float>(), m_, m16_, 0, kN,
               static_cast<uint32_t>(row));
        tile_.EndProduct();
      }
      tile_.ReturnStream();
    }
  }

  __aicore__ inline void Hadamard(uint32_t i, GM_ADDR matrix, uint32_t rows) {
    if (rows == 0) {
      return;
    }
    const uint32_t slot = tile_.BeginStream();
    const LocalTensor<bfloat16_t> weights = tile_.Stream<bfloat16_t>(slot);
    CopyNdToL1(Query(i), workspace_.Query(t_, i), rows, kIdxHeadDim, kIdxHeadDim, m16_);
    CopyNdToL1(weights, Global<bfloat16_t>(matrix, kIdxHeadDim * kIdxHeadDim), kIdxHeadDim, kIdxHeadDim, kIdxHeadDim,
               kIdxHeadDim);
    tile_.EndStream();
    tile_.TakeStream();
    tile_.BeginProduct();
    tile_.Add(Query(i), m16_, 0, weights, kIdxHeadDim, 0, kIdxHeadDim, 0, kIdxHeadDim, kStep);
    tile_.ReturnStream();
    StoreC(workspace_.Turned(t_, i), tile_.Product<float>(), rows, m16_, 0, kIdxHeadDim, kIdxHeadDim);
    tile_.EndProduct();
  }

  PrologArguments a_;
  PrologTiling t_;
  PrologItems items_;
  PrologWorkspace workspace_;
  CubeTile tile_;
  uint32_t core_ = 0, t0_ = 0, m_ = 0, m16_ = 0;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_PROLOG_CUBE_H_
