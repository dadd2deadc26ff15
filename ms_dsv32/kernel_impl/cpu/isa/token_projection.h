// x [t, h] times bf16 weights that stand side by side, in float32: the first stage of the prologs.
//
// h is cut into kProjectionParts parts whatever t is. A part is one chain of additions, and the parts are added in
// ascending order. So the bits do not depend on whether the parts are computed by different threads (Split, few tokens)
// or one after the other.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_TOKEN_PROJECTION_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_TOKEN_PROJECTION_H_

#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/cpu/isa/gemm.h"
#include "ms_dsv32/kernel_impl/cpu/scratch.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

// Tokens that a prolog works on at a time. It bounds the scratch: 9.0 MiB of sums, and less than 0.8 MiB for each
// thread.
constexpr int64_t kPrologTokens = 1024;
constexpr int64_t kProjectionDepth = 1024;  // h of one part: 128 KiB of a panel, a fraction of any L2
constexpr int kProjectionParts = static_cast<int>(op_info::kH / kProjectionDepth);
static_assert(op_info::kH % kProjectionDepth == 0, "the parts cover h");
static_assert(kProjectionDepth % kBf16Cut == 0, "a part is whole links of a chain");
// Up to so many tokens the parts are separate tasks: 64 tokens have 4 MiB of partial sums.
constexpr int64_t kProjectionSplitTokens = 64;
// Rows of a task with more tokens: 16 tiles, and more with row-major weights, because packing a block of them costs as
// much as some 10 rows of products.
constexpr int64_t kProjectionRows = 96;
constexpr int64_t kProjectionRowsNd = 384;
constexpr int kProjectionGroup = 3;  // panels of a task: a converted row of x serves 192 columns
constexpr int kProjectionMaxWeights = 4;

// Call Add, then Plan, then Run for every task in [0, tasks) on any thread, then SumRow.
class TokenProjection {
 public:
  TokenProjection(const uint16_t* x, int64_t t, bool packed) : x_(x), t_(t), packed_(packed) {}

  MS_DSV32_INLINE void Add(const uint16_t* weight, int64_t columns) {
    weights_[count_] = {weight, static_cast<int>(columns / kPanel), panels_};
    panels_ += weights_[count_++].panels;
  }

  // Floats of the `sums` that Plan takes.
  MS_DSV32_INLINE int64_t SumsSize() const { return (Split() ? kProjectionParts : 1) * t_ * Columns(); }

  // Working memory of a thread.
  struct ThreadParts : ScratchPlan {
    ScratchPart<float> sums = Add<float>(kProjectionRowsNd * kPanel);
    ScratchPart<uint16_t> block = Add<uint16_t>(kProjectionDepth * kPanel);
  };
  static_assert(kProjectionRowsNd >= kProjectionRows * kProjectionGroup, "ThreadParts suits packed weights too");

  MS_DSV32_INLINE void Plan(float* sums, int threads) {
    sums_ = sums;
    threads_ = threads;
    group_ = 1;
    blocks_ = Split() ? kProjectionParts : CeilDiv(t_, packed_ ? kProjectionRows : kProjectionRowsNd);
    // Larger tasks waste less. Smaller ones keep all threads busy to the end.
    if (packed_ && CeilDiv(panels_, kProjectionGroup) * blocks_ >= 8 * threads) group_ = kProjectionGroup;
    tasks = CeilDiv(panels_, group_) * blocks_;
  }

