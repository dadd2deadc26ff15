// Tiling of lightning_indexer_prolog_quant.
#ifndef MS_DSV32_ASCENDC_LIGHTNING_INDEXER_PROLOG_QUANT_TILING_H_
#define MS_DSV32_ASCENDC_LIGHTNING_INDEXER_PROLOG_QUANT_TILING_H_

#include "prolog_tiling.h"

namespace ms_dsv32::ascendc {

// Fills `tiling`, or returns why the shape does not fit. A null result means success. cache_rows is block_num *
// block_size.
constexpr const char* MakeLightningIndexerPrologQuantTiling(uint32_t t, uint64_t cache_rows, float epsilon_k,
                                                            const Platform& platform, PrologTiling& tiling) {
  return MakePrologTiling({t, 0, cache_rows, false, true, 0.0f, 0.0f, epsilon_k}, platform, tiling);
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_LIGHTNING_INDEXER_PROLOG_QUANT_TILING_H_
