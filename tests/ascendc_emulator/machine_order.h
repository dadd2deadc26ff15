// The random order: the queues of a core's pipes, and which instruction of them is the next.
#ifndef ASCENDC_EMULATOR_MACHINE_ORDER_H_
#define ASCENDC_EMULATOR_MACHINE_ORDER_H_

#include <deque>

#include "machine_class.h"

namespace ascendc_emulator {

inline void Machine::DrawPace(Core& core) {
  constexpr double kSpeeds[] = {0, 1.0 / 16, 0.25, 1, 2}, kWeights[] = {1, 32, 1024},
                   kYields[] = {0, 1.0 / 64, 1.0 / 16};
  const bool idle = core.random() % 2 == 0;
  for (int pipe = 0; pipe < kPipes; ++pipe) {
    core.pace.speed[pipe] = idle ? 0 : kSpeeds[core.random() % 5];
    core.pace.weight[pipe] = kWeights[core.random() % 3];
  }
  core.pace.yield = kYields[core.random() % 3];
}

inline void Machine::Enqueue(Core& core, int pipe, Core::Item item) {
  core.queue[pipe].push_back(std::move(item));
  ++core.queued;
  // The scalar unit waits if a queue is full.
  while (core.queue[pipe].size() > QueueDepth(pipe))
    if (!StepAny(core)) FailStuck(core, core.queue[pipe].front().loc);
  Progress(core);
  if (core.pace.yield > 0 && Draw(core) < core.pace.yield) Yield(core);
}

inline void Machine::Progress(Core& core) {
  for (int pipe = 0; pipe < kPipes && core.queued > 0; ++pipe) {
    if (core.queue[pipe].empty() || core.pace.speed[pipe] == 0) continue;
    for (double speed = core.pace.speed[pipe]; speed > 0 && CanStep(core, pipe); speed -= 1)
      if (speed >= 1 || Draw(core) < speed) Step(core, pipe);
  }
}

inline bool Machine::StepAny(Core& core) {
  double total = 0;
  bool can[kPipes];
  for (int pipe = 0; pipe < kPipes; ++pipe)
    if ((can[pipe] = CanStep(core, pipe))) total += core.pace.weight[pipe];
  if (total == 0) return false;
  double at = Draw(core) * total;
  int pick = -1;
  for (int pipe = 0; pipe < kPipes && at >= 0; ++pipe)
    if (can[pipe]) pick = pipe, at -= core.pace.weight[pipe];
  Step(core, pick);
  return true;
}

inline bool Machine::CanStep(const Core& core, int pipe) {
  const std::deque<Core::Item>& queue = core.queue[pipe];
  if (queue.empty()) return false;
  const Core::Item& item = queue.front();
  return item.type != Core::Item::kWait || core.live_flags[item.event][item.id].sets > 0;
}

inline void Machine::Step(Core& core, int pipe) {
  std::deque<Core::Item>& queue = core.queue[pipe];
  size_t pick = 0;
  if (pipe == PIPE_V || pipe == PIPE_MTE2 || pipe == PIPE_MTE3) {
    size_t window = 0;
    while (window < 4 && window < queue.size() && queue[window].type == Core::Item::kExec) ++window;
    if (window > 1) pick = core.random() % window;
  }
  Core::Item item = std::move(queue[pick]);
  queue.erase(queue.begin() + static_cast<std::ptrdiff_t>(pick));
  --core.queued;
  if (item.type == Core::Item::kWait) --core.live_flags[item.event][item.id].sets;
  if (item.type == Core::Item::kSet) Raise(core, item.event, item.id, item.loc);
  if (item.run) item.run();
}

inline void Machine::Raise(Core& core, int event, int id, Loc loc) {
  Core::LiveFlag& live = core.live_flags[event][id];
  if (live.sets > 0 && options.flags == Flags::kBits) {
    ++live.lost;
    live.lost_at = loc;
    return;
  }
  ++live.sets;
}

template <class Done>
inline void Machine::RunUntil(Core& core, Done done, Loc loc) {
  while (!done())
    if (!StepAny(core)) FailStuck(core, loc);
}

inline void Machine::FailStuck(Core& core, Loc loc, int pipe, int event, int id) {
  std::string text;
  Loc first = loc;
  const auto add = [&](int waiting, const Core::LiveFlag& live, int e, int i, Loc at) {
    if (text.empty()) first = at;
    text += Format("%s pipe %s of %s waits for HardEvent::%s(%d) at %s", text.empty() ? "" : ";", PipeName(waiting),
                   core.name.c_str(), Pipes(e).name, i, PlaceText(at).c_str());
    if (live.lost > 0)
      text += Format(", whose set at %s was lost: the flag was still set, as the wait for its earlier set had not run",
                     PlaceText(live.lost_at).c_str());
  };
  for (const bool lost : {true, false}) {  // the lost sets first, because they explain the others
    const Core::LiveFlag& scalar = core.live_flags[event][id];
    if (pipe == PIPE_S && (scalar.lost > 0) == lost) add(pipe, scalar, event, id, loc);
    for (int p = 0; p < kPipes; ++p) {
      if (core.queue[p].empty() || core.queue[p].front().type != Core::Item::kWait) continue;
      const Core::Item& item = core.queue[p].front();
      const Core::LiveFlag& live = core.live_flags[item.event][item.id];
      if ((live.lost > 0) == lost) add(p, live, item.event, item.id, item.loc);
    }
  }
  if (text.empty()) text = " " + core.name + ": nothing can go on";
  Fail("deadlock", first, text.substr(1));
}

inline void Machine::Drain(Core& core, Loc loc) {
  RunUntil(
      core, [&] { return core.queued == 0; }, loc);
}

}  // namespace ascendc_emulator

#endif  // ASCENDC_EMULATOR_MACHINE_ORDER_H_
