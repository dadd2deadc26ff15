// The machine: cores (one thread each), their pipes, the order of instructions, flags, hazards, and the scheduler of
// threads.
//
// An API call becomes an instruction: the pipe, the ranges it reads and writes, its cost and a function that executes
// it. In order, it executes when it is issued. With a seed, it goes into its pipe's queue and runs later, in a random
// order that flags and barriers allow, so that a missing one changes results (see Pace).
//
// Hazards do not depend on the order of execution. Each pipe keeps a vector clock of what it knows to be complete, and
// flags, barriers and cross-core flags pass it on. An access to a range is reported if another instruction touched the
// range and is not known to be complete. A WaitFlag has a number in its pipe, as an instruction has, so that a second
// set of an event is allowed only to a pipe that knows the wait for the first set to be complete.
#ifndef ASCENDC_EMULATOR_MACHINE_H_
#define ASCENDC_EMULATOR_MACHINE_H_

#include "machine_class.h"
#include "machine_flags.h"
#include "machine_hazards.h"
#include "machine_order.h"
#include "machine_threads.h"
#include "machine_time.h"

#endif  // ASCENDC_EMULATOR_MACHINE_H_
