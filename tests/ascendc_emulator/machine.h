// The machine: cores (one thread each), their pipes, the order of instructions, flags, hazards, and the scheduler of
// threads.
//
// An API call becomes an instruction: the pipe, the ranges it reads and writes, its cost and a function that executes
// it. In order, it executes when it is issued. With a seed, it goes into its pipe's queue and runs later, in a random
// order that flags and barriers allow, so that a missing one changes results (see Pace).
//
// Hazards do not depend on the order of execution. Each pipe keeps a vector clock of what it knows to be complete, and
// flags, barriers and cross-core flags pass it on. An access to a range is reported if another instruction touched the
// range and is not known to be complete. A WaitFlag has a number in its pipe, as an instruction has, so that a second
// set of an event is allowed only to a pipe that knows the wait for the first set to be complete.
#ifndef ASCENDC_EMULATOR_MACHINE_H_
#define ASCENDC_EMULATOR_MACHINE_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <random>
#include <thread>
#include <unordered_map>

#include "cycles.h"
#include "memory.h"
#include "report.h"

namespace ascendc_emulator {

enum class CoreType : uint8_t { kAic, kAiv };
constexpr int kEvents = static_cast<int>(AscendC::HardEvent::MAX);
constexpr int kEventIds = 8;     // SetFlag-WaitFlag(ISASI).md: 0-7
constexpr int kCrossFlags = 16;  // CrossCoreSetFlag(ISASI).md: 0-15
constexpr int kCounterMax = 15;

struct EventPipes {
  int from, to;
  const char* name;
};
inline const EventPipes& Pipes(int event) {
  constexpr int kS = PIPE_S, kV = PIPE_V, kM = PIPE_M, k1 = PIPE_MTE1, k2 = PIPE_MTE2, k3 = PIPE_MTE3, kF = PIPE_FIX;
  static const EventPipes kTable[] = {
      {k2, k1, "MTE2_MTE1"}, {k1, k2, "MTE1_MTE2"}, {k1, kM, "MTE1_M"},   {kM, k1, "M_MTE1"},   {k2, kV, "MTE2_V"},
      {kV, k2, "V_MTE2"},    {k3, kV, "MTE3_V"},    {kV, k3, "V_MTE3"},   {kM, kF, "M_FIX"},    {kF, kM, "FIX_M"},
      {k3, k2, "MTE3_MTE2"}, {k2, k3, "MTE2_MTE3"}, {kS, kV, "S_V"},      {kV, kS, "V_S"},      {kS, k2, "S_MTE2"},
      {k2, kS, "MTE2_S"},    {kS, k3, "S_MTE3"},    {k3, kS, "MTE3_S"},   {k2, kF, "MTE2_FIX"}, {kF, k2, "FIX_MTE2"},
      {kF, kS, "FIX_S"},     {kM, kS, "M_S"},       {kF, k3, "FIX_MTE3"}, {kF, k1, "FIX_MTE1"}, {k1, kF, "MTE1_FIX"},
      {k3, k1, "MTE3_MTE1"}, {k1, k3, "MTE1_MTE3"}, {k2, kM, "MTE2_M"},   {kM, k2, "M_MTE2"},   {k1, kS, "MTE1_S"},
      {kS, k1, "S_MTE1"},    {kS, kM, "S_M"},       {kS, kF, "S_FIX"},    {kV, kV, "V_V"}};
  return kTable[event];
}

// Blocks of `len` bytes, n1 of them `s1` apart, and n2 of those rows `s2` apart.
struct Access {
  Kind kind = Kind::kUb;
  bool write = false;
  int gm = -1;
  int64_t base = 0, len = 0, n1 = 1, s1 = 0, n2 = 1, s2 = 0;
};

// What a SetFlag does if the flag is still set, because its wait is in the queue and has not run.
// SetFlag-WaitFlag(ISASI).md describes a bit and calls this undefined: either the second set is lost, or the flag
// counts.
enum class Flags : int { kBits = 0, kCounts = 1 };

struct Options {
  int blocks = 1, first_block = 0;
  int kernel_type = KERNEL_TYPE_MIX_AIC_1_2;
  uint64_t seed = 0;  // 0: in order
  bool hazards = true, cycles = true, trace = false;
  int workers = 1;
  double timeout = 120;
  int64_t tiling_key = 0;
  std::string soc = "910B1";
  GmCosts gm;
  Flags flags = Flags::kBits;  // only used with a seed
};

// The knowledge that a flag or a counter passes on.
struct Token {
  Clock local;
  double time = 0;
  int64_t record = -1;
  Loc loc;
};

// Clocks of all cores. Shared and never changed once published.
using Foreign = std::vector<Clock>;

struct CrossToken {
  std::shared_ptr<const Foreign> clocks;
  double time = 0;
  int64_t record = -1;
};

// One executed instruction of the timeline.
struct Record {
  uint32_t site;
  uint16_t core;
  uint8_t pipe;
  float busy;
  double start, end;
  int64_t previous;  // what its start waited for
};

class Machine;

struct Core {
  Machine* machine = nullptr;
  int index = 0;  // in the machine
  int block = 0, sub = 0;
  CoreType type = CoreType::kAic;
  std::string name;
  std::unique_ptr<LocalMemory> memory[8];

