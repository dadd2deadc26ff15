"""Runs a command on the virtual Ascend: python tests/ascend_virtual/run.py [options] -- python my_script.py

Without a command it prints the variables of the environment, for `export $(..)`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    TESTS = Path(__file__).resolve().parents[1]
    sys.path += [str(TESTS / folder) for folder in ("ascend_virtual", "ascend_host", "ascendc_emulator")]

import virtual


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", choices=("emulator", "cpu"), help="AscendC kernels, or the CPU's (quick)")
    parser.add_argument("--cores", type=int, help="AI cores of the device")
    parser.add_argument("--memory", type=int, metavar="MIB", help="memory of the device")
    parser.add_argument("--seed", type=int, help="of the streams' delays and of the order of the kernels' pipes")
    parser.add_argument("--delay", type=int, metavar="US", help="longest wait of a stream before an ordinary task")
    parser.add_argument("--trace", action="store_const", const=1, help="tell every call on standard error")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run")
    args = parser.parse_args()
    kernels = {"emulator": virtual.EMULATOR, "cpu": virtual.CPU, None: None}[args.kernels]
    given = {
        "KERNELS": kernels,
        "CORES": args.cores,
        "MEMORY_MB": args.memory,
        "SEED": args.seed,
        "DELAY_US": args.delay,
        "TRACE": args.trace,
    }
    environment = virtual.environment(**{name: value for name, value in given.items() if value is not None})
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        print("\n".join(f"{n}={v}" for n, v in environment.items() if v != os.environ.get(n)))
    else:
        os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    main()
