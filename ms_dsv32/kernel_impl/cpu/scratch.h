// Working memory of the kernels: 64-byte-aligned blocks that are kept for the next call instead of going back to the
// system.
//
// A kernel plans the parts that it needs and leases one block for all of them. It does so before its parallel regions,
// so that no thread of the pool ever allocates:
//
//   ScratchPlan plan;
//   const auto scales = plan.Add<float>(tokens);
//   const Scratch scratch(plan);
//   scratch[scales][i] = 1;
//
// Blocks are uninitialised. At most kScratchKeepBytes stay cached between calls; ReleaseScratch() frees what is cached.
// Thread-safe, and safe to fork() around. Throws std::bad_alloc, whose text says how many bytes were asked for.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_SCRATCH_H_
#define MS_DSV32_KERNEL_IMPL_CPU_SCRATCH_H_

#include <stddef.h>
#include <stdint.h>

namespace ms_dsv32::cpu {

constexpr size_t kScratchAlign = 64;  // a cache line, and the widest vector
// The most that a kernel needs with 64 threads: attention on AMX, 2.4 MiB for each thread.
constexpr size_t kScratchKeepBytes = size_t{160} << 20;

__attribute__((visibility("hidden"))) void* AcquireScratch(size_t bytes);
__attribute__((visibility("hidden"))) void ReturnScratch(void* block) noexcept;
__attribute__((visibility("hidden"))) void ReleaseScratch() noexcept;  // frees the blocks that no call holds
__attribute__((visibility("hidden"))) size_t ScratchBytes() noexcept;  // leased and cached

// The functions of these three classes are always inlined: the per-ISA translation units use them, and an out-of-line
// copy built for one ISA could be linked in for all.

// A part of a block: T's from an offset on.
template <typename T>
struct ScratchPart {
  size_t offset;

  __attribute__((always_inline)) T* In(char* block) const { return reinterpret_cast<T*>(block + offset); }
};

// The parts of a block, one after the other, each at a cache line. A block may be a part of another one: that of each
// thread is.
struct ScratchPlan {
  size_t bytes = 0;

  template <typename T>
  __attribute__((always_inline)) constexpr ScratchPart<T> Add(int64_t count) {
    const ScratchPart<T> part{bytes};
    bytes += (static_cast<size_t>(count) * sizeof(T) + kScratchAlign - 1) / kScratchAlign * kScratchAlign;
    return part;
  }
};

// The lease of a planned block. Not copyable; gives the block back when it goes out of scope.
class Scratch {
 public:
  __attribute__((always_inline)) explicit Scratch(const ScratchPlan& plan)
      : block_(static_cast<char*>(AcquireScratch(plan.bytes))) {}
  __attribute__((always_inline)) ~Scratch() { ReturnScratch(block_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <typename T>
  __attribute__((always_inline)) T* operator[](ScratchPart<T> part) const {
    return part.In(block_);
  }

 private:
  char* block_;
};

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_SCRATCH_H_
