// DMA and UB copies: DataCopy, DataCopyPad, Nd2Nz, Copy; atomic accumulation of DMA writes.
#ifndef ASCENDC_EMULATOR_COPY_H_
#define ASCENDC_EMULATOR_COPY_H_

#include "tensor.h"

namespace ascendc_emulator {

// `count` blocks of `len` bytes, with the distance between their starts on both sides.
struct Blocks {
  int64_t count, len, src_step, dst_step;
};

enum class Atomic : uint64_t { kNone = 0, kFloat, kHalf, kBfloat16, kInt32, kInt16, kInt8 };

template <class T>
constexpr Atomic AtomicType() {
  if constexpr (std::is_same_v<T, float>) return Atomic::kFloat;
  if constexpr (std::is_same_v<T, half>) return Atomic::kHalf;
  if constexpr (std::is_same_v<T, bfloat16_t>) return Atomic::kBfloat16;
  if constexpr (std::is_same_v<T, int32_t>) return Atomic::kInt32;
  if constexpr (std::is_same_v<T, int16_t>) return Atomic::kInt16;
  if constexpr (std::is_same_v<T, int8_t>) return Atomic::kInt8;
  return Atomic::kNone;
}

template <class T, class Add>
inline void AddElements(uint8_t* dst, const uint8_t* src, int64_t n, Add add) {
  for (int64_t i = 0; i + static_cast<int64_t>(sizeof(T)) <= n; i += sizeof(T)) {
    T a, b;
    std::memcpy(&a, dst + i, sizeof(T));
    std::memcpy(&b, src + i, sizeof(T));
    a = add(a, b);
    std::memcpy(dst + i, &a, sizeof(T));
  }
}

// A write of `n` bytes to GM.
inline void WriteGm(GmBuffer& buffer, View dst, View src, int64_t n, Atomic atomic, const char* api, Loc loc) {
  CheckDefined(buffer, src, n, dst.data, api, loc);
  if (atomic == Atomic::kNone) {
    Move(dst, src, n);
    return;
  }
  std::lock_guard<std::mutex> lock(buffer.mutex);
  if (!AllValid(dst.valid, n))
    M().Note("uninitialised", loc,
             Format("%s: atomic add to bytes of %s that nothing defined", api, buffer.name.c_str()));
  switch (atomic) {
    case Atomic::kFloat:
      AddElements<float>(dst.data, src.data, n, [](float a, float b) { return a + b; });
      break;
    case Atomic::kHalf:
      AddElements<half>(dst.data, src.data, n,
                        [](half a, half b) { return half(static_cast<float>(a) + static_cast<float>(b)); });
      break;
    case Atomic::kBfloat16:
      AddElements<uint16_t>(dst.data, src.data, n,
                            [](uint16_t a, uint16_t b) { return Bfloat16Bits(Bfloat16Value(a) + Bfloat16Value(b)); });
      break;
    case Atomic::kInt32:
      AddElements<uint32_t>(dst.data, src.data, n, [](uint32_t a, uint32_t b) { return a + b; });
      break;
    case Atomic::kInt16:
      AddElements<uint16_t>(dst.data, src.data, n, [](uint16_t a, uint16_t b) { return static_cast<uint16_t>(a + b); });
      break;
    default:
      AddElements<uint8_t>(dst.data, src.data, n, [](uint8_t a, uint8_t b) { return static_cast<uint8_t>(a + b); });
  }
}

template <class T>
inline void CheckGmAlign(const char* api, Loc loc, const GlobalTensor<T>& tensor) {
  if (tensor.gm() < 0) return;  // reported with the range
  const int64_t offset = tensor.raw() - M().gm[static_cast<size_t>(tensor.gm())]->base;
  if (offset % static_cast<int64_t>(sizeof(T)) != 0)
    M().Fail(
        "alignment", loc,
        Format("%s: GM byte %lld is no multiple of sizeof(%s)", api, static_cast<long long>(offset), TypeName<T>()));
}

// The atomic mode of a write of T to GM. An instruction takes the mode with it when it is issued, because the example
// of SetAtomicAdd.md ends the mode right after a copy.
template <class T>
inline Atomic AtomicMode(const char* api, Loc loc) {
  if (t_core->atomic < 0)
    M().Fail("argument", loc,
             Format("%s: nobody set the atomic mode, there is no TPipe and no SetAtomicNone (InitSocState.md)", api));
  const auto atomic = static_cast<Atomic>(t_core->atomic);
  if (atomic != Atomic::kNone && atomic != AtomicType<T>())
    M().Fail("argument", loc, Format("%s: SetAtomicAdd was set for another type than %s", api, TypeName<T>()));
  return atomic;
}

inline Cost GmCost(const Ranges& ranges, double rate) {
  return {M().options.gm.issue + ranges.gm_cycles(rate), M().options.gm.latency};
}

// GM to UB or L1.
template <class T>
inline void CopyIn(const char* api, Loc loc, const LocalTensor<T>& dst, const GlobalTensor<T>& src, Blocks b) {
  if (dst.kind() != Kind::kUb && dst.kind() != Kind::kL1)
    M().Fail("position", loc, Format("%s: no path from GM to %s", api, Model(dst.kind()).name));
  CheckKind(api, loc, "dst", dst, dst.kind());
  CheckAlign(api, loc, "dst", dst, 32);
  CheckGmAlign(api, loc, src);
  if (b.count == 0 || b.len == 0) return;
  Ranges ranges(api, loc);
  ranges.Gm("src", src, false, 0, b.len, b.count, b.src_step);
  ranges.Local("dst", dst, true, 0, b.len, b.count, b.dst_step);
  const View to = dst.view(), from = GmView(src);
  M().Issue(PIPE_MTE2, api, loc, ranges.list(), GmCost(ranges, kL2Read), [to, from, b] {
    for (int64_t i = 0; i < b.count; ++i) Move(to + i * b.dst_step, from + i * b.src_step, b.len);
  });
}

// UB or L1 to GM.
template <class T>
inline void CopyOut(const char* api, Loc loc, const GlobalTensor<T>& dst, const LocalTensor<T>& src, Blocks b) {
  if (src.kind() != Kind::kUb && src.kind() != Kind::kL1)
    M().Fail("position", loc, Format("%s: no path from %s to GM", api, Model(src.kind()).name));
  CheckKind(api, loc, "src", src, src.kind());
  CheckAlign(api, loc, "src", src, 32);
  CheckGmAlign(api, loc, dst);
  if (b.count == 0 || b.len == 0) return;
  const Atomic atomic = AtomicMode<T>(api, loc);
  Ranges ranges(api, loc);
  ranges.Local("src", src, false, 0, b.len, b.count, b.src_step);
  ranges.Gm("dst", dst, true, 0, b.len, b.count, b.dst_step);
  if (b.dst_step < b.len && b.count > 1) M().Fail("overflow", loc, Format("%s: blocks overlap in GM", api));
  const View from = src.view(), to = GmView(dst);
  GmBuffer* buffer = M().gm[static_cast<size_t>(dst.gm())].get();
  M().Issue(PIPE_MTE3, api, loc, ranges.list(), GmCost(ranges, kUbToGm), [to, from, b, buffer, atomic, api, loc] {
    for (int64_t i = 0; i < b.count; ++i)
      WriteGm(*buffer, to + i * b.dst_step, from + i * b.src_step, b.len, atomic, api, loc);
  });
}

template <class T>
inline void CopyUb(const char* api, Loc loc, const LocalTensor<T>& dst, const LocalTensor<T>& src, Blocks b) {
  if (dst.kind() != Kind::kUb || src.kind() != Kind::kUb)
    M().Fail("position", loc,
             Format("%s: arch 2201 has no path from %s to %s", api, Model(src.kind()).name, Model(dst.kind()).name));
  CheckKind(api, loc, "src", src, Kind::kUb);
  CheckAlign(api, loc, "src", src, 32);
  CheckAlign(api, loc, "dst", dst, 32);
  if (b.count == 0 || b.len == 0) return;
  Ranges ranges(api, loc);
  ranges.Local("src", src, false, 0, b.len, b.count, b.src_step);
  ranges.Local("dst", dst, true, 0, b.len, b.count, b.dst_step);
  const View from = src.view(), to = dst.view();
  const double cycles = static_cast<double>(b.count * b.len) / kUbToUb;
  M().Issue(PIPE_V, api, loc, ranges.list(), {kVectorIssue + cycles, kVectorHead}, [to, from, b] {
    for (int64_t i = 0; i < b.count; ++i) Move(to + i * b.dst_step, from + i * b.src_step, b.len);
  });
}

inline Blocks FromParams(const char* api, Loc loc, const AscendC::DataCopyParams& p) {
  const int64_t count = Range(api, loc, "blockCount", p.blockCount, 0, 4095);
  const int64_t len = Range(api, loc, "blockLen (32 B)", p.blockLen, 0, 65535) * 32;
  return {count, len, len + Range(api, loc, "srcStride (gap, 32 B)", p.srcStride, 0, 65535) * 32,
          len + Range(api, loc, "dstStride (gap, 32 B)", p.dstStride, 0, 65535) * 32};
}
template <class T>
inline Blocks FromCount(const char* api, Loc loc, uint32_t count) {
  const int64_t bytes = int64_t{count} * static_cast<int64_t>(sizeof(T));
  if (bytes % 32 != 0)
    M().Fail("argument", loc,
             Format("%s: %u elements of %s are %lld bytes, no multiple of 32: the device drops the tail", api, count,
                    TypeName<T>(), static_cast<long long>(bytes)));
  return {1, bytes, bytes, bytes};
}

}  // namespace ascendc_emulator

namespace AscendC {

// DataCopy（GM与UB连续数据搬运）.md, DataCopy（GMToL1连续数据搬运）.md
template <class T>
inline void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t count, Loc loc = Loc::Here()) {
  ascendc_emulator::CopyIn("DataCopy", loc, dst, src, ascendc_emulator::FromCount<T>("DataCopy", loc, count));
}
template <class T>
inline void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count, Loc loc = Loc::Here()) {
  ascendc_emulator::CopyOut("DataCopy", loc, dst, src, ascendc_emulator::FromCount<T>("DataCopy", loc, count));
}
template <class T>
inline void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count, Loc loc = Loc::Here()) {
  ascendc_emulator::CopyUb("DataCopy", loc, dst, src, ascendc_emulator::FromCount<T>("DataCopy", loc, count));
}
// DataCopy（GM与UB高维切分数据搬运）.md, DataCopy（GMToL1高维切分数据搬运）.md
template <class T>
inline void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& params,
                     Loc loc = Loc::Here()) {
  ascendc_emulator::CopyIn("DataCopy", loc, dst, src, ascendc_emulator::FromParams("DataCopy", loc, params));
}
template <class T>
inline void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params,
                     Loc loc = Loc::Here()) {
  ascendc_emulator::CopyOut("DataCopy", loc, dst, src, ascendc_emulator::FromParams("DataCopy", loc, params));
}
template <class T>
inline void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params,
                     Loc loc = Loc::Here()) {
  ascendc_emulator::CopyUb("DataCopy", loc, dst, src, ascendc_emulator::FromParams("DataCopy", loc, params));
}

