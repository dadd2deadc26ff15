// GatherMask, Sort32 and MrgSort.
#ifndef ASCENDC_EMULATOR_SORT_H_
#define ASCENDC_EMULATOR_SORT_H_

#include "cast.h"

namespace ascendc_emulator {

// GatherMask.md. `pattern` is 0 when the mask comes from a tensor. How much is kept is then known only when it
// executes, so the instruction counts as writing all that it may keep and dst has room for. The count by reference is
// useless, because CANN's header reads the register right after issue, before the instruction has run
// (asc_get_rsvd_count.md).
template <class T, class U>
inline void GatherMaskInstruction(Loc loc, const LocalTensor<T>& dst, const LocalTensor<T>& src,
                                  const LocalTensor<U>* bits, int64_t pattern, bool counter, int64_t mask,
                                  const AscendC::GatherMaskParams& p, uint64_t& kept_count) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4, "GatherMask takes 2- and 4-byte types on arch 2201");
  const char* api = "GatherMask";
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  constexpr int64_t kLanes = 256 / kSize, kPerBlock = 32 / kSize;
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckKind(api, loc, "src0", src, Kind::kUb);
  if (bits != nullptr) CheckKind(api, loc, "src1Pattern", *bits, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, 32);
  CheckAlign(api, loc, "src0", src, 32);
  const int64_t repeat = Range(api, loc, "repeatTimes", p.repeatTimes, 0, 255);
  const int64_t blk = Range(api, loc, "src0BlockStride (32 B)", p.src0BlockStride, 0, 255) * 32;
  const int64_t rep = Range(api, loc, "src0RepeatStride (32 B)", p.src0RepeatStride, 0, 65535) * 32;
  const int64_t bits_rep = Range(api, loc, "src1RepeatStride (32 B)", p.src1RepeatStride, 0, 255) * 32;
  // Counter mode: `mask` elements of each repeat, which may be more than 256 B of them.
  const int64_t n = counter ? Range(api, loc, "mask", mask, 1, 196608) : kLanes;
  kept_count = ~uint64_t{0};
  if (repeat == 0) return;
  auto offset = [=](int64_t r, int64_t e) { return r * rep + e / kPerBlock * blk + e % kPerBlock * kSize; };
  auto kept = [=, pattern_bits = bits ? bits->view().data : nullptr](int64_t r, int64_t e) {
    switch (pattern) {
      case 0:
        return (pattern_bits[r * bits_rep + e / 8] >> (e & 7) & 1) != 0;
      case 1:
      case 2:
        return e % 2 == pattern - 1;
      case 7:
        return true;
      default:
        return e % 4 == pattern - 3;
    }
  };
  Ranges ranges(api, loc);
  if (blk == 32)
    ranges.Local("src0", src, false, 0, n * kSize, repeat, rep);
  else
    ranges.Local("src0", src, false, 0, 32, (n + kPerBlock - 1) / kPerBlock, blk, repeat, rep);
  if (bits != nullptr) {
    CheckAlign(api, loc, "src1Pattern", *bits, 32);
    ranges.Local("src1Pattern", *bits, false, 0, (n + 7) / 8, repeat, bits_rep);
  }
  const auto count = [=] {
    int64_t total = 0;
    for (int64_t r = 0; r < repeat; ++r)
      for (int64_t e = 0; e < n; ++e) total += kept(r, e);
    return total;
  };
  const int64_t most = bits == nullptr ? count() : dst.bytes() < 0 ? n : std::min(repeat * n, dst.bytes() / kSize);
  ranges.Local("dst", dst, true, 0, most * kSize);
  const View to = dst.view(), from = src.view();
  const double cycles = static_cast<double>(repeat * n) / (kSize == 4 ? 32 : 64);
  const int64_t d0 = dst.address(), s0 = src.address(), room = dst.bytes();
  const auto check_overlap = [=](int64_t total) {
    if (d0 != s0 && d0 < s0 + offset(repeat - 1, n - 1) + kSize && s0 < d0 + total * kSize)
      M().Fail("overlap", loc, "GatherMask: dst and src0 overlap in part");
  };
  if (bits == nullptr) check_overlap(most);
  const uint8_t* bits_valid = bits != nullptr ? bits->view().valid : nullptr;
  Core* core = t_core;
  M().Issue(PIPE_V, api, loc, ranges.list(), {kVectorIssue + cycles, kVectorHead}, [=] {
    const int64_t total = count();
    if (bits_valid != nullptr) {
      for (int64_t r = 0; r < repeat; ++r)
        if (!AllValid(bits_valid + r * bits_rep, (n + 7) / 8))
          M().Note("uninitialised", loc, "GatherMask: src1Pattern holds undefined bits");
      if (total * kSize > room)
        M().Fail("overflow", loc,
                 Format("GatherMask: keeps %lld elements, dst has room for %lld", static_cast<long long>(total),
                        static_cast<long long>(room / kSize)));
      check_overlap(total);
    }
    int64_t at = 0;
    Seen seen;
    for (int64_t r = 0; r < repeat; ++r)
      for (int64_t e = 0; e < n; ++e) {
        if (!kept(r, e)) continue;
        const View source = from + offset(r, e);
        seen.any[0] |= ElementValid<T>(source.valid, 0);
        Move(to + at, source, kSize);
        at += kSize;
      }
    if (at > 0) ReportUnseen(api, loc, seen.any[0], "src0");
    core->gather_count = total;
  });
  core->gather_count_seq = core->seq[PIPE_V];
}

