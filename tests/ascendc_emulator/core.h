// One core: its pipes, flags, queues, registers and timeline, and what it passes on to others.
#ifndef ASCENDC_EMULATOR_CORE_H_
#define ASCENDC_EMULATOR_CORE_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

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

}  // namespace ascendc_emulator

#endif  // ASCENDC_EMULATOR_CORE_H_