// DataCopyPad（GMToUB非对齐数据搬运）.md. Each block begins a fresh 32 B row of UB. The tail of its last row is rubbish
// unless isPad.
template <class T>
inline void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyExtParams& params,
                        const DataCopyPadExtParams<T>& pad, Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  const char* api = "DataCopyPad";
  if (dst.kind() != Kind::kUb)
    M().Fail("position", loc, "DataCopyPad: no path from GM to anything but UB on arch 2201");
  CheckKind(api, loc, "dst", dst, Kind::kUb);
  CheckAlign(api, loc, "dst", dst, 32);
  const auto size = static_cast<int64_t>(sizeof(T));
  const int64_t count = Range(api, loc, "blockCount", params.blockCount, 0, 4095);
  const int64_t len = Range(api, loc, "blockLen (bytes)", params.blockLen, 0, 2097151);
  const int64_t src_gap = Range(api, loc, "srcStride (gap, bytes)", params.srcStride, -len, 4294967295);
  const int64_t dst_gap = Range(api, loc, "dstStride (gap, 32 B)", params.dstStride, 0, 65535) * 32;
  const int64_t left = Range(api, loc, "leftPadding", pad.leftPadding, 0, 32 / size) * size;
  const int64_t right = Range(api, loc, "rightPadding", pad.rightPadding, 0, 32 / size) * size;
  if (len % size != 0)
    M().Fail(
        "argument", loc,
        Format("DataCopyPad: blockLen %lld is no multiple of sizeof(%s)", static_cast<long long>(len), TypeName<T>()));
  if (size == 8 && pad.isPad) {
    uint64_t bits = 0;
    std::memcpy(&bits, &pad.paddingValue, sizeof(T));
    if (bits != 0) M().Fail("argument", loc, "DataCopyPad: paddingValue of 8-byte types must be 0");
  }
  if (count == 0 || len == 0) return;
  const int64_t row = (left + len + right + 31) / 32 * 32;
  Ranges ranges(api, loc);
  ranges.Gm("src", src, false, 0, len, count, len + src_gap);
  ranges.Local("dst", dst, true, 0, row, count, row + dst_gap);
  const View to = dst.view(), from = GmView(src);
  const bool is_pad = pad.isPad;
  T value = pad.paddingValue;
  M().Issue(PIPE_MTE2, api, loc, ranges.list(), GmCost(ranges, kL2Read), [=] {
    for (int64_t i = 0; i < count; ++i) {
      const View line = to + i * (row + dst_gap);
      const View source = from + i * (len + src_gap);
      // Without isPad and without left/right the device repeats the first element, but a kernel must not rely on it.
      for (int64_t at = 0; at < row; at += size)
        std::memcpy(line.data + at, is_pad ? reinterpret_cast<const uint8_t*>(&value) : source.data,
                    static_cast<size_t>(size));
      std::memset(line.valid, is_pad, static_cast<size_t>(row));
      Move(line + left, source, len);
    }
  });
}
// DataCopyPad（UBToGM非对齐数据搬运）.md: blocks begin on 32 B rows of UB.
template <class T>
inline void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyExtParams& params,
                        Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  const char* api = "DataCopyPad";
  if (src.kind() != Kind::kUb) M().Fail("position", loc, "DataCopyPad: only UB has a path to GM");
  const int64_t count = Range(api, loc, "blockCount", params.blockCount, 0, 4095);
  const int64_t len = Range(api, loc, "blockLen (bytes)", params.blockLen, 0, 2097151);
  const int64_t src_gap = Range(api, loc, "srcStride (gap, 32 B)", params.srcStride, 0, 65535) * 32;
  const int64_t dst_gap = Range(api, loc, "dstStride (gap, bytes)", params.dstStride, 0, 4294967295);
  if (len % static_cast<int64_t>(sizeof(T)) != 0)
    M().Fail(
        "argument", loc,
        Format("DataCopyPad: blockLen %lld is no multiple of sizeof(%s)", static_cast<long long>(len), TypeName<T>()));
  CopyOut(api, loc, dst, src, {count, len, (len + 31) / 32 * 32 + src_gap, len + dst_gap});
}

