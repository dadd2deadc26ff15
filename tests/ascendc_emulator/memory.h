// Memories: bytes, which of them hold defined values, and who read or wrote them last (hazards).
#ifndef ASCENDC_EMULATOR_MEMORY_H_
#define ASCENDC_EMULATOR_MEMORY_H_

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "report.h"
#include "types.h"

namespace ascendc_emulator {

constexpr int kPipes = 7;  // PIPE_S .. PIPE_FIX
inline const char* PipeName(int pipe) {
  static const char* const kNames[] = {"S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX", "ALL"};
  return kNames[pipe];
}

enum class Kind : uint8_t { kGm, kUb, kL1, kL0a, kL0b, kL0c, kBt, kFb };

// 架构规格/NPU架构版本2201.md. `usable` is what a kernel may allocate, because 256 B of UB and of L1 belong to the
// runtime of MIX kernels.
struct MemoryModel {
  const char* name;
  uint32_t size, usable, align;
  uint32_t granule;     // bytes of one hazard record, which tells ranges of 1/32 of it apart
  int8_t slot[kPipes];  // record slot of each pipe that reaches this memory, -1: no such path
};
inline const MemoryModel& Model(Kind kind) {
  //                                      size    usable         align gran   S   V   M  MTE1 MTE2 MTE3 FIX
  static const MemoryModel kModels[] = {{"GM", 0, 0, 1, 0, {0, 0, 0, 0, 0, 0, 0}},
                                        {"UB", 196608, 196608 - 256, 32, 32, {0, 1, -1, -1, 2, 3, -1}},
                                        {"L1", 524288, 524288 - 256, 32, 32, {-1, -1, -1, 0, 1, 2, 3}},
                                        {"L0A", 65536, 65536, 512, 512, {-1, -1, 0, 1, 2, -1, -1}},
                                        {"L0B", 65536, 65536, 512, 512, {-1, -1, 0, 1, 2, -1, -1}},
                                        {"L0C", 131072, 131072, 64, 64, {-1, -1, 0, -1, -1, -1, 1}},
                                        {"BT", 1024, 1024, 64, 64, {-1, -1, 0, 1, -1, -1, -1}},
                                        {"FB", 2048, 2048, 64, 64, {-1, -1, -1, 0, -1, -1, 1}}};
  return kModels[static_cast<int>(kind)];
}

inline Kind KindOf(AscendC::TPosition position) {
  using P = AscendC::TPosition;
  switch (position) {
    case P::GM:
    case P::CO2:
      return Kind::kGm;
    case P::A1:
    case P::B1:
    case P::C1:
    case P::TSCM:
      return Kind::kL1;
    case P::A2:
      return Kind::kL0a;
    case P::B2:
      return Kind::kL0b;
    case P::CO1:
      return Kind::kL0c;
    case P::C2:
      return Kind::kBt;
    case P::C2PIPE2GM:
      return Kind::kFb;
    default:
      return Kind::kUb;
  }
}

// For each pipe of a core, the last of its instructions that is known to be complete.
struct Clock {
  uint32_t at[kPipes] = {};
  void Merge(const Clock& other) {
    for (int p = 0; p < kPipes; ++p) at[p] = std::max(at[p], other.at[p]);
  }
};

// Zeroed pages, which take no memory until they are touched.
class Pages {
 public:
  explicit Pages(size_t size) : size_(std::max<size_t>(size, 1)) {
    void* p = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<uint8_t*>(p);
  }
  ~Pages() { munmap(data_, size_); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  uint8_t* data() const { return data_; }

 private:
  size_t size_;
  uint8_t* data_;
};

// Last accesses of each pipe to a local memory, by granules: the instruction's number, and which bytes of the granule
// it touched (a bit for each 1/32). Accesses are ranges. Whole granules of a range are compared and filled as arrays.
struct Accesses {
  explicit Accesses(size_t granules) : pages(granules * 16 * sizeof(uint32_t)) {
    auto* next = reinterpret_cast<uint32_t*>(pages.data());
    for (int write = 0; write < 2; ++write)
      for (int slot = 0; slot < 4; ++slot, next += 2 * granules) {
        seq[write][slot] = next;
        mask[write][slot] = next + granules;
      }
  }
  static bool AnyAbove(const uint32_t* values, int64_t n, uint32_t limit, uint32_t except) {
    uint32_t any = 0;
    for (int64_t i = 0; i < n; ++i) any |= static_cast<uint32_t>((values[i] > limit) & (values[i] != except));
    return any != 0;
  }
  void Add(int write, int slot, int64_t granule, uint32_t number, uint32_t bits) {
    const auto g = static_cast<size_t>(granule);
    uint32_t& old = mask[write][slot][g];
    old = (bits & old) == old ? bits : (old | bits);
    seq[write][slot][g] = number;
  }
  void AddWhole(int write, int slot, int64_t granule, int64_t n, uint32_t number) {
    std::fill_n(seq[write][slot] + granule, n, number);
    std::fill_n(mask[write][slot] + granule, n, ~uint32_t{0});
  }
  Pages pages;
  uint32_t *seq[2][4], *mask[2][4];
};

class LocalMemory {
 public:
  explicit LocalMemory(Kind kind)
      : kind(kind), model(Model(kind)), bytes_(model.size), valid_(model.size), accesses(model.size / model.granule) {
    std::memset(bytes_.data(), 0xff, model.size);  // NaN in every float format, -1 in every integer
  }
  uint8_t* data() const { return bytes_.data(); }
  uint8_t* valid() const { return valid_.data(); }

