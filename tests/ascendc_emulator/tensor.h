// GlobalTensor and LocalTensor, the checks that every access shares, and the accesses of the scalar unit.
#ifndef ASCENDC_EMULATOR_TENSOR_H_
#define ASCENDC_EMULATOR_TENSOR_H_

#include "machine.h"

namespace ascendc_emulator {

inline Machine& M() { return *t_core->machine; }

template <class T>
constexpr const char* TypeName() {
  if constexpr (std::is_same_v<T, half>) return "half";
  if constexpr (std::is_same_v<T, bfloat16_t>) return "bfloat16_t";
  if constexpr (std::is_same_v<T, float>) return "float";
  if constexpr (std::is_same_v<T, int8_t>) return "int8_t";
  if constexpr (std::is_same_v<T, uint8_t>) return "uint8_t";
  if constexpr (std::is_same_v<T, int16_t>) return "int16_t";
  if constexpr (std::is_same_v<T, uint16_t>) return "uint16_t";
  if constexpr (std::is_same_v<T, int32_t>) return "int32_t";
  if constexpr (std::is_same_v<T, uint32_t>) return "uint32_t";
  if constexpr (std::is_same_v<T, int64_t>) return "int64_t";
  if constexpr (std::is_same_v<T, uint64_t>) return "uint64_t";
  return "?";
}
template <class T, class... U>
constexpr bool kOneOf = (std::is_same_v<T, U> || ...);
template <class T>
constexpr bool kIsElement =
    kOneOf<T, half, bfloat16_t, float, int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t, int64_t, uint64_t>;

// Throws unless low <= value <= high, which is what the field of the instruction holds.
template <class F>
inline int64_t Range(const char* api, Loc loc, const char* field, F given, int64_t low, int64_t high) {
  int64_t value;
  if constexpr (std::is_class_v<F>)
    value = given.value;
  else
    value = static_cast<int64_t>(given);
  if (value < low || value > high)
    M().Fail("argument", loc,
             Format("%s: %s is %lld, allowed are %lld to %lld", api, field, static_cast<long long>(value),
                    static_cast<long long>(low), static_cast<long long>(high)));
  return value;
}

// Bytes, and marks of those that are defined. `valid` is null for GM tensors that are defined as a whole.
struct View {
  uint8_t* data = nullptr;
  uint8_t* valid = nullptr;
  View operator+(int64_t offset) const { return {data + offset, valid ? valid + offset : nullptr}; }
};
inline bool AllValid(const uint8_t* valid, int64_t n) {
  return valid == nullptr || n <= 0 || std::memchr(valid, 0, static_cast<size_t>(n)) == nullptr;
}
inline bool AnyValid(const uint8_t* valid, int64_t n) {
  return valid == nullptr || n <= 0 || std::memchr(valid, 1, static_cast<size_t>(n)) != nullptr;
}
inline void Move(View dst, View src, int64_t n) {
  std::memmove(dst.data, src.data, static_cast<size_t>(n));
  if (dst.valid == nullptr) return;
  if (src.valid == nullptr)
    std::memset(dst.valid, 1, static_cast<size_t>(n));
  else
    std::memmove(dst.valid, src.valid, static_cast<size_t>(n));
}

}  // namespace ascendc_emulator

namespace AscendC {

using ascendc_emulator::Loc;

template <class T>
class LocalTensor {
  static_assert(ascendc_emulator::kIsElement<T>, "element type that the emulator does not model");

 public:
  using PrimType = T;
  LocalTensor() = default;
  LocalTensor(TPosition position, uint32_t address, uint32_t size)
      : position_(position), address_(address), bytes_(int64_t{size} * static_cast<int64_t>(sizeof(T))) {}
  LocalTensor operator[](int64_t offset) const {
    LocalTensor result = *this;
    result.address_ += offset * static_cast<int64_t>(sizeof(T));
    result.bytes_ -= offset * static_cast<int64_t>(sizeof(T));
    return result;
  }
  template <class U>
  LocalTensor<U> ReinterpretCast() const {
    LocalTensor<U> result;
    result.Adopt(position_, address_, bytes_);
    return result;
  }
  uint32_t GetSize() const {
    return static_cast<uint32_t>(std::max<int64_t>(bytes_, 0) / static_cast<int64_t>(sizeof(T)));
  }
  void SetSize(uint32_t size) { bytes_ = std::min<int64_t>(bytes_, int64_t{size} * static_cast<int64_t>(sizeof(T))); }
  TPosition GetPosition() const { return position_; }
  uint64_t GetPhyAddr() const { return static_cast<uint64_t>(address_); }
  T GetValue(int64_t index, Loc loc = Loc::Here()) const;
  T operator()(int64_t index, Loc loc = Loc::Here()) const { return GetValue(index, loc); }
  void SetValue(int64_t index, T value, Loc loc = Loc::Here()) const;

