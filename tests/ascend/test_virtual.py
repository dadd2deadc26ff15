"""The virtual Ascend notices what it is there to notice: each fault is seeded once, through CANN's own functions."""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import stand_in
import virtual
from emulator import HERE as EMULATOR
from emulator import compiler

VIRTUAL = Path(virtual.__file__).resolve().parent
FLOAT16, INT8, INT32, ND, NZ = 1, 2, 3, 2, 29  # aclDataType, aclFormat
TO_DEVICE, TO_HOST = 1, 2  # aclrtMemcpyKind
PARAM_INVALID, NO_CONTEXT, NO_STREAM, NO_MEMORY, AICORE = 107000, 107002, 107003, 207001, 507015  # aclError
NULL, BAD_TENSOR = 161001, 161002  # of an aclnn function
POISON = 0xCD
pytestmark = pytest.mark.usefixtures("only_virtual")


@functools.cache
def acl() -> ctypes.CDLL:
    library = ctypes.CDLL("libascendcl.so")
    library.aclGetRecentErrMsg.restype = ctypes.c_char_p
    return library


@functools.cache
def executors() -> ctypes.CDLL:
    library = ctypes.CDLL("libnnopbase.so")
    library.aclCreateTensor.restype = ctypes.c_void_p
    return library


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    made = tmp_path_factory.mktemp("faults") / "faults.so"
    flags = [*stand_in.FLAGS, "-shared", f"-I{stand_in.SOURCES}", f"-I{EMULATOR}", f"-L{stand_in.build() / 'lib64'}"]
    source = VIRTUAL / "faults.cc"
    subprocess.run([*compiler(), *flags, str(source), "-o", str(made), "-lnnopbase", "-lascendcl"], check=True)
    return ctypes.CDLL(str(made))


