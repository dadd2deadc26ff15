"""Small faults of the kind that a tired programmer makes, each with the tests that must catch it.

``catalogue`` reads the list, ``copies`` makes copies of the checkout in which faults are made, ``trial`` tries one
fault in a copy, ``report`` shows and keeps what became of them, ``command`` is the command line. README.md tells how to
add a fault.
"""
