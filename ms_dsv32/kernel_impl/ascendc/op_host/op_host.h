// What the host sides of the operators share: a call from CANN's contexts, checked as on every other path (op_check.h),
// shape inference, and a launch from a kernel's tiling function. Refusals are printed, because CANN reports a number
// only.
//
// The API: CANN, "Basic data structures and interfaces" (gert); asc-devkit, "Host侧Tiling实现" and "PlatformAscendC".
#ifndef MS_DSV32_ASCENDC_OP_HOST_H_
#define MS_DSV32_ASCENDC_OP_HOST_H_

#include <algorithm>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "ms_dsv32/kernel_impl/ascendc/op_host/platform.h"
#include "ms_dsv32/kernel_impl/contract/call.h"
#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "register/op_def_registry.h"
#include "tiling/platform/platform_ascendc.h"

namespace ms_dsv32::ascendc {

// Kernels see no header outside their folder, so they have dimensions of their own, which must equal the contract's.
static_assert(kH == op_info::kH && kQLoraRank == op_info::kQLoraRank && kKvLoraRank == op_info::kKvLoraRank);
static_assert(kRopeDim == op_info::kRopeDim && kQkNopeHeadDim == op_info::kQkNopeHeadDim &&
              kQHeadDim == op_info::kQHeadDim);
static_assert(kVHeadDim == op_info::kVHeadDim && kKScaleGroups == op_info::kKScaleGroups);
static_assert(kKeyDim == op_info::kKvLoraRank + op_info::kRopeDim &&
              kScaleGroup * op_info::kKScaleGroups == op_info::kKvLoraRank);
static_assert(kIdxNHeads == op_info::kIdxNHeads && kIdxHeadDim == op_info::kIdxHeadDim);

// An output of an OpDef: its dtype, and the input whose buffer it is or -1.
struct OutputInfo {
  ge::DataType dtype;
  int in_place_of;
};

// The attributes of an OpDef: the numbers of the table that are not optional, in their order. The others are not passed
// on Ascend, because each has one value there: a layout its first choice, and return_lse none, as lse is an output of
// every call.
class Attributes final : public AttrSource {
 public:
  Attributes(const op_info::OpInfo& op, const gert::RuntimeAttrs* attrs) : op_(op), attrs_(attrs) {}

  bool Find(const op_info::AttrInfo& info, AttrValue* value) const override {
    value->type = info.type;
    if (info.optional) return false;
    if (!IsNumber(info)) {
      const std::string_view choices(info.choices);
      value->text = choices.substr(0, choices.find('|'));
      return true;
    }
    if (attrs_ == nullptr) return false;
    size_t index = 0;
    for (const op_info::AttrInfo* other = op_.attrs; other != &info; ++other) {
      index += IsNumber(*other) && !other->optional ? 1 : 0;
    }
    if (info.type == op_info::AttrType::kFloat) {
      const float* number = attrs_->GetFloat(index);
      if (number != nullptr) value->number = *number;
      return number != nullptr;
    }
    const int64_t* integer = attrs_->GetInt(index);
    if (integer != nullptr) value->integer = *integer;
    return integer != nullptr;
  }

 private:
  static bool IsNumber(const op_info::AttrInfo& info) {
    return info.type == op_info::AttrType::kFloat || info.type == op_info::AttrType::kInt;
  }

