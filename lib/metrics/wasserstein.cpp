#include "metrics/wasserstein.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "flowmap/assignment.h"
#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "metrics/entries.h"

namespace flowmap::metrics {
namespace {

// Directions taken at once: each costs a sorted copy of both sets.
constexpr int64_t kDirectionsAtOnce = 16;

void check_point_sets(const at::Tensor& x, const at::Tensor& y) {
  FM_CHECK(x.defined() && y.defined() && x.dim() == 2 && y.dim() == 2 && x.size(0) > 0 &&
               y.size(0) > 0,
           "a Wasserstein distance needs the points of both sets themselves, [N, d]");
  FM_CHECK(x.size(1) == y.size(1), "a Wasserstein distance between points of ", x.size(1),
           " and ", y.size(1), " dimensions");
  for (const at::Tensor* rows : {&x, &y})
    FM_CHECK(at::isfinite(*rows).all().item<bool>(), "some points are not finite");
}

// Squared Wasserstein-2 on lines: a [n, L], b [m, L], both sorted along dim 0 -> [L].
// The integral of (quantile a - quantile b)^2, steps of 1/n against steps of 1/m.
at::Tensor squares_on_lines(const at::Tensor& a, const at::Tensor& b) {
  const int64_t n = a.size(0), m = b.size(0);
  if (n == m) return (a - b).square_().mean(0);
  std::vector<int64_t> in_a, in_b;
  std::vector<double> weights;
  int64_t i = 0, j = 0, at = 0;  // at: place in units of 1 / (n m)
  while (i < n && j < m) {
    const int64_t end = std::min((i + 1) * m, (j + 1) * n);
    in_a.push_back(i);
    in_b.push_back(j);
    weights.push_back(static_cast<double>(end - at) /
                      (static_cast<double>(n) * static_cast<double>(m)));
    i += end == (i + 1) * m;
    j += end == (j + 1) * n;
    at = end;
  }
  const auto device = a.device();
  const at::Tensor gaps = a.index_select(0, at::tensor(in_a, at::kLong).to(device)) -
                          b.index_select(0, at::tensor(in_b, at::kLong).to(device));
  return at::tensor(weights, at::kDouble).to(device).matmul(gaps.square());
}

// float64 [d, directions], columns of length 1.
at::Tensor line_directions(int64_t d, int64_t directions, std::uint64_t seed) {
  if (d == 2) {
    const at::Tensor angles = at::arange(directions, at::kDouble) *
                              (std::numbers::pi / static_cast<double>(directions));
    return at::stack({angles.cos(), angles.sin()});
  }
  const at::Tensor normals = Draw(seed, 0, directions)
                                 .normal("sliced_wasserstein", {d})
                                 .to(at::kDouble);
  return (normals / normals.norm(2, 1, true)).t();
}

class SlicedWassersteinMetric final : public Metric {
 public:
  SlicedWassersteinMetric(int64_t directions, std::uint64_t seed)
      : directions_(directions), seed_(seed) {
    FM_CHECK_USAGE(directions % 2 == 0, "swd: directions must be even, got ", directions);
  }
  bool needs_features() const override { return true; }
  std::vector<MetricValue> compute(const FeatureSet& reference,
                                   const FeatureSet& generated) override {
    const SlicedWasserstein result =
        sliced_wasserstein(reference.features, generated.features, directions_, seed_);
    return {{"", result.value}, {"error of directions", result.error, true}};
  }

 private:
  int64_t directions_;
  std::uint64_t seed_;
};

class ExactWassersteinMetric final : public Metric {
 public:
  bool needs_features() const override { return true; }
  std::vector<MetricValue> compute(const FeatureSet& reference,
                                   const FeatureSet& generated) override {
    return {{"", exact_wasserstein(reference.features, generated.features)}};
  }
};

}  // namespace

SlicedWasserstein sliced_wasserstein(const at::Tensor& x, const at::Tensor& y,
                                     int64_t directions, std::uint64_t seed) {
  check_point_sets(x, y);
  FM_CHECK(directions >= 2 && directions % 2 == 0, "sliced Wasserstein: directions must be "
           "even, 2 or more, got ", directions);
  const at::NoGradGuard no_grad;
  const at::Tensor a = x.to(y.device(), at::kDouble), b = y.to(at::kDouble);
  const at::Tensor lines =
      line_directions(x.size(1), directions, seed).to(y.device());
  std::vector<at::Tensor> parts;
  for (int64_t begin = 0; begin < directions; begin += kDirectionsAtOnce) {
    const at::Tensor some =
        lines.narrow(1, begin, std::min(kDirectionsAtOnce, directions - begin));
    parts.push_back(squares_on_lines(std::get<0>(a.mm(some).sort(0)),
                                     std::get<0>(b.mm(some).sort(0))));
  }
  const at::Tensor squares = at::cat(parts);
  SlicedWasserstein out;
  const double mean = squares.mean().item<double>();
  out.value = std::sqrt(mean);
  if (x.size(1) == 2) {
    const double half = squares.view({-1, 2}).select(1, 0).mean().item<double>();
    out.error = std::abs(out.value - std::sqrt(half));
  } else if (mean > 0) {
    out.error = squares.std().item<double>() / std::sqrt(static_cast<double>(directions)) /
                (2 * out.value);
  }
  return out;
}

double exact_wasserstein(const at::Tensor& x, const at::Tensor& y) {
  check_point_sets(x, y);
  const int64_t n = x.size(0);
  FM_CHECK_USAGE(n == y.size(0) && n <= kMostAssigned, "exact Wasserstein distance: needs "
                 "as many points on both sides, at most ", kMostAssigned, ", got ", n,
                 " and ", y.size(0), "; take fewer (--num) or the sliced distance (swd)");
  const at::Tensor a = x.to(at::kCPU, at::kDouble), b = y.to(at::kCPU, at::kDouble);
  const at::Tensor cost = at::cdist(a, b, 2, 2).square_().contiguous();
  const double* values = cost.const_data_ptr<double>();
  const std::vector<int64_t> pairing =
      least_cost_assignment({values, values + n * n}, n);
  const at::Tensor gaps = a - b.index_select(0, at::tensor(pairing, at::kLong));
  return std::sqrt(gaps.square().sum(1).mean().item<double>());
}

std::shared_ptr<Metric> make_sliced_wasserstein(const Config& options) {
  return std::make_shared<SlicedWassersteinMetric>(
      options.integer("directions", 256, 2, 1 << 16),
      static_cast<std::uint64_t>(options.integer("seed", 0, 0)));
}

std::shared_ptr<Metric> make_exact_wasserstein(const Config&) {
  return std::make_shared<ExactWassersteinMetric>();
}

}  // namespace flowmap::metrics
