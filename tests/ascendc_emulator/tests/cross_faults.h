// Faults between the cores of two blocks: cross-core flags, and ranges of GM that several cores use.
#ifndef ASCENDC_EMULATOR_TESTS_CROSS_FAULTS_H_
#define ASCENDC_EMULATOR_TESTS_CROSS_FAULTS_H_

#include "faults.h"

// On all cores of two blocks.
__aicore__ inline void CrossFaults(const FaultTiling& t, GM_ADDR in, GM_ADDR out, GM_ADDR workspace) {
  TPipe pipe;
  GlobalTensor<float> in_gm, out_gm, work_gm;
  in_gm.SetGlobalBuffer((__gm__ float*)in, 4096);
  out_gm.SetGlobalBuffer((__gm__ float*)out, 4096);
  work_gm.SetGlobalBuffer((__gm__ float*)GetUserWorkspace(workspace));
  const int self = GetBlockIdx();
  TBuf<TPosition::VECCALC> buffer;
  LocalTensor<float> x;
  if ASCEND_IS_AIV {
    pipe.InitBuffer(buffer, 2048);
    x = buffer.Get<float>();
    DataCopy(x, in_gm, 64);
    Sync<HardEvent::MTE2_MTE3>(0);
  }

  FAULT(race_on_one_range) {
    if ASCEND_IS_AIV {
      DataCopy(out_gm[self * 56], x, 64);  // here
    }
  }
  FAULT(read_without_cross_core_flag) {
    if ASCEND_IS_AIV {
      DataCopy(work_gm[self * 64], x, 64);
      Sync<HardEvent::MTE3_MTE2>(0);
      if (self == 3) DataCopy(x[64], work_gm, 64);  // here
    }
  }
  FAULT(cross_core_flag_of_another_pipe) {
    if ASCEND_IS_AIV {
      DataCopy(work_gm[self * 64], x, 64);
      CrossCoreSetFlag<0, PIPE_MTE2>(0);
      CrossCoreWaitFlag(0);
      Sync<HardEvent::MTE3_MTE2>(1);
      DataCopy(x[64], work_gm[(self + 1) % 4 * 64], 64);  // here
    }
  }
  FAULT(cross_core_flag_not_waited) {
    if ASCEND_IS_AIC {
      CrossCoreSetFlag<2, PIPE_FIX>(5);
    }
  }
  FAULT(cross_core_wait_for_nothing) {
    if ASCEND_IS_AIC {
      if (self == 1) CrossCoreWaitFlag(6);  // here
    }
  }
  FAULT(barrier_without_one_core) {
    if ASCEND_IS_AIV {
      if (self != 2) {
        CrossCoreSetFlag<0, PIPE_MTE3>(7);
        CrossCoreWaitFlag(7);  // here
      }
    }
  }
  FAULT(circular_wait) {
    if ASCEND_IS_AIC {
      CrossCoreWaitFlag(1);  // here
      CrossCoreSetFlag<2, PIPE_FIX>(2);
    }
    if ASCEND_IS_AIV {
      CrossCoreWaitFlag(2);
      CrossCoreSetFlag<2, PIPE_MTE3>(1);
    }
  }
  FAULT(sync_all_without_aic) {
    if ASCEND_IS_AIV {
      SyncAll<false>();  // here
    }
  }
  FAULT(counter_overflow) {
    if ASCEND_IS_AIC {
      for (int i = 0; i < 16; ++i) CrossCoreSetFlag<2, PIPE_FIX>(3);  // here
    }
  }
  FAULT(two_modes_on_one_id) {
    if ASCEND_IS_AIV {
      CrossCoreSetFlag<0, PIPE_MTE3>(4);
      CrossCoreSetFlag<1, PIPE_MTE3>(4);  // here
    }
  }
  FAULT(cross_core_id) {
    CrossCoreSetFlag<0, PIPE_MTE2>(16);  // here
  }
  FAULT(id_of_sync_all) {
    if ASCEND_IS_AIV {
      SyncAll<true>();
      CrossCoreSetFlag<0, PIPE_MTE3>(13);  // here
    }
  }
  FAULT(mode_1_on_aic) {
    if ASCEND_IS_AIC {
      CrossCoreSetFlag<1, PIPE_FIX>(0);  // here
    }
  }
  FAULT(credit_given_too_early) {  // the AIV frees the slot before it has read it
    if ASCEND_IS_AIC {
      TBuf<TPosition::A1> a1;
      pipe.InitBuffer(a1, 256);
      DataCopy(a1.Get<float>(), in_gm, 64);
      Sync<HardEvent::MTE2_MTE3>(0);
      for (int i = 0; i < 2; ++i) {
        if (i == 1) CrossCoreWaitFlag(9);
        DataCopy(work_gm[self * 64], a1.Get<float>(), 64);  // here
        PipeBarrier<PIPE_MTE3>();
        CrossCoreSetFlag<2, PIPE_MTE3>(8);
      }
      CrossCoreWaitFlag(9);
    }
    if ASCEND_IS_AIV {
      for (int i = 0; i < 2; ++i) {
        CrossCoreWaitFlag(8);
        CrossCoreSetFlag<2, PIPE_MTE2>(9);
        DataCopy(x[64 * (i + 1)], work_gm[self / 2 * 64], 64);
      }
    }
  }
}

#endif  // ASCENDC_EMULATOR_TESTS_CROSS_FAULTS_H_
