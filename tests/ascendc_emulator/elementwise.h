// One vector instruction on UB: the elements that take part, the ranges and overlaps of its operands, its execution.
// 高维切分.md: a repeat is 256 B of the widest operand, in 8 blocks of 32 B with a stride of their own; at most 255
// repeats.
#ifndef ASCENDC_EMULATOR_ELEMENTWISE_H_
#define ASCENDC_EMULATOR_ELEMENTWISE_H_

#include "tensor.h"

namespace ascendc_emulator {

// The elements that take part: the first `count`, or the mask's in each of `repeat` repeats.
struct Lanes {
  bool counted = false;
  int64_t count = 0, repeat = 0;
  uint64_t mask[2] = {0, 0};
  bool nop() const { return counted ? count == 0 : repeat == 0 || (mask[0] | mask[1]) == 0; }
  bool bit(int64_t e) const { return mask[e >> 6] >> (e & 63) & 1; }
  int64_t prefix() const {  // n if the mask is exactly the first n lanes, else -1
    int64_t n = 0;
    while (n < 128 && bit(n)) ++n;
    for (int64_t e = n; e < 128; ++e)
      if (bit(e)) return -1;
    return n;
  }
};
inline Lanes Counted(const char* api, Loc loc, int64_t count) {
  Lanes lanes;
  lanes.counted = true;
  lanes.count = Range(api, loc, "count", count, 0, 196608);
  return lanes;
}
// The mask is in units of the widest operand, `width` bytes.
inline Lanes Masked(const char* api, Loc loc, uint64_t mask, int64_t repeat, int64_t width, int64_t max_repeat = 255) {
  Lanes lanes;
  const int64_t n = Range(api, loc, "mask", static_cast<int64_t>(mask), 0, 256 / std::max<int64_t>(width, 2));
  lanes.repeat = Range(api, loc, "repeatTime", repeat, 0, max_repeat);
  lanes.mask[0] = n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1;
  lanes.mask[1] = n <= 64 ? 0 : n >= 128 ? ~uint64_t{0} : (uint64_t{1} << (n - 64)) - 1;
  return lanes;
}
inline Lanes Masked(const char* api, Loc loc, uint64_t* mask, int64_t repeat, int64_t width, int64_t max_repeat = 255) {
  Lanes lanes;
  lanes.repeat = Range(api, loc, "repeatTime", repeat, 0, max_repeat);
  lanes.mask[0] = mask[0];
  lanes.mask[1] = mask[1];
  if (width == 4 && mask[1] != 0)
    M().Fail("argument", loc, Format("%s: mask[1] must be 0 for 4-byte types, a repeat has 64 of them", api));
  return lanes;
}

// An operand of a vector instruction with its strides in bytes.
template <class T>
struct Operand {
  LocalTensor<T> tensor;
  int64_t blk = 32, rep = 256;
  const char* what = "dst";
  static constexpr int64_t kSize = static_cast<int64_t>(sizeof(T));
  static constexpr int64_t kPerBlock = 32 / kSize;
  int64_t Offset(int64_t repeat, int64_t element) const {
    return repeat * rep + element / kPerBlock * blk + element % kPerBlock * kSize;
  }
};

template <class T>
inline Operand<T> Strided(const char* api, Loc loc, const char* what, const LocalTensor<T>& tensor, int64_t blk,
                          int64_t rep, int64_t blk_max, int64_t rep_max) {
  Operand<T> operand;
  operand.tensor = tensor;
  operand.blk = Range(api, loc, Format("block stride of %s (32 B)", what).c_str(), blk, 0, blk_max) * 32;
  operand.rep = Range(api, loc, Format("repeat stride of %s (32 B)", what).c_str(), rep, 0, rep_max) * 32;
  operand.what = what;
  return operand;
}
template <class T>
inline Operand<T> Whole(const char* what, const LocalTensor<T>& tensor) {
  Operand<T> operand;
  operand.tensor = tensor;
  operand.what = what;
  return operand;
}

// The ranges that an operand touches.
template <class T>
inline void AddRanges(Ranges& ranges, const Operand<T>& o, const Lanes& lanes, bool write) {
  if (lanes.counted) {
    ranges.Local(o.what, o.tensor, write, 0, lanes.count * o.kSize);
    return;
  }
  int64_t e = 0;
  const int64_t all = 128;
  while (e < all) {
    if (!lanes.bit(e)) {
      ++e;
      continue;
    }
    int64_t end = e;
    while (end < all && lanes.bit(end) && (o.blk == 32 || end / o.kPerBlock == e / o.kPerBlock)) ++end;
    ranges.Local(o.what, o.tensor, write, o.Offset(0, e), (end - e) * o.kSize, lanes.repeat, o.rep);
    e = end;
  }
}

// 通用地址重叠约束: within a repeat a source is the destination or does not touch it, and no repeat reads what an
// earlier one wrote. This check is stricter where elements become narrower in place, about which the page is not clear.
// With `accumulates` the second source may be the destination with a repeat stride of 0.
template <class D, class S>
inline void CheckOverlap(const char* api, Loc loc, const Operand<D>& dst, const Operand<S>& src, const Lanes& lanes,
                         bool accumulates) {
  const int64_t d0 = dst.tensor.address(), s0 = src.tensor.address();
  if (lanes.counted) {
    const int64_t dn = lanes.count * dst.kSize, sn = lanes.count * src.kSize;
    if (d0 + dn <= s0 || s0 + sn <= d0) return;
    if (d0 == s0 && dst.kSize == src.kSize) return;
    M().Fail(
        "overlap", loc,
        Format("%s: dst [%lld, %lld) and %s [%lld, %lld) overlap in part", api, static_cast<long long>(d0),
               static_cast<long long>(d0 + dn), src.what, static_cast<long long>(s0), static_cast<long long>(s0 + sn)));
  }
  if (d0 == s0 && dst.kSize == src.kSize && dst.blk == src.blk && dst.rep == src.rep && dst.blk != 0 &&
      (dst.rep != 0 || lanes.repeat == 1))
    return;
  if (dst.blk == 32 && src.blk == 32) {  // quick: whole footprints apart
    const int64_t dn = (lanes.repeat - 1) * dst.rep + 256, sn = (lanes.repeat - 1) * src.rep + 256;
    if (d0 + dn <= s0 || s0 + sn <= d0) return;
  }
  if (accumulates && d0 == s0 && dst.blk == src.blk && (dst.rep == 0 || src.rep == 0)) return;
  // Block by block: operands are aligned to 32 B, so two of one element size meet in whole blocks.
  struct Stamp {
    uint64_t write_call = 0, read_call = 0;
    int32_t write_repeat = 0, read_repeat = 0, read_block = 0;
  };
  thread_local std::vector<Stamp> stamps(196608 / 32);
  thread_local uint64_t call = 0;
  ++call;
  const int64_t widest = std::max(dst.kSize, src.kSize);
  const auto blocks = [&](const auto& operand, auto visit) {
    const int64_t per_block = 32 / operand.kSize, count = 256 / widest / per_block;
    for (int64_t j = 0; j < count; ++j) {
      bool any = false;
      for (int64_t e = j * per_block; e < (j + 1) * per_block; ++e) any = any || lanes.bit(e);
      if (any) visit(j);
    }
  };
  for (int64_t r = 0; r < lanes.repeat; ++r) {
    blocks(src, [&](int64_t j) {
      Stamp& stamp = stamps[static_cast<size_t>((s0 + r * src.rep + j * src.blk) / 32)];
      if (stamp.write_call == call)
        M().Fail("overlap", loc,
                 Format("%s: repeat %lld reads from %s what repeat %d writes to dst", api, static_cast<long long>(r),
                        src.what, stamp.write_repeat));
      stamp.read_call = call;
      stamp.read_repeat = static_cast<int32_t>(r);
      stamp.read_block = static_cast<int32_t>(j);
    });
    blocks(dst, [&](int64_t j) {
      Stamp& stamp = stamps[static_cast<size_t>((d0 + r * dst.rep + j * dst.blk) / 32)];
      if (stamp.read_call == call && stamp.read_repeat == r && (stamp.read_block != j || dst.kSize != src.kSize))
        M().Fail("overlap", loc,
                 Format("%s: dst and %s overlap in part within repeat %lld", api, src.what, static_cast<long long>(r)));
      stamp.write_call = call;
      stamp.write_repeat = static_cast<int32_t>(r);
    });
  }
}

template <class T>
inline bool ElementValid(const uint8_t* valid, int64_t i) {
  const uint8_t* v = valid + i * static_cast<int64_t>(sizeof(T));
  return v[0] && v[sizeof(T) - 1];
}

// Operands that held nothing defined at all. That is not padding, but a missing copy.
struct Seen {
  bool any[2] = {false, false};
};

template <class D, class F>
inline void Chunk(int64_t n, View dst, F f, Seen&) {
  auto* d = reinterpret_cast<D*>(dst.data);
  for (int64_t i = 0; i < n; ++i) d[i] = f();
  std::memset(dst.valid, 1, static_cast<size_t>(n) * sizeof(D));
}
template <class D, class S, class F>
inline void Chunk(int64_t n, View dst, View src, F f, Seen& seen) {
  auto* d = reinterpret_cast<D*>(dst.data);
  auto* s = reinterpret_cast<const S*>(src.data);
  if (AllValid(src.valid, n * static_cast<int64_t>(sizeof(S)))) {
    seen.any[0] = true;
    std::memset(dst.valid, 1, static_cast<size_t>(n) * sizeof(D));
  } else {
    for (int64_t i = 0; i < n; ++i) {
      const bool ok = ElementValid<S>(src.valid, i);
      seen.any[0] |= ok;
      std::memset(dst.valid + i * static_cast<int64_t>(sizeof(D)), ok, sizeof(D));
    }
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) d[i] = f(s[i]);
}
template <class D, class S, class S1, class F>
inline void Chunk(int64_t n, View dst, View src0, View src1, F f, Seen& seen) {
  auto* d = reinterpret_cast<D*>(dst.data);
  auto* a = reinterpret_cast<const S*>(src0.data);
  auto* b = reinterpret_cast<const S*>(src1.data);
  const int64_t bytes = n * static_cast<int64_t>(sizeof(S));
  if (AllValid(src0.valid, bytes) && AllValid(src1.valid, bytes)) {
    seen.any[0] = seen.any[1] = true;
    std::memset(dst.valid, 1, static_cast<size_t>(n) * sizeof(D));
  } else {
    for (int64_t i = 0; i < n; ++i) {
      const bool ok0 = ElementValid<S>(src0.valid, i), ok1 = ElementValid<S>(src1.valid, i);
      seen.any[0] |= ok0;
      seen.any[1] |= ok1;
      std::memset(dst.valid + i * static_cast<int64_t>(sizeof(D)), ok0 && ok1, sizeof(D));
    }
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) d[i] = f(a[i], b[i]);
}

inline void ReportUnseen(const char* api, Loc loc, bool seen, const char* what) {
  if (!seen) M().Note("uninitialised", loc, Format("%s: no value of %s was ever defined", api, what));
}

// One instruction on a destination and up to two sources of one type.
template <class D, class F, class... S>
inline void Elementwise(const char* api, Loc loc, double rate, const Lanes& lanes, bool accumulates, F f,
                        const Operand<D>& dst, const Operand<S>&... src) {
  constexpr int64_t kWidest = std::max({static_cast<int64_t>(sizeof(D)), static_cast<int64_t>(sizeof(S))...});
  constexpr int64_t kChunk = 32 / kWidest;
  CheckKind(api, loc, dst.what, dst.tensor, Kind::kUb);
  CheckAlign(api, loc, dst.what, dst.tensor, 32);
  (CheckKind(api, loc, src.what, src.tensor, Kind::kUb), ...);
  (CheckAlign(api, loc, src.what, src.tensor, 32), ...);
  if (lanes.nop()) return;
  Ranges ranges(api, loc);
  (AddRanges(ranges, src, lanes, false), ...);
  AddRanges(ranges, dst, lanes, true);
  int position = 0;
  (CheckOverlap(api, loc, dst, src, lanes, accumulates && ++position == 2), ...);
  const int64_t repeats = lanes.counted ? (lanes.count * kWidest + 255) / 256 : lanes.repeat;
  const double busy = kVectorIssue + static_cast<double>(repeats * (256 / kWidest)) / rate;
  M().Issue(PIPE_V, api, loc, ranges.list(), {busy, kVectorHead}, [=] {
    Seen seen;
    const View to = dst.tensor.view();
    if (lanes.counted) {
      Chunk<D, S...>(lanes.count, to, src.tensor.view()..., f, seen);
    } else {
      const int64_t prefix = lanes.prefix();
      const bool dense = prefix > 0 && dst.blk == 32 && ((src.blk == 32) && ... && true);
      for (int64_t r = 0; r < lanes.repeat; ++r) {
        if (dense) {
          Chunk<D, S...>(prefix, to + r * dst.rep, (src.tensor.view() + r * src.rep)..., f, seen);
          continue;
        }
        for (int64_t e = 0; e < 256 / kWidest; e += kChunk) {
          int64_t run = 0;
          while (run < kChunk && lanes.bit(e + run)) ++run;
          if (run == kChunk) {
            Chunk<D, S...>(kChunk, to + dst.Offset(r, e), (src.tensor.view() + src.Offset(r, e))..., f, seen);
          } else {
            for (int64_t i = e; i < e + kChunk; ++i)
              if (lanes.bit(i))
                Chunk<D, S...>(1, to + dst.Offset(r, i), (src.tensor.view() + src.Offset(r, i))..., f, seen);
          }
        }
      }
    }
    int k = 0;
    (ReportUnseen(api, loc, seen.any[k++], src.what), ...);
  });
}

}  // namespace ascendc_emulator

#endif  // ASCENDC_EMULATOR_ELEMENTWISE_H_
