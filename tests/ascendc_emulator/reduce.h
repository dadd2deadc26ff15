// Reductions on UB: sums, maxima and minima of repeats, blocks and whole tensors.
#ifndef ASCENDC_EMULATOR_REDUCE_H_
#define ASCENDC_EMULATOR_REDUCE_H_

#include "arithmetic.h"
#include "elementwise.h"

namespace ascendc_emulator {

enum class Reduce { kSum, kMax, kMin };

// The sum of n <= 128 values as the hardware adds them: a binary tree over the whole repeat, neighbours first
// (ReduceDataBlock.md). Each step of half is rounded to half.
template <class T>
inline T TreeSum(T* v, int64_t n) {
  for (; n > 1; n /= 2)
    for (int64_t i = 0; i < n / 2; ++i) v[i] = T(Wide(v[2 * i]) + Wide(v[2 * i + 1]));
  return v[0];
}

template <class T>
struct Best {
  T value{};
  int64_t index = -1;
  void Take(T v, int64_t i, Reduce kind) {
    const bool better =
        index < 0 ||
        (!IsNan(value) && (IsNan(v) || (kind == Reduce::kMax ? Wide(v) > Wide(value) : Wide(v) < Wide(value))));
    if (better) value = v, index = i;
  }
};

// WholeReduce*, BlockReduce*, PairReduceSum: `group` elements of a repeat make one result.
template <class T, class Mask>
inline void ReduceInstruction(const char* api, Loc loc, Reduce kind, int64_t group, const LocalTensor<T>& dst,
                              const LocalTensor<T>& src, Mask mask, int64_t repeat, int64_t dst_rep, int64_t src_blk,
                              int64_t src_rep, AscendC::ReduceOrder order, double rate) {
  static_assert(kFloating<T>, "reductions take half and float on arch 2201");
  using Order = AscendC::ReduceOrder;
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  constexpr int64_t kLanes = 256 / kSize;
  const Lanes lanes = Masked(api, loc, mask, repeat, kSize);
  const bool whole = group == kLanes;
  const bool pair =
      whole && kind != Reduce::kSum && (order == Order::ORDER_VALUE_INDEX || order == Order::ORDER_INDEX_VALUE);
  // ReduceRepeat.md, table 3. ReduceDataBlock.md: a repeat gives 8 results, and dstRepStride counts such groups.
  const int64_t results = kLanes / group;
  const int64_t unit = whole ? (pair                                                       ? 2 * kSize
                                : order == Order::ORDER_ONLY_INDEX && kind != Reduce::kSum ? 4
                                                                                           : kSize)
                             : results * kSize;
  const int64_t written = whole ? (pair                                                       ? 2 * kSize
                                   : order == Order::ORDER_ONLY_INDEX && kind != Reduce::kSum ? 4
                                                                                              : kSize)
                                : kSize;
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckKind(api, loc, "src", src, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, unit);
  CheckAlign(api, loc, "src", src, 32);
  dst_rep = Range(api, loc, "dstRepStride", dst_rep, 0, 65535) * unit;
  Operand<T> source = Strided(api, loc, "src", src, src_blk, src_rep, 65535, 65535);
  if (lanes.nop()) return;
  Ranges ranges(api, loc);
  AddRanges(ranges, source, lanes, false);
  for (int64_t g = 0; g < results; ++g) {
    bool any = false;
    for (int64_t e = g * group; e < (g + 1) * group; ++e) any |= lanes.bit(e);
    // A block without a lane in the mask does not change its result.
    if (any) ranges.Local("dst", dst, true, g * kSize, written, lanes.repeat, dst_rep);
  }
  const View to = dst.view();
  M().Issue(PIPE_V, api, loc, ranges.list(),
            {kVectorIssue + static_cast<double>(lanes.repeat * kLanes) / rate, kVectorHead}, [=] {
              Seen seen;
              for (int64_t r = 0; r < lanes.repeat; ++r) {
                T results_of[kLanes];
                bool valid_of[kLanes], any_of[kLanes];
                int64_t index_of[kLanes];
                for (int64_t g = 0; g < results; ++g) {
                  T values[kLanes];
                  Best<T> best;
                  bool ok = true, any = false;
                  for (int64_t i = 0; i < group; ++i) {
                    const int64_t e = g * group + i;
                    values[i] = T(0.0f);
                    if (!lanes.bit(e)) continue;
                    const View at = source.tensor.view() + source.Offset(r, e);
                    const bool defined = ElementValid<T>(at.valid, 0);
                    ok &= defined;
                    seen.any[0] |= defined;
                    any = true;
                    std::memcpy(&values[i], at.data, sizeof(T));
                    if (kind != Reduce::kSum) best.Take(values[i], e, kind);
                  }
                  results_of[g] = kind == Reduce::kSum ? TreeSum(values, group) : best.value;
                  valid_of[g] = ok;
                  any_of[g] = any;
                  index_of[g] = best.index;
                }
                for (int64_t g = 0; g < results; ++g) {
                  if (!any_of[g]) continue;
                  const View at = to + (r * dst_rep + g * kSize);
                  uint8_t bytes[8] = {};
                  const auto index = static_cast<uint32_t>(std::max<int64_t>(index_of[g], 0));
                  if (pair) {
                    const bool value_first = order == Order::ORDER_VALUE_INDEX;
                    std::memcpy(bytes + (value_first ? 0 : kSize), &results_of[g], sizeof(T));
                    std::memcpy(bytes + (value_first ? kSize : 0), &index, sizeof(T));
                  } else if (whole && kind != Reduce::kSum && order == Order::ORDER_ONLY_INDEX) {
                    std::memcpy(bytes, &index, 4);
                  } else {
                    std::memcpy(bytes, &results_of[g], sizeof(T));
                  }
                  std::memcpy(at.data, bytes, static_cast<size_t>(written));
                  std::memset(at.valid, valid_of[g], static_cast<size_t>(written));
                }
              }
              ReportUnseen(api, loc, seen.any[0], "src");
            });
}

}  // namespace ascendc_emulator

