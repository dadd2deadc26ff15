// Finds the tokens that write their cache rows. If several tokens have one row, the last one writes it, for every
// number of threads.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_CACHE_ROWS_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_CACHE_ROWS_H_

#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

// Entries of the hash table for t tokens: a power of two, at most half full.
MS_DSV32_INLINE int64_t CacheRowTableSize(int64_t t) {
  int64_t size = 16;
  while (size < 2 * t) size *= 2;
  return size;
}

// writes[i] = 1 if token i writes row cache_index[i] (>= 0; -1 never writes), else 0. `table` holds
// CacheRowTableSize(t) entries.
inline void FindCacheWriters(const int64_t* cache_index, int64_t t, int64_t* table, uint8_t* writes) {
  const int64_t size = CacheRowTableSize(t);
  for (int64_t i = 0; i < size; ++i) table[i] = -1;
  for (int64_t i = t - 1; i >= 0; --i) {
    const int64_t row = cache_index[i];
    writes[i] = 0;
    if (row < 0) continue;
    // Fibonacci hashing, because rows of one block differ in their low bits only. The multiplier is 2^64 / golden
    // ratio.
    int64_t slot = static_cast<int64_t>((static_cast<uint64_t>(row) * 0x9e3779b97f4a7c15u) >> 32) & (size - 1);
    while (table[slot] != -1 && table[slot] != row) slot = (slot + 1) & (size - 1);
    if (table[slot] == row) continue;  // a later token has it
    table[slot] = row;
    writes[i] = 1;
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_CACHE_ROWS_H_
