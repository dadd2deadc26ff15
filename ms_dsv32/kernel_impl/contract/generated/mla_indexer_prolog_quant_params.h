// Generated from op_info/mla_indexer_prolog_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include "ms_dsv32/kernel_impl/contract/generated/mla_prolog_quant_params.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_prolog_quant_params.h"

namespace ms_dsv32 {

// The parameters of its parts. Those that no caller sees are null.
struct MlaIndexerPrologQuantParams {
  MlaPrologQuantParams mla;
  LightningIndexerPrologQuantParams indexer;
};

}  // namespace ms_dsv32
