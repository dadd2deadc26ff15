#include "ms_dsv32/kernel_impl/cpu/c_api.h"

#include <algorithm>
#include <cstring>

#include "ms_dsv32/kernel_impl/cpu/dispatch.h"
#include "ms_dsv32/kernel_impl/cpu/pack.h"
#include "ms_dsv32/kernel_impl/cpu/run_call.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

namespace ms_dsv32 {
namespace {

class CAttrs : public AttrSource {
 public:
  CAttrs(int count, const CAttr* attrs) : count_(count), attrs_(attrs) {}
  bool Find(const op_info::AttrInfo& info, AttrValue* value) const override {
    for (int i = 0; i < count_; ++i) {
      const CAttr& attr = attrs_[i];
      if (std::strcmp(attr.name, info.name) != 0) continue;
      *value = {static_cast<op_info::AttrType>(attr.type), attr.number, attr.integer, attr.text ? attr.text : ""};
      return true;
    }
    return false;
  }

 private:
  int count_;
  const CAttr* attrs_;
};

constexpr int kFailed = 3;

// Runs `body`. An exception becomes a status (OpError::Kind, or kFailed) and a text.
template <typename Body>
int Guard(char* message, size_t message_size, const Body& body) {
  const auto report = [&](int status, const char* text) {
    std::strncpy(message, text, message_size - 1);
    message[message_size - 1] = '\0';
    return status;
  };
  try {
    body();
    return 0;
  } catch (const OpError& e) {
    return report(static_cast<int>(e.kind), e.what());
  } catch (const std::exception& e) {
    return report(kFailed, e.what());
  }
}

}  // namespace
}  // namespace ms_dsv32

extern "C" {

int ms_dsv32_init(char* message, size_t message_size) {
  return ms_dsv32::Guard(message, message_size, [] {
    ms_dsv32::cpu::Kernels();
    ms_dsv32::cpu::NumThreads();
  });
}

const char* ms_dsv32_isa() { return ms_dsv32::cpu::Kernels().isa; }

const char* ms_dsv32_isas(int supported_only) { return ms_dsv32::cpu::IsaNames(supported_only != 0); }

int ms_dsv32_thread_count() { return ms_dsv32::cpu::NumThreads(); }

void ms_dsv32_set_thread_count(int count) { ms_dsv32::SetThreadCount(count); }

int ms_dsv32_check(const char* name, const int* ranks, const int64_t* const* shapes, const char* const* dtypes,
                   int attr_count, const ms_dsv32::CAttr* attrs, int64_t (*out_shapes)[8], int* out_ranks,
                   char* message, size_t message_size) {
  using namespace ms_dsv32;
  return Guard(message, message_size, [&] {
    const Operator& op = FindOperator(name);
    const Dims dims = op.bind(op.info, Inputs(op.info, ranks, shapes, dtypes).data(), CAttrs(attr_count, attrs));
    const auto outputs = OutputShapes(op.info, dims);
    for (size_t i = 0; i < outputs.size(); ++i) {
      out_ranks[i] = static_cast<int>(outputs[i].size());
      std::copy(outputs[i].begin(), outputs[i].end(), out_shapes[i]);
    }
  });
}

int ms_dsv32_call(const char* name, const int* ranks, const int64_t* const* shapes, const char* const* dtypes,
                  int attr_count, const ms_dsv32::CAttr* attrs, void** data, char* message, size_t message_size) {
  using namespace ms_dsv32;
  return Guard(message, message_size, [&] {
    const Operator& op = FindOperator(name);
    RunCall(op, data, Inputs(op.info, ranks, shapes, dtypes), CAttrs(attr_count, attrs));
  });
}

int ms_dsv32_pack(const void* weight, void* packed, int element_size, int64_t batch, int64_t k, int64_t n,
                  char* message, size_t message_size) {
  return ms_dsv32::Guard(message, message_size, [&] {
    if (element_size == 1) {
      ms_dsv32::cpu::PackInt8(static_cast<const int8_t*>(weight), batch, k, n, static_cast<int8_t*>(packed));
    } else {
      ms_dsv32::cpu::PackBf16(static_cast<const uint16_t*>(weight), batch, k, n, static_cast<uint16_t*>(packed));
    }
  });
}

}  // extern "C"
