#include "flowmap/nn/inputs.h"

#include <ATen/ATen.h>

#include "flowmap/base/error.h"

namespace flowmap {

void check_times(const NetworkShape& shape) {
  FM_CHECK_USAGE(shape.times == 1 || shape.times == 2, "a network has 1 or 2 times, not ",
                 shape.times);
}

void check_inputs(const NetworkShape& shape, const Dual& x, const Dual& time2,
                  const Condition& condition) {
  FM_CHECK(x.value.dim() == static_cast<int64_t>(shape.sample.size()) + 1 &&
               x.value.sizes().slice(1) == at::IntArrayRef(shape.sample),
           "the network takes [B, ", at::IntArrayRef(shape.sample), "], got ",
           x.value.sizes());
  FM_CHECK(time2.defined() == (shape.times == 2), "the network has ", shape.times,
           shape.times == 2 ? " times, got one" : " time, got two");
  FM_CHECK_USAGE(shape.guidance || !condition.guidance.defined(),
                 "this network takes no guidance scale as an input; train one with "
                 "preconditioning.guidance_input = true");
  FM_CHECK(!condition.guidance.defined() ||
               condition.guidance.sizes() == at::IntArrayRef({x.value.size(0)}),
           "the guidance scale has shape ", condition.guidance.sizes(),
           "; the network expects [", x.value.size(0), "]");
}

}  // namespace flowmap
