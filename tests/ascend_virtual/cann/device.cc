#include "device.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace ascend_virtual {
namespace {

struct State {
  std::mutex mutex;
  std::map<std::string, int64_t> options;
  std::map<std::string, int64_t> live;
  std::string errors;
};

State& Global() {
  static State* state = new State;  // never destroyed: streams and MindSpore use it until the very end
  return *state;
}

constexpr struct {
  const char* name;
  int64_t value;
} kDefaults[] = {
    {"CORES", 4},        // AI cores; an Ascend 910B1 has 24
    {"DELAY_US", 100},   // longest wait of a stream before an ordinary task; now and then it is twenty times as long
    {"FAIL_LAUNCH", 0},  // the number of the launch from now on that fails on the device; counts down; below 1: none
    {"FAILURES", 0},     // counts the failures of streams that were told
    {"KERNELS", 0},      // 0: AscendC kernels in the emulator, 1: the CPU kernels
    {"LAUNCHES", 0},     // counts the launches of operators
    {"MEMORY_MB", 64 << 10},
    {"SEED", 0},   // of the delays, and of the order in which the emulator runs the pipes
    {"TRACE", 0},  // 1: tells every call
};

// The value of an option; the caller holds the mutex.
int64_t& Value(State& state, const char* name) {
  const auto found = state.options.find(name);
  if (found != state.options.end()) return found->second;
  for (const auto& option : kDefaults) {
    if (std::strcmp(option.name, name) != 0) continue;
    const char* given = std::getenv((std::string("ASCEND_VIRTUAL_") + name).c_str());
    return state.options[name] = given != nullptr ? std::strtoll(given, nullptr, 10) : option.value;
  }
  std::fprintf(stderr, "virtual Ascend: there is no option %s\n", name);
  std::abort();
}

}  // namespace

int64_t Option(const char* name) {
  State& state = Global();
  const std::lock_guard lock(state.mutex);
  return Value(state, name);
}

int64_t Add(const char* option, int64_t change) {
  State& state = Global();
  const std::lock_guard lock(state.mutex);
  return Value(state, option) += change;
}

void Say(const std::string& text) { std::fprintf(stderr, "virtual Ascend: %s\n", text.c_str()); }

void Trace(const std::string& text) {
  if (Option("TRACE") != 0) Say(text);
}

aclError Fail(aclError code, const std::string& text) {
  Say(text + " (" + std::to_string(code) + ")");
  State& state = Global();
  const std::lock_guard lock(state.mutex);
  state.errors += text + "\n";
  return code;
}

std::string TakeErrors() {
  State& state = Global();
  const std::lock_guard lock(state.mutex);
  std::string errors;
  errors.swap(state.errors);
  return errors;
}

void Count(const char* kind, int change) {
  State& state = Global();
  const std::lock_guard lock(state.mutex);
  state.live[kind] += change;
}

namespace {

// Runs with this library's destructors. By then MindSpore has given back streams, events and memory: what a program
// took by aclrtMalloc ("allocations") and what MindSpore took for its pool by aclrtMallocPhysical ("memory blocks"). It
// destroys the aclnn calls that it keeps for later after that, if at all, so every program leaves a few executors, with
// their tensors and scalars.
__attribute__((destructor)) void TellWhatIsLeft() {
  State& state = Global();
  const std::lock_guard lock(state.mutex);
  std::string left;
  for (const auto& [kind, count] : state.live) {
    if (count != 0) left += (left.empty() ? "" : ", ") + std::to_string(count) + " " + kind;
  }
  if (!left.empty()) Say("left at exit: " + left);
}

}  // namespace
}  // namespace ascend_virtual

int virtual_ascend_set(const char* option, int64_t value) {
  for (const auto& known : ascend_virtual::kDefaults) {
    if (std::strcmp(known.name, option) != 0) continue;
    const std::lock_guard lock(ascend_virtual::Global().mutex);
    ascend_virtual::Global().options[option] = value;
    return 0;
  }
  return 1;
}

int64_t virtual_ascend_get(const char* option) { return ascend_virtual::Option(option); }

int64_t virtual_ascend_live(const char* kind) {
  const std::lock_guard lock(ascend_virtual::Global().mutex);
  const auto& live = ascend_virtual::Global().live;
  const auto found = live.find(kind);
  return found == live.end() ? 0 : found->second;
}
