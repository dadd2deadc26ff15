// What the files of faults share: how a fault is marked, and which one runs. The test reads names and the marked lines
// from them: a fault is reported at the line marked "here".
#ifndef ASCENDC_EMULATOR_TESTS_FAULTS_H_
#define ASCENDC_EMULATOR_TESTS_FAULTS_H_

#include "kernel_operator.h"

using namespace AscendC;

template <HardEvent event>
__aicore__ inline void Sync(int32_t id) {
  SetFlag<event>(id);
  WaitFlag<event>(id);
}

struct FaultTiling {
  int32_t key, unused;
};

constexpr int kFirst = __COUNTER__ + 1;
#define FAULT(name) if (t.key == __COUNTER__ - kFirst)

#endif  // ASCENDC_EMULATOR_TESTS_FAULTS_H_
