// Generated from op_info/ by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_prolog_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_epilog_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_indexer_prolog_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_prolog_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/sparse_flash_attention_quant.h"
#include "ms_dsv32/kernel_impl/contract/generated/sparse_attention_step.h"

// F(Entry, name) for each operator that has a kernel.
#define MS_DSV32_KERNELS(F) \
  F(LightningIndexerPrologQuant, lightning_indexer_prolog_quant) \
  F(LightningIndexerQuant, lightning_indexer_quant) \
  F(MlaEpilogQuant, mla_epilog_quant) \
  F(MlaIndexerPrologQuant, mla_indexer_prolog_quant) \
  F(MlaPrologQuant, mla_prolog_quant) \
  F(SparseFlashAttentionQuant, sparse_flash_attention_quant)

// F(Entry, name) for what the library has beside them.
#define MS_DSV32_INTERNAL(F) \
  F(SparseAttentionStep, sparse_attention_step)
