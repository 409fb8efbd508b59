#include "metrics/bootstrap.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "metrics/frechet.h"
#include "metrics/kid.h"

namespace flowmap::metrics {
namespace {

void check_bootstrap(const FeatureSet& generated, const BootstrapOptions& options) {
  FM_CHECK_USAGE(options.resamples >= 2 && options.resamples <= 100000,
                 "bootstrap: resamples must be 2 to 100000, got ", options.resamples);
  FM_CHECK_USAGE(options.level > 0 && options.level < 1,
                 "bootstrap: the level must lie between 0 and 1, got ", options.level);
  FM_CHECK_USAGE(generated.features.defined(), "bootstrap: the generated set must keep its "
                 "features; statistics cannot be resampled");
}

// The rows of resample `index`, int64 [n].
at::Tensor resampled_rows(const BootstrapOptions& options, int64_t index,
                          const char* side, int64_t n) {
  return Draw(options.seed, static_cast<std::uint64_t>(index), 1)
      .fork("bootstrap")
      .integer(side, {n}, n)
      .view({n});
}

// How often each of n rows stands in a resample, float64 [n].
at::Tensor multiplicities(const at::Tensor& rows, int64_t n) {
  return at::bincount(rows, {}, n).to(at::kDouble);
}

double quantile_of(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<std::size_t>(place);
  const std::size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (place - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

Interval interval_of(double value, std::vector<double> resampled, double level) {
  Interval out;
  out.value = value;
  const auto n = static_cast<double>(resampled.size());
  double sum = 0, squares = 0;
  for (const double v : resampled) sum += v;
  for (const double v : resampled) squares += (v - sum / n) * (v - sum / n);
  out.bias = sum / n - value;
  out.deviation = std::sqrt(squares / (n - 1));
  std::sort(resampled.begin(), resampled.end());
  out.low = quantile_of(resampled, (1 - level) / 2) - out.bias;
  out.high = quantile_of(resampled, (1 + level) / 2) - out.bias;
  return out;
}

FeatureSet resampled_set(const FeatureSet& set, const at::Tensor& rows) {
  FeatureSet out;
  out.keep_features = true;
  out.add(set.features.index_select(0, rows.to(set.features.device())));
  return out;
}

// One side of the Fréchet distance, resampled.
class FrechetSide {
 public:
  FrechetSide(const FeatureSet& set, const char* side, const at::Tensor& centre)
      : set_(set), side_(side) {
    if (!set.features.defined()) return;
    rows_ = set.features.to(at::kDouble) - centre.to(set.features.device());
    norms_ = rows_.square().sum(1);
  }
  bool fixed() const { return !rows_.defined(); }
  bool few() const { return !fixed() && rows_.size(0) <= rows_.size(1); }
  const at::Tensor& rows() const { return rows_; }

  void draw(const BootstrapOptions& options, int64_t index) {
    if (fixed()) return;
    const int64_t n = rows_.size(0);
    picked_ = resampled_rows(options, index, side_, n).to(rows_.device());
    weights_ = multiplicities(picked_, n);
    mean_ = weights_.matmul(rows_) / static_cast<double>(n);
  }
  const at::Tensor& weights() const { return weights_; }
  const at::Tensor& mean() const { return mean_; }
  double trace() const {
    const auto n = static_cast<double>(rows_.size(0));
    return (weights_.dot(norms_).item<double>() -
            n * mean_.square().sum().item<double>()) / (n - 1);
  }

  // As a set about the common centre.
  FeatureSet moments(const at::Tensor& centre) const {
    FeatureSet out;
    out.count = set_.count;
    if (fixed()) {
      out = set_;
      out.mean = set_.mean - centre.to(set_.mean.device());
      return out;
    }
    out.mean = mean_;
    if (few()) {
      out.features = rows_.index_select(0, picked_);
    } else {
      const at::Tensor scaled = (rows_ - mean_) * weights_.sqrt().unsqueeze(1);
      out.scatter = scaled.t().mm(scaled);
    }
    return out;
  }

 private:
  const FeatureSet& set_;
  const char* side_;
  at::Tensor rows_, norms_, picked_, weights_, mean_;
};

// From the product of all rows, G = X Y^T: weights and centring act on it from both sides.
double distance_by_product(const FrechetSide& x, const FrechetSide& y,
                           const at::Tensor& product) {
  const auto n = static_cast<double>(product.size(0));
  const auto m = static_cast<double>(product.size(1));
  const at::Tensor mean_y = x.weights().matmul(product) / n;  // mean of X with each y
  const at::Tensor mean_x = product.matmul(y.weights()) / m;
  const double both = x.weights().dot(mean_x).item<double>() / n;
  const at::Tensor in_x = x.weights().nonzero().flatten();
  const at::Tensor in_y = y.weights().nonzero().flatten();
  at::Tensor part = product.index_select(0, in_x).index_select(1, in_y);
  part -= mean_y.index_select(0, in_y);
  part -= mean_x.index_select(0, in_x).unsqueeze(1);
  part += both;
  part *= x.weights().index_select(0, in_x).sqrt().unsqueeze(1);
  part *= y.weights().index_select(0, in_y).sqrt();
  if (part.size(0) > part.size(1)) part = part.t();
  // Singular values by the Gram matrix: 1e-8 of the greatest is far within an interval.
  const double nuclear =
      at::linalg_eigvalsh(part.mm(part.t())).clamp_min(0).sqrt().sum().item<double>() /
      std::sqrt((n - 1) * (m - 1));
  return (x.mean() - y.mean()).square().sum().item<double>() + x.trace() + y.trace() -
         2 * nuclear;
}

// Sums over pairs of different rows, for each resample (row of `weights`, [B, m]), over
// what their number is.
at::Tensor own_means(const at::Tensor& rows, const at::Tensor& weights) {
  at::Tensor sums = at::zeros({weights.size(0)}, weights.options());
  visit_kernel_tiles(rows, rows, true, 2048,
                     [&](int64_t i, int64_t j, at::Tensor values) {
    if (i == j) {
      values = values.clone();
      values.diagonal().zero_();
    }
    const at::Tensor left = weights.narrow(1, i, values.size(0)).mm(values);
    sums += (left * weights.narrow(1, j, values.size(1))).sum(1) * (i == j ? 1 : 2);
  });
  return sums / (weights.sum(1).square() - weights.square().sum(1));
}

at::Tensor cross_means(const at::Tensor& x, const at::Tensor& y, const at::Tensor& wx,
                       const at::Tensor& wy) {
  at::Tensor sums = at::zeros({wx.size(0)}, wx.options());
  visit_kernel_tiles(x, y, false, 2048,
                     [&](int64_t i, int64_t j, const at::Tensor& values) {
    const at::Tensor left = wx.narrow(1, i, values.size(0)).mm(values);
    sums += (left * wy.narrow(1, j, values.size(1))).sum(1);
  });
  return sums / (wx.sum(1) * wy.sum(1));
}

}  // namespace

Interval bootstrap_frechet(const FeatureSet& reference, const FeatureSet& generated,
                           const BootstrapOptions& options) {
  check_bootstrap(generated, options);
  const at::NoGradGuard no_grad;
  const double value = frechet_distance(reference, generated);
  const at::Tensor centre = generated.mean;
  FrechetSide x(reference, "reference", centre), y(generated, "generated", centre);
  at::Tensor product;
  if (x.few() && y.few()) product = x.rows().to(y.rows().device()).mm(y.rows().t());
  std::vector<double> values;
  for (int64_t b = 0; b < options.resamples; ++b) {
    x.draw(options, b);
    y.draw(options, b);
    values.push_back(product.defined()
                         ? distance_by_product(x, y, product)
                         : frechet_distance(x.moments(centre), y.moments(centre)));
  }
  Interval out = interval_of(value, std::move(values), options.level);
  out.low = std::max(out.low, 0.0);
  return out;
}

Interval bootstrap_kernel_distance(const FeatureSet& reference,
                                   const FeatureSet& generated,
                                   const BootstrapOptions& options) {
  check_bootstrap(generated, options);
  FM_CHECK_USAGE(reference.features.defined(), "bootstrap of a kernel distance: the "
                 "reference must keep its features; statistics do not hold them");
  const at::NoGradGuard no_grad;
  const at::Tensor& y = generated.features;
  const at::Tensor x = reference.features.to(y.device());
  const double value = kernel_distance(x, y).value;
  std::vector<at::Tensor> some_x, some_y;
  for (int64_t b = 0; b < options.resamples; ++b) {
    some_x.push_back(multiplicities(
        resampled_rows(options, b, "reference", x.size(0)), x.size(0)));
    some_y.push_back(multiplicities(
        resampled_rows(options, b, "generated", y.size(0)), y.size(0)));
  }
  const at::Tensor wx = at::stack(some_x).to(y.device());
  const at::Tensor wy = at::stack(some_y).to(y.device());
  const at::Tensor values =
      (own_means(x, wx) + own_means(y, wy) - 2 * cross_means(x, y, wx, wy)).cpu();
  const double* begin = values.const_data_ptr<double>();
  return interval_of(value, {begin, begin + values.numel()}, options.level);
}

Interval bootstrap(const SetDistance& distance, const FeatureSet& reference,
                   const FeatureSet& generated, const BootstrapOptions& options) {
  check_bootstrap(generated, options);
  const double value = distance(reference, generated);
  std::vector<double> values;
  for (int64_t b = 0; b < options.resamples; ++b) {
    const FeatureSet y = resampled_set(
        generated, resampled_rows(options, b, "generated", generated.count));
    const bool exact = !reference.features.defined();
    const FeatureSet x =
        exact ? FeatureSet()
              : resampled_set(reference, resampled_rows(options, b, "reference",
                                                        reference.count));
    values.push_back(distance(exact ? reference : x, y));
  }
  return interval_of(value, std::move(values), options.level);
}

}  // namespace flowmap::metrics
