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
      // A single row comes twice, because Mmad would read one row as a vector, and must not read a row that nobody
      // wrote.
      DataCopy(a1.Get<half>(), a_gm[tile * t.m * kK], Nd2NzParams(t.m == 1 ? 2 : 1, t.m, kK, 0, kK, rows, 1, 16));
      Sync<HardEvent::MTE2_MTE1>(0);
      WaitFlag<HardEvent::M_MTE1>(3);
      for (int i = 0; i < rows / 16; ++i)
        LoadData(a2.Get<half>()[i * 16 * kK], a1.Get<half>()[i * 16 * 16],
                 LoadData2DParams(0, kK / 16, rows / 16, 0, 0, false, 0));
      SetFlag<HardEvent::MTE1_MTE2>(1);
      Sync<HardEvent::MTE1_M>(0);
      WaitFlag<HardEvent::FIX_M>(0);
      MmadParams product;
      product.m = t.m == 1 ? 2 : t.m;
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

// Events that are set again and again, each after the wait for its earlier set, and values that the scalar unit reads
// after a wait. AIV: for each of `rounds` rows of 64 numbers, out[i] gets how many are above the row's index, their
// sum, and how many records of the first of two lists a merge took, by MTE3 and the scalar unit in turn. AIC:
// product[i] = row block i of `a` times `b` as in scaled_product, 16 rows each, with an event for each of two places of
// L0A.
extern "C" __global__ __aicore__ void back_edges(GM_ADDR x, GM_ADDR a, GM_ADDR b, GM_ADDR out, GM_ADDR product,
                                                 GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  GET_TILING_DATA_WITH_STRUCT(ProductTiling, t, tiling);
  const int rounds = t.tiles;
  TPipe pipe;
  if ASCEND_IS_AIC {
    constexpr int kK = 64, kN = 128;
    TBuf<TPosition::A1> a1;
    TBuf<TPosition::B1> b1;
    TBuf<TPosition::A2> a2;
    TBuf<TPosition::B2> b2;
    TBuf<TPosition::CO1> co1;
    pipe.InitBuffer(a1, 16 * rounds * kK * 2);
    pipe.InitBuffer(b1, kK * kN * 2);
    pipe.InitBuffer(a2, 2 * 16 * kK * 2);
    pipe.InitBuffer(b2, kK * kN * 2);
    pipe.InitBuffer(co1, 2 * 16 * kN * 4);
    GlobalTensor<half> a_gm, b_gm;
    GlobalTensor<float> product_gm;
    a_gm.SetGlobalBuffer((__gm__ half*)a);
    b_gm.SetGlobalBuffer((__gm__ half*)b);
    product_gm.SetGlobalBuffer((__gm__ float*)product);
    const LocalTensor<half> l1 = a1.Get<half>(), l0a = a2.Get<half>(), l0b = b2.Get<half>();
    DataCopy(b1.Get<half>(), b_gm, Nd2NzParams(1, kK, kN, 0, kN, kK, 1, 0));
    for (int i = 0; i < rounds; ++i)
      DataCopy(l1[i * 16 * kK], a_gm[i * 16 * kK], Nd2NzParams(1, 16, kK, 0, kK, 16, 1, 0));
    Sync<HardEvent::MTE2_MTE1>(0);
    for (int i = 0; i < kK / 16; ++i)
      LoadData(l0b[i * 16 * kN], b1.Get<half>(), LoadData2DParams(i, kN / 16, kK / 16, 0, 0, true, 0));
    for (int i = 0; i < 2; ++i) {
      SetFlag<HardEvent::M_MTE1>(5 + i);
      SetFlag<HardEvent::FIX_M>(i);
    }
    const auto load = [&](int i) {
      WaitFlag<HardEvent::M_MTE1>(5 + i % 2);
      LoadData(l0a[i % 2 * 16 * kK], l1[i * 16 * kK], LoadData2DParams(0, kK / 16, 1, 0, 0, false, 0));
      SetFlag<HardEvent::MTE1_M>(i % 2);
    };
    load(0);
    for (int i = 0; i < rounds; ++i) {
      if (i + 1 < rounds) load(i + 1);  // ahead of the product
      WaitFlag<HardEvent::MTE1_M>(i % 2);
      WaitFlag<HardEvent::FIX_M>(i % 2);
      MmadParams p;
      p.m = 16;
      p.n = kN;
      p.k = kK;
      const LocalTensor<float> c = co1.Get<float>()[i % 2 * 16 * kN];
      Mmad(c, l0a[i % 2 * 16 * kK], l0b, p);
      SetFlag<HardEvent::M_MTE1>(5 + i % 2);
      SetFlag<HardEvent::M_FIX>(i % 2);
      WaitFlag<HardEvent::M_FIX>(i % 2);
      FixpipeParamsV220 f;
      f.nSize = kN;
      f.mSize = 16;
      f.srcStride = 16;
      f.dstStride = kN;
      Fixpipe<float, float, CFG_ROW_MAJOR>(product_gm[i * 16 * kN], c, f);
      SetFlag<HardEvent::FIX_M>(i % 2);
    }
    for (int i = 0; i < 2; ++i) {
      WaitFlag<HardEvent::M_MTE1>(5 + i);
      WaitFlag<HardEvent::FIX_M>(i);
    }
    return;
  }
  if (GetSubBlockIdx() != 0) return;
  TBuf<TPosition::VECCALC> x_buffer, bits_buffer, kept_buffer, lists_buffer, merged_buffer, row_buffer;
  pipe.InitBuffer(lists_buffer, 512);
  pipe.InitBuffer(merged_buffer, 512);
  pipe.InitBuffer(x_buffer, 256);
  pipe.InitBuffer(kept_buffer, 256);
  pipe.InitBuffer(bits_buffer, 32);
  pipe.InitBuffer(row_buffer, 32);
  const auto row_in = x_buffer.Get<float>(), kept = kept_buffer.Get<float>(), lists = lists_buffer.Get<float>(),
             merged = merged_buffer.Get<float>(), row = row_buffer.Get<float>();
  const auto bits = bits_buffer.Get<uint8_t>();
  GlobalTensor<float> x_gm, out_gm;
  x_gm.SetGlobalBuffer((__gm__ float*)x);
  out_gm.SetGlobalBuffer((__gm__ float*)out);
  uint64_t unused = 0;
  SetFlag<HardEvent::MTE3_S>(0);
  for (int i = 0; i < rounds; ++i) {
    DataCopy(row_in, x_gm[i * 64], 64);
    Sync<HardEvent::MTE2_V>(0);
    CompareScalar(bits, row_in, static_cast<float>(i), CMPMODE::GT, 64);
    PipeBarrier<PIPE_V>();
    GatherMask(kept, row_in, bits.ReinterpretCast<uint32_t>(), false, 0, GatherMaskParams(1, 1, 8, 0), unused);
    Sort32(lists, row_in, row_in.ReinterpretCast<uint32_t>(), 2);
    PipeBarrier<PIPE_V>();
    const uint16_t lengths[4] = {32, 32, 0, 0};
    MrgSort(merged, MrgSortSrcList<float>(lists, lists[64], lists, lists), MrgSort4Info(lengths, true, 3, 1));
    Sync<HardEvent::V_S>(0);
    const int count = static_cast<int>(GetGatherMaskRemainCount());
    uint16_t taken[4];
    GetMrgSortResult(taken[0], taken[1], taken[2], taken[3]);
    float sum = 0;
    for (int k = 0; k < count; ++k) sum += kept.GetValue(k);
    WaitFlag<HardEvent::MTE3_S>(0);
    row.SetValue(0, static_cast<float>(count));
    row.SetValue(1, sum);
    row.SetValue(2, static_cast<float>(taken[0]));
    for (int k = 3; k < 8; ++k) row.SetValue(k, 0.0f);
    Sync<HardEvent::S_MTE3>(0);
    DataCopy(out_gm[i * 8], row, 8);
    SetFlag<HardEvent::MTE3_S>(0);
    Sync<HardEvent::S_V>(0);  // the next row comes after the scalar unit has read this one's results
    Sync<HardEvent::V_MTE2>(0);
  }
  WaitFlag<HardEvent::MTE3_S>(0);
}
