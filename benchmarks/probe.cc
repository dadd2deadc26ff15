// Measures what this machine can do: read bandwidth, multiply-accumulate throughput, and how far its cores are apart.
//
// It is compiled at run time with the -m flags of the instruction set whose kernels run (limits.py), so that the loops
// below use the same instructions: the best of the set for each type of product.
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// Keeps the calling thread on the `index`th CPU of `cpus`, if there are as many.
void StayOn(const cpu_set_t& cpus, int index) {
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &cpus) || index-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof(one), &one);
    return;
  }
}

// Starts `body(thread)` on all threads at once and returns the seconds from the first start to the last end. Creating
// the threads is not timed. Each gets a CPU of its own, because Linux at times leaves new threads on one CPU.
template <typename Body>
double TimeThreads(int threads, const Body& body) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  sched_getaffinity(0, sizeof(cpus), &cpus);
  std::atomic<int> ready{0};
  std::vector<Clock::time_point> start(threads), end(threads);
  auto run = [&](int thread) {
    StayOn(cpus, thread);
    ready.fetch_add(1);
    while (ready.load() < threads) std::this_thread::yield();
    start[thread] = Clock::now();
    body(thread);
    end[thread] = Clock::now();
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(run, i);
  run(0);
  for (auto& other : others) other.join();
  sched_setaffinity(0, sizeof(cpus), &cpus);
  Clock::time_point first = start[0], last = end[0];
  for (int i = 1; i < threads; ++i) {
    if (start[i] < first) first = start[i];
    if (end[i] > last) last = end[i];
  }
  return Seconds(first, last);
}

// Keeps a value in a register and hides it from the compiler, so that no product is moved out of a loop.
#if defined(__x86_64__)
#define OPAQUE(v) asm volatile("" : "+x"(v))
#else
#define OPAQUE(v) asm volatile("" : "+w"(v))
#endif

// One type of product: `kMacs` multiply-accumulates by one Step on one accumulator. Twelve accumulators cover a latency
// of 6 at two instructions a cycle, and leave registers for the operands even where there are 16. They are variables of
// their own, because compilers keep an array in memory.
#define FOR_EACH_ACCUMULATOR(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
constexpr int kAccumulators = 12;

#if defined(__AVX512F__)
struct Fp32 {
  using Acc = __m512;
  using Operand = __m512;
  static constexpr int kMacs = 16;
  static void Step(Acc& acc, Operand a, Operand b) { acc = _mm512_fmadd_ps(a, b, acc); }
};
#elif defined(__FMA__)
struct Fp32 {
  using Acc = __m256;
  using Operand = __m256;
  static constexpr int kMacs = 8;
  static void Step(Acc& acc, Operand a, Operand b) { acc = _mm256_fmadd_ps(a, b, acc); }
};
#elif defined(__x86_64__)
struct Fp32 {
  using Acc = __m128;
  using Operand = __m128;
  static constexpr int kMacs = 4;
  static void Step(Acc& acc, Operand a, Operand b) { acc = _mm_add_ps(acc, _mm_mul_ps(a, b)); }
};
#elif defined(__aarch64__)
struct Fp32 {
  using Acc = float32x4_t;
  using Operand = float32x4_t;
  static constexpr int kMacs = 4;
  static void Step(Acc& acc, Operand a, Operand b) { acc = vfmaq_f32(acc, a, b); }
};
#else
#error "no probe for this architecture"
#endif

// bf16: a product of two bf16 values. Without instructions for it, an fp32 product of widened values.
#if defined(__AVX512BF16__)
struct Bf16 {
  using Acc = __m512;
  using Operand = __m512bh;
  static constexpr int kMacs = 32;
  static void Step(Acc& acc, Operand a, Operand b) { acc = _mm512_dpbf16_ps(acc, a, b); }
};
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
struct Bf16 {
  using Acc = float32x4_t;
  using Operand = bfloat16x8_t;
  static constexpr int kMacs = 16;
  static void Step(Acc& acc, Operand a, Operand b) { acc = vbfmmlaq_f32(acc, a, b); }
};
#else
using Bf16 = Fp32;
#endif

