// What every network checks of its shape and of what it is given.
#pragma once

#include "flowmap/dual.h"
#include "flowmap/network.h"

namespace flowmap {

// Throws UsageError unless the shape has one or two times.
void check_times(const NetworkShape& shape);
// Throws Error unless x is [B, shape.sample...] and the number of times fits; UsageError
// on a guidance scale, which no network here takes.
void check_inputs(const NetworkShape& shape, const Dual& x, const Dual& time2,
                  const Condition& condition);

}  // namespace flowmap
