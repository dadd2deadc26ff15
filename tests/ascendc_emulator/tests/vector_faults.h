// Faults of one AIV, with and without a TPipe: flags, barriers, copies, vector instructions, scalar accesses and
// resources.
#ifndef ASCENDC_EMULATOR_TESTS_VECTOR_FAULTS_H_
#define ASCENDC_EMULATOR_TESTS_VECTOR_FAULTS_H_

#include "faults.h"

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

#endif  // ASCENDC_EMULATOR_TESTS_VECTOR_FAULTS_H_
