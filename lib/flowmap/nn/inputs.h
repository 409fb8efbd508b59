// What every network checks of its shape and of what it is given.
#pragma once

#include "flowmap/dual.h"
#include "flowmap/network.h"

namespace flowmap {

// Throws UsageError unless the shape has one or two times.
void check_times(const NetworkShape& shape);
// Throws Error unless x is [B, shape.sample...], the number of times fits, and a guidance
// scale that is given is [B]; UsageError on one where shape.guidance says there is none.
void check_inputs(const NetworkShape& shape, const Dual& x, const Dual& time2,
                  const Condition& condition);

}  // namespace flowmap
