// int8 products on AMX's tiles. The strips of pack.h are its layout of the second factor already: 16 steps of a strip
// are a tile. Sums are exact, so the bits are those of every other way.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_GEMM_AMX_H_
#define MS_DSV32_KERNEL_IMPL_CPU_GEMM_AMX_H_

#include "ms_dsv32/kernel_impl/cpu/amx.h"
#include "ms_dsv32/kernel_impl/cpu/simd.h"

// AMX comes with AVX512_BF16. The flags of that instruction set do not allow it, because Zen 4 lacks it.
#if MS_DSV32_ISA_ID == MS_DSV32_ISA_ID_avx512_bf16 && !defined(MS_DSV32_SIMDE) && \
    ((defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11))
#define MS_DSV32_HAS_AMX 1

namespace ms_dsv32::cpu::MS_DSV32_ISA {

// With fewer rows the stream of weights bounds both ways, and AVX-512 reads it a little faster.
constexpr int64_t kMinRowsAmx = 9;
constexpr int kTileRows = 16;
constexpr int kTileBytes = 64;  // of a row
// Values of k at a time: those of two strips, 32 KiB, stay in an L1 of 48 KiB for all rows.
constexpr int64_t kTileDepth = 1024;

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Lines of two strips, 16 steps of each, into L2.
MS_DSV32_INLINE void FetchTiles(const int8_t* strip, int64_t stride) {
#pragma GCC unroll 16
  for (int line = 0; line < kTileRows; ++line) __builtin_prefetch(strip + line * kTileBytes, 0, 2);
#pragma GCC unroll 16
  for (int line = 0; line < kTileRows; ++line) __builtin_prefetch(strip + stride + line * kTileBytes, 0, 2);
}

// As GemmInt8; k is a multiple of 64. Two tiles of rows times two strips: tiles 0 to 3 are sums, 4
// and 5 x, 6 and 7 weights. The first rows fetch the weights that come next: tiles are read faster than the hardware
// fetches ahead.
__attribute__((target("amx-tile,amx-int8"), noinline)) inline void GemmInt8Amx(const int8_t* x, int64_t ldx,
                                                                               int64_t rows, const int8_t* w,
                                                                               int64_t strip_stride, int strips,
                                                                               int64_t k, int32_t* c, int64_t ldc,
                                                                               bool accumulate, const void* next) {
  asm volatile("" ::: "memory");  // GCC does not know that tile loads read memory
  const int64_t pairs = CeilDiv(rows, 2 * kTileRows);
  const int64_t c_bytes = ldc * static_cast<int64_t>(sizeof(*c));
  int64_t top = 0, bottom = -1;  // rows of the two tiles, as they are configured
  for (int64_t k0 = 0; k0 < k; k0 += kTileDepth) {
    const int64_t depth = Min(kTileDepth, k - k0);
    const bool load = accumulate || k0 > 0;
    for (int strip = 0; strip < strips; strip += 2) {
      const int8_t* left = w + strip * strip_stride + k0 * kTileRows;
      const int8_t* right = left + strip_stride;
      const int8_t* ahead = left + depth * kTileRows;
      if (k0 + depth == k) {
        ahead = strip + 2 < strips ? w + (strip + 2) * strip_stride : static_cast<const int8_t*>(next);
      }
      int64_t m = 0;
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const int64_t count = CeilDiv(rows - m, pairs - pair);  // nearly equal heights
        if (top != CeilDiv(count, int64_t{2}) || bottom != count / 2) {
          top = CeilDiv(count, int64_t{2});
          bottom = count / 2;
          TileConfig config;
          for (int tile = 0; tile < 8; ++tile) {
            config.row_bytes[tile] = kTileBytes;
            config.rows[tile] = kTileRows;
          }
          config.rows[0] = config.rows[1] = config.rows[4] = static_cast<uint8_t>(top);
          config.rows[2] = config.rows[3] = config.rows[5] = static_cast<uint8_t>(Max<int64_t>(bottom, 1));
          // Not _tile_loadconfig: GCC believes that it reads eight bytes, and may leave out the others.
          asm volatile("ldtilecfg %0" : : "m"(config));
        }
        const bool fetch = pair == 0 && ahead != nullptr;
        const int8_t* x0 = x + m * ldx + k0;
        int32_t* c0 = c + m * ldc + strip * kTileRows;
        int32_t* c1 = c0 + top * ldc;
        if (load) {
          _tile_loadd(0, c0, c_bytes);
          _tile_loadd(1, c0 + kTileRows, c_bytes);
        } else {
          _tile_zero(0);
          _tile_zero(1);
        }
        if (bottom == 0) {
          for (int64_t s = 0; s < depth; s += kTileBytes) {
            if (fetch) FetchTiles(ahead + s * kTileRows, strip_stride);
            _tile_loadd(4, x0 + s, ldx);
            _tile_loadd(6, left + s * kTileRows, kTileBytes);
            _tile_dpbssd(0, 4, 6);
            _tile_loadd(7, right + s * kTileRows, kTileBytes);
            _tile_dpbssd(1, 4, 7);
          }
        } else {
          const int8_t* x1 = x0 + top * ldx;
          if (load) {
            _tile_loadd(2, c1, c_bytes);
            _tile_loadd(3, c1 + kTileRows, c_bytes);
          } else {
            _tile_zero(2);
            _tile_zero(3);
          }
          for (int64_t s = 0; s < depth; s += kTileBytes) {
            if (fetch) FetchTiles(ahead + s * kTileRows, strip_stride);
            _tile_loadd(4, x0 + s, ldx);
            _tile_loadd(6, left + s * kTileRows, kTileBytes);
            _tile_dpbssd(0, 4, 6);
            _tile_loadd(7, right + s * kTileRows, kTileBytes);
            _tile_dpbssd(1, 4, 7);
            _tile_loadd(5, x1 + s, ldx);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
          }
          _tile_stored(2, c1, c_bytes);
          _tile_stored(3, c1 + kTileRows, c_bytes);
        }
        _tile_stored(0, c0, c_bytes);
        _tile_stored(1, c0 + kTileRows, c_bytes);
        m += count;
      }
    }
  }
  _tile_release();
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#else
#define MS_DSV32_HAS_AMX 0
#endif

#endif  // MS_DSV32_KERNEL_IMPL_CPU_GEMM_AMX_H_
