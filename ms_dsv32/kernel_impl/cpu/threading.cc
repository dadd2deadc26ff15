#include "ms_dsv32/kernel_impl/cpu/threading.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "ms_dsv32/kernel_impl/cpu/fp_env.h"

namespace ms_dsv32::cpu {
namespace {

constexpr int kMaxThreads = 1024;
constexpr std::chrono::microseconds kSpin{50};  // longer than the serial gaps between the stages of one kernel
constexpr int kPauses = 64;                     // between two looks at the clock: about a microsecond

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int CpusOfAffinity() {
  // The mask may need more than the 1024 bits of cpu_set_t on large machines.
  for (int bits = CPU_SETSIZE; bits <= (1 << 20); bits *= 2) {
    cpu_set_t* set = CPU_ALLOC(bits);
    if (set == nullptr) break;
    const size_t size = CPU_ALLOC_SIZE(bits);
    const bool known = sched_getaffinity(0, size, set) == 0;
    const int count = known ? CPU_COUNT_S(size, set) : 0;
    CPU_FREE(set);
    if (known) return std::clamp(count, 1, kMaxThreads);
    if (errno != EINVAL) break;
  }
  return static_cast<int>(std::clamp<int64_t>(sysconf(_SC_NPROCESSORS_ONLN), 1, kMaxThreads));
}

// "" if the file cannot be read.
std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

struct ThreadCount {
  int count;
  const char* origin;
};

ThreadCount CountFromEnvironment() {
  const char* text = std::getenv("MS_DSV32_NUM_THREADS");
  if (text == nullptr || *text == '\0') {
    const ThreadCount affinity = {CpusOfAffinity(), "the CPUs that the process may run on"};
    const ThreadCount quota = {CpusOfCgroups("/sys/fs/cgroup", "/proc/self/cgroup"), "the control group's CPU quota"};
    return quota.count < affinity.count ? quota : affinity;
  }
  char* end = nullptr;
  errno = 0;
  const long value = std::strtol(text, &end, 10);
  if (errno != 0 || *end != '\0' || value < 1 || value > kMaxThreads) {
    throw std::invalid_argument("MS_DSV32_NUM_THREADS is '" + std::string(text) + "', expected an integer in [1, " +
                                std::to_string(kMaxThreads) + "]");
  }
  return {static_cast<int>(value), "MS_DSV32_NUM_THREADS"};
}

// Threads sleep on a futex, a word that wakes them when it changes. Unlike a mutex and a condition variable it has no
// state that a child of fork() could inherit locked.
static_assert(sizeof(std::atomic<uint32_t>) == 4 && std::atomic<uint32_t>::is_always_lock_free, "a futex is a word");

// Sleeps while `word` is `value`. It may return early.
void FutexWait(const std::atomic<uint32_t>& word, uint32_t value) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr);
}

void FutexWakeAll(const std::atomic<uint32_t>& word) { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX); }

// The thread number of the body that this thread is running, or -1.
thread_local int current_thread = -1;

// The workers of one pool and the one job that they share. `Run` is called by one host thread at a time.
//
// A worker counts itself into `inside_` before it looks at the job, and the job is only rewritten while `open_` is
// false and nobody is inside. So a worker that wakes late either finds `open_` false or sees a complete job.
class Workers {
 public:
  explicit Workers(int count) {
    if (sched_getaffinity(0, sizeof(cpus_), &cpus_) != 0) CPU_ZERO(&cpus_);  // more CPUs than a cpu_set_t holds
    const int cpu = sched_getcpu();
    try {
      for (int i = 1; i < count; ++i) {
        Worker& worker = workers_.emplace_back(i, cpu);
        worker.thread = std::thread([this, &worker] { Loop(worker); });
      }
      Spread();
    } catch (const std::exception& e) {
      if (!workers_.empty() && !workers_.back().thread.joinable()) workers_.pop_back();
      const size_t started = workers_.size();
      Stop();
      throw std::runtime_error("ms_dsv32: the system refuses thread " + std::to_string(started + 2) + " of " +
                               std::to_string(count) + " (" + e.what() +
                               "); set MS_DSV32_NUM_THREADS to fewer, or raise the limits of the process (ulimit)");
    }
  }

  ~Workers() { Stop(); }

  void Run(int64_t n, ParallelBody call, const void* body) {
    n_ = n;
    call_ = call;
    body_ = body;
    next_.store(0, std::memory_order_relaxed);
    open_.store(true);
    round_.fetch_add(1);
    // A worker counts itself as asleep before it looks at round_ for the last time, so one of the two sees the other.
    if (sleepers_.load() > 0) {
      Spread();
      FutexWakeAll(round_);
    }
    Take(0);
    open_.store(false);
    for (int spins = 0; inside_.load() != 0; ++spins) {
      Pause();
      if (spins >= 1000) std::this_thread::yield();  // a worker may have lost its CPU in the middle of a body
    }
  }

 private:
  static constexpr int kNoCpu = -1;

  struct Worker {
    Worker(int number, int starts_on) : id(number), cpu(starts_on) {}
    const int id;
    std::thread thread;
    std::atomic<int> cpu;  // the CPU that it was on when it fell asleep; kNoCpu after it is sent to another one
    bool displaced = false;
  };

  void Stop() {
    stop_.store(true);
    round_.fetch_add(1);
    FutexWakeAll(round_);
    for (Worker& worker : workers_) worker.thread.join();
  }

  // Sends workers that fell asleep on the CPU of the caller, or of another worker, to CPUs that none of them has. Linux
  // wakes a thread on the CPU where it was before, or on an idle one that shares a cache with that. If CPUs share no
  // cache, as in many virtual machines, it can leave two threads on one CPU for half a second beside an idle one.
  void Spread() {
    cpu_set_t free = cpus_;
    const auto take = [&free](int cpu) {
      const bool first = CPU_ISSET(cpu, &free);
      CPU_CLR(cpu, &free);
      return first;
    };
    take(sched_getcpu());
    for (Worker& worker : workers_) {
      const int cpu = worker.cpu.load(std::memory_order_relaxed);
      worker.displaced = cpu != kNoCpu && !take(cpu);
    }
    if (CPU_COUNT(&free) == 0) return;  // more threads than CPUs
    for (Worker& worker : workers_) {
      if (!worker.displaced) continue;
      if (pthread_setaffinity_np(worker.thread.native_handle(), sizeof(free), &free) == 0) {
        worker.cpu.store(kNoCpu, std::memory_order_relaxed);
      }
    }
  }

  void Take(int id) {
    const int outer = current_thread;
    current_thread = id;
    for (;;) {
      const int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
      if (index >= n_) break;
      call_(body_, index, id);
    }
    current_thread = outer;
  }

  void Loop(Worker& worker) {
    const DefaultFpEnv fp_env;
    for (uint32_t seen = 0;;) {
      WaitForRound(seen, worker);
      seen = round_.load();
      if (stop_.load()) return;
      inside_.fetch_add(1);
      if (open_.load()) Take(worker.id);
      inside_.fetch_sub(1);
    }
  }

  void WaitForRound(uint32_t seen, Worker& worker) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < kPauses; ++i) {
        if (round_.load(std::memory_order_acquire) != seen) return;
        Pause();
      }
    } while (std::chrono::steady_clock::now() < deadline);
    worker.cpu.store(sched_getcpu(), std::memory_order_relaxed);
    sleepers_.fetch_add(1);
    while (round_.load() == seen) FutexWait(round_, seen);
    sleepers_.fetch_sub(1);
  }

  int64_t n_ = 0;
  ParallelBody call_ = nullptr;
  const void* body_ = nullptr;
  // They have cache lines of their own, because every worker writes next_ while others read round_.
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<int> inside_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> open_{false};
  std::atomic<bool> stop_{false};
  std::deque<Worker> workers_;  // a deque, because its elements stay where they are
  cpu_set_t cpus_;              // the CPUs that the workers may use; empty if they are not to be sent anywhere
};

// The state that lives as long as the process. `host_mutex` serialises host threads. fork() waits for it, so that the
// child never inherits a pool in the middle of a job.
struct Pool {
  std::mutex host_mutex;
  std::unique_ptr<Workers> workers;  // absent until the first parallel call, and in a child of fork()
  ThreadCount threads = {0, ""};     // a count of 0: not read yet
  bool closed = false;               // after static destruction: everything runs on the caller

  Pool() {
    pthread_atfork([] { Get().host_mutex.lock(); }, [] { Get().host_mutex.unlock(); },
                   [] {
                     // The threads do not exist in the child, so their handles can be neither joined nor destroyed.
                     static_cast<void>(Get().workers.release());
                     Get().host_mutex.unlock();
                   });
  }

  ~Pool() {
    std::lock_guard<std::mutex> lock(host_mutex);
    workers.reset();
    closed = true;
  }

  int Count() {
    if (threads.count == 0) threads = CountFromEnvironment();
    return threads.count;
  }

  static Pool& Get() {
    static Pool pool;
    return pool;
  }
};

}  // namespace

int CpusOfQuota(const char* cpu_max) {
  char* end = nullptr;
  const long long quota = std::strtoll(cpu_max, &end, 10);
  if (end == cpu_max || quota <= 0) return 0;  // "max" (version 2), -1 (version 1), or no such file
  const long long period = std::strtoll(end, &end, 10);
  return period <= 0 ? 0 : static_cast<int>(std::min<long long>((quota - 1) / period + 1, kMaxThreads));
}

int CpusOfCgroups(const char* root, const char* membership) {
  int cpus = kMaxThreads;
  const auto limit = [&](const std::string& cpu_max) {
    if (const int quota = CpusOfQuota(cpu_max.c_str()); quota > 0) cpus = std::min(cpus, quota);
  };
  const auto limit_v1 = [&](const std::string& group) {
    limit(FirstLine(group + "/cpu.cfs_quota_us") + " " + FirstLine(group + "/cpu.cfs_period_us"));
  };
  const std::string mount_v1 = std::string(root) + "/cpu";
  limit_v1(mount_v1);  // a container may see its own group there, and not under the path in /proc
  std::ifstream file(membership);
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",cpu,") == std::string::npos) continue;
    // The quotas of /a/b, /a and / all hold.
    for (std::string path = line.substr(second + 1); !path.empty(); path.resize(path.rfind('/'))) {
      if (v2) {
        limit(FirstLine(root + path + "/cpu.max"));
      } else {
        limit_v1(mount_v1 + path);
      }
    }
    if (v2) limit(FirstLine(std::string(root) + "/cpu.max"));
  }
  return cpus;
}

int NumThreads() {
  if (current_thread >= 0) return Pool::Get().threads.count;  // inside a body: fixed, and the host mutex is taken
  std::lock_guard<std::mutex> lock(Pool::Get().host_mutex);
  return Pool::Get().Count();
}

const char* NumThreadsOrigin() {
  std::lock_guard<std::mutex> lock(Pool::Get().host_mutex);
  return Pool::Get().threads.origin;
}

void SetNumThreads(int count) {
  if (count < 0 || count > kMaxThreads) {
    throw std::invalid_argument("SetNumThreads: count is " + std::to_string(count) + ", expected an integer in [0, " +
                                std::to_string(kMaxThreads) + "]");
  }
  if (current_thread >= 0) throw std::logic_error("SetNumThreads: called inside a ParallelFor");
  Pool& pool = Pool::Get();
  std::lock_guard<std::mutex> lock(pool.host_mutex);
  pool.workers.reset();
  pool.threads = {count, "set_thread_count"};
}

void ParallelForErased(int64_t n, ParallelBody call, const void* body) {
  if (n <= 0) return;
  if (current_thread >= 0) {
    for (int64_t i = 0; i < n; ++i) call(body, i, current_thread);
    return;
  }
  Pool& pool = Pool::Get();
  std::lock_guard<std::mutex> lock(pool.host_mutex);
  const int count = pool.Count();
  if (count == 1 || n == 1 || pool.closed) {
    current_thread = 0;
    for (int64_t i = 0; i < n; ++i) call(body, i, 0);
    current_thread = -1;
    return;
  }
  if (pool.workers == nullptr) pool.workers = std::make_unique<Workers>(count);
  pool.workers->Run(n, call, body);
}

}  // namespace ms_dsv32::cpu
