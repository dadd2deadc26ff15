// The memories of an AIC as the prologs use them: left operands in L1 that stay where the kernel puts them, slots of L1
// for weights that stream, and two slots each of L0A, L0B and L0C. Products follow each other without a gap.
#ifndef MS_DSV32_ASCENDC_CUBE_STREAM_H_
#define MS_DSV32_ASCENDC_CUBE_STREAM_H_

#include "cube_tile.h"

namespace ms_dsv32::ascendc {

class CubeStream {
 public:
  static constexpr uint32_t kMostSlots = 5;  // flags 0 to 4 of MTE2_MTE1 and MTE1_MTE2
  static constexpr int32_t kNoFlag = -1;
  static constexpr uint32_t kL0Bytes = 32768;
  static constexpr uint32_t kL0cBytes = 65536;

  __aicore__ inline CubeStream(TPipe& pipe, uint32_t left_bytes, uint32_t slots, uint32_t slot_bytes)
      : slots_(slots), slot_bytes_(slot_bytes) {
    pipe.InitBuffer(left_, left_bytes);
    pipe.InitBuffer(stream_, slots * slot_bytes);
    pipe.InitBuffer(l0a_, 2 * kL0Bytes);
    pipe.InitBuffer(l0b_, 2 * kL0Bytes);
    pipe.InitBuffer(l0c_, 2 * kL0cBytes);
  }
  // All slots and both accumulators are free. Every Begin needs an End.
  __aicore__ inline void Begin() {
    for (uint32_t slot = 0; slot < slots_; ++slot) {
      SetFlag<HardEvent::MTE1_MTE2>(static_cast<int32_t>(slot));
    }
    l0_slots_.Begin();
    SetFlag<HardEvent::FIX_M>(kFirstHalf);
    SetFlag<HardEvent::FIX_M>(kSecondHalf);
  }
  __aicore__ inline void End() {
    for (uint32_t slot = 0; slot < slots_; ++slot) {
      WaitFlag<HardEvent::MTE1_MTE2>(static_cast<int32_t>(slot));
    }
    l0_slots_.End();
    WaitFlag<HardEvent::FIX_M>(kFirstHalf);
    WaitFlag<HardEvent::FIX_M>(kSecondHalf);
  }

  template <typename T>
  __aicore__ inline LocalTensor<T> Left(uint32_t offset_bytes, uint32_t elements) {
    return left_.GetWithOffset<T>(elements, offset_bytes);
  }

  // Producer: BeginFill gives the next slot to copy to, and EndFill hands over the oldest one that was begun. At most
  // as many slots as there are may be begun and not yet returned.
  template <typename T>
  __aicore__ inline LocalTensor<T> BeginFill() {
    const uint32_t slot = begun_;
    WaitFlag<HardEvent::MTE1_MTE2>(static_cast<int32_t>(slot));
    begun_ = slot + 1 == slots_ ? 0 : slot + 1;
    return Slot<T>(slot);
  }
  __aicore__ inline void EndFill() {
    SetFlag<HardEvent::MTE2_MTE1>(static_cast<int32_t>(filled_));
    filled_ = filled_ + 1 == slots_ ? 0 : filled_ + 1;
  }
  // Consumer: Take gives the oldest slot that was filled, and Return returns it.
  template <typename T>
  __aicore__ inline LocalTensor<T> Take() {
    WaitFlag<HardEvent::MTE2_MTE1>(static_cast<int32_t>(taken_));
    return Slot<T>(taken_);
  }
  __aicore__ inline void Return() {
    SetFlag<HardEvent::MTE1_MTE2>(static_cast<int32_t>(taken_));
    taken_ = taken_ + 1 == slots_ ? 0 : taken_ + 1;
  }

  // Begins an accumulation. Two may be open. Add is called for each part of K, Close completes the accumulator, and
  // Free frees it. If none is open, Open takes the accumulator that was closed first, because the other may still be on
  // its way to GM.
  __aicore__ inline uint32_t Open() {
    const uint32_t product = open_[next_product_] ? next_product_ ^ 1 : next_product_;
    WaitFlag<HardEvent::FIX_M>(static_cast<int32_t>(product));
    first_[product] = true;
    open_[product] = true;
    return product;
  }
  // C += a[:, a_k0 : a_k0 + k] * b[:k, n0 : n0 + n] of m rows, in steps of k_step. `a` has m16 rows in L1, `b` b_rows.
  // With a_flag, `a` is there when this flag of MTE2_MTE1 is set, and the first load of `b` does not wait for it.
  // Steps of another order or size give other bits, so k_step must depend on the operator only.
  template <typename T>
  __aicore__ MS_DSV32_NOINLINE void Add(uint32_t product, const LocalTensor<T>& a, uint32_t m, uint32_t m16,
                                        uint32_t a_k0, const LocalTensor<T>& b, uint32_t b_rows, uint32_t k,
                                        uint32_t n0, uint32_t n, uint32_t k_step, int32_t a_flag = kNoFlag) {
    const LocalTensor<Accumulator<T>> c = L0c<Accumulator<T>>(product);
    for (uint32_t done = 0; done < k; done += k_step) {
      const uint32_t slot = l0_slots_.Acquire();
      const LocalTensor<T> l0a = l0a_.GetWithOffset<T>(kL0Bytes / sizeof(T), slot * kL0Bytes);
      const LocalTensor<T> l0b = l0b_.GetWithOffset<T>(kL0Bytes / sizeof(T), slot * kL0Bytes);
      LoadB(l0b, b, b_rows, done, k_step, n0, n);
      if (done == 0 && a_flag != kNoFlag) {
        WaitFlag<HardEvent::MTE2_MTE1>(a_flag);
      }
      LoadA(l0a, a, m16, a_k0 + done, k_step);
      l0_slots_.Publish();
      l0_slots_.Take();
      Multiply(c, l0a, l0b, m, n, k_step, first_[product]);
      l0_slots_.Release();
      first_[product] = false;
    }
  }
  template <typename C>
  __aicore__ inline LocalTensor<C> Close(uint32_t product) {
    open_[product] = false;
    next_product_ = product ^ 1;
    WaitPipe<HardEvent::M_FIX>(static_cast<int32_t>(product));
    return L0c<C>(product);
  }
  __aicore__ inline void Free(uint32_t product) { SetFlag<HardEvent::FIX_M>(static_cast<int32_t>(product)); }

 private:
  template <typename T>
  __aicore__ inline LocalTensor<T> Slot(uint32_t slot) {
    return stream_.GetWithOffset<T>(slot_bytes_ / sizeof(T), slot * slot_bytes_);
  }
  template <typename C>
  __aicore__ inline LocalTensor<C> L0c(uint32_t product) {
    return l0c_.GetWithOffset<C>(kL0cBytes / sizeof(C), product * kL0cBytes);
  }

  TBuf<TPosition::A1> left_;
  TBuf<TPosition::B1> stream_;
  TBuf<TPosition::A2> l0a_;
  TBuf<TPosition::B2> l0b_;
  TBuf<TPosition::CO1> l0c_;
  Ring<HardEvent::MTE1_M, HardEvent::M_MTE1, kFirstL0Flag> l0_slots_;
  uint32_t slots_, slot_bytes_;
  uint32_t begun_ = 0, filled_ = 0, taken_ = 0, next_product_ = 0;
  bool first_[2] = {true, true}, open_[2] = {false, false};
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_CUBE_STREAM_H_
