// Faults of one AIC: flags, barriers, loads, products, Fixpipe and resources.
#ifndef ASCENDC_EMULATOR_TESTS_CUBE_FAULTS_H_
#define ASCENDC_EMULATOR_TESTS_CUBE_FAULTS_H_

#include "faults.h"

// On the first AIC: c = a @ b with a [32, 64] and b [64, 64], half, both from `in`.
__aicore__ inline void CubeFaults(const FaultTiling& t, GM_ADDR in, GM_ADDR out) {
  TPipe pipe;
  TBuf<TPosition::A1> a1;
  TBuf<TPosition::B1> b1;
  TBuf<TPosition::A2> a2;
  TBuf<TPosition::B2> b2;
  TBuf<TPosition::CO1> co1;
  pipe.InitBuffer(a1, 32 * 64 * 2);
  pipe.InitBuffer(b1, 64 * 64 * 2);
  pipe.InitBuffer(a2, 32 * 64 * 2);
  pipe.InitBuffer(b2, 64 * 64 * 2);
  pipe.InitBuffer(co1, 32 * 64 * 4);
  const auto l1a = a1.Get<half>(), l1b = b1.Get<half>(), l0a = a2.Get<half>(), l0b = b2.Get<half>();
  const auto l0c = co1.Get<float>();
  GlobalTensor<half> in_gm;
  GlobalTensor<float> out_gm;
  in_gm.SetGlobalBuffer((__gm__ half*)in);
  out_gm.SetGlobalBuffer((__gm__ float*)out);
  MmadParams p;
  p.m = 32;
  p.n = 64;
  p.k = 64;
  FixpipeParamsV220 f;
  f.nSize = 64;
  f.mSize = 32;
  f.srcStride = 32;
  f.dstStride = 64;
  const auto to_l1 = [&] {
    DataCopy(l1a, in_gm, Nd2NzParams(1, 32, 64, 0, 64, 32, 1, 0));
    DataCopy(l1b, in_gm, Nd2NzParams(1, 64, 64, 0, 64, 64, 1, 0));
  };
  const auto to_l0 = [&] {
    for (int i = 0; i < 2; ++i) LoadData(l0a[i * 16 * 64], l1a[i * 256], LoadData2DParams(0, 4, 2, 0, 0, false, 0));
    for (int i = 0; i < 4; ++i) LoadData(l0b[i * 16 * 64], l1b, LoadData2DParams(i, 4, 4, 0, 0, true, 0));
  };
  const auto product = [&] {
    to_l1();
    Sync<HardEvent::MTE2_MTE1>(0);
    to_l0();
    Sync<HardEvent::MTE1_M>(0);
    Mmad(l0c, l0a, l0b, p);
  };

  FAULT(tpipe_event) {
    SetFlag<HardEvent::M_MTE1>(1);  // here
  }
  FAULT(missing_flag_l1) {
    to_l1();
    LoadData(l0a, l1a, LoadData2DParams(0, 4, 2, 0, 0, false, 0));  // here
  }
  FAULT(missing_flag_l0) {
    to_l1();
    Sync<HardEvent::MTE2_MTE1>(0);
    to_l0();
    Mmad(l0c, l0a, l0b, p);  // here
  }
  FAULT(missing_flag_l0c) {
    product();
    Fixpipe<float, float, CFG_ROW_MAJOR>(out_gm, l0c, f);  // here
  }
  FAULT(missing_flag_l0_reuse) {
    product();
    LoadData(l0a, l1a, LoadData2DParams(0, 4, 2, 0, 0, false, 0));  // here
  }
  FAULT(event_set_again_by_the_cube) {  // MTE1 may be two products behind
    product();
    for (int i = 0; i < 3; ++i) {
      PipeBarrier<PIPE_M>();
      Mmad(l0c, l0a, l0b, p);
      SetFlag<HardEvent::M_MTE1>(5);  // here
      WaitFlag<HardEvent::M_MTE1>(5);
    }
    Sync<HardEvent::M_FIX>(0);
    Fixpipe<float, float, CFG_ROW_MAJOR>(out_gm, l0c, f);
  }
  FAULT(missing_barrier_between_products) {  // 8 fractals: fewer than 10
    product();
    p.cmatrixInitVal = false;
    Mmad(l0c, l0a, l0b, p);  // here
  }
  FAULT(k_padding) {  // 56 rows of b, and 64 given to Mmad
    DataCopy(l1a, in_gm, Nd2NzParams(1, 32, 64, 0, 64, 32, 1, 0));
    DataCopy(l1b, in_gm, Nd2NzParams(1, 56, 64, 0, 64, 64, 1, 0));
    Sync<HardEvent::MTE2_MTE1>(0);
    to_l0();
    Sync<HardEvent::MTE1_M>(0);
    Mmad(l0c, l0a, l0b, p);  // here
  }
  FAULT(row_nobody_wrote) {  // 31 rows of a, and 32 given to Mmad
    DataCopy(l1a, in_gm, Nd2NzParams(1, 31, 64, 0, 64, 32, 1, 0));
    DataCopy(l1b, in_gm, Nd2NzParams(1, 64, 64, 0, 64, 64, 1, 0));
    Sync<HardEvent::MTE2_MTE1>(0);
    to_l0();
    Sync<HardEvent::MTE1_M>(0);
    Mmad(l0c, l0a, l0b, p);  // here
  }
  FAULT(fractal_not_loaded) {  // one fractal too few in each row of a
    to_l1();
    Sync<HardEvent::MTE2_MTE1>(0);
    to_l0();
    Sync<HardEvent::MTE1_M>(0);
    p.k = 80;
    Mmad(l0c, l0a, l0b, p);  // here
  }
  FAULT(column_distance) {
    DataCopy(l1a, in_gm, Nd2NzParams(1, 32, 64, 0, 64, 16, 1, 0));  // here
  }
  FAULT(l0_alignment) {
    to_l1();
    Sync<HardEvent::MTE2_MTE1>(0);
    LoadData(l0a[128], l1a, LoadData2DParams(0, 1, 1, 0, 0, false, 0));  // here
  }
  FAULT(l0c_alignment) {
    product();
    Mmad(l0c[16], l0a, l0b, p);  // here
  }
  FAULT(load_repeat) {
    LoadData(l0a, l1a, LoadData2DParams(0, 256, 1, 0, 0, false, 0));  // here
  }
  FAULT(load_past_l1) {
    to_l1();
    Sync<HardEvent::MTE2_MTE1>(0);
    LoadData(l0a, l1a, LoadData2DParams(5, 4, 2, 0, 0, false, 0));  // here
  }
  FAULT(product_size) {
    p.m = 4096;
    Mmad(l0c, l0a, l0b, p);  // here
  }
  FAULT(product_past_l0c) {
    product();
    PipeBarrier<PIPE_M>();
    p.n = 80;
    Mmad(l0c, l0a, l0b, p);  // here
  }
  FAULT(transposed_squares_collide) {
    const auto bytes = b1.Get<int8_t>();
    LoadDataWithTranspose(b2.Get<int8_t>(), bytes, LoadData2dTransposeParams(0, 2, 1, 0, 0));  // here
  }
  FAULT(fixpipe_n) {
    product();
    Sync<HardEvent::M_FIX>(0);
    f.nSize = 40;
    Fixpipe<float, float, CFG_ROW_MAJOR>(out_gm, l0c, f);  // here
  }
  FAULT(fixpipe_mode) {
    product();
    Sync<HardEvent::M_FIX>(0);
    GlobalTensor<bfloat16_t> bf_gm;
    bf_gm.SetGlobalBuffer((__gm__ bfloat16_t*)out);
    Fixpipe<bfloat16_t, float, CFG_ROW_MAJOR>(bf_gm, l0c, f);  // here
  }
  FAULT(fixpipe_stride) {
    product();
    Sync<HardEvent::M_FIX>(0);
    f.dstStride = 32;
    Fixpipe<float, float, CFG_ROW_MAJOR>(out_gm, l0c, f);  // here
  }
  FAULT(fixpipe_source_stride) {
    product();
    Sync<HardEvent::M_FIX>(0);
    f.srcStride = 16;
    Fixpipe<float, float, CFG_ROW_MAJOR>(out_gm, l0c, f);  // here
  }
  FAULT(fixpipe_past_the_output) {
    product();
    Sync<HardEvent::M_FIX>(0);
    f.dstStride = 200;
    Fixpipe<float, float, CFG_ROW_MAJOR>(out_gm, l0c, f);  // here
  }
  FAULT(fixpipe_rows_nobody_computed) {
    p.m = 16;
    product();
    Sync<HardEvent::M_FIX>(0);
    Fixpipe<float, float, CFG_ROW_MAJOR>(out_gm, l0c, f);  // here
  }
  FAULT(l1_full) {
    TBuf<TPosition::B1> big;
    pipe.InitBuffer(big, 512 * 1024);  // here
  }
  FAULT(vector_on_aic) {
    const LocalTensor<float> ub(TPosition::VECCALC, 0, 64);
    Adds(ub, ub, 1.0f, 64);  // here
  }
  FAULT(vector_barrier_on_aic) {
    PipeBarrier<PIPE_V>();  // here
  }
}

#endif  // ASCENDC_EMULATOR_TESTS_CUBE_FAULTS_H_
