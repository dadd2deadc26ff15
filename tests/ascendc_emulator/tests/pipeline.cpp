// Kernels over both kinds of cores: an element-wise one, a matrix product whose result the AIVs scale, barriers over
// all cores.
#include "kernel_operator.h"

using namespace AscendC;

template <HardEvent event>
__aicore__ inline void Sync(int32_t id) {
  SetFlag<event>(id);
  WaitFlag<event>(id);
}

// z = x + y, 256 floats for each AIV.
extern "C" __global__ __aicore__ void add_vectors(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  if ASCEND_IS_AIC {
    return;
  }
  TPipe pipe;
  TBuf<TPosition::VECCALC> a_buffer, b_buffer;
  pipe.InitBuffer(a_buffer, 1024);
  pipe.InitBuffer(b_buffer, 1024);
  const LocalTensor<float> a = a_buffer.Get<float>(), b = b_buffer.Get<float>();
  GlobalTensor<float> x_gm, y_gm, z_gm;
  x_gm.SetGlobalBuffer((__gm__ float*)x);
  y_gm.SetGlobalBuffer((__gm__ float*)y);
  z_gm.SetGlobalBuffer((__gm__ float*)z);
  const int64_t first = GetBlockIdx() * 256;
  DataCopy(a, x_gm[first], 256);
  DataCopy(b, y_gm[first], 256);
  Sync<HardEvent::MTE2_V>(0);
  Add(a, a, b, 256);
  Sync<HardEvent::V_MTE3>(0);
  DataCopy(z_gm[first], a, 256);
}

struct ProductTiling {
  int32_t tiles;
  int32_t m;
};

// c[tile] = 0.5 * a[tile] @ b, a [tiles, m, 64] half, b [64, 128] half in ND, c float. The AIC of a block takes every
// GetBlockNum()-th tile and hands float sums over through two workspace slots; each AIV scales half of the rows. The
// AIVs give slots back as credits.
extern "C" __global__ __aicore__ void scaled_product(GM_ADDR a, GM_ADDR b, GM_ADDR c, GM_ADDR workspace,
                                                     GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  GET_TILING_DATA_WITH_STRUCT(ProductTiling, t, tiling);
  constexpr int kK = 64, kN = 128;
  constexpr uint16_t kDone = 0, kFree = 1;
  const int block = ASCEND_IS_AIC ? GetBlockIdx() : GetBlockIdx() / 2;
  const int rows = (t.m + 15) / 16 * 16;
  GlobalTensor<float> slots;
  slots.SetGlobalBuffer((__gm__ float*)GetUserWorkspace(workspace) + block * 2 * rows * kN, 2 * rows * kN);
  TPipe pipe;
  if ASCEND_IS_AIC {
    TBuf<TPosition::A1> a1;
    TBuf<TPosition::B1> b1;
    TBuf<TPosition::A2> a2;
    TBuf<TPosition::B2> b2;
    TBuf<TPosition::CO1> co1;
    pipe.InitBuffer(a1, rows * kK * 2);
    pipe.InitBuffer(b1, kK * kN * 2);
    pipe.InitBuffer(a2, rows * kK * 2);
    pipe.InitBuffer(b2, kK * kN * 2);
    pipe.InitBuffer(co1, rows * kN * 4);
    GlobalTensor<half> a_gm, b_gm;
    a_gm.SetGlobalBuffer((__gm__ half*)a);
    b_gm.SetGlobalBuffer((__gm__ half*)b);
    DataCopy(b1.Get<half>(), b_gm, Nd2NzParams(1, kK, kN, 0, kN, kK, 1, 0));
    Sync<HardEvent::MTE2_MTE1>(0);
    for (int i = 0; i < kK / 16; ++i)
      LoadData(b2.Get<half>()[i * 16 * kN], b1.Get<half>(), LoadData2DParams(i, kN / 16, kK / 16, 0, 0, true, 0));
    SetFlag<HardEvent::MTE1_MTE2>(1);
    SetFlag<HardEvent::M_MTE1>(3);
    SetFlag<HardEvent::FIX_M>(0);
    int step = 0;
    for (int tile = block; tile < t.tiles; tile += GetBlockNum(), ++step) {
      WaitFlag<HardEvent::MTE1_MTE2>(1);
      DataCopy(a1.Get<half>(), a_gm[tile * t.m * kK], Nd2NzParams(1, t.m, kK, 0, kK, rows, 1, 0));
      Sync<HardEvent::MTE2_MTE1>(0);
      WaitFlag<HardEvent::M_MTE1>(3);
      for (int i = 0; i < rows / 16; ++i)
        LoadData(a2.Get<half>()[i * 16 * kK], a1.Get<half>()[i * 16 * 16],
                 LoadData2DParams(0, kK / 16, rows / 16, 0, 0, false, 0));
      SetFlag<HardEvent::MTE1_MTE2>(1);
      Sync<HardEvent::MTE1_M>(0);
      WaitFlag<HardEvent::FIX_M>(0);
      MmadParams product;
      product.m = rows;
      product.n = kN;
      product.k = kK;
      Mmad(co1.Get<float>(), a2.Get<half>(), b2.Get<half>(), product);
      SetFlag<HardEvent::M_MTE1>(3);
      Sync<HardEvent::M_FIX>(0);
      if (step >= 2) CrossCoreWaitFlag(kFree);
      FixpipeParamsV220 out;
      out.nSize = kN;
      out.mSize = t.m;
      out.srcStride = rows;
      out.dstStride = kN;
      Fixpipe<float, float, CFG_ROW_MAJOR>(slots[step % 2 * rows * kN], co1.Get<float>(), out);
      SetFlag<HardEvent::FIX_M>(0);
      CrossCoreSetFlag<2, PIPE_FIX>(kDone);
    }
    for (int i = 0; i < 2 && i < step; ++i) CrossCoreWaitFlag(kFree);
    WaitFlag<HardEvent::MTE1_MTE2>(1);
    WaitFlag<HardEvent::M_MTE1>(3);
    WaitFlag<HardEvent::FIX_M>(0);
  }
  if ASCEND_IS_AIV {
    const int first = GetSubBlockIdx() == 0 ? 0 : (t.m + 1) / 2;
    const int count = GetSubBlockIdx() == 0 ? (t.m + 1) / 2 : t.m / 2;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, rows * kN * 4);
    const LocalTensor<float> x = buffer.Get<float>();
    GlobalTensor<float> c_gm;
    c_gm.SetGlobalBuffer((__gm__ float*)c);
    int step = 0;
    SetFlag<HardEvent::MTE3_MTE2>(0);
    for (int tile = block; tile < t.tiles; tile += GetBlockNum(), ++step) {
      CrossCoreWaitFlag(kDone);
      WaitFlag<HardEvent::MTE3_MTE2>(0);
      if (count > 0) DataCopy(x, slots[step % 2 * rows * kN + first * kN], count * kN);
      CrossCoreSetFlag<2, PIPE_MTE2>(kFree);
      Sync<HardEvent::MTE2_V>(0);
      if (count > 0) Muls(x, x, 0.5f, count * kN);
      Sync<HardEvent::V_MTE3>(0);
      if (count > 0) DataCopy(c_gm[tile * t.m * kN + first * kN], x, count * kN);
      SetFlag<HardEvent::MTE3_MTE2>(0);
    }
    WaitFlag<HardEvent::MTE3_MTE2>(0);
  }
}

