// Modelled time: when an instruction starts and ends, and what a transfer between GM and a core takes.
#ifndef ASCENDC_EMULATOR_MACHINE_TIME_H_
#define ASCENDC_EMULATOR_MACHINE_TIME_H_

#include <algorithm>
#include <mutex>

#include "machine_class.h"

namespace ascendc_emulator {

inline double Machine::GmCycles(const Access& access, double l2_rate) {
  GmBuffer& buffer = *gm[static_cast<size_t>(access.gm)];
  Core& core = *t_core;
  uint64_t cold = 0;
  const uint64_t total = static_cast<uint64_t>(access.len * access.n1 * access.n2);
  std::lock_guard<std::mutex> lock(buffer.mutex);
  auto touch = [&](int64_t lo, int64_t hi) {
    if (lo < 0 || hi > static_cast<int64_t>(buffer.size) || hi <= lo) return;
    for (int64_t line = lo >> 9; line <= (hi - 1) >> 9; ++line) {
      uint8_t& seen = buffer.touched.data()[line];
      if (!seen) cold += 512;
      seen = 1;
    }
  };
  for (int64_t j = 0; j < access.n2; ++j)
    if (access.s1 == access.len)
      touch(access.base + j * access.s2, access.base + j * access.s2 + access.len * access.n1);
    else
      for (int64_t i = 0; i < access.n1; ++i)
        touch(access.base + j * access.s2 + i * access.s1, access.base + j * access.s2 + i * access.s1 + access.len);
  if (access.write) {
    core.bytes_gm_write += total;
    return static_cast<double>(total) / l2_rate;
  }
  cold = std::min(cold, total);
  // Workspace is written before it is read, so what is read is in L2.
  if (buffer.role == Role::kWorkspace) cold = 0;
  core.bytes_hbm_read += cold;
  core.bytes_l2_read += total - cold;
  return static_cast<double>(cold) / HbmRate() + static_cast<double>(total - cold) / l2_rate;
}

inline double Machine::HbmRate() const {
  const Soc* soc = FindSoc(options.soc);
  return soc == nullptr ? kDdr : std::min(kDdr, options.gm.hbm_gb_per_s * 1e3 / soc->mhz / soc->aic);
}

inline void Machine::WaitTime(Core& core, int pipe, double time, int64_t record) {
  if (time > core.wait_until[pipe]) {
    core.wait_until[pipe] = time;
    core.wait_record[pipe] = record;
  }
}

inline void Machine::Advance(Core& core, int pipe, uint32_t site, Cost cost) {
  double start = core.free_at[pipe];
  int64_t previous = core.last_record[pipe];
  if (core.wait_until[pipe] > start) start = core.wait_until[pipe], previous = core.wait_record[pipe];
  if (pipe != PIPE_S) {  // the issue needs the scalar unit for a moment, after its own last wait
    double& scalar = core.free_at[PIPE_S];
    scalar = std::max(scalar, core.wait_until[PIPE_S]) + kIssue;
    core.busy[PIPE_S] += kIssue;
    core.done_at[PIPE_S] = std::max(core.done_at[PIPE_S], scalar);
    if (scalar > start) {
      start = scalar;
      previous = core.wait_until[PIPE_S] + kIssue >= scalar ? core.wait_record[PIPE_S] : core.last_record[PIPE_S];
    }
  }
  const double end = start + cost.busy + cost.head;
  core.free_at[pipe] = start + cost.busy;
  core.done_at[pipe] = std::max(core.done_at[pipe], end);
  core.busy[pipe] += cost.busy;
  if (options.trace || pipe != PIPE_S) {
    std::lock_guard<std::mutex> lock(record_mutex);
    core.last_record[pipe] = static_cast<int64_t>(records.size());
    records.push_back({site, static_cast<uint16_t>(core.index), static_cast<uint8_t>(pipe),
                       static_cast<float>(cost.busy), start, end, previous});
  }
}

}  // namespace ascendc_emulator

#endif  // ASCENDC_EMULATOR_MACHINE_TIME_H_
