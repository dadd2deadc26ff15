// Host side: one C function for each kernel, called through ctypes by emulator.py.
#ifndef ASCENDC_EMULATOR_LAUNCH_H_
#define ASCENDC_EMULATOR_LAUNCH_H_

#include <utility>

#include "interface.h"
#include "kernel_operator.h"
#include "trace.h"

namespace ascendc_emulator {

template <class... A, size_t... I>
inline void Call(void (*kernel)(A...), const std::vector<uint8_t*>& arguments, std::index_sequence<I...>) {
  kernel(static_cast<A>(arguments[I])...);
}

// Runs the kernel and returns the report as JSON in memory that the caller frees.
template <class... A>
inline char* Launch(void (*kernel)(A...), AscendcEmulatorBuffer* buffers, int count,
                    const AscendcEmulatorOptions& given) {
  static_assert((std::is_same_v<A, uint8_t*> && ...), "a kernel takes GM_ADDR arguments");
  Options options;
  options.blocks = given.blocks;
  options.kernel_type = given.kernel_type;
  options.workers = given.workers;
  options.hazards = given.hazards != 0;
  options.cycles = given.cycles != 0;
  options.trace = given.trace != nullptr;
  options.seed = given.seed;
  options.timeout = given.timeout;
  options.tiling_key = given.tiling_key;
  options.soc = given.soc;
  options.gm = {given.gm_latency, given.gm_issue, given.hbm_gb_per_s};
  options.flags = static_cast<Flags>(given.flags);
  options.first_block = given.first_block;
  std::vector<std::unique_ptr<GmBuffer>> gm;
  std::vector<uint8_t*> arguments;
  for (int i = 0; i < count; ++i) {
    auto buffer = std::make_unique<GmBuffer>(buffers[i].name, buffers[i].size, static_cast<Role>(buffers[i].role),
                                             buffers[i].misalign, buffers[i].own ? buffers[i].data : nullptr);
    const Role role = buffer->role;
    if (buffers[i].data == nullptr) {  // CANN gives a kernel null for an optional input that is left out
      arguments.push_back(nullptr);
      gm.push_back(std::move(buffer));
      continue;
    }
    if (!buffer->own && (role == Role::kIn || role == Role::kInOut || role == Role::kTiling))
      std::memcpy(buffer->base, buffers[i].data, buffers[i].size);
    // The reserved part of the workspace has no memory. GetUserWorkspace leads to the user's part.
    const uintptr_t before = role == Role::kWorkspace ? kReservedWorkspace : 0;
    arguments.push_back(reinterpret_cast<uint8_t*>(reinterpret_cast<uintptr_t>(buffer->base) - before));
    gm.push_back(std::move(buffer));
  }
  Machine machine(options, gm);
  if (sizeof...(A) != static_cast<size_t>(count))
    machine.Note("argument", Loc{}, Format("the kernel takes %zu arguments, the launch gave %d", sizeof...(A), count));
  else
    machine.Run([&] { Call(kernel, arguments, std::index_sequence_for<A...>{}); });
  for (int i = 0; i < count; ++i) {
    GmBuffer& buffer = *gm[static_cast<size_t>(i)];
    const int64_t broken = buffer.BrokenRedzone();
    if (broken != INT64_MIN)
      machine.Note("redzone", Loc{},
                   Format("a raw pointer wrote byte %lld of %s, which has %llu", static_cast<long long>(broken),
                          buffer.name.c_str(), static_cast<unsigned long long>(buffer.size)));
    if (!buffer.own && (buffer.role == Role::kOut || buffer.role == Role::kInOut || buffer.role == Role::kWorkspace))
      std::memcpy(buffers[i].data, buffer.base, buffer.size);
  }
  const std::string json = Summary(machine);
  if (options.trace) WriteTrace(machine, given.trace);
  return strdup(json.c_str());
}

}  // namespace ascendc_emulator

#define ASCENDC_EMULATOR_ENTRY(kernel)                                              \
  ASCENDC_EMULATOR_DECLARE(kernel);                                                 \
  char* ascendc_emulator_launch_##kernel(AscendcEmulatorBuffer* buffers, int count, \
                                         const AscendcEmulatorOptions* options) {   \
    return ::ascendc_emulator::Launch(&kernel, buffers, count, *options);           \
  }                                                                                 \
  void ascendc_emulator_free_##kernel(char* text) { std::free(text); }

#endif  // ASCENDC_EMULATOR_LAUNCH_H_
