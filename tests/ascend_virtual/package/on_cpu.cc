// Runs the CPU kernels instead of the AscendC ones, for large shapes and whole models. The contract of the two backends
// differs for bad values: the CPU reports them, and Ascend skips them. So bad values are replaced here.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "memory.h"
#include "operator.h"

namespace ascend_virtual {
namespace {

// CAttr of cpu/c_api.h.
struct CpuAttr {
  const char* name;
  int type;
  double number;
  int64_t integer;
  const char* text;
};
using Call = int (*)(const char* op, const int* ranks, const int64_t* const* shapes, const char* const* dtypes,
                     int attr_count, const CpuAttr* attrs, void** data, char* message, size_t message_size);

constexpr size_t kMessageBytes = 2048;

const char* DtypeName(int dtype) {
  switch (dtype) {
    case ACL_FLOAT:
      return "float32";
    case ACL_FLOAT16:
      return "float16";
    case ACL_BF16:
      return "bfloat16";
    case ACL_INT8:
      return "int8";
    case ACL_INT32:
      return "int32";
    case ACL_INT64:
      return "int64";
    default:
      return "unknown";
  }
}

// FRACTAL_NZ [batch][n / c0][k][c0], where c0 elements are 32 bytes, as row-major [batch][k][n].
std::vector<char> RowMajor(const aclTensor& weight, const char* from) {
  constexpr size_t kGroup = 32;
  const size_t axes = weight.view.size();
  const auto k = static_cast<size_t>(weight.view[axes - 2]);
  const size_t row = static_cast<size_t>(weight.view[axes - 1]) * weight.ElementBytes();
  std::vector<char> to(weight.Bytes());
  for (size_t batch = 0; batch < to.size(); batch += k * row) {
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = 0; j < row; j += kGroup) {
        std::memcpy(&to[batch + i * row + j], from + batch + j * k + i * kGroup, kGroup);
      }
    }
  }
  return to;
}

// The inputs of a call by name, and the copies in which values were changed.
class Inputs {
 public:
  Inputs(const Operator& op, const Operands& tensors) : op_(op), tensors_(tensors) {
    for (const aclTensor* tensor : tensors) {
      data.push_back(tensor != nullptr ? Memory::Get().Alias(tensor->Begin()) : nullptr);
    }
  }

  // The index of an input that is there, or -1.
  int Find(const std::string& name) const {
    for (size_t i = 0; i < op_.inputs.size(); ++i) {
      if (op_.inputs[i].name == name && tensors_[i] != nullptr) return static_cast<int>(i);
    }
    return -1;
  }
  const std::vector<int64_t>& Shape(int index) const { return tensors_[static_cast<size_t>(index)]->view; }
  template <typename T>
  const T* Values(int index) const {
    return static_cast<const T*>(data[static_cast<size_t>(index)]);
  }
  template <typename T>
  T* Copy(int index) {
    const aclTensor& tensor = *tensors_[static_cast<size_t>(index)];
    const auto* from = static_cast<const char*>(data[static_cast<size_t>(index)]);
    return reinterpret_cast<T*>(Replace(index, std::vector<char>(from, from + tensor.Bytes())));
  }
  char* Replace(int index, std::vector<char> bytes) {
    kept_.push_back(std::move(bytes));
    data[static_cast<size_t>(index)] = kept_.back().data();
    return kept_.back().data();
  }

  std::vector<void*> data;

 private:
  const Operator& op_;
  const Operands& tensors_;
  std::vector<std::vector<char>> kept_;
};

// A row outside the cache is not written, as one of padding.
void CleanRows(Inputs& inputs, const char* index_name, const char* cache_name) {
  const int index = inputs.Find(index_name), cache = inputs.Find(cache_name);
  if (index < 0 || cache < 0) return;
  int64_t count = 1;
  for (const int64_t dim : inputs.Shape(index)) count *= dim;
  const int64_t rows = inputs.Shape(cache)[0] * inputs.Shape(cache)[1];
  auto* values = inputs.Copy<int64_t>(index);
  for (int64_t i = 0; i < count; ++i) values[i] = values[i] >= 0 && values[i] < rows ? values[i] : -1;
}

