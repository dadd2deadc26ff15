// The part of the core check that is about the process: threads, the CPUs that control groups leave it, and scratch.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core_check.h"
#include "ms_dsv32/kernel_impl/cpu/scratch.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {
namespace {

int64_t SumOfIndices(int64_t n) {
  std::vector<int64_t> calls(static_cast<size_t>(n));
  std::vector<int64_t> of_thread(static_cast<size_t>(NumThreads()) *
                                 64);  // a number is not shared only if each call has its own
  ParallelFor(n, [&](int64_t i, int thread) {
    ++calls[static_cast<size_t>(i)];
    of_thread[static_cast<size_t>(thread) * 64] += i;
  });
  int64_t sum = 0;
  for (int64_t c : calls) sum += c == 1 ? 0 : INT32_MIN;
  for (int64_t s : of_thread) sum += s;
  return sum;
}

// Destroyed after the threads, which come into being when they are first used. A kernel may still be called then.
struct AtExit {
  ~AtExit() {
    if (SumOfIndices(1000) != 499500) std::_Exit(1);
  }
} at_exit;

template <typename Error, typename Body>
bool Throws(const Body& body) {
  try {
    body();
  } catch (const Error&) {
    return true;
  }
  return false;
}

}  // namespace

void CheckThreads() {
  for (int threads : {1, 2, 5, 16}) {
    SetNumThreads(threads);
    Expect(NumThreads() == threads, "NumThreads() = %d, want %d", NumThreads(), threads);
    for (int64_t n : {0, 1, 2, 3, 100, 1000}) {
      for (int round = 0; round < 20; ++round) {
        const int64_t sum = SumOfIndices(n);
        Expect(sum == n * (n - 1) / 2, "ParallelFor(%d) with %d threads: %d", static_cast<int>(n), threads,
               static_cast<int>(sum));
      }
    }
#if !defined(MS_DSV32_EMULATED)
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    const auto running = std::distance(begin(tasks), end(tasks));
    Expect(running == threads, "%d threads of the process, want %d", static_cast<int>(running), threads);
#endif
    usleep(1000);  // the workers fall asleep and must be woken
    Expect(SumOfIndices(1000) == 499500, "ParallelFor after a pause, %d threads", threads);
  }
  // Nested calls run in place, with the outer number.
  std::vector<int> inner(400);
  ParallelFor(20, [&](int64_t i, int thread) {
    ParallelFor(20, [&](int64_t j, int nested) { inner[static_cast<size_t>(i * 20 + j)] += nested == thread; });
  });
  for (int v : inner) Expect(v == 1, "nested ParallelFor");
  std::atomic<int> wrong_counts{0}, set{0};
  ParallelFor(20, [&](int64_t, int) {
    wrong_counts += NumThreads() != 16;
    set += !Throws<std::logic_error>([] { SetNumThreads(3); });
  });
  Expect(wrong_counts == 0, "NumThreads() inside of ParallelFor is not that of ParallelFor");
  Expect(set == 0, "SetNumThreads() inside of ParallelFor");
  for (int count : {-1, 1025}) {
    Expect(Throws<std::invalid_argument>([=] { SetNumThreads(count); }), "SetNumThreads(%d)", count);
    Expect(NumThreads() == 16, "NumThreads() = %d after SetNumThreads(%d), want 16", NumThreads(), count);
  }
  // Host threads take turns.
  std::vector<std::thread> hosts;
  std::vector<int> wrong(4);
  for (size_t h = 0; h < wrong.size(); ++h) {
    hosts.emplace_back([&wrong, h] {
      for (int round = 0; round < 200; ++round) wrong[h] += SumOfIndices(50) != 1225;
    });
  }
  for (std::thread& host : hosts) host.join();
  for (int w : wrong) Expect(w == 0, "concurrent host threads");
#if !defined(MS_DSV32_EMULATED)
  // A child of fork() starts its own threads.
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    std::exit(SumOfIndices(1000) == 499500 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  Expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "ParallelFor in a child of fork()");
#endif
  Expect(SumOfIndices(1000) == 499500, "ParallelFor after fork()");
  SetNumThreads(0);
}

void CheckScratch() {
  ReleaseScratch();
  Expect(ScratchBytes() == 0, "%zu bytes of scratch before the first call", ScratchBytes());
  void* first = nullptr;
  ScratchPlan plan;
  const auto floats = plan.Add<float>(1000);
  const auto one = plan.Add<char>(1);
  ScratchPlan small;
  const auto chars = small.Add<char>(100);
  {
    const Scratch a(plan);
    const Scratch b(small);
    first = a[floats];
    void* second = a[one];
    Expect(reinterpret_cast<uintptr_t>(first) % 64 == 0 && reinterpret_cast<uintptr_t>(second) % 64 == 0, "alignment");
    Expect(static_cast<char*>(second) - static_cast<char*>(first) >= 4000, "parts overlap");
    char* other = b[chars];
    memset(first, 1, 4000);
    memset(other, 2, 100);
    Expect(other + 100 <= first || other > second, "two leases have one block");
  }
  {
    const Scratch again(plan);
    Expect(again[floats] == first, "the block is not used again");
    ReleaseScratch();
    Expect(ScratchBytes() >= 4000, "a leased block was released");
  }
  {
    const Scratch a(plan);
    const Scratch b(small);
    first = b[chars];
  }
  {
    const Scratch b(small);
    Expect(b[chars] == first, "of two blocks that are idle, not the smallest that fits is used");
  }
  {
    const Scratch a(plan);
#if !defined(MS_DSV32_EMULATED)
    // The thread that holds a block may not exist in a child of fork(), so the child has the block for itself.
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      ReleaseScratch();
      std::exit(ScratchBytes() == 0 ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    Expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a block is leased in a child of fork()");
#endif
    Expect(ScratchBytes() >= 4000, "a child of fork() released a block of its parent");
  }
  {
    ScratchPlan large;
    large.Add<char>(kScratchKeepBytes + 1);
    const Scratch scratch(large);
  }
  Expect(ScratchBytes() <= kScratchKeepBytes, "%zu bytes of scratch are kept", ScratchBytes());
  ReleaseScratch();
  Expect(ScratchBytes() == 0, "%zu bytes of scratch after the release", ScratchBytes());
}

void CheckQuotas() {
  const struct {
    const char* cpu_max;
    int cpus;
  } cases[] = {
      {"max 100000", 0},
      {"-1 100000", 0},
      {"150000 100000", 2},
      {"100000 100000", 1},
      {"1000 100000", 1},
      {"400000 100000", 4},
      {"400001 100000", 5},
      {"", 0},
      {" ", 0},
      {" 100000", 0},
      {"100000", 0},
      {"0 100000", 0},
      {"100000 0", 0},
      {"9223372036854775807 1", 1024},
  };
  for (const auto& c : cases) {
    Expect(CpusOfQuota(c.cpu_max) == c.cpus, "CpusOfQuota(\"%s\") = %d, want %d", c.cpu_max, CpusOfQuota(c.cpu_max),
           c.cpus);
  }
}

// Control groups of version 1 and 2 below the root. The least quota of a group and of the groups above it counts.
void CheckGroups() {
  namespace fs = std::filesystem;
  std::string folder = fs::temp_directory_path() / "groups_XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return Expect(false, "mkdtemp fails");
  const fs::path root = folder, membership = root / "membership";
  const auto write = [](const fs::path& path, const std::string& text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text << "\n";
  };
  const auto cpus = [&](const std::string& lines) {
    write(membership, lines);
    return CpusOfCgroups(root.c_str(), membership.c_str());
  };
  constexpr int kNone = 1024;
  Expect(CpusOfCgroups(root.c_str(), (root / "absent").c_str()) == kNone, "no groups, and yet a quota");
  const auto v1 = [&](const fs::path& group, const std::string& quota) {
    write(group / "cpu.cfs_quota_us", quota);
    write(group / "cpu.cfs_period_us", "100000");
  };
  v1(root / "cpu/a", "700000");
  v1(root / "cpu/a/b", "-1");
  v1(root / "cpu/a/c", "500000");
  v1(root / "memory/a/b", "100000");
  write(root / "v/w/cpu.max", "max 100000");
  write(root / "v/cpu.max", "300000 100000");
  const struct {
    const char* lines;
    int cpus;
  } cases[] = {
      {"5:memory:/a/b\n4:cpu,cpuacct:/a/b", 7},
      {"4:cpuacct,cpu:/a/c", 5},
      {"4:cpu:/a/c/gone", 5},
      {"4:cpuacct:/a/c", kNone},
      {"0::/v/w", 3},
      {"0::/v", 3},
      {"0::/", kNone},
      {"4:cpu:/a/c\n0::/v/w", 3},
      {"", kNone},
      {"nonsense", kNone},
      {"4:cpu:/", kNone},
  };
  for (const auto& c : cases) {
    Expect(cpus(c.lines) == c.cpus, "groups \"%s\" give %d CPUs, want %d", c.lines, cpus(c.lines), c.cpus);
  }
  v1(root / "cpu", "200000");
  write(root / "cpu.max", "100000 100000");
  Expect(cpus("4:cpu:/a/c") == 2, "the quota of version 1's root does not hold");
  Expect(cpus("0::/v/w") == 1, "the quota of version 2's root does not hold");
  fs::remove_all(root);
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA
