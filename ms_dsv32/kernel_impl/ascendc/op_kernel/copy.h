// Copies between GM and the memories of a core, and a core's share of UB.
#ifndef MS_DSV32_ASCENDC_COPY_H_
#define MS_DSV32_ASCENDC_COPY_H_

#include "kernel_operator.h"

namespace ms_dsv32::ascendc {

using namespace AscendC;

// Written beside __aicore__ instead of `inline`, it makes one copy of the function for all its callers. The compiler
// inlines device code as a rule, and a kernel that is inlined throughout is several times as large as the 32 KiB of the
// instruction cache. It is for functions that are called from several places, or less often than for each tile, because
// a call takes time of the scalar unit. It is for members and static functions only, because the compiler of an AIC
// must be able to leave out what an AIV calls.
#define MS_DSV32_NOINLINE __attribute__((noinline))

// Elements of T in a block of 32 bytes: the unit of DMA strides, and the column width of the NZ layout.
template <typename T>
constexpr uint32_t kC0 = 32 / sizeof(T);

__aicore__ inline constexpr uint32_t CeilDiv(uint32_t value, uint32_t unit) { return (value + unit - 1) / unit; }
__aicore__ inline constexpr uint32_t RoundUp(uint32_t value, uint32_t unit) { return CeilDiv(value, unit) * unit; }
// CANN's vector instructions of the same names are called with their namespace, as AscendC::Max.
__aicore__ inline constexpr uint32_t Min(uint32_t a, uint32_t b) { return a < b ? a : b; }
__aicore__ inline constexpr uint32_t Max(uint32_t a, uint32_t b) { return a < b ? b : a; }
// Lanes [from, 64) of a repeat of 4-byte elements.
__aicore__ inline constexpr uint64_t LanesFrom(uint32_t from) { return ~uint64_t{0} << from; }

// Begin of part `part` when `count` things are dealt to `parts` owners as evenly as whole things allow.
__aicore__ inline constexpr uint32_t ShareBegin(uint32_t count, uint32_t part, uint32_t parts) {
  return static_cast<uint32_t>(static_cast<uint64_t>(count) * part / parts);
}

// A type that can declare several names at once. GM_ADDR is a macro that makes only the first name a pointer.
using GmAddress = GM_ADDR;

template <typename T>
__aicore__ inline GlobalTensor<T> Global(GM_ADDR address, uint64_t elements) {
  GlobalTensor<T> tensor;
  tensor.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(address), elements);
  return tensor;
}

// Hands out the UB of one TBuf from its begin.
class UbArena {
 public:
  __aicore__ inline UbArena(TPipe& pipe, uint32_t bytes) { pipe.InitBuffer(buffer_, bytes); }
  __aicore__ inline void Reset(uint32_t used = 0) { used_ = used; }
  __aicore__ inline uint32_t Used() const { return used_; }
  template <typename T>
  __aicore__ inline LocalTensor<T> Take(uint32_t elements) {
    const uint32_t offset = used_;
    used_ += RoundUp(elements * static_cast<uint32_t>(sizeof(T)), 32);
    return buffer_.GetWithOffset<T>(elements, offset);
  }

 private:
  TBuf<TPosition::VECCALC> buffer_;
  uint32_t used_ = 0;
};

// Copies GM rows of `columns` elements, `gm_row` apart, to or from UB rows that begin `ub_row` elements apart. The
// bytes of a UB row must be whole blocks of 32. `columns` may be any number.
template <typename T>
__aicore__ inline void CopyRowsIn(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t rows,
                                  uint32_t columns, uint32_t gm_row, uint32_t ub_row) {
  constexpr uint32_t kSize = sizeof(T);
  const DataCopyExtParams params(static_cast<uint16_t>(rows), columns * kSize, (gm_row - columns) * kSize,
                                 (ub_row - RoundUp(columns, kC0<T>)) / kC0<T>, 0);
  const DataCopyPadExtParams<T> pad{};
  DataCopyPad(dst, src, params, pad);
}
template <typename T>
__aicore__ inline void CopyRowsOut(const GlobalTensor<T>& dst, const LocalTensor<T>& src, uint32_t rows,
                                   uint32_t columns, uint32_t gm_row, uint32_t ub_row) {
  constexpr uint32_t kSize = sizeof(T);
  const DataCopyExtParams params(static_cast<uint16_t>(rows), columns * kSize,
                                 (ub_row - RoundUp(columns, kC0<T>)) / kC0<T>, (gm_row - columns) * kSize, 0);
  DataCopyPad(dst, src, params);
}
// Copies one run of elements.
template <typename T>
__aicore__ inline void CopyIn(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t count) {
  CopyRowsIn(dst, src, 1, count, count, RoundUp(count, kC0<T>));
}
template <typename T>
__aicore__ inline void CopyOut(const GlobalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count) {
  CopyRowsOut(dst, src, 1, count, count, RoundUp(count, kC0<T>));
}

// Copies a row-major matrix [rows, columns] in GM, rows `gm_row` elements apart, to NZ [columns/C0][l1_rows][C0] in L1.
// Rows from `rows` to `l1_rows` keep their contents. A single row is copied to two rows: see Multiply.
template <typename T>
__aicore__ inline void CopyNdToL1(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t rows,
                                  uint32_t columns, uint32_t gm_row, uint32_t l1_rows) {
  Nd2NzParams params;
  params.ndNum = rows == 1 ? 2 : 1;
  params.nValue = static_cast<uint16_t>(rows);
  params.dValue = static_cast<uint16_t>(columns);
  params.srcNdMatrixStride = 0;
  params.srcDValue = static_cast<uint16_t>(gm_row);
  params.dstNzC0Stride = static_cast<uint16_t>(l1_rows);
  params.dstNzNStride = 1;
  params.dstNzMatrixStride = kC0<T>;
  DataCopy(dst, src, params);
}

// Copies rows [row, row + rows) and columns [column, column + columns) of a FRACTAL_NZ matrix of `gm_rows` rows to NZ
// [columns/C0][rows][C0] in L1. column and columns are multiples of C0.
template <typename T>
__aicore__ inline void CopyNzToL1(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t gm_rows, uint32_t row,
                                  uint32_t rows, uint32_t column, uint32_t columns) {
  DataCopyParams params;
  params.blockCount = static_cast<uint16_t>(columns / kC0<T>);
  params.blockLen = static_cast<uint16_t>(rows);  // a row of C0 elements is one block of 32 bytes
  params.srcStride = static_cast<uint16_t>(gm_rows - rows);
  params.dstStride = 0;
  DataCopy(dst, src[static_cast<uint64_t>(column) * gm_rows + row * kC0<T>], params);
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_COPY_H_
