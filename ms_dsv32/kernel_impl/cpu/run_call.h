// Checks and runs a call, for both interfaces of the library, MindSpore's and C's.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_RUN_CALL_H_
#define MS_DSV32_KERNEL_IMPL_CPU_RUN_CALL_H_

#include <cstdint>
#include <vector>

#include "ms_dsv32/kernel_impl/contract/value_check.h"

namespace ms_dsv32 {

// The inputs of a call. `given` tells whether the optional one is among them; `dtypes` may be null.
std::vector<TensorView> Inputs(const op_info::OpInfo& op, const int* ranks, const int64_t* const* shapes,
                               const char* const* dtypes, bool given);

// The inputs of a call in which a tensor of the dtype "none" stands for the optional one that was left out, which is
// how MindSpore passes None. Python does the same.
std::vector<TensorView> Inputs(const op_info::OpInfo& op, const int* ranks, const int64_t* const* shapes,
                               const char* const* dtypes);

std::vector<std::vector<int64_t>> OutputShapes(const op_info::OpInfo& op, const Dims& dims);

// Checks a call completely, values included, before its kernel writes anything. Throws OpError for what the caller did
// wrong.
void RunCall(const Operator& op, void** data, const std::vector<TensorView>& inputs, const AttrSource& attrs);

// Waits for the calls that run, then calls cpu::SetNumThreads.
void SetThreadCount(int count);

}  // namespace ms_dsv32

#endif  // MS_DSV32_KERNEL_IMPL_CPU_RUN_CALL_H_
