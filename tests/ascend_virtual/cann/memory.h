// The device's memory. The host sees its addresses, but may not touch what is behind them (PROT_NONE); what runs on the
// device reaches the same bytes through an alias. What is allocated is poisoned. Between two allocations of aclrtMalloc
// there is nothing, and an access there is a fault; MindSpore divides the memory that it maps by itself.
#ifndef ASCEND_VIRTUAL_MEMORY_H_
#define ASCEND_VIRTUAL_MEMORY_H_

#include <cstddef>
#include <map>
#include <mutex>
#include <string>

#include "device.h"

namespace ascend_virtual {

constexpr int kPoison = 0xCD;

// What aclrtMalloc gives for `bytes`, and MindSpore's pool, too: 32 bytes more, up to a multiple of 512.
constexpr size_t Granted(size_t bytes) { return (bytes + 32 + 511) / 512 * 512; }

class Memory {
 public:
  static Memory& Get();

  // Memory with its own addresses; null where it does not fit into what the device has.
  void* Allocate(size_t bytes);
  bool Free(void* address);

  // Addresses without memory, and memory without an address.
  void* Reserve(size_t bytes);
  bool Release(void* address);
  void* AllocatePhysical(size_t bytes);
  bool FreePhysical(void* handle);
  bool Map(void* address, size_t bytes, void* handle);
  bool Unmap(void* address);

  size_t Capacity() const;
  size_t Used();

  // Whether an address is one of the device's; whether all of a range has memory.
  bool Owns(const void* address) const;
  bool Mapped(const void* address, size_t bytes);

  // Where the device finds what is at an address; an address of the host stays as it is.
  char* Alias(const void* address) const;

 private:
  Memory();
  size_t Offset(const void* address) const { return static_cast<size_t>(static_cast<const char*>(address) - device_); }
  void* Take(size_t bytes);
  void Open(size_t offset, size_t bytes);
  void Close(size_t offset, size_t bytes);

  std::mutex mutex_;
  char* device_;                      // PROT_NONE
  char* alias_;                       // the same offsets, accessible where there is memory
  int file_;                          // behind the alias
  size_t used_ = 0;                   // bytes of memory
  std::map<size_t, size_t> taken_;    // offset -> bytes of addresses
  std::map<size_t, size_t> mapped_;   // offset -> bytes of memory there
  std::map<void*, size_t> physical_;  // handle -> bytes
};

}  // namespace ascend_virtual

#endif  // ASCEND_VIRTUAL_MEMORY_H_
