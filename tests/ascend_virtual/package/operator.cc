#include "operator.h"

#include <dlfcn.h>

#include <memory>
#include <stdexcept>
#include <utility>

#include "interface.h"
#include "memory.h"

namespace ascend_virtual {
namespace {

// The same structure as in tests/ascend_host/driver.cpp.
struct HostShape {
  int rank;
  const int64_t* dims;
};
using Tile = uint32_t (*)(const char*, int, const HostShape*, int, const int*, const double*, const uint64_t*, uint64_t,
                          unsigned char*, uint64_t*);
using InferShape = uint32_t (*)(const char*, int, const HostShape*, int, const int*, const double*, int64_t*);

constexpr uint64_t kTilingCapacity = 2048;       // bytes that CANN has for tiling data by default
constexpr uint64_t kSystemWorkspace = 16 << 20;  // bytes before the kernel's own, see GetUserWorkspace
constexpr int kMaxRank = 8;
constexpr int kIn = 0, kOut = 1, kInOut = 2, kWorkspace = 3, kTiling = 4;  // ascendc_emulator::Role
constexpr int kMixAic12 = 5;                                               // KERNEL_TYPE_MIX_AIC_1_2
constexpr double kTimeoutSeconds = 300;

// The part of a call that op_host takes: only tensors that are there, because an optional input comes last.
struct HostCall {
  std::vector<HostShape> shapes;
  std::vector<int> is_float;

  HostCall(const Operator& op, const Operands& tensors) {
    for (size_t i = 0; i < op.inputs.size(); ++i) {
      if (tensors[i] == nullptr) continue;
      shapes.push_back({static_cast<int>(tensors[i]->view.size()), tensors[i]->view.data()});
    }
    for (const Attribute& attribute : op.attributes) is_float.push_back(attribute.is_float);
  }
};

// Checks an operand as CANN's generated function does: its dtype, that it is contiguous unless it is copied, and that
// its bytes are in the order of its axes.
std::string OperandRefusal(const Operand& operand, const aclTensor& tensor) {
  std::string what;
  if (tensor.dtype != operand.dtype) what = "dtype " + std::to_string(operand.dtype) + " expected";
  if (!tensor.Contiguous() && !operand.auto_contiguous) what = "not contiguous";
  if (tensor.format == ACL_FORMAT_FRACTAL_NZ) what = "marked as FRACTAL_NZ, which the definition does not have";
  return what.empty() ? what : std::string(operand.name) + ", " + Describe(tensor) + ": " + what;
}

// Compares the shapes of the outputs with those that op_host infers for the definition's outputs.
std::string OutputRefusal(const Operator& op, const Operands& tensors, const HostCall& call,
                          const std::vector<double>& attributes) {
  const size_t inputs = op.inputs.size(), count = op.arguments.size() - inputs;
  std::vector<int64_t> inferred(count * (kMaxRank + 1));
  const auto infer = reinterpret_cast<InferShape>(Function(kLibraries.op_host, "host_infer_shape"));
  if (infer(op.type, static_cast<int>(call.shapes.size()), call.shapes.data(), static_cast<int>(attributes.size()),
            call.is_float.data(), attributes.data(), inferred.data()) != 0) {
    return "the shapes of the outputs cannot be inferred";
  }
  for (size_t i = 0; i < count; ++i) {
    const aclTensor& tensor = *tensors[static_cast<size_t>(op.arguments[inputs + i])];
    const int64_t* found = &inferred[i * (kMaxRank + 1)];
    if (std::vector<int64_t>(found + 1, found + 1 + found[0]) != tensor.view) {
      return "output " + std::to_string(i) + " is " + Describe(tensor) + ", which is not the shape that is inferred";
    }
  }
  return "";
}

// The tensors of a call, with copies of the inputs that are not contiguous (AutoContiguous.md).
std::vector<aclTensor> MakeContiguous(const std::vector<aclTensor>& tensors, std::vector<std::vector<char>>& copies) {
  std::vector<aclTensor> made = tensors;
  copies.reserve(tensors.size());
  for (aclTensor& tensor : made) {
    if (tensor.Contiguous()) continue;
    copies.push_back(Gather(tensor));
    tensor.data = copies.back().data();
    tensor.offset = 0;
    int64_t stride = 1;
    for (size_t i = tensor.view.size(); i-- > 0; stride *= tensor.view[i]) tensor.strides[i] = stride;
  }
  return made;
}

}  // namespace

void* Function(const char* library, const std::string& name) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  void* found = handle != nullptr ? dlsym(handle, name.c_str()) : nullptr;
  if (found == nullptr) {
    const char* text = dlerror();
    throw std::runtime_error(text != nullptr ? text : name + " is null in " + library);
  }
  return found;
}