class Memory:
    """Bytes on the device."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.address = ctypes.c_void_p()
        assert acl().aclrtMalloc(ctypes.byref(self.address), ctypes.c_size_t(size), 0) == 0

    def read(self) -> np.ndarray:
        host = np.empty(self.size, np.uint8)
        size = ctypes.c_size_t(self.size)
        assert acl().aclrtMemcpy(ctypes.c_void_p(host.ctypes.data), size, self.address, size, TO_HOST) == 0
        return host


@pytest.fixture
def memory() -> Iterator[Memory]:
    assert acl().aclrtSetDevice(0) == 0
    acl().aclGetRecentErrMsg()  # what the tests before have left
    made = Memory(300)
    yield made
    acl().aclrtFree(made.address)
    virtual.put("FAILURES", 0)  # those that a test has asked for


def tensor(
    memory: Memory,
    view: tuple[int, ...] = (300,),
    strides: tuple[int, ...] = (1,),
    offset: int = 0,
    storage: tuple[int, ...] = (300,),
    dtype: int = INT8,
    form: int = ND,
    address: int | None = None,
) -> ctypes.c_void_p:
    lists = [(ctypes.c_int64 * len(values))(*values) for values in (view, strides, storage)]
    where = ctypes.c_void_p(memory.address.value if address is None else address)
    made = executors().aclCreateTensor(
        *(lists[0], ctypes.c_uint64(len(view)), dtype, lists[1], ctypes.c_int64(offset), form),
        *(lists[2], ctypes.c_uint64(len(storage)), where),
    )
    return ctypes.c_void_p(made)


def call(faults: ctypes.CDLL, fault: str, given: ctypes.c_void_p) -> int:
    """The status of the first function that has one: to prepare, to launch, to synchronise."""
    size, executor = ctypes.c_uint64(), ctypes.c_void_p()
    status = faults.aclnnFaultGetWorkspaceSize(fault.encode(), given, ctypes.byref(size), ctypes.byref(executor))
    if status == 0:
        workspace = Memory(size.value)
        status = faults.aclnnFault(workspace.address, size, executor, None)
        later = acl().aclrtSynchronizeStream(None)
        acl().aclrtFree(workspace.address)
        status = status or later
    executors().aclDestroyTensor(given)
    return int(status)


@contextmanager
def launched(
    faults: ctypes.CDLL, given: ctypes.c_void_p, stream: ctypes.c_void_p | None, status: int, fault: str = "none"
) -> Iterator[ctypes.c_void_p]:
    """An executor, after a launch that has returned `status`; its workspace lives until the end of the block."""
    size, executor = ctypes.c_uint64(), ctypes.c_void_p()
    prepare = (ctypes.byref(size), ctypes.byref(executor))
    assert faults.aclnnFaultGetWorkspaceSize(fault.encode(), given, *prepare) == 0
    workspace = Memory(size.value)
    assert faults.aclnnFault(workspace.address, size, executor, stream) == status
    yield executor
    assert acl().aclrtSynchronizeStream(None) == 0
    acl().aclrtFree(workspace.address)


def test_memory_holds_nothing_at_first(memory: Memory) -> None:
    assert (memory.read() == POISON).all()


def test_an_operator_without_a_fault(memory: Memory, faults: ctypes.CDLL) -> None:
    assert call(faults, "none", tensor(memory)) == 0
    assert (memory.read() == 1).all()


@pytest.mark.parametrize("fault", ["silent", "workspace"])
def test_results_do_not_come_from_what_was_there(memory: Memory, faults: ctypes.CDLL, fault: str) -> None:
    """An operator writes nothing, or what it found in its workspace, after another one has left good results."""
    assert call(faults, "none", tensor(memory)) == 0
    assert call(faults, fault, tensor(memory, view=(64,))) == 0
    assert (memory.read()[:64] == POISON).all()


@pytest.mark.parametrize("size", [300, 512])  # 512 fill the unit of an allocation
def test_a_byte_behind_a_tensor(memory: Memory, faults: ctypes.CDLL, size: int) -> None:
    held = Memory(size)
    assert call(faults, "overflow", tensor(held, view=(size,), storage=(size,))) == AICORE
    assert b"Fault: bytes behind the end of a tensor have changed" in acl().aclGetRecentErrMsg()
    acl().aclrtFree(held.address)


def test_an_error_comes_late_and_once(memory: Memory, faults: ctypes.CDLL) -> None:
    assert call(faults, "fails", tensor(memory)) == AICORE
    assert b"Fault: the kernel has failed" in acl().aclGetRecentErrMsg()
    assert acl().aclrtSynchronizeStream(None) == 0
    assert acl().aclGetRecentErrMsg() is None
    assert call(faults, "none", tensor(memory)) == 0


def test_an_exception_is_an_error_of_the_device(memory: Memory, faults: ctypes.CDLL) -> None:
    assert call(faults, "throws", tensor(memory)) == AICORE
    assert b"Fault: exception: the kernel has thrown" in acl().aclGetRecentErrMsg()
    assert call(faults, "none", tensor(memory)) == 0


BAD = {
    "view beyond its storage": {"view": (301,)},
    "offset beyond its storage": {"offset": 1},
    "strides beyond its storage": {"view": (2, 2), "strides": (299, 2)},
    "negative axis": {"view": (-1,)},
    "negative stride": {"strides": (-1,)},
    "negative offset": {"offset": -1, "view": (2,)},
    "unknown dtype": {"dtype": 99},
    "unknown format": {"form": 3},
    "storage beyond its memory": {"storage": (1 << 22,), "view": (1 << 22,)},
    "address of the host": {"address": id(BAD_TENSOR)},
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_descriptor(memory: Memory, faults: ctypes.CDLL, what: str) -> None:
    assert call(faults, "none", tensor(memory, **BAD[what])) == BAD_TENSOR
    assert (memory.read() == POISON).all()


def test_copies_are_checked(memory: Memory) -> None:
    host = np.zeros(1 << 22, np.uint8)

    def copy(to: int | None, source: int | None, size: int, kind: int, capacity: int = 1 << 30) -> int:
        pointers = (ctypes.c_void_p(to), ctypes.c_size_t(capacity), ctypes.c_void_p(source), ctypes.c_size_t(size))
        status = acl().aclrtMemcpy(*pointers, kind)
        assert (status == 0) == (acl().aclGetRecentErrMsg() is None)
        return int(status)

    device = memory.address.value
    assert copy(device, host.ctypes.data, 300, TO_DEVICE) == 0
    assert copy(device, host.ctypes.data, 300, TO_HOST) == PARAM_INVALID  # the wrong way
    assert copy(host.ctypes.data, device, 300, TO_DEVICE) == PARAM_INVALID
    assert copy(device, host.ctypes.data, 300, TO_DEVICE, capacity=299) == PARAM_INVALID
    assert copy(device, host.ctypes.data, host.nbytes, TO_DEVICE) == PARAM_INVALID  # more than was allocated


def test_a_copy_from_the_device_is_late(memory: Memory) -> None:
    """Its stream waits before half of its tasks: the host does not see all copies until it synchronises."""
    stream, host = ctypes.c_void_p(), np.zeros((64, 300), np.uint8)
    assert acl().aclrtCreateStream(ctypes.byref(stream)) == 0
    size = ctypes.c_size_t(300)
    with virtual.option("DELAY_US", 100_000):
        for row in host:
            to = ctypes.c_void_p(row.ctypes.data)
            assert acl().aclrtMemcpyAsync(to, size, memory.address, size, TO_HOST, stream) == 0
        assert not host[-1].any()
    assert acl().aclrtSynchronizeStream(stream) == 0
    assert (host == POISON).all()
    assert acl().aclrtDestroyStream(stream) == 0


def test_a_stream_that_was_destroyed(memory: Memory, faults: ctypes.CDLL) -> None:
    stream, size, host = ctypes.c_void_p(), ctypes.c_size_t(300), np.zeros(300, np.uint8)
    assert acl().aclrtCreateStream(ctypes.byref(stream)) == 0
    assert acl().aclrtDestroyStream(stream) == 0
    assert acl().aclrtDestroyStream(stream) == NO_STREAM
    assert acl().aclrtSynchronizeStream(stream) == NO_STREAM
    to = ctypes.c_void_p(host.ctypes.data)
    assert acl().aclrtMemcpyAsync(to, size, memory.address, size, TO_HOST, stream) == NO_STREAM
    given = tensor(memory)
    with launched(faults, given, stream, NO_STREAM) as executor:
        assert executors().aclDestroyAclOpExecutor(executor) == 0
    assert b"there is no stream" in acl().aclGetRecentErrMsg()
    assert executors().aclDestroyTensor(given) == 0


def test_a_stream_is_destroyed_with_its_failure(memory: Memory, faults: ctypes.CDLL) -> None:
    """No call has returned the failure, but it is counted."""
    stream, given, before = ctypes.c_void_p(), tensor(memory), virtual.get("FAILURES")
    assert acl().aclrtCreateStream(ctypes.byref(stream)) == 0
    with launched(faults, given, stream, 0, fault="fails"):
        assert acl().aclrtDestroyStream(stream) == 0
    assert virtual.get("FAILURES") == before + 1
    assert executors().aclDestroyTensor(given) == 0


def test_memory_has_an_end(memory: Memory) -> None:
    before = virtual.live("allocations")
    address = ctypes.c_void_p()
    with virtual.option("MEMORY_MB", 1):
        assert acl().aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(2 << 20), 0) == NO_MEMORY
    assert virtual.live("allocations") == before
    assert acl().aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(2 << 20), 0) == 0
    assert virtual.live("allocations") == before + 1
    assert acl().aclrtFree(address) == 0
    assert acl().aclrtFree(address) == PARAM_INVALID  # a second time


def test_a_thread_must_choose_a_device(memory: Memory) -> None:
    acl().aclrtSetCurrentContext(None)
    assert acl().aclrtMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(1), 0) == NO_CONTEXT
    assert acl().aclrtSetDevice(0) == 0


def test_executors(memory: Memory, faults: ctypes.CDLL) -> None:
    """One that is repeatable is launched with new addresses; another one serves one launch and takes none."""
    other, given = Memory(300), tensor(memory, address=0)
    size, executor = ctypes.c_uint64(), ctypes.c_void_p()
    prepare = (ctypes.byref(size), ctypes.byref(executor))
    assert faults.aclnnFaultGetWorkspaceSize(b"none", given, *prepare) == 0
    workspace = Memory(size.value)
    index = ctypes.c_size_t(0)
    assert executors().aclSetTensorAddr(executor, index, given, other.address) == BAD_TENSOR  # not repeatable yet
    assert faults.aclnnFault(workspace.address, size, executor, None) != 0  # no address
    assert executors().aclSetAclOpExecutorRepeatable(executor) == 0
    assert executors().aclSetTensorAddr(executor, ctypes.c_size_t(1), given, other.address) == BAD_TENSOR
    for target in (memory, other):
        assert executors().aclSetTensorAddr(executor, index, given, target.address) == 0
        assert faults.aclnnFault(workspace.address, size, executor, None) == 0
    assert acl().aclrtSynchronizeStream(None) == 0
    assert (memory.read() == 1).all()  # each launch has kept its own address
    assert (other.read() == 1).all()
    assert faults.aclnnFault(ctypes.c_void_p(), size, executor, None) == BAD_TENSOR  # no workspace
    executors().aclDestroyAclOpExecutor(executor)
    executors().aclDestroyTensor(given)
    for held in (other, workspace):
        acl().aclrtFree(held.address)


def test_a_tensor_that_was_destroyed(memory: Memory, faults: ctypes.CDLL) -> None:
    size, executor = ctypes.c_uint64(), ctypes.c_void_p()
    prepare = (ctypes.byref(size), ctypes.byref(executor))
    given = tensor(memory)
    assert faults.aclnnFaultGetWorkspaceSize(b"none", given, *prepare) == 0
    assert executors().aclDestroyTensor(given) == 0
    workspace = Memory(size.value)
    assert faults.aclnnFault(workspace.address, size, executor, None) == BAD_TENSOR
    assert b"Fault: tensor 0 was destroyed" in acl().aclGetRecentErrMsg()
    assert executors().aclDestroyAclOpExecutor(executor) == 0
    assert faults.aclnnFaultGetWorkspaceSize(b"none", given, *prepare) == BAD_TENSOR
    assert b"Fault: tensor 0 was destroyed" in acl().aclGetRecentErrMsg()
    assert executors().aclDestroyTensor(given) == BAD_TENSOR
    acl().aclrtFree(workspace.address)


def test_an_executor_serves_one_launch(memory: Memory, faults: ctypes.CDLL) -> None:
    given, before = tensor(memory), virtual.live("executors")
    with launched(faults, given, None, 0) as executor:
        assert virtual.live("executors") == before
        assert faults.aclnnFault(None, ctypes.c_uint64(0), executor, None) == BAD_TENSOR
        assert b"the executor was destroyed, or has served its launch" in acl().aclGetRecentErrMsg()
        assert executors().aclDestroyAclOpExecutor(executor) == BAD_TENSOR
    assert executors().aclDestroyTensor(given) == 0


# The indexer's tensors, each with its dtype and shape; the result is the last one.
INDEXER = {
    "q_int8": (INT8, (1, 64, 128)),
    "q_scale": (FLOAT16, (1, 64, 1)),
    "weights": (FLOAT16, (1, 64)),
    "k_cache": (INT8, (1, 128, 1, 128)),
    "k_cache_scale": (FLOAT16, (1, 128, 1, 1)),
    "block_table": (INT32, (1, 1)),
    "kv_act_seqs": (INT32, (1,)),
    "topk_indices": (INT32, (1, 2048)),
}
REFUSED = {
    "nothing": ("", {}, 0, ""),
    "dtype": ("q_scale", {"dtype": INT32}, BAD_TENSOR, "q_scale.*: dtype 1 expected"),
    "strides of a result": ("topk_indices", {"strides": (1, 2)}, BAD_TENSOR, "topk_indices.*: not contiguous"),
    "format": ("k_cache", {"form": NZ}, BAD_TENSOR, "k_cache.*: marked as FRACTAL_NZ"),
    "shape of a result": ("topk_indices", {"view": (1, 2047)}, BAD_TENSOR, "output 0 is .*, which is not the shape"),
    "no tensor": ("weights", None, NULL, "weights is null"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_call_is_checked_against_the_definition(memory: Memory, what: str) -> None:
    name, change, status, text = REFUSED[what]
    package = ctypes.CDLL(str(virtual.package() / "op_api" / "lib" / "libcust_opapi.so"))
    given = {}
    for operand, (dtype, shape) in INDEXER.items():
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
        wanted = {"view": shape, "strides": strides, "storage": (1 << 15,), "dtype": dtype, "address": 0}
        if operand != name:
            given[operand] = tensor(memory, **wanted)
        elif change is not None:
            given[operand] = tensor(memory, **{**wanted, **change})
    *inputs, result = (given.get(operand) for operand in INDEXER)
    size, executor = ctypes.c_uint64(), ctypes.c_void_p()
    call_of = package.aclnnMsDsaLightningIndexerQuantGetWorkspaceSize
    absent = None  # query_act_seqs
    assert call_of(*inputs, absent, ctypes.c_int64(2048), result, ctypes.byref(size), ctypes.byref(executor)) == status
    told = (acl().aclGetRecentErrMsg() or b"").decode()
    assert re.search(text, told), told
    if status == 0:
        assert size.value >= 16 << 20  # the system's part
        assert executors().aclDestroyAclOpExecutor(executor) == 0
    for made in given.values():
        assert executors().aclDestroyTensor(made) == 0


SCRIPT = """
import mindspore as ms
ms.set_device("Ascend")
tensor = ms.ops.zeros((300,), ms.int8) + 1
assert tensor.device.startswith("Ascend"), tensor.device
assert tensor.asnumpy().tolist() == [1] * 300
print("done", flush=True)
"""


def _script(tmp_path: Path, text: str, **options: int) -> subprocess.CompletedProcess[str]:
    (tmp_path / "script.py").write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=virtual.environment(**options),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_program_by_hand(tmp_path: Path) -> None:
    """The README's command: options become the device's, and the program's own exit status is the command's."""
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(VIRTUAL / "run.py"), "--cores", "2", "--trace", "--", sys.executable, "script.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == "done\n"
    assert "virtual Ascend: aclnn" in result.stderr


def test_the_host_cannot_touch_the_devices_memory(tmp_path: Path) -> None:
    text = SCRIPT + "import ctypes; ctypes.string_at(tensor.data_ptr(), 1); print('touched')\n"
    result = _script(tmp_path, text)
    assert result.stdout == "done\n"
    assert result.returncode < 0  # SIGSEGV


def test_what_is_left_is_told_at_exit(tmp_path: Path) -> None:
    text = "import ctypes\nacl = ctypes.CDLL('libascendcl.so')\nacl.aclrtSetDevice(0)\n"
    text += "acl.aclrtMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(1), 0)\n"
    result = _script(tmp_path, text)
    assert re.search(r"^virtual Ascend: left at exit: 1 allocations$", result.stderr, re.MULTILINE)
    assert "left at exit" not in _script(tmp_path, "import ctypes; ctypes.CDLL('libascendcl.so')").stderr
