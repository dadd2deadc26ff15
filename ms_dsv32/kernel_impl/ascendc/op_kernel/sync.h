// Flags between the pipes of a core and between cores.
#ifndef MS_DSV32_ASCENDC_SYNC_H_
#define MS_DSV32_ASCENDC_SYNC_H_

#include "kernel_operator.h"

namespace ms_dsv32::ascendc {

using namespace AscendC;

// One pipe waits for everything that was issued to another one. Nothing else may have the flag id in flight.
template <HardEvent kEvent>
__aicore__ inline void WaitPipe(int32_t id) {
  SetFlag<kEvent>(id);
  WaitFlag<kEvent>(id);
}

// The first id of M_MTE1 that a kernel may use: TPipe takes 0 to 2 on an AIC.
constexpr int32_t kFirstL0Flag = 3;

// The slots of a buffer that one pipe fills and another one empties in turn. kFull tells the consumer that a slot is
// filled, and kFree tells the producer that it is empty. Slot i uses flag kFirstId + i of both events.
template <HardEvent kFull, HardEvent kFree, int32_t kFirstId, uint32_t kSlots = 2>
class Ring {
 public:
  // All slots are free. Every Begin needs an End.
  __aicore__ inline void Begin() {
    slots_ = kSlots;
    for (uint32_t i = 0; i < slots_; ++i) {
      SetFlag<kFree>(Id(i));
    }
    acquired_ = published_ = consumed_ = 0;
  }
  __aicore__ inline void End() {
    for (uint32_t i = 0; i < slots_; ++i) {
      WaitFlag<kFree>(Id(i));
    }
  }
  // Adds a slot, while none is filled. The consumer has set its kFree, or will.
  __aicore__ inline void Grow() { ++slots_; }
  // Removes a slot, while all are free. The producer takes the flag of the last one.
  __aicore__ inline void Shrink() {
    WaitFlag<kFree>(Id(--slots_));
    acquired_ = published_ = consumed_ = 0;
  }
  __aicore__ inline uint32_t Slots() const { return slots_; }

  // Producer: Acquire gives the slot to fill, and Publish hands over the oldest one that was acquired.
  __aicore__ inline uint32_t Acquire() {
    const uint32_t slot = acquired_;
    WaitFlag<kFree>(Id(slot));
    acquired_ = Next(slot);
    return slot;
  }
  __aicore__ inline uint32_t Oldest() const { return published_; }
  __aicore__ inline void Publish() {
    SetFlag<kFull>(Id(published_));
    published_ = Next(published_);
  }

  // Consumer: Take gives the slot to read, and Release returns it.
  __aicore__ inline uint32_t Take() {
    WaitFlag<kFull>(Id(consumed_));
    return consumed_;
  }
  __aicore__ inline void Release() {
    SetFlag<kFree>(Id(consumed_));
    consumed_ = Next(consumed_);
  }

 private:
  static __aicore__ inline int32_t Id(uint32_t slot) { return kFirstId + static_cast<int32_t>(slot); }
  __aicore__ inline uint32_t Next(uint32_t slot) const { return slot + 1 == slots_ ? 0 : slot + 1; }
  uint32_t slots_ = kSlots, acquired_ = 0, published_ = 0, consumed_ = 0;
};

// An AIC tells its two AIVs that what its Fixpipes have written to GM is there.
__aicore__ inline void NotifyVectors(int64_t flag) { CrossCoreSetFlag<2, PIPE_FIX>(flag); }
// An AIV tells its AIC that what its MTE3 has written to GM is there. The AIC goes on when both AIVs have called.
__aicore__ inline void NotifyCube(int64_t flag) { CrossCoreSetFlag<2, PIPE_MTE3>(flag); }
// Waits for NotifyVectors on an AIV, and for NotifyCube on an AIC.
__aicore__ inline void AwaitCore(int64_t flag) { CrossCoreWaitFlag(flag); }

// All AIVs together tell all AICs that their MTE2 have done all reads.
__aicore__ inline void NotifyCubesOfReads(int64_t all_vectors, int64_t flag) {
  CrossCoreSetFlag<0, PIPE_MTE2>(all_vectors);
  CrossCoreWaitFlag(all_vectors);
  CrossCoreSetFlag<2, PIPE_MTE2>(flag);
}

// The two halves of AwaitAllVectors. An AIV may do other work between them.
__aicore__ inline void ArriveAtAllVectors(int64_t flag) { CrossCoreSetFlag<0, PIPE_MTE3>(flag); }
__aicore__ inline void LeaveAllVectors(int64_t flag) { CrossCoreWaitFlag(flag); }

// A barrier of all AIVs. After it, what any of them wrote to GM, or was told before, is there for all.
__aicore__ inline void AwaitAllVectors(int64_t flag) {
  ArriveAtAllVectors(flag);
  LeaveAllVectors(flag);
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_SYNC_H_
