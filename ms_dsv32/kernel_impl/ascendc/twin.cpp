// Runs one kernel with CANN's CPU twin debugging: `twin_<op> <AI cores> <file>...`, one file for each parameter of the
// entry: inputs, outputs, workspace, tiling. Each is read into the twin's memory and written back after the run.
//
// The API: asc-devkit, "ICPU_RUN_KF". The preset cpu-twin builds it; MS_DSV32_ENTRY is the kernel's name.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

#include "kernel_operator.h"
#include "tikicpulib.h"

// CANN's build generates these from the registered struct; here it is copied as it lies in the file.
#undef REGISTER_TILING_DEFAULT
#undef GET_TILING_DATA
#define REGISTER_TILING_DEFAULT(type) using TwinTiling = type
#define GET_TILING_DATA(name, bytes) \
  TwinTiling name;                   \
  std::memcpy(&name, bytes, sizeof(name))

#define MS_DSV32_TEXT(text) #text
#define MS_DSV32_SOURCE(entry) MS_DSV32_TEXT(entry.cpp)
#include MS_DSV32_SOURCE(MS_DSV32_ENTRY)

namespace {

template <typename... Parameters, size_t... kIndex>
void Run(void (*)(Parameters...), uint32_t cores, const std::vector<uint8_t*>& gm, std::index_sequence<kIndex...>) {
  AscendC::SetKernelMode(KernelMode::MIX_MODE);
  ICPU_RUN_KF(MS_DSV32_ENTRY, cores, gm[kIndex]...);
}

template <typename... Parameters>
int Main(void (*kernel)(Parameters...), int argc, char** argv) {
  constexpr size_t kCount = sizeof...(Parameters);
  if (argc != static_cast<int>(kCount) + 2) {
    std::fprintf(stderr, "usage: %s <AI cores> and %zu files: inputs, outputs, workspace, tiling\n", argv[0], kCount);
    return 2;
  }
  std::vector<uint8_t*> gm;
  std::vector<size_t> sizes;
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "%s: cannot read %s\n", argv[0], argv[i]);
      return 1;
    }
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    gm.push_back(static_cast<uint8_t*>(AscendC::GmAlloc(bytes.size() + 1)));  // an empty tensor has an address too
    sizes.push_back(bytes.size());
    std::copy(bytes.begin(), bytes.end(), gm.back());
  }
  Run(kernel, static_cast<uint32_t>(std::strtoul(argv[1], nullptr, 10)), gm, std::make_index_sequence<kCount>());
  int status = 0;
  for (size_t i = 0; i < kCount; ++i) {
    std::ofstream file(argv[i + 2], std::ios::binary);
    if (!file.write(reinterpret_cast<const char*>(gm[i]), static_cast<std::streamsize>(sizes[i]))) {
      std::fprintf(stderr, "%s: cannot write %s\n", argv[0], argv[i + 2]);
      status = 1;
    }
    AscendC::GmFree(gm[i]);
  }
  return status;
}

}  // namespace

int main(int argc, char** argv) { return Main(&MS_DSV32_ENTRY, argc, argv); }
