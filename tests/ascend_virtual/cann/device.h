// What all parts of the device share: options, errors that the host is told later, and counts of live objects.
#ifndef ASCEND_VIRTUAL_DEVICE_H_
#define ASCEND_VIRTUAL_DEVICE_H_

#include <cstdint>
#include <string>

#include "acl.h"

#define ASCEND_VIRTUAL_API extern "C" __attribute__((visibility("default")))

namespace ascend_virtual {

// An integer option: the variable ASCEND_VIRTUAL_<name> of the environment at first use, or the last value that
// virtual_ascend_set gave it. README.md lists the options.
int64_t Option(const char* name);

// Adds to an option, which is then a counter, and returns the sum. The addition is atomic.
int64_t Add(const char* option, int64_t change);

// Prints a line on standard error, "virtual Ascend: ...".
void Say(const std::string& text);

// Say, if the option TRACE asks for it.
void Trace(const std::string& text);

// Remembers a text for aclGetRecentErrMsg, says it, and returns `code`.
aclError Fail(aclError code, const std::string& text);

// What aclGetRecentErrMsg returns: the texts since the last call.
std::string TakeErrors();

// Counts the objects of a kind that are alive. virtual_ascend_live tells the counts, and so does the library at exit.
void Count(const char* kind, int change);

// splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

}  // namespace ascend_virtual

// The functions that tests call beside CANN's interface.
ASCEND_VIRTUAL_API int virtual_ascend_set(const char* option, int64_t value);  // 0, or 1: there is no such option
ASCEND_VIRTUAL_API int64_t virtual_ascend_get(const char* option);
ASCEND_VIRTUAL_API int64_t virtual_ascend_live(const char* kind);

#endif  // ASCEND_VIRTUAL_DEVICE_H_
