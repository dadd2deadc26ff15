#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_epilog_quant_params.h"
#include "ms_dsv32/kernel_impl/cpu/isa/gemm.h"
#include "ms_dsv32/kernel_impl/cpu/isa/quant.h"
#include "ms_dsv32/kernel_impl/cpu/isa/token_range.h"
#include "ms_dsv32/kernel_impl/cpu/scratch.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"
#include "ms_dsv32/kernel_impl/cpu/verbose.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {
namespace {

// Tokens that are worked on at a time. It bounds the scratch: with 128 heads a token has 32 KiB of values and 16 KiB of
// quantised ones, 24 MiB together.
constexpr int64_t kEpilogTokens = 512;
// Tokens of a task. Its sums, 256 KiB of a group of panels, stay in L2. A task that packs its weights first, which
// costs as much as some 10 rows, has more.
constexpr int64_t kEpilogRows = 128;
constexpr int64_t kEpilogRowsNd = 384;

// (1) value up-projection: each task is a head and a block of tokens.
class EpilogHeads {
 public:
  EpilogHeads(const MlaEpilogQuantParams& p, uint16_t* v, int threads)
      : tasks(p.n_q * CeilDiv(p.t, p.packed ? kEpilogRows : kEpilogRowsNd)),
        p_(p),
        v_(v),
        blocks_(tasks / p.n_q),
        threads_(threads) {}

  // Working memory of a thread.
  struct ThreadParts : ScratchPlan {
    explicit constexpr ThreadParts(bool packed) : strips(Add<uint16_t>(packed ? 0 : kHeadSize)) {}
    ScratchPart<float> sums = Add<float>(kEpilogRows * kDim);
    ScratchPart<uint16_t> strips;  // of a row-major weight
  };

  void Run(int64_t task, char* scratch) const {
    constexpr ThreadParts parts(false);  // with packed weights the last ones are missing
    float* sums = parts.sums.In(scratch);
    const int64_t n = task / blocks_;
    const int64_t block = task % blocks_;
    const uint16_t* uv = p_.w_uv + n * kHeadSize;
    if (!p_.packed) {
      uint16_t* strips = parts.strips.In(scratch);
      PackStripsBf16(uv, kDim, op_info::kKvLoraRank, kDim / kPanel, strips);
      uv = strips;
    }
    const int64_t next_n = LikelyNext(task, threads_) / blocks_;
    const uint16_t* next = p_.packed && next_n != n && next_n < p_.n_q ? uv + (next_n - n) * kHeadSize : nullptr;
    const int64_t end = (block + 1) * p_.t / blocks_;
    for (int64_t i = block * p_.t / blocks_; i < end; i += kEpilogRows) {
      const int64_t rows = Min(kEpilogRows, end - i);
      const uint16_t* x = p_.attention_out + (i * p_.n_q + n) * op_info::kKvLoraRank;
      GemmBf16({x, p_.n_q * op_info::kKvLoraRank, rows}, {uv, op_info::kKvLoraRank * kStrip, kDim / kPanel, next},
               op_info::kKvLoraRank, {sums, kDim, false});
      for (int64_t m = 0; m < rows; ++m) RoundRow(sums + m * kDim, kDim, v_ + ((i + m) * p_.n_q + n) * kDim);
    }
  }

  const int64_t tasks;

 private:
  static constexpr int64_t kDim = op_info::kVHeadDim;
  static constexpr int64_t kHeadSize = op_info::kKvLoraRank * kDim;

  const MlaEpilogQuantParams& p_;
  uint16_t* v_;           // [t, n_q * v_head_dim]
  const int64_t blocks_;  // of tokens, nearly equal
  const int threads_;
};

// (3) output projection: each task is a group of panels of w_o, all of k deep, and a block of tokens.
class EpilogOutput {
 public:
  EpilogOutput(const MlaEpilogQuantParams& p, const int8_t* v8, const float* scales, int threads)
      : p_(p), v8_(v8), scales_(scales), threads_(threads), k_(p.n_q * op_info::kVHeadDim) {
    blocks_ = CeilDiv(p.t, p.packed ? kEpilogRows : kEpilogRowsNd);
    // Larger groups convert a row for more columns. Smaller ones keep all threads busy to the end. The strips of one
    // panel are the fewest streams for hardware prefetchers to follow, which matters while w_o comes from memory about
    // as fast as it is multiplied.
    group_ = p.packed && p.t <= kStreamTokens ? 1 : kMaxGroup;
    while (group_ > 1 && kPanels / group_ * blocks_ < 8 * threads) group_ /= 2;
    tasks = kPanels / group_ * blocks_;
  }

  // Bytes between rows of v8: one line more than a power of two, so that the rows of a tile do not share cache sets.
  static constexpr int64_t RowStride(int64_t n_q) { return n_q * op_info::kVHeadDim + 64; }

