"""Fuzzing: random calls of the operators, weight files and process faults. A seed and a number repeat any of them.

``draw`` makes good calls and the outputs that they must give. ``spoil`` makes bad calls and the arguments that an error
must blame. ``judge`` compares. ``paths`` are the ways into the operators. ``files`` does the same for checkpoints, and
``faults`` for processes. ``worker`` runs trials in a process of its own; ``campaign`` starts workers and reports what
they find.

``python -m tests.fuzz --help`` tells how to run it for as long as one likes.
"""
