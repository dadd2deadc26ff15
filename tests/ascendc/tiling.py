"""Calls the tiling functions of the kernels: C++ that host code shares, compiled once for the tests."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
from pathlib import Path

from emulator import building, cache_directory, compiler, last_flags

ROOT = Path(__file__).resolve().parents[2]
OP_KERNEL = ROOT / "ms_dsv32" / "kernel_impl" / "ascendc" / "op_kernel"
OP_HOST = OP_KERNEL.with_name("op_host")

_PROLOG_SOURCE = """
#include <cstring>
#include "ms_dsv32/kernel_impl/ascendc/op_host/prolog_make_tiling.h"
using namespace ms_dsv32::ascendc;
extern "C" {
uint64_t tiling_size() { return sizeof(PrologTiling); }
// `op` chooses the operator: 0 mla_prolog_quant, 1 lightning_indexer_prolog_quant, 2 mla_indexer_prolog_quant.
const char* make_tiling(int op, uint32_t t, uint32_t n_q, uint64_t cache_rows, float epsilon_cq, float epsilon_ckv,
                        float epsilon_k, uint32_t cores, void* bytes, uint64_t* facts) {
  const Platform platform = Arch2201(cores);
  PrologTiling out{};
  const char* no =
      MakePrologTiling({t, n_q, cache_rows, op != 1, op != 0, epsilon_cq, epsilon_ckv, epsilon_k}, platform, out);
  std::memcpy(bytes, &out, sizeof(out));
  facts[0] = out.cores;
  facts[1] = out.workspace_bytes;
  return no;
}
}
"""
PROLOGS = ("mla_prolog_quant", "lightning_indexer_prolog_quant", "mla_indexer_prolog_quant")


def library(source: str) -> ctypes.CDLL:
    """`source`, which may include the headers of op_host and op_kernel, as a library."""
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", f"-I{ROOT}", *last_flags()]
    digest = hashlib.sha256("\0".join([source, *compiler(), *flags]).encode())
    for path in sorted([*OP_HOST.glob("*.h"), *OP_KERNEL.glob("*.h")]):
        digest.update(path.read_bytes())
    target = cache_directory() / f"tiling-{digest.hexdigest()[:20]}.so"
    with building(target):
        if not target.exists():
            made = target.with_suffix(".tmp")
            command = [*compiler(), *flags, "-shared", "-x", "c++", "-", "-o", str(made)]
            subprocess.run(command, input=source, text=True, check=True)
            made.replace(target)
    return ctypes.CDLL(str(target))


def prolog_tiling(
    op: str,
    t: int,
    n_q: int,
    cache_rows: int,
    cores: int,
    *,
    epsilon_cq: float = 1e-5,
    epsilon_ckv: float = 1e-5,
    epsilon_k: float = 1e-6,
) -> tuple[bytes, int, int]:
    """Tiling data, AI cores and bytes of workspace of a prolog."""
    prologs = library(_PROLOG_SOURCE)
    prologs.make_tiling.restype = ctypes.c_char_p
    prologs.make_tiling.argtypes = (
        [ctypes.c_int, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint64]
        + [ctypes.c_float] * 3
        + [ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p]
    )
    prologs.tiling_size.restype = ctypes.c_uint64
    data = ctypes.create_string_buffer(prologs.tiling_size())
    facts = (ctypes.c_uint64 * 2)()
    refusal = prologs.make_tiling(
        PROLOGS.index(op), t, n_q, cache_rows, epsilon_cq, epsilon_ckv, epsilon_k, cores, data, facts
    )
    if refusal is not None:
        raise ValueError(refusal.decode())
    return data.raw, int(facts[0]), int(facts[1])
