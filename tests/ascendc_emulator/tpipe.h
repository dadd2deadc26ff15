// TPipe and TBuf: which parts of local memories and which events a kernel has taken.
#ifndef ASCENDC_EMULATOR_TPIPE_H_
#define ASCENDC_EMULATOR_TPIPE_H_

#include "tensor.h"

namespace AscendC {

template <TPosition position>
class TBuf {
  static_assert(position != TPosition::GM && position != TPosition::CO2, "a TBuf is in local memory");

 public:
  template <class T>
  LocalTensor<T> Get(Loc loc = Loc::Here()) {
    return GetWithOffset<T>(static_cast<uint32_t>(bytes_ / sizeof(T)), 0, loc);
  }
  template <class T>
  LocalTensor<T> Get(uint32_t length, Loc loc = Loc::Here()) {
    return GetWithOffset<T>(length, 0, loc);
  }
  template <class T>
  LocalTensor<T> GetWithOffset(uint32_t length, uint32_t offset, Loc loc = Loc::Here()) {
    if (bytes_ == 0) ascendc_emulator::M().Fail("resource", loc, "TBuf.Get before TPipe.InitBuffer");
    if (uint64_t{length} * sizeof(T) + offset > bytes_)
      ascendc_emulator::M().Fail(
          "overflow", loc,
          ascendc_emulator::Format("TBuf.Get: %u elements of %zu bytes from byte %u, the buffer has %u bytes", length,
                                   sizeof(T), offset, bytes_));
    LocalTensor<T> tensor;
    tensor.Adopt(position, int64_t{address_} + offset, int64_t{length} * static_cast<int64_t>(sizeof(T)));
    return tensor;
  }
  void Place(uint32_t address, uint32_t bytes) { address_ = address, bytes_ = bytes; }

 private:
  uint32_t address_ = 0, bytes_ = 0;
};

// TPipe takes M_MTE1 events 0-2 on an AIC while it lives, and ends the atomic mode (InitSocState.md).
class TPipe {
 public:
  explicit TPipe(Loc loc = Loc::Here()) : loc_(loc) {
    ascendc_emulator::Core& core = *ascendc_emulator::t_core;
    if (core.pipe_object != nullptr)
      ascendc_emulator::M().Fail("resource", loc, "a second TPipe while the first one lives");
    core.pipe_object = this;
    core.atomic = 0;
    std::fill(std::begin(core.allocated), std::end(core.allocated), 0);
    Own(true);
  }
  TPipe(const TPipe&) = delete;
  TPipe& operator=(const TPipe&) = delete;
  ~TPipe() noexcept(false) {
    if (std::uncaught_exceptions() == 0) Destroy();
    ascendc_emulator::t_core->pipe_object = nullptr;
  }

  template <TPosition position>
  bool InitBuffer(TBuf<position>& buffer, uint32_t length, Loc loc = Loc::Here()) {
    using namespace ascendc_emulator;
    const Kind kind = KindOf(position);
    const MemoryModel& model = Model(kind);
    Core& core = *t_core;
    if (core.memory[static_cast<int>(kind)] == nullptr)
      M().Fail("core_type", loc, Format("InitBuffer: %s has no %s", core.name.c_str(), model.name));
    if (length == 0) M().Fail("resource", loc, "InitBuffer: length 0");
    if (++buffers_ > 64) M().Fail("resource", loc, "InitBuffer: more than 64 buffers in one TPipe");
    const uint64_t size = (uint64_t{length} + 31) / 32 * 32;
    uint32_t& used = core.allocated[static_cast<int>(kind)];
    if (used + size > model.usable)
      M().Fail("overflow", loc,
               Format("InitBuffer: %llu bytes of %s on top of %u, a kernel has %u",
                      static_cast<unsigned long long>(size), model.name, used, model.usable));
    buffer.Place(used, static_cast<uint32_t>(size));
    used += static_cast<uint32_t>(size);
    return true;
  }

  template <HardEvent event>
  int8_t AllocEventID(Loc loc = Loc::Here()) {
    uint8_t& taken = events_[static_cast<int>(event)];
    for (int id = First(event); id < 8; ++id)
      if (!(taken >> id & 1)) {
        taken = static_cast<uint8_t>(taken | 1 << id);
        return static_cast<int8_t>(id);
      }
    ascendc_emulator::M().Fail("flag", loc, "AllocEventID: all ids of the event are taken");
  }
  template <HardEvent event>
  void ReleaseEventID(int8_t id, Loc loc = Loc::Here()) {
    uint8_t& taken = events_[static_cast<int>(event)];
    if (id < 0 || id >= 8 || !(taken >> id & 1))
      ascendc_emulator::M().Fail("flag", loc, "ReleaseEventID: the id was not allocated");
    taken = static_cast<uint8_t>(taken & ~(1 << id));
  }
  int8_t FetchEventID(HardEvent event, Loc loc = Loc::Here()) {
    for (int id = First(event); id < 8; ++id)
      if (!(events_[static_cast<int>(event)] >> id & 1)) return static_cast<int8_t>(id);
    ascendc_emulator::M().Fail("flag", loc, "FetchEventID: all ids of the event are taken");
  }
  template <HardEvent event>
  int8_t FetchEventID(Loc loc = Loc::Here()) {
    return FetchEventID(event, loc);
  }

  void Reset() {
    std::fill(std::begin(ascendc_emulator::t_core->allocated), std::end(ascendc_emulator::t_core->allocated), 0),
        buffers_ = 0;
  }
  void Destroy() {
    if (destroyed_) return;
    destroyed_ = true;
    ascendc_emulator::M().Barrier(PIPE_ALL, loc_);
    Own(false);
    ascendc_emulator::t_core->pipe_object = nullptr;
  }

 private:
  static int First(HardEvent event) {
    return event == HardEvent::M_MTE1 && ascendc_emulator::t_core->type == ascendc_emulator::CoreType::kAic ? 3 : 0;
  }
  void Own(bool set) {
    if (ascendc_emulator::t_core->type != ascendc_emulator::CoreType::kAic) return;
    ascendc_emulator::Machine::tpipe_flags = true;
    for (int id = 0; id < 3; ++id) {
      if (set)
        ascendc_emulator::M().SetFlag(static_cast<int>(HardEvent::M_MTE1), id, loc_);
      else
        ascendc_emulator::M().WaitFlag(static_cast<int>(HardEvent::M_MTE1), id, loc_);
    }
    ascendc_emulator::Machine::tpipe_flags = false;
  }
  Loc loc_;
  int buffers_ = 0;
  bool destroyed_ = false;
  uint8_t events_[static_cast<int>(HardEvent::MAX)] = {};
};

// GetTPipePtr.md
inline TPipe* GetTPipePtr(Loc loc = Loc::Here()) {
  if (ascendc_emulator::t_core->pipe_object == nullptr)
    ascendc_emulator::M().Fail("resource", loc, "GetTPipePtr: there is no TPipe");
  return static_cast<TPipe*>(ascendc_emulator::t_core->pipe_object);
}

}  // namespace AscendC

#endif  // ASCENDC_EMULATOR_TPIPE_H_
