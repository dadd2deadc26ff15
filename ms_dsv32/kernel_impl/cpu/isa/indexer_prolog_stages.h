// The stages of lightning_indexer_prolog_quant but the token projection, shared with mla_indexer_prolog_quant.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_INDEXER_PROLOG_STAGES_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_INDEXER_PROLOG_STAGES_H_

#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_prolog_quant_params.h"
#include "ms_dsv32/kernel_impl/cpu/isa/gemm.h"
#include "ms_dsv32/kernel_impl/cpu/isa/norm.h"
#include "ms_dsv32/kernel_impl/cpu/isa/quant.h"
#include "ms_dsv32/kernel_impl/cpu/isa/rope.h"
#include "ms_dsv32/kernel_impl/cpu/isa/token_projection.h"
#include "ms_dsv32/kernel_impl/cpu/isa/token_range.h"
#include "ms_dsv32/kernel_impl/cpu/scratch.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int64_t kIndexerRows = 96;     // tokens of a head at a time: its sums stay in L2
constexpr int64_t kIndexerRowsNd = 384;  // tokens of a task that packs its head's weights first
constexpr int64_t kIndexerKeyRows = 6;   // tokens of a key task: one tile of the Hadamard product
constexpr int64_t kHadamardSize = op_info::kIdxHeadDim * op_info::kIdxHeadDim;

// Packs a Hadamard matrix, which is always row-major, into strips: kHadamardSize elements in all.
inline void PackHadamard(const uint16_t* matrix, uint16_t* strips) {
  PackStripsBf16(matrix, op_info::kIdxHeadDim, op_info::kIdxHeadDim, op_info::kIdxHeadDim / kPanel, strips);
}

// x [rows, idx_head_dim] -> bf16(x @ hadamard), in place; `sums` holds as many floats.
inline void HadamardRows(const uint16_t* strips, int64_t rows, uint16_t* x, float* sums) {
  constexpr int64_t kDim = op_info::kIdxHeadDim;
  GemmBf16({x, kDim, rows}, {strips, kDim * kStrip, kDim / kPanel}, kDim, {sums, kDim, false});
  RoundRow(sums, rows * kDim, x);
}

// (2) keys of up to kIndexerKeyRows tokens from column `first_key` of the projection, and their cache rows where
// `writes` says so; (3) their head weights from column `first_weight`.
inline void IndexerKeys(const LightningIndexerPrologQuantParams& p, const TokenProjection& projection,
                        int64_t first_key, int64_t first_weight, const uint16_t* hadamard_k, const uint8_t* writes,
                        int64_t block) {
  constexpr int64_t kDim = op_info::kIdxHeadDim;
  alignas(64) float sums[kIndexerKeyRows * kDim];
  alignas(64) uint16_t keys[kIndexerKeyRows * kDim];
  const int64_t first = block * kIndexerKeyRows;
  const int64_t rows = Min(kIndexerKeyRows, p.t - first);
  if (rows < 1) __builtin_unreachable();  // gcc 12 on aarch64 sees `keys` uninitialised otherwise
  for (int64_t m = 0; m < rows; ++m) {
    const int64_t token = first + m;
    projection.SumRow(token, first_key, kDim, sums);
    LayerNormRow(sums, p.ln_gamma_k, p.ln_beta_k, p.layernorm_epsilon_k, kDim, keys + m * kDim);
    RopeHalfSplitRow(keys + m * kDim, p.cos_idx_rope + token * op_info::kRopeDim,
                     p.sin_idx_rope + token * op_info::kRopeDim, keys + m * kDim);

    alignas(64) float weights[op_info::kIdxNHeads];
    projection.SumRow(token, first_weight, op_info::kIdxNHeads, weights);
    for (int64_t n = 0; n < op_info::kIdxNHeads; ++n) {
      // idx_n_heads^-0.5 = 1/8, idx_head_dim^-0.5 = sqrt(2)/16
      const float weight = Bf16ToF32(F32ToBf16(weights[n])) * 0.125f * 0.08838834764831845f;
      p.weights[token * op_info::kIdxNHeads + n] = F32ToFp16(weight);
    }
  }
  HadamardRows(hadamard_k, rows, keys, sums);
  for (int64_t m = 0; m < rows; ++m) {
    if (!writes[first + m]) continue;
    const int64_t row = p.k_cache_index[first + m];
    p.k_cache_scale[row] = F32ToFp16(QuantRow(keys + m * kDim, kDim, p.k_cache + row * kDim));
  }
}
static_assert(op_info::kIdxNHeads == 64 && op_info::kIdxHeadDim == 128, "the two factors of the weights");

