// Stand-in for CANN's header of the same name: see op_def_registry.h.
#ifndef MS_DSV32_TESTS_STUBS_PLATFORM_ASCENDC_H_
#define MS_DSV32_TESTS_STUBS_PLATFORM_ASCENDC_H_

#include "register/op_def_registry.h"

namespace platform_ascendc {

enum class CoreMemType { L0_A = 0, L0_B = 1, L0_C = 2, L1 = 3, L2 = 4, UB = 5 };

class PlatformAscendC {
 public:
  explicit PlatformAscendC(fe::PlatFormInfos* infos) : infos_(infos) {}
  uint32_t GetCoreNumAic() const { return infos_->aic; }
  uint32_t GetCoreNumAiv() const { return infos_->aiv; }
  uint32_t GetLibApiWorkSpaceSize() const { return 16 * 1024 * 1024; }  // of arch 2201
  void GetCoreMemSize(const CoreMemType& type, uint64_t& size) const {
    size = type == CoreMemType::L0_A   ? infos_->l0a
           : type == CoreMemType::L0_B ? infos_->l0b
           : type == CoreMemType::L0_C ? infos_->l0c
           : type == CoreMemType::L1   ? infos_->l1
           : type == CoreMemType::UB   ? infos_->ub
                                       : 0;
  }

 private:
  fe::PlatFormInfos* infos_;
};

}  // namespace platform_ascendc

#endif  // MS_DSV32_TESTS_STUBS_PLATFORM_ASCENDC_H_
