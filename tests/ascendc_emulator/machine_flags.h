// Flags and barriers inside a core, and the counters of flags between cores.
#ifndef ASCENDC_EMULATOR_MACHINE_FLAGS_H_
#define ASCENDC_EMULATOR_MACHINE_FLAGS_H_

#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "machine_class.h"

namespace ascendc_emulator {

inline void Machine::SetFlag(int event, int id, Loc loc) {
  Core& core = *t_core;
  CheckEvent(event, id, loc, "SetFlag");
  Core::Flag& flag = core.flags[event][id];
  const EventPipes& pipes = Pipes(event);
  if (flag.set) {
    Fail("flag", loc,
         Format("SetFlag<HardEvent::%s>(%d) while it is already set (at %s:%d) and nobody waited: undefined on the "
                "device",
                pipes.name, id, flag.token.loc.file, flag.token.loc.line));
  }
  flag.set = true;
  flag.token = Publish(core, pipes.from, loc);
  // A set comes after an earlier wait of its own pipe in any case.
  if (pipes.from != pipes.to && flag.wait > core.known[pipes.from].at[pipes.to]) {
    Note("flag", loc,
         Format("SetFlag<HardEvent::%s>(%d): nothing orders it after the WaitFlag of its earlier set at %s; on the "
                "device the second set may be lost (pipe %s is not known to have waited; %s)",
                pipes.name, id, PlaceText(flag.waited).c_str(), PipeName(pipes.to), LastIssued(core).c_str()));
  }
  if (options.seed == 0) return;
  if (pipes.from == PIPE_S)
    Raise(core, event, id, loc);
  else
    Enqueue(core, pipes.from, {Core::Item::kSet, event, id, loc, {}});
}

inline void Machine::WaitFlag(int event, int id, Loc loc) {
  Core& core = *t_core;
  CheckEvent(event, id, loc, "WaitFlag");
  Core::Flag& flag = core.flags[event][id];
  const EventPipes& pipes = Pipes(event);
  if (!flag.set) {
    Fail("flag", loc,
         Format("WaitFlag<HardEvent::%s>(%d): nobody set it, %s of %s waits forever", pipes.name, id,
                PipeName(pipes.to), core.name.c_str()));
  }
  flag.set = false;
  const Token& token = flag.token;
  core.known[pipes.to].Merge(token.local);
  WaitTime(core, pipes.to, token.time, token.record);
  flag.waited = loc;
  if (pipes.to != PIPE_S) {
    flag.wait = ++core.seq[pipes.to];
    core.site_of[pipes.to].push_back(LastSite(core, pipes.to, "WaitFlag", loc));
  }
  if (options.seed == 0) return;
  if (pipes.to == PIPE_S) {
    Progress(core);
    Core::LiveFlag& live = core.live_flags[event][id];
    while (live.sets == 0)
      if (!StepAny(core)) FailStuck(core, loc, PIPE_S, event, id);
    --live.sets;
  } else {
    Enqueue(core, pipes.to, {Core::Item::kWait, event, id, loc, {}});
  }
}

inline void Machine::Barrier(int pipe, Loc loc) {
  Core& core = *t_core;
  if (aborted_) throw Stop{};
  CheckPipe(pipe, loc, "PipeBarrier");
  if (pipe == PIPE_ALL) {
    Clock all;
    double time = 0;
    int64_t record = -1;
    for (int p = 0; p < kPipes; ++p) {
      all.at[p] = core.seq[p];
      if (core.done_at[p] > time) time = core.done_at[p], record = core.last_record[p];
    }
    for (int p = 0; p < kPipes; ++p) {
      core.known[p].Merge(all);
      WaitTime(core, p, time, record);
    }
    if (options.seed != 0) Drain(core, loc);
    return;
  }
  core.known[pipe].at[pipe] = core.seq[pipe];
  WaitTime(core, pipe, core.done_at[pipe], core.last_record[pipe]);
  if (options.seed != 0) Enqueue(core, pipe, {Core::Item::kBarrier, 0, 0, loc, {}});
}

inline void Machine::CrossSet(int mode, int pipe, int64_t id, Loc loc, bool internal) {
  Core& core = *t_core;
  if (aborted_) throw Stop{};
  CheckPipe(pipe, loc, "CrossCoreSetFlag");
  CheckCross(id, loc, "CrossCoreSetFlag", internal);
  if (mode == 1 && core.type != CoreType::kAiv)
    Fail("cross_core", loc, "CrossCoreSetFlag mode 1 is for AIVs, this is " + core.name);
  auto clocks = std::make_shared<Foreign>(*core.foreign);
  const Token token = Publish(core, pipe, loc);
  (*clocks)[static_cast<size_t>(core.index)].Merge(token.local);
  CrossToken cross{clocks, token.time + kCrossCore, token.record};
  auto post = [this, &core, mode, id, cross, loc] { Post(core, mode, static_cast<int>(id), cross, loc); };
  if (options.seed == 0)
    post();
  else
    Enqueue(core, pipe, {Core::Item::kBarrier, 0, 0, loc, post});
}

inline void Machine::CrossWait(int64_t id, Loc loc, bool internal) {
  Core& core = *t_core;
  if (aborted_) throw Stop{};
  CheckCross(id, loc, "CrossCoreWaitFlag", internal);
  std::deque<CrossToken>& counter = core.counters[id];
  if (options.seed != 0) Progress(core);
  for (int yields = 0;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (!counter.empty()) break;
    }
    // Other cores may go on for a while before this one's pipes do.
    if (core.queued > 0 && yields < 4 && core.random() % 4 == 0) {
      ++yields;
      Yield(core);
      continue;
    }
    if (core.queued > 0 && StepAny(core)) continue;
    if (core.queued > 0) FailStuck(core, loc);
    Block(
        core, [&counter] { return !counter.empty(); }, Format("CrossCoreWaitFlag(%d)", static_cast<int>(id)), loc);
  }
  CrossToken token;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    token = counter.front();
    counter.pop_front();
  }
  auto merged = std::make_shared<Foreign>(*core.foreign);
  for (size_t i = 0; i < merged->size(); ++i) (*merged)[i].Merge((*token.clocks)[i]);
  // A partner's clock of this core tells nothing new about the order of this core's own pipes, but it is true.
  for (int p = 0; p < kPipes; ++p) core.known[p].Merge((*merged)[static_cast<size_t>(core.index)]);
  core.foreign = merged;
  // On arch 2201 every pipe's further instructions wait (CrossCoreWaitFlag(ISASI).md).
  for (int p = 0; p < kPipes; ++p) WaitTime(core, p, token.time, token.record);
  if (options.seed != 0) Yield(core);
}

inline void Machine::SyncAll(bool aiv_only, Loc loc) {
  Core& core = *t_core;
  core.sync_all = true;
  if (aiv_only) {
    if (core.type != CoreType::kAiv)
      Fail("core_type", loc, "SyncAll<true> synchronises AIVs, but " + core.name + " called it");
    Barrier(PIPE_ALL, loc);
    CrossSet(0, PIPE_MTE3, 14, loc, true);
    CrossWait(14, loc, true);
    return;
  }
  Barrier(PIPE_ALL, loc);
  if (core.type == CoreType::kAic) {
    if (ratio_has_aiv()) CrossWait(12, loc, true);
    CrossSet(0, PIPE_FIX, 11, loc, true);
    CrossWait(11, loc, true);
    if (ratio_has_aiv()) CrossSet(2, PIPE_FIX, 13, loc, true);
  } else {
    CrossSet(2, PIPE_MTE3, 12, loc, true);
    CrossWait(13, loc, true);
  }
  Barrier(PIPE_ALL, loc);
}

inline void Machine::CheckPipe(int pipe, Loc loc, const char* api) {
  const bool aic_only = pipe == PIPE_M || pipe == PIPE_MTE1 || pipe == PIPE_FIX;
  const Core& core = *t_core;
  if ((core.type == CoreType::kAiv && aic_only) || (core.type == CoreType::kAic && pipe == PIPE_V))
    Fail("core_type", loc, Format("%s: %s has no pipe %s", api, core.name.c_str(), PipeName(pipe)));
}

