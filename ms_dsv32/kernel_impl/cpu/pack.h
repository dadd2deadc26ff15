// The PACKED layout of weights, the CPU's analogue of Ascend's FRACTAL_NZ.
//
// A weight [K, N], N a multiple of 64, becomes N/16 strips of 16 columns, in which the K-neighbours that one
// instruction multiplies (bf16: 2, int8: 4) lie side by side: [N/16][K/2][16][2] for bf16, [N/16][K/4][16][4] for int8.
// So a strip is one run of memory, 64 bytes for each 2 or 4 rows of the weight, and the narrowest tile of columns reads
// whole lines, one after the other. The number of elements stays the same, and the layout is the same for every
// instruction set. A batch of weights (w_uk: n_q heads) is packed matrix by matrix.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_PACK_H_
#define MS_DSV32_KERNEL_IMPL_CPU_PACK_H_

#include <stdint.h>

namespace ms_dsv32::cpu {

// Packs weight [batch, k, n], which is row-major, in parallel. The two must not overlap. k is a multiple of 2 (bf16) or
// 4 (int8), n of 64. Throws as ParallelFor.
void PackBf16(const uint16_t* weight, int64_t batch, int64_t k, int64_t n, uint16_t* packed);
void PackInt8(const int8_t* weight, int64_t batch, int64_t k, int64_t n, int8_t* packed);

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_PACK_H_
