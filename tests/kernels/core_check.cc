// Checks the parts of the CPU kernels by themselves, for one instruction set (-DMS_DSV32_ISA): conversions, matrix
// products and cache rows here, threads and scratch in process_check.cc. Prints a line for each error, and fails if
// there is one.
#include "core_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "ms_dsv32/kernel_impl/cpu/amx.h"
#include "ms_dsv32/kernel_impl/cpu/isa/cache_rows.h"
#include "ms_dsv32/kernel_impl/cpu/isa/gemm.h"
#include "ms_dsv32/kernel_impl/cpu/isa/quant.h"
#include "ms_dsv32/kernel_impl/cpu/isa/softmax.h"
#include "ms_dsv32/kernel_impl/cpu/isa/token_range.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {
namespace {

std::mt19937 random_bits(1);

// Nearest representable value by search in double, ties to the even code: an independent definition of rounding to bf16
// and fp16.
template <typename Decode>
uint16_t RoundBySearch(float f, uint16_t infinity, const Decode& decode) {
  const double magnitude = std::fabs(static_cast<double>(f));
  uint16_t low = 0;
  uint16_t high = infinity;  // decode is monotone over [0, infinity)
  while (high - low > 1) {
    const uint16_t middle = static_cast<uint16_t>((low + high) / 2);
    (decode(middle) <= magnitude ? low : high) = middle;
  }
  // Values round to infinity from the one on that is one step beyond the largest.
  const double below = decode(low);
  const double above = high == infinity ? 2 * below - decode(static_cast<uint16_t>(low - 1)) : decode(high);
  const bool up = magnitude - below > above - magnitude || (magnitude - below == above - magnitude && (low & 1));
  return static_cast<uint16_t>((up ? high : low) | (std::signbit(f) ? 0x8000 : 0));
}

void CheckConversions() {
  const auto from_bf16 = [](uint16_t v) { return static_cast<double>(Bf16ToF32(v)); };
  const auto from_fp16 = [](uint16_t v) {
    const int exponent = v >> 10 & 31;
    return exponent ? std::ldexp(1024 + (v & 1023), exponent - 25) : std::ldexp(v & 1023, -24);
  };
  for (uint32_t v = 0; v < 0x7c00; ++v) {
    Expect(Fp16ToF32(static_cast<uint16_t>(v)) == from_fp16(static_cast<uint16_t>(v)), "Fp16ToF32(%#x)", v);
    uint16_t same[kLanes];
    for (uint16_t& s : same) s = static_cast<uint16_t>(v | 0x8000u);
    Expect(LoadFp16(same)[kLanes - 1] == -from_fp16(static_cast<uint16_t>(v)), "LoadFp16(%#x)", v | 0x8000u);
  }
  Expect(Fp16ToF32(0x7c00) == INFINITY && Fp16ToF32(0xfc00) == -INFINITY, "Fp16ToF32 of infinities");
  Expect(std::isnan(Fp16ToF32(0x7c01)) && std::isnan(Fp16ToF32(0xffff)), "Fp16ToF32 of NaN");
  for (int i = 0; i < 300000; ++i) {
    // Random bits, values around fp16's range, and ties of both formats.
    uint32_t bits = random_bits();
    if (i % 4 == 1) bits = (bits & 0x8fffffffu) | 0x30000000u;
    if (i % 4 == 2) bits = (bits & 0xffff0000u) | 0x8000u;
    if (i % 4 == 3) bits = (bits & 0xbfffe000u) | 0x1000u;
    const float f = BitsFloat(bits);
    uint16_t stored[kLanes];
    StoreBf16(stored, Set1(f));
    Expect(stored[0] == F32ToBf16(f) && stored[kLanes - 1] == stored[0], "StoreBf16 of %#x: %#x", bits, stored[0]);
    if (std::isnan(f)) {
      Expect(F32ToBf16(f) == 0x7fc0 && F32ToFp16(f) == 0x7e00, "NaN %#x is lost", bits);
    } else if (!std::isinf(f)) {
      Expect(F32ToBf16(f) == RoundBySearch(f, 0x7f80, from_bf16), "F32ToBf16(%a) = %#x", f, F32ToBf16(f));
      Expect(F32ToFp16(f) == RoundBySearch(f, 0x7c00, from_fp16), "F32ToFp16(%a) = %#x", f, F32ToFp16(f));
    }
  }
}

void CheckVectors() {
  const float huge = 0x1p22f - 0.5f;
  for (float f : {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 126.5f, -127.49f, huge, -huge, 0.0f}) {
    Expect(Rint(Set1(f))[0] == std::nearbyint(f), "Rint(%a) = %a", f, Rint(Set1(f))[0]);
  }
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = static_cast<float>(i == kLanes / 2 ? 1000 : i);
  const int sum = kLanes * (kLanes - 1) / 2 - kLanes / 2 + 1000;
  Expect(ReduceAdd(LoadF(lanes)) == sum, "ReduceAdd = %a", ReduceAdd(LoadF(lanes)));
  Expect(ReduceMax(LoadF(lanes)) == 1000, "ReduceMax = %a", ReduceMax(LoadF(lanes)));
}

void CheckExp() {
  const float least = -0x1.5d58ap6f;
  for (int i = 0; i < 100000; ++i) {
    const float f = i < 1000 ? -static_cast<float>(i) / 1000.0f : least * static_cast<float>(random_bits()) * 0x1p-32f;
    const double want = std::exp(static_cast<double>(f));
    Expect(std::fabs(ExpNonPositive(Set1(f))[0] - want) <= 2e-7 * want, "exp(%a) = %a", f, ExpNonPositive(Set1(f))[0]);
  }
  for (float f : {std::nextafter(least, -100.0f), -100.0f, -1e30f, -INFINITY}) {
    Expect(ExpNonPositive(Set1(f))[0] == 0, "exp(%a) = %a", f, ExpNonPositive(Set1(f))[0]);
  }
  Expect(std::isnan(ExpNonPositive(Set1(NAN))[0]), "exp(NaN) = %a", ExpNonPositive(Set1(NAN))[0]);
}

void CheckQuant() {
  alignas(64) uint16_t x[128];
  alignas(64) int8_t q[128];
  for (int round = 0; round < 200; ++round) {
    const float size = std::ldexp(1.0f, static_cast<int>(random_bits() % 60) - 30);
    for (uint16_t& v : x) v = F32ToBf16(size * (static_cast<float>(random_bits() % 2001) / 1000.0f - 1.0f));
    if (round == 0) memset(x, 0, sizeof(x));
    const float scale = QuantRow(x, 128, q);
    float amax = 1e-30f;
    for (uint16_t v : x) amax = std::fmax(amax, std::fabs(Bf16ToF32(v)));
    const float inverse = 127.0f / amax;
    Expect(scale == 1.0f / inverse, "QuantRow: scale %a, want %a", scale, 1.0f / inverse);
    for (int i = 0; i < 128; ++i) {
      const float want = std::nearbyint(Bf16ToF32(x[i]) * inverse);
      Expect(q[i] == want, "QuantRow: %d, want %a", q[i], want);
    }
  }
  for (const uint16_t bad : {0x7fc0, 0x7f80}) {  // NaN, infinity
    x[5] = bad;
    const float scale = QuantRow(x, 128, q);
    Expect(bad == 0x7fc0 ? std::isnan(scale) : std::isinf(scale), "QuantRow with %#x: scale %a", bad, scale);
    for (int8_t v : q) Expect(v == 0, "QuantRow with %#x: %d", bad, v);
  }
}

// Row-major k x (64 panels), and the same in strips.
template <typename T>
std::vector<T> Strips(const std::vector<T>& w, int k, int panels, int neighbours) {
  std::vector<T> out(w.size());
  for (int i = 0; i < k; ++i) {
    for (int j = 0; j < 64 * panels; ++j) {
      out[static_cast<size_t>((j / 16 * k + i / neighbours * neighbours) * 16 + j % 16 * neighbours + i % neighbours)] =
          w[static_cast<size_t>(i * 64 * panels + j)];
    }
  }
  return out;
}

// k is even. If it is not a multiple of 4, GemmInt8 multiplies up to the last multiple of 4 below it.
void CheckProducts(int k, int panels, int all_rows = 23) {
  const int n = 64 * panels, k8 = k / 4 * 4;
  std::vector<uint16_t> x(static_cast<size_t>(all_rows * k)), w(static_cast<size_t>(k * n));
  std::vector<int8_t> x8(x.size()), w8(w.size());
  for (uint16_t& v : x) v = F32ToBf16(static_cast<float>(random_bits() % 2001) / 1000.0f - 1.0f);
  for (uint16_t& v : w) v = F32ToBf16(static_cast<float>(random_bits() % 2001) / 1000.0f - 1.0f);
  // Many -128: products of two would saturate 16-bit sums.
  for (int8_t& v : x8)
    v = static_cast<int8_t>(random_bits() % 4 == 0 ? -128 : static_cast<int>(random_bits() % 256) - 128);
  for (int8_t& v : w8)
    v = static_cast<int8_t>(random_bits() % 4 == 0 ? -128 : static_cast<int>(random_bits() % 256) - 128);
  const std::vector<uint16_t> wp = Strips(w, k, panels, 2);
  const std::vector<int8_t> w8p = Strips(w8, k8, panels, 4);
  std::vector<uint16_t> own(w.size());
  std::vector<int8_t> own8(own.size());
  PackStripsBf16(w.data(), n, k, panels, own.data());
  PackStripsInt8(w8.data(), n, k8, panels, own8.data());
  Expect(!memcmp(own.data(), wp.data(), own.size() * 2), "PackStripsBf16, k = %d", k);
  Expect(!memcmp(own8.data(), w8p.data(), static_cast<size_t>(k8 * n)), "PackStripsInt8, k = %d", k8);

  // There is one row more than any product has, and it must stay as it is.
  std::vector<float> c(static_cast<size_t>((all_rows + 1) * n)), part(c.size());
  std::vector<int32_t> c8(c.size()), part8(c.size());
  const std::vector<float> margin(static_cast<size_t>(n), 12345.0f);
  const std::vector<int32_t> margin8(margin.size(), 12345);
  const auto is_kept = [&](int rows) {
    const size_t at = static_cast<size_t>(rows * n);
    return !memcmp(part.data() + at, margin.data(), margin.size() * 4) &&
           !memcmp(part8.data() + at, margin8.data(), margin8.size() * 4);
  };
  GemmBf16({x.data(), k, all_rows}, {wp.data(), 16 * k, panels}, k, {c.data(), n, false});
  GemmInt8({x8.data(), k, all_rows}, {w8p.data(), 16 * k8, panels}, k8, {c8.data(), n, false});
  for (int m = 0; m < all_rows; ++m) {
    for (int j = 0; j < n; ++j) {
      double want = 0, size = 0;
      int32_t want8 = 0;
      for (int i = 0; i < k; ++i) {
        const double product = static_cast<double>(Bf16ToF32(x[static_cast<size_t>(m * k + i)])) *
                               Bf16ToF32(w[static_cast<size_t>(i * n + j)]);
        want += product;
        size += std::fabs(product);
        if (i < k8) want8 += x8[static_cast<size_t>(m * k + i)] * w8[static_cast<size_t>(i * n + j)];
      }
      const size_t at = static_cast<size_t>(m * n + j);
      Expect(std::fabs(c[at] - want) <= k * 0x1p-24 * size, "GemmBf16 k = %d at (%d, %d): %a, want %a", k, m, j, c[at],
             want);
      Expect(c8[at] == want8, "GemmInt8 k = %d at (%d, %d): %d, want %d", k8, m, j, c8[at], want8);
    }
  }
  // The bits of a row depend neither on how many rows there are, nor on the cuts of k, nor on a NaN elsewhere.
  const int unit = Max(kBf16Cut, 4);
  const int cut = k / 2 / unit * unit;  // 0 for the smallest k, which then takes one call
  for (int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 22, all_rows}) {
    const size_t first = static_cast<size_t>(all_rows - rows);
    std::copy(margin.begin(), margin.end(), part.begin() + rows * n);
    std::copy(margin8.begin(), margin8.end(), part8.begin() + rows * n);
    GemmBf16({x.data() + first * k, k, rows}, {wp.data(), 16 * k, panels}, cut, {part.data(), n, false});
    GemmBf16({x.data() + first * k + cut, k, rows}, {wp.data() + 16 * cut, 16 * k, panels}, k - cut,
             {part.data(), n, cut > 0});
    Expect(!memcmp(part.data(), c.data() + first * n, static_cast<size_t>(rows * n) * 4), "bits of %d rows, k = %d",
           rows, k);
    GemmInt8({x8.data() + first * k, k, rows}, {w8p.data(), 16 * k8, panels}, cut, {part8.data(), n, false});
    GemmInt8({x8.data() + first * k + cut, k, rows}, {w8p.data() + 16 * cut, 16 * k8, panels}, k8 - cut,
             {part8.data(), n, cut > 0});
    Expect(!memcmp(part8.data(), c8.data() + first * n, static_cast<size_t>(rows * n) * 4), "int8 of %d rows, k = %d",
           rows, k8);
    Expect(is_kept(rows), "the row after %d rows is written, k = %d", rows, k);
  }
  x[static_cast<size_t>(3 * k)] = 0x7fc0;
  GemmBf16({x.data(), k, all_rows}, {wp.data(), 16 * k, panels}, k, {part.data(), n, false});
  Expect(!memcmp(part.data(), c.data(), static_cast<size_t>(3 * n) * 4), "NaN reaches the rows before, k = %d", k);
  Expect(!memcmp(part.data() + 4 * n, c.data() + 4 * n, static_cast<size_t>((all_rows - 4) * n) * 4),
         "NaN reaches the rows after, k = %d", k);
  Expect(std::isnan(part[static_cast<size_t>(3 * n)]) && std::isnan(part[static_cast<size_t>(4 * n - 1)]),
         "NaN is lost, k = %d", k);
}

void CheckCacheRows() {
  for (int round = 0; round < 100; ++round) {
    const int t = 1 + static_cast<int>(random_bits() % 300);
    std::vector<int64_t> rows(static_cast<size_t>(t)), table(static_cast<size_t>(CacheRowTableSize(t)));
    for (int64_t& r : rows)
      r = static_cast<int64_t>(random_bits() % 200) * (round % 2 ? 1 : int64_t{1} << 33) - (random_bits() % 4 == 0);
    for (int64_t& r : rows) r = r < 0 ? -1 : r;
    std::vector<uint8_t> writes(rows.size(), 7);
    FindCacheWriters(rows.data(), t, table.data(), writes.data());
    for (size_t i = 0; i < rows.size(); ++i) {
      bool last = rows[i] >= 0;
      for (size_t j = i + 1; j < rows.size(); ++j) last &= rows[j] != rows[i];
      Expect(writes[i] == last, "token %zu of %d writes: %d, want %d", i, t, writes[i], last);
    }
  }
}

// Every argument that has a part for each token moves on, even if the offset has more than 32 bits.
void CheckTokenRanges() {
  constexpr int64_t kFirst = (int64_t{1} << 33) + 1024, kCount = 5, kHeads = 128;
  const auto places = [](auto& params, auto... members) {
    ((params.*members = reinterpret_cast<std::decay_t<decltype(params.*members)>>(uintptr_t{1} << 20)), ...);
  };
  const auto moved = [](auto now, auto before, int64_t width, const char* name) {
    const int64_t by =
        (reinterpret_cast<int64_t>(now) - reinterpret_cast<int64_t>(before)) / static_cast<int64_t>(sizeof(*now));
    Expect(by == kFirst * width, "%s moves by %lld, want %lld", name, static_cast<long long>(by),
           static_cast<long long>(kFirst * width));
  };
  using M = MlaPrologQuantParams;
  M mla{};
  mla.n_q = kHeads;
  places(mla, &M::token_x, &M::cos, &M::sin, &M::cache_index, &M::q_norm, &M::q_norm_scale, &M::q_nope, &M::q_rope);
  const M m = TokenRange(mla, kFirst, kCount);
  Expect(m.t == kCount, "%lld tokens", static_cast<long long>(m.t));
  moved(m.token_x, mla.token_x, 7168, "token_x");
  moved(m.cos, mla.cos, 64, "cos");
  moved(m.sin, mla.sin, 64, "sin");
  moved(m.cache_index, mla.cache_index, 1, "cache_index");
  moved(m.q_norm, mla.q_norm, 1536, "q_norm");
  moved(m.q_norm_scale, mla.q_norm_scale, 1, "q_norm_scale");
  moved(m.q_nope, mla.q_nope, kHeads * 512, "q_nope");
  moved(m.q_rope, mla.q_rope, kHeads * 64, "q_rope");
  mla.q_norm = nullptr;
  mla.q_norm_scale = nullptr;
  Expect(TokenRange(mla, kFirst, kCount).q_norm == nullptr, "latents of the chunk at hand");
  Expect(TokenRange(mla, kFirst, kCount).q_norm_scale == nullptr, "scales of the chunk at hand");

  using I = LightningIndexerPrologQuantParams;
  I indexer{};
  places(indexer, &I::x, &I::q_norm, &I::q_norm_scale, &I::cos_idx_rope, &I::sin_idx_rope, &I::k_cache_index,
         &I::q_int8, &I::q_scale, &I::weights);
  const I i = TokenRange(indexer, kFirst, kCount);
  Expect(i.t == kCount, "%lld tokens", static_cast<long long>(i.t));
  moved(i.x, indexer.x, 7168, "x");
  moved(i.q_norm, indexer.q_norm, 1536, "q_norm");
  moved(i.q_norm_scale, indexer.q_norm_scale, 1, "q_norm_scale");
  moved(i.cos_idx_rope, indexer.cos_idx_rope, 64, "cos_idx_rope");
  moved(i.sin_idx_rope, indexer.sin_idx_rope, 64, "sin_idx_rope");
  moved(i.k_cache_index, indexer.k_cache_index, 1, "k_cache_index");
  moved(i.q_int8, indexer.q_int8, 64 * 128, "q_int8");
  moved(i.q_scale, indexer.q_scale, 64, "q_scale");
  moved(i.weights, indexer.weights, 64, "weights");

  using E = MlaEpilogQuantParams;
  E epilog{};
  epilog.n_q = kHeads;
  places(epilog, &E::attention_out, &E::hidden);
  const E e = TokenRange(epilog, kFirst, kCount);
  Expect(e.t == kCount, "%lld tokens", static_cast<long long>(e.t));
  moved(e.attention_out, epilog.attention_out, kHeads * 512, "attention_out");
  moved(e.hidden, epilog.hidden, 7168, "hidden");
}

