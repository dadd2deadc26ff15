// Tiling of mla_epilog_quant: a pure function of the shapes and the device.
#ifndef MS_DSV32_ASCENDC_EPILOG_MAKE_TILING_H_
#define MS_DSV32_ASCENDC_EPILOG_MAKE_TILING_H_

#include <algorithm>

#include "ms_dsv32/kernel_impl/ascendc/op_host/platform.h"
#include "ms_dsv32/kernel_impl/ascendc/op_kernel/epilog_tiling.h"

namespace ms_dsv32::ascendc {

struct EpilogShape {
  uint32_t t, n_q;
};

// Deals the groups of w_o's columns. A core waits for the bytes that it reads, so bytes are dealt. Heads are dealt in
// order, and each group goes to the core with the least load. A group that takes a core well above the mean is shared
// instead: by neighbouring cores, in spans of K, so that all come near to the mean. A core has a piece of one group
// only. If more groups were shared, some of them would be left to a single core again.
constexpr void DealGroups(EpilogTiling& tiling) {
  const uint64_t cores = tiling.cores;
  const uint64_t head_bytes = kKvLoraRank * (kHeadRowBytes + uint64_t{tiling.token_step} * 2);
  const uint64_t group_bytes = uint64_t{tiling.n_q} * kVHeadDim * kGroupColumns;
  const uint64_t mean = (tiling.n_q * head_bytes + kGroups * group_bytes) / cores;
  uint64_t load[kMostCores] = {};
  uint32_t count[kMostCores] = {};
  for (uint64_t core = 0; core < cores; ++core) {
    load[core] = ((core + 1) * tiling.n_q / cores - core * tiling.n_q / cores) * head_bytes;
  }
  for (uint32_t group = 0; group < kGroups; ++group) {
    uint64_t least = 0;
    for (uint64_t core = 1; core < cores; ++core) {
      if (load[core] < load[least]) least = core;
    }
    load[least] += group_bytes;
    ++count[least];
  }
  for (uint64_t core = 0; core < cores; ++core) {
    if (load[core] > mean + group_bytes / 4 && count[core] > 0) {
      load[core] -= group_bytes;
      --count[core];
      ++tiling.shared_groups;
    }
    tiling.groups[core + 1] = static_cast<uint16_t>(tiling.groups[core] + count[core]);
  }
  const uint32_t own = kGroups - tiling.shared_groups;
  const uint64_t spans = tiling::CeilDiv(tiling.n_q * kVHeadDim, kSpanRows);
  for (uint32_t shared = 0; shared < tiling.shared_groups; ++shared) {
    const uint64_t first = shared * cores / tiling.shared_groups, last = (shared + 1) * cores / tiling.shared_groups;
    uint64_t missing = 0;
    for (uint64_t core = first; core < last; ++core) missing += load[core] < mean ? mean - load[core] : 0;
    uint64_t sum = 0;
    uint8_t begin = 0;
    for (uint64_t core = first; core < last; ++core) {
      sum += load[core] < mean ? mean - load[core] : 0;
      const bool rest = core + 1 == last || missing == 0;
      const auto end = static_cast<uint8_t>(rest ? spans : (spans * sum + missing / 2) / missing);
      tiling.pieces[core] = {static_cast<uint16_t>(own + shared), begin, end};
      begin = end;
    }
  }
}

// Fills `tiling`, or returns why the shape does not fit. A null result means success.
constexpr const char* MakeEpilogTiling(const EpilogShape& shape, const Platform& platform, EpilogTiling& tiling) {
  if (const char* refusal = Refusal(platform)) return refusal;
  if (const char* refusal = HeadsRefusal(shape.n_q)) return refusal;
  if (const char* refusal = StreamRefusal(shape.t, platform)) return refusal;
  tiling = EpilogTiling{};
  tiling.cores = shape.t == 0 ? 1 : std::min(platform.cores, kMostCores);
  tiling.t = shape.t;
  tiling.n_q = shape.n_q;
  // Steps have equal sizes, because a short last step would read all weights too.
  const uint32_t steps = shape.t == 0 ? 1 : tiling::CeilDiv(shape.t, kEpilogTokens);
  tiling.token_step = tiling::RoundUp(tiling::CeilDiv(shape.t == 0 ? 1 : shape.t, steps), 16);

  // L1. Few tokens leave room for long slots. Then copies are longer, and more weights are on their way while the cores
  // wait for one another.
  const bool few = tiling.token_step <= 32;
  tiling.slots = few ? 5 : kMostWeightSlots;
  tiling.slot_bytes = few ? 65536 : 32768;
  tiling.left_bytes = few ? 163840 : 262144;
  const uint32_t head_rows = tiling.slot_bytes / kHeadRowBytes, output_rows = tiling.slot_bytes / kBlockColumns;
  tiling.head_places = std::min(kMostLeftPlaces, tiling.left_bytes / (tiling.token_step * head_rows * 2));
  tiling.output_places = std::min(kMostLeftPlaces, tiling.left_bytes / (tiling.token_step * output_rows));

  DealGroups(tiling);
  uint32_t groups = 0;
  for (uint32_t core = 0; core < tiling.cores; ++core) {
    groups = std::max<uint32_t>(groups, tiling.groups[core + 1] - tiling.groups[core]);
  }
  const uint64_t step = tiling.token_step, values = step * tiling.n_q * kVHeadDim;
  tiling.quantised_offset = values * 2;
  tiling.scale_offset = tiling.quantised_offset + values;
  tiling.sums_offset = tiling.scale_offset + tiling::AlignLine(step * 4);
  tiling.sums_bytes = tiling::CeilDiv(groups + 1, kBlockGroups) * step * kBlockColumns * 4;
  tiling.step_bytes = tiling.sums_offset + tiling.cores * tiling.sums_bytes;
  tiling.workspace_bytes = 2 * tiling.step_bytes;
  return nullptr;
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_EPILOG_MAKE_TILING_H_