  // Hazards
  Clock known[kPipes];
  uint32_t seq[kPipes] = {};
  std::vector<uint32_t> site_of[kPipes];
  std::shared_ptr<const Foreign> foreign;

  // Flags, at issue
  struct Flag {
    bool set = false;
    Token token;
    // The last wait: its number in the waiting pipe, and its place. A wait of the scalar unit has no number, because it
    // has run when it returns.
    uint32_t wait = 0;
    Loc waited;
  };
  Flag flags[kEvents][kEventIds];
  // Flags, at execution (random order only)
  struct LiveFlag {
    int sets = 0, lost = 0;
    Loc lost_at;
  };
  LiveFlag live_flags[kEvents][kEventIds];

  // Cross-core counters of this core and what this core has sent.
  std::deque<CrossToken> counters[kCrossFlags];
  int cross_mode[kCrossFlags];
  std::deque<CrossToken> sent[kCrossFlags];  // modes 0-2: tokens that the partners have not matched yet
  bool sync_all = false;

  struct Item {
    enum Type : uint8_t { kExec, kSet, kWait, kBarrier } type = kExec;
    int event = 0, id = 0;
    Loc loc;
    std::function<void()> run;
  };
  std::deque<Item> queue[kPipes];
  size_t queued = 0;
  std::mt19937_64 random;
  // Random order: how late this core's pipes are. `speed` is how many instructions a pipe executes for each that the
  // scalar unit issues, on average; `weight` is how often a pipe is the next one when the scalar unit has to wait.
  struct Pace {
    double speed[kPipes] = {}, weight[kPipes] = {}, yield = 0;
  };
  Pace pace;

  // Scalar unit
  struct CacheLine {
    uint8_t data[64];
    uint64_t dirty = 0;
    Loc loc;
  };
  std::unordered_map<uint64_t, CacheLine> dcache;
  int64_t deq_scale = -1;  // DEQSCALE holds rubbish until it is set
  // Special registers that vector instructions write when they execute. They hold rubbish until then. The number is
  // that of the last one issued.
  uint64_t mrg_result_seq = 0;
  bool mrg_suspends = false;
  uint16_t mrg_result[4] = {0xffff, 0xffff, 0xffff, 0xffff};
  uint64_t gather_count_seq = 0;
  int64_t gather_count = -1;
  int atomic = -1;  // the element type; 0: none, -1: whatever the kernel before has left
  void* pipe_object = nullptr;
  uint32_t allocated[8] = {};
  uint32_t spins = 0;

  // Timeline
  double free_at[kPipes] = {}, done_at[kPipes] = {}, busy[kPipes] = {};
  int64_t last_record[kPipes] = {-1, -1, -1, -1, -1, -1, -1};
  double wait_until[kPipes] = {};
  int64_t wait_record[kPipes] = {-1, -1, -1, -1, -1, -1, -1};
  uint64_t instructions[kPipes] = {};
  int64_t last_issued = -1;  // the site
  uint64_t bytes_hbm_read = 0, bytes_l2_read = 0, bytes_gm_write = 0, bytes_l1_l0 = 0, bytes_l0c_out = 0;
  double macs = 0;