  // Working memory of a thread.
  struct ThreadParts : ScratchPlan {
    explicit constexpr ThreadParts(bool packed)
        : sums(Add<int32_t>((packed ? kEpilogRows : kEpilogRowsNd) * kMaxGroup * kPanel)),
          strips(Add<int8_t>(packed ? 0 : kDepthNd * kMaxGroup * kPanel)) {}
    ScratchPart<int32_t> sums;
    ScratchPart<int8_t> strips;  // of a row-major weight
  };

  void Run(int64_t task, char* scratch) const {
    constexpr ThreadParts parts(false);  // with packed weights the last ones are missing
    int32_t* sums = parts.sums.In(scratch);
    const int64_t columns = group_ * kPanel;
    const int64_t first = task / blocks_ * columns;
    const int64_t row0 = task % blocks_ * p_.t / blocks_;
    const int64_t rows = (task % blocks_ + 1) * p_.t / blocks_ - row0;
    const int64_t ldx = RowStride(p_.n_q);
    const int8_t* x = v8_ + row0 * ldx;
    if (p_.packed) {
      const int64_t next = LikelyNext(task, threads_) / blocks_ * columns;
      const int8_t* next_w = next != first && next < op_info::kH ? p_.w_o + next * k_ : nullptr;
      GemmInt8({x, ldx, rows}, {p_.w_o + first * k_, k_ * kStrip, group_, next_w}, k_, {sums, columns, false});
    } else {
      int8_t* strips = parts.strips.In(scratch);
      for (int64_t k0 = 0; k0 < k_; k0 += kDepthNd) {  // int32 sums are exact, however k is cut
        const int64_t depth = Min(kDepthNd, k_ - k0);
        PackStripsInt8(p_.w_o + k0 * op_info::kH + first, op_info::kH, depth, group_, strips);
        GemmInt8({x + k0, ldx, rows}, {strips, depth * kStrip, group_}, depth, {sums, columns, k0 > 0});
      }
    }
    for (int64_t m = 0; m < rows; ++m) {
      DequantRow(sums + m * columns, scales_[row0 + m], p_.w_o_scale + first, columns,
                 p_.hidden + (row0 + m) * op_info::kH + first);
    }
  }

  int64_t Panels() const { return group_; }

  int64_t tasks;

 private:
  static constexpr int kPanels = static_cast<int>(op_info::kH / kPanel);
  static constexpr int kMaxGroup = 8;
  static constexpr int64_t kStreamTokens = 32;
  static constexpr int64_t kDepthNd = 1024;  // of w_o packed at a time: 512 KiB, which stay in L2
  static_assert(kPanels % kMaxGroup == 0, "groups cover h");

  const MlaEpilogQuantParams& p_;
  const int8_t* v8_;     // [t, RowStride(n_q)]
  const float* scales_;  // [t]
  const int threads_;
  const int64_t k_;  // n_q * v_head_dim: at most 16384 products of at most 2^14, below 2^31 in sum
  int64_t blocks_;   // of tokens, nearly equal
  int group_;        // panels of a task
};

void RunChunk(const MlaEpilogQuantParams& p) {
  const int threads = NumThreads();
  const int64_t k = p.n_q * op_info::kVHeadDim;
  const int64_t stride = EpilogOutput::RowStride(p.n_q);
  const size_t thread_bytes = Max(EpilogHeads::ThreadParts(p.packed).bytes, EpilogOutput::ThreadParts(p.packed).bytes);
  ScratchPlan plan;
  const auto values = plan.Add<uint16_t>(p.t * k);
  const auto quantised = plan.Add<int8_t>(p.t * stride);
  const auto token_scales = plan.Add<float>(p.t);
  const auto of_threads = plan.Add<char>(static_cast<int64_t>(thread_bytes) * threads);
  const Scratch scratch(plan);
  uint16_t* v = scratch[values];
  int8_t* v8 = scratch[quantised];
  float* scales = scratch[token_scales];
  char* thread_scratch = scratch[of_threads];
  const EpilogHeads heads(p, v, threads);
  const EpilogOutput output(p, v8, scales, threads);

  if (kVerbose) {
    const PlanItem items[] = {{"packed", p.packed},
                              {"panels", output.Panels()},
                              {"token_blocks", heads.tasks / p.n_q},
                              {"int8_tiles", Int8OnTiles(Min(kEpilogRows, p.t))}};
    TellPlan("mla_epilog_quant", items);
  }

  // (1) value up-projection of each head
  ParallelFor(heads.tasks, [&](int64_t task, int thread) { heads.Run(task, thread_scratch + thread * thread_bytes); });
  // (2) quantisation by token, over all heads
  ParallelFor(p.t, [&](int64_t i, int) { scales[i] = QuantRow(v + i * k, k, v8 + i * stride); });
  // (3) output projection
  ParallelFor(output.tasks,
              [&](int64_t task, int thread) { output.Run(task, thread_scratch + thread * thread_bytes); });
}

}  // namespace

void MlaEpilogQuant(const MlaEpilogQuantParams& p) {
  for (int64_t first = 0; first < p.t; first += kEpilogTokens) {
    RunChunk(TokenRange(p, first, Min(kEpilogTokens, p.t - first)));
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA
