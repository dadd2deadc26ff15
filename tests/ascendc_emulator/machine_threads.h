// The threads of the cores: whose turn it is, who waits for whom, and a run from its start to its end.
#ifndef ASCENDC_EMULATOR_MACHINE_THREADS_H_
#define ASCENDC_EMULATOR_MACHINE_THREADS_H_

#include <algorithm>
#include <chrono>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "machine_class.h"

namespace ascendc_emulator {

inline void Machine::Yield(Core& core) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (aborted_) throw Stop{};
  core.state = Core::kReady;
  --running_;
  Schedule();
  WaitForTurn(core, lock);
}

inline void Machine::WakeBlocked() {
  for (auto& core : cores)
    if (core->state == Core::kBlocked && core->condition()) core->state = Core::kReady;
  Schedule();
}

inline void Machine::Schedule() {
  while (running_ < options.workers) {
    std::vector<Core*> ready;
    for (auto& core : cores)
      if (core->state == Core::kReady) ready.push_back(core.get());
    if (ready.empty()) break;
    Core* next = ready[options.seed == 0 ? NextInTurn(ready) : random_() % ready.size()];
    next->state = Core::kRunning;
    turn_ = next->index;
    ++running_;
    next->wake.notify_all();
  }
  if (running_ == 0 && !aborted_ &&
      std::any_of(cores.begin(), cores.end(), [](auto& c) { return c->state == Core::kBlocked; }))
    ReportDeadlock();
}

inline size_t Machine::NextInTurn(const std::vector<Core*>& ready) const {
  for (size_t i = 0; i < ready.size(); ++i)
    if (ready[i]->index > turn_) return i;
  return 0;
}

inline void Machine::ReportDeadlock() {
  std::string text = "every core that is not done waits:";
  int shown = 0;
  Loc loc;
  for (auto& core : cores) {
    if (core->state != Core::kBlocked) continue;
    if (shown == 0) loc = core->waits_at;
    const char* slash = std::strrchr(core->waits_at.file, '/');
    if (shown++ < 12)
      text += Format(" %s waits in %s at %s:%d;", core->name.c_str(), core->waits_for.c_str(),
                     slash ? slash + 1 : core->waits_at.file, core->waits_at.line);
  }
  if (shown > 12) text += Format(" and %d more;", shown - 12);
  std::string sets;
  for (int id = 0; id < kCrossFlags; ++id)
    for (auto& core : cores)
      if (!core->sent[id].empty()) {
        sets +=
            Format(" %s set flag %d (mode %d) and its partners did not;", core->name.c_str(), id, core->cross_mode[id]);
        break;
      }
  report.Add("deadlock", loc, "all", text + sets);
  aborted_ = true;
  for (auto& core : cores) core->wake.notify_all();
}

inline void Machine::Block(Core& core, std::function<bool()> condition, std::string what, Loc loc) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (condition()) return;
  core.condition = std::move(condition);
  core.waits_for = std::move(what);
  core.waits_at = loc;
  core.state = Core::kBlocked;
  --running_;
  Schedule();
  WaitForTurn(core, lock);
}

inline void Machine::WaitForTurn(Core& core, std::unique_lock<std::mutex>& lock) {
  core.wake.wait(lock, [&] { return core.state == Core::kRunning || aborted_; });
  if (core.state != Core::kRunning) {
    core.state = Core::kRunning;
    ++running_;
  }
  if (aborted_) throw Stop{};
}

inline void Machine::FinishCore(Core& core) {
  const Loc end{"", 0};
  if (options.seed != 0) Drain(core, end);
  for (int event = 0; event < kEvents; ++event)
    for (int id = 0; id < kEventIds; ++id)
      if (core.flags[event][id].set)
        Note("flag", core.flags[event][id].token.loc,
             Format("%s ends with HardEvent::%s(%d) set and never waited for", core.name.c_str(), Pipes(event).name,
                    id));
  for (auto& [line, cached] : core.dcache)
    if (cached.dirty != 0)
      Note("dcache", cached.loc,
           Format("%s ends with scalar writes to GM that no DataCacheCleanAndInvalid wrote back", core.name.c_str()));
  if (core.pipe_object != nullptr) Note("resource", end, core.name + " ends with a TPipe that was not destroyed");
}

inline void Machine::Run(const std::function<void()>& kernel) {
  random_.seed(options.seed);
  if (options.seed != 0) options.workers = 1;
  std::vector<std::thread> threads;
  threads.reserve(cores.size());
  for (auto& owned : cores) {
    Core* core = owned.get();
    threads.emplace_back([this, core, &kernel] {
      t_core = core;
      try {
        {
          std::unique_lock<std::mutex> lock(mutex_);
          WaitForTurn(*core, lock);
        }
        kernel();
        FinishCore(*core);
      } catch (const Stop&) {
      } catch (const std::exception& error) {
        Note("internal", Loc{}, error.what());
        Abort();
      }
      std::lock_guard<std::mutex> lock(mutex_);
      core->state = Core::kDone;
      --running_;
      Schedule();
      all_done_.notify_all();
      t_core = nullptr;
    });
  }
  {
    std::unique_lock<std::mutex> lock(mutex_);
    Schedule();
    const auto done = [&] {
      return std::all_of(cores.begin(), cores.end(), [](auto& c) { return c->state == Core::kDone; });
    };
    if (!all_done_.wait_for(lock, std::chrono::duration<double>(options.timeout), done)) {
      std::string text = Format("no end after %.0f s:", options.timeout);
      for (auto& core : cores)
        if (core->state == Core::kRunning) text += " " + core->name + " runs;";
      report.Add("timeout", Loc{}, "host", text);
      aborted_ = true;
      for (auto& core : cores) core->wake.notify_all();
    }
  }
  for (auto& thread : threads) thread.join();
  if (aborted_) return;
  for (auto& core : cores)
    for (int id = 0; id < kCrossFlags; ++id)
      if (!core->counters[id].empty() || !core->sent[id].empty())
        report.Add(
            "cross_core", Loc{}, core->name,
            Format("%s ends with cross-core flag %d not waited for (%zu in its counter, %zu sent without partners)",
                   core->name.c_str(), id, core->counters[id].size(), core->sent[id].size()));
}

}  // namespace ascendc_emulator

#endif  // ASCENDC_EMULATOR_MACHINE_THREADS_H_
