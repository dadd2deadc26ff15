#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iterator>

namespace ascend_virtual {
namespace {

constexpr size_t kPage = size_t{2} << 20;   // MindSpore asks for addresses that are multiples of 2 MiB
constexpr size_t kSpace = size_t{1} << 44;  // of addresses: MindSpore reserves 60 GB for each stream

size_t RoundUp(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// Ends the process if a system call has failed. A test could not tell its consequences from a fault of an operator.
void Require(int status, const char* call) {
  if (status == 0) return;
  Say(std::string(call) + ": " + std::strerror(errno));
  std::abort();
}

}  // namespace

Memory& Memory::Get() {
  static Memory* memory = new Memory;  // never destroyed: MindSpore frees memory at exit
  return *memory;
}

Memory::Memory() : file_(memfd_create("virtual_ascend", 0)) {
  constexpr int kReserve = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* device = mmap(nullptr, kSpace + kPage, PROT_NONE, kReserve, -1, 0);
  void* alias = MAP_FAILED;
  if (file_ >= 0 && ftruncate(file_, kSpace) == 0) {
    alias = mmap(nullptr, kSpace, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file_, 0);
  }
  if (device == MAP_FAILED || alias == MAP_FAILED) {
    Say("cannot reserve 16 tebibytes of addresses for the device's memory");
    std::abort();
  }
  const size_t address = reinterpret_cast<size_t>(device);
  device_ = static_cast<char*>(device) + (RoundUp(address) - address);
  alias_ = static_cast<char*>(alias);
}

// Takes the first gap that is large enough. The page after each range stays free, so that no two neighbours touch.
void* Memory::Take(size_t bytes) {
  const size_t need = RoundUp(bytes) + kPage;
  size_t at = kPage;
  for (const auto& [offset, size] : taken_) {
    if (offset - at >= need) break;
    at = offset + size;
  }
  if (at + need > kSpace) return nullptr;
  taken_[at] = need;
  return device_ + at;
}

void Memory::Open(size_t offset, size_t bytes) {
  Require(mprotect(alias_ + offset, RoundUp(bytes), PROT_READ | PROT_WRITE), "mprotect");
  std::memset(alias_ + offset, kPoison, bytes);
  mapped_[offset] = bytes;
}

void Memory::Close(size_t offset, size_t bytes) {
  Require(fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                    static_cast<off_t>(RoundUp(bytes))),
          "fallocate");
  Require(mprotect(alias_ + offset, RoundUp(bytes), PROT_NONE), "mprotect");
  mapped_.erase(offset);
}

void* Memory::Allocate(size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes == 0 || bytes > kSpace) return nullptr;
  bytes = Granted(bytes);
  if (used_ + bytes > Capacity()) return nullptr;
  void* address = Take(bytes);
  if (address == nullptr) return nullptr;
  Open(Offset(address), bytes);
  used_ += bytes;
  Count("allocations", 1);
  return address;
}

bool Memory::Free(void* address) {
  const std::lock_guard lock(mutex_);
  const auto found = Owns(address) ? mapped_.find(Offset(address)) : mapped_.end();
  if (found == mapped_.end() || taken_.find(found->first) == taken_.end()) return false;
  used_ -= found->second;
  taken_.erase(found->first);
  Close(found->first, found->second);
  Count("allocations", -1);
  return true;
}

void* Memory::Reserve(size_t bytes) {
  const std::lock_guard lock(mutex_);
  return Take(bytes);
}

bool Memory::Release(void* address) {
  const std::lock_guard lock(mutex_);
  return Owns(address) && taken_.erase(Offset(address)) == 1;
}

void* Memory::AllocatePhysical(size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > kSpace || used_ + bytes > Capacity()) return nullptr;
  void* handle = new char;
  physical_[handle] = bytes;
  used_ += bytes;
  Count("memory blocks", 1);
  return handle;
}

bool Memory::FreePhysical(void* handle) {
  const std::lock_guard lock(mutex_);
  const auto found = physical_.find(handle);
  if (found == physical_.end()) return false;
  used_ -= found->second;
  physical_.erase(found);
  delete static_cast<char*>(handle);
  Count("memory blocks", -1);
  return true;
}

bool Memory::Map(void* address, size_t bytes, void* handle) {
  const std::lock_guard lock(mutex_);
  const auto found = physical_.find(handle);
  if (!Owns(address) || Offset(address) % kPage != 0 || found == physical_.end() || found->second < bytes) return false;
  const size_t begin = Offset(address), end = begin + RoundUp(bytes);
  auto reserved = taken_.upper_bound(begin);
  if (reserved == taken_.begin()) return false;
  --reserved;  // the reservation that holds the address
  if (end > reserved->first + reserved->second - kPage) return false;
  const auto next = mapped_.lower_bound(begin);
  if (next != mapped_.end() && next->first < end) return false;
  if (next != mapped_.begin()) {
    const auto& [before, size] = *std::prev(next);
    if (before + RoundUp(size) > begin) return false;
  }
  Open(begin, bytes);
  return true;
}

bool Memory::Unmap(void* address) {
  const std::lock_guard lock(mutex_);
  const auto found = Owns(address) ? mapped_.find(Offset(address)) : mapped_.end();
  if (found == mapped_.end()) return false;
  Close(found->first, found->second);
  return true;
}

size_t Memory::Capacity() const { return static_cast<size_t>(Option("MEMORY_MB")) << 20; }

size_t Memory::Used() {
  const std::lock_guard lock(mutex_);
  return used_;
}

bool Memory::Owns(const void* address) const { return address >= device_ && address < device_ + kSpace; }

bool Memory::Mapped(const void* address, size_t bytes) {
  if (!Owns(address)) return false;
  const std::lock_guard lock(mutex_);
  size_t at = Offset(address);
  const size_t end = at + bytes;
  do {  // a range may lie in several pieces of memory, mapped one after the other
    auto piece = mapped_.upper_bound(at);
    if (piece == mapped_.begin()) return false;
    --piece;
    if (at >= piece->first + piece->second) return false;
    at = piece->first + piece->second;
  } while (at < end);
  return true;
}

char* Memory::Alias(const void* address) const {
  return Owns(address) ? alias_ + Offset(address) : static_cast<char*>(const_cast<void*>(address));
}

}  // namespace ascend_virtual
