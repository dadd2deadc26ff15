// The machine's class: its cores, how an instruction is issued, and what the other parts of the machine define.
#ifndef ASCENDC_EMULATOR_MACHINE_CLASS_H_
#define ASCENDC_EMULATOR_MACHINE_CLASS_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core.h"

namespace ascendc_emulator {

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

  // Flags inside a core: machine_flags.h.

  void SetFlag(int event, int id, Loc loc);
  void WaitFlag(int event, int id, Loc loc);
  void Barrier(int pipe, Loc loc);

  // Flags between cores: machine_flags.h.

  // 关键特性说明 of 核间同步: mode 0 all cores of one kind, mode 1 the AIVs of a block, mode 2 AIC and AIVs of a block.
  void CrossSet(int mode, int pipe, int64_t id, Loc loc, bool internal = false);
  void CrossWait(int64_t id, Loc loc, bool internal = false);
  // SyncAll.md: hard synchronisation. It takes flag ids 11-14.
  void SyncAll(bool aiv_only, Loc loc);

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

  // Run: machine_threads.h.

  void Run(const std::function<void()>& kernel);
  void Yield(Core& core);

  // GM, and what it costs: machine_time.h.

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
  double GmCycles(const Access& access, double l2_rate);
  // Bytes a cycle from HBM to a core: the rate of its port, or its share of HBM if that is less.
  double HbmRate() const;

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

  // What pipes know (machine_hazards.h) and when they are free (machine_time.h).

  // An instruction is issued after the scalar unit returned from its last wait, so its pipe knows what the scalar unit
  // waited for. Scalar stores themselves need S_x flags.
  static void ObserveScalar(Core& core, int pipe);
  Token Publish(Core& core, int pipe, Loc loc);
  void WaitTime(Core& core, int pipe, double time, int64_t record);
  void Advance(Core& core, int pipe, uint32_t site, Cost cost);

  // Hazards: machine_hazards.h.

  void Hazard(Core& core, int pipe, Loc loc, const char* name, bool write, bool was_write, const char* where,
              int64_t at, int core2, int pipe2, uint32_t site2);
  // Reports hazards and, with `record`, makes the access known to later ones.
  void TouchLocal(Core& core, int pipe, uint32_t seq, const Access& access, Loc loc, const char* name, bool record);
  void TouchGm(Core& core, int pipe, uint32_t seq, const Access& access, Loc loc, const char* name);
  static std::string Where(const GmBuffer& buffer) { return "GM tensor " + buffer.name; }

  // Checks of pipes and ids: machine_flags.h.

  void CheckPipe(int pipe, Loc loc, const char* api);
  void CheckEvent(int event, int id, Loc loc, const char* api);
  void CheckCross(int64_t id, Loc loc, const char* api, bool internal);

  // Random order: machine_order.h.

  // NPU架构版本2201.md (硬件约束): the queues of MTE1 and MMAD hold 32 instructions. No document tells the others.
  static constexpr size_t kCubeQueue = 32, kQueue = 512;
  static size_t QueueDepth(int pipe) { return pipe == PIPE_M || pipe == PIPE_MTE1 ? kCubeQueue : kQueue; }

  // On half of the cores no pipe does anything until the scalar unit must wait for it. On all cores one pipe may be
  // much faster than another.
  static void DrawPace(Core& core);
  static double Draw(Core& core) { return static_cast<double>(core.random() >> 11) * 0x1p-53; }

  void Enqueue(Core& core, int pipe, Core::Item item);
  // Lets the pipes do what they do in the time of one instruction of the scalar unit.
  void Progress(Core& core);
  // Executes one instruction of a random pipe, if any pipe can go on.
  bool StepAny(Core& core);
  static bool CanStep(const Core& core, int pipe);
  // Executes one instruction of a pipe. Vector and DMA instructions overlap within their pipe until a barrier or a
  // flag.
  void Step(Core& core, int pipe);
  // Executes the set of an event.
  void Raise(Core& core, int event, int id, Loc loc);
  template <class Done>
  void RunUntil(Core& core, Done done, Loc loc);
  // Reports that all pipes wait, the scalar unit for an event if `pipe` is PIPE_S. Every set comes before its wait in
  // program order, so a set was lost.
  [[noreturn]] void FailStuck(Core& core, Loc loc, int pipe = -1, int event = 0, int id = 0);
  static std::string PlaceText(Loc loc) {
    const char* slash = std::strrchr(loc.file, '/');
    return Format("%s:%d", slash ? slash + 1 : loc.file, loc.line);
  }
  // The last place in the kernel, because a flag's own place is often in a helper function.
  std::string LastIssued(const Core& core) {
    if (core.last_issued < 0) return "no instruction before it";
    return "after " + SiteText(static_cast<uint32_t>(core.last_issued));
  }

 public:
  void Drain(Core& core, Loc loc);
  // Set while an Mmad is issued whose accumulation the hardware orders by itself.
  static inline thread_local bool mmad_ordered = false;
  // Set while TPipe itself uses its own flags.
  static inline thread_local bool tpipe_flags = false;

 private:
  // Counters between cores: machine_flags.h.

  void Post(Core& core, int mode, int id, const CrossToken& token, Loc loc);
  void Increment(Core& core, int id, const CrossToken& token, std::unique_lock<std::mutex>& lock, Loc loc);
  bool Outstanding(int id) const;

  // Threads: machine_threads.h.

  // At most `workers` cores run at a time. A core gives up its turn only when it waits for another core.
  void WakeBlocked();  // with the lock
  void Schedule();     // with the lock
  size_t NextInTurn(const std::vector<Core*>& ready) const;
  void ReportDeadlock();  // with the lock
  void Block(Core& core, std::function<bool()> condition, std::string what, Loc loc);
  void WaitForTurn(Core& core, std::unique_lock<std::mutex>& lock);
  void FinishCore(Core& core);

  std::mutex mutex_, site_mutex_;
  std::condition_variable all_done_;
  std::atomic<bool> aborted_{false};
  int running_ = 0, turn_ = -1;
  std::mt19937_64 random_;
  std::vector<std::pair<const char*, Loc>> sites_;
  std::map<std::tuple<const char*, const char*, int>, size_t> site_index_;
};

}  // namespace ascendc_emulator

#endif  // ASCENDC_EMULATOR_MACHINE_CLASS_H_
