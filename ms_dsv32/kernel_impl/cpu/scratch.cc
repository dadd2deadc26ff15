#include "ms_dsv32/kernel_impl/cpu/scratch.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdlib>
#include <mutex>
#include <new>
#include <string>
#include <vector>

namespace ms_dsv32::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

class NoScratch : public std::bad_alloc {
 public:
  explicit NoScratch(size_t bytes)
      : text_("the system refuses " + std::to_string(bytes) + " bytes of working memory") {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

struct Block {
  void* data;
  size_t bytes;
  bool leased;
};

struct Cache {
  std::mutex mutex;
  std::vector<Block> blocks;

  static Cache& Get() {
    static Cache* cache = Create();  // never destroyed: a kernel may still run while statics are being destroyed
    return *cache;
  }

  static Cache* Create() {
    pthread_atfork([] { Get().mutex.lock(); }, [] { Get().mutex.unlock(); },
                   [] {
                     // The calls that hold blocks run on threads that do not exist in the child.
                     for (Block& block : Get().blocks) block.leased = false;
                     Get().mutex.unlock();
                   });
    return new Cache;
  }

  size_t Bytes(bool leased) const {
    size_t sum = 0;
    for (const Block& block : blocks) sum += block.leased == leased ? block.bytes : 0;
    return sum;
  }

  void FreeIdle(size_t keep) {
    for (size_t i = 0; i < blocks.size() && Bytes(false) > keep;) {
      if (blocks[i].leased) {
        ++i;
        continue;
      }
      std::free(blocks[i].data);
      blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
};

}  // namespace

void* AcquireScratch(size_t bytes) {
  Cache& cache = Cache::Get();
  std::lock_guard<std::mutex> lock(cache.mutex);
  Block* best = nullptr;  // the smallest that fits
  for (Block& block : cache.blocks) {
    if (!block.leased && block.bytes >= bytes && (best == nullptr || block.bytes < best->bytes)) best = &block;
  }
  if (best == nullptr) {
    // A larger block replaces the idle ones, so that growing token counts do not leave many blocks.
    cache.FreeIdle(0);
    cache.blocks.reserve(cache.blocks.size() + 1);
    const size_t align = bytes >= kHugePage ? kHugePage : kScratchAlign;
    const size_t rounded = (bytes + align) / align * align;
    void* data = std::aligned_alloc(align, rounded);
    if (data == nullptr) throw NoScratch(rounded);
    if (align == kHugePage) madvise(data, rounded, MADV_HUGEPAGE);  // advice only: fewer TLB misses where it is taken
    cache.blocks.push_back({data, rounded, false});
    best = &cache.blocks.back();
  }
  best->leased = true;
  return best->data;
}

void ReturnScratch(void* data) noexcept {
  Cache& cache = Cache::Get();
  std::lock_guard<std::mutex> lock(cache.mutex);
  for (Block& block : cache.blocks) {
    if (block.data == data) block.leased = false;
  }
  cache.FreeIdle(kScratchKeepBytes);
}

void ReleaseScratch() noexcept {
  Cache& cache = Cache::Get();
  std::lock_guard<std::mutex> lock(cache.mutex);
  cache.FreeIdle(0);
}

size_t ScratchBytes() noexcept {
  Cache& cache = Cache::Get();
  std::lock_guard<std::mutex> lock(cache.mutex);
  return cache.Bytes(true) + cache.Bytes(false);
}

}  // namespace ms_dsv32::cpu
