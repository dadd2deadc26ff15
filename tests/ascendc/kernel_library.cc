// The AscendC kernels behind the entries and checks of the CPU library: MindSpore and ctypes load the result in its
// place. kernel_library.py puts the declarations of each kernel and the table of its arguments, k_<op>, in front, and
// links the kernels as the emulator compiled them.
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "ms_dsv32/kernel_impl/ascendc/op_host/attention_make_tiling.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/epilog_make_tiling.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/indexer_make_tiling.h"
#include "ms_dsv32/kernel_impl/ascendc/op_host/prolog_make_tiling.h"
#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/sparse_flash_attention_quant.h"
#include "ms_dsv32/kernel_impl/cpu/dispatch.h"
#include "ms_dsv32/kernel_impl/cpu/kernel_calls.h"

namespace ms_dsv32 {
namespace {

constexpr uint32_t kCores = 4;
constexpr int kStrip = 16;                                                 // columns of a packed strip, see cpu/pack.h
constexpr int kIn = 0, kOut = 1, kInOut = 2, kWorkspace = 3, kTiling = 4;  // ascendc_emulator::Role
constexpr int kMixAic12 = 5;                                               // KERNEL_TYPE_MIX_AIC_1_2

size_t ElementSize(op_info::DType dtype) {
  switch (dtype) {
    case op_info::DType::kInt8:
      return 1;
    case op_info::DType::kBFloat16:
    case op_info::DType::kFloat16:
      return 2;
    case op_info::DType::kFloat32:
    case op_info::DType::kInt32:
      return 4;
    case op_info::DType::kInt64:
      return 8;
  }
  throw std::logic_error("a dtype without a size");
}

// A weight [k, n], row-major or packed, as row-major or FRACTAL_NZ [n / c0][k][c0].
template <typename T>
void LayOut(const T* from, size_t k, size_t n, bool packed, bool nz, T* to) {
  constexpr size_t kGroup = 4 / sizeof(T), kC0 = 32 / sizeof(T);
  for (size_t i = 0; i < k; ++i) {
    for (size_t j = 0; j < n; ++j) {
      const size_t at =
          packed ? j / kStrip * k * kStrip + (i / kGroup * kStrip + j % kStrip) * kGroup + i % kGroup : i * n + j;
      to[nz ? j / kC0 * k * kC0 + i * kC0 + j % kC0 : i * n + j] = from[at];
    }
  }
}

std::vector<char> Weight(const char* data, const std::vector<int64_t>& shape, size_t element, bool packed, bool nz) {
  const size_t k = shape[shape.size() - 2], n = shape.back(), batch = shape.size() == 3 ? shape[0] : 1;
  std::vector<char> out(batch * k * n * element);
  for (size_t b = 0; b < batch; ++b) {
    const size_t offset = b * k * n * element;
    if (element == 1) {
      LayOut(reinterpret_cast<const int8_t*>(data + offset), k, n, packed, nz,
             reinterpret_cast<int8_t*>(out.data() + offset));
    } else {
      LayOut(reinterpret_cast<const uint16_t*>(data + offset), k, n, packed, nz,
             reinterpret_cast<uint16_t*>(out.data() + offset));
    }
  }
  return out;
}

struct Prepared {
  std::vector<char> tiling;
  uint32_t cores = 0;
  uint64_t workspace_bytes = 0;
};

template <typename T, typename Make>
Prepared Prepare(const Call& call, const Make& make) {
  T tiling{};
  if (const char* reason = make(ascendc::Arch2201(kCores), tiling)) call.Refuse(reason);
  Prepared out{std::vector<char>(sizeof(T)), tiling.cores, tiling.workspace_bytes};
  std::memcpy(out.tiling.data(), &tiling, sizeof(T));
  return out;
}

using Launch = char* (*)(AscendcEmulatorBuffer*, int, const AscendcEmulatorOptions*);
using Free = void (*)(char*);

void Run(const Call& call, const std::vector<Argument>& arguments, const Prepared& prepared, Launch launch, Free free) {
  const op_info::OpInfo& op = call.Op();
  std::vector<std::vector<char>> weights;
  std::vector<AscendcEmulatorBuffer> buffers;
  for (const Argument& argument : arguments) {
    const bool output = argument.index >= static_cast<int>(op.input_count);
    if (!output && !call.Given(argument.index)) {
      buffers.push_back({op.inputs[argument.index].name, nullptr, 0, kIn, 0});
      continue;
    }
    const op_info::ArgInfo& arg = output ? op.outputs[argument.index - op.input_count] : op.inputs[argument.index];
    const std::vector<int64_t> shape = call.Shape(arg);
    const size_t element = ElementSize(arg.dtype);
    const size_t bytes = std::accumulate(shape.begin(), shape.end(), element, std::multiplies<size_t>());
    void* data = call.Data<void>(argument.index);
    const bool packed = argument.packable && call.Packed();
    if (packed || argument.nz) {
      weights.push_back(Weight(static_cast<const char*>(data), shape, element, packed, argument.nz));
      data = weights.back().data();
    }
    // A cache comes as an input, then as an output: CANN gives both the same memory.
    buffers.push_back({arg.name, data, bytes, output ? kOut : argument.written ? kInOut : kIn, 0});
  }
  std::vector<char> workspace(prepared.workspace_bytes + 1);
  std::vector<char> tiling = prepared.tiling;
  buffers.push_back({"workspace", workspace.data(), workspace.size(), kWorkspace, 0});
  buffers.push_back({"tiling", tiling.data(), tiling.size(), kTiling, 0});
  const AscendcEmulatorOptions options{
      static_cast<int>(prepared.cores), kMixAic12, 2, 1, 0, 0, 120.0, 0, "910B1", nullptr, 0, 0, 0, 0};
  char* text = launch(buffers.data(), static_cast<int>(buffers.size()), &options);
  const std::string report(text);
  free(text);
  if (report.rfind("{\"errors\":[]", 0) != 0) throw std::runtime_error(std::string(op.name) + ": " + report);
}

uint32_t Dim32(const Call& call, const char* name) { return static_cast<uint32_t>(call.Dim(name)); }

}  // namespace

#define MS_DSV32_RUN(op, prepared)                                                                \
  if (name == #op) {                                                                              \
    return Run(call, k_##op, prepared, ascendc_emulator_launch_##op, ascendc_emulator_free_##op); \
  }

void RunKernel(const Call& call) {
  using namespace ascendc;
  const std::string_view name = call.Op().name;
  const uint32_t t = Dim32(call, "t");
  MS_DSV32_RUN(mla_epilog_quant, Prepare<EpilogTiling>(call, [&](const Platform& platform, EpilogTiling& tiling) {
                 return MakeEpilogTiling({t, Dim32(call, "n_q")}, platform, tiling);
               }))
  const uint64_t rows = call.Dim("block_num") * op_info::kBlockSize;
  MS_DSV32_RUN(mla_prolog_quant, Prepare<PrologTiling>(call, [&](const Platform& platform, PrologTiling& tiling) {
                 return MakePrologTiling({t, Dim32(call, "n_q"), rows, true, false, call.Float("epsilon_cq"),
                                          call.Float("epsilon_ckv"), 0.0f},
                                         platform, tiling);
               }))
  MS_DSV32_RUN(lightning_indexer_prolog_quant,
               Prepare<PrologTiling>(call, [&](const Platform& platform, PrologTiling& tiling) {
                 return MakePrologTiling({t, 0, rows, false, true, 0.0f, 0.0f, call.Float("layernorm_epsilon_k")},
                                         platform, tiling);
               }))
  MS_DSV32_RUN(mla_indexer_prolog_quant,
               Prepare<PrologTiling>(call, [&](const Platform& platform, PrologTiling& tiling) {
                 return MakePrologTiling({t, Dim32(call, "n_q"), rows, true, true, call.Float("mla_epsilon_cq"),
                                          call.Float("mla_epsilon_ckv"), call.Float("ip_attrs.layernorm_epsilon_k")},
                                         platform, tiling);
               }))
  const uint32_t b = Dim32(call, "b"), block_num = Dim32(call, "block_num");
  const uint32_t columns = Dim32(call, "max_blocknum_perbatch"), selected_count = Dim32(call, "selected_count");
  MS_DSV32_RUN(sparse_flash_attention_quant,
               Prepare<AttentionTiling>(call, [&](const Platform& platform, AttentionTiling& tiling) {
                 return MakeAttentionTiling(
                     {t, b, Dim32(call, "n_q"), selected_count, block_num, op_info::kBlockSize, columns,
                      call.Float("softmax_scale"), call.Given(op_info::sparse_flash_attention_quant::kQueryActSeqs)},
                     platform, tiling);
               }))
  MS_DSV32_RUN(lightning_indexer_quant,
               Prepare<IndexerTiling>(call, [&](const Platform& platform, IndexerTiling& tiling) {
                 return MakeIndexerTiling({t, b, selected_count, block_num, op_info::kBlockSize, columns,
                                           call.Given(op_info::lightning_indexer_quant::kQueryActSeqs)},
                                          platform, tiling);
               }))
  throw std::logic_error(std::string(name) + " has no tiling in RunKernel of kernel_library.cc");
}

namespace cpu {

const KernelTable& Kernels() {
  // Its kernels stay null: RunKernel has its own.
  static const KernelTable kTable = [] {
    KernelTable table{};
    table.isa = "ascendc_emulator";
    table.supported = [] { return true; };
    return table;
  }();
  return kTable;
}

const char* IsaNames(bool /*supported_only*/) { return "ascendc_emulator"; }

}  // namespace cpu
}  // namespace ms_dsv32
