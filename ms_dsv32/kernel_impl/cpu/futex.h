// A word that threads sleep on until it changes. Unlike a mutex and a condition variable it has no state that a child
// of fork() could inherit locked.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

namespace ms_dsv32::cpu {

static_assert(sizeof(std::atomic<uint32_t>) == 4 && std::atomic<uint32_t>::is_always_lock_free, "a futex is a word");

// Sleeps while `word` is `value`, as far as it can tell: may return early. False after `timeout`.
inline bool FutexWait(const std::atomic<uint32_t>& word, uint32_t value, const timespec* timeout = nullptr) {
  return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, timeout) == 0 || errno != ETIMEDOUT;
}

inline void FutexWake(const std::atomic<uint32_t>& word, int threads) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, threads);
}

}  // namespace ms_dsv32::cpu
