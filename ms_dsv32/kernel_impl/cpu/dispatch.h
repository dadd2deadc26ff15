// The kernels of one instruction set, chosen once when the library is first used.
#pragma once

namespace ms_dsv32::cpu {

struct MlaPrologQuantParams;
struct LightningIndexerPrologQuantParams;
struct MlaIndexerPrologQuantParams;
struct SparseFlashAttentionQuantParams;
struct LightningIndexerQuantParams;
struct MlaEpilogQuantParams;

struct KernelTable {
  const char* isa;
  bool (*supported)();
  void (*mla_prolog_quant)(const MlaPrologQuantParams&);
  void (*lightning_indexer_prolog_quant)(const LightningIndexerPrologQuantParams&);
  void (*mla_indexer_prolog_quant)(const MlaIndexerPrologQuantParams&);
  void (*sparse_flash_attention_quant)(const SparseFlashAttentionQuantParams&);
  void (*lightning_indexer_quant)(const LightningIndexerQuantParams&);
  void (*mla_epilog_quant)(const MlaEpilogQuantParams&);
};

// The best table that this CPU supports, or the one that MS_DSV32_CPU_ISA names. Throws std::runtime_error if that name
// is unknown or the CPU lacks its instructions: a forced path is never replaced silently.
const KernelTable& Kernels();

// Names of all tables in this library, best first, separated by ','. `supported_only` leaves out what this CPU lacks.
const char* IsaNames(bool supported_only);

}  // namespace ms_dsv32::cpu
