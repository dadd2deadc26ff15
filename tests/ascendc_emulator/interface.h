// The interface of a compiled kernel to its host. It is C, so that callers need neither the emulator's headers nor its
// ABI.
#ifndef ASCENDC_EMULATOR_INTERFACE_H_
#define ASCENDC_EMULATOR_INTERFACE_H_

#include <cstdint>

extern "C" {
// One argument of the kernel, in its order.
struct AscendcEmulatorBuffer {
  const char* name;
  void* data;  // copied in and, for outputs, out; null for an optional input that is left out
  uint64_t size;
  int role;           // ascendc_emulator::Role
  uint64_t misalign;  // bytes after a multiple of 512
  int own = 0;  // `data` itself is the tensor, without a copy, a redzone or poison: for tensors larger than memory
};
struct AscendcEmulatorOptions {
  int blocks, kernel_type, workers, hazards, cycles;
  uint64_t seed;
  double timeout;
  int64_t tiling_key;
  const char* soc;
  const char* trace;                          // file to write, or null
  double gm_latency, gm_issue, hbm_gb_per_s;  // GmCosts; only used with cycles
  int flags;                                  // ascendc_emulator::Flags; only used with a seed
  int first_block = 0;                        // the first block that runs, if only a part of a launch is looked at
};
}

// Runs the kernel and returns the report as JSON, for the other function to free.
#define ASCENDC_EMULATOR_DECLARE(kernel)                                                    \
  extern "C" __attribute__((visibility("default"))) char* ascendc_emulator_launch_##kernel( \
      AscendcEmulatorBuffer* buffers, int count, const AscendcEmulatorOptions* options);    \
  extern "C" __attribute__((visibility("default"))) void ascendc_emulator_free_##kernel(char* text)

#endif  // ASCENDC_EMULATOR_INTERFACE_H_
