"""Benchmarks: the operators, their rivals and the limits of the machine, timed side by side.

``python -m benchmarks --help``.
"""
