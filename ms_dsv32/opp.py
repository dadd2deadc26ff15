"""Custom operator packages of CANN: where they are and which operators they hold. None of their code is run.

A package is a folder ``vendors/<vendor>`` with ``op_api/lib/libcust_opapi.so``, whose ``aclnn<Op>`` and
``aclnn<Op>GetWorkspaceSize`` MindSpore calls. MindSpore searches the folders of ``ASCEND_CUSTOM_OPP_PATH`` in their
order. ``op_api/include`` has a header for each operator. Sources: CANN's documentation of custom operator packages;
MindSpore's ``acl_ir/op_api_convert.h``.
"""

from __future__ import annotations

import os
import platform
import re
import struct
from pathlib import Path

from ms_dsv32 import cann, op_info

# e_machine of an ELF header, by the name that uname gives the machine.
_MACHINES = {"x86_64": 62, "aarch64": 183}
_ELF_HEADER = 64  # bytes
_SHT_DYNSYM = 11
_INCLUDES = ("op_api/include", "op_api/include/aclnnop")
"""Folders of a package's headers: CANN's build of a custom package uses the first, vllm-ascend the second."""
_C_TYPES = {"float": "double", "int": "int64_t"}
"""The C type of an attribute in ``aclnn_<stem>.h``. CANN's generator makes a Float attribute a double."""


def packages() -> list[Path]:
    """The package folders in the order in which they are searched: `cann.VENDOR`, which ``ms_dsv32.ops`` puts first,
    and the others of ``ASCEND_CUSTOM_OPP_PATH``.
    """
    listed = [Path(entry) for entry in os.environ.get("ASCEND_CUSTOM_OPP_PATH", "").split(":") if entry]
    return [cann.VENDOR, *(package for package in listed if package != cann.VENDOR)]


def library(package: Path) -> Path:
    """The library with the entries of a package. It need not exist."""
    return package / cann.OP_API


def package_of(path: Path) -> Path:
    """The package of a `library`."""
    return path.parents[len(cann.OP_API.parts) - 1]


def entries(op: str) -> tuple[str, str]:
    """The two functions of an operator: the one that launches it, and the one that tells its workspace."""
    name = f"aclnn{op_info.load(op).cann_type}"
    return name, f"{name}GetWorkspaceSize"


def find(op: str) -> Path:
    """The first library, in the order of `packages`, that has both entries of an operator.

    Raises:
        RuntimeError: no library has both. The text says which library lacks what, or that there is none.
    """
    reasons = []
    for path in map(library, packages()):
        if not path.is_file():
            continue
        try:
            absent = sorted(set(entries(op)) - dynamic_symbols(path))
        except ValueError as error:
            reasons.append(str(error))
            continue
        if not absent:
            return path
        reasons.append(f"{path} has no symbol {absent[0]}")
    reason = "; ".join(reasons) or f"there is no {library(cann.VENDOR)}, and ASCEND_CUSTOM_OPP_PATH names no other"
    raise RuntimeError(f"{op}: no Ascend kernel: {reason}; run python -m ms_dsv32.doctor")


def parameters(info: op_info.OpInfo) -> list[str]:
    """The parameters of ``aclnn<Op>GetWorkspaceSize`` as C types: inputs, attributes, new outputs, CANN's own two."""
    inputs, outputs = (["aclTensor*"] * len(args) for args in (info.inputs, info.kernel_outputs))
    return [*inputs, *(_C_TYPES[a.type] for a in info.ascend_attrs), *outputs, "uint64_t*", "aclOpExecutor**"]


def require_interface(info: op_info.OpInfo, path: Path) -> None:
    """Checks by the header of a library's package that an operator has the parameters that we pass.

    A library tells names only. A function with other parameters would misread its arguments.

    Args:
        path: the library, as `library` gives it.

    Raises:
        RuntimeError: there is no such header, or it declares other parameters.
    """
    want, function = parameters(info), entries(info.name)[1]
    headers = [package_of(path) / folder / f"aclnn_{info.cann_stem}.h" for folder in _INCLUDES]
    header = next(filter(Path.is_file, headers), None)
    got = _declared(header.read_text(encoding="utf-8", errors="replace"), function) if header else []
    if header is None:
        text = f"{path} has {function}, but there is no {headers[0]}"
    elif not got:
        text = f"{path} has {function}, but {header} does not declare it"
    elif got != want:
        text = f"{function} of {path} takes ({', '.join(got)}), expected ({', '.join(want)}): see {header}"
    else:
        return
    todo = "build the Ascend operators again, or take that package out of ASCEND_CUSTOM_OPP_PATH, see docs/ascend.md"
    raise RuntimeError(f"{info.name}: no Ascend kernel: {text}; {todo}")


def _declared(header: str, function: str) -> list[str]:
    """The C types of a function's parameters without ``const``, or nothing if the header does not declare it."""
    code = re.sub(r"/\*.*?\*/|//[^\n]*", " ", header, flags=re.DOTALL)
    found = re.search(rf"\baclnnStatus\s+{function}\s*\(([^)]*)\)", code)
    if found is None:
        return []
    types = [re.match(r"\s*(?:const\s+)?(\w+)\s*(?:const\s*)?([\s*]*)", parameter) for parameter in found[1].split(",")]
    return [re.sub(r"\s", "", t[1] + t[2]) for t in types if t]


def dynamic_symbols(path: Path) -> frozenset[str]:
    """Names of the functions and objects that a shared library defines, read from the file without loading it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a 64-bit little-endian ELF file for this machine, or it is damaged.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < _ELF_HEADER:
        raise ValueError(f"{path} is no 64-bit little-endian ELF file")
    # Elf64_Ehdr: e_machine at 18, e_shoff at 40, e_shentsize and e_shnum at 58.
    (machine,) = struct.unpack_from("<H", data, 18)
    if machine != _MACHINES.get(platform.machine(), machine):
        built = next((name for name, number in _MACHINES.items() if number == machine), f"ELF machine {machine}")
        raise ValueError(f"{path} was built for {built}, this machine is {platform.machine()}")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    found = set()
    try:
        # Elf64_Shdr: sh_name, _type, _flags, _addr, _offset, _size, _link, _info, _addralign, _entsize.
        sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
        for _, kind, _, _, offset, length, link, _, _, step in sections:
            if kind != _SHT_DYNSYM:
                continue
            strings = sections[link][4]
            for start in range(offset, offset + length, step):
                # Elf64_Sym: st_name, _info, _other, _shndx, _value, _size.
                name, _, _, section, _, _ = struct.unpack_from("<IBBHQQ", data, start)
                if section:  # 0: not defined here
                    begin = strings + name
                    found.add(data[begin : data.index(b"\0", begin)].decode())
    except (struct.error, IndexError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return frozenset(found)