// (1) queries: each task is a head and a block of tokens.
class IndexerHeads {
 public:
  IndexerHeads(const LightningIndexerPrologQuantParams& p, const uint16_t* hadamard_q, int threads)
      : tasks(op_info::kIdxNHeads * CeilDiv(p.t, p.packed ? kIndexerRows : kIndexerRowsNd)),
        p_(p),
        hadamard_q_(hadamard_q),
        blocks_(tasks / op_info::kIdxNHeads),
        threads_(threads) {}

  // Working memory of a thread.
  struct ThreadParts : ScratchPlan {
    explicit constexpr ThreadParts(bool packed) : up(Add<int8_t>(packed ? 0 : op_info::kQLoraRank * kDim)) {}
    ScratchPart<int32_t> sums = Add<int32_t>(kIndexerRows * kDim);
    ScratchPart<uint16_t> query = Add<uint16_t>(kIndexerRows * kDim);
    ScratchPart<float> turned = Add<float>(kIndexerRows * kDim);
    ScratchPart<int8_t> up;  // strips of a row-major weight
  };

  void Run(int64_t task, char* scratch) const {
    constexpr ThreadParts parts(false);  // with packed weights the last ones are missing
    int32_t* sums = parts.sums.In(scratch);
    uint16_t* query = parts.query.In(scratch);
    float* turned = parts.turned.In(scratch);

    const int64_t n = task / blocks_;
    const int64_t block = task % blocks_;
    const int8_t* up = p_.w_qb + n * kDim * op_info::kQLoraRank;
    if (!p_.packed) {
      int8_t* packed_up = parts.up.In(scratch);
      PackStripsInt8(p_.w_qb + n * kDim, op_info::kIdxNHeads * kDim, op_info::kQLoraRank, kDim / kPanel, packed_up);
      up = packed_up;
    }
    const int64_t next_n = LikelyNext(task, threads_) / blocks_;
    const int8_t* next_up = p_.packed && next_n != n && next_n < op_info::kIdxNHeads
                                ? up + (next_n - n) * kDim * op_info::kQLoraRank
                                : nullptr;
    const int64_t end = (block + 1) * p_.t / blocks_;
    for (int64_t i = block * p_.t / blocks_; i < end; i += kIndexerRows) {
      const int64_t rows = Min(kIndexerRows, end - i);
      GemmInt8({p_.q_norm + i * op_info::kQLoraRank, op_info::kQLoraRank, rows},
               {up, op_info::kQLoraRank * kStrip, kDim / kPanel, next_up}, op_info::kQLoraRank, {sums, kDim, false});
      for (int64_t m = 0; m < rows; ++m) {
        uint16_t* q = query + m * kDim;
        DequantRow(sums + m * kDim, p_.q_norm_scale[i + m], p_.w_qb_scale + n * kDim, kDim, q);
        RopeHalfSplitRow(q, p_.cos_idx_rope + (i + m) * op_info::kRopeDim,
                         p_.sin_idx_rope + (i + m) * op_info::kRopeDim, q);
      }
      HadamardRows(hadamard_q_, rows, query, turned);
      for (int64_t m = 0; m < rows; ++m) {
        const int64_t out = (i + m) * op_info::kIdxNHeads + n;
        p_.q_scale[out] = F32ToFp16(QuantRow(query + m * kDim, kDim, p_.q_int8 + out * kDim));
      }
    }
  }

  const int64_t tasks;

 private:
  static constexpr int64_t kDim = op_info::kIdxHeadDim;

  const LightningIndexerPrologQuantParams& p_;
  const uint16_t* hadamard_q_;  // strips
  const int64_t blocks_;        // blocks of tokens, nearly equal
  const int threads_;
};

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_INDEXER_PROLOG_STAGES_H_