// A record of Sort32 and MrgSort: 8 bytes, the score low, the index in the high 4.
template <class T>
inline float Score(const uint8_t* record) {
  T value;
  std::memcpy(&value, record, sizeof(T));
  return Wide(value);
}

}  // namespace ascendc_emulator

namespace AscendC {

template <class T>
inline void GatherMask(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const uint8_t pattern,
                       const bool reduce_mode, const uint32_t mask, const GatherMaskParams& params, uint64_t& kept,
                       Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  Range("GatherMask", loc, "src1Pattern", pattern, 1, 7);
  GatherMaskInstruction<T, uint32_t>(loc, dst, src0, nullptr, pattern, reduce_mode, mask, params, kept);
}
template <class T, class U>
inline void GatherMask(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<U>& pattern,
                       const bool reduce_mode, const uint32_t mask, const GatherMaskParams& params, uint64_t& kept,
                       Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(std::is_same_v<U, std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>>,
                "src1Pattern is uint16_t or uint32_t, as wide as the data");
  GatherMaskInstruction<T, U>(loc, dst, src0, &pattern, 0, reduce_mode, mask, params, kept);
}

// How many elements the last GatherMask kept (asc_get_rsvd_count.md, which reads the same register). The scalar unit
// must have waited for it.
inline int64_t GetGatherMaskRemainCount(Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  Core& core = *t_core;
  if (core.gather_count_seq == 0) M().Fail("argument", loc, "GetGatherMaskRemainCount without a GatherMask before it");
  M().LetPipesGoOn();
  if (core.known[PIPE_S].at[PIPE_V] < core.gather_count_seq)
    M().Note("hazard", loc, "GetGatherMaskRemainCount: no V_S flag orders the scalar unit after the GatherMask");
  return core.gather_count;
}

// Sort32.md: sorts 32 scores in descending order, equal ones in the order of their places.
template <class T>
inline void Sort32(const LocalTensor<T>& dst, const LocalTensor<T>& score, const LocalTensor<uint32_t>& index,
                   const int32_t repeat, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(kFloating<T>, "Sort32 takes half and float");
  const char* api = "Sort32";
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckKind(api, loc, "src0", score, Kind::kUb);
  CheckKind(api, loc, "src1", index, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, 256);
  CheckAlign(api, loc, "src0", score, 32 * kSize);
  CheckAlign(api, loc, "src1", index, 128);
  const int64_t repeats = Range(api, loc, "repeatTime", repeat, 0, 255);
  if (repeats == 0) return;
  Ranges ranges(api, loc);
  ranges.Local("src0", score, false, 0, repeats * 32 * kSize);
  ranges.Local("src1", index, false, 0, repeats * 128);
  ranges.Local("dst", dst, true, 0, repeats * 256);
  const View to = dst.view(), from = score.view(), ids = index.view();
  M().Issue(PIPE_V, api, loc, ranges.list(), {kVectorIssue + static_cast<double>(repeats) * 16, kVectorHead}, [=] {
    for (int64_t r = 0; r < repeats; ++r) {
      int order[32];
      float value[32];
      for (int i = 0; i < 32; ++i) order[i] = i, value[i] = Score<T>(from.data + (r * 32 + i) * kSize);
      std::stable_sort(order, order + 32, [&](int a, int b) { return value[a] > value[b]; });
      // One undefined score or index makes the order of the whole group undefined.
      const bool ok = AllValid(from.valid + r * 32 * kSize, 32 * kSize) && AllValid(ids.valid + r * 128, 128);
      for (int i = 0; i < 32; ++i) {
        const View record = to + (r * 256 + i * 8);
        std::memset(record.data, 0xff, 8);
        std::memcpy(record.data, from.data + (r * 32 + order[i]) * kSize, sizeof(T));
        std::memcpy(record.data + 4, ids.data + (r * 32 + order[i]) * 4, 4);
        std::memset(record.valid, ok, 8);
      }
    }
  });
}

template <class T>
struct MrgSortSrcList {
  MrgSortSrcList() = default;
  MrgSortSrcList(const LocalTensor<T> a, const LocalTensor<T> b, const LocalTensor<T> c, const LocalTensor<T> d)
      : src1(a), src2(b), src3(c), src4(d) {}
  LocalTensor<T> src1, src2, src3, src4;
};

// MrgSort.md
template <class T>
inline void MrgSort(const LocalTensor<T>& dst, const MrgSortSrcList<T>& src, const MrgSort4Info& params,
                    Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(kFloating<T>, "MrgSort takes half and float");
  const char* api = "MrgSort";
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, 32);
  const int64_t valid_bit = params.validBit.value;
  if (valid_bit != 3 && valid_bit != 7 && valid_bit != 15)
    M().Fail("argument", loc,
             Format("MrgSort: validBit is %lld, allowed are 3, 7 and 15", static_cast<long long>(valid_bit)));
  const int lists = valid_bit == 3 ? 2 : valid_bit == 7 ? 3 : 4;
  const int64_t repeat = Range(api, loc, "repeatTimes", params.repeatTimes, 0, 255);
  if (repeat == 0) return;
  const LocalTensor<T>* const sources[4] = {&src.src1, &src.src2, &src.src3, &src.src4};
  std::array<int64_t, 4> length{};
  std::array<View, 4> from{};
  int64_t total = 0;
  Ranges ranges(api, loc);
  for (size_t i = 0; i < static_cast<size_t>(lists); ++i) {
    length[i] = Range(api, loc, Format("elementLengths[%zu]", i).c_str(), params.elementLengths[i], 0, 4095);
    CheckKind(api, loc, "src", *sources[i], Kind::kUb);
    CheckAlign(api, loc, "src", *sources[i], 8);
    if (length[i] > 0) from[i] = sources[i]->view();
    total += length[i];
  }
  if (repeat > 1) {
    bool regular = lists == 4 && !params.ifExhaustedSuspension;
    for (size_t i = 1; i < 4; ++i)
      regular = regular && length[i] == length[0] &&
                sources[i]->address() == sources[0]->address() + static_cast<int64_t>(i) * length[0] * 8;
    if (!regular)
      M().Fail("argument", loc,
               "MrgSort: repeatTimes > 1 needs four lists of one length, one after the other, validBit 15 and no "
               "ifExhaustedSuspension");
    LocalTensor<T> all = *sources[0];
    all.Adopt(all.GetPosition(), all.address(), sources[0]->bytes());
    ranges.Local("src", all, false, 0, total * 8 * repeat);
  } else {
    for (size_t i = 0; i < static_cast<size_t>(lists); ++i) ranges.Local("src", *sources[i], false, 0, length[i] * 8);
  }
  ranges.Local("dst", dst, true, 0, total * 8 * repeat);
  for (size_t i = 0; i < static_cast<size_t>(lists); ++i)
    if (sources[i]->address() < dst.address() + total * 8 * repeat &&
        dst.address() < sources[i]->address() + length[i] * 8 * repeat && length[i] > 0)
      M().Fail("overlap", loc, "MrgSort: dst and a source overlap");
  const View to = dst.view();
  const bool suspend = params.ifExhaustedSuspension;
  Core* core = t_core;
  M().Issue(PIPE_V, api, loc, ranges.list(), {kVectorIssue + static_cast<double>(total * repeat) / 2, kVectorHead},
            [=] {
              for (int64_t r = 0; r < repeat; ++r) {
                std::array<int64_t, 4> taken{};
                bool ok = true;
                for (size_t i = 0; i < 4; ++i)
                  ok = ok && (length[i] == 0 || AllValid(from[i].valid + r * total * 8, length[i] * 8));
                for (int64_t out = 0; out < total; ++out) {
                  int best = -1;
                  float best_score = 0;
                  for (int i = 0; i < lists; ++i) {
                    const auto k = static_cast<size_t>(i);
                    if (taken[k] >= length[k]) continue;
                    const float score = Score<T>(from[k].data + (r * total + taken[k]) * 8);
                    if (best < 0 || score > best_score) best = i, best_score = score;
                  }
                  const auto k = static_cast<size_t>(best);
                  Move(to + (r * total + out) * 8, from[k] + (r * total + taken[k]) * 8, 8);
                  std::memset(to.valid + (r * total + out) * 8, ok, 8);
                  if (++taken[k] == length[k] && suspend) {
                    // The rest of dst is not written.
                    break;
                  }
                }
                for (size_t i = 0; i < 4; ++i) core->mrg_result[i] = static_cast<uint16_t>(taken[i]);
              }
            });
  core->mrg_result_seq = core->seq[PIPE_V];
  core->mrg_suspends = suspend;
}

// GetMrgSortResult.md: how many records of each list the last MrgSort with ifExhaustedSuspension took. The scalar unit
// must have waited for it.
inline void GetMrgSortResult(uint16_t& list1, uint16_t& list2, uint16_t& list3, uint16_t& list4,
                             Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  Core& core = *t_core;
  if (core.mrg_result_seq == 0) M().Fail("argument", loc, "GetMrgSortResult without a MrgSort before it");
  if (!core.mrg_suspends) M().Fail("argument", loc, "GetMrgSortResult after a MrgSort without ifExhaustedSuspension");
  M().LetPipesGoOn();
  if (core.known[PIPE_S].at[PIPE_V] < core.mrg_result_seq)
    M().Note("hazard", loc, "GetMrgSortResult: no V_S flag orders the scalar unit after the MrgSort");
  list1 = core.mrg_result[0];
  list2 = core.mrg_result[1];
  list3 = core.mrg_result[2];
  list4 = core.mrg_result[3];
}

}  // namespace AscendC

#endif  // ASCENDC_EMULATOR_SORT_H_
