#include "metrics/frechet.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "metrics/entries.h"

namespace flowmap::metrics {

namespace {

constexpr double kLeastOwnVariance = 1e-9;
// Accepted error of the nuclear norm by eigenvalues, in units of the traces.
constexpr double kEigenvalueError = 2e-14;

bool is_triangular_factor(const at::Tensor& factor) {
  return factor.size(0) == factor.size(1) &&
         factor.tril(-1).count_nonzero().item<int64_t>() == 0;
}

// Singular values from the eigenvalues of the Gram matrix take a fifth of the time but
// lose what is small: returns nothing where the loss may reach `most`. By Hoffman and
// Wielandt the eigenvalues err by |E|_F together, rounding's E being about eps |M|_F^2
// (twice that is allowed here), and so their roots by at most |E|_F (sum 1 / 4 l)^(1/2).
std::optional<double> nuclear_norm_by_eigenvalues(const at::Tensor& matrix, double most) {
  const at::Tensor values = at::linalg_eigvalsh(matrix.mm(matrix.t()));
  if (!(values.min().item<double>() > 0)) return {};
  const double rounding =
      2 * std::numeric_limits<double>::epsilon() * values.sum().item<double>();
  const double error =
      rounding * std::sqrt(values.reciprocal().sum().item<double>() / 4);
  if (!(error <= most)) return {};
  return values.sqrt().sum().item<double>();
}

// The nuclear norm of f1 f2^T.
double nuclear_norm(const at::Tensor& f1, const at::Tensor& f2, double traces) {
  const at::Tensor product = f1.mm(f2.t());
  if (is_triangular_factor(f1) && is_triangular_factor(f2)) {
    // The least pivots bound the least singular values from above: where even they are
    // too small the eigenvalues are not worth their time.
    const double least = f1.diagonal().abs().min().item<double>() *
                         f2.diagonal().abs().min().item<double>();
    const double rounding = std::numeric_limits<double>::epsilon() *
                            product.square().sum().item<double>();
    const double most = kEigenvalueError * traces;
    if (rounding < most * least)
      if (const auto norm = nuclear_norm_by_eigenvalues(product, most)) return *norm;
  }
  // Jacobi, the default on a GPU, is slow on large matrices.
  const std::optional<c10::string_view> driver =
      product.is_cuda() ? std::optional<c10::string_view>("gesvd") : std::nullopt;
  return at::linalg_svdvals(product, driver).sum().item<double>();
}

}  // namespace

at::Tensor covariance_factor(const FeatureSet& set) {
  FM_CHECK(set.count >= 2, "a covariance needs at least 2 samples, got ", set.count);
  if (set.features.defined()) {
    at::Tensor centred = set.features.to(at::kDouble);
    centred = centred - centred.mean(0);
    centred -= centred.mean(0);  // what rounding left of a mean far from 0
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
  const at::Device device = second.mean.device();  // the generated set's
  const at::Tensor f1 = covariance_factor(first).to(device);
  const at::Tensor f2 = covariance_factor(second).to(device);
  FM_CHECK(at::isfinite(f1).all().item<bool>() && at::isfinite(f2).all().item<bool>(),
           "features are not finite");
  const double means = (first.mean.to(device) - second.mean).square().sum().item<double>();
  const double traces =
      f1.square().sum().item<double>() + f2.square().sum().item<double>();
  const double nuclear = nuclear_norm(f1, f2, traces);
  const double distance = means + (traces - 2 * nuclear);
  FM_CHECK(std::isfinite(distance), "the Fréchet distance is not finite");
  return distance > 0 ? distance : 0.0;
}

namespace {

class FrechetMetric final : public Metric {
 public:
  FrechetMetric(std::string detector, std::string layer)
      : detector_(std::move(detector)), layer_(std::move(layer)) {}
  std::string layer() const override { return layer_; }
  std::string detector() const override { return detector_; }
  bool needs_features() const override { return false; }
  std::vector<MetricValue> compute(const FeatureSet& reference,
                                   const FeatureSet& generated) override {
    return {{"", frechet_distance(reference, generated)}};
  }

 private:
  std::string detector_, layer_;
};

}  // namespace

std::shared_ptr<Metric> make_frechet(const Config& options) {
  return std::make_shared<FrechetMetric>("", options.string("layer", ""));
}

std::shared_ptr<Metric> make_fid(const Config& options) {
  return std::make_shared<FrechetMetric>("inception", inception_layer(options));
}

std::shared_ptr<Metric> make_sfid(const Config&) {
  return std::make_shared<FrechetMetric>("inception", "spatial");
}

std::string inception_layer(const Config& options) {
  static const std::vector<std::string> layers = {"64", "192", "768", "2048"};
  return options.choice("layer", layers, "2048");
}

}  // namespace flowmap::metrics
