#include "ms_dsv32/kernel_impl/cpu/pack.h"

#include "ms_dsv32/kernel_impl/cpu/isa/gemm.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

namespace ms_dsv32::cpu {

void PackBf16(const uint16_t* weight, int64_t batch, int64_t k, int64_t n, uint16_t* packed) {
  const int64_t panels = n / portable::kPanel;
  ParallelFor(batch * panels, [&](int64_t i, int) {
    const uint16_t* columns = weight + i / panels * k * n + i % panels * portable::kPanel;
    portable::PackStripsBf16(columns, n, k, 1, packed + i * k * portable::kPanel);
  });
}

void PackInt8(const int8_t* weight, int64_t batch, int64_t k, int64_t n, int8_t* packed) {
  const int64_t panels = n / portable::kPanel;
  ParallelFor(batch * panels, [&](int64_t i, int) {
    const int8_t* columns = weight + i / panels * k * n + i % panels * portable::kPanel;
    portable::PackStripsInt8(columns, n, k, 1, packed + i * k * portable::kPanel);
  });
}

}  // namespace ms_dsv32::cpu
