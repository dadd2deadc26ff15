"""Copies of the checkout in which faults are made, so that the checkout itself is never wrong."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ms_dsv32 import kernel_impl
from mutation.catalogue import ROOT, Fault

FOLDER = ROOT / "build" / "mutation"
USUAL_ISAS = {"x86_64": ("portable", "avx2"), "aarch64": ("portable", "neon_dotprod")}[platform.machine()]
"""Instruction sets of a copy's kernels: enough for every fault outside the code of another instruction set."""
_LIBRARY = Path("ms_dsv32/kernel_impl/libms_dsv32_cpu.so")
_OBJECTS = Path("build/objects")
_GOOD = Path("build/good")
_BUILD_SECONDS = 1200
_COMPILED = ("setup.py", "ms_dsv32/kernel_impl/cpu/", "ms_dsv32/kernel_impl/contract/")
_SETTINGS = ("MS_DSV32_", "PYTEST_", "OPENBLAS_", "OMP_")
"""Variables of this process that a copy's processes do not get: they would change what is built and tested."""


class BuildError(Exception):
    """The kernels do not compile; the text is what the compiler said."""


@dataclass(frozen=True)
class Run:
    """What pytest said.

    Attributes:
        status: its exit status, negative for a signal; None if it took too long. passed: how many tests passed.
        failed: the first test that failed, or "". output: what it printed. failure: what the test said.
        seconds: how long it took.
    """

    status: int | None
    passed: int
    failed: str
    failure: str
    output: str
    seconds: float


