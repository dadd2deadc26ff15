// Matrix products on the cube: L1 to L0, product, L0C to GM.
// Layouts: L1 NZ [columns/C0][rows][C0]; L0A zZ; L0B nZ; L0C NZ of 16 x 16.
#ifndef MS_DSV32_ASCENDC_CUBE_TILE_H_
#define MS_DSV32_ASCENDC_CUBE_TILE_H_

#include <type_traits>

#include "copy.h"
#include "dims.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

// Flags of FIX_M and M_FIX for kernels that keep an accumulator in each half of L0C.
constexpr int32_t kFirstHalf = 0, kSecondHalf = 1;

// The type in which the cube accumulates products of T.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, int8_t>, int32_t, float>;

// Loads A [m16, k] to L0A from columns [k0, k0 + k) of an L1 matrix of m16 rows.
template <typename T>
__aicore__ inline void LoadA(const LocalTensor<T>& l0a, const LocalTensor<T>& l1, uint32_t m16, uint32_t k0,
                             uint32_t k) {
  LoadData2DParams params;
  params.repeatTimes = static_cast<uint8_t>(k / kC0<T>);
  params.srcStride = static_cast<uint16_t>(m16 / kFractal);
  for (uint32_t i = 0; i < m16 / kFractal; ++i) {
    LoadData(l0a[i * kFractal * k], l1[k0 * m16 + i * kFractal * kC0<T>], params);
  }
}

// Loads B [k, n] to L0B from rows [k0, k0 + k) and columns [n0, n0 + n) of an L1 matrix [K, N] of l1_rows rows (K
// down). int8 needs k0, k, n0, n and l1_rows in multiples of 32, 2-byte types in multiples of 16.
template <typename T>
__aicore__ inline void LoadB(const LocalTensor<T>& l0b, const LocalTensor<T>& l1, uint32_t l1_rows, uint32_t k0,
                             uint32_t k, uint32_t n0, uint32_t n) {
  if constexpr (sizeof(T) == 1) {
    // The instruction loads squares of 32 x 32. Each becomes two fractals of L0B, side by side along n.
    LoadData2dTransposeParams params;
    params.startIndex = 0;
    params.repeatTimes = static_cast<uint8_t>(n / 32);
    params.srcStride = static_cast<uint16_t>(l1_rows / 32);
    params.dstGap = 1;
    params.dstFracGap = 0;
    for (uint32_t i = 0; i < k / 32; ++i) {
      LoadDataWithTranspose(l0b[i * 32 * n], l1[n0 * l1_rows + (k0 + i * 32) * 32], params);
    }
  } else {
    LoadData2DParams params;
    params.repeatTimes = static_cast<uint8_t>(n / kFractal);
    params.srcStride = static_cast<uint16_t>(l1_rows / kFractal);
    params.ifTranspose = true;
    for (uint32_t i = 0; i < k / kFractal; ++i) {
      LoadData(l0b[i * kFractal * n], l1[n0 * l1_rows + (k0 + i * kFractal) * kC0<T>], params);
    }
  }
}

// Loads B to L0B as the transpose of rows [n0, n0 + n) and columns [k0, k0 + k) of an L1 matrix [N, K] of l1_rows rows
// (N down).
template <typename T>
__aicore__ inline void LoadBTransposed(const LocalTensor<T>& l0b, const LocalTensor<T>& l1, uint32_t l1_rows,
                                       uint32_t k0, uint32_t k, uint32_t n0, uint32_t n) {
  LoadData2DParams params;
  params.repeatTimes = static_cast<uint8_t>(n / kFractal);
  params.srcStride = 1;
  for (uint32_t i = 0; i < k / kC0<T>; ++i) {
    LoadData(l0b[i * kC0<T> * n], l1[(k0 + i * kC0<T>)*l1_rows + n0 * kC0<T>], params);
  }
}

// C (+)= A * B of m rows, which lie in whole fractals. The cube must not read other rows, because they may hold NaN.
// With m = 1 it would read A as a vector (asc-devkit, "Mmad", "GEMV"), so a single row lies there twice and is computed
// twice.
template <typename C, typename T>
__aicore__ inline void Multiply(const LocalTensor<C>& l0c, const LocalTensor<T>& l0a, const LocalTensor<T>& l0b,
                                uint32_t m, uint32_t n, uint32_t k, bool first) {
  MmadParams params;
  params.m = static_cast<uint16_t>(Max(m, 2));
  params.n = static_cast<uint16_t>(n);
  params.k = static_cast<uint16_t>(k);
  params.cmatrixInitVal = first;
  Mmad(l0c, l0a, l0b, params);
  // Accumulating products that are shorter than the cube's pipeline must not overlap.
  if (CeilDiv(m, kFractal) * (n / kFractal) < 10) {
    PipeBarrier<PIPE_M>();
  }
}

template <typename D, typename C>
__aicore__ inline constexpr QuantMode_t FixpipeMode() {
  if constexpr (std::is_same_v<D, bfloat16_t>) {
    return QuantMode_t::F322BF16;
  } else if constexpr (std::is_same_v<D, half>) {
    return QuantMode_t::F322F16;
  } else {
    static_assert(std::is_same_v<D, C>, "Fixpipe needs a scale for this");
    return QuantMode_t::NoQuant;
  }
}

// Stores rows [0, m) of columns [n0, n0 + n) of C [m16, N] in L0C to row-major GM, rows gm_row elements apart.
template <typename D, typename C>
__aicore__ inline void StoreC(const GlobalTensor<D>& dst, const LocalTensor<C>& l0c, uint32_t m, uint32_t m16,
                              uint32_t n0, uint32_t n, uint32_t gm_row) {
  FixpipeParamsV220 params;
  params.nSize = static_cast<uint16_t>(n);
  params.mSize = static_cast<uint16_t>(m);
  params.srcStride = static_cast<uint16_t>(m16);
  params.dstStride = gm_row;
  params.quantPre = FixpipeMode<D, C>();
  Fixpipe<D, C, CFG_ROW_MAJOR>(dst, l0c[n0 * m16], params);
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_CUBE_TILE_H_
