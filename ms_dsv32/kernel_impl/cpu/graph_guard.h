// Detects the one place in a MindSpore graph where a write into a plain tensor would be lost without an error.
#pragma once

namespace ms_dsv32 {

// Whether the calling thread evaluates a part of a graph that runs under a condition known only at run time: a branch,
// a loop's body, or what follows an early return. MindSpore gives such a part copies of plain tensors (a Parameter is
// passed as itself).
//
// It is for calls from shape inference. MindSpore 2.10's compiler evaluates such parts, and nothing else, on threads of
// its own. It evaluates the rest of a graph on the thread that asked for the compilation, where Python code is running.
// At run time shapes are inferred on actor threads. So the answer is yes if no Python code is running on the thread,
// and the thread has the name of the process: the compiler's threads inherit it, and the actors have names of their
// own.
bool InRunTimeBranch();

}  // namespace ms_dsv32
