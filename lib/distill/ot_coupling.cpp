#include "distill/ot_coupling.h"

#include <ATen/ATen.h>

#include <vector>

#include "flowmap/assignment.h"
#include "flowmap/base/error.h"

namespace flowmap::distill {

at::Tensor ot_pairing(const at::Tensor& x1, const at::Tensor& noise) {
  const at::NoGradGuard no_grad;
  FM_CHECK(x1.sizes() == noise.sizes(), "optimal transport: data ", x1.sizes(),
           " and noise ", noise.sizes());
  const int64_t n = x1.size(0);
  if (n == 0) return at::empty({0}, x1.options().dtype(at::kLong));
  // |x - y|^2 without the parts that every pairing has in common.
  const at::Tensor cost = (x1.reshape({n, -1}).to(at::kDouble))
                              .matmul(noise.reshape({n, -1}).to(at::kDouble).t())
                              .neg()
                              .cpu()
                              .contiguous();
  const double* values = cost.const_data_ptr<double>();
  const std::vector<int64_t> pairing =
      least_cost_assignment({values, values + n * n}, n);
  return at::tensor(pairing, at::kLong).to(x1.device());
}

at::Tensor ot_pairing_in_groups(const at::Tensor& x1, const at::Tensor& noise,
                                int64_t group, int64_t first_row) {
  const int64_t n = x1.size(0);
  if (group == 0) return at::arange(n, x1.options().dtype(at::kLong));
  FM_CHECK_USAGE(n % group == 0 && first_row % group == 0, "method.ot_group = ", group,
                 " does not divide the micro-batches of ", n, " (trainer.batch_gpu)");
  std::vector<at::Tensor> parts;
  for (int64_t first = 0; first < n; first += group)
    parts.push_back(ot_pairing(x1.narrow(0, first, group), noise.narrow(0, first, group)) +
                    first);
  return at::cat(parts);
}

int64_t read_ot_group(const Config& method) {
  return method.integer("ot_group", 0, 2, 4096);
}

}  // namespace flowmap::distill
