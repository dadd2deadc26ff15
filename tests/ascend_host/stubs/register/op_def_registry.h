// Stand-in for CANN's header of the same name, as far as op_host uses it: an OpDef keeps what it is told, and contexts
// are plain data that a test fills. Names, signatures and values are those of CANN's public documentation ("Basic data
// structures and interfaces"; asc-devkit, "原型注册与管理"); tests only, never shipped.
#ifndef MS_DSV32_TESTS_STUBS_OP_DEF_REGISTRY_H_
#define MS_DSV32_TESTS_STUBS_OP_DEF_REGISTRY_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace ge {
using graphStatus = uint32_t;
constexpr graphStatus GRAPH_SUCCESS = 0;
constexpr graphStatus GRAPH_FAILED = 0xFFFFFFFF;
enum DataType {
  DT_FLOAT = 0,
  DT_FLOAT16 = 1,
  DT_INT8 = 2,
  DT_INT32 = 3,
  DT_INT64 = 9,
  DT_BF16 = 27,
  DT_UNDEFINED = 28
};
enum Format { FORMAT_ND = 2, FORMAT_FRACTAL_NZ = 29 };
}  // namespace ge

namespace fe {
// The cores of one device and the bytes of their memories.
class PlatFormInfos {
 public:
  uint32_t aic = 0, aiv = 0;
  uint64_t ub = 0, l1 = 0, l0a = 0, l0b = 0, l0c = 0;
};
}  // namespace fe

namespace gert {

// What CANN does not give: "attributes", "tiling data", "workspace", "output shape" or "output dtype". Empty: nothing.
inline std::string& Withheld() {
  static std::string what;
  return what;
}

// The pointer, unless it leads to what is withheld.
template <typename T>
T* Unless(const char* what, T* pointer) {
  return Withheld() == what ? nullptr : pointer;
}

class Shape {
 public:
  size_t GetDimNum() const { return dims_.size(); }
  void SetDimNum(size_t count) { dims_.resize(count); }
  int64_t GetDim(size_t index) const { return dims_.at(index); }
  Shape& AppendDim(int64_t value) {
    dims_.push_back(value);
    return *this;
  }

 private:
  std::vector<int64_t> dims_;
};

class StorageShape {
 public:
  StorageShape(const Shape& origin, const Shape& storage) : origin_(origin), storage_(storage) {}
  const Shape& GetOriginShape() const { return origin_; }
  const Shape& GetStorageShape() const { return storage_; }

 private:
  Shape origin_, storage_;
};

class RuntimeAttrs {
 public:
  struct Value {
    bool is_float;
    float number;
    int64_t integer;
  };
  std::vector<Value> values;

  // CANN has the bytes only; here an access by the wrong type is caught.
  const float* GetFloat(size_t index) const {
    return index < values.size() && values[index].is_float ? &values[index].number : nullptr;
  }
  const int64_t* GetInt(size_t index) const {
    return index < values.size() && !values[index].is_float ? &values[index].integer : nullptr;
  }
};

class TilingContext {
 public:
  std::vector<StorageShape> inputs;
  RuntimeAttrs attrs;
  fe::PlatFormInfos platform;
  std::vector<unsigned char> tiling;  // as large as CANN allows
  size_t tiling_size = 0;
  std::vector<size_t> workspaces;
  uint32_t block_dim = 0, schedule_mode = 0;
  uint64_t tiling_key = ~uint64_t{0};

  // The inputs that are there are in a row. CANN's second index counts those of the definition; they are the same where
  // the optional ones come last.
  const StorageShape* GetInputShape(size_t index) const { return index < inputs.size() ? &inputs[index] : nullptr; }
  const StorageShape* GetOptionalInputShape(size_t index) const { return GetInputShape(index); }
  const RuntimeAttrs* GetAttrs() const { return Unless("attributes", &attrs); }
  fe::PlatFormInfos* GetPlatformInfo() { return &platform; }
  template <typename T>
  T* GetTilingData() {
    if (tiling.size() < sizeof(T)) return nullptr;
    tiling_size = sizeof(T);
    return Unless("tiling data", reinterpret_cast<T*>(tiling.data()));
  }
  size_t* GetWorkspaceSizes(size_t count) {
    workspaces.resize(count);
    return Unless("workspace", workspaces.data());
  }
  ge::graphStatus SetBlockDim(uint32_t value) { return block_dim = value, ge::GRAPH_SUCCESS; }
  ge::graphStatus SetTilingKey(uint64_t value) { return tiling_key = value, ge::GRAPH_SUCCESS; }
  ge::graphStatus SetScheduleMode(uint32_t value) { return schedule_mode = value, ge::GRAPH_SUCCESS; }
};

class InferShapeContext {
 public:
  std::vector<Shape> inputs, outputs;
  RuntimeAttrs attrs;

