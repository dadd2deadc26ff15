// Matrix products through each way into L0 and out of L0C, on one AIC.
#include "kernel_operator.h"

using namespace AscendC;

template <HardEvent event>
__aicore__ inline void Sync(int32_t id) {
  SetFlag<event>(id);
  WaitFlag<event>(id);
}

struct CubeTiling {
  int32_t m, n, k, k_step;
  int32_t mmad_m;    // m that Mmad gets
  int32_t b_form;    // 0: [N, K] in ND, 1: [K, N] in ND, 2: [K, N] in FRACTAL_NZ
  int32_t a_form;    // 0: fractals; 1: k values in a row (GEMV); 2: as [K, M] in ND, transposed on the way
  int32_t out_form;  // 0: rows in GM, 1: NZ in GM, 2: through L1 as NZ and from there to GM
  int32_t relu;
  uint32_t scale;  // bits of the float for DEQF16
};

// out = convert(a @ b), accumulated over K in steps of k_step.
template <class T, class C, class D, QuantMode_t quant>
__aicore__ inline void Product(GM_ADDR a, GM_ADDR b, GM_ADDR out, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  GET_TILING_DATA_WITH_STRUCT(CubeTiling, t, tiling);
  constexpr int kC0 = 32 / sizeof(T);
  const int rows = (t.m + 15) / 16 * 16;
  TPipe pipe;
  TBuf<TPosition::A1> a1;
  TBuf<TPosition::B1> b1;
  TBuf<TPosition::C1> c1;
  TBuf<TPosition::A2> a2;
  TBuf<TPosition::B2> b2;
  TBuf<TPosition::CO1> co1;
  pipe.InitBuffer(a1, 65536);
  pipe.InitBuffer(b1, 131072);
  pipe.InitBuffer(c1, 65536);
  pipe.InitBuffer(a2, 65536);
  pipe.InitBuffer(b2, 65536);
  pipe.InitBuffer(co1, 131072);
  const auto l1a = a1.Get<T>(), l1b = b1.Get<T>(), l0a = a2.Get<T>(), l0b = b2.Get<T>();
  const auto l0c = co1.Get<C>();
  GlobalTensor<T> a_gm, b_gm;
  GlobalTensor<D> out_gm;
  a_gm.SetGlobalBuffer((__gm__ T*)a, t.m * t.k);
  b_gm.SetGlobalBuffer((__gm__ T*)b, t.n * t.k);
  out_gm.SetGlobalBuffer((__gm__ D*)out);
  for (int k0 = 0; k0 < t.k; k0 += t.k_step) {
    const int k = t.k - k0 < t.k_step ? t.k - k0 : t.k_step;
    const int k_blocks = (k + kC0 - 1) / kC0, k_rows = (k + 15) / 16 * 16;
    // A to L1
    if (t.a_form == 0) {
      DataCopy(l1a, a_gm[k0], Nd2NzParams(t.m == 1 ? 2 : 1, t.m, k, 0, t.k, rows, 1, kC0));
    } else if (t.a_form == 1) {
      DataCopy(l1a, a_gm[k0], static_cast<uint32_t>(k));
    } else {
      DataCopy(l1a, a_gm[k0 * t.m], Nd2NzParams(1, k, t.m, 0, t.m, k_rows, 1, 0));
    }
    // B to L1
    if (t.b_form == 0) DataCopy(l1b, b_gm[k0], Nd2NzParams(1, t.n, k, 0, t.k, t.n, 1, 0));
    if (t.b_form == 1) DataCopy(l1b, b_gm[k0 * t.n], Nd2NzParams(1, k, t.n, 0, t.n, k_rows, 1, 0));
    if (t.b_form == 2) DataCopy(l1b, b_gm[k0 * kC0], DataCopyParams(t.n / kC0, k, t.k - k, 0));
    Sync<HardEvent::MTE2_MTE1>(0);
    // A to L0A
    if (t.a_form == 0) {
      for (int i = 0; i < rows / 16; ++i)
        LoadData(l0a[i * 16 * k_blocks * kC0], l1a[i * 16 * kC0],
                 LoadData2DParams(0, k_blocks, rows / 16, 0, 0, false, 0));
    } else if (t.a_form == 1) {
      LoadData(l0a, l1a, LoadData2DParams(0, (k * static_cast<int>(sizeof(T)) + 511) / 512, 1, 0, 0, false, 0));
    } else {
      for (int i = 0; i < rows / 16; ++i)
        LoadData(l0a[i * 16 * k_rows], l1a[i * 16 * k_rows], LoadData2DParams(0, k_rows / 16, 1, 0, 0, true, 0));
    }
    // B to L0B
    if (t.b_form == 0) {
      LoadData(l0b, l1b, LoadData2DParams(0, k_blocks * (t.n / 16), 1, 0, 0, false, 0));
    } else if constexpr (sizeof(T) == 2) {
      if (t.k_step % 32 == 0) {
        for (int i = 0; i < k_rows / 16; ++i)
          LoadData(l0b[i * 16 * t.n], l1b, LoadData2DParams(i, t.n / 16, k_rows / 16, 0, 0, true, 0));
      } else {  // the same through the other instruction
        for (int i = 0; i < k_rows / 16; ++i)
          LoadDataWithTranspose(l0b[i * 16 * t.n], l1b, LoadData2dTransposeParams(i, t.n / 16, k_rows / 16, 0, 0));
      }
    } else {
      for (int i = 0; i < k / 32; ++i)
        LoadDataWithTranspose(l0b[i * 32 * t.n], l1b[i * 32 * 32],
                              LoadData2dTransposeParams(0, t.n / 32, k / 32, 1, 0));
    }
    Sync<HardEvent::MTE1_M>(0);
    MmadParams p;
    p.m = t.mmad_m;
    p.n = t.n;
    p.k = k;
    p.cmatrixInitVal = k0 == 0;
    Mmad(l0c, l0a, l0b, p);
    PipeBarrier<PIPE_M>();
    Sync<HardEvent::M_MTE1>(3);
    Sync<HardEvent::MTE1_MTE2>(0);
  }
  Sync<HardEvent::M_FIX>(0);
  FixpipeParamsV220 f;
  f.nSize = t.n;
  f.mSize = t.m;
  f.srcStride = (t.mmad_m + 15) / 16 * 16;
  f.quantPre = quant;
  f.deqScalar = t.scale;
  f.reluEn = t.relu != 0;
  if (t.out_form == 0) {
    f.dstStride = t.n;
    Fixpipe<D, C, CFG_ROW_MAJOR>(out_gm, l0c, f);
  } else {
    f.dstStride = t.m * 16 * sizeof(D) / 32;
    if (t.out_form == 1) {
      Fixpipe<D, C, CFG_NZ>(out_gm, l0c, f);
    } else if constexpr (sizeof(D) == 2) {
      Fixpipe<D, C, CFG_NZ>(c1.Get<D>(), l0c, f);
      Sync<HardEvent::FIX_MTE3>(0);
      DataCopy(out_gm, c1.Get<D>(), static_cast<uint32_t>(t.m * t.n));
    }
  }
}

