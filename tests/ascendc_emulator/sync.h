// Flags, barriers, and the identity of the core.
#ifndef ASCENDC_EMULATOR_SYNC_H_
#define ASCENDC_EMULATOR_SYNC_H_

#include "tensor.h"

namespace ascendc_emulator {
constexpr uint64_t kReservedWorkspace = uint64_t{16} << 20;
}

namespace AscendC {

// SetFlag-WaitFlag(ISASI).md
template <HardEvent event>
inline void SetFlag(int32_t event_id, Loc loc = Loc::Here()) {
  ascendc_emulator::M().SetFlag(static_cast<int>(event), event_id, loc);
}
template <HardEvent event>
inline void WaitFlag(int32_t event_id, Loc loc = Loc::Here()) {
  ascendc_emulator::M().WaitFlag(static_cast<int>(event), event_id, loc);
}

// PipeBarrier(ISASI).md
template <pipe_t pipe>
inline void PipeBarrier(Loc loc = Loc::Here()) {
  static_assert(pipe != PIPE_S, "PipeBarrier does not support PIPE_S");
  ascendc_emulator::M().Barrier(pipe, loc);
}

// CrossCoreSetFlag(ISASI).md
template <uint8_t mode, pipe_t pipe>
inline void CrossCoreSetFlag(int64_t flag_id, Loc loc = Loc::Here()) {
  static_assert(mode <= 2, "arch 2201 has modes 0, 1 and 2");
  static_assert(pipe != PIPE_S && pipe != PIPE_ALL, "CrossCoreSetFlag does not support PIPE_S and PIPE_ALL");
  ascendc_emulator::M().CrossSet(mode, pipe, flag_id, loc);
}
// CrossCoreWaitFlag(ISASI).md: mode and pipe have no effect on arch 2201.
template <uint8_t mode = 0, pipe_t pipe = PIPE_S>
inline void CrossCoreWaitFlag(int64_t flag_id, Loc loc = Loc::Here()) {
  ascendc_emulator::M().CrossWait(flag_id, loc);
}
template <bool is_aiv_only = true>
inline void SyncAll(Loc loc = Loc::Here()) {
  ascendc_emulator::M().SyncAll(is_aiv_only, loc);
}

// 系统资源与变量: an AIV counts over all AIVs, an AIC over all AICs.
inline int64_t GetBlockIdx() {
  const ascendc_emulator::Core& core = *ascendc_emulator::t_core;
  return core.type == ascendc_emulator::CoreType::kAic ? core.block
                                                       : core.block * ascendc_emulator::M().ratio + core.sub;
}
inline int64_t GetBlockNum() { return ascendc_emulator::M().options.blocks; }
inline int64_t GetSubBlockIdx() { return ascendc_emulator::t_core->sub; }
inline int64_t GetSubBlockNum() {
  return ascendc_emulator::t_core->type == ascendc_emulator::CoreType::kAic ? 1 : ascendc_emulator::M().ratio;
}
inline int64_t GetTaskRatio() { return GetSubBlockNum(); }

// GetUserWorkspace.md: the user's part begins after the 16 MiB that the library reserves on arch 2201. Only the user's
// part has memory here, so a kernel that forgets the call is caught.
inline GM_ADDR GetUserWorkspace(GM_ADDR workspace) {
  return reinterpret_cast<GM_ADDR>(reinterpret_cast<uintptr_t>(workspace) + ascendc_emulator::kReservedWorkspace);
}

}  // namespace AscendC

namespace ascendc_emulator {

inline void CheckKernelType(int type, Loc loc) {
  if (type != M().options.kernel_type)
    M().Fail("argument", loc,
             Format("KERNEL_TASK_TYPE_DEFAULT(%d) but the launch is of type %d", type, M().options.kernel_type));
}

template <class S>
inline S ReadTiling(const uint8_t* tiling, Loc loc) {
  static_assert(std::is_trivially_copyable_v<S>, "tiling data is a plain struct");
  static_assert(sizeof(S) % 8 == 0, "the host copies tiling data in 8-byte words");
  const int gm = M().FindGm(tiling);
  if (gm < 0 || M().gm[static_cast<size_t>(gm)]->size < sizeof(S))
    M().Fail("argument", loc,
             Format("GET_TILING_DATA: the struct has %zu bytes, the launch gave %llu", sizeof(S),
                    static_cast<unsigned long long>(gm < 0 ? 0 : M().gm[static_cast<size_t>(gm)]->size)));
  S data;
  std::memcpy(&data, tiling, sizeof(S));
  return data;
}

}  // namespace ascendc_emulator

#define ASCEND_IS_AIC (::ascendc_emulator::t_core->type == ::ascendc_emulator::CoreType::kAic)
#define ASCEND_IS_AIV (::ascendc_emulator::t_core->type == ::ascendc_emulator::CoreType::kAiv)
#define KERNEL_TASK_TYPE_DEFAULT(type) ::ascendc_emulator::CheckKernelType(type, ::ascendc_emulator::Loc::Here())
#define TILING_KEY_IS(key) (::ascendc_emulator::M().options.tiling_key == (key))
// A kernel calls these in its entry, before GET_TILING_DATA, as CANN's tools expect.
#define REGISTER_TILING_DEFAULT(type) using AscendcEmulatorDefaultTiling = type
#define GET_TILING_DATA_WITH_STRUCT(type, name, tiling) \
  const type name = ::ascendc_emulator::ReadTiling<type>(tiling, ::ascendc_emulator::Loc::Here())
#define GET_TILING_DATA(name, tiling) GET_TILING_DATA_WITH_STRUCT(AscendcEmulatorDefaultTiling, name, tiling)

#endif  // ASCENDC_EMULATOR_SYNC_H_
