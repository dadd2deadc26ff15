// Kernels with one mistake each. The test reads names and the marked lines from this file: a fault is reported at the
// line marked "here".
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

// On the first AIV. `in` and `out` have 4096 floats.
__aicore__ inline void VectorFaults(const FaultTiling& t, GM_ADDR in, GM_ADDR out, GM_ADDR workspace) {
  TPipe pipe;
  TBuf<TPosition::VECCALC> x_buffer, y_buffer, z_buffer, w_buffer;
  pipe.InitBuffer(x_buffer, 2048);
  pipe.InitBuffer(y_buffer, 2048);
  pipe.InitBuffer(z_buffer, 8192);
  pipe.InitBuffer(w_buffer, 2048);  // never written
  const auto x = x_buffer.Get<float>(), y = y_buffer.Get<float>(), z = z_buffer.Get<float>(), w = w_buffer.Get<float>();
  const auto zh = z_buffer.Get<half>();
  const auto xi = x_buffer.Get<int32_t>(), zi = z_buffer.Get<int32_t>();
  const auto xu = x_buffer.Get<uint32_t>(), yu = y_buffer.Get<uint32_t>();
  GlobalTensor<float> in_gm, out_gm, short_gm, work_gm;
  in_gm.SetGlobalBuffer((__gm__ float*)in, 4096);
  out_gm.SetGlobalBuffer((__gm__ float*)out, 4096);
  short_gm.SetGlobalBuffer((__gm__ float*)in, 100);
  work_gm.SetGlobalBuffer((__gm__ float*)GetUserWorkspace(workspace));
  bfloat16_t bf;
  bf.bits = 0;
  const auto zb = z_buffer.Get<bfloat16_t>();
  uint64_t kept = 0;
  const auto load = [&] {
    DataCopy(x, in_gm, 512);
    DataCopy(y, in_gm, 512);
    Sync<HardEvent::MTE2_V>(5);
  };
  const auto tell = [&](float value) {
    out_gm.SetValue(0, value);
    DataCacheCleanAndInvalid<float, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(out_gm);
  };

  FAULT(missing_flag_in) {
    DataCopy(x, in_gm, 512);
    Adds(z, x, 1.0f, 512);  // here
  }
  FAULT(missing_flag_out) {
    load();
    Adds(z, x, 1.0f, 512);
    DataCopy(out_gm, z, 512);  // here
  }
  FAULT(missing_flag_reuse) {
    load();
    Sync<HardEvent::MTE2_MTE3>(0);
    DataCopy(out_gm, x, 512);
    DataCopy(x, in_gm[512], 512);  // here
  }
  FAULT(missing_barrier) {
    load();
    Adds(z, x, 1.0f, 64);
    Adds(y, z, 1.0f, 64);  // here
  }
  FAULT(missing_barrier_in_place) {
    load();
    Adds(z, x, 1.0f, 64);
    Adds(x, x, 1.0f, 64);  // here
  }
  FAULT(missing_barrier_dma) {
    DataCopy(x, in_gm, 64);
    DataCopy(x, in_gm[64], 64);  // here
  }
  FAULT(flag_of_another_id) {
    DataCopy(x, in_gm, 512);
    SetFlag<HardEvent::MTE2_V>(0);
    WaitFlag<HardEvent::MTE2_V>(1);  // here
  }
  FAULT(flag_of_another_pipe) {
    DataCopy(x, in_gm, 512);
    Sync<HardEvent::MTE2_MTE3>(0);
    Adds(z, x, 1.0f, 512);  // here
  }
  FAULT(flag_set_too_early) {
    DataCopy(y, in_gm, 512);
    SetFlag<HardEvent::MTE2_V>(0);
    DataCopy(x, in_gm, 512);
    WaitFlag<HardEvent::MTE2_V>(0);
    Adds(z, x, 1.0f, 512);  // here
  }
  FAULT(event_set_again) {  // the scalar unit is ahead of MTE3
    load();
    Sync<HardEvent::MTE2_MTE3>(0);
    for (int i = 0; i < 3; ++i) {
      SetFlag<HardEvent::S_MTE3>(5);  // here
      WaitFlag<HardEvent::S_MTE3>(5);
      DataCopy(out_gm[i * 512], x, 512);
    }
  }
  FAULT(event_set_again_before_the_wait_is_known) {  // V waited for the second event, and MTE2 knows of the first one
    for (int i = 0; i < 2; ++i) {
      DataCopy(x, in_gm, 512);
      SetFlag<HardEvent::MTE2_V>(2);  // here
      Sync<HardEvent::V_MTE2>(0);
      WaitFlag<HardEvent::MTE2_V>(2);
    }
  }
  FAULT(double_set) {
    SetFlag<HardEvent::MTE2_V>(0);
    SetFlag<HardEvent::MTE2_V>(0);  // here
  }
  FAULT(leftover_flag) {
    SetFlag<HardEvent::MTE2_V>(2);  // here
  }
  FAULT(event_id) {
    SetFlag<HardEvent::MTE2_V>(8);  // here
  }
  FAULT(event_of_the_other_core) {
    SetFlag<HardEvent::MTE1_M>(0);  // here
  }
  FAULT(count_no_multiple_of_32_bytes) {
    DataCopy(x, in_gm, 7);  // here
  }
  FAULT(block_count) {
    DataCopyPad(zh, GlobalTensor<half>(), DataCopyExtParams(4096, 2, 0, 0, 0), DataCopyPadExtParams<half>());  // here
  }
  FAULT(block_len) {
    DataCopyPad(z, in_gm, DataCopyExtParams(1, 2097152, 0, 0, 0), DataCopyPadExtParams<float>());  // here
  }
  FAULT(repeat) {
    load();
    Add(z, x, y, uint64_t{64}, 256, BinaryRepeatParams(1, 1, 1, 0, 0, 0));  // here
  }
  FAULT(repeat_stride) {
    load();
    Add(z, x, y, uint64_t{64}, 1, BinaryRepeatParams(1, 1, 1, 256, 8, 8));  // here
  }
  FAULT(mask) {
    load();
    Adds(z, x, 1.0f, uint64_t{65}, 1, UnaryRepeatParams());  // here
  }
  FAULT(stride_in_bytes) {                             // 64 rows of 32 B, 64 B apart: the gap is 1 block, not 32 bytes
    DataCopy(z, in_gm, DataCopyParams(64, 1, 32, 0));  // here
  }
  FAULT(stride_as_distance) {
    load();
    Adds(z, x, 1.0f, uint64_t{64}, 8, UnaryRepeatParams(1, 1, 64, 8));  // here
  }
  FAULT(buffer_overflow) {
    load();
    Adds(z, x, 1.0f, 513);  // here
  }
  FAULT(misaligned) {
    load();
    Adds(z[1], x, 1.0f, 64);  // here
  }
  FAULT(uninitialised_operand) {
    load();
    Add(z, x, w, 64);  // here
  }
  FAULT(uninitialised_padding) {  // 3 floats and 5 of rubbish
    DataCopyPad(x, in_gm, DataCopyExtParams(1, 12, 0, 0, 0), DataCopyPadExtParams<float>());
    Sync<HardEvent::MTE2_MTE3>(0);
    DataCopy(out_gm, x, 8);  // here
  }
  FAULT(uninitialised_tail_of_a_sum) {
    DataCopyPad(x, in_gm, DataCopyExtParams(1, 100, 0, 0, 0), DataCopyPadExtParams<float>());
    Sync<HardEvent::MTE2_V>(0);
    WholeReduceSum(z, x, 64, 1, 1, 1, 8);
    Sync<HardEvent::V_MTE3>(0);
    DataCopyPad(out_gm, z, DataCopyExtParams(1, 4, 0, 0, 0));  // here
  }
  FAULT(uninitialised_workspace) {
    DataCopy(x, work_gm, 64);
    Sync<HardEvent::MTE2_V>(0);
    Adds(z, x, 1.0f, 64);  // here
  }
  FAULT(uninitialised_scalar) {
    DataCopyPad(x, in_gm, DataCopyExtParams(1, 12, 0, 0, 0), DataCopyPadExtParams<float>());
    Sync<HardEvent::MTE2_S>(0);
    (void)x.GetValue(3);  // here
  }
  FAULT(redzone_behind) {
    DataCopy(x, in_gm[3968], 256);  // here
  }
  FAULT(redzone_before) {
    load();
    Sync<HardEvent::MTE2_MTE3>(0);
    DataCopy(out_gm[-8], x, 64);  // here
  }
  FAULT(raw_pointer) { out[4096 * 4 + 3] = 0; }
  FAULT(announced_size) {
    DataCopy(x, short_gm, 128);  // here
  }
  FAULT(write_to_input) {
    load();
    Sync<HardEvent::MTE2_MTE3>(0);
    DataCopy(in_gm, x, 64);  // here
  }
  FAULT(workspace_of_the_system) {
    GlobalTensor<float> wrong;
    wrong.SetGlobalBuffer((__gm__ float*)workspace);
    DataCopy(x, wrong, 64);  // here
  }
  FAULT(partial_overlap) {
    load();
    Adds(x[8], x, 1.0f, 64);  // here
  }
  FAULT(overlap_between_repeats) {
    load();
    Adds(x[64], x, 1.0f, uint64_t{64}, 4, UnaryRepeatParams());  // here
  }
  FAULT(brcb_in_place) {
    load();
    Brcb(x, x, 1, BrcbRepeatParams());  // here
  }
  FAULT(narrowed_in_place) {
    load();
    Cast(x.ReinterpretCast<bfloat16_t>(), x, RoundMode::CAST_RINT, 64);  // here
  }
  FAULT(deq_scale_not_set) {
    load();
    Cast(zh, xi, RoundMode::CAST_NONE, 64);  // here
  }
  FAULT(cast_mode) {
    load();
    Cast(zb, x, RoundMode::CAST_NONE, 64);  // here
  }
  FAULT(integer_overflow) {
    load();
    Duplicate(xi, int32_t{2000000000}, 64);
    PipeBarrier<PIPE_V>();
    Add(zi, xi, xi, 64);  // here
  }
  FAULT(scalar_read_without_flag) {
    DataCopy(x, in_gm, 64);
    (void)x.GetValue(0);  // here
  }
  FAULT(index_without_flag) {  // the first block is written by the scalar unit
    Duplicate(z.ReinterpretCast<int32_t>(), -1, 64);
    PipeBarrier<PIPE_V>();
    CreateVecIndex(z.ReinterpretCast<int32_t>(), 0, 64);  // here
  }
  FAULT(scalar_write_without_flag) {
    load();
    x.SetValue(0, 1.0f);
    Adds(z, x, 1.0f, 64);  // here
  }
  FAULT(stale_cache_line) {
    load();
    Sync<HardEvent::MTE2_MTE3>(0);
    out_gm.SetValue(0, -5.0f);
    DataCacheCleanAndInvalid<float, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(out_gm);
    (void)out_gm.GetValue(0);
    Sync<HardEvent::S_MTE3>(0);
    DataCopy(out_gm, x, 64);
    Sync<HardEvent::MTE3_S>(0);
    (void)out_gm.GetValue(0);  // here
  }
  FAULT(cache_line_not_written_back) {
    out_gm.SetValue(3, 1.0f);  // here
  }
  FAULT(cache_line_address) {
    out_gm.SetValue(3, 1.0f);
    DataCacheCleanAndInvalid<float, CacheLine::SINGLE_CACHE_LINE>(out_gm[3]);  // here
  }
  FAULT(scalar_address) {
    GlobalTensor<uint64_t> pairs;
    pairs.SetGlobalBuffer(reinterpret_cast<__gm__ uint64_t*>(reinterpret_cast<__gm__ uint8_t*>(in) + 4), 4);
    pairs.GetValue(0);  // here
  }
  FAULT(second_pipe) {
    TPipe another;  // here
  }
  FAULT(unified_buffer_full) {
    TBuf<TPosition::VECIN> big;
    pipe.InitBuffer(big, 190000);  // here
  }
  FAULT(cube_memory_on_aiv) {
    TBuf<TPosition::A1> l1;
    pipe.InitBuffer(l1, 1024);  // here
  }
  FAULT(no_path_to_l1) {
    load();
    DataCopy(LocalTensor<float>(TPosition::A1, 0, 64), x, 64);  // here
  }
  FAULT(merge_valid_bit) {
    load();
    const uint16_t lengths[4] = {8, 8, 8, 8};
    MrgSort(z, MrgSortSrcList<float>(x, y, x, y), MrgSort4Info(lengths, false, 5, 1));  // here
  }
  FAULT(merge_result_without_flag) {
    load();
    const uint16_t lengths[4] = {8, 8, 0, 0};
    MrgSort(z, MrgSortSrcList<float>(x, y, x, y), MrgSort4Info(lengths, true, 3, 1));
    uint16_t n[4];
    GetMrgSortResult(n[0], n[1], n[2], n[3]);  // here
    tell(n[0]);
  }
  FAULT(merge_result_of_a_whole_merge) {
    load();
    const uint16_t lengths[4] = {8, 8, 0, 0};
    MrgSort(z, MrgSortSrcList<float>(x, y, x, y), MrgSort4Info(lengths, false, 3, 1));
    Sync<HardEvent::V_S>(0);
    uint16_t n[4];
    GetMrgSortResult(n[0], n[1], n[2], n[3]);  // here
  }
  FAULT(gather_count_without_flag) {
    load();
    GatherMask(z, x, uint8_t{1}, false, 0, GatherMaskParams(1, 1, 8, 0), kept);
    Sync<HardEvent::V_S>(0);
    GatherMask(z[64], y, uint8_t{7}, false, 0, GatherMaskParams(1, 1, 8, 0), kept);
    tell(GetGatherMaskRemainCount());  // here
  }
  FAULT(gather_count_of_a_mask_without_flag) {
    load();
    CompareScalar(w.ReinterpretCast<uint8_t>(), x, 0.0f, CMPMODE::GT, 64);
    PipeBarrier<PIPE_V>();
    GatherMask(z, y, w.ReinterpretCast<uint32_t>(), false, 0, GatherMaskParams(1, 1, 8, 0), kept);
    tell(GetGatherMaskRemainCount());  // here
  }
  FAULT(gathered_more_than_there_is_room) {
    load();
    CompareScalar(w.ReinterpretCast<uint8_t>(), x, 0.0f, CMPMODE::GT, 64);
    PipeBarrier<PIPE_V>();
    GatherMask(z[2048 - 32], y, w.ReinterpretCast<uint32_t>(), false, 0, GatherMaskParams(1, 1, 8, 0), kept);  // here
  }
  FAULT(reduce_result_without_flag) {
    load();
    WholeReduceSum(z, x, 64, 1, 1, 1, 8);
    tell(z.GetValue(0));  // here
  }
  FAULT(mask_without_flag) {
    load();
    CompareScalar(z.ReinterpretCast<uint8_t>(), x, 3.0f, CMPMODE::GT, 64);
    tell(z.ReinterpretCast<uint8_t>().GetValue(0));  // here
  }
  FAULT(gather_count_by_reference) {
    load();
    GatherMask(z, x, uint8_t{1}, false, 0, GatherMaskParams(1, 1, 8, 0), kept);
    Sync<HardEvent::V_S>(0);
    PipeBarrier<PIPE_V>();
    Adds(z, z, 1.0f, static_cast<int32_t>(kept));  // here
  }
  FAULT(merge_repeat) {
    load();
    const uint16_t lengths[4] = {8, 8, 8, 8};
    MrgSort(z, MrgSortSrcList<float>(x, x[16], x[32], x[64]), MrgSort4Info(lengths, false, 15, 2));  // here
  }
  FAULT(sort_alignment) {
    load();
    Sort32(z[8], x, yu, 1);  // here
  }
  FAULT(gather_offset) {
    load();
    Duplicate(xu, uint32_t{2048}, 64);
    PipeBarrier<PIPE_V>();
    Gather(z, y, xu, 0, 64);  // here
  }
  FAULT(reduce_alignment) {
    load();
    WholeReduceMax(z[1], x, 64, 1, 1, 1, 8);  // here
  }
  FAULT(atomic_type) {
    load();
    Sync<HardEvent::MTE2_MTE3>(0);
    SetAtomicAdd<half>();
    DataCopy(out_gm, x, 64);  // here
  }
}

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

