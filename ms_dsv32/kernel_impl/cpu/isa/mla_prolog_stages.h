// The stages of mla_prolog_quant after the token projection, shared with mla_indexer_prolog_quant.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_MLA_PROLOG_STAGES_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_MLA_PROLOG_STAGES_H_

#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_prolog_quant_params.h"
#include "ms_dsv32/kernel_impl/cpu/isa/gemm.h"
#include "ms_dsv32/kernel_impl/cpu/isa/norm.h"
#include "ms_dsv32/kernel_impl/cpu/isa/quant.h"
#include "ms_dsv32/kernel_impl/cpu/isa/rope.h"
#include "ms_dsv32/kernel_impl/cpu/isa/token_projection.h"
#include "ms_dsv32/kernel_impl/cpu/isa/token_range.h"
#include "ms_dsv32/kernel_impl/cpu/scratch.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int64_t kHeadRows = 96;     // tokens of a head at a time: its sums and latents stay in L2
constexpr int64_t kHeadRowsNd = 384;  // tokens of a task that packs its head's weights first

// (1) query latent of one token, from column `first` of the projection: RmsNorm, quantisation.
inline void MlaQueryLatent(const MlaPrologQuantParams& p, const TokenProjection& projection, int64_t first,
                           int64_t token) {
  alignas(64) float sums[op_info::kQLoraRank];
  alignas(64) uint16_t latent[op_info::kQLoraRank];
  projection.SumRow(token, first, op_info::kQLoraRank, sums);
  RmsNormRow(sums, p.gamma_cq, p.epsilon_cq, op_info::kQLoraRank, latent);
  p.q_norm_scale[token] = QuantRow(latent, op_info::kQLoraRank, p.q_norm + token * op_info::kQLoraRank);
}

// (5) key latent of one token, from column `first` of the projection, and (6) its cache rows.
inline void MlaKeyLatent(const MlaPrologQuantParams& p, const TokenProjection& projection, int64_t first,
                         int64_t token) {
  constexpr int64_t kColumns = op_info::kKvLoraRank + op_info::kRopeDim;
  constexpr int64_t kGroup = op_info::kKvLoraRank / op_info::kKScaleGroups;
  alignas(64) float sums[kColumns];
  alignas(64) uint16_t latent[op_info::kKvLoraRank];
  alignas(64) uint16_t rope[op_info::kRopeDim];
  const int64_t row = p.cache_index[token];
  projection.SumRow(token, first, kColumns, sums);
  RmsNormRow(sums, p.gamma_ckv, p.epsilon_ckv, op_info::kKvLoraRank, latent);
  for (int64_t g = 0; g < op_info::kKScaleGroups; ++g) {
    p.k_scale_cache[row * op_info::kKScaleGroups + g] =
        QuantRow(latent + g * kGroup, kGroup, p.kv_cache + row * op_info::kKvLoraRank + g * kGroup);
  }
  RoundRow(sums + op_info::kKvLoraRank, op_info::kRopeDim, rope);
  RopeInterleavedRow(rope, p.cos + token * op_info::kRopeDim, p.sin + token * op_info::kRopeDim,
                     p.kr_cache + row * op_info::kRopeDim);
}

// (2) to (4): each task is a head and a block of tokens.
class MlaHeads {
 public:
  MlaHeads(const MlaPrologQuantParams& p, int threads)
      : tasks(p.n_q * CeilDiv(p.t, p.packed ? kHeadRows : kHeadRowsNd)),
        p_(p),
        blocks_(tasks / p.n_q),
        threads_(threads) {}

  // Working memory of a thread.
  struct ThreadParts : ScratchPlan {
    explicit constexpr ThreadParts(bool packed)
        : up(Add<int8_t>(packed ? 0 : op_info::kQLoraRank * op_info::kQHeadDim)),
          uk(Add<uint16_t>(packed ? 0 : op_info::kQkNopeHeadDim * op_info::kKvLoraRank)) {}
    ScratchPart<int32_t> sums = Add<int32_t>(kHeadRows * op_info::kQHeadDim);
    ScratchPart<uint16_t> query = Add<uint16_t>(kHeadRows * op_info::kQHeadDim);
    ScratchPart<float> absorbed = Add<float>(kHeadRows * kUkColumns);
    ScratchPart<int8_t> up;    // strips of a row-major weight
    ScratchPart<uint16_t> uk;  // likewise
  };