namespace AscendC {

// ReduceRepeat.md (WholeReduce*): one result for each repeat; (value, index) pairs unless the order says otherwise.
template <class T, class Mask>
inline void WholeReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, int32_t repeat,
                           int32_t dst_rep, int32_t src_blk, int32_t src_rep, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("WholeReduceSum", loc, Reduce::kSum, 256 / int64_t{sizeof(T)}, dst, src, mask, repeat, dst_rep,
                    src_blk, src_rep, ReduceOrder::ORDER_ONLY_VALUE, kFullRate<T> / 7);
}
template <class T, class Mask>
inline void WholeReduceMax(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, int32_t repeat,
                           int32_t dst_rep, int32_t src_blk, int32_t src_rep,
                           ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("WholeReduceMax", loc, Reduce::kMax, 256 / int64_t{sizeof(T)}, dst, src, mask, repeat, dst_rep,
                    src_blk, src_rep, order, kFullRate<T> / 7);
}
template <class T, class Mask>
inline void WholeReduceMin(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, int32_t repeat,
                           int32_t dst_rep, int32_t src_blk, int32_t src_rep,
                           ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("WholeReduceMin", loc, Reduce::kMin, 256 / int64_t{sizeof(T)}, dst, src, mask, repeat, dst_rep,
                    src_blk, src_rep, order, kFullRate<T> / 7);
}
// ReduceDataBlock.md (BlockReduce*): one result for each 32 B block. The repeat count comes before the mask.
template <class T, class Mask>
inline void BlockReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t repeat, Mask mask,
                           int32_t dst_rep, int32_t src_blk, int32_t src_rep, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("BlockReduceSum", loc, Reduce::kSum, 32 / int64_t{sizeof(T)}, dst, src, mask, repeat, dst_rep,
                    src_blk, src_rep, ReduceOrder::ORDER_ONLY_VALUE, kFullRate<T>);
}
template <class T, class Mask>
inline void BlockReduceMax(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t repeat, Mask mask,
                           int32_t dst_rep, int32_t src_blk, int32_t src_rep, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("BlockReduceMax", loc, Reduce::kMax, 32 / int64_t{sizeof(T)}, dst, src, mask, repeat, dst_rep,
                    src_blk, src_rep, ReduceOrder::ORDER_ONLY_VALUE, kFullRate<T>);
}
template <class T, class Mask>
inline void BlockReduceMin(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t repeat, Mask mask,
                           int32_t dst_rep, int32_t src_blk, int32_t src_rep, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("BlockReduceMin", loc, Reduce::kMin, 32 / int64_t{sizeof(T)}, dst, src, mask, repeat, dst_rep,
                    src_blk, src_rep, ReduceOrder::ORDER_ONLY_VALUE, kFullRate<T>);
}
// ReducePairElem.md (PairReduceSum)
template <class T, class Mask>
inline void PairReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t repeat, Mask mask,
                          int32_t dst_rep, int32_t src_blk, int32_t src_rep, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  ReduceInstruction("PairReduceSum", loc, Reduce::kSum, 2, dst, src, mask, repeat, dst_rep, src_blk, src_rep,
                    ReduceOrder::ORDER_ONLY_VALUE, kFullRate<T>);
}

