// The types and functions that the operator package is made from. package.py writes the table of operators, and the
// functions aclnn<Type>GetWorkspaceSize and aclnn<Type> of each, from the definitions (OpDef) that
// kernel_impl/ascendc/op_host registers, as CANN's build does.
#ifndef ASCEND_VIRTUAL_PACKAGE_OPERATOR_H_
#define ASCEND_VIRTUAL_PACKAGE_OPERATOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tensor.h"

namespace ascend_virtual {

struct Operand {
  const char* name;
  int dtype;
  bool nz;               // a weight whose bytes are in the order of FRACTAL_NZ, declared as ND to CANN
  bool auto_contiguous;  // an input that CANN copies if it is not contiguous
  bool optional;         // an input that may be left out: a null pointer
};

struct Attribute {
  const char* name;
  bool is_float;
};

// An attribute of the CPU kernel: one of the operator's, or a constant (CAttr of cpu/c_api.h).
struct CpuAttribute {
  const char* name;
  int source;  // index, or -1
  int type;    // 0 float, 1 int, 2 string, 3 bool
  int64_t integer;
  const char* text;
};

struct Operator {
  const char* type;     // CANN's name
  const char* kernel;   // the kernel function, and the operator's name on the CPU
  const char* library;  // the kernel compiled for the emulator
  std::vector<Operand> inputs;
  std::vector<Operand> outputs;  // without those that are also inputs
  std::vector<Attribute> attributes;
  std::vector<CpuAttribute> cpu_attributes;
  // The kernel's arguments, inputs first, then all outputs. Each is an index into `inputs` followed by `outputs`.
  std::vector<int> arguments;
};

// The libraries that package.py built: tiling and inference of op_host, and the CPU kernels.
struct Libraries {
  const char* op_host;
  const char* cpu;
};
extern const Libraries kLibraries;

// Tensors of the inputs, then of the outputs. Null for an optional input that is left out.
using Operands = std::vector<const aclTensor*>;
int GetWorkspaceSize(const Operator& op, const Operands& tensors, const std::vector<double>& attributes,
                     uint64_t* workspace_size, aclOpExecutor** executor);

// What runs on the device. Both return what went wrong, or nothing.
struct Tiling {
  std::vector<unsigned char> data;
  uint64_t blocks, key, workspace;
};
std::string RunInEmulator(const Operator& op, const Operands& tensors, Tiling tiling, char* workspace);
std::string RunOnCpu(const Operator& op, const Operands& tensors, const std::vector<double>& attributes);

// A function of a library, which is loaded once.
void* Function(const char* library, const std::string& name);

}  // namespace ascend_virtual

#endif  // ASCEND_VIRTUAL_PACKAGE_OPERATOR_H_
