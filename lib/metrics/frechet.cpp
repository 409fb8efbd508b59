#include "metrics/frechet.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "flowmap/base/error.h"
#include "metrics/entries.h"

namespace flowmap::metrics {

namespace {
constexpr double kLeastOwnVariance = 1e-9;
}  // namespace

at::Tensor covariance_factor(const FeatureSet& set) {
  FM_CHECK(set.count >= 2, "a covariance needs at least 2 samples, got ", set.count);
  if (set.features.defined()) {
    at::Tensor centred = set.features.to(at::kDouble);
    centred = centred - centred.mean(0);
    centred /= std::sqrt(static_cast<double>(set.count - 1));
    if (centred.size(0) <= centred.size(1)) return centred;
    return std::get<1>(at::linalg_qr(centred, "r"));
  }
  const at::Tensor covariance = set.covariance();
  FM_CHECK(at::isfinite(covariance).all().item<bool>(), "features are not finite");
  // Cholesky keeps small variances to full relative accuracy, which an eigen
  // decomposition (error relative to the largest) does not; it needs every variable to
  // have some variance of its own, pivot over variance being free of the scale.
  auto [lower, info] = at::linalg_cholesky_ex(covariance);
  if (info.item<int>() == 0) {
    const at::Tensor own = lower.diagonal().square() / covariance.diagonal();
    if (own.min().item<double>() > kLeastOwnVariance) return lower.t();
  }
  auto [values, vectors] = at::linalg_eigh(covariance);
  return vectors.t() * values.clamp_min(0).sqrt().unsqueeze(1);
}

double frechet_distance(const FeatureSet& first, const FeatureSet& second) {
  FM_CHECK(first.count >= 2 && second.count >= 2,
           "a Fréchet distance needs at least 2 samples on each side, got ", first.count,
           " and ", second.count);
  FM_CHECK(first.mean.size(0) == second.mean.size(0),
           "a Fréchet distance needs features of one kind, got ", first.mean.size(0),
           " and ", second.mean.size(0), " dimensions");
  const at::Tensor f1 = covariance_factor(first), f2 = covariance_factor(second);
  FM_CHECK(at::isfinite(f1).all().item<bool>() && at::isfinite(f2).all().item<bool>(),
           "features are not finite");
  const double means = (first.mean - second.mean).square().sum().item<double>();
  const double traces =
      f1.square().sum().item<double>() + f2.square().sum().item<double>();
  const double nuclear = at::linalg_svdvals(f1.mm(f2.t())).sum().item<double>();
  const double distance = means + (traces - 2 * nuclear);
  FM_CHECK(std::isfinite(distance), "the Fréchet distance is not finite");
  return distance > 0 ? distance : 0.0;
}

namespace {

class FrechetMetric final : public Metric {
 public:
  bool needs_features() const override { return false; }
  std::vector<MetricValue> compute(const FeatureSet& reference,
                                   const FeatureSet& generated) override {
    return {{"", frechet_distance(reference, generated)}};
  }
};

}  // namespace

std::shared_ptr<Metric> make_frechet(const Config&) {
  return std::make_shared<FrechetMetric>();
}

}  // namespace flowmap::metrics