// out[i] = sum of all AIVs' numbers, read back by each AIV after a barrier. tiling key 0: SyncAll<true>, 1:
// SyncAll<false>, 2: mode 0 flags, 3: mode 1 flags, where each AIV adds up its own block only.
extern "C" __global__ __aicore__ void exchange(GM_ADDR out, GM_ADDR workspace) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  if ASCEND_IS_AIC {
    if (TILING_KEY_IS(1)) SyncAll<false>();
    return;
  }
  TPipe pipe;
  TBuf<TPosition::VECCALC> buffer;
  pipe.InitBuffer(buffer, 64 * 32);
  const LocalTensor<float> x = buffer.Get<float>();
  GlobalTensor<float> slots, out_gm;
  slots.SetGlobalBuffer((__gm__ float*)GetUserWorkspace(workspace));
  out_gm.SetGlobalBuffer((__gm__ float*)out);
  const int self = GetBlockIdx(), cores = 2 * GetBlockNum();
  Duplicate(x, static_cast<float>(self + 1), 8);
  Sync<HardEvent::V_MTE3>(0);
  DataCopy(slots[self * 8], x, 8);
  if (TILING_KEY_IS(0)) SyncAll<true>();
  if (TILING_KEY_IS(1)) SyncAll<false>();
  if (TILING_KEY_IS(2)) {
    CrossCoreSetFlag<0, PIPE_MTE3>(3);
    CrossCoreWaitFlag(3);
  }
  if (TILING_KEY_IS(3)) {
    CrossCoreSetFlag<1, PIPE_MTE3>(4);
    CrossCoreWaitFlag(4);
  }
  Sync<HardEvent::MTE3_MTE2>(0);
  const int first = TILING_KEY_IS(3) ? self / 2 * 2 : 0, count = TILING_KEY_IS(3) ? 2 : cores;
  DataCopy(x, slots[first * 8], count * 8);
  Sync<HardEvent::MTE2_V>(0);
  for (int i = 1; i < count; ++i) {
    Add(x, x, x[i * 8], 8);
    PipeBarrier<PIPE_V>();
  }
  Sync<HardEvent::V_MTE3>(0);
  DataCopy(out_gm[self * 8], x, 8);
}
