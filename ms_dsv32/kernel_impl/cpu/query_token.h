// A token of a call that reads the paged cache.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_QUERY_TOKEN_H_
#define MS_DSV32_KERNEL_IMPL_CPU_QUERY_TOKEN_H_

#include <stdint.h>

namespace ms_dsv32::cpu {

struct QueryToken {
  int32_t sequence;
  int32_t visible;  // it sees the positions of its sequence below this one
};

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_QUERY_TOKEN_H_
