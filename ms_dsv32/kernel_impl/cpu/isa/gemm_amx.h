// Products on AMX's tiles. The strips of pack.h already have its layout of the second factor: 16 steps of a strip are a
// tile.
//
// An element of a product of bfloat16 is a chain as in gemm.h, with longer links. A link is 32 values of k: a tile sums
// the even ones in order and the odd ones in order, and adds the sum of both to c. So the bits differ from every other
// instruction set's, and k may be cut only at multiples of 32. Sums of int8 are exact and have the same bits in any
// order. For subnormals see fp_env.h.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_GEMM_AMX_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_GEMM_AMX_H_

#include "ms_dsv32/kernel_impl/cpu/isa/gemm_views.h"
#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

#if MS_DSV32_IS_AMX

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int kTileRows = 16;
constexpr int kTileBytes = 64;  // bytes of a row of a tile
// Bytes of a row that are taken at a time: so much of two strips, 32 KiB, stays in an L1 of 48 KiB for all rows.
constexpr int64_t kTileDepth = 1024;
constexpr int64_t kFewAhead = 256;  // bytes of a row that few rows fetch ahead: 4 KiB of each of four strips, in L1
constexpr int64_t kCopyRows = 128;  // rows that are copied at a time where they must be: 136 KiB

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 to 3 are sums, 4 and 5 x, 6 and 7 weights. `width` is the bytes of each row of x, because the last part of k
// may be less than a tile.
MS_DSV32_INLINE void ConfigureTiles(int64_t top, int64_t bottom, int64_t width) {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = tile == 4 || tile == 5 ? static_cast<uint16_t>(width) : kTileBytes;
    config.rows[tile] = static_cast<uint8_t>(width / 4);
  }
  config.rows[0] = config.rows[1] = config.rows[4] = static_cast<uint8_t>(top);
  config.rows[2] = config.rows[3] = config.rows[5] = static_cast<uint8_t>(Max<int64_t>(bottom, 1));
  // Not _tile_loadconfig: GCC believes that it reads eight bytes, and may leave out the others.
  asm volatile("ldtilecfg %0" : : "m"(config));
}

// Fetches the first lines of a tile of weights into L1 (kLocality 3) or L2 (2).
template <int kLocality, int kLines = kTileRows>
MS_DSV32_INLINE void FetchTile(const char* strip) {
#pragma GCC unroll 16
  for (int line = 0; line < kLines; ++line) __builtin_prefetch(strip + line * kTileBytes, 0, kLocality);
}

// The instructions take the numbers of tiles from their text.
#define MS_DSV32_TILE_DOT(c, a, b) \
  if constexpr (sizeof(T) == 1) {  \
    _tile_dpbssd(c, a, b);         \
  } else {                         \
    _tile_dpbf16ps(c, a, b);       \
  }

// Multiplies two tiles of rows with two strips, `depth` bytes of each row. Fetches kLines lines of each tile at ahead.
template <int kLines, typename T>
MS_DSV32_INLINE void TileSteps(const char* x0, const char* x1, int64_t x_bytes, const char* left, int64_t strip_bytes,
                               int64_t depth, const char* ahead) {
  const char* right = left + strip_bytes;
  for (int64_t s = 0; s < depth; s += kTileBytes) {
    if (kLines > 0) FetchTile<2, kLines>(ahead + s * kTileRows);
    _tile_loadd(4, x0 + s, x_bytes);
    _tile_loadd(6, left + s * kTileRows, kTileBytes);
    MS_DSV32_TILE_DOT(0, 4, 6)
    if (kLines > 0) FetchTile<2, kLines>(ahead + strip_bytes + s * kTileRows);
    _tile_loadd(7, right + s * kTileRows, kTileBytes);
    MS_DSV32_TILE_DOT(1, 4, 7)
    _tile_loadd(5, x1 + s, x_bytes);
    MS_DSV32_TILE_DOT(2, 5, 6)
    MS_DSV32_TILE_DOT(3, 5, 7)
  }
}

