// The name that kernels include. See README.md.
#ifndef ASCENDC_EMULATOR_KERNEL_OPERATOR_H_
#define ASCENDC_EMULATOR_KERNEL_OPERATOR_H_

#include "cast.h"
#include "copy.h"
#include "cube.h"
#include "reduce.h"
#include "sort.h"
#include "sync.h"
#include "tensor.h"
#include "tpipe.h"
#include "types.h"
#include "vector.h"

#endif  // ASCENDC_EMULATOR_KERNEL_OPERATOR_H_
