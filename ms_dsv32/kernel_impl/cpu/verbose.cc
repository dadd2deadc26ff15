#include "ms_dsv32/kernel_impl/cpu/verbose.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "ms_dsv32/kernel_impl/cpu/dispatch.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

namespace ms_dsv32::cpu {
namespace {

bool IsWanted() {
  const char* text = std::getenv("MS_DSV32_VERBOSE");
  return text != nullptr && *text != '\0' && std::strcmp(text, "0") != 0;
}

// What has been told. The list only grows, and needs no lock, which a child of fork() could inherit locked.
struct Line {
  std::string text;
  Line* next;
};

std::atomic<Line*> told{nullptr};

void TellOnce(const std::string& text) {
  auto line = std::make_unique<Line>(Line{text, told.load()});
  do {
    for (const Line* other = line->next; other != nullptr; other = other->next) {
      if (other->text == text) return;
    }
  } while (!told.compare_exchange_weak(line->next, line.get()));
  line.release();  // the list has it
  std::fprintf(stderr, "ms_dsv32: %s\n", text.c_str());
}

std::string LibraryPath() {
  Dl_info info;
  return dladdr(&told, &info) != 0 ? info.dli_fname : "a library of unknown path";
}

}  // namespace

const bool kVerbose = IsWanted();

void TellLibrary() {
  const std::string threads = std::to_string(NumThreads());  // before its origin is asked for
  TellOnce("instruction set " + std::string(Kernels().isa) + "; threads " + threads + ", from " + NumThreadsOrigin() +
           "; library " + LibraryPath());
}

void TellPlan(const char* op, const PlanItem* items, int count) {
  std::string text = std::string(op) + ":";
  for (int i = 0; i < count; ++i) text += std::string(" ") + items[i].name + "=" + std::to_string(items[i].value);
  TellOnce(text);
}

}  // namespace ms_dsv32::cpu
