#include "metrics/precision_recall.h"

#include <ATen/ATen.h>

#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "metrics/entries.h"
#include "metrics/neighbours.h"

namespace flowmap::metrics {

PrecisionRecall precision_recall(const at::Tensor& reference, const at::Tensor& generated,
                                 int64_t k, bool inclusive) {
  FM_CHECK_USAGE(k >= 1, "precision and recall: k must be 1 or more, got ", k);
  FM_CHECK(reference.defined() && generated.defined(), "precision and recall need the "
           "features of both sets themselves; statistics do not hold them");
  FM_CHECK(reference.size(0) > k && generated.size(0) > k, "precision and recall with ", k,
           " neighbours need more than ", k, " samples on each side, got ",
           reference.size(0), " and ", generated.size(0));
  const BallCounts counts = count_in_balls(reference, own_squares(reference, k), generated,
                                           own_squares(generated, k), inclusive);
  const auto share = [](const at::Tensor& some) {
    return static_cast<double>(some.count_nonzero().item<int64_t>()) /
           static_cast<double>(some.numel());
  };
  PrecisionRecall out;
  out.precision = share(counts.around);
  out.recall = share(counts.covered);
  out.density = static_cast<double>(counts.in_row.sum().item<int64_t>()) /
                static_cast<double>(k * generated.size(0));
  out.coverage = share(counts.in_row);
  return out;
}

namespace {

class ManifoldMetric final : public Metric {
 public:
  ManifoldMetric(const Config& options, bool density, int64_t k, const std::string& rule)
      : layer_(options.string("layer", "")), density_(density) {
    static const std::vector<std::string> rules = {"<=", "<"};
    k_ = options.integer("k", k, 1, 1000);
    inclusive_ = options.choice("rule", rules, rule) == "<=";
  }
  std::string layer() const override { return layer_; }
  bool needs_features() const override { return true; }
  std::vector<MetricValue> compute(const FeatureSet& reference,
                                   const FeatureSet& generated) override {
    const PrecisionRecall result =
        precision_recall(reference.features, generated.features, k_, inclusive_);
    if (density_) return {{"density", result.density}, {"coverage", result.coverage}};
    return {{"precision", result.precision}, {"recall", result.recall}};
  }

 private:
  std::string layer_;
  bool density_;
  int64_t k_ = 0;
  bool inclusive_ = true;
};

}  // namespace

std::shared_ptr<Metric> make_precision_recall(const Config& options) {
  return std::make_shared<ManifoldMetric>(options, false, 3, "<=");
}

std::shared_ptr<Metric> make_density_coverage(const Config& options) {
  return std::make_shared<ManifoldMetric>(options, true, 5, "<");
}

}  // namespace flowmap::metrics
