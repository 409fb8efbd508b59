#include "flowmap/ops_moments.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "flowmap/base/error.h"
#include "kernels/api.h"

namespace flowmap::ops {
namespace {

// scatter += rows^T rows; both contiguous float64.
void add_symmetric_product(at::Tensor& scatter, const at::Tensor& rows) {
  if (!scatter.is_cpu()) {
    scatter.addmm_(rows.t(), rows);
    return;
  }
  const int64_t d = rows.size(1);
  const auto* from = rows.const_data_ptr<double>();
  auto* to = scatter.mutable_data_ptr<double>();
  // Column j has j + 1 elements: equal work is equal steps of the squares.
  const int64_t parts = std::min<int64_t>(at::get_num_threads(), (d + 255) / 256);
  const auto column = [&](int64_t part) {
    if (part == parts) return d;
    const double share = static_cast<double>(part) / static_cast<double>(parts);
    return static_cast<int64_t>(std::sqrt(share) * static_cast<double>(d)) / 16 * 16;
  };
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    kernels::add_scatter_cpu(from, rows.size(0), d, column(begin), column(end), to);
  });
  kernels::mirror_scatter_cpu(d, to);
}

void check_moments(int64_t count, const at::Tensor& mean, const at::Tensor& scatter,
                   int64_t d) {
  FM_CHECK(count >= 0, "moments of ", count, " rows");
  FM_CHECK(count == 0 || (mean.dim() == 1 && mean.size(0) == d && scatter.dim() == 2 &&
                          scatter.size(0) == d && scatter.size(1) == d),
           "adding features of ", d, " dimensions to moments of ",
           mean.defined() ? mean.size(0) : 0);
}

}  // namespace

void add_moments(int64_t& count, at::Tensor& mean, at::Tensor& scatter,
                 const at::Tensor& rows) {
  const at::NoGradGuard no_grad;
  FM_CHECK(rows.dim() == 2 && rows.is_floating_point(),
           "moments are of floating rows [B, d], not of ", rows.toString(), " ",
           rows.sizes());
  const int64_t more = rows.size(0), d = rows.size(1);
  check_moments(count, mean, scatter, d);
  if (more == 0) return;
  const auto options = rows.options().dtype(at::kDouble);
  if (count == 0) {
    mean = at::zeros({d}, options);
    scatter = at::zeros({d, d}, options);
  }
  scatter = scatter.contiguous();
  at::Tensor centred = at::empty({more + 1, d}, options);
  at::Tensor batch = centred.narrow(0, 0, more);
  batch.copy_(rows);
  at::Tensor batch_mean = batch.mean(0);
  batch.sub_(batch_mean);
  // The rounding of a mean of large values leaves a common offset in the centred rows;
  // taking it out once more makes the scatter exact to the spread, not to the mean.
  const at::Tensor rest = batch.mean(0);
  batch.sub_(rest);
  batch_mean.add_(rest);
  const double n = static_cast<double>(count), m = static_cast<double>(more);
  const at::Tensor shift = batch_mean - mean;
  if (count > 0) {
    at::mul_out(batch_mean, shift, at::scalar_tensor(std::sqrt(n * m / (n + m)), options));
    centred[more].copy_(batch_mean);
  } else {
    centred[more].zero_();
  }
  add_symmetric_product(scatter, centred);
  mean = mean + shift * (m / (n + m));
  count += more;
}

void merge_moments(int64_t& count, at::Tensor& mean, at::Tensor& scatter,
                   int64_t other_count, const at::Tensor& other_mean,
                   const at::Tensor& other_scatter) {
  const at::NoGradGuard no_grad;
  if (other_count == 0) return;
  if (count == 0) {
    mean = other_mean.clone();
    scatter = other_scatter.clone();
    count = other_count;
    return;
  }
  check_moments(other_count, other_mean, other_scatter, mean.size(0));
  const double n = static_cast<double>(count), m = static_cast<double>(other_count);
  const at::Tensor shift = other_mean.to(mean.device()) - mean;
  scatter.add_(other_scatter.to(scatter.device()));
  scatter = scatter.contiguous();
  add_symmetric_product(scatter, (shift * std::sqrt(n * m / (n + m))).unsqueeze(0));
  mean = mean + shift * (m / (n + m));
  count += other_count;
}

}  // namespace flowmap::ops