@contextlib.contextmanager
def copies(count: int) -> Iterator[list[Copy]]:
    """So many copies, in ``build/mutation`` of the checkout, where their objects stay for the next time.

    Raises:
        RuntimeError: another process has them; git is missing.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another process tries faults in {FOLDER}") from None
        yield [Copy(FOLDER / str(i)) for i in range(count)]


class Copy:
    """One copy of the files that git knows or would add, with kernels of its own. For one thread at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._isas: tuple[str, ...] | None = None  # of the library, if it is without a fault
        self._flags = _flags_of_the_checkout()
        is_new = not root.exists()
        files = _files()
        for file in files:
            source, target = ROOT / file, root / file
            if is_new or not target.is_file() or target.read_bytes() != source.read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                # A new copy keeps the files' times, because it takes the checkout's objects over.
                (shutil.copy2 if is_new else shutil.copyfile)(source, target)
        for path in [*root.rglob("*")]:
            file = path.relative_to(root)
            if path.is_file() and file not in files and file.parts[0] != "build" and file != _LIBRARY:
                path.unlink()
        if is_new:
            self._take_objects()

    def build(self, isas: tuple[str, ...]) -> None:
        """Builds the library without a fault, unless it is there.

        Raises:
            BuildError: it does not compile, or Python takes another package or library than the copy's.
        """
        if self._isas == isas:
            return
        self._compile(isas)
        self._verify()
        self._isas = isas
        good = self.root / _GOOD
        good.mkdir(exist_ok=True)
        for path in self._made():
            kept = good / path.name
            if not kept.is_file() or kept.stat().st_mtime_ns != path.stat().st_mtime_ns:
                shutil.copy2(path, kept)

    @contextlib.contextmanager
    def with_fault(self, fault: Fault) -> Iterator[None]:
        """Makes the fault, and builds the library if it is compiled of that file; all is as before afterwards.

        Raises:
            BuildError: it does not compile. ValueError: the text is not in the file once.
        """
        path = self.root / fault.file
        text, times = path.read_text(encoding="utf-8"), path.stat()
        faulty = fault.applied(text)
        isas = self._isas
        assert isas is not None, "the library was to be built without the fault first"
        kernels = {p.name for p in self._cache().iterdir()}
        try:
            path.write_text(faulty, encoding="utf-8")
            if fault.file.startswith(_COMPILED):
                self._isas = None
                self._compile(isas)
            yield
        finally:
            # The source is restored last. If the process is killed before, the next one restores and compiles it.
            if self._isas is None:
                self._restore()
                self._isas = isas
            path.write_text(text, encoding="utf-8")
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            for made in self._cache().iterdir():
                # These objects may come from the faulty source. A fault in Python does not change them.
                if made.name not in kernels and path.suffix != ".py":
                    shutil.rmtree(made) if made.is_dir() else made.unlink()

    def pytest(self, arguments: str, seconds: float) -> Run:
        """Runs pytest in the copy until a test fails, for at most so long."""
        report = self.root / "build" / "report.xml"
        report.unlink(missing_ok=True)
        command = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--junitxml={report}")
        began = time.monotonic()
        status, output = self._run([*command, "-o", "junit_family=xunit1", *shlex.split(arguments)], seconds)
        passed, failed, failure = _read(report)
        return Run(status, passed, failed, failure, output, time.monotonic() - began)

    def _compile(self, isas: tuple[str, ...]) -> None:
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--build-temp", str(_OBJECTS)]
        settings = {"MS_DSV32_ISAS": ",".join(isas), "CXXFLAGS": self._flags}
        status, output = self._run(command, _BUILD_SECONDS, **settings)
        if status:
            raise BuildError(output[-3000:])

    def _verify(self) -> None:
        code = "import ms_dsv32; from ms_dsv32 import kernel_impl; print(ms_dsv32.__file__, kernel_impl.library_path())"
        status, output = self._run([sys.executable, "-c", code], 60, cwd=FOLDER)  # as tests' own processes do
        want = f"{self.root / 'ms_dsv32' / '__init__.py'} {self.root / _LIBRARY}"
        if status or output.strip() != want:
            raise BuildError(f"Python takes {output.strip()} where the copy's are {want}")

    def _made(self) -> list[Path]:
        return [*(self.root / _OBJECTS).iterdir(), self.root / _LIBRARY]

    def _restore(self) -> None:
        good = self.root / _GOOD
        for path in self._made():
            if not (good / path.name).is_file():
                path.unlink()
        for kept in good.iterdir():
            path = self.root / (_LIBRARY if kept.name == _LIBRARY.name else _OBJECTS / kept.name)
            if not path.is_file() or path.stat().st_mtime_ns != kept.stat().st_mtime_ns:
                path.unlink(missing_ok=True)
                shutil.copy2(kept, path)

    def _take_objects(self) -> None:
        """The checkout's objects, as though they had been compiled here: only what differs is compiled again."""
        objects = self.root / _OBJECTS
        objects.mkdir(parents=True)
        for path in (ROOT / _OBJECTS).glob("*"):
            shutil.copy2(path, objects)
            if path.suffix in (".cmd", ".d"):
                text = path.read_text(encoding="utf-8")
                (objects / path.name).write_text(text.replace(f"{ROOT}", f"{self.root}"), encoding="utf-8")

    def _cache(self) -> Path:
        """Where the copy's tests keep the AscendC kernels that they compile."""
        path = self.root / "build" / "emulator"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _run(
        self, command: Sequence[str], seconds: float, cwd: Path | None = None, **settings: str
    ) -> tuple[int | None, str]:
        """The exit status, None after so many seconds, and what the command printed."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
        environment |= {
            "PYTHONPATH": str(self.root),
            # Python compares size and second of a source to reuse bytecode, and a fault may change neither.
            "PYTHONDONTWRITEBYTECODE": "1",
            "MS_DSV32_EMULATOR_CACHE": str(self._cache()),
            **settings,
        }
        with subprocess.Popen(
            command,
            cwd=cwd or self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                return None, ""
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            return process.returncode, output


def lacking(fault: Fault) -> str:
    """The instruction sets among those of the fault that this machine's CPUs do not have, or ""."""
    if not fault.isas:
        return ""
    known = json.loads((ROOT / "ms_dsv32/kernel_impl/cpu/isas.json").read_text(encoding="utf-8"))
    has = set(kernel_impl.isas()) & set(known[platform.machine()])
    return ", ".join(isa for isa in fault.isas if isa not in has)


def _files() -> set[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"faults are tried in copies of a git checkout: {error}") from None
    return {Path(name) for name in names if name and (ROOT / name).is_file()}


def _flags_of_the_checkout() -> str:
    """CXXFLAGS that the checkout's objects were compiled with, so that they serve; without objects -Werror."""
    command = ROOT / _OBJECTS / "pack.o.cmd"
    if not command.is_file():
        return "-Werror"
    words = shlex.split(command.read_text(encoding="utf-8"))
    return shlex.join(words[words.index(f"-I{ROOT}") + 1 : words.index("-MMD")])


def _read(report: Path) -> tuple[int, str, str]:
    """What pytest's XML report says: how many tests passed, the first that failed, and its message."""
    if not report.is_file():
        return 0, "", ""
    passed = 0
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        for kind in ("failure", "error"):
            if (what := case.find(kind)) is not None:
                return passed, _node(case), what.text or ""
        passed += case.find("skipped") is None
    return passed, "", ""


def _node(case: ElementTree.Element) -> str:
    """The test's identifier, as pytest takes it."""
    file, name, place = (case.get(key, "") for key in ("file", "name", "classname"))
    module = file.removesuffix(".py").replace("/", ".")
    return "::".join([file, *filter(None, place.removeprefix(module).split(".")), name])