  const Shape* GetInputShape(size_t index) const { return index < inputs.size() ? &inputs[index] : nullptr; }
  const Shape* GetOptionalInputShape(size_t index) const { return GetInputShape(index); }
  Shape* GetOutputShape(size_t index) {
    return index < outputs.size() ? Unless("output shape", &outputs[index]) : nullptr;
  }
  const RuntimeAttrs* GetAttrs() const { return Unless("attributes", &attrs); }
};

class InferDataTypeContext {
 public:
  std::vector<ge::DataType> outputs;

  ge::graphStatus SetOutputDataType(size_t index, ge::DataType dtype) {
    if (index >= outputs.size() || Withheld() == "output dtype") return ge::GRAPH_FAILED;
    outputs[index] = dtype;
    return ge::GRAPH_SUCCESS;
  }
};

}  // namespace gert

namespace ops {

enum Option { OPTIONAL = 1, REQUIRED = 2 };

class OpParamDef {
 public:
  explicit OpParamDef(const char* given) : name(given) {}
  OpParamDef& ParamType(Option value) { return option = value, *this; }
  OpParamDef& DataType(std::vector<ge::DataType> values) { return dtypes = values, *this; }
  OpParamDef& Format(std::vector<ge::Format> values) { return formats = values, *this; }
  OpParamDef& AutoContiguous() { return auto_contiguous = true, *this; }

  std::string name;
  Option option{};
  std::vector<ge::DataType> dtypes;
  std::vector<ge::Format> formats;
  bool auto_contiguous = false;
};

class OpAttrDef {
 public:
  explicit OpAttrDef(const char* given) : name(given) {}
  OpAttrDef& AttrType(Option value) { return option = value, *this; }
  OpAttrDef& Float() { return type = "float", *this; }
  OpAttrDef& Float(float value) { return type = "float", number = value, *this; }
  OpAttrDef& Int() { return type = "int", *this; }
  OpAttrDef& Int(int64_t value) { return type = "int", number = static_cast<double>(value), *this; }

  std::string name, type;
  Option option{};
  double number = 0;
};

// A configuration keeps its entries as CANN writes them into the operator's description.
class OpAICoreConfig {
 public:
  OpAICoreConfig& DynamicCompileStaticFlag(bool flag) { return Flag("dynamicCompileStatic.flag", flag); }
  OpAICoreConfig& DynamicFormatFlag(bool flag) { return Flag("dynamicFormat.flag", flag); }
  OpAICoreConfig& DynamicRankSupportFlag(bool flag) { return Flag("dynamicRankSupport.flag", flag); }
  OpAICoreConfig& DynamicShapeSupportFlag(bool flag) { return Flag("dynamicShapeSupport.flag", flag); }
  OpAICoreConfig& NeedCheckSupportFlag(bool flag) { return Flag("needCheckSupport.flag", flag); }
  OpAICoreConfig& PrecisionReduceFlag(bool flag) { return Flag("precision_reduce.flag", flag); }
  OpAICoreConfig& ExtendCfgInfo(const char* key, const char* value) { return entries[key] = value, *this; }

  std::map<std::string, std::string> entries;

 private:
  OpAICoreConfig& Flag(const char* key, bool flag) { return ExtendCfgInfo(key, flag ? "true" : "false"); }
};

class OpAICoreDef {
 public:
  OpAICoreDef& SetTiling(ge::graphStatus (*function)(gert::TilingContext*)) { return tiling = function, *this; }
  OpAICoreDef& AddConfig(const char* unit, OpAICoreConfig& config) { return configs[unit] = config, *this; }

  ge::graphStatus (*tiling)(gert::TilingContext*) = nullptr;
  std::map<std::string, OpAICoreConfig> configs;
};

class OpDef {
 public:
  explicit OpDef(const char* given) : name(given) {}
  OpParamDef& Input(const char* input) { return inputs.emplace_back(input); }
  OpParamDef& Output(const char* output) { return outputs.emplace_back(output); }
  OpAttrDef& Attr(const char* attr) { return attrs.emplace_back(attr); }
  OpDef& SetInferShape(ge::graphStatus (*function)(gert::InferShapeContext*)) { return infer_shape = function, *this; }
  OpDef& SetInferDataType(ge::graphStatus (*function)(gert::InferDataTypeContext*)) {
    return infer_dtype = function, *this;
  }
  OpAICoreDef& AICore() { return aicore; }

  std::string name;
  std::vector<OpParamDef> inputs, outputs;
  std::vector<OpAttrDef> attrs;
  ge::graphStatus (*infer_shape)(gert::InferShapeContext*) = nullptr;
  ge::graphStatus (*infer_dtype)(gert::InferDataTypeContext*) = nullptr;
  OpAICoreDef aicore;
};

inline std::map<std::string, std::function<OpDef()>>& Registry() {
  static std::map<std::string, std::function<OpDef()>> registry;
  return registry;
}

}  // namespace ops

#define OP_ADD(type) \
  static const bool g_##type##_added = ops::Registry().emplace(#type, [] { return ops::OpDef(type(#type)); }).second

#endif  // MS_DSV32_TESTS_STUBS_OP_DEF_REGISTRY_H_
