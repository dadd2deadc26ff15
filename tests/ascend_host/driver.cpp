// C interface to what op_host registers with the stubs: definitions as text, tiling and inference on filled contexts.
#include <cstring>
#include <sstream>

#include "register/op_def_registry.h"

namespace {

struct CShape {
  int rank;
  const int64_t* dims;
};

gert::Shape MakeShape(const CShape& given) {
  gert::Shape shape;
  for (int i = 0; i < given.rank; ++i) shape.AppendDim(given.dims[i]);
  return shape;
}

gert::RuntimeAttrs MakeAttrs(int count, const int* is_float, const double* values) {
  gert::RuntimeAttrs attrs;
  for (int i = 0; i < count; ++i) {
    attrs.values.push_back({is_float[i] != 0, static_cast<float>(values[i]), static_cast<int64_t>(values[i])});
  }
  return attrs;
}

ops::OpDef Find(const char* op) { return ops::Registry().at(op)(); }

}  // namespace

extern "C" {

// One line for each: "input|output name option dtypes formats contiguous", "attr name option type default", "unit
// name key=value ...".
const char* host_definition(const char* op) {
  static std::string text;
  std::ostringstream out;
  const ops::OpDef def = Find(op);
  const auto tensor = [&](const char* kind, const ops::OpParamDef& p) {
    out << kind << ' ' << p.name << ' ' << p.option << ' ';
    for (const ge::DataType dtype : p.dtypes) out << dtype << ',';
    out << ' ';
    for (const ge::Format format : p.formats) out << format << ',';
    out << ' ' << p.auto_contiguous << '\n';
  };
  out.precision(9);
  for (const auto& p : def.inputs) tensor("input", p);
  for (const auto& p : def.outputs) tensor("output", p);
  for (const auto& a : def.attrs)
    out << "attr " << a.name << ' ' << a.option << ' ' << a.type << ' ' << a.number << '\n';
  for (const auto& [unit, config] : def.aicore.configs) {
    out << "unit " << unit;
    for (const auto& [key, value] : config.entries) out << ' ' << key << '=' << value;
    out << '\n';
  }
  text = out.str();
  return text.c_str();
}

// From here on CANN does not give `what`; nothing is withheld where it is empty.
void host_withhold(const char* what) { gert::Withheld() = what; }

int host_operator_count() { return static_cast<int>(ops::Registry().size()); }

// platform: aic, aiv, ub, l1, l0a, l0b, l0c. launch: block_dim, tiling_key, schedule_mode, workspace, size of the data.
uint32_t host_tile(const char* op, int input_count, const CShape* shapes, int attr_count, const int* is_float,
                   const double* values, const uint64_t* platform, uint64_t capacity, unsigned char* data,
                   uint64_t* launch) {
  gert::TilingContext context;
  for (int i = 0; i < input_count; ++i) {
    gert::Shape storage;  // what a FRACTAL_NZ weight has; the adapter must not look at it
    storage.AppendDim(-7);
    context.inputs.emplace_back(MakeShape(shapes[i]), storage);
  }
  context.attrs = MakeAttrs(attr_count, is_float, values);
  context.platform.aic = static_cast<uint32_t>(platform[0]);
  context.platform.aiv = static_cast<uint32_t>(platform[1]);
  context.platform.ub = platform[2];
  context.platform.l1 = platform[3];
  context.platform.l0a = platform[4];
  context.platform.l0b = platform[5];
  context.platform.l0c = platform[6];
  context.tiling.assign(capacity, 0xCD);
  const uint32_t status = Find(op).aicore.tiling(&context);
  if (status != ge::GRAPH_SUCCESS) return status;
  std::memcpy(data, context.tiling.data(), context.tiling_size);
  const uint64_t facts[] = {context.block_dim, context.tiling_key, context.schedule_mode, context.workspaces.at(0),
                            context.tiling_size};
  std::memcpy(launch, facts, sizeof(facts));
  return status;
}

// out: for each output its rank and up to 8 axes.
uint32_t host_infer_shape(const char* op, int input_count, const CShape* shapes, int attr_count, const int* is_float,
                          const double* values, int64_t* out) {
  const ops::OpDef def = Find(op);
  gert::InferShapeContext context;
  for (int i = 0; i < input_count; ++i) context.inputs.push_back(MakeShape(shapes[i]));
  context.outputs.resize(def.outputs.size());
  for (gert::Shape& shape : context.outputs) shape.AppendDim(-9);  // must not stay
  context.attrs = MakeAttrs(attr_count, is_float, values);
  const uint32_t status = def.infer_shape(&context);
  for (size_t i = 0; status == ge::GRAPH_SUCCESS && i < context.outputs.size(); ++i) {
    const gert::Shape& shape = context.outputs[i];
    out[i * 9] = static_cast<int64_t>(shape.GetDimNum());
    for (size_t axis = 0; axis < shape.GetDimNum(); ++axis) out[i * 9 + 1 + axis] = shape.GetDim(axis);
  }
  return status;
}

uint32_t host_infer_dtype(const char* op, int output_count, int* out) {
  gert::InferDataTypeContext context;
  context.outputs.assign(static_cast<size_t>(output_count), ge::DT_UNDEFINED);
  const uint32_t status = Find(op).infer_dtype(&context);
  for (int i = 0; i < output_count; ++i) out[i] = context.outputs[static_cast<size_t>(i)];
  return status;
}

}  // extern "C"
