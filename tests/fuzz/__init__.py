"""A standing fuzz: random calls of the operators, weight files and process faults, each told by a seed and a number.

``draw`` makes good calls and what they must give, ``spoil`` makes bad ones and whom an error must blame, ``judge``
compares, ``paths`` are the ways into the operators. ``files`` and ``faults`` do the like with checkpoints and with
processes. ``worker`` runs trials in a process of its own, ``campaign`` starts workers and reports what they find.

``python -m tests.fuzz --help`` tells how to run it for as long as one likes.
"""
