#include "metrics/kid.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/ops_pairwise.h"
#include "metrics/entries.h"
#include "metrics/numpy_random.h"

namespace flowmap::metrics {
namespace {

void check_kernel_sets(const at::Tensor& x, const at::Tensor& y, int64_t least) {
  FM_CHECK(x.defined() && y.defined() && x.dim() == 2 && y.dim() == 2,
           "a kernel distance needs the features of both sets themselves, [N, d]; "
           "statistics do not hold them");
  FM_CHECK(x.size(1) == y.size(1) && x.size(1) > 0, "a kernel distance needs features of "
           "one kind, got ", x.size(1), " and ", y.size(1), " dimensions");
  FM_CHECK(x.size(0) >= least && y.size(0) >= least, "a kernel distance needs at least ",
           least, " samples on each side, got ", x.size(0), " and ", y.size(0));
  for (const at::Tensor* rows : {&x, &y})
    FM_CHECK(at::isfinite(*rows).all().item<bool>(), "features are not finite");
}

double kernel_total(const at::Tensor& values) { return values.sum().item<double>(); }

// Sums over pairs of different rows of one set, each pair in both orders.
struct OwnSums {
  at::Tensor rows;     // [m]
  double squares = 0;  // of kernel values
  double all() const { return kernel_total(rows); }
  // Variance of what is left of a kernel value once the two rows' own effects are taken
  // out: least squares on k_ij = a + b_i + b_j, m (m - 3) / 2 degrees of freedom.
  double interaction() const {
    const auto m = static_cast<double>(rows.size(0));
    const at::Tensor centred = rows - rows.mean();
    const double rest = squares / 2 - all() * all() / (2 * m * (m - 1)) -
                        kernel_total(centred.square()) / (m - 2);
    return std::max(rest, 0.0) / (m * (m - 3) / 2);
  }
};

struct CrossSums {
  at::Tensor rows, columns;  // [m], [n]
  double squares = 0;
  // As above, k_ij = a + b_i + c_j, (m - 1) (n - 1) degrees of freedom.
  double interaction() const {
    const auto m = static_cast<double>(rows.size(0));
    const auto n = static_cast<double>(columns.size(0));
    const double all = kernel_total(rows);
    const double rest = squares - all * all / (m * n) -
                        kernel_total((rows - rows.mean()).square()) / n -
                        kernel_total((columns - columns.mean()).square()) / m;
    return std::max(rest, 0.0) / ((m - 1) * (n - 1));
  }
};

OwnSums own_sums(const at::Tensor& x, int64_t tile) {
  OwnSums sums;
  sums.rows = at::zeros({x.size(0)}, x.options().dtype(at::kDouble));
  visit_kernel_tiles(x, x, true, tile, [&](int64_t i0, int64_t j0, at::Tensor values) {
    if (i0 == j0) {
      values = values.clone();
      values.diagonal().zero_();
    }
    sums.rows.narrow(0, i0, values.size(0)) += values.sum(1);
    if (i0 != j0) sums.rows.narrow(0, j0, values.size(1)) += values.sum(0);
    sums.squares += kernel_total(values.square()) * (i0 == j0 ? 1 : 2);
  });
  return sums;
}

CrossSums cross_sums(const at::Tensor& x, const at::Tensor& y, int64_t tile) {
  CrossSums sums;
  sums.rows = at::zeros({x.size(0)}, x.options().dtype(at::kDouble));
  sums.columns = at::zeros({y.size(0)}, x.options().dtype(at::kDouble));
  visit_kernel_tiles(x, y, false, tile,
                     [&](int64_t i0, int64_t j0, const at::Tensor& values) {
                       sums.rows.narrow(0, i0, values.size(0)) += values.sum(1);
                       sums.columns.narrow(0, j0, values.size(1)) += values.sum(0);
                       sums.squares += kernel_total(values.square());
                     });
  return sums;
}

// Variance, over rows x of one set, of E k(x, x') - E k(x, y): of the row's own effect.
// The sums over rows hold some of the interactions too, whose share is taken off.
double own_effect(const OwnSums& own, const at::Tensor& cross, double other_count,
                  double own_interaction, double cross_interaction) {
  const auto m = static_cast<double>(own.rows.size(0));
  const at::Tensor effect = own.rows / (m - 2) - cross / other_count;
  const double variance = kernel_total((effect - effect.mean()).square()) / (m - 1);
  return variance - own_interaction / (m - 2) - cross_interaction / other_count;
}

// Of two sets of m rows, all pairs of different rows and all pairs across.
double small_kernel_distance(const at::Tensor& x, const at::Tensor& y) {
  const auto m = static_cast<double>(x.size(0));
  const auto sum = [&](const at::Tensor& a, const at::Tensor& b, bool own) {
    if (a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat)
      return kernel_total(ops::polynomial_sums(a, b, own ? 0 : ops::kSkipNone));
    const at::Tensor base = a.mm(b.t()).div_(static_cast<double>(a.size(1))).add_(1);
    const at::Tensor values = base.square().mul_(base);
    return kernel_total(values) - (own ? kernel_total(values.diagonal()) : 0.0);
  };
  return (sum(x, x, true) + sum(y, y, true)) / (m * (m - 1)) -
         2 * sum(x, y, false) / (m * m);
}

at::Tensor take_rows(const at::Tensor& rows, const std::vector<int64_t>& which) {
  const at::Tensor index = at::tensor(which, at::kLong).to(rows.device());
  const at::Tensor taken = rows.index_select(0, index);
  return taken.scalar_type() == at::kFloat ? taken : taken.to(at::kDouble);
}

}  // namespace

void visit_kernel_tiles(const at::Tensor& x, const at::Tensor& y, bool symmetric,
                        int64_t tile, const KernelTile& visit) {
  FM_CHECK(tile >= 1, "kernel tiles of ", tile, " rows");
  const auto d = static_cast<double>(x.size(1));
  for (int64_t i = 0; i < x.size(0); i += tile) {
    const at::Tensor a =
        x.narrow(0, i, std::min(tile, x.size(0) - i)).to(at::kDouble);
    for (int64_t j = symmetric ? i : 0; j < y.size(0); j += tile) {
      const at::Tensor b = symmetric && i == j
                               ? a
                               : y.narrow(0, j, std::min(tile, y.size(0) - j))
                                     .to(x.device(), at::kDouble);
      const at::Tensor base = a.mm(b.t()).div_(d).add_(1);
      visit(i, j, base.square().mul_(base));
    }
  }
}

KernelDistance kernel_distance(const at::Tensor& reference, const at::Tensor& generated,
                               int64_t tile) {
  check_kernel_sets(reference, generated, 4);
  const at::NoGradGuard no_grad;
  const at::Tensor& y = generated;
  const at::Tensor x = reference.to(y.device());
  const OwnSums xx = own_sums(x, tile), yy = own_sums(y, tile);
  const CrossSums xy = cross_sums(x, y, tile);
  const auto m = static_cast<double>(x.size(0)), n = static_cast<double>(y.size(0));
  KernelDistance out;
  out.value = xx.all() / (m * (m - 1)) + yy.all() / (n * (n - 1)) -
              2 * kernel_total(xy.rows) / (m * n);
  const double vxx = xx.interaction(), vyy = yy.interaction(), vxy = xy.interaction();
  const double first_order = 4 / m * own_effect(xx, xy.rows, n, vxx, vxy) +
                             4 / n * own_effect(yy, xy.columns, m, vyy, vxy);
  const double second_order =
      2 * vxx / (m * (m - 1)) + 2 * vyy / (n * (n - 1)) + 4 * vxy / (m * n);
  out.standard_error = std::sqrt(std::max(first_order, 0.0) + second_order);
  FM_CHECK(std::isfinite(out.value) && std::isfinite(out.standard_error),
           "the kernel distance is not finite");
  return out;
}

KidSubsets kid_subsets(const at::Tensor& reference, const at::Tensor& generated,
                       const KidSubsetOptions& options) {
  check_kernel_sets(reference, generated, 2);
  const int64_t size = options.subset_size;
  FM_CHECK_USAGE(size >= 2 && options.subsets >= 1, "KID by subsets: subset_size must be 2 "
                 "or more and subsets 1 or more, got ", size, " and ", options.subsets);
  FM_CHECK_USAGE(reference.size(0) >= size && generated.size(0) >= size, "KID by subsets "
                 "of ", size, " samples needs as many on each side, got ",
                 reference.size(0), " and ", generated.size(0),
                 "; give more samples or a smaller subset_size");
  NumpyRandom random(options.seed);
  KidSubsets out;
  for (int64_t k = 0; k < options.subsets; ++k) {
    const auto fake = random.choice(generated.size(0), size);
    const auto real = random.choice(reference.size(0), size);
    out.values.push_back(small_kernel_distance(
        take_rows(generated, fake), take_rows(reference, real).to(generated.device())));
  }
  const at::Tensor values = at::tensor(out.values, at::kDouble);
  out.mean = values.mean().item<double>();
  out.deviation = std::sqrt((values - out.mean).square().mean().item<double>());
  return out;
}

double kid_clean_fid(const at::Tensor& reference, const at::Tensor& generated,
                     const KidSubsetOptions& options) {
  check_kernel_sets(reference, generated, 2);
  FM_CHECK_USAGE(options.subset_size >= 2 && options.subsets >= 1, "KID by subsets: "
                 "subset_size must be 2 or more and subsets 1 or more, got ",
                 options.subset_size, " and ", options.subsets);
  const int64_t size =
      std::min({options.subset_size, reference.size(0), generated.size(0)});
  NumpyRandom random(options.seed);
  double sum = 0;
  for (int64_t k = 0; k < options.subsets; ++k) {
    const auto real = random.choice(reference.size(0), size);
    const auto fake = random.choice(generated.size(0), size);
    sum += small_kernel_distance(take_rows(reference, real).to(generated.device()),
                                 take_rows(generated, fake));
  }
  return sum / static_cast<double>(options.subsets);
}

namespace {

class KernelDistanceMetric final : public Metric {
 public:
  KernelDistanceMetric(std::string detector, std::string layer)
      : detector_(std::move(detector)), layer_(std::move(layer)) {}
  std::string layer() const override { return layer_; }
  std::string detector() const override { return detector_; }
  bool needs_features() const override { return true; }
  std::vector<MetricValue> compute(const FeatureSet& reference,
                                   const FeatureSet& generated) override {
    const auto result = kernel_distance(reference.features, generated.features);
    return {{"", result.value}, {"standard error", result.standard_error, true}};
  }