int GetWorkspaceSize(const Operator& op, const Operands& tensors, const std::vector<double>& attributes,
                     uint64_t* workspace_size, aclOpExecutor** executor) {
  const size_t inputs = op.inputs.size();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Operand& operand = i < inputs ? op.inputs[i] : op.outputs[i - inputs];
    if (tensors[i] == nullptr && operand.optional) continue;
    if (tensors[i] == nullptr) {
      return Fail(ACLNN_ERR_PARAM_NULLPTR, std::string(op.type) + ": " + operand.name + " is null");
    }
    if (!Alive(tensors[i])) {
      return Fail(ACLNN_ERR_PARAM_INVALID, std::string(op.type) + ": " + operand.name + " was destroyed");
    }
    const std::string refusal = OperandRefusal(operand, *tensors[i]);
    if (!refusal.empty()) return Fail(ACLNN_ERR_PARAM_INVALID, std::string(op.type) + ": " + refusal);
  }
  const HostCall call(op, tensors);
  const auto cores = static_cast<uint64_t>(Option("CORES"));
  // AI cores, vector cores, bytes of UB, L1, L0A, L0B and L0C: an Ascend 910B1 but for the number of cores.
  const uint64_t platform[] = {cores, 2 * cores, 196608, 524288, 65536, 65536, 131072};
  std::vector<unsigned char> data(kTilingCapacity);
  uint64_t launch[5];  // blocks, tiling key, schedule mode, workspace, bytes of the tiling data
  const auto tile = reinterpret_cast<Tile>(Function(kLibraries.op_host, "host_tile"));
  if (tile(op.type, static_cast<int>(call.shapes.size()), call.shapes.data(), static_cast<int>(attributes.size()),
           call.is_float.data(), attributes.data(), platform, kTilingCapacity, data.data(), launch) != 0) {
    return Fail(ACLNN_ERR_INNER_TILING_ERROR, std::string(op.type) + ": the tiling function has refused the call");
  }
  const std::string refusal = OutputRefusal(op, tensors, call, attributes);
  if (!refusal.empty()) return Fail(ACLNN_ERR_PARAM_INVALID, std::string(op.type) + ": " + refusal);
  if (launch[3] < kSystemWorkspace) {
    return Fail(ACLNN_ERR_INNER_TILING_ERROR, std::string(op.type) + ": a workspace of " + std::to_string(launch[3]) +
                                                  " bytes, in which the system's 16 MiB have no place");
  }
  data.resize(launch[4]);
  const Tiling tiling{std::move(data), launch[0], launch[1], launch[3]};

  auto made = std::make_unique<aclOpExecutor>();
  made->name = op.type;
  for (size_t i = 0; i < tensors.size(); ++i) {
    made->first.push_back(made->tensors.size());
    if (tensors[i] == nullptr) continue;
    if (i >= inputs) made->written.push_back(made->tensors.size());
    made->tensors.push_back(tensors[i]);
  }
  made->workspace = tiling.workspace;
  std::vector<bool> there;
  for (const aclTensor* tensor : tensors) there.push_back(tensor != nullptr);
  made->run = [&op, attributes, tiling, there](const std::vector<aclTensor>& given, char* workspace) {
    std::vector<std::vector<char>> copies;
    const std::vector<aclTensor> ready = MakeContiguous(given, copies);
    Operands operands;
    auto next = ready.begin();
    for (const bool is : there) operands.push_back(is ? &*next++ : nullptr);
    return Option("KERNELS") == 0 ? RunInEmulator(op, operands, tiling, workspace) : RunOnCpu(op, operands, attributes);
  };
  return Prepare(std::move(made), workspace_size, executor);
}

std::string RunInEmulator(const Operator& op, const Operands& tensors, Tiling tiling, char* workspace) {
  std::vector<AscendcEmulatorBuffer> buffers;
  for (size_t i = 0; i < op.arguments.size(); ++i) {
    const auto index = static_cast<size_t>(op.arguments[i]);
    const aclTensor* tensor = tensors[index];
    const Operand& operand = index < op.inputs.size() ? op.inputs[index] : op.outputs[index - op.inputs.size()];
    // A cache comes as an input, then as an output. CANN gives both the same memory.
    const int role = i < op.inputs.size() ? kIn : index < op.inputs.size() ? kInOut : kOut;
    if (tensor == nullptr) {
      buffers.push_back({operand.name, nullptr, 0, role, 0});
    } else {
      buffers.push_back({operand.name, Memory::Get().Alias(tensor->Begin()), tensor->Bytes(), role, 0});
    }
  }
  buffers.push_back({"workspace", workspace + kSystemWorkspace, tiling.workspace - kSystemWorkspace, kWorkspace, 0});
  buffers.push_back({"tiling", tiling.data.data(), tiling.data.size(), kTiling, 0});
  const auto seed = static_cast<uint64_t>(Option("SEED"));
  const AscendcEmulatorOptions options{
      static_cast<int>(tiling.blocks),  kMixAic12, 2,       1, 0, seed, kTimeoutSeconds,
      static_cast<int64_t>(tiling.key), "910B1",   nullptr, 0, 0, 0,    0};
  using Launch = char* (*)(AscendcEmulatorBuffer*, int, const AscendcEmulatorOptions*);
  const auto launch =
      reinterpret_cast<Launch>(Function(op.library, std::string("ascendc_emulator_launch_") + op.kernel));
  const auto free =
      reinterpret_cast<void (*)(char*)>(Function(op.library, std::string("ascendc_emulator_free_") + op.kernel));
  char* text = launch(buffers.data(), static_cast<int>(buffers.size()), &options);
  const std::string report(text);
  free(text);
  return report.rfind("{\"errors\":[]", 0) == 0 ? "" : report;
}

}  // namespace ascend_virtual
