// The report as JSON, and the timeline in Chrome's trace format (also read by Perfetto). All times are modelled.
#ifndef ASCENDC_EMULATOR_TRACE_H_
#define ASCENDC_EMULATOR_TRACE_H_

#include <fstream>

#include "machine.h"

namespace ascendc_emulator {

inline std::string PipeKey(const Core& core, int pipe) {
  return Format("%s.%s", core.type == CoreType::kAic ? "AIC" : "AIV", PipeName(pipe));
}

// Modelled time: the last end on any core, but at least what HBM needs for the bytes that came from it.
inline std::string Summary(Machine& machine) {
  std::string out = "{\"errors\":" + machine.report.Json();
  const Soc* soc = FindSoc(machine.options.soc);
  std::map<std::string, double> busy_max, busy_sum;
  std::map<std::string, uint64_t> instructions;
  uint64_t hbm = 0, l2 = 0, written = 0, l1_l0 = 0, l0c = 0;
  double macs = 0, end = 0;
  int64_t last = -1;
  for (auto& core : machine.cores) {
    for (int p = 0; p < kPipes; ++p) {
      if (core->instructions[p] == 0 && core->busy[p] == 0) continue;
      const std::string key = PipeKey(*core, p);
      busy_max[key] = std::max(busy_max[key], core->busy[p]);
      busy_sum[key] += core->busy[p];
      instructions[key] += core->instructions[p];
      if (core->done_at[p] > end) end = core->done_at[p], last = core->last_record[p];
    }
    hbm += core->bytes_hbm_read;
    l2 += core->bytes_l2_read;
    written += core->bytes_gm_write;
    l1_l0 += core->bytes_l1_l0;
    l0c += core->bytes_l0c_out;
    macs += core->macs;
  }
  auto numbers = [](const auto& map, const char* format) {
    std::string text;
    for (const auto& [key, value] : map)
      text += (text.empty() ? "" : ",") + Quote(key) + ":" + Format(format, static_cast<double>(value));
    return "{" + text + "}";
  };
  out += ",\"instructions\":" + numbers(instructions, "%.0f");
  if (machine.options.cycles && soc != nullptr) {
    const double hbm_cycles = static_cast<double>(hbm) / (machine.options.gm.hbm_gb_per_s * 1e9 / (soc->mhz * 1e6));
    const double cycles = std::max(end, hbm_cycles);
    // Roofline: what the busiest pipe of the busiest core needs if nothing ever waits, or HBM if all cores read from it
    // at once.
    std::string bound = "HBM";
    double roof = hbm_cycles;
    for (const auto& [key, value] : busy_max)
      if (value > roof) roof = value, bound = key;
    // The critical path goes from the last end back through what each instruction waited for.
    std::map<std::string, double> path;
    double until = end;
    for (int64_t r = last; r >= 0;) {
      const Record& record = machine.records[static_cast<size_t>(r)];
      const double start = std::min(record.start, until);
      path[PipeKey(*machine.cores[record.core], record.pipe)] += until - start;
      until = start;
      r = record.previous < r ? record.previous : -1;
    }
    out += Format(
        ",\"modelled\":{\"soc\":\"%s\",\"cycles\":%.0f,\"us\":%.3f,\"roofline_us\":%.3f,\"ratio\":%.3f,\"bound\":\"%"
        "s\",",
        soc->name, cycles, cycles / soc->mhz, roof / soc->mhz, roof > 0 ? cycles / roof : 0.0, bound.c_str());
    out += "\"busy_cycles_max\":" + numbers(busy_max, "%.0f") + ",\"busy_cycles_sum\":" + numbers(busy_sum, "%.0f") +
           ",\"critical_path_cycles\":" + numbers(path, "%.0f");
    out += Format(
        ",\"bytes\":{\"hbm_read\":%llu,\"l2_read\":%llu,\"gm_write\":%llu,\"l1_to_l0\":%llu,\"l0c_out\":%llu},\"macs\":"
        "%.0f}",
        static_cast<unsigned long long>(hbm), static_cast<unsigned long long>(l2),
        static_cast<unsigned long long>(written), static_cast<unsigned long long>(l1_l0),
        static_cast<unsigned long long>(l0c), macs);
  }
  return out + "}";
}

inline void WriteTrace(Machine& machine, const char* path) {
  std::ofstream file(path);
  const Soc* soc = FindSoc(machine.options.soc);
  const double mhz = soc ? soc->mhz : 1850;
  file << "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"time\":\"modelled\"},\"traceEvents\":[";
  bool first = true;
  for (auto& core : machine.cores) {
    file << (first ? "" : ",")
         << Format("\n{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"args\":{\"name\":%s}}", core->index,
                   Quote(core->name).c_str());
    first = false;
    for (int p = 0; p < kPipes; ++p)
      if (core->instructions[p])
        file << Format(",\n{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"%s\"}}",
                       core->index, p, PipeName(p));
  }
  for (const Record& record : machine.records)
    file << Format(",\n{\"ph\":\"X\",\"name\":%s,\"pid\":%d,\"tid\":%d,\"ts\":%.4f,\"dur\":%.4f,\"args\":{\"at\":%s}}",
                   Quote(machine.SiteName(record.site)).c_str(), record.core, record.pipe, record.start / mhz,
                   (record.end - record.start) / mhz, Quote(machine.SiteText(record.site)).c_str());
  file << "\n]}\n";
}

}  // namespace ascendc_emulator

#endif  // ASCENDC_EMULATOR_TRACE_H_
