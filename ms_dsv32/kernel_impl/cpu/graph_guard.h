// Detects the one place in a MindSpore graph where a write into a plain tensor would be lost without a word.
#pragma once

namespace ms_dsv32 {

// Whether the calling thread evaluates a part of a graph that runs under a condition known only at run time: a branch,
// a loop's body, or what follows an early return. MindSpore gives such a part copies of plain tensors (a Parameter is
// passed as itself).
//
// To be called from shape inference. MindSpore 2.10's compiler evaluates such parts, and nothing else, on threads of
// its own; the rest of a graph on the thread that asked for the compilation, which is one of Python's. At run time
// shapes are inferred on actor threads. The threads are told apart by Python's thread state and by their names: the
// compiler's inherit the process's, the actors' have their own.
bool InRunTimeBranch();

}  // namespace ms_dsv32