  // Scheduling
  enum State : uint8_t { kReady, kRunning, kBlocked, kDone } state = kReady;
  std::condition_variable wake;
  std::function<bool()> condition;
  std::string waits_for;
  Loc waits_at;
};

inline thread_local Core* t_core = nullptr;

class Machine {
 public:
  Machine(const Options& options, std::vector<std::unique_ptr<GmBuffer>>& gm) : options(options), gm(gm) {
    const bool aic = options.kernel_type != KERNEL_TYPE_AIV_ONLY && options.kernel_type != KERNEL_TYPE_MIX_AIV_1_0;
    int aiv = 0;
    if (options.kernel_type == KERNEL_TYPE_MIX_AIC_1_2) aiv = 2;
    if (options.kernel_type == KERNEL_TYPE_MIX_AIC_1_1 || !aic) aiv = 1;
    ratio = aic && aiv ? aiv : 1;
    cross_core_works = options.kernel_type != KERNEL_TYPE_AIV_ONLY && options.kernel_type != KERNEL_TYPE_AIC_ONLY;
    for (int block = options.first_block; block < options.first_block + options.blocks; ++block) {
      if (aic) AddCore(block, 0, CoreType::kAic);
      for (int sub = 0; sub < aiv; ++sub) AddCore(block, sub, CoreType::kAiv);
    }
    const auto none = std::make_shared<const Foreign>(cores.size());
    for (auto& core : cores) core->foreign = none;
  }

  // Errors.

  void Note(const char* kind, Loc loc, const std::string& message) {
    report.Add(kind, loc, t_core ? t_core->name : "host", message);
  }
  [[noreturn]] void Fail(const char* kind, Loc loc, const std::string& message) {
    Note(kind, loc, message);
    Abort();
    throw Stop{};
  }
  void Abort() {
    std::lock_guard<std::mutex> lock(mutex_);
    aborted_ = true;
    for (auto& core : cores) core->wake.notify_all();
  }
  bool aborted() const { return aborted_; }

  // Instructions.

  uint32_t Site(const char* name, Loc loc) {
    std::lock_guard<std::mutex> lock(site_mutex_);
    auto [it, added] = site_index_.try_emplace(std::make_tuple(name, loc.file, loc.line), sites_.size());
    if (added) sites_.push_back({name, loc});
    return static_cast<uint32_t>(it->second);
  }
  std::string SiteText(uint32_t site) {
    std::lock_guard<std::mutex> lock(site_mutex_);
    const auto& [name, loc] = sites_[site];
    const char* slash = std::strrchr(loc.file, '/');
    return Format("%s at %s:%d", name, slash ? slash + 1 : loc.file, loc.line);
  }
  std::string SiteName(uint32_t site) {
    std::lock_guard<std::mutex> lock(site_mutex_);
    return sites_[site].first;
  }

  template <class F>
  void Issue(pipe_t pipe, const char* name, Loc loc, const std::vector<Access>& accesses, Cost cost, F&& run) {
    Core& core = *t_core;
    if (aborted_) throw Stop{};
    const uint32_t seq = ++core.seq[pipe];
    const uint32_t site = LastSite(core, pipe, name, loc);
    core.site_of[pipe].push_back(site);
    core.last_issued = site;
    ++core.instructions[pipe];
    ObserveScalar(core, pipe);
    // Writes are checked first. If an instruction reads and writes one place, its own read would hide the reads of
    // others.
    for (const Access& write : accesses) {
      if (write.kind == Kind::kGm || !write.write) continue;
      for (const Access& read : accesses) {
        if (read.kind != write.kind || read.write || read.base != write.base) continue;
        TouchLocal(core, pipe, seq, write, loc, name, false);
        break;
      }
    }
    for (const Access& access : accesses) {
      if (access.kind == Kind::kGm)
        TouchGm(core, pipe, seq, access, loc, name);
      else
        TouchLocal(core, pipe, seq, access, loc, name, true);
    }
    if (options.cycles) Advance(core, pipe, site, cost);
    if (pipe == PIPE_S) core.known[PIPE_S].at[PIPE_S] = seq;
    if (options.seed == 0 || pipe == PIPE_S) {
      run();
      return;
    }
    Enqueue(core, pipe, {Core::Item::kExec, 0, 0, loc, std::function<void()>(std::forward<F>(run))});
  }

  // Flags inside a core.