// One block of k, at most kTileDepth bytes deep: whole tiles, or less than one. It takes two tiles of rows times two
// strips at a time. Each pair fetches its part of the next weights, so that memory is never idle, because tiles are
// read faster than the hardware fetches ahead.
template <typename T, typename Sum>
__attribute__((noinline)) void GemmTiles(const Rows<T>& x, const Strips<T>& w, int64_t k, const Sums<Sum>& c) {
  asm volatile("" ::: "memory");  // GCC does not know that tile loads read memory
  const int64_t rows = x.count, x_bytes = x.StrideBytes(), strip_bytes = w.StrideBytes(), c_bytes = c.StrideBytes();
  const int64_t pairs = CeilDiv(rows, 2 * kTileRows), depth = k * static_cast<int64_t>(sizeof(T));
  const int strips = w.panels * (kPanel / kStrip);
  const bool load = c.accumulate;
  // Lines of a tile that each pair fetches, one of the few numbers that are compiled. Together the pairs fetch at least
  // 16. From eight pairs on the first eight do.
  const int lines = pairs == 1 ? 16 : (pairs < 4 ? 8 : (pairs < 8 ? 4 : 2));
  int64_t top = 0, bottom = -1;  // rows of the two tiles, as they are configured
  for (int strip = 0; strip < strips; strip += 2) {
    const char* left = w.Bytes() + strip * strip_bytes;
    const char* after = w.next == nullptr ? nullptr : w.Next() + strip * strip_bytes;
    int64_t m = 0;
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const int64_t count = CeilDiv(rows - m, pairs - pair);  // nearly equal heights
      if (top != CeilDiv(count, int64_t{2}) || bottom != count / 2) {
        top = CeilDiv(count, int64_t{2});
        bottom = count / 2;
        ConfigureTiles(top, bottom, Min<int64_t>(depth, kTileBytes));
      }
      const char* x0 = x.Bytes() + m * x_bytes;
      Sum* c0 = c.At(m, strip * kStrip);
      Sum* c1 = c0 + top * c.ld;
      if (load) {
        _tile_loadd(0, c0, c_bytes);
        _tile_loadd(1, c0 + kTileRows, c_bytes);
      } else {
        _tile_zero(0);
        _tile_zero(1);
      }
      if (bottom == 0) {  // a single row is left
        for (int64_t s = 0; s < depth; s += kTileBytes) {
          _tile_loadd(4, x0 + s, x_bytes);
          _tile_loadd(6, left + s * kTileRows, kTileBytes);
          MS_DSV32_TILE_DOT(0, 4, 6)
          _tile_loadd(7, left + strip_bytes + s * kTileRows, kTileBytes);
          MS_DSV32_TILE_DOT(1, 4, 7)
        }
      } else {
        const char* x1 = x0 + top * x_bytes;
        if (load) {
          _tile_loadd(2, c1, c_bytes);
          _tile_loadd(3, c1 + kTileRows, c_bytes);
        } else {
          _tile_zero(2);
          _tile_zero(3);
        }
        const char* ahead = after + pair * lines * kTileBytes;
        switch (after != nullptr && pair * lines < kTileRows ? lines : 0) {
          case 0:
            TileSteps<0, T>(x0, x1, x_bytes, left, strip_bytes, depth, ahead);
            break;
          case 2:
            TileSteps<2, T>(x0, x1, x_bytes, left, strip_bytes, depth, ahead);
            break;
          case 4:
            TileSteps<4, T>(x0, x1, x_bytes, left, strip_bytes, depth, ahead);
            break;
          case 8:
            TileSteps<8, T>(x0, x1, x_bytes, left, strip_bytes, depth, ahead);
            break;
          default:
            TileSteps<16, T>(x0, x1, x_bytes, left, strip_bytes, depth, ahead);
        }
        _tile_stored(2, c1, c_bytes);
        _tile_stored(3, c1 + kTileRows, c_bytes);
      }
      _tile_stored(0, c0, c_bytes);
      _tile_stored(1, c0 + kTileRows, c_bytes);
      m += count;
    }
  }
  _tile_release();
}

