// The findings of a run: errors with their place in the kernel, and the JSON text that the host reads.
#ifndef ASCENDC_EMULATOR_REPORT_H_
#define ASCENDC_EMULATOR_REPORT_H_

#include <cstdarg>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

namespace ascendc_emulator {

// The place of a call. As a default argument it is the line of the caller.
struct Loc {
  const char* file = "";
  int line = 0;
  static constexpr Loc Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return Loc{file, line};
  }
};

// Unwinds a core's thread after an error that leaves nothing sensible to execute.
struct Stop {};

inline std::string Format(const char* format, ...) __attribute__((format(printf, 1, 2)));
inline std::string Format(const char* format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  std::string text(static_cast<size_t>(std::vsnprintf(nullptr, 0, format, args)) + 1, '\0');
  va_end(args);
  std::vsnprintf(text.data(), text.size(), format, again);
  va_end(again);
  text.pop_back();
  return text;
}

inline std::string Quote(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20)
      out += Format("\\u%04x", c);
    else
      out += c;
  }
  return out + "\"";
}

struct Finding {
  std::string kind, message, core;
  Loc loc;
  uint64_t count = 1;
};

// All findings of a run. Findings of one kind and place whose messages differ only in numbers are one finding. It keeps
// its first message and counts the others.
class Report {
 public:
  void Add(const char* kind, Loc loc, const std::string& core, const std::string& message) {
    std::lock_guard<std::mutex> lock(mutex_);
    std::string words;
    for (char c : message)
      if (c < '0' || c > '9') words += c;
    auto [it, added] =
        index_.try_emplace({std::string(kind), std::string(loc.file), loc.line, words}, findings_.size());
    if (added)
      findings_.push_back({kind, message, core, loc, 1});
    else
      ++findings_[it->second].count;
  }
  std::string Json() const {
    std::string out = "[";
    for (const Finding& f : findings_) {
      if (out.size() > 1) out += ",";
      out += Format("{\"kind\":%s,\"message\":%s,\"core\":%s,\"file\":%s,\"line\":%d,\"count\":%llu}",
                    Quote(f.kind).c_str(), Quote(f.message).c_str(), Quote(f.core).c_str(), Quote(f.loc.file).c_str(),
                    f.loc.line, static_cast<unsigned long long>(f.count));
    }
    return out + "]";
  }

 private:
  std::mutex mutex_;
  std::vector<Finding> findings_;
  std::map<std::tuple<std::string, std::string, int, std::string>, size_t> index_;
};

}  // namespace ascendc_emulator

#endif  // ASCENDC_EMULATOR_REPORT_H_