  void SetFlag(int event, int id, Loc loc) {
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
           Format("SetFlag<HardEvent::%s>(%d): nothing orders it behind the WaitFlag of its earlier set at %s; on the "
                  "device the second set may be lost (pipe %s is not known to have waited; %s)",
                  pipes.name, id, PlaceText(flag.waited).c_str(), PipeName(pipes.to), LastIssued(core).c_str()));
    }
    if (options.seed == 0) return;
    if (pipes.from == PIPE_S)
      Raise(core, event, id, loc);
    else
      Enqueue(core, pipes.from, {Core::Item::kSet, event, id, loc, {}});
  }

  void WaitFlag(int event, int id, Loc loc) {
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

  void Barrier(int pipe, Loc loc) {
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

  // Flags between cores.

  // 关键特性说明 of 核间同步: mode 0 all cores of one kind, mode 1 the AIVs of a block, mode 2 AIC and AIVs of a block.
  void CrossSet(int mode, int pipe, int64_t id, Loc loc, bool internal = false) {
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

  void CrossWait(int64_t id, Loc loc, bool internal = false) {
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

  // SyncAll.md: hard synchronisation. It takes flag ids 11-14.
  void SyncAll(bool aiv_only, Loc loc) {
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

  // Scalar accesses.

  // Called before the scalar unit reads: with a seed, other pipes may or may not have run that far.
  void LetPipesGoOn() {
    if (options.seed != 0) Progress(*t_core);
  }
  void ScalarTouch(const char* name, Loc loc, const std::vector<Access>& accesses) {
    LetPipesGoOn();
    Issue(PIPE_S, name, loc, accesses, {kScalarAccess, 0}, [] {});
  }
  void Spin(Loc loc) {  // a polling loop must let other cores run
    Core& core = *t_core;
    if (aborted_) throw Stop{};
    if (++core.spins % 256 == 0) Yield(core);
    (void)loc;
  }

  // Run.

  void Run(const std::function<void()>& kernel);

  int FindGm(const void* pointer) const {
    const auto* p = static_cast<const uint8_t*>(pointer);
    // A tensor that holds the address comes first, because a caller's own memory may have a neighbour. A cache that is
    // an input and an output is found as the output, which is the later one.
    for (size_t i = gm.size(); i-- > 0;)
      if (p >= gm[i]->base && p < gm[i]->base + gm[i]->size) return static_cast<int>(i);
    for (size_t i = 0; i < gm.size(); ++i)
      if (p >= gm[i]->base - kRedzone && p <= gm[i]->base + gm[i]->size + kRedzone) return static_cast<int>(i);
    return -1;
  }

  // Cycles of a transfer between GM and a core. Lines that nobody has touched come from HBM, others from L2.
  double GmCycles(const Access& access, double l2_rate) {
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

  // Bytes a cycle from HBM to a core: the rate of its port, or its share of HBM if that is less.
  double HbmRate() const {
    const Soc* soc = FindSoc(options.soc);
    return soc == nullptr ? kDdr : std::min(kDdr, options.gm.hbm_gb_per_s * 1e3 / soc->mhz / soc->aic);
  }

  void Yield(Core& core) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (aborted_) throw Stop{};
    core.state = Core::kReady;
    --running_;
    Schedule();
    WaitForTurn(core, lock);
  }
  bool ratio_has_aiv() const {
    return options.kernel_type == KERNEL_TYPE_MIX_AIC_1_2 || options.kernel_type == KERNEL_TYPE_MIX_AIC_1_1;
  }

  Options options;
  std::vector<std::unique_ptr<GmBuffer>>& gm;
  std::vector<std::unique_ptr<Core>> cores;
  Report report;
  std::vector<Record> records;
  std::mutex record_mutex;
  int ratio = 1;
  bool cross_core_works = true;

 private:
  void AddCore(int block, int sub, CoreType type) {
    auto core = std::make_unique<Core>();
    core->machine = this;
    core->index = static_cast<int>(cores.size());
    core->block = block;
    core->sub = sub;
    core->type = type;
    core->name = type == CoreType::kAic ? Format("AIC block %d", block) : Format("AIV%d block %d", sub, block);
    core->random.seed(options.seed * 1000003 + static_cast<uint64_t>(core->index));
    DrawPace(*core);
    std::fill(std::begin(core->cross_mode), std::end(core->cross_mode), -1);
    auto add = [&](Kind kind) { core->memory[static_cast<int>(kind)] = std::make_unique<LocalMemory>(kind); };
    if (type == CoreType::kAiv) {
      add(Kind::kUb);
    } else {
      for (Kind kind : {Kind::kL1, Kind::kL0a, Kind::kL0b, Kind::kL0c, Kind::kBt, Kind::kFb}) add(kind);
    }
    cores.push_back(std::move(core));
  }

  uint32_t LastSite(Core& core, int pipe, const char* name, Loc loc) {
    struct Cache {
      Machine* machine = nullptr;
      const char *name = nullptr, *file = nullptr;
      int line = 0;
      uint32_t site = 0;
    };
    thread_local Cache caches[64];
    Cache& cache = caches[(static_cast<size_t>(loc.line) * 7 + static_cast<size_t>(pipe)) & 63];
    if (cache.machine != this || cache.name != name || cache.file != loc.file || cache.line != loc.line)
      cache = {this, name, loc.file, loc.line, Site(name, loc)};
    (void)core;
    return cache.site;
  }

  // An instruction is issued after the scalar unit returned from its last wait, so its pipe knows what the scalar unit
  // waited for. Scalar stores themselves need S_x flags.
  static void ObserveScalar(Core& core, int pipe) {
    if (pipe == PIPE_S) return;
    Clock& clock = core.known[pipe];
    const uint32_t own_scalar = clock.at[PIPE_S];
    clock.Merge(core.known[PIPE_S]);
    clock.at[PIPE_S] = own_scalar;
  }

  Token Publish(Core& core, int pipe, Loc loc) {
    ObserveScalar(core, pipe);
    Token token;
    token.local = core.known[pipe];
    token.local.at[pipe] = core.seq[pipe];
    token.time = std::max(core.done_at[pipe], core.wait_until[pipe]);
    token.record = core.done_at[pipe] >= core.wait_until[pipe] ? core.last_record[pipe] : core.wait_record[pipe];
    token.loc = loc;
    return token;
  }

  void WaitTime(Core& core, int pipe, double time, int64_t record) {
    if (time > core.wait_until[pipe]) {
      core.wait_until[pipe] = time;
      core.wait_record[pipe] = record;
    }
  }

  void Advance(Core& core, int pipe, uint32_t site, Cost cost) {
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

  // Hazards.

  void Hazard(Core& core, int pipe, Loc loc, const char* name, bool write, bool was_write, const char* where,
              int64_t at, int core2, int pipe2, uint32_t site2) {
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
         Format("%s in %s at byte %lld: %s on pipe %s of %s and %s on pipe %s of %s, %s", kinds[write][was_write],
                where, static_cast<long long>(at), name, PipeName(pipe), core.name.c_str(), earlier.c_str(),
                PipeName(pipe2), other.name.c_str(), hint.c_str()));
  }

  // Reports hazards and, with `record`, makes the access known to later ones.
  void TouchLocal(Core& core, int pipe, uint32_t seq, const Access& access, Loc loc, const char* name, bool record) {
    LocalMemory& memory = *core.memory[static_cast<int>(access.kind)];
    const int own = memory.model.slot[pipe];
    if (own < 0)
      Fail("position", loc, Format("%s: pipe %s does not reach %s", name, PipeName(pipe), memory.model.name));
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

  void TouchGm(Core& core, int pipe, uint32_t seq, const Access& access, Loc loc, const char* name) {
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
  static std::string Where(const GmBuffer& buffer) { return "GM tensor " + buffer.name; }

  // Checks.

  void CheckPipe(int pipe, Loc loc, const char* api) {
    const bool aic_only = pipe == PIPE_M || pipe == PIPE_MTE1 || pipe == PIPE_FIX;
    const Core& core = *t_core;
    if ((core.type == CoreType::kAiv && aic_only) || (core.type == CoreType::kAic && pipe == PIPE_V))
      Fail("core_type", loc, Format("%s: %s has no pipe %s", api, core.name.c_str(), PipeName(pipe)));
  }
  void CheckEvent(int event, int id, Loc loc, const char* api) {
    if (aborted_) throw Stop{};
    CheckPipe(Pipes(event).from, loc, api);
    CheckPipe(Pipes(event).to, loc, api);
    if (id < 0 || id >= kEventIds)
      Fail("flag", loc, Format("%s<HardEvent::%s>(%d): ids are 0-7", api, Pipes(event).name, id));
    if (event == static_cast<int>(AscendC::HardEvent::M_MTE1) && id < 3 && t_core->pipe_object != nullptr &&
        !tpipe_flags)
      Fail("flag", loc,
           Format("%s<HardEvent::M_MTE1>(%d): TPipe sets ids 0-2 in its constructor and waits for them in its "
                  "destructor; use 3-7",
                  api, id));
  }
  void CheckCross(int64_t id, Loc loc, const char* api, bool internal) {
    if (!cross_core_works)
      Fail("cross_core", loc,
           Format("%s: the kernel type is not MIX, so the scheduler of cross-core flags is off", api));
    if (id < 0 || id >= kCrossFlags)
      Fail("cross_core", loc, Format("%s(%lld): ids are 0-15", api, static_cast<long long>(id)));
    if (!internal && id >= 11 && id <= 14 && t_core->sync_all)
      Fail("cross_core", loc, Format("%s(%lld): SyncAll uses ids 11-14", api, static_cast<long long>(id)));
  }

  // Random order.

  // NPU架构版本2201.md (硬件约束): the queues of MTE1 and MMAD hold 32 instructions. No document tells the others.
  static constexpr size_t kCubeQueue = 32, kQueue = 512;
  static size_t QueueDepth(int pipe) { return pipe == PIPE_M || pipe == PIPE_MTE1 ? kCubeQueue : kQueue; }

  // On half of the cores no pipe does anything until the scalar unit must wait for it. On all cores one pipe may be
  // much faster than another.
  static void DrawPace(Core& core) {
    constexpr double kSpeeds[] = {0, 1.0 / 16, 0.25, 1, 2}, kWeights[] = {1, 32, 1024},
                     kYields[] = {0, 1.0 / 64, 1.0 / 16};
    const bool idle = core.random() % 2 == 0;
    for (int pipe = 0; pipe < kPipes; ++pipe) {
      core.pace.speed[pipe] = idle ? 0 : kSpeeds[core.random() % 5];
      core.pace.weight[pipe] = kWeights[core.random() % 3];
    }
    core.pace.yield = kYields[core.random() % 3];
  }
  static double Draw(Core& core) { return static_cast<double>(core.random() >> 11) * 0x1p-53; }

  void Enqueue(Core& core, int pipe, Core::Item item) {
    core.queue[pipe].push_back(std::move(item));
    ++core.queued;
    // The scalar unit waits if a queue is full.
    while (core.queue[pipe].size() > QueueDepth(pipe))
      if (!StepAny(core)) FailStuck(core, core.queue[pipe].front().loc);
    Progress(core);
    if (core.pace.yield > 0 && Draw(core) < core.pace.yield) Yield(core);
  }
  // Lets the pipes do what they do in the time of one instruction of the scalar unit.
  void Progress(Core& core) {
    for (int pipe = 0; pipe < kPipes && core.queued > 0; ++pipe) {
      if (core.queue[pipe].empty() || core.pace.speed[pipe] == 0) continue;
      for (double speed = core.pace.speed[pipe]; speed > 0 && CanStep(core, pipe); speed -= 1)
        if (speed >= 1 || Draw(core) < speed) Step(core, pipe);
    }
  }
  // Executes one instruction of a random pipe, if any pipe can go on.
  bool StepAny(Core& core) {
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
  static bool CanStep(const Core& core, int pipe) {
    const std::deque<Core::Item>& queue = core.queue[pipe];
    if (queue.empty()) return false;
    const Core::Item& item = queue.front();
    return item.type != Core::Item::kWait || core.live_flags[item.event][item.id].sets > 0;
  }
  // Executes one instruction of a pipe. Vector and DMA instructions overlap within their pipe until a barrier or a
  // flag.
  void Step(Core& core, int pipe) {
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
  // Executes the set of an event.
  void Raise(Core& core, int event, int id, Loc loc) {
    Core::LiveFlag& live = core.live_flags[event][id];
    if (live.sets > 0 && options.flags == Flags::kBits) {
      ++live.lost;
      live.lost_at = loc;
      return;
    }
    ++live.sets;
  }
  template <class Done>
  void RunUntil(Core& core, Done done, Loc loc) {
    while (!done())
      if (!StepAny(core)) FailStuck(core, loc);
  }
  // Reports that all pipes wait, the scalar unit for an event if `pipe` is PIPE_S. Every set comes before its wait in
  // program order, so a set was lost.
  [[noreturn]] void FailStuck(Core& core, Loc loc, int pipe = -1, int event = 0, int id = 0) {
    std::string text;
    Loc first = loc;
    const auto add = [&](int waiting, const Core::LiveFlag& live, int e, int i, Loc at) {
      if (text.empty()) first = at;
      text += Format("%s pipe %s of %s waits for HardEvent::%s(%d) at %s", text.empty() ? "" : ";", PipeName(waiting),
                     core.name.c_str(), Pipes(e).name, i, PlaceText(at).c_str());
      if (live.lost > 0)
        text +=
            Format(", whose set at %s was lost: the flag was still set, as the wait for its earlier set had not run",
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
  static std::string PlaceText(Loc loc) {
    const char* slash = std::strrchr(loc.file, '/');
    return Format("%s:%d", slash ? slash + 1 : loc.file, loc.line);
  }
  // The last place in the kernel, because a flag's own place is often in a helper function.
  std::string LastIssued(const Core& core) {
    if (core.last_issued < 0) return "no instruction before it";
    return "behind " + SiteText(static_cast<uint32_t>(core.last_issued));
  }

 public:
  void Drain(Core& core, Loc loc) {
    RunUntil(
        core, [&] { return core.queued == 0; }, loc);
  }
  // Set while an Mmad is issued whose accumulation the hardware orders by itself.
  static inline thread_local bool mmad_ordered = false;
  // Set while TPipe itself uses its own flags.
  static inline thread_local bool tpipe_flags = false;

 private:
  // Counters between cores.

  void Post(Core& core, int mode, int id, const CrossToken& token, Loc loc) {
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
  void Increment(Core& core, int id, const CrossToken& token, std::unique_lock<std::mutex>& lock, Loc loc) {
    core.counters[id].push_back(token);
    if (core.counters[id].size() > kCounterMax) {
      lock.unlock();
      Fail("cross_core", loc, Format("counter of cross-core flag %d on %s passes 15", id, core.name.c_str()));
    }
  }
  bool Outstanding(int id) const {
    return std::any_of(cores.begin(), cores.end(),
                       [id](const auto& c) { return !c->counters[id].empty() || !c->sent[id].empty(); });
  }

  // Threads.

  // At most `workers` cores run at a time. A core gives up its turn only when it waits for another core.
  void WakeBlocked() {  // with the lock
    for (auto& core : cores)
      if (core->state == Core::kBlocked && core->condition()) core->state = Core::kReady;
    Schedule();
  }
  void Schedule() {  // with the lock
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
  size_t NextInTurn(const std::vector<Core*>& ready) const {
    for (size_t i = 0; i < ready.size(); ++i)
      if (ready[i]->index > turn_) return i;
    return 0;
  }
  void ReportDeadlock() {  // with the lock
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
          sets += Format(" %s set flag %d (mode %d) and its partners did not;", core->name.c_str(), id,
                         core->cross_mode[id]);
          break;
        }
    report.Add("deadlock", loc, "all", text + sets);
    aborted_ = true;
    for (auto& core : cores) core->wake.notify_all();
  }
  void Block(Core& core, std::function<bool()> condition, std::string what, Loc loc) {
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
  void WaitForTurn(Core& core, std::unique_lock<std::mutex>& lock) {
    core.wake.wait(lock, [&] { return core.state == Core::kRunning || aborted_; });
    if (core.state != Core::kRunning) {
      core.state = Core::kRunning;
      ++running_;
    }
    if (aborted_) throw Stop{};
  }
  void FinishCore(Core& core);

  std::mutex mutex_, site_mutex_;
  std::condition_variable all_done_;
  std::atomic<bool> aborted_{false};
  int running_ = 0, turn_ = -1;
  std::mt19937_64 random_;
  std::vector<std::pair<const char*, Loc>> sites_;
  std::map<std::tuple<const char*, const char*, int>, size_t> site_index_;
};

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

#endif  // ASCENDC_EMULATOR_MACHINE_H_