  void Adopt(TPosition position, int64_t address, int64_t bytes) {
    position_ = position, address_ = address, bytes_ = bytes;
  }
  int64_t address() const { return address_; }
  int64_t bytes() const { return bytes_; }
  ascendc_emulator::Kind kind() const { return ascendc_emulator::KindOf(position_); }
  ascendc_emulator::View view() const {
    ascendc_emulator::LocalMemory& memory = *ascendc_emulator::t_core->memory[static_cast<int>(kind())];
    return {memory.data() + address_, memory.valid() + address_};
  }

 private:
  TPosition position_ = TPosition::GM;
  int64_t address_ = 0, bytes_ = -1;
};

enum class CacheMode { CACHE_MODE_DISABLE = 0, CACHE_MODE_NORMAL = 1 };

template <class T>
class GlobalTensor {
  static_assert(ascendc_emulator::kIsElement<T>, "element type that the emulator does not model");

 public:
  using PrimType = T;
  GlobalTensor() = default;
  void SetGlobalBuffer(T* pointer) { SetGlobalBuffer(pointer, 0); }
  void SetGlobalBuffer(T* pointer, uint64_t size) {
    pointer_ = pointer;
    elements_ = static_cast<int64_t>(size);
    gm_ = ascendc_emulator::M().FindGm(pointer);
  }
  GlobalTensor operator[](int64_t offset) const {
    GlobalTensor result = *this;
    result.pointer_ = reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(pointer_) +
                                           static_cast<uintptr_t>(offset * static_cast<int64_t>(sizeof(T))));
    if (elements_ > 0) {
      result.elements_ = elements_ - offset;
      result.bounded_ = true;
    }
    return result;
  }
  const T* GetPhyAddr() const { return pointer_; }
  T* GetPhyAddr(int64_t offset) const { return (*this)[offset].pointer_; }
  uint64_t GetSize() const { return static_cast<uint64_t>(std::max<int64_t>(elements_, 0)); }
  void SetL2CacheHint(CacheMode) {}
  T GetValue(int64_t index, Loc loc = Loc::Here()) const;
  T operator()(int64_t index, Loc loc = Loc::Here()) const { return GetValue(index, loc); }
  void SetValue(int64_t index, T value, Loc loc = Loc::Here()) const;

  int gm() const { return gm_; }
  const uint8_t* raw() const { return reinterpret_cast<const uint8_t*>(pointer_); }
  // Bytes that SetGlobalBuffer announced from here on, INT64_MAX if it was told no size.
  int64_t bytes() const { return elements_ > 0 || bounded_ ? elements_ * static_cast<int64_t>(sizeof(T)) : INT64_MAX; }

 private:
  T* pointer_ = nullptr;
  int64_t elements_ = 0;
  bool bounded_ = false;
  int gm_ = -1;
};

}  // namespace AscendC

namespace ascendc_emulator {

using AscendC::GlobalTensor;
using AscendC::LocalTensor;

// Ranges of the instruction that is being put together on this thread, each checked when it is added.
class Ranges {
 public:
  Ranges(const char* api, Loc loc) : api_(api), loc_(loc), list_(List()) { list_.clear(); }

  template <class T>
  void Local(const char* what, const LocalTensor<T>& tensor, bool write, int64_t offset, int64_t len, int64_t n1 = 1,
             int64_t s1 = 0, int64_t n2 = 1, int64_t s2 = 0) {
    if (len <= 0 || n1 <= 0 || n2 <= 0) return;
    const MemoryModel& model = Model(tensor.kind());
    const int64_t end = offset + (n1 - 1) * s1 + (n2 - 1) * s2 + len;
    if (tensor.bytes() < 0 && tensor.address() == 0)
      M().Fail("overflow", loc_, Format("%s: %s is a tensor without memory", api_, what));
    if (offset < 0 || end > tensor.bytes() || tensor.address() < 0)
      M().Fail("overflow", loc_,
               Format("%s: %s %s bytes [%lld, %lld) of a tensor of %lld bytes at %s address %lld", api_, what,
                      write ? "writes" : "reads", static_cast<long long>(offset), static_cast<long long>(end),
                      static_cast<long long>(tensor.bytes()), model.name, static_cast<long long>(tensor.address())));
    if (tensor.address() + end > model.size)
      M().Fail("overflow", loc_,
               Format("%s: %s reaches byte %lld of %s, which has %u", api_, what,
                      static_cast<long long>(tensor.address() + end), model.name, model.size));
    list_.push_back({tensor.kind(), write, -1, tensor.address() + offset, len, n1, s1, n2, s2});
  }

  template <class T>
  void Gm(const char* what, const GlobalTensor<T>& tensor, bool write, int64_t offset, int64_t len, int64_t n1 = 1,
          int64_t s1 = 0, int64_t n2 = 1, int64_t s2 = 0) {
    if (len <= 0 || n1 <= 0 || n2 <= 0) return;
    if (tensor.gm() < 0) M().Fail("gm_bounds", loc_, Format("%s: %s points to no GM tensor of the launch", api_, what));
    GmBuffer& buffer = *M().gm[static_cast<size_t>(tensor.gm())];
    const int64_t start = tensor.raw() - buffer.base;
    const int64_t low = offset + std::min<int64_t>((n1 - 1) * s1, 0) + std::min<int64_t>((n2 - 1) * s2, 0);
    const int64_t end = offset + std::max<int64_t>((n1 - 1) * s1, 0) + std::max<int64_t>((n2 - 1) * s2, 0) + len;
    if (start + low < 0 || start + end > static_cast<int64_t>(buffer.size))
      M().Fail(
          "redzone", loc_,
          Format("%s: %s %s bytes [%lld, %lld) of GM tensor %s, which has %llu: it hits the redzone", api_, what,
                 write ? "writes" : "reads", static_cast<long long>(start + low), static_cast<long long>(start + end),
                 buffer.name.c_str(), static_cast<unsigned long long>(buffer.size)));
    if (low < 0 || end > tensor.bytes())
      M().Fail(
          "gm_bounds", loc_,
          Format("%s: %s %s bytes [%lld, %lld) of a GlobalTensor whose SetGlobalBuffer announced %lld (GM tensor %s)",
                 api_, what, write ? "writes" : "reads", static_cast<long long>(low), static_cast<long long>(end),
                 static_cast<long long>(tensor.bytes()), buffer.name.c_str()));
    if (write && (buffer.role == Role::kIn || buffer.role == Role::kTiling))
      M().Fail("gm_bounds", loc_, Format("%s: writes to input %s", api_, buffer.name.c_str()));
    list_.push_back({Kind::kGm, write, tensor.gm(), start + offset, len, n1, s1, n2, s2});
  }

  const std::vector<Access>& list() const { return list_; }
  double gm_cycles(double rate) const {
    double cycles = 0;
    if (M().options.cycles)
      for (const Access& access : list_)
        if (access.kind == Kind::kGm) cycles += M().GmCycles(access, rate);
    return cycles;
  }

 private:
  static std::vector<Access>& List() {
    static thread_local std::vector<Access> list;
    return list;
  }
  const char* api_;
  Loc loc_;
  std::vector<Access>& list_;
};

template <class T>
inline View GmView(const GlobalTensor<T>& tensor) {
  GmBuffer& buffer = *M().gm[static_cast<size_t>(tensor.gm())];
  const int64_t start = tensor.raw() - buffer.base;
  return {buffer.base + start, buffer.valid ? buffer.valid->data() + start : nullptr};
}

template <class T>
inline void CheckKind(const char* api, Loc loc, const char* what, const LocalTensor<T>& tensor, Kind kind) {
  if (t_core->memory[static_cast<int>(kind)] == nullptr)
    M().Fail("core_type", loc,
             Format("%s: %s must be in %s, which %s does not have", api, what, Model(kind).name, t_core->name.c_str()));
  if (tensor.kind() != kind)
    M().Fail("position", loc,
             Format("%s: %s must be in %s, it is in %s", api, what, Model(kind).name, Model(tensor.kind()).name));
}
template <class T>
inline void CheckAlign(const char* api, Loc loc, const char* what, const LocalTensor<T>& tensor, int64_t align) {
  if (tensor.address() % align != 0)
    M().Fail("alignment", loc,
             Format("%s: %s is at %s address %lld, which is no multiple of %lld", api, what, Model(tensor.kind()).name,
                    static_cast<long long>(tensor.address()), static_cast<long long>(align)));
}

// Refuses a value that is not on a multiple of its size, because no document says that the scalar unit can reach it.
inline void CheckScalarAddress(const char* api, Loc loc, const GmBuffer& buffer, const uint8_t* data, size_t size) {
  if (reinterpret_cast<uintptr_t>(data) % size == 0) return;
  M().Fail("alignment", loc,
           Format("%s: byte %lld of %s is no multiple of %zu, the size of the value", api,
                  static_cast<long long>(data - buffer.base), buffer.name.c_str(), size));
}

// Undefined bytes may be copied (padding, tails), but an output must not receive them.
inline void CheckDefined(GmBuffer& buffer, View src, int64_t n, const uint8_t* gm_address, const char* api, Loc loc) {
  if (src.valid == nullptr || (buffer.role != Role::kOut && buffer.role != Role::kInOut) || AllValid(src.valid, n))
    return;
  const auto* bad = static_cast<const uint8_t*>(std::memchr(src.valid, 0, static_cast<size_t>(n)));
  M().Note("uninitialised", loc,
           Format("%s: byte %lld of output %s receives a value that nothing defined (never written, padding, or "
                  "computed from such)",
                  api, static_cast<long long>(gm_address - buffer.base + (bad - src.valid)), buffer.name.c_str()));
}

// The value of a scalar read must be defined, because it becomes an address or a condition.
template <class T>
inline T ScalarRead(View view, const char* api, Loc loc, const std::string& where) {
  if (!AllValid(view.valid, sizeof(T)))
    M().Note("uninitialised", loc, Format("%s reads a value that nothing defined, %s", api, where.c_str()));
  T value;
  std::memcpy(&value, view.data, sizeof(T));
  return value;
}

}  // namespace ascendc_emulator

namespace AscendC {

template <class T>
T LocalTensor<T>::GetValue(int64_t index, Loc loc) const {
  using namespace ascendc_emulator;
  Ranges ranges("LocalTensor.GetValue", loc);
  const auto size = static_cast<int64_t>(sizeof(T));
  CheckKind("LocalTensor.GetValue", loc, "the tensor", *this, Kind::kUb);
  ranges.Local("the tensor", *this, false, index * size, size);
  M().ScalarTouch("GetValue", loc, ranges.list());
  return ScalarRead<T>(view() + index * size, "LocalTensor.GetValue", loc,
                       Format("UB address %lld", static_cast<long long>(address_ + index * size)));
}

template <class T>
void LocalTensor<T>::SetValue(int64_t index, T value, Loc loc) const {
  using namespace ascendc_emulator;
  Ranges ranges("LocalTensor.SetValue", loc);
  const auto size = static_cast<int64_t>(sizeof(T));
  CheckKind("LocalTensor.SetValue", loc, "the tensor", *this, Kind::kUb);
  ranges.Local("the tensor", *this, true, index * size, size);
  M().ScalarTouch("SetValue", loc, ranges.list());
  const View at = view() + index * size;
  std::memcpy(at.data, &value, sizeof(T));
  std::memset(at.valid, 1, sizeof(T));
}

// Scalar accesses to GM go through the core's data cache of 64 B lines, which nothing keeps coherent
// (DataCacheCleanAndInvalid.md).
template <class T>
T GlobalTensor<T>::GetValue(int64_t index, Loc loc) const {
  using namespace ascendc_emulator;
  const auto size = static_cast<int64_t>(sizeof(T));
  Ranges ranges("GlobalTensor.GetValue", loc);
  ranges.Gm("the tensor", *this, false, index * size, size);
  M().Spin(loc);
  M().ScalarTouch("GetValue", loc, ranges.list());
  GmBuffer& buffer = *M().gm[static_cast<size_t>(gm_)];
  const View view = GmView(*this) + index * size;
  CheckScalarAddress("GlobalTensor.GetValue", loc, buffer, view.data, sizeof(T));
  const uint64_t address = static_cast<uint64_t>(view.data - buffer.base) + (static_cast<uint64_t>(gm_ + 1) << 40);
  auto [it, fresh] = t_core->dcache.try_emplace(address / 64);
  Core::CacheLine& line = it->second;
  const uint8_t* memory_line = view.data - address % 64;
  if (fresh) {
    line.loc = loc;
    std::memcpy(line.data, memory_line, 64);
  }
  for (uint64_t i = address % 64; i < address % 64 + sizeof(T); ++i)
    if (!(line.dirty >> i & 1) && line.data[i] != memory_line[i]) {
      M().Note(
          "dcache", loc,
          Format(
              "GlobalTensor.GetValue reads a stale cache line of %s (byte %lld): GM has changed since it was loaded; "
              "DataCacheCleanAndInvalid is missing",
              buffer.name.c_str(), static_cast<long long>(view.data - buffer.base)));
      break;
    }
  T value;
  std::memcpy(&value, line.data + address % 64, sizeof(T));
  if (!(line.dirty >> (address % 64) & 1) && !AllValid(view.valid, size))
    M().Note("uninitialised", loc,
             Format("GlobalTensor.GetValue reads byte %lld of %s, which nothing defined",
                    static_cast<long long>(view.data - buffer.base), buffer.name.c_str()));
  return value;
}

template <class T>
void GlobalTensor<T>::SetValue(int64_t index, T value, Loc loc) const {
  using namespace ascendc_emulator;
  const auto size = static_cast<int64_t>(sizeof(T));
  Ranges ranges("GlobalTensor.SetValue", loc);
  ranges.Gm("the tensor", *this, true, index * size, size);
  M().ScalarTouch("SetValue", loc, ranges.list());
  GmBuffer& buffer = *M().gm[static_cast<size_t>(gm_)];
  const uint8_t* data = GmView(*this).data + index * size;
  CheckScalarAddress("GlobalTensor.SetValue", loc, buffer, data, sizeof(T));
  const uint64_t address = static_cast<uint64_t>(data - buffer.base) + (static_cast<uint64_t>(gm_ + 1) << 40);
  auto [it, fresh] = t_core->dcache.try_emplace(address / 64);
  Core::CacheLine& line = it->second;
  if (fresh) std::memcpy(line.data, data - address % 64, 64);
  line.loc = loc;
  std::memcpy(line.data + address % 64, &value, sizeof(T));
  for (uint64_t i = 0; i < sizeof(T); ++i) line.dirty |= uint64_t{1} << (address % 64 + i);
}

template <class T, CacheLine entire, DcciDst dst = DcciDst::CACHELINE_OUT>
inline void DataCacheCleanAndInvalid(const GlobalTensor<T>& tensor, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  static_assert(dst != DcciDst::CACHELINE_UB, "a GlobalTensor is not in UB");
  auto clean = [&](uint64_t line, Core::CacheLine& cached) {
    GmBuffer& buffer = *M().gm[(line * 64 >> 40) - 1];
    const uint64_t offset = line * 64 & ((uint64_t{1} << 40) - 1);
    for (uint64_t i = 0; i < 64; ++i)
      if (cached.dirty >> i & 1) {
        buffer.base[offset + i] = cached.data[i];
        if (buffer.valid) buffer.valid->data()[offset + i] = 1;
      }
  };
  M().Spin(loc);
  auto& cache = t_core->dcache;
  if (entire == CacheLine::ENTIRE_DATA_CACHE) {
    for (auto& [line, cached] : cache) clean(line, cached);
    cache.clear();
    return;
  }
  if (tensor.gm() < 0)
    M().Fail("gm_bounds", loc, "DataCacheCleanAndInvalid: the tensor points to no GM tensor of the launch");
  GmBuffer& buffer = *M().gm[static_cast<size_t>(tensor.gm())];
  const uint64_t address =
      static_cast<uint64_t>(tensor.raw() - buffer.base) + (static_cast<uint64_t>(tensor.gm() + 1) << 40);
  if (address % 64 != 0)
    M().Fail(
        "alignment", loc,
        Format(
            "DataCacheCleanAndInvalid: byte %lld of %s is no multiple of 64: only a part of the line is written back",
            static_cast<long long>(tensor.raw() - buffer.base), buffer.name.c_str()));
  auto it = cache.find(address / 64);
  if (it == cache.end()) return;
  clean(it->first, it->second);
  cache.erase(it);
}

}  // namespace AscendC

#endif  // ASCENDC_EMULATOR_TENSOR_H_