// kTileRows + 1 to 2 * kTileRows rows, whole tiles of k. It takes two strips at a time for all of k, in memory's order.
// It fetches the weights kFewAhead bytes of x further on, as GemmTilesFew does.
template <typename T, typename Sum>
__attribute__((noinline)) void GemmTilesPair(const Rows<T>& x, const Strips<T>& w, int64_t k, const Sums<Sum>& c) {
  asm volatile("" ::: "memory");  // GCC does not know that tile loads read memory
  const int64_t x_bytes = x.StrideBytes(), strip_bytes = w.StrideBytes(), c_bytes = c.StrideBytes();
  const int64_t depth = k * static_cast<int64_t>(sizeof(T)), distance = Min(kFewAhead, depth);
  const int64_t bottom = x.count / 2, top = x.count - bottom;
  const int strips = w.panels * (kPanel / kStrip);
  ConfigureTiles(top, bottom, kTileBytes);
  for (int strip = 0; strip < strips; strip += 2) {
    const char* left = w.Bytes() + strip * strip_bytes;
    const char* right = left + strip_bytes;
    const char* then = strip + 2 < strips ? right + strip_bytes : w.Next();
    const char* x0 = x.Bytes();
    const char* x1 = x0 + top * x_bytes;
    Sum* c0 = c.At(0, strip * kStrip);
    Sum* c1 = c0 + top * c.ld;
    if (c.accumulate) {
      _tile_loadd(0, c0, c_bytes);
      _tile_loadd(1, c0 + kTileRows, c_bytes);
      _tile_loadd(2, c1, c_bytes);
      _tile_loadd(3, c1 + kTileRows, c_bytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t s = 0; s < depth; s += kTileBytes) {
      const bool here = s + distance < depth;
      const char* ahead = here ? left : then;
      if (ahead != nullptr) ahead += (s + distance - (here ? 0 : depth)) * kTileRows;
      _tile_loadd(4, x0 + s, x_bytes);
      if (ahead != nullptr) FetchTile<3>(ahead);
      _tile_loadd(6, left + s * kTileRows, kTileBytes);
      MS_DSV32_TILE_DOT(0, 4, 6)
      _tile_loadd(5, x1 + s, x_bytes);
      MS_DSV32_TILE_DOT(2, 5, 6)
      if (ahead != nullptr) FetchTile<3>(ahead + strip_bytes);
      _tile_loadd(7, right + s * kTileRows, kTileBytes);
      MS_DSV32_TILE_DOT(1, 4, 7)
      MS_DSV32_TILE_DOT(3, 5, 7)
    }
    _tile_stored(0, c0, c_bytes);
    _tile_stored(1, c0 + kTileRows, c_bytes);
    _tile_stored(2, c1, c_bytes);
    _tile_stored(3, c1 + kTileRows, c_bytes);
  }
  _tile_release();
}

// At most kTileRows rows, whole tiles of k or less than one. It takes four strips at a time, in memory's order; their
// sums are tiles 0 to 3. It fetches the weights kFewAhead bytes of x further on, in these strips or in the next ones.
template <typename T, typename Sum>
__attribute__((noinline)) void GemmTilesFew(const Rows<T>& x, const Strips<T>& w, int64_t k, const Sums<Sum>& c) {
  asm volatile("" ::: "memory");  // GCC does not know that tile loads read memory
  const int64_t x_bytes = x.StrideBytes(), strip_bytes = w.StrideBytes(), c_bytes = c.StrideBytes();
  const int64_t depth = k * static_cast<int64_t>(sizeof(T)), distance = Min(kFewAhead, depth);
  ConfigureTiles(x.count, x.count, Min<int64_t>(depth, kTileBytes));
  for (int panel = 0; panel < w.panels; ++panel) {
    const char* s0 = w.Bytes() + panel * (kPanel / kStrip) * strip_bytes;
    const char* s1 = s0 + strip_bytes;
    const char* s2 = s1 + strip_bytes;
    const char* s3 = s2 + strip_bytes;
    const char* then = panel + 1 < w.panels ? s3 + strip_bytes : w.Next();
    Sum* sums = c.At(0, panel * kPanel);
    if (c.accumulate) {
      _tile_loadd(0, sums, c_bytes);
      _tile_loadd(1, sums + kTileRows, c_bytes);
      _tile_loadd(2, sums + 2 * kTileRows, c_bytes);
      _tile_loadd(3, sums + 3 * kTileRows, c_bytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t s = 0; s < depth; s += kTileBytes) {
      const int64_t at = s * kTileRows;
      const bool here = s + distance < depth;
      const char* ahead = here ? s0 : then;
      if (ahead != nullptr) ahead += (s + distance - (here ? 0 : depth)) * kTileRows;
      _tile_loadd(4, x.Bytes() + s, x_bytes);
      if (ahead != nullptr) FetchTile<3>(ahead);
      _tile_loadd(6, s0 + at, kTileBytes);
      MS_DSV32_TILE_DOT(0, 4, 6)
      if (ahead != nullptr) FetchTile<3>(ahead + strip_bytes);
      _tile_loadd(7, s1 + at, kTileBytes);
      MS_DSV32_TILE_DOT(1, 4, 7)
      if (ahead != nullptr) FetchTile<3>(ahead + 2 * strip_bytes);
      _tile_loadd(6, s2 + at, kTileBytes);
      MS_DSV32_TILE_DOT(2, 4, 6)
      if (ahead != nullptr) FetchTile<3>(ahead + 3 * strip_bytes);
      _tile_loadd(7, s3 + at, kTileBytes);
      MS_DSV32_TILE_DOT(3, 4, 7)
    }
    _tile_stored(0, sums, c_bytes);
    _tile_stored(1, sums + kTileRows, c_bytes);
    _tile_stored(2, sums + 2 * kTileRows, c_bytes);
    _tile_stored(3, sums + 3 * kTileRows, c_bytes);
  }
  _tile_release();
}

#undef MS_DSV32_TILE_DOT

// Copies `depth` bytes of each row, to rows of kTileDepth and one line.
template <typename T>
inline void CopyRows(const Rows<T>& x, int64_t depth, char* out) {
  constexpr int64_t kStride = kTileDepth + kTileBytes;
  for (int64_t m = 0; m < x.count; ++m) {
    const char* row = x.Bytes() + m * x.StrideBytes();
    if (m + 1 < x.count) {
      for (int64_t byte = 0; byte < depth; byte += 64) Prefetch(row + x.StrideBytes() + byte);
    }
    int64_t byte = 0;
    for (; byte + kVecBytes <= depth; byte += kVecBytes) StoreAs(out + m * kStride + byte, LoadAs<VecI>(row + byte));
    for (; byte < depth; byte += 4) StoreAs(out + m * kStride + byte, LoadAs<int32_t>(row + byte));
  }
}

// GemmBf16 and GemmInt8 on tiles.
template <typename T, typename Sum>
inline void GemmAmx(const Rows<T>& x, const Strips<T>& w, int64_t k, const Sums<Sum>& c) {
  constexpr int64_t kTileK = kTileBytes / sizeof(T);
  const int64_t whole = k / kTileK * kTileK;  // the rest is less than a tile
  // The part of k from k0 on, and what comes after it.
  const auto strips = [&](int64_t k0, const void* next) {
    return Strips<T>{w.w + k0 * kStrip, w.stride, w.panels, next};
  };
  if (x.count <= kTileRows) {
    if (whole > 0) GemmTilesFew(x, strips(0, w.next), whole, c);
    if (whole < k) {
      GemmTilesFew(Rows<T>{x.x + whole, x.ld, x.count}, strips(whole, nullptr), k - whole, c.From(0, 0, whole > 0));
    }
    return;
  }
  // Copies rows that are a large power of two apart: they share sets of the caches, and would be read from memory for
  // each strip.
  const bool copy = x.StrideBytes() % 4096 == 0;
  if (x.count <= 2 * kTileRows && !copy && whole > 0) {
    GemmTilesPair(x, strips(0, w.next), whole, c);
    if (whole < k) {
      GemmTiles(Rows<T>{x.x + whole, x.ld, x.count}, strips(whole, nullptr), k - whole, c.From(0, 0, true));
    }
    return;
  }
  constexpr int64_t kCopyStride = kTileDepth + kTileBytes;
  alignas(64) char copied[kCopyRows * kCopyStride];
  for (int64_t m = 0; m < x.count; m += copy ? kCopyRows : x.count) {
    const int64_t count = copy ? Min(kCopyRows, x.count - m) : x.count;
    for (int64_t k0 = 0, depth; k0 < k; k0 += depth) {
      depth = k0 < whole ? Min(kTileDepth / static_cast<int64_t>(sizeof(T)), whole - k0) : k - k0;
      const T* after = w.w + (k0 + depth) * kStrip;
      const void* next = k0 + depth < k ? static_cast<const void*>(after) : w.next;
      Rows<T> rows = {x.x + m * x.ld + k0, x.ld, count};
      if (copy) {
        CopyRows(rows, depth * static_cast<int64_t>(sizeof(T)), copied);
        rows = {reinterpret_cast<const T*>(copied), kCopyStride / static_cast<int64_t>(sizeof(T)), count};
      }
      GemmTiles(rows, strips(k0, m == 0 ? next : nullptr), depth, c.From(m, 0, k0 > 0));
    }
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_GEMM_AMX_H_
