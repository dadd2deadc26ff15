// Runs calls of the kernel library outside Python: on an emulated CPU, or under a sanitizer that Python does not bear.
//
// Usage: driver LIBRARY in-turn|together CALL...
//
// A CALL is a text file of words that driver.py writes; an array is a flat file of its bytes:
//   op NAME
//   attr NAME TYPE NUMBER INTEGER TEXT            as struct CAttr of cpu/c_api.h; a TEXT of '-' is none
//   input|in_place|output FILE DTYPE BYTES RANK DIM...  in the contract's order; what is not an input is written back
// "together" makes every call from a host thread of its own, all at once. Prints the name of the instruction set.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace {

[[noreturn]] void Fail(const std::string& text) {
  std::fprintf(stderr, "driver: %s\n", text.c_str());
  std::exit(1);
}

void* library = nullptr;

template <typename Function>
Function* Find(const char* name) {
  void* symbol = dlsym(library, name);
  if (symbol == nullptr) Fail(dlerror());
  return reinterpret_cast<Function*>(symbol);
}

struct CAttr {
  const char* name;
  int type;
  double number;
  int64_t integer;
  const char* text;
};

class Call {
 public:
  explicit Call(const char* path) : words_(path) {
    std::string kind;
    while (words_ >> kind) {
      if (kind == "op") {
        words_ >> op_;
      } else if (kind == "attr") {
        CAttr attr{};
        attr.name = Word();
        words_ >> attr.type >> attr.number >> attr.integer;
        attr.text = Word();
        if (std::string(attr.text) == "-") attr.text = nullptr;
        attrs_.push_back(attr);
      } else {
        ReadArray(kind);
      }
    }
    if (!words_.eof()) Fail(std::string(path) + " is malformed");
  }

  void Run() {
    using Entry = int(const char* name, const int* ranks, const int64_t* const* shapes, const char* const* dtypes,
                      int attr_count, const CAttr* attrs, void** data, char* message, size_t message_size);
    std::vector<const int64_t*> shapes;
    std::vector<void*> data;
    for (const auto& shape : shapes_) shapes.push_back(shape.data());
    for (auto& array : arrays_) data.push_back(array.data());
    char message[2048];
    if (Find<Entry>("ms_dsv32_call")(op_.c_str(), ranks_.data(), shapes.data(), dtypes_.data(),
                                     static_cast<int>(attrs_.size()), attrs_.data(), data.data(), message,
                                     sizeof(message)))
      Fail(message);
    for (size_t i = 0; i < arrays_.size(); ++i) {
      if (kinds_[i] == "input") continue;
      std::ofstream file(files_[i], std::ios::binary);
      if (!file.write(arrays_[i].data(), static_cast<std::streamsize>(arrays_[i].size()))) Fail(files_[i]);
    }
  }

 private:
  const char* Word() {
    words_ >> texts_.emplace_back();
    return texts_.back().c_str();
  }

  void ReadArray(const std::string& kind) {
    kinds_.push_back(kind);
    files_.push_back(Word());
    dtypes_.push_back(Word());
    size_t bytes = 0;
    words_ >> bytes >> ranks_.emplace_back();
    shapes_.emplace_back(ranks_.back());
    for (int64_t& dim : shapes_.back()) words_ >> dim;
    // Allocated at exactly its size, so that a sanitizer sees any access beyond it.
    arrays_.emplace_back(bytes, '\x55');
    if (kind == "output") return;
    std::ifstream file(files_.back(), std::ios::binary);
    if (!file.read(arrays_.back().data(), static_cast<std::streamsize>(bytes))) Fail(files_.back() + " is too short");
  }

  std::ifstream words_;
  std::string op_;
  std::deque<std::string> texts_;  // never moved: the calls below take pointers into it
  std::vector<CAttr> attrs_;
  std::vector<std::string> kinds_, files_;
  std::vector<const char*> dtypes_;
  std::vector<int> ranks_;
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<std::vector<char>> arrays_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) Fail("usage: driver LIBRARY in-turn|together CALL...");
  library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) Fail(dlerror());
  char message[2048];
  if (Find<int(char*, size_t)>("ms_dsv32_init")(message, sizeof(message))) Fail(message);
  std::printf("%s\n", Find<const char*()>("ms_dsv32_isa")());
  std::vector<std::thread> hosts;
  for (int i = 3; i < argc; ++i) {
    std::thread host([path = argv[i]] { Call(path).Run(); });
    if (std::string(argv[2]) == "together") {
      hosts.push_back(std::move(host));
    } else {
      host.join();
    }
  }
  for (std::thread& host : hosts) host.join();
  return 0;
}