  void Run(int64_t task, char* scratch) const {
    const ThreadParts parts;
    float* part_sums = parts.sums.In(scratch);
    uint16_t* block = parts.block.In(scratch);
    if (Split()) {
      // Takes one part of x after the other, so that it stays in L2 for all weights.
      const int64_t groups = tasks / blocks_;
      const int part = static_cast<int>(task / groups);
      const int first = static_cast<int>(task % groups) * group_;
      const int64_t next = LikelyNext(task, threads_);
      const uint16_t* ahead = nullptr;
      if (packed_ && next < tasks) {
        ahead = Block(static_cast<int>(next % groups) * group_, static_cast<int>(next / groups));
      }
      Multiply(first, Min(group_, panels_ - first), part, 0, t_, block,
               {sums_ + part * t_ * Columns() + first * kPanel, Columns(), false}, ahead);
      return;
    }
    const int first = static_cast<int>(task / blocks_) * group_;
    const int panels = Min(group_, panels_ - first);
    const int64_t row0 = task % blocks_ * t_ / blocks_;
    const int64_t row1 = (task % blocks_ + 1) * t_ / blocks_;
    float* out = sums_ + row0 * Columns() + first * kPanel;
    Multiply(first, panels, 0, row0, row1, block, {out, Columns(), false}, nullptr);
    for (int part = 1; part < kProjectionParts; ++part) {
      const int64_t columns = panels * kPanel;
      Multiply(first, panels, part, row0, row1, block, {part_sums, columns, false}, nullptr);
      for (int64_t m = 0; m < row1 - row0; ++m) {
        float* o = out + m * Columns();
        for (int64_t j = 0; j < columns; j += kLanes) {
          StoreF(o + j, LoadF(o + j) + LoadF(part_sums + m * columns + j));
        }
      }
    }
  }

  // out[columns] = row `token` of columns [first, first + columns) of the product, after all tasks. Multiples of 64.
  void SumRow(int64_t token, int64_t first, int64_t columns, float* out) const {
    const float* in = sums_ + token * Columns() + first;
    const int parts = Split() ? kProjectionParts : 1;
    for (int64_t j = 0; j < columns; j += kLanes) {
      VecF sum = LoadF(in + j);
      for (int part = 1; part < parts; ++part) sum += LoadF(in + part * t_ * Columns() + j);
      StoreF(out + j, sum);
    }
  }

  // Tasks that h is cut into, and panels of a task. After Plan.
  int64_t Parts() const { return Split() ? kProjectionParts : 1; }
  int64_t Panels() const { return group_; }

  int64_t tasks = 0;

 private:
  struct Weight {
    const uint16_t* data;
    int panels;
    int first;  // panel of the whole
  };

  MS_DSV32_INLINE bool Split() const { return t_ <= kProjectionSplitTokens; }
  MS_DSV32_INLINE int64_t Columns() const { return static_cast<int64_t>(panels_) * kPanel; }

  // One part of the packed strips of a panel. Panels are counted over all weights.
  const uint16_t* Block(int panel, int part) const {
    int i = 0;
    while (panel >= weights_[i].first + weights_[i].panels) ++i;
    return weights_[i].data + (panel - weights_[i].first) * op_info::kH * kPanel + part * kProjectionDepth * kStrip;
  }

  // out = rows [row0, row1) of x's part times panels [first, first + panels). `next` is the weights to fetch meanwhile,
  // or null.
  void Multiply(int first, int panels, int part, int64_t row0, int64_t row1, uint16_t* block, const Sums<float>& out,
                const uint16_t* next) const {
    const Rows<uint16_t> x = {x_ + row0 * op_info::kH + part * kProjectionDepth, op_info::kH, row1 - row0};
    for (int i = 0; i < count_; ++i) {
      const Weight& weight = weights_[i];
      int begin = Max(first, weight.first) - weight.first;
      const int end = Min(first + panels, weight.first + weight.panels) - weight.first;
      if (begin >= end) continue;
      Sums<float> sums = out.From(0, (weight.first + begin - first) * kPanel, false);
      if (packed_) {
        constexpr int64_t kStride = op_info::kH * kStrip;
        GemmBf16(x, {Block(weight.first + begin, part), kStride, end - begin, next}, kProjectionDepth, sums);
        continue;
      }
      const int64_t ldw = weight.panels * kPanel;
      for (; begin < end; ++begin, sums.c += kPanel) {
        PackStripsBf16(weight.data + part * kProjectionDepth * ldw + begin * kPanel, ldw, kProjectionDepth, 1, block);
        GemmBf16(x, {block, kProjectionDepth * kStrip, 1}, kProjectionDepth, sums);
      }
    }
  }

  const uint16_t* x_;
  int64_t t_;
  bool packed_;
  Weight weights_[kProjectionMaxWeights] = {};
  int count_ = 0;
  int panels_ = 0;
  float* sums_ = nullptr;
  int threads_ = 1;
  int group_ = 1;       // panels of a task
  int64_t blocks_ = 1;  // parts of h, or blocks of rows
};

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_TOKEN_PROJECTION_H_