  const Kind kind;
  const MemoryModel& model;

 private:
  Pages bytes_, valid_;

 public:
  Accesses accesses;
};

enum class Role : int { kIn = 0, kOut = 1, kInOut = 2, kWorkspace = 3, kTiling = 4 };

// One range of a GM tensor: the last write, and the reads after it.
struct GmSegment {
  struct Access {
    uint16_t core = 0;
    uint8_t pipe = 0;
    bool atomic = false;
    uint32_t seq = 0;  // 0: none
    uint32_t site = 0;
  };
  uint64_t end = 0;
  Access write;
  std::vector<Access> reads;
};

constexpr uint64_t kRedzone = 4096;

// A tensor in global memory between two redzones, or the caller's own memory, which has no redzones. `valid` marks the
// bytes that are defined, and is null if all are.
struct GmBuffer {
  GmBuffer(std::string name, uint64_t size, Role role, uint64_t misalign, void* own)
      : name(std::move(name)),
        size(size),
        role(role),
        pages(own != nullptr ? 0 : size + 2 * kRedzone + 1024),
        own(own != nullptr),
        touched((size >> 9) + 2) {
    base = this->own ? static_cast<uint8_t*>(own) : pages.data() + kRedzone + misalign;
    const bool written = role == Role::kOut || role == Role::kWorkspace;
    if (written) valid = std::make_unique<Pages>(size);
    if (this->own) return;
    std::memset(pages.data(), 0xa5, kRedzone + misalign);
    std::memset(base + size, 0xa5, kRedzone);
    if (written) std::memset(base, 0xcd, size);
  }
  bool tracked() const { return role != Role::kIn && role != Role::kTiling; }
  int64_t BrokenRedzone() const {  // offset of the first changed byte from the tensor's start, or INT64_MIN
    if (own) return INT64_MIN;
    for (const uint8_t* p = pages.data(); p < base; ++p)
      if (*p != 0xa5) return p - base;
    for (const uint8_t* p = base + size; p < base + size + kRedzone; ++p)
      if (*p != 0xa5) return p - base;
    return INT64_MIN;
  }

  std::string name;
  uint64_t size;
  Role role;
  Pages pages;
  bool own;
  uint8_t* base = nullptr;
  std::unique_ptr<Pages> valid;
  std::map<uint64_t, GmSegment> segments;  // by start, never overlapping
  Pages touched;                           // 512 B lines that were moved once and are therefore in L2
  std::mutex mutex;
};

}  // namespace ascendc_emulator

#endif  // ASCENDC_EMULATOR_MEMORY_H_