  const op_info::OpInfo& op_;
  const gert::RuntimeAttrs* attrs_;
};

// Whether the optional input of this shape is left out. MindSpore's Custom cannot pass a null tensor, so an empty one
// of two axes stands for it (ms_dsv32/ops/_ascend.py). No optional input of the contract has that shape.
inline bool LeftOut(const gert::Shape* shape) {
  return shape == nullptr || (shape->GetDimNum() == 2 && shape->GetDim(0) == 0 && shape->GetDim(1) == 0);
}

// Checks a call whose input i has the shape `shape_of(i)`. Dtypes and formats need no check, because CANN has compared
// them with the OpDef. Throws OpError.
template <typename ShapeOf>
Call CheckedCall(const op_info::OpInfo& op, const Attributes& attrs, const ShapeOf& shape_of) {
  std::vector<std::vector<int64_t>> shapes(op.input_count);
  std::vector<TensorView> inputs(op.input_count);
  for (size_t i = 0; i < op.input_count; ++i) {
    const gert::Shape* shape = shape_of(i);
    if (op.inputs[i].optional && LeftOut(shape)) {
      inputs[i].rank = TensorView::kAbsent;
      continue;
    }
    if (shape == nullptr) throw std::runtime_error(std::string(op.name) + ": " + op.inputs[i].name + " is missing");
    for (size_t axis = 0; axis < shape->GetDimNum(); ++axis) shapes[i].push_back(shape->GetDim(axis));
    inputs[i] = {nullptr, static_cast<int>(shapes[i].size()), shapes[i].data()};
  }
  return Call(op, nullptr, inputs.data(), attrs);
}

// Runs `body`, which may throw, as a function that CANN calls.
template <typename Body>
ge::graphStatus Guarded(const Body& body) {
  try {
    body();
    return ge::GRAPH_SUCCESS;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ms_dsv32: %s\n", error.what());
    return ge::GRAPH_FAILED;
  }
}

// For OpDef::SetInferShape. If an axis is not known yet (-1), axes that depend on it stay unknown.
template <const op_info::OpInfo& kOp, const auto& kOutputs>
ge::graphStatus InferShape(gert::InferShapeContext* context) {
  return Guarded([&] {
    const Attributes attrs(kOp, context->GetAttrs());
    const Call call = CheckedCall(kOp, attrs, [&](size_t i) {
      return kOp.inputs[i].optional ? context->GetOptionalInputShape(i) : context->GetInputShape(i);
    });
    const op_info::ArgInfo* kernel_output = kOp.outputs;
    for (size_t i = 0; i < std::size(kOutputs); ++i) {
      gert::Shape* shape = context->GetOutputShape(i);
      if (shape == nullptr) throw std::runtime_error(std::string(kOp.name) + ": an output is missing");
      if (kOutputs[i].in_place_of >= 0) {
        *shape = *context->GetInputShape(static_cast<size_t>(kOutputs[i].in_place_of));
        continue;
      }
      shape->SetDimNum(0);
      for (const int64_t size : call.Shape(*kernel_output++)) shape->AppendDim(size);
    }
  });
}

// For OpDef::SetInferDataType.
template <const auto& kOutputs>
ge::graphStatus InferDataType(gert::InferDataTypeContext* context) {
  for (size_t i = 0; i < std::size(kOutputs); ++i) {
    if (context->SetOutputDataType(i, kOutputs[i].dtype) != ge::GRAPH_SUCCESS) return ge::GRAPH_FAILED;
  }
  return ge::GRAPH_SUCCESS;
}

// For OpDef::AICore().AddConfig: names the kernel of an operator, the function `kernel` in op_kernel/<kernel>.cpp.
// Without a name CANN would look for both by the snake case of the operator's type, which has a prefix. The flags are
// those that AddConfig sets when it is given no configuration. A new configuration has none of them (asc-devkit,
// "AddConfig", "OpAICoreConfig构造函数", "命名转换规则对照表").
inline ops::OpAICoreConfig KernelConfig(const char* kernel) {
  ops::OpAICoreConfig config;
  config.DynamicCompileStaticFlag(true)
      .DynamicFormatFlag(true)
      .DynamicRankSupportFlag(true)
      .DynamicShapeSupportFlag(true)
      .NeedCheckSupportFlag(false)
      .PrecisionReduceFlag(true)
      .ExtendCfgInfo("opFile.value", kernel)
      .ExtendCfgInfo("opInterface.value", kernel);
  return config;
}

// What a tiling function may use of the device: at most what the device has, and at most what a MIX kernel is left
// with.
inline Platform DevicePlatform(const platform_ascendc::PlatformAscendC& device) {
  using platform_ascendc::CoreMemType;
  const auto least = [&](CoreMemType memory, uint32_t usable) {
    uint64_t bytes = 0;
    device.GetCoreMemSize(memory, bytes);
    return static_cast<uint32_t>(std::min<uint64_t>(bytes, usable));
  };
  Platform platform = Arch2201(std::min(device.GetCoreNumAic(), device.GetCoreNumAiv() / kVectorsPerCore));
  platform.ub = least(CoreMemType::UB, platform.ub);
  platform.l1 = least(CoreMemType::L1, platform.l1);
  platform.l0a = least(CoreMemType::L0_A, platform.l0a);
  platform.l0b = least(CoreMemType::L0_B, platform.l0b);
  platform.l0c = least(CoreMemType::L0_C, platform.l0c);
  return platform;
}

// A dim as tiling functions take it. Throws OpError.
inline uint32_t Dim(const Call& call, std::string_view name) {
  const int64_t value = call.Dim(name);
  if (value < 0 || value > std::numeric_limits<uint32_t>::max()) {
    call.Refuse(std::string(name) + " must be in [0, 4294967295], got " + std::to_string(value));
  }
  return static_cast<uint32_t>(value);
}

// Rows of a paged cache.
inline uint64_t CacheRows(const Call& call) { return uint64_t{Dim(call, "block_num")} * Dim(call, "block_size"); }

// Fills a launch. `make(call, platform, tiling)` is the kernel's tiling function, which returns the reason of a refusal
// or null.
template <typename Tiling, typename Make>
ge::graphStatus Tile(const op_info::OpInfo& op, gert::TilingContext* context, const Make& make) {
  return Guarded([&] {
    const Attributes attrs(op, context->GetAttrs());
    const Call call = CheckedCall(op, attrs, [&](size_t i) {
      const bool optional = op.inputs[i].optional;
      const gert::StorageShape* shape = optional ? context->GetOptionalInputShape(i) : context->GetInputShape(i);
      return shape == nullptr ? nullptr : &shape->GetOriginShape();  // the logical one
    });
    const platform_ascendc::PlatformAscendC device(context->GetPlatformInfo());
    Tiling* tiling = context->GetTilingData<Tiling>();
    if (tiling == nullptr) call.Refuse("CANN gives no room for " + std::to_string(sizeof(Tiling)) + " bytes of tiling");
    if (const char* refusal = make(call, DevicePlatform(device), *tiling)) call.Refuse(refusal);
    // The kernel's part of the workspace comes after CANN's own part, which GetUserWorkspace skips.
    size_t* workspace = context->GetWorkspaceSizes(1);
    if (workspace == nullptr) call.Refuse("CANN gives no workspace");
    *workspace = device.GetLibApiWorkSpaceSize() + tiling->workspace_bytes;
    context->SetBlockDim(tiling->cores);
    context->SetTilingKey(0);  // one kernel for all shapes
    // All cores start together, because AIVs of different cores wait for one another. Otherwise two such kernels on two
    // streams could each hold cores that the other waits for (asc-devkit, "CrossCoreSetFlag", on mode 0).
    context->SetScheduleMode(1);
  });
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_OP_HOST_H_
