// One process-wide pool of threads for the CPU kernels.
//
// ParallelFor(n, body) calls body(index, thread) once for every index in [0, n), from NumThreads() threads that take
// the next index when they are free. The caller takes part and returns when all calls have returned. `thread` is in [0,
// NumThreads()), and no two calls of one ParallelFor run at once with the same `thread`, so it may select scratch. A
// body must not throw. A ParallelFor inside a body runs its calls on the spot, with the outer `thread`. Calls from
// different host threads run one after the other. It throws std::runtime_error if the threads cannot be started.
//
// The number of threads is MS_DSV32_NUM_THREADS (an integer in [1, 1024]). By default it is the CPUs in the process's
// affinity mask, or fewer if its control group's CPU quota is less. Idle threads spin for some 50 us, which bridges the
// gaps between the stages of one kernel, then sleep. Threads that meet on one CPU are sent to others of the affinity
// mask that the pool was started with. A child of fork() starts its own threads.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_THREADING_H_
#define MS_DSV32_KERNEL_IMPL_CPU_THREADING_H_

#include <stdint.h>

namespace ms_dsv32::cpu {

// The number of threads, read once, at the first call. Throws std::invalid_argument if MS_DSV32_NUM_THREADS is set and
// not an integer in [1, 1024].
__attribute__((visibility("hidden"))) int NumThreads();

// Where the number of threads is from, in words; "" before NumThreads is called.
__attribute__((visibility("hidden"))) const char* NumThreadsOrigin();

// Changes the number of threads (1..1024; 0: back to the environment's). Waits for a running ParallelFor.
__attribute__((visibility("hidden"))) void SetNumThreads(int count);

// The CPUs that a cgroup's cpu.max ("QUOTA PERIOD" in us, or "max PERIOD") gives time for, rounded up, or 0 if it sets
// no quota.
__attribute__((visibility("hidden"))) int CpusOfQuota(const char* cpu_max);

// The least quota, in CPUs, of the control groups of a process and of those above them, or 1024 without a quota. Groups
// may be of version 1 (mounted at `root`/cpu) or 2 (at `root`). membership is the path of /proc/self/cgroup. See "CPU"
// in the kernel's cgroup-v2.rst, and scheduler/sched-bwc.rst.
__attribute__((visibility("hidden"))) int CpusOfCgroups(const char* root, const char* membership);

using ParallelBody = void (*)(const void* body, int64_t index, int thread);
__attribute__((visibility("hidden"))) void ParallelForErased(int64_t n, ParallelBody call, const void* body);

// `Body` is a lambda of the calling function, so each instantiation is the caller's own: no symbol is shared between
// ISAs.
template <typename Body>
__attribute__((always_inline)) inline void ParallelFor(int64_t n, const Body& body) {
  ParallelForErased(
      n, [](const void* b, int64_t index, int thread) { (*static_cast<const Body*>(b))(index, thread); }, &body);
}

// The task that the thread of `task` is likely to take next in a ParallelFor, because threads advance at nearly the
// same speed. Kernels fetch its weights meanwhile.
__attribute__((always_inline)) inline int64_t LikelyNext(int64_t task, int threads) { return task + threads; }

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_THREADING_H_
