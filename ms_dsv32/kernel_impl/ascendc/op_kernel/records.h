// Sorted lists of records in UB. A record is 8 bytes: a float, by which the list is sorted, largest first, and 4 bytes
// of payload after it.
#ifndef MS_DSV32_ASCENDC_RECORDS_H_
#define MS_DSV32_ASCENDC_RECORDS_H_

#include "copy.h"

namespace ms_dsv32::ascendc {

constexpr int32_t kMinusInfinity = static_cast<int32_t>(0xff800000u);  // bits of the float

struct RecordList {
  LocalTensor<float> records;
  uint32_t count;
};

// Merges two to four sorted lists, none of them empty, to `dst`, which needs room for all.
__aicore__ MS_DSV32_NOINLINE static void MergeLists(const LocalTensor<float>& dst, const RecordList* lists,
                                                    uint32_t n) {
  MrgSort4Info info;
  for (uint32_t i = 0; i < 4; ++i) {
    info.elementLengths[i] = static_cast<uint16_t>(i < n ? lists[i].count : 0);
  }
  info.ifExhaustedSuspension = false;
  info.validBit = static_cast<uint16_t>((1u << n) - 1);
  info.repeatTimes = 1;
  const LocalTensor<float>& third = lists[n > 2 ? 2 : 1].records;
  const LocalTensor<float>& fourth = lists[n > 3 ? 3 : 1].records;
  MrgSort(dst, MrgSortSrcList<float>(lists[0].records, lists[1].records, third, fourth), info);
}

// One level of a merge sort: each group of four sorted runs of `run` records becomes one run.
__aicore__ MS_DSV32_NOINLINE static void MergeRuns(const LocalTensor<float>& dst, const LocalTensor<float>& src,
                                                   uint32_t run, uint32_t groups) {
  MrgSort4Info info;
  for (uint32_t i = 0; i < 4; ++i) {
    info.elementLengths[i] = static_cast<uint16_t>(run);
  }
  info.ifExhaustedSuspension = false;
  info.validBit = 15;
  info.repeatTimes = static_cast<uint8_t>(groups);
  MrgSort(dst, MrgSortSrcList<float>(src, src[run * 2], src[run * 4], src[run * 6]), info);
}

// Elements [from, to) of x become `value`. Elements after `to` may become it too, in the same 64 that `from` lies in.
__aicore__ MS_DSV32_NOINLINE static void FillFrom(const LocalTensor<int32_t>& x, uint32_t from, uint32_t to,
                                                  int32_t value) {
  const uint32_t whole = RoundUp(from, 64);
  if (from % 64 != 0) {
    uint64_t lanes[2] = {LanesFrom(from % 64), 0};
    Duplicate(x[whole - 64], value, lanes, static_cast<uint8_t>(1), static_cast<uint16_t>(1), static_cast<uint8_t>(8));
  }
  if (whole < to) {
    Duplicate(x[whole], value, static_cast<int32_t>(to - whole));
  }
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_RECORDS_H_