// The sequence of each token, -1 for padding. If the numbers of tokens are impossible, no sequence has any.
std::vector<int64_t> Sequences(Inputs& inputs, int64_t t, int64_t b) {
  const int counts = inputs.Find("query_act_seqs");
  std::vector<int64_t> sequences;
  if (counts < 0) {
    for (int64_t i = 0; i < t; ++i) sequences.push_back(i / (t / b));
    return sequences;
  }
  auto* values = inputs.Copy<int32_t>(counts);
  int64_t sum = 0;
  bool valid = true;
  for (int64_t i = 0; i < b; ++i) {
    sum += values[i];
    valid = valid && values[i] >= 0;
  }
  if (!valid || sum > t) std::fill(values, values + b, 0);
  for (int64_t i = 0; i < b; ++i) sequences.insert(sequences.end(), static_cast<size_t>(values[i]), i);
  sequences.resize(static_cast<size_t>(t), -1);
  return sequences;
}

// A position outside its sequence, or in a block outside the cache, is skipped.
void CleanPositions(Inputs& inputs) {
  constexpr int64_t kBlockSize = 128;
  const int table = inputs.Find("block_table"), lengths = inputs.Find("kv_act_seqs"),
            topk = inputs.Find("topk_indices");
  if (table < 0) return;
  const std::vector<int64_t>& shape = inputs.Shape(topk < 0 ? inputs.Find("weights") : topk);
  const int64_t b = inputs.Shape(table)[0], columns = inputs.Shape(table)[1], selected = shape.back();
  const int64_t rows = shape.size() == 3 ? shape[0] * shape[1] : shape[0];
  const std::vector<int64_t> sequences = Sequences(inputs, rows, b);
  if (topk < 0) return;
  const std::vector<int64_t>& cache = inputs.Shape(inputs.Find("key_nope_2d"));
  const int64_t blocks = cache.size() == 2 ? cache[0] / kBlockSize : cache[0];
  auto* positions = inputs.Copy<int32_t>(topk);
  for (int64_t i = 0; i < rows * selected; ++i) {
    const int64_t sequence = sequences[static_cast<size_t>(i / selected)], position = positions[i];
    if (sequence < 0) continue;
    const int64_t column = position / kBlockSize;
    const bool inside = position >= 0 && position < inputs.Values<int32_t>(lengths)[sequence] && column < columns;
    const int64_t block = inside ? inputs.Values<int32_t>(table)[sequence * columns + column] : -1;
    if (block < 0 || block >= blocks) positions[i] = -1;
  }
}

}  // namespace

std::string RunOnCpu(const Operator& op, const Operands& given, const std::vector<double>& attributes) {
  // An empty optional operand of two axes is left out: see LeftOut of op_host.h.
  Operands tensors = given;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const bool optional = op.inputs[i].optional && given[i] != nullptr;
    if (optional && given[i]->view == std::vector<int64_t>{0, 0}) tensors[i] = nullptr;
  }
  Inputs inputs(op, tensors);
  std::vector<int> ranks;
  std::vector<const int64_t*> shapes;
  std::vector<const char*> dtypes;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    if (tensors[i] == nullptr) {
      ranks.push_back(0);
      shapes.push_back(nullptr);
      dtypes.push_back("none");
      continue;
    }
    ranks.push_back(static_cast<int>(tensors[i]->view.size()));
    shapes.push_back(tensors[i]->view.data());
    dtypes.push_back(DtypeName(tensors[i]->dtype));
    if (op.inputs[i].nz) {
      const int index = static_cast<int>(i);
      inputs.Replace(index, RowMajor(*tensors[i], inputs.Values<char>(index)));
    }
  }
  CleanRows(inputs, "cache_index", "kv_cache");
  CleanRows(inputs, "cache_index", "mla_kv_cache");
  CleanRows(inputs, "k_cache_index", "k_cache");
  CleanPositions(inputs);
  std::vector<CpuAttr> attrs;
  for (const CpuAttribute& attribute : op.cpu_attributes) {
    const double number = attribute.source < 0 ? 0 : attributes[static_cast<size_t>(attribute.source)];
    const int64_t integer = attribute.source < 0 ? attribute.integer : static_cast<int64_t>(number);
    attrs.push_back({attribute.name, attribute.type, number, integer, attribute.text});
  }
  static const auto call = reinterpret_cast<Call>(Function(kLibraries.cpu, "ms_dsv32_call"));
  std::string message(kMessageBytes, '\0');
  const int status = call(op.kernel, ranks.data(), shapes.data(), dtypes.data(), static_cast<int>(attrs.size()),
                          attrs.data(), inputs.data.data(), message.data(), message.size());
  return status == 0 ? "" : message.c_str();
}

}  // namespace ascend_virtual
