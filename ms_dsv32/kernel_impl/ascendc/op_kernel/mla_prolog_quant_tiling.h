// Tiling of mla_prolog_quant.
#ifndef MS_DSV32_ASCENDC_MLA_PROLOG_QUANT_TILING_H_
#define MS_DSV32_ASCENDC_MLA_PROLOG_QUANT_TILING_H_

#include "prolog_tiling.h"

namespace ms_dsv32::ascendc {

// Fills `tiling`, or returns why the shape does not fit. A null result means success. cache_rows is block_num *
// block_size.
constexpr const char* MakeMlaPrologQuantTiling(uint32_t t, uint32_t n_q, uint64_t cache_rows, float epsilon_cq,
                                               float epsilon_ckv, const Platform& platform, PrologTiling& tiling) {
  return MakePrologTiling({t, n_q, cache_rows, true, false, epsilon_cq, epsilon_ckv, 0.0f}, platform, tiling);
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_MLA_PROLOG_QUANT_TILING_H_