// ReduceSum.md: a tree inside each repeat, the repeats one after another.
template <class T>
inline void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work, int32_t count,
                      Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(kFloating<T>, "ReduceSum takes half and float on arch 2201");
  const char* api = "ReduceSum";
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  constexpr int64_t kLanes = 256 / kSize;
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckKind(api, loc, "src", src, Kind::kUb);
  CheckKind(api, loc, "sharedTmpBuffer", work, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, kSize);
  CheckAlign(api, loc, "src", src, 32);
  const int64_t n = Range(api, loc, "count", count, 0, 196608);
  if (n == 0) return;
  Ranges ranges(api, loc);
  ranges.Local("src", src, false, 0, n * kSize);
  ranges.Local("dst", dst, true, 0, kSize);
  const View to = dst.view(), from = src.view();
  M().Issue(PIPE_V, api, loc, ranges.list(),
            {kVectorIssue + static_cast<double>((n + kLanes - 1) / kLanes) * 7, kVectorHead}, [=] {
              T sum = T(0.0f);
              for (int64_t at = 0; at < n; at += kLanes) {
                T values[kLanes];
                std::fill(values, values + kLanes, T(0.0f));
                std::memcpy(values, from.data + at * kSize, static_cast<size_t>(std::min(kLanes, n - at) * kSize));
                const T part = TreeSum(values, kLanes);
                sum = at == 0 ? part : T(Wide(sum) + Wide(part));
              }
              const bool ok = AllValid(from.valid, n * kSize);
              ReportUnseen(api, loc, AnyValid(from.valid, n * kSize), "src");
              std::memcpy(to.data, &sum, sizeof(T));
              std::memset(to.valid, ok, sizeof(T));
            });
}
// ReduceMax.md. With calIndex the index follows the value, in its type's bits.
template <class T>
inline void ReduceMax(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work, int32_t count,
                      bool cal_index = false, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(kFloating<T>, "ReduceMax takes half and float on arch 2201");
  const char* api = "ReduceMax";
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  constexpr int64_t kLanes = 256 / kSize;
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckKind(api, loc, "src", src, Kind::kUb);
  CheckKind(api, loc, "sharedTmpBuffer", work, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, 2 * kSize);
  CheckAlign(api, loc, "src", src, 32);
  CheckAlign(api, loc, "sharedTmpBuffer", work, 32);
  const int64_t n = Range(api, loc, "count", count, 0, 196608);
  if (n == 0) return;
  Ranges ranges(api, loc);
  ranges.Local("src", src, false, 0, n * kSize);
  const int64_t pairs = (std::max<int64_t>(n / kLanes, 1) * 2 + 32 / kSize - 1) / (32 / kSize) * (32 / kSize) * kSize;
  ranges.Local("sharedTmpBuffer", work, true, 0, pairs);
  ranges.Local("dst", dst, true, 0, cal_index ? 2 * kSize : kSize);
  const View to = dst.view(), from = src.view(), scratch = work.view();
  M().Issue(PIPE_V, api, loc, ranges.list(),
            {kVectorIssue + static_cast<double>((n + kLanes - 1) / kLanes) * 8, kVectorHead}, [=] {
              Best<T> best;
              for (int64_t i = 0; i < n; ++i) {
                T v;
                std::memcpy(&v, from.data + i * kSize, sizeof(T));
                best.Take(v, i, Reduce::kMax);
              }
              const bool ok = AllValid(from.valid, n * kSize);
              ReportUnseen(api, loc, AnyValid(from.valid, n * kSize), "src");
              std::memset(scratch.valid, 0, static_cast<size_t>(pairs));
              std::memcpy(to.data, &best.value, sizeof(T));
              std::memset(to.valid, ok, sizeof(T));
              if (cal_index) {
                const auto index = static_cast<uint32_t>(best.index);
                std::memcpy(to.data + kSize, &index, sizeof(T));
                std::memset(to.valid + kSize, ok, sizeof(T));
              }
            });
}

}  // namespace AscendC

#endif  // ASCENDC_EMULATOR_REDUCE_H_
