// The cycle model: documented rates per pipe, start-up costs, and dependencies through the same flags that order the
// data. Its results are always called modelled. Sources: 附录/Cube指令理论性能汇总.md, 附录/Vector指令理论性能汇总.md,
// tests/perf/{mmad,load_data,fixpipe}_perf of asc-devkit, 优化L2-Cache切分.md, and the platform files for the rates to
// GM.
#ifndef ASCENDC_EMULATOR_CYCLES_H_
#define ASCENDC_EMULATOR_CYCLES_H_

#include <cstdint>
#include <string>

namespace ascendc_emulator {

// Both have 24 AIC and 48 AIV at 1850 MHz; an A3 package is two such dies, and each die is a device.
struct Soc {
  const char* name;
  int aic;
  double mhz;
};
inline const Soc* FindSoc(const std::string& name) {
  static const Soc kSocs[] = {{"910B1", 24, 1850}, {"910_9391", 24, 1850}};
  for (const Soc& soc : kSocs)
    if (name == soc.name) return &soc;
  return nullptr;
}

// Bytes per cycle and core.
constexpr double kL2Read = 110, kL2Write = 86, kDdr = 32, kUbToGm = 64;
constexpr double kL1ToL0a = 256, kL1ToL0b = 128, kL1ToBuffer = 32, kUbToUb = 256;
constexpr double kFixpipeElements = 64;  // elements per cycle out of L0C
// Start-up cycles: what an instruction takes beside its data. They are hidden when the pipe is already streaming.
constexpr double kMmadHead = 21, kMte1Head = 28, kFixpipeHead = 20;
// These are not documented. They are round figures of the size that profiles show.
constexpr double kVectorHead = 16, kVectorIssue = 2, kScalarAccess = 20, kCrossCore = 150;
// One scalar instruction issues an instruction to a pipe and computes its arguments.
constexpr double kIssue = 4;

// Costs on which public sources do not agree, at their optimistic end. A launch may ask for other figures.
struct GmCosts {
  double latency = 500;        // cycles until a DMA to or from GM answers; 1400 in the cost model of PyPTO 0.2.0
  double issue = 24;           // cycles until the engine accepts the next request, beside its data; not documented
  double hbm_gb_per_s = 1600;  // the L2 splitting guide; 970 for weights in a guide of cann-recipes-infer
};

// The cost of one instruction: its pipe is taken for `busy` cycles, and `head` cycles later the result is there.
struct Cost {
  double busy = 0, head = 0;
};

}  // namespace ascendc_emulator

#endif  // ASCENDC_EMULATOR_CYCLES_H_