// int8, exact in int32. Without dot-product instructions the values are widened to int16 first. That is not counted.
#if defined(__AVX512VNNI__)
struct Int8 {
  using Acc = __m512i;
  using Operand = __m512i;
  static constexpr int kMacs = 64;
  // Not the intrinsic: gcc 12 copies the accumulator around each _mm512_dpbusd_epi32.
  static void Step(Acc& acc, Operand a, Operand b) { asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b)); }
};
#elif defined(__AVX2__)
struct Int8 {
  using Acc = __m256i;
  using Operand = __m256i;
  static constexpr int kMacs = 16;
  static void Step(Acc& acc, Operand a, Operand b) { acc = _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)); }
};
#elif defined(__x86_64__)
struct Int8 {
  using Acc = __m128i;
  using Operand = __m128i;
  static constexpr int kMacs = 8;
  static void Step(Acc& acc, Operand a, Operand b) { acc = _mm_add_epi32(acc, _mm_madd_epi16(a, b)); }
};
#elif defined(__ARM_FEATURE_MATMUL_INT8)
struct Int8 {
  using Acc = int32x4_t;
  using Operand = int8x16_t;
  static constexpr int kMacs = 32;
  static void Step(Acc& acc, Operand a, Operand b) { acc = vmmlaq_s32(acc, a, b); }
};
#elif defined(__ARM_FEATURE_DOTPROD)
struct Int8 {
  using Acc = int32x4_t;
  using Operand = int8x16_t;
  static constexpr int kMacs = 16;
  static void Step(Acc& acc, Operand a, Operand b) { acc = vdotq_s32(acc, a, b); }
};
#else
struct Int8 {
  using Acc = int32x4_t;
  using Operand = int8x16_t;
  static constexpr int kMacs = 16;
  static void Step(Acc& acc, Operand a, Operand b) {
    acc = vpadalq_s16(acc, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    acc = vpadalq_s16(acc, vmull_high_s8(a, b));
  }
};
#endif

// The kernels of `amx` multiply on tiles.
#if defined(__AMX_TILE__)
struct AmxInt8 {
  static constexpr int kMacs = 8192;  // a round is six products of two tiles, 16 x 64 x 16 each
};
struct AmxBf16 {
  static constexpr int kMacs = 4096;  // 16 x 32 x 16
};

bool RequestAmx() { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0; }
#endif

template <typename Product>
__attribute__((noinline)) void Burst(int64_t rounds) {
  // Uses zeros, because the speed of these instructions does not depend on the values, and zeros do not overflow.
  typename Product::Operand a = {}, b = {};
  OPAQUE(b);
#define ZERO(i) typename Product::Acc acc##i = {};
#define STEP(i)                \
  OPAQUE(a);                   \
  Product::Step(acc##i, a, b); \
  OPAQUE(acc##i);
  FOR_EACH_ACCUMULATOR(ZERO)
  for (int64_t r = 0; r < rounds; ++r) {
    FOR_EACH_ACCUMULATOR(STEP)
  }
}

#if defined(__AMX_TILE__)
void ConfigureTiles() {
  struct alignas(64) {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } config = {};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = 16;
  }
  // It makes all tiles zero. Not _tile_loadconfig: GCC believes that it reads eight bytes, and may leave out the
  // others.
  asm volatile("ldtilecfg %0" : : "m"(config));
}

template <>
__attribute__((noinline)) void Burst<AmxInt8>(int64_t rounds) {
  ConfigureTiles();
  for (int64_t r = 0; r < rounds; ++r) {
    _tile_dpbssd(0, 6, 7);
    _tile_dpbssd(1, 6, 7);
    _tile_dpbssd(2, 6, 7);
    _tile_dpbssd(3, 6, 7);
    _tile_dpbssd(4, 6, 7);
    _tile_dpbssd(5, 6, 7);
  }
  _tile_release();
}

template <>
__attribute__((noinline)) void Burst<AmxBf16>(int64_t rounds) {
  ConfigureTiles();
  for (int64_t r = 0; r < rounds; ++r) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  _tile_release();
}
#endif

// 10^9 multiply-accumulates a second of all threads together: the best of `repeats` bursts. The shortest last about a
// millisecond, so that some fall between the interruptions of a shared machine. `seconds` asks for longer ones.
template <typename Product>
double Throughput(int threads, int repeats, double seconds) {
  constexpr int64_t kRounds = Product::kMacs > 64 ? 30000 : 300000;
  const auto rate = [threads](int64_t rounds) {
    const double time = TimeThreads(threads, [rounds](int) { Burst<Product>(rounds); });
    return 1e-9 * rounds * kAccumulators * Product::kMacs * threads / time;
  };
  int64_t rounds = kRounds;
  if (seconds > 0)
    rounds += static_cast<int64_t>(1e9 * seconds * rate(kRounds) / (kAccumulators * Product::kMacs * threads));
  double best = 0;
  for (int i = 0; i < repeats; ++i) best = std::max(best, rate(rounds));
  return best;
}

typedef uint64_t Line __attribute__((vector_size(64)));

}  // namespace

extern "C" {

// GMAC/s of products of type 0: bf16, 1: int8.
double ProbeThroughput(int type, int threads, int repeats, double seconds) {
#if defined(__AMX_TILE__)
  if (RequestAmx()) {
    return type == 0 ? Throughput<AmxBf16>(threads, repeats, seconds) : Throughput<AmxInt8>(threads, repeats, seconds);
  }
#endif
  if (type == 0) return Throughput<Bf16>(threads, repeats, seconds);
  return Throughput<Int8>(threads, repeats, seconds);
}

// A buffer of `bytes`, a multiple of 2 MiB, whose pages exist; on huge pages if `huge` (as far as the kernel has them),
// else on pages of 4 KiB. Null without memory.
void* ProbeBuffer(size_t bytes, int huge) {
  void* buffer = aligned_alloc(size_t{2} << 20, bytes);
  if (buffer == nullptr) return nullptr;
  madvise(buffer, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  memset(buffer, 1, bytes);
  return buffer;
}

void ProbeFree(void* buffer) { free(buffer); }

// Reads the buffer once and returns the seconds. Threads take chunks of 1 MiB, so that one that is interrupted does not
// hold up the others. This pushes everything else out of caches smaller than the buffer.
double ProbeRead(const void* buffer, size_t bytes, int threads) {
  constexpr size_t kChunk = size_t{1} << 20;
  std::atomic<size_t> next{0};
  const char* data = static_cast<const char*>(buffer);
  return TimeThreads(threads, [&](int) {
    Line sum[4] = {};
    for (;;) {
      const size_t begin = next.fetch_add(kChunk);
      if (begin >= bytes) break;
      for (size_t i = begin; i < begin + kChunk; i += sizeof(sum)) {
        for (int j = 0; j < 4; ++j) sum[j] += *reinterpret_cast<const Line*>(data + i + j * sizeof(Line));
      }
    }
    Line total = sum[0] + sum[1] + sum[2] + sum[3];
    asm volatile("" : : "m"(total) : "memory");
  });
}

// Nanoseconds of a round trip of a cache line between the first CPU of the process and its `other`th: the best of some
// bursts of about 0.1 ms, so that one of them falls between the interruptions of a shared machine. Wants both CPUs.
double ProbeRoundTrip(int other) {
  constexpr int kBursts = 50, kTrips = 1000;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  sched_getaffinity(0, sizeof(cpus), &cpus);
  // Nothing else may be near, because lines are 64 or 128 bytes, and the CPU may fetch them in pairs.
  struct alignas(256) {
    std::atomic<int> turn{0};
  } line;
  const auto wait_for = [&line](int turn) {
    while (line.turn.load(std::memory_order_acquire) != turn) {
    }
  };
  std::thread partner([&] {
    StayOn(cpus, other);
    for (int turn = 1; turn < 2 * kBursts * kTrips; turn += 2) {
      wait_for(turn);
      line.turn.store(turn + 1, std::memory_order_release);
    }
  });
  StayOn(cpus, 0);
  double best = 1e9;
  for (int burst = 0, turn = 0; burst < kBursts; ++burst) {
    const Clock::time_point start = Clock::now();
    for (int trip = 0; trip < kTrips; ++trip, turn += 2) {
      line.turn.store(turn + 1, std::memory_order_release);
      wait_for(turn + 2);
    }
    best = std::min(best, Seconds(start, Clock::now()) / kTrips);
  }
  partner.join();
  sched_setaffinity(0, sizeof(cpus), &cpus);
  return 1e9 * best;
}
}
