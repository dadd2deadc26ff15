// A token of a call that reads the paged cache. CPU kernels take a table of them, so this header has no templates.
#pragma once

#include <stdint.h>

namespace ms_dsv32 {

struct QueryToken {
  int32_t sequence;
  int32_t visible;  // it sees the positions of its sequence below this one
};

}  // namespace ms_dsv32