// DataCopy（GMToL1随路转换-ND2NZ搬运）.md. Columns of C0 = 32 B; the D tail is filled with zeros, rows beyond nValue
// stay as they were.
template <class T>
inline void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const Nd2NzParams& p,
                     Loc loc = Loc::Here()) {
  using namespace ascendc_emulator;
  const char* api = "DataCopy(Nd2Nz)";
  if (dst.kind() != Kind::kL1) M().Fail("position", loc, "DataCopy(Nd2Nz): the destination must be in L1");
  CheckKind(api, loc, "dst", dst, Kind::kL1);
  CheckAlign(api, loc, "dst", dst, 32);
  const auto size = static_cast<int64_t>(sizeof(T));
  const int64_t nd = Range(api, loc, "ndNum", p.ndNum, 0, 4095), n = Range(api, loc, "nValue", p.nValue, 0, 16384);
  const int64_t d = Range(api, loc, "dValue", p.dValue, 0, 65535);
  const int64_t src_matrix = Range(api, loc, "srcNdMatrixStride", p.srcNdMatrixStride, 0, 65535) * size;
  const int64_t src_row = Range(api, loc, "srcDValue", p.srcDValue, 1, 65535) * size;
  const int64_t c0_step = Range(api, loc, "dstNzC0Stride (32 B)", p.dstNzC0Stride, 1, 16384) * 32;
  const int64_t n_step = Range(api, loc, "dstNzNStride (32 B)", p.dstNzNStride, 1, 16384) * 32;
  const int64_t dst_matrix = Range(api, loc, "dstNzMatrixStride", p.dstNzMatrixStride, 0, 16384) * size;
  if (nd == 0 || n == 0 || d == 0) return;
  const int64_t columns = (d * size + 31) / 32;
  if (columns > 1 && c0_step < (n - 1) * n_step + 32)
    M().Fail("argument", loc,
             Format("DataCopy(Nd2Nz): %lld rows do not fit between columns that are %lld rows apart (dstNzC0Stride): "
                    "they overlap",
                    static_cast<long long>(n), static_cast<long long>(c0_step / 32)));
  Ranges ranges(api, loc);
  for (int64_t m = 0; m < nd; ++m) {
    ranges.Gm("src", src, false, m * src_matrix, d * size, n, src_row);
    if (n_step == 32)
      ranges.Local("dst", dst, true, m * dst_matrix, n * 32, columns, c0_step);
    else
      ranges.Local("dst", dst, true, m * dst_matrix, 32, n, n_step, columns, c0_step);
  }
  const View to = dst.view(), from = GmView(src);
  M().Issue(PIPE_MTE2, api, loc, ranges.list(), GmCost(ranges, kL2Read), [=] {
    const int64_t row_bytes = d * size;
    for (int64_t m = 0; m < nd; ++m)
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t have = std::min<int64_t>(32, row_bytes - c * 32);
        const View column = to + (m * dst_matrix + c * c0_step), source = from + (m * src_matrix + c * 32);
        for (int64_t i = 0; i < n; ++i) {
          const View at = column + i * n_step;
          Move(at, source + i * src_row, have);
          if (have < 32) {
            std::memset(at.data + have, 0, static_cast<size_t>(32 - have));
            std::memset(at.valid + have, 1, static_cast<size_t>(32 - have));
          }
        }
      }
  });
}

// SetAtomicAdd.md: later DMA writes to GM add to what is there.
template <class T>
inline void SetAtomicAdd(Loc loc = Loc::Here()) {
  static_assert(ascendc_emulator::kOneOf<T, float, half, bfloat16_t, int32_t, int16_t, int8_t>,
                "SetAtomicAdd does not support this type");
  ascendc_emulator::t_core->atomic = static_cast<int>(ascendc_emulator::AtomicType<T>());
  (void)loc;
}
inline void SetAtomicNone() { ascendc_emulator::t_core->atomic = 0; }
inline void DisableDmaAtomic() { SetAtomicNone(); }

}  // namespace AscendC

#endif  // ASCENDC_EMULATOR_COPY_H_
