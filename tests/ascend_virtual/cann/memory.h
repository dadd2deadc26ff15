// The device's memory. The host sees its addresses, but may not touch their contents (PROT_NONE). The device reaches
// the same bytes through an alias. Allocations are poisoned. Between two allocations of aclrtMalloc there is no memory,
// and an access there is a fault. MindSpore itself divides the memory that it maps.
#ifndef ASCEND_VIRTUAL_MEMORY_H_
#define ASCEND_VIRTUAL_MEMORY_H_

#include <cstddef>
#include <map>
#include <mutex>
#include <string>

#include "device.h"

namespace ascend_virtual {

constexpr int kPoison = 0xCD;

// What aclrtMalloc and MindSpore's pool give for `bytes`: 32 bytes more, rounded up to a multiple of 512.
constexpr size_t Granted(size_t bytes) { return (bytes + 32 + 511) / 512 * 512; }

class Memory {
 public:
  static Memory& Get();

  // Memory with its own addresses, or null if the device has not enough.
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

  // The alias of an address, through which the device reaches it. An address of the host stays as it is.
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
  int file_;                          // the file that the alias maps
  size_t used_ = 0;                   // bytes of memory
  std::map<size_t, size_t> taken_;    // offset -> bytes of addresses
  std::map<size_t, size_t> mapped_;   // offset -> bytes of memory there
  std::map<void*, size_t> physical_;  // handle -> bytes
};

}  // namespace ascend_virtual

#endif  // ASCEND_VIRTUAL_MEMORY_H_
