// Minibatch optimal transport: noise paired with data so that straight lines between them
// cross less (Pooladian et al. 2023, arXiv 2304.14772; Tong et al. 2023, arXiv 2302.00482).
#pragma once

#include <ATen/core/Tensor.h>

#include "flowmap/base/config.h"

namespace flowmap::distill {

// int64 [n] on the tensors' device: data row i goes with noise row pairing[i], so that the
// sum of |x1_i - noise_pairing[i]|^2 is least. x1, noise [n, sample...]. Shifts and scales
// of the noise that are the same for every row change nothing: b n pairs as n does.
at::Tensor ot_pairing(const at::Tensor& x1, const at::Tensor& noise);

// The same within groups of `group` neighbouring rows of the step, 0: every row keeps its
// own. `first_row` is the place of the first row in the step (StepContext::first_row).
// Groups begin at multiples of `group` in the step, so that micro-batches change nothing;
// they must hold whole groups. Throws UsageError where `group` does not divide them.
at::Tensor ot_pairing_in_groups(const at::Tensor& x1, const at::Tensor& noise,
                                int64_t group, int64_t first_row);

// "ot_group" of a method's options: 0 (off), or from 2 to 4096.
int64_t read_ot_group(const Config& method);

}  // namespace flowmap::distill
