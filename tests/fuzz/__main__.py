"""Command line of the fuzz, see `main`."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / folder) for folder in ("", "kernels", "ops", "weights")]
sys.path += [str(TESTS / folder) for folder in ("ascend", "ascend_virtual", "ascend_host", "ascendc_emulator")]

from fuzz.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