int Run() {
  CheckConversions();
  CheckVectors();
  CheckExp();
  CheckQuant();
  for (int k : {4, 6, 12, 128, 258, 260, 576}) CheckProducts(k, 1);
  CheckProducts(132, 3);
  CheckProducts(64, 17);
  CheckProducts(2052, 1);       // k is deeper than what is converted at a time
  CheckProducts(264, 1, 259);   // more rows than are converted at a time, and k is cut as well
  CheckProducts(2176, 1, 49);   // AMX: each half of int8 is 1024 and 64 deep, and tiles have several heights
  CheckProducts(128, 1, 63);    // AMX: the upper tiles are of one height, the lower ones are not
  CheckProducts(2048, 2, 131);  // AMX copies such rows, 128 at a time
  CheckProducts(2048, 1, 129);  // AMX: the last row is alone
  CheckCacheRows();
  CheckTokenRanges();
  CheckThreads();
  CheckQuotas();
  CheckGroups();
  CheckScratch();
  return failures;
}

}  // namespace
}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

int main() {
#if MS_DSV32_IS_AMX
  if (!ms_dsv32::cpu::HasAmx()) {
    std::printf("the system gives no permission for AMX\n");
    return 1;
  }
#endif
  return ms_dsv32::cpu::MS_DSV32_ISA::Run() == 0 ? 0 : 1;
}
