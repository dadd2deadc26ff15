// What a matrix product takes: rows of x, strips of weights, and where its sums go.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_GEMM_VIEWS_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_GEMM_VIEWS_H_

#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int kStrip = 16;      // columns of a strip
constexpr int kPanel = 64;      // columns come in multiples of this, four strips
constexpr int kStepBytes = 64;  // bytes of a step of a strip: kStrip columns x 4 bytes

// x[count, k].
template <typename T>
struct Rows {
  const T* x;
  int64_t ld;  // elements from a row to the next
  int64_t count;

  MS_DSV32_INLINE const char* Bytes() const { return reinterpret_cast<const char*>(x); }
  MS_DSV32_INLINE int64_t StrideBytes() const { return ld * static_cast<int64_t>(sizeof(T)); }
};

// w[k, kPanel * panels]: strip s holds columns 16 s to 16 s + 15 and starts at w + s * stride.
template <typename T>
struct Strips {
  const T* w;
  int64_t stride;  // elements
  int panels;
  const void* next = nullptr;  // strips that will be read after these, to be fetched meanwhile; or null

  MS_DSV32_INLINE const char* Bytes() const { return reinterpret_cast<const char*>(w); }
  MS_DSV32_INLINE const char* Next() const { return static_cast<const char*>(next); }
  MS_DSV32_INLINE int64_t StrideBytes() const { return stride * static_cast<int64_t>(sizeof(T)); }
};

// c[rows, kPanel * panels].
template <typename T>
struct Sums {
  T* c;
  int64_t ld;       // elements from a row to the next
  bool accumulate;  // whether the product is added to c, which is overwritten otherwise

  MS_DSV32_INLINE T* At(int64_t row, int64_t column) const { return c + row * ld + column; }
  MS_DSV32_INLINE int64_t StrideBytes() const { return ld * static_cast<int64_t>(sizeof(T)); }
  // The sums from a row and a column on. With `add` the product is added in any case.
  MS_DSV32_INLINE Sums From(int64_t row, int64_t column, bool add) const {
    return {At(row, column), ld, accumulate || add};
  }
};

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_GEMM_VIEWS_H_
