#include "metrics/grid_kl.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "metrics/entries.h"

namespace flowmap::metrics {
namespace {

constexpr double kBoardDensity = 0.5;     // 8 of 16 squares of area 1/4
constexpr double kLeastDensity = 1e-3;

// Square of a coordinate in [-1, 1], 0..3 (the right edge belongs to the last).
int board_square(double x) {
  return std::clamp(static_cast<int>(std::floor((x + 1) * 2)), 0, 3);
}

class GridKlMetric final : public Metric {
 public:
  explicit GridKlMetric(int64_t bins) : bins_(bins) {}
  bool needs_features() const override { return true; }
  bool needs_reference() const override { return false; }
  std::vector<MetricValue> compute(const FeatureSet&,
                                   const FeatureSet& generated) override {
    const GridKl result = grid_kl(generated.features, bins_);
    return {{"", result.kl}, {"mass outside the support", result.outside, true}};
  }

 private:
  int64_t bins_;
};

}  // namespace

GridKl grid_kl(const at::Tensor& points, int64_t bins) {
  FM_CHECK_USAGE(points.defined() && points.dim() == 2 && points.size(1) == 2 &&
                     points.size(0) > 0,
                 "grid KL: expected points in the plane, [N, 2] with N > 0",
                 points.defined() ? ", got " + shape_text(points.sizes()) : "");
  FM_CHECK_USAGE(bins >= 4 && bins <= 4096, "grid KL: bins must be 4 to 4096, got ",
                 bins);
  FM_CHECK_USAGE(at::isfinite(points).all().item<bool>(),
                 "grid KL: some points are not finite");
  const at::Tensor rows = points.to(at::kCPU, at::kDouble).contiguous();
  const double* xy = rows.const_data_ptr<double>();
  const int64_t n = rows.size(0);

  std::vector<int64_t> counts(static_cast<std::size_t>(bins * bins), 0);
  int64_t outside = 0;
  const double bins_per_unit = static_cast<double>(bins) / 2;
  for (int64_t i = 0; i < n; ++i) {
    const double x = xy[2 * i], y = xy[2 * i + 1];
    if (std::abs(x) > 1 || std::abs(y) > 1) {
      ++outside;
      continue;
    }
    outside += (board_square(x) + board_square(y)) % 2;
    const auto bx = static_cast<int64_t>(std::floor((x + 1) * bins_per_unit));
    const auto by = static_cast<int64_t>(std::floor((y + 1) * bins_per_unit));
    counts[std::min(bx, bins - 1) * bins + std::min(by, bins - 1)] += 1;
  }

  const double area = 4.0 / static_cast<double>(bins * bins);
  double kl = 0;
  for (int64_t i = 0; i < bins; ++i) {
    for (int64_t j = 0; j < bins; ++j) {
      // Centre -1 + (2i + 1) / bins lies in square 2 (2i + 1) / bins: whole numbers, so
      // that a centre on an edge belongs to the upper square on every machine.
      if (((4 * i + 2) / bins + (4 * j + 2) / bins) % 2 != 0) continue;
      const double density =
          static_cast<double>(counts[i * bins + j]) / (static_cast<double>(n) * area);
      kl += kBoardDensity * area *
            std::log(kBoardDensity / std::max(density, kLeastDensity));
    }
  }
  return {kl, static_cast<double>(outside) / static_cast<double>(n)};
}

std::shared_ptr<Metric> make_grid_kl(const Config& options) {
  return std::make_shared<GridKlMetric>(options.integer("bins", 48, 4, 4096));
}

}  // namespace flowmap::metrics