inline void Machine::CheckEvent(int event, int id, Loc loc, const char* api) {
  if (aborted_) throw Stop{};
  CheckPipe(Pipes(event).from, loc, api);
  CheckPipe(Pipes(event).to, loc, api);
  if (id < 0 || id >= kEventIds)
    Fail("flag", loc, Format("%s<HardEvent::%s>(%d): ids are 0-7", api, Pipes(event).name, id));
  if (event == static_cast<int>(AscendC::HardEvent::M_MTE1) && id < 3 && t_core->pipe_object != nullptr && !tpipe_flags)
    Fail("flag", loc,
         Format("%s<HardEvent::M_MTE1>(%d): TPipe sets ids 0-2 in its constructor and waits for them in its "
                "destructor; use 3-7",
                api, id));
}

inline void Machine::CheckCross(int64_t id, Loc loc, const char* api, bool internal) {
  if (!cross_core_works)
    Fail("cross_core", loc, Format("%s: the kernel type is not MIX, so the scheduler of cross-core flags is off", api));
  if (id < 0 || id >= kCrossFlags)
    Fail("cross_core", loc, Format("%s(%lld): ids are 0-15", api, static_cast<long long>(id)));
  if (!internal && id >= 11 && id <= 14 && t_core->sync_all)
    Fail("cross_core", loc, Format("%s(%lld): SyncAll uses ids 11-14", api, static_cast<long long>(id)));
}

inline void Machine::Post(Core& core, int mode, int id, const CrossToken& token, Loc loc) {
  std::unique_lock<std::mutex> lock(mutex_);
  for (auto& other : cores)
    if (other->cross_mode[id] >= 0 && other->cross_mode[id] != mode && Outstanding(id)) {
      lock.unlock();
      Fail("cross_core", loc,
           Format("CrossCoreSetFlag<%d>(%d) while sets of mode %d with this id are outstanding", mode, id,
                  other->cross_mode[id]));
    }
  core.cross_mode[id] = mode;
  if (mode == 2 && core.type == CoreType::kAic) {
    for (auto& other : cores)
      if (other->block == core.block && other->type == CoreType::kAiv) Increment(*other, id, token, lock, loc);
  } else {
    core.sent[id].push_back(token);
    std::vector<Core*> group;
    for (auto& other : cores)
      if (other->type == core.type && (mode == 0 || other->block == core.block)) group.push_back(other.get());
    const bool all = std::all_of(group.begin(), group.end(), [&](Core* c) { return !c->sent[id].empty(); });
    if (core.sent[id].size() > kCounterMax) {
      lock.unlock();
      Fail("cross_core", loc,
           Format("CrossCoreSetFlag<%d>(%d): %zu sets without the partners, the counter holds 15", mode, id,
                  core.sent[id].size()));
    }
    if (all) {
      auto clocks = std::make_shared<Foreign>(cores.size());
      CrossToken merged{clocks, 0, -1};
      for (Core* c : group) {
        const CrossToken& part = c->sent[id].front();
        for (size_t i = 0; i < clocks->size(); ++i) (*clocks)[i].Merge((*part.clocks)[i]);
        if (part.time > merged.time) merged.time = part.time, merged.record = part.record;
        c->sent[id].pop_front();
      }
      if (mode == 2) {
        for (auto& other : cores)
          if (other->block == core.block && other->type == CoreType::kAic) Increment(*other, id, merged, lock, loc);
      } else {
        for (Core* c : group) Increment(*c, id, merged, lock, loc);
      }
    }
  }
  WakeBlocked();
}

inline void Machine::Increment(Core& core, int id, const CrossToken& token, std::unique_lock<std::mutex>& lock,
                               Loc loc) {
  core.counters[id].push_back(token);
  if (core.counters[id].size() > kCounterMax) {
    lock.unlock();
    Fail("cross_core", loc, Format("counter of cross-core flag %d on %s passes 15", id, core.name.c_str()));
  }
}

inline bool Machine::Outstanding(int id) const {
  return std::any_of(cores.begin(), cores.end(),
                     [id](const auto& c) { return !c->counters[id].empty() || !c->sent[id].empty(); });
}

}  // namespace ascendc_emulator

#endif  // ASCENDC_EMULATOR_MACHINE_FLAGS_H_
