// Which cache row a token writes.
#ifndef MS_DSV32_ASCENDC_SCATTER_H_
#define MS_DSV32_ASCENDC_SCATTER_H_

#include "copy.h"

namespace ms_dsv32::ascendc {

// cache_index of the tokens of one step, in UB and ready for scalar reads. Steps follow each other across all cores, so
// two tokens of one row can only meet within a step: there the later one writes.
class CacheRows {
 public:
  __aicore__ inline void Init(const LocalTensor<int64_t>& index, uint32_t tokens, uint64_t cache_rows) {
    index_ = index;
    tokens_ = tokens;
    cache_rows_ = static_cast<int64_t>(cache_rows);
  }
  // The row of `token`, or -1 if it writes none: padding, a row outside the cache, or a later token has the same row.
  __aicore__ inline int64_t Of(uint32_t token) const {
    const int64_t row = index_.GetValue(token);
    if (row < 0 || row >= cache_rows_) {
      return -1;
    }
    for (uint32_t later = token + 1; later < tokens_; ++later) {
      if (index_.GetValue(later) == row) {
        return -1;
      }
    }
    return row;
  }

 private:
  LocalTensor<int64_t> index_;
  uint32_t tokens_ = 0;
  int64_t cache_rows_ = 0;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_SCATTER_H_
