// One call of a vector API for each case, between loading its operands and storing what it left in its destination.
// The test reads the names of the cases, in their order, from this file.
#include "kernel_operator.h"

using namespace AscendC;

struct VectorTiling {
  int32_t key;    // number of the case
  int32_t mode;   // RoundMode of the casts
  int32_t count;  // elements
  int32_t a_bytes, b_bytes, out_bytes;
};

constexpr int kFirst = __COUNTER__ + 1;
#define CASE(name) if (t.key == __COUNTER__ - kFirst)
#define CAST(to, from) CASE(cast_##from##_##to) Cast(D(to{}), A(from{}), static_cast<RoundMode>(t.mode), t.count)

extern "C" __global__ __aicore__ void vector_case(GM_ADDR a, GM_ADDR b, GM_ADDR before, GM_ADDR out, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  GET_TILING_DATA_WITH_STRUCT(VectorTiling, t, tiling);
  TPipe pipe;
  TBuf<TPosition::VECCALC> a_buffer, b_buffer, d_buffer, w_buffer;
  pipe.InitBuffer(a_buffer, 32768);
  pipe.InitBuffer(b_buffer, 32768);
  pipe.InitBuffer(d_buffer, 65536);
  pipe.InitBuffer(w_buffer, 8192);
  const auto load = [](const LocalTensor<uint8_t>& to, GM_ADDR from, int32_t bytes) {
    GlobalTensor<uint8_t> gm;
    gm.SetGlobalBuffer(from, bytes);
    DataCopyPad(to, gm, DataCopyExtParams(1, bytes, 0, 0, 0), DataCopyPadExtParams<uint8_t>());
  };
  load(a_buffer.Get<uint8_t>(), a, t.a_bytes);
  load(b_buffer.Get<uint8_t>(), b, t.b_bytes);
  load(d_buffer.Get<uint8_t>(), before, t.out_bytes);
  PipeBarrier<PIPE_ALL>();

  // Operands in the type of the argument.
  const auto A = [&](auto type) { return a_buffer.Get<decltype(type)>(); };
  const auto B = [&](auto type) { return b_buffer.Get<decltype(type)>(); };
  const auto D = [&](auto type) { return d_buffer.Get<decltype(type)>(); };
  const auto W = [&](auto type) { return w_buffer.Get<decltype(type)>(); };
  constexpr float f = 0;
  const half h = 0;
  constexpr int32_t i = 0;
  constexpr int16_t s = 0;
  constexpr uint32_t u = 0;
  bfloat16_t bf;
  bf.bits = 0;
  uint64_t kept = 0;
  const int32_t n = t.count;

  CASE(add_float) Add(D(f), A(f), B(f), n);
  CASE(add_half) Add(D(h), A(h), B(h), n);
  CASE(add_int32) Add(D(i), A(i), B(i), n);
  CASE(add_int16) Add(D(s), A(s), B(s), n);
  CASE(sub_float) Sub(D(f), A(f), B(f), n);
  CASE(sub_half) Sub(D(h), A(h), B(h), n);
  CASE(mul_float) Mul(D(f), A(f), B(f), n);
  CASE(mul_half) Mul(D(h), A(h), B(h), n);
  CASE(mul_int32) Mul(D(i), A(i), B(i), n);
  CASE(div_float) Div(D(f), A(f), B(f), n);
  CASE(div_half) Div(D(h), A(h), B(h), n);
  CASE(max_float) Max(D(f), A(f), B(f), n);
  CASE(max_int32) Max(D(i), A(i), B(i), n);
  CASE(min_half) Min(D(h), A(h), B(h), n);
  CASE(min_float) Min(D(f), A(f), B(f), n);
  CASE(and_int16) And(D(s), A(s), B(s), n);
  CASE(or_int16) Or(D(s), A(s), B(s), n);
  CASE(add_in_place) {
    DataCopy(D(f), A(f), 512);
    PipeBarrier<PIPE_V>();
    Add(D(f), D(f), B(f), n);
  }
  // 4 rows of 128 floats times a scalar for each row, which Brcb spread to a block.
  CASE(mul_rows)
  for (int c = 0; c < 2; ++c)
    Mul(D(f)[c * 64], A(f)[c * 64], B(f), uint64_t{64}, 4, BinaryRepeatParams(1, 1, 0, 16, 16, 1));
  CASE(add_bits) {
    uint64_t mask[2] = {0x5555555555555555, 0xffff};
    Add(D(h), A(h), B(h), mask, 3, BinaryRepeatParams(1, 1, 1, 8, 8, 8));
  }
  // Sums 8 repeats into one: the second source is the destination, with a repeat stride of 0.
  CASE(add_repeats) Add(D(f), A(f), D(f), uint64_t{64}, 8, BinaryRepeatParams(1, 1, 1, 0, 8, 0));
  CASE(adds_float) Adds(D(f), A(f), 1.5f, n);
  CASE(adds_int32) Adds(D(i), A(i), int32_t{-7}, n);
  CASE(muls_float) Muls(D(f), A(f), 1.5f, n);
  CASE(muls_half) Muls(D(h), A(h), half(0.1f), n);
  CASE(muls_stride) Muls(D(f), A(f), 2.0f, uint64_t{40}, 3, UnaryRepeatParams(2, 1, 16, 8));
  CASE(maxs_float) Maxs(D(f), A(f), 0.25f, n);
  CASE(mins_half) Mins(D(h), A(h), half(0.25f), n);
  CASE(exp_float) Exp(D(f), A(f), n);
  CASE(exp_half) Exp(D(h), A(h), n);
  CASE(ln_float) Ln(D(f), A(f), n);
  CASE(sqrt_float) Sqrt(D(f), A(f), n);
  CASE(sqrt_half) Sqrt(D(h), A(h), n);
  CASE(abs_float) Abs(D(f), A(f), n);
  CASE(abs_half) Abs(D(h), A(h), n);
  CASE(relu_float) Relu(D(f), A(f), n);
  CASE(rsqrt_float) Rsqrt(D(f), A(f), n);
  CASE(reciprocal_float) Reciprocal(D(f), A(f), n);
  CASE(duplicate_float) Duplicate(D(f), 2.5f, n);
  CASE(duplicate_bfloat16) Duplicate(D(bf), ToBfloat16(2.5f), n);
  CASE(duplicate_tail) {  // lanes 5..63 of one repeat
    uint64_t mask[2] = {~uint64_t{0} << 5, 0};
    Duplicate(D(f), -1.0f, mask, 1, 1, 8);
  }
  CASE(create_index) CreateVecIndex(D(i), int32_t{3}, n);
  CASE(create_index_float) CreateVecIndex(D(f), 3.0f, n);
  CASE(brcb_float) Brcb(D(f), A(f), 2, BrcbRepeatParams(1, 8));
  CASE(brcb_half) Brcb(D(h), A(h), 2, BrcbRepeatParams(2, 16));
  CASE(copy_stride) Copy(D(f), A(f), uint64_t{64}, 3, CopyRepeatParams(1, 2, 8, 16));
  CASE(copy_ub) DataCopy(D(f), A(f), DataCopyParams(4, 2, 1, 3));
  CASE(gather) Gather(D(f), A(f), B(u), 8, n);
  CASE(transpose) Transpose(D(h), A(h));

  CASE(whole_sum_float) WholeReduceSum(D(f), A(f), 64, 3, 1, 1, 8);
  CASE(whole_sum_half) WholeReduceSum(D(h), A(h), 100, 3, 2, 1, 8);
  CASE(whole_max_pair) WholeReduceMax(D(f), A(f), 64, 3, 1, 1, 8);
  CASE(whole_max_index_value) WholeReduceMax(D(f), A(f), 64, 3, 1, 1, 8, ReduceOrder::ORDER_INDEX_VALUE);
  CASE(whole_max_value) WholeReduceMax(D(f), A(f), 50, 3, 1, 1, 8, ReduceOrder::ORDER_ONLY_VALUE);
  CASE(whole_max_index) WholeReduceMax(D(f), A(f), 64, 3, 1, 1, 8, ReduceOrder::ORDER_ONLY_INDEX);
  CASE(whole_min_half) WholeReduceMin(D(h), A(h), 128, 3, 1, 1, 8);
  CASE(block_max) BlockReduceMax(D(f), A(f), 3, 64, 1, 1, 8);
  CASE(block_sum) BlockReduceSum(D(h), A(h), 3, 128, 1, 1, 8);
  CASE(block_min_tail) BlockReduceMin(D(f), A(f), 3, 20, 1, 1, 8);  // blocks 3-7 keep their results
  CASE(pair_sum) PairReduceSum(D(f), A(f), 3, 64, 1, 1, 8);
  CASE(reduce_sum) ReduceSum(D(f), A(f), W(f), n);
  CASE(reduce_sum_half) ReduceSum(D(h), A(h), W(h), n);
  CASE(reduce_max) ReduceMax(D(f), A(f), W(f), n, true);

  CASE(gather_mask_1) GatherMask(D(f), A(f), uint8_t{1}, false, 0, GatherMaskParams(1, 3, 8, 0), kept);
  CASE(gather_mask_2) GatherMask(D(h), A(h), uint8_t{2}, false, 0, GatherMaskParams(1, 3, 8, 0), kept);
  CASE(gather_mask_5) GatherMask(D(i), A(i), uint8_t{5}, false, 0, GatherMaskParams(1, 3, 8, 0), kept);
  CASE(gather_mask_7) GatherMask(D(f), A(f), uint8_t{7}, true, 20, GatherMaskParams(1, 3, 4, 0), kept);
  CASE(gather_mask_count) {  // stores the count of the last one of two after what that kept
    GatherMask(D(f), A(f), uint8_t{1}, false, 0, GatherMaskParams(1, 3, 8, 0), kept);
    PipeBarrier<PIPE_V>();
    GatherMask(D(f), A(f), B(u), true, 70, GatherMaskParams(1, 2, 12, 0), kept);
    SetFlag<HardEvent::V_S>(0);
    WaitFlag<HardEvent::V_S>(0);
    D(i).SetValue(96, static_cast<int32_t>(GetGatherMaskRemainCount()));
  }
  CASE(gather_mask_bits) GatherMask(D(f), A(f), B(u), true, 70, GatherMaskParams(1, 2, 12, 0), kept);

  CASE(compare_scalar_gt) CompareScalar(D(uint8_t{}), A(f), 0.5f, CMPMODE::GT, static_cast<uint32_t>(n));
  CASE(compare_scalar_ge) CompareScalar(D(uint8_t{}), A(f), 0.5f, CMPMODE::GE, static_cast<uint32_t>(n));
  CASE(compare_scalar_lt_half) CompareScalar(D(uint8_t{}), A(h), half(0.5f), CMPMODE::LT, static_cast<uint32_t>(n));

  CASE(sort32_float) Sort32(D(f), A(f), B(u), 3);
  CASE(sort32_half) Sort32(D(h), A(h), B(u), 3);
  CASE(mrg_sort_repeat) {
    const uint16_t lengths[4] = {32, 32, 32, 32};
    MrgSort(D(f), MrgSortSrcList<float>(A(f), A(f)[64], A(f)[128], A(f)[192]), MrgSort4Info(lengths, false, 15, 2));
  }
  CASE(mrg_sort_three) {
    const uint16_t lengths[4] = {32, 5, 17, 0};
    MrgSort(D(f), MrgSortSrcList<float>(A(f), A(f)[64], A(f)[128], A(f)), MrgSort4Info(lengths, false, 7, 1));
  }
  CASE(mrg_sort_exhausted) {  // stores how much each list gave after the records
    const uint16_t lengths[4] = {32, 32, 0, 0};
    MrgSort(D(f), MrgSortSrcList<float>(A(f), A(f)[64], A(f), A(f)), MrgSort4Info(lengths, true, 3, 1));
    SetFlag<HardEvent::V_S>(0);
    WaitFlag<HardEvent::V_S>(0);
    uint16_t taken[4];
    GetMrgSortResult(taken[0], taken[1], taken[2], taken[3]);
    for (int k = 0; k < 4; ++k) D(i).SetValue(128 + k, taken[k]);
  }

  if (t.count > 0) {
    CAST(half, int8_t);
    CAST(half, uint8_t);
    CAST(half, int16_t);
    CAST(float, int16_t);
    CAST(int8_t, half);
    CAST(uint8_t, half);
    CAST(int16_t, half);
    CAST(int32_t, half);
    CAST(float, half);
    CAST(int32_t, bfloat16_t);
    CAST(float, bfloat16_t);
    CAST(int16_t, int32_t);
    CAST(int64_t, int32_t);
    CAST(float, int32_t);
    CAST(int16_t, float);
    CAST(int32_t, float);
    CAST(int64_t, float);
    CAST(half, float);
    CAST(bfloat16_t, float);
    CAST(float, float);
    CAST(int32_t, int64_t);
    CAST(float, int64_t);
  }
  CASE(cast_int32_t_half) {
    SetDeqScale(half(0.5f));
    Cast(D(h), A(i), RoundMode::CAST_NONE, n);
  }
  // Casts the first 128 bytes of int8 rows of 656 bytes to half rows of 128.
  CASE(cast_rows) Cast(D(h), A(int8_t{}), RoundMode::CAST_NONE, uint64_t{128}, 4, UnaryRepeatParams(1, 1, 8, 5));

  PipeBarrier<PIPE_ALL>();
  GlobalTensor<uint8_t> out_gm;
  out_gm.SetGlobalBuffer(out, t.out_bytes);
  DataCopyPad(out_gm, d_buffer.Get<uint8_t>(), DataCopyExtParams(1, t.out_bytes, 0, 0, 0));
}
