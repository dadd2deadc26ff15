"""Benchmarks: the operators, their rivals and the limits of the machine, timed side by side.

``python -m benchmarks --help``.
"""

import sys
from pathlib import Path

# Inputs and tolerances are those of the tests (tests/cases/ and tests/tolerance.py).
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