  void Run(int64_t task, char* scratch) const {
    constexpr int64_t kUpStride = op_info::kQLoraRank * kStrip;
    constexpr int64_t kUkStride = op_info::kQkNopeHeadDim * kStrip;
    constexpr ThreadParts parts(false);  // with packed weights the last ones are missing
    int32_t* sums = parts.sums.In(scratch);
    uint16_t* query = parts.query.In(scratch);
    float* absorbed = parts.absorbed.In(scratch);

    const int64_t n = task / blocks_;
    const int64_t block = task % blocks_;
    const int8_t* up = p_.w_uq_qr + n * op_info::kQHeadDim * op_info::kQLoraRank;
    const uint16_t* uk = p_.w_uk + n * op_info::kQkNopeHeadDim * op_info::kKvLoraRank;
    if (!p_.packed) {
      int8_t* packed_up = parts.up.In(scratch);
      uint16_t* packed_uk = parts.uk.In(scratch);
      const int64_t columns = p_.n_q * op_info::kQHeadDim;
      PackStripsInt8(p_.w_uq_qr + n * op_info::kQHeadDim, columns, op_info::kQLoraRank, op_info::kQHeadDim / kPanel,
                     packed_up);
      PackStripsBf16(uk, op_info::kKvLoraRank, op_info::kQkNopeHeadDim, op_info::kKvLoraRank / kPanel, packed_uk);
      up = packed_up;
      uk = packed_uk;
    }
    const int64_t next_n = LikelyNext(task, threads_) / blocks_;
    const int8_t* next_up = p_.packed && next_n != n && next_n < p_.n_q
                                ? up + (next_n - n) * op_info::kQHeadDim * op_info::kQLoraRank
                                : nullptr;
    const int64_t end = (block + 1) * p_.t / blocks_;
    for (int64_t i = block * p_.t / blocks_; i < end; i += kHeadRows) {
      const int64_t rows = Min(kHeadRows, end - i);
      // (2) query up-projection, dequantised. Meanwhile W_UK is fetched in pieces as far apart as the strips of
      // w_uq_qr. Its own strips are shorter, so these are not the pieces that are read first, but fetching those would
      // gain nothing.
      GemmInt8({p_.q_norm + i * op_info::kQLoraRank, op_info::kQLoraRank, rows},
               {up, kUpStride, op_info::kQHeadDim / kPanel, uk}, op_info::kQLoraRank,
               {sums, op_info::kQHeadDim, false});
      for (int64_t m = 0; m < rows; ++m) {
        DequantRow(sums + m * op_info::kQHeadDim, p_.q_norm_scale[i + m], p_.dequant_scale + n * op_info::kQHeadDim,
                   op_info::kQHeadDim, query + m * op_info::kQHeadDim);
      }
      // (3) absorb W_UK
      for (int64_t j = 0; j < op_info::kKvLoraRank; j += kUkColumns) {
        const uint16_t* columns = uk + j * op_info::kQkNopeHeadDim;
        const bool last = j + kUkColumns == op_info::kKvLoraRank;
        const void* next = last ? static_cast<const void*>(next_up) : columns + kUkColumns * op_info::kQkNopeHeadDim;
        GemmBf16({query, op_info::kQHeadDim, rows}, {columns, kUkStride, kUkColumns / kPanel, next},
                 op_info::kQkNopeHeadDim, {absorbed, kUkColumns, false});
        for (int64_t m = 0; m < rows; ++m) {
          RoundRow(absorbed + m * kUkColumns, kUkColumns,
                   p_.q_nope + ((i + m) * p_.n_q + n) * op_info::kKvLoraRank + j);
        }
      }
      // (4) RoPE
      for (int64_t m = 0; m < rows; ++m) {
        RopeInterleavedRow(query + m * op_info::kQHeadDim + op_info::kQkNopeHeadDim,
                           p_.cos + (i + m) * op_info::kRopeDim, p_.sin + (i + m) * op_info::kRopeDim,
                           p_.q_rope + ((i + m) * p_.n_q + n) * op_info::kRopeDim);
      }
    }
  }

  const int64_t tasks;

 private:
  static constexpr int64_t kUkColumns = 256;  // columns of q_nope at a time: a converted row serves 16 strips

  const MlaPrologQuantParams& p_;
  const int64_t blocks_;  // blocks of tokens, nearly equal
  const int threads_;
};

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_MLA_PROLOG_STAGES_H_
