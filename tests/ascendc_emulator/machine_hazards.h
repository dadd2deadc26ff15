// What a pipe knows to be complete, and the accesses that it does not know to be.
#ifndef ASCENDC_EMULATOR_MACHINE_HAZARDS_H_
#define ASCENDC_EMULATOR_MACHINE_HAZARDS_H_

#include <algorithm>
#include <mutex>

#include "machine_class.h"

namespace ascendc_emulator {

inline void Machine::ObserveScalar(Core& core, int pipe) {
  if (pipe == PIPE_S) return;
  Clock& clock = core.known[pipe];
  const uint32_t own_scalar = clock.at[PIPE_S];
  clock.Merge(core.known[PIPE_S]);
  clock.at[PIPE_S] = own_scalar;
}

inline Token Machine::Publish(Core& core, int pipe, Loc loc) {
  ObserveScalar(core, pipe);
  Token token;
  token.local = core.known[pipe];
  token.local.at[pipe] = core.seq[pipe];
  token.time = std::max(core.done_at[pipe], core.wait_until[pipe]);
  token.record = core.done_at[pipe] >= core.wait_until[pipe] ? core.last_record[pipe] : core.wait_record[pipe];
  token.loc = loc;
  return token;
}

inline void Machine::Hazard(Core& core, int pipe, Loc loc, const char* name, bool write, bool was_write,
                            const char* where, int64_t at, int core2, int pipe2, uint32_t site2) {
  Core& other = *cores[static_cast<size_t>(core2)];
  const char* kinds[2][2] = {{"", "read after write"}, {"write after read", "write after write"}};
  const std::string earlier = SiteText(site2);
  std::string hint;
  if (&other == &core)
    hint = pipe2 == pipe ? Format("no PipeBarrier<PIPE_%s> between them", PipeName(pipe))
                         : Format("no flag %s_%s orders them", PipeName(pipe2), PipeName(pipe));
  else
    hint = "no cross-core flag orders them";
  Note("hazard", loc,
       Format("%s in %s at byte %lld: %s on pipe %s of %s and %s on pipe %s of %s, %s", kinds[write][was_write], where,
              static_cast<long long>(at), name, PipeName(pipe), core.name.c_str(), earlier.c_str(), PipeName(pipe2),
              other.name.c_str(), hint.c_str()));
}

inline void Machine::TouchLocal(Core& core, int pipe, uint32_t seq, const Access& access, Loc loc, const char* name,
                                bool record) {
  LocalMemory& memory = *core.memory[static_cast<int>(access.kind)];
  const int own = memory.model.slot[pipe];
  if (own < 0) Fail("position", loc, Format("%s: pipe %s does not reach %s", name, PipeName(pipe), memory.model.name));
  if (!options.hazards) return;
  const int64_t granule = memory.model.granule, unit = granule / 32;
  // Successive Mmads on a tile of at least 10 fractals are ordered by the hardware (Mmad.md), see Mmad.
  const bool ordered_self = pipe == PIPE_S || (pipe == PIPE_M && mmad_ordered);
  Accesses& accesses = memory.accesses;
  const int is_write = access.write;
  const auto knows = [&](int p) { return p == pipe && ordered_self ? seq : core.known[pipe].at[p]; };
  const auto except = [&](int p) { return p == pipe ? seq : 0; };
  const auto check_granule = [&](int64_t g, uint32_t mask, int64_t at) {
    for (int p = 0; p < kPipes; ++p) {
      const int slot = memory.model.slot[p];
      if (slot < 0) continue;
      for (int was_write = access.write ? 0 : 1; was_write < 2; ++was_write) {
        const uint32_t other = accesses.seq[was_write][slot][static_cast<size_t>(g)];
        if ((accesses.mask[was_write][slot][static_cast<size_t>(g)] & mask) && other > knows(p) && other != except(p))
          Hazard(core, pipe, loc, name, access.write, was_write != 0, memory.model.name, at, core.index, p,
                 core.site_of[p][other - 1]);
      }
    }
  };
  const auto part = [&](int64_t g, int64_t lo, int64_t hi) {
    const int64_t from = (lo - g * granule) / unit, to = (hi - g * granule + unit - 1) / unit;
    const auto mask = static_cast<uint32_t>(((uint64_t{1} << to) - 1) & ~((uint64_t{1} << from) - 1));
    check_granule(g, mask, lo);
    if (record) accesses.Add(is_write, own, g, seq, mask);
  };
  const auto touch = [&](int64_t lo, int64_t hi) {
    const int64_t first = (lo + granule - 1) / granule, last = hi / granule;
    if (first > last) return part(last, lo, hi);
    if (lo < first * granule) part(first - 1, lo, first * granule);
    if (hi > last * granule) part(last, last * granule, hi);
    if (first == last) return;
    bool clash = false;
    for (int p = 0; p < kPipes; ++p) {
      const int slot = memory.model.slot[p];
      if (slot < 0) continue;
      for (int was_write = access.write ? 0 : 1; was_write < 2; ++was_write)
        clash |= Accesses::AnyAbove(accesses.seq[was_write][slot] + first, last - first, knows(p), except(p));
    }
    if (clash)
      for (int64_t g = first; g < last; ++g) check_granule(g, ~uint32_t{0}, g * granule);
    if (record) accesses.AddWhole(is_write, own, first, last - first, seq);
  };
  for (int64_t j = 0; j < access.n2; ++j) {
    const int64_t row = access.base + j * access.s2;
    if (access.n1 == 1 || access.s1 == access.len) {
      touch(row, row + access.len * access.n1);
    } else {
      for (int64_t i = 0; i < access.n1; ++i) touch(row + i * access.s1, row + i * access.s1 + access.len);
    }
  }
}

inline void Machine::TouchGm(Core& core, int pipe, uint32_t seq, const Access& access, Loc loc, const char* name) {
  GmBuffer& buffer = *gm[static_cast<size_t>(access.gm)];
  if (!options.hazards || !buffer.tracked()) return;
  std::lock_guard<std::mutex> lock(buffer.mutex);
  const bool atomic = access.write && core.atomic > 0;
  const GmSegment::Access self{static_cast<uint16_t>(core.index), static_cast<uint8_t>(pipe), atomic, seq,
                               core.site_of[pipe].back()};
  auto knows = [&](const GmSegment::Access& other) {
    if (other.seq == 0) return true;
    if (other.core == core.index) {
      if (other.pipe == pipe && (other.seq == seq || pipe == PIPE_S)) return true;
      return other.seq <= core.known[pipe].at[other.pipe];
    }
    return other.seq <= (*core.foreign)[other.core].at[other.pipe];
  };
  auto touch = [&](uint64_t lo, uint64_t hi) {
    auto& segments = buffer.segments;
    auto split = [&](uint64_t at) {
      auto it = segments.upper_bound(at);
      if (it == segments.begin()) return;
      --it;
      if (it->first >= at || it->second.end <= at) return;
      GmSegment tail = it->second;
      it->second.end = at;
      segments.emplace(at, std::move(tail));
    };
    split(lo);
    split(hi);
    auto it = segments.lower_bound(lo);
    if (access.write) {
      auto last = it;
      for (; last != segments.end() && last->first < hi; ++last) {
        if (!knows(last->second.write) && !(atomic && last->second.write.atomic))
          Hazard(core, pipe, loc, name, true, true, Where(buffer).c_str(), static_cast<int64_t>(last->first),
                 last->second.write.core, last->second.write.pipe, last->second.write.site);
        for (const auto& read : last->second.reads)
          if (!knows(read))
            Hazard(core, pipe, loc, name, true, false, Where(buffer).c_str(), static_cast<int64_t>(last->first),
                   read.core, read.pipe, read.site);
      }
      segments.erase(it, last);
      GmSegment segment;
      segment.end = hi;
      segment.write = self;
      segments.emplace(lo, std::move(segment));
      return;
    }
    uint64_t at = lo;
    while (at < hi) {
      if (it == segments.end() || it->first > at) {  // nothing was here before, so only the read is remembered
        const uint64_t end = it == segments.end() ? hi : std::min(hi, it->first);
        GmSegment segment;
        segment.end = end;
        segment.reads.push_back(self);
        segments.emplace_hint(it, at, std::move(segment));
        at = end;
        continue;
      }
      GmSegment& segment = it->second;
      if (!knows(segment.write))
        Hazard(core, pipe, loc, name, false, true, Where(buffer).c_str(), static_cast<int64_t>(it->first),
               segment.write.core, segment.write.pipe, segment.write.site);
      auto same = std::find_if(segment.reads.begin(), segment.reads.end(),
                               [&](const auto& r) { return r.core == self.core && r.pipe == self.pipe; });
      if (same != segment.reads.end())
        *same = self;
      else
        segment.reads.push_back(self);
      at = segment.end;
      ++it;
    }
  };
  for (int64_t j = 0; j < access.n2; ++j) {
    const int64_t row = access.base + j * access.s2;
    if (access.n1 == 1 || access.s1 == access.len)
      touch(static_cast<uint64_t>(row), static_cast<uint64_t>(row + access.len * access.n1));
    else
      for (int64_t i = 0; i < access.n1; ++i)
        touch(static_cast<uint64_t>(row + i * access.s1), static_cast<uint64_t>(row + i * access.s1 + access.len));
  }
}

}  // namespace ascendc_emulator

#endif  // ASCENDC_EMULATOR_MACHINE_HAZARDS_H_
