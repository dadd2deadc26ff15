// The library's C interface, for everybody but MindSpore: Python's validation and calls, tests and benchmarks.
//
// Functions that can fail return 0, or a status and a text. The status is OpError::Kind, or 3 if the caller is not to
// blame.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_C_API_H_
#define MS_DSV32_KERNEL_IMPL_CPU_C_API_H_

#include <stddef.h>
#include <stdint.h>

#define MS_DSV32_EXPORT __attribute__((visibility("default")))

namespace ms_dsv32 {

// An attribute through the C interface; _Attr mirrors it in kernel_impl/__init__.py.
struct CAttr {
  const char* name;
  int type;  // op_info::AttrType
  double number;
  int64_t integer;
  const char* text;
};

}  // namespace ms_dsv32

extern "C" {

// Chooses the kernels and reads the number of threads. Fails if the environment asks for what is not there.
MS_DSV32_EXPORT int ms_dsv32_init(char* message, size_t message_size);

MS_DSV32_EXPORT const char* ms_dsv32_isa();
MS_DSV32_EXPORT const char* ms_dsv32_isas(int supported_only);
MS_DSV32_EXPORT int ms_dsv32_thread_count();
MS_DSV32_EXPORT void ms_dsv32_set_thread_count(int count);

// Sets the handler that is called when a node of a MindSpore graph fails, with the node's attribute "graph", or null
// for no handler. It is called on the thread of the node, before the error is passed on.
MS_DSV32_EXPORT void ms_dsv32_set_failure_handler(void (*handler)(const char* graph));

// Checks the inputs of a call and writes the output shapes, each to a row of `out_shapes` (8 wide), and their ranks.
MS_DSV32_EXPORT int ms_dsv32_check(const char* name, const int* ranks, const int64_t* const* shapes,
                                   const char* const* dtypes, int attr_count, const ms_dsv32::CAttr* attrs,
                                   int64_t (*out_shapes)[8], int* out_ranks, char* message, size_t message_size);

// Runs a kernel. `data` holds the inputs, then the outputs, whose shapes ms_dsv32_check tells.
MS_DSV32_EXPORT int ms_dsv32_call(const char* name, const int* ranks, const int64_t* const* shapes,
                                  const char* const* dtypes, int attr_count, const ms_dsv32::CAttr* attrs, void** data,
                                  char* message, size_t message_size);

// Packs `batch` row-major [k, n] weights of 1-byte or 2-byte elements, see pack.h.
MS_DSV32_EXPORT int ms_dsv32_pack(const void* weight, void* packed, int element_size, int64_t batch, int64_t k,
                                  int64_t n, char* message, size_t message_size);

}  // extern "C"

#endif  // MS_DSV32_KERNEL_IMPL_CPU_C_API_H_
