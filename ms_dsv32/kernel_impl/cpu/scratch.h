// Working memory of the kernels: 64-byte-aligned blocks that are kept for the next call instead of going back to the
// system.
//
// A kernel leases one block for a whole call (before its parallel regions, so that no thread of the pool ever
// allocates) and cuts it with Take: shared buffers first, then one part for each thread. Blocks are uninitialised. At
// most kScratchKeepBytes stay cached between calls; ReleaseScratch() frees what is cached. Thread-safe, and safe to
// fork() around. Throws std::bad_alloc, whose text says how many bytes there are not.
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

// Bytes that Take<T>(count) uses; sum these for the lease.
template <typename T>
__attribute__((always_inline)) constexpr size_t ScratchSize(int64_t count) {
  return (static_cast<size_t>(count) * sizeof(T) + kScratchAlign - 1) / kScratchAlign * kScratchAlign;
}

// The lease. Not copyable; gives the block back when it goes out of scope. Always inlined: the per-ISA translation
// units use it, and an out-of-line copy built for one ISA could be linked in for all.
class Scratch {
 public:
  __attribute__((always_inline)) explicit Scratch(size_t bytes)
      : block_(static_cast<char*>(AcquireScratch(bytes))), end_(block_ + bytes), next_(block_) {}
  __attribute__((always_inline)) ~Scratch() { ReturnScratch(block_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <typename T>
  __attribute__((always_inline)) T* Take(int64_t count) {
    T* part = reinterpret_cast<T*>(next_);
    next_ += ScratchSize<T>(count);
    if (next_ > end_) __builtin_trap();  // the kernel's own sum of sizes is wrong
    return part;
  }

 private:
  char* block_;
  char* end_;
  char* next_;
};

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_SCRATCH_H_
