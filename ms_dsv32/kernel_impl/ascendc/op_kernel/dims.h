// Dimensions of the model, and of an AI core, that tiling functions and kernels share. No AscendC header: host code
// includes it too.
#ifndef MS_DSV32_ASCENDC_DIMS_H_
#define MS_DSV32_ASCENDC_DIMS_H_

#include <cstdint>

namespace ms_dsv32::ascendc {

// AIVs of an AI core: kernels are MIX 1:2. CANN names the call that returns it differently from version to version.
constexpr uint32_t kVectorsPerCore = 2;
// More AI cores than any device of arch 2201 has. A multiple of 4, less 1, for the alignment of tiling data that have
// numbers of each core.
constexpr uint32_t kMostCores = 31;
// Bytes of UB that a kernel may use. The runtime takes 256 of the 192 KiB from MIX kernels.
constexpr uint32_t kUbBytes = 192 * 1024 - 256;
// Rows of a fractal, and columns of a fractal of 2-byte values. The cube computes whole fractals, so rows are dealt to
// cores and AIVs in fractals too.
constexpr uint32_t kFractal = 16;

constexpr uint32_t kH = 7168;
constexpr uint32_t kQLoraRank = 1536;
constexpr uint32_t kKvLoraRank = 512;
constexpr uint32_t kRopeDim = 64;
constexpr uint32_t kQkNopeHeadDim = 128;
constexpr uint32_t kVHeadDim = 128;
constexpr uint32_t kQHeadDim = kQkNopeHeadDim + kRopeDim;  // 192
constexpr uint32_t kKeyDim = kKvLoraRank + kRopeDim;       // 576: values of a key, and columns of w_dkv_kr
constexpr uint32_t kScaleGroup = 128;                      // values of a latent key that share a scale
constexpr uint32_t kKScaleGroups = kKvLoraRank / kScaleGroup;
constexpr uint32_t kIdxNHeads = 64;
constexpr uint32_t kIdxHeadDim = 128;
// The two factors of the head weights: idx_n_heads ** -0.5 and idx_head_dim ** -0.5.
constexpr float kIdxNHeadsScale = 0.125f;
constexpr float kIdxHeadDimScale = 0.08838834764831845f;
static_assert(kIdxNHeadsScale * kIdxNHeadsScale * kIdxNHeads == 1);

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_DIMS_H_