extern "C" __global__ __aicore__ void product_bf16_float(GM_ADDR a, GM_ADDR b, GM_ADDR out, GM_ADDR tiling) {
  Product<bfloat16_t, float, float, NoQuant>(a, b, out, tiling);
}
extern "C" __global__ __aicore__ void product_bf16_bf16(GM_ADDR a, GM_ADDR b, GM_ADDR out, GM_ADDR tiling) {
  Product<bfloat16_t, float, bfloat16_t, F322BF16>(a, b, out, tiling);
}
extern "C" __global__ __aicore__ void product_half_half(GM_ADDR a, GM_ADDR b, GM_ADDR out, GM_ADDR tiling) {
  Product<half, float, half, F322F16>(a, b, out, tiling);
}
extern "C" __global__ __aicore__ void product_int8_int32(GM_ADDR a, GM_ADDR b, GM_ADDR out, GM_ADDR tiling) {
  Product<int8_t, int32_t, int32_t, NoQuant>(a, b, out, tiling);
}
extern "C" __global__ __aicore__ void product_int8_half(GM_ADDR a, GM_ADDR b, GM_ADDR out, GM_ADDR tiling) {
  Product<int8_t, int32_t, half, DEQF16>(a, b, out, tiling);
}

// A copy of rows through L1 or UB with the padding and stride forms, for comparison with NumPy.
struct CopyTiling {
  int32_t form, rows, columns, stride;
};
// form 0: ND2NZ of two matrices into L1, stored as it lies there (L1 to GM). 1: DataCopyPad in and out, one zero to the
// left of each row. 2: DataCopyParams with gaps on both sides. 3: DataCopyPad from overlapping rows (negative gap). 4:
// atomic add, twice.
extern "C" __global__ __aicore__ void copy_forms(GM_ADDR in, GM_ADDR out, GM_ADDR tiling) {
  GET_TILING_DATA_WITH_STRUCT(CopyTiling, t, tiling);
  GlobalTensor<half> in_gm, out_gm;
  in_gm.SetGlobalBuffer((__gm__ half*)in);
  out_gm.SetGlobalBuffer((__gm__ half*)out);
  TPipe pipe;
  const int padded = (t.columns + 15) / 16 * 16;
  if ASCEND_IS_AIC {
    TBuf<TPosition::A1> a1;
    pipe.InitBuffer(a1, 65536);
    const int height = (t.rows + 15) / 16 * 16;
    DataCopy(a1.Get<half>(), in_gm,
             Nd2NzParams(2, t.rows, t.columns, t.rows * t.stride, t.stride, height, 1, height * padded));
    SetFlag<HardEvent::MTE2_MTE3>(0);
    WaitFlag<HardEvent::MTE2_MTE3>(0);
    for (int part = 0; part < 2; ++part)
      for (int c = 0; c < padded / 16; ++c)
        DataCopy(out_gm[(part * padded / 16 + c) * t.rows * 16], a1.Get<half>()[(part * padded / 16 + c) * height * 16],
                 static_cast<uint32_t>(t.rows * 16));
    return;
  }
  TBuf<TPosition::VECCALC> buffer;
  pipe.InitBuffer(buffer, 65536);
  const auto x = buffer.Get<half>();
  const uint16_t rows = t.rows;
  const uint32_t bytes = t.columns * 2;
  const int64_t gap = (t.stride - t.columns) * 2;
  if (t.form == 1) {
    const int tail = (16 - (t.columns + 1) % 16) % 16;
    DataCopyPad(x, in_gm, DataCopyExtParams(rows, bytes, gap, 1, 0),
                DataCopyPadExtParams<half>(true, 1, tail, half(0)));
    SetFlag<HardEvent::MTE2_MTE3>(0);
    WaitFlag<HardEvent::MTE2_MTE3>(0);
    DataCopyPad(out_gm, x, DataCopyExtParams(rows, (t.columns + 1) * 2, 1, 4, 0));
  }
  if (t.form == 2) {
    DataCopy(x, in_gm, DataCopyParams(rows, t.columns / 16, (t.stride - t.columns) / 16, 1));
    SetFlag<HardEvent::MTE2_MTE3>(0);
    WaitFlag<HardEvent::MTE2_MTE3>(0);
    DataCopy(out_gm, x, DataCopyParams(rows, t.columns / 16, 1, 2));
  }
  if (t.form == 3) {
    DataCopyPad(x, in_gm, DataCopyExtParams(rows, bytes, gap, 0, 0), DataCopyPadExtParams<half>());
    SetFlag<HardEvent::MTE2_MTE3>(0);
    WaitFlag<HardEvent::MTE2_MTE3>(0);
    DataCopyPad(out_gm, x, DataCopyExtParams(rows, bytes, 0, 0, 0));
  }
  if (t.form == 4) {
    DataCopyPad(x, in_gm, DataCopyExtParams(1, bytes, 0, 0, 0), DataCopyPadExtParams<half>());
    SetFlag<HardEvent::MTE2_MTE3>(0);
    WaitFlag<HardEvent::MTE2_MTE3>(0);
    SetAtomicAdd<half>();
    for (int i = 0; i < 2; ++i) {
      DataCopyPad(out_gm, x, DataCopyExtParams(1, bytes, 0, 0, 0));
      PipeBarrier<PIPE_MTE3>();
    }
    SetAtomicNone();
  }
}
