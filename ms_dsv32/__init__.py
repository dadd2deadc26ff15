"""MindSpore custom operators for DeepSeek-V3.2's sparse attention.

Importing this package imports neither MindSpore nor the compiled kernels: ``ms_dsv32.golden`` needs NumPy alone, and
``ms_dsv32.op_info`` the standard library. ``ms_dsv32.ops`` and ``ms_dsv32.cells`` import MindSpore.
"""

__version__ = "0.2.0"