 private:
  std::string detector_, layer_;
};

class KidSubsetsMetric final : public Metric {
 public:
  explicit KidSubsetsMetric(const Config& options) : layer_(inception_layer(options)) {
    static const std::vector<std::string> forms = {"torch-fidelity", "clean-fid"};
    clean_fid_ = options.choice("form", forms, forms[0]) == forms[1];
    options_.subset_size = options.integer("subset_size", 1000, 2);
    options_.subsets = options.integer("subsets", 100, 1);
    options_.seed =
        static_cast<std::uint32_t>(options.integer("seed", 2020, 0, 0xffffffff));
  }
  std::string layer() const override { return layer_; }
  std::string detector() const override { return "inception"; }
  bool needs_features() const override { return true; }
  std::vector<MetricValue> compute(const FeatureSet& reference,
                                   const FeatureSet& generated) override {
    if (clean_fid_)
      return {{"", kid_clean_fid(reference.features, generated.features, options_)}};
    const auto result = kid_subsets(reference.features, generated.features, options_);
    return {{"", result.mean}, {"deviation over subsets", result.deviation, true}};
  }

 private:
  std::string layer_;
  bool clean_fid_ = false;
  KidSubsetOptions options_;
};

}  // namespace

std::shared_ptr<Metric> make_kernel_distance(const Config& options) {
  return std::make_shared<KernelDistanceMetric>("", options.string("layer", ""));
}

std::shared_ptr<Metric> make_kid(const Config& options) {
  return std::make_shared<KernelDistanceMetric>("inception", inception_layer(options));
}

std::shared_ptr<Metric> make_kid_subsets(const Config& options) {
  return std::make_shared<KidSubsetsMetric>(options);
}

}  // namespace flowmap::metrics