// On the first AIV, without a TPipe.
__aicore__ inline void BareFaults(const FaultTiling& t, GM_ADDR in, GM_ADDR out) {
  const LocalTensor<float> x(TPosition::VECCALC, 0, 64);
  GlobalTensor<float> in_gm, out_gm;
  in_gm.SetGlobalBuffer((__gm__ float*)in, 4096);
  out_gm.SetGlobalBuffer((__gm__ float*)out, 4096);
  DataCopy(x, in_gm, 64);
  Sync<HardEvent::MTE2_MTE3>(0);

  FAULT(atomic_mode_of_another_kernel) {
    DataCopy(out_gm, x, 64);  // here
  }
}

extern "C" __global__ __aicore__ void fault(GM_ADDR in, GM_ADDR out, GM_ADDR workspace, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  GET_TILING_DATA_WITH_STRUCT(FaultTiling, t, tiling);
  const bool first = GetBlockIdx() == 0;
  if (ASCEND_IS_AIV && first && TILING_KEY_IS(0)) VectorFaults(t, in, out, workspace);
  if (ASCEND_IS_AIC && first && TILING_KEY_IS(1)) CubeFaults(t, in, out);
  if (TILING_KEY_IS(2)) CrossFaults(t, in, out, workspace);
  if (ASCEND_IS_AIV && first && TILING_KEY_IS(3)) BareFaults(t, in, out);
}
