// Matrix products on the cube: L1 to L0, product, L0C to GM, and the double-buffered run of them.
// Layouts: L1 NZ [columns/C0][rows][C0]; L0A zZ; L0B nZ; L0C NZ of 16 x 16.
#ifndef MS_DSV32_ASCENDC_CUBE_TILE_H_
#define MS_DSV32_ASCENDC_CUBE_TILE_H_

#include <type_traits>

#include "copy.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

constexpr uint32_t kFractal = 16;  // rows of a fractal

// Type that the cube accumulates products of T in.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, int8_t>, int32_t, float>;

// A [m16, k] to L0A from columns [k0, k0 + k) of an L1 matrix of m16 rows.
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

// B [k, n] to L0B from rows [k0, k0 + k) and columns [n0, n0 + n) of an L1 matrix [K, N] of l1_rows rows (K down). int8
// needs k0, k, n0, n and l1_rows in multiples of 32, 2-byte types in multiples of 16.
template <typename T>
__aicore__ inline void LoadB(const LocalTensor<T>& l0b, const LocalTensor<T>& l1, uint32_t l1_rows, uint32_t k0,
                             uint32_t k, uint32_t n0, uint32_t n) {
  if constexpr (sizeof(T) == 1) {
    // Squares of 32 x 32, each two fractals of L0B side by side along n.
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

// B = transpose of rows [n0, n0 + n) and columns [k0, k0 + k) of an L1 matrix [N, K] of l1_rows rows (N down) to L0B.
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

// C (+)= A * B. m16 is a multiple of 16: with m = 1 the cube would read A as a vector (GEMV), so rows are always whole
// fractals.
template <typename C, typename T>
__aicore__ inline void Multiply(const LocalTensor<C>& l0c, const LocalTensor<T>& l0a, const LocalTensor<T>& l0b,
                                uint32_t m16, uint32_t n, uint32_t k, bool first) {
  MmadParams params;
  params.m = static_cast<uint16_t>(m16);
  params.n = static_cast<uint16_t>(n);
  params.k = static_cast<uint16_t>(k);
  params.cmatrixInitVal = first;
  Mmad(l0c, l0a, l0b, params);
  // Accumulating products that are shorter than the cube's pipeline must not overlap.
  if ((m16 / kFractal) * (n / kFractal) < 10) {
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

// Rows [0, m) of columns [n0, n0 + n) of C [m16, N] in L0C to row-major GM, rows gm_row elements apart.
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

// The memories of an AIC: an area of L1 that the kernel places left operands in, and two slots each of L1 (for what
// streams), L0A, L0B and L0C that follow each other without a gap from one product to the next. L1: 262144 + 2 * 98304
// = 458752 of 524032 bytes. L0A, L0B: 2 * 32768. L0C: 2 * 65536.
class CubeTile {
 public:
  static constexpr uint32_t kResidentBytes = 262144;
  static constexpr uint32_t kStreamBytes = 98304;
  static constexpr uint32_t kL0Bytes = 32768;
  static constexpr uint32_t kL0CBytes = 65536;

  __aicore__ inline void Init(TPipe& pipe) {
    pipe.InitBuffer(resident_, kResidentBytes);
    pipe.InitBuffer(stream_, 2 * kStreamBytes);
    pipe.InitBuffer(l0a_, 2 * kL0Bytes);
    pipe.InitBuffer(l0b_, 2 * kL0Bytes);
    pipe.InitBuffer(l0c_, 2 * kL0CBytes);
    stream_slots_.Begin();
    l0_slots_.Begin();
    l0c_slots_.Begin();
  }
  __aicore__ inline void Finish() {
    stream_slots_.End();
    l0_slots_.End();
    l0c_slots_.End();
  }

  template <typename T>
  __aicore__ inline LocalTensor<T> Resident(uint32_t offset_bytes, uint32_t elements) {
    return resident_.GetWithOffset<T>(elements, offset_bytes);
  }

  // L1 slot to copy to, from BeginStream to EndStream; the copies may go to the resident area too, at a place that
  // changes with the slot.
  __aicore__ inline uint32_t BeginStream() { return stream_slots_.Acquire(); }
  __aicore__ inline void EndStream() { stream_slots_.Publish(); }
  template <typename T>
  __aicore__ inline LocalTensor<T> Stream(uint32_t slot) {
    return stream_.GetWithOffset<T>(kStreamBytes / sizeof(T), slot * kStreamBytes);
  }
  // The oldest slot that was filled, until it is returned.
  __aicore__ inline uint32_t TakeStream() { return stream_slots_.Take(); }
  __aicore__ inline void ReturnStream() { stream_slots_.Release(); }

  // Begin and end of one accumulation; Add may be called in between, as often as K has parts.
  __aicore__ inline void BeginProduct() {
    l0c_slot_ = l0c_slots_.Acquire();
    first_ = true;
  }
  // C += a[:, a_k0 : a_k0 + k] * b[b_k0 : b_k0 + k, n0 : n0 + n] in steps of k_step. `a` has m16 rows in L1, `b`
  // b_rows. Whoever takes the steps in another order or size gets other bits: k_step must depend on nothing but the
  // operator.
  template <typename T>
  __aicore__ inline void Add(const LocalTensor<T>& a, uint32_t m16, uint32_t a_k0, const LocalTensor<T>& b,
                             uint32_t b_rows, uint32_t b_k0, uint32_t k, uint32_t n0, uint32_t n, uint32_t k_step) {
    const LocalTensor<Accumulator<T>> c = L0c<Accumulator<T>>();
    for (uint32_t done = 0; done < k; done += k_step) {
      const uint32_t slot = l0_slots_.Acquire();
      const LocalTensor<T> l0a = l0a_.GetWithOffset<T>(kL0Bytes / sizeof(T), slot * kL0Bytes);
      const LocalTensor<T> l0b = l0b_.GetWithOffset<T>(kL0Bytes / sizeof(T), slot * kL0Bytes);
      LoadA(l0a, a, m16, a_k0 + done, k_step);
      LoadB(l0b, b, b_rows, b_k0 + done, k_step, n0, n);
      l0_slots_.Publish();
      l0_slots_.Take();
      Multiply(c, l0a, l0b, m16, n, k_step, first_);
      l0_slots_.Release();
      first_ = false;
    }
  }
  // The accumulator, complete, for StoreC; EndProduct gives it back.
  template <typename C>
  __aicore__ inline LocalTensor<C> Product() {
    l0c_slots_.Publish();
    l0c_slots_.Take();
    return L0c<C>();
  }
  __aicore__ inline void EndProduct() { l0c_slots_.Release(); }

 private:
  template <typename C>
  __aicore__ inline LocalTensor<C> L0c() {
    return l0c_.GetWithOffset<C>(kL0CBytes / sizeof(C), l0c_slot_ * kL0CBytes);
  }

  TBuf<TPosition::A1> resident_;
  TBuf<TPosition::B1> stream_;
  TBuf<TPosition::A2> l0a_;
  TBuf<TPosition::B2> l0b_;
  TBuf<TPosition::CO1> l0c_;
  PingPong<HardEvent::MTE2_MTE1, HardEvent::MTE1_MTE2, 0> stream_slots_;
  PingPong<HardEvent::MTE1_M, HardEvent::M_MTE1, 3> l0_slots_;
  PingPong<HardEvent::M_FIX, HardEvent::FIX_M, 0> l0c_slots_;
  uint32_t l0c_slot_ = 0;
  bool first_ = true;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_CUBE_TILE_H_
