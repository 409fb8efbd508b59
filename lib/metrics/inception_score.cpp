#include "metrics/inception_score.h"

#include <ATen/ATen.h>

#include <cmath>
#include <string>
#include <utility>

#include "flowmap/base/error.h"
#include "metrics/entries.h"
#include "metrics/numpy_random.h"

namespace flowmap::metrics {
namespace {

class InceptionScoreMetric final : public Metric {
 public:
  InceptionScoreMetric(std::string detector, std::string layer, const Config& options)
      : detector_(std::move(detector)), layer_(std::move(layer)) {
    options_.splits = options.integer("splits", 10, 1, 1 << 20);
    options_.shuffle = options.boolean("shuffle", true);
    options_.seed =
        static_cast<std::uint32_t>(options.integer("seed", 2020, 0, 0xffffffff));
  }
  std::string layer() const override { return layer_; }
  std::string detector() const override { return detector_; }
  bool needs_features() const override { return true; }
  bool needs_reference() const override { return false; }
  std::vector<MetricValue> compute(const FeatureSet&,
                                   const FeatureSet& generated) override {
    const InceptionScore score = inception_score(generated.features, options_);
    return {{"", score.mean}, {"deviation over splits", score.deviation, true}};
  }

 private:
  std::string detector_, layer_;
  InceptionScoreOptions options_;
};

}  // namespace

InceptionScore inception_score(const at::Tensor& logits,
                               const InceptionScoreOptions& options) {
  FM_CHECK(logits.defined() && logits.dim() == 2 && logits.size(1) > 0,
           "Inception Score: expected logits [N, classes]");
  const int64_t n = logits.size(0), splits = options.splits;
  FM_CHECK_USAGE(splits >= 1 && n >= splits, "Inception Score: ", n, " samples in ", splits,
                 " splits; give more samples or fewer splits");
  at::Tensor rows = logits.to(at::kDouble);
  FM_CHECK(at::isfinite(rows).all().item<bool>(), "Inception Score: some logits are not "
           "finite");
  if (options.shuffle) {
    const at::Tensor order = at::tensor(NumpyRandom(options.seed).permutation(n), at::kLong);
    rows = rows.index_select(0, order.to(rows.device()));
  }
  const at::Tensor log_p = rows.log_softmax(1), p = log_p.exp();
  InceptionScore score;
  for (int64_t i = 0; i < splits; ++i) {
    const int64_t begin = i * n / splits, size = (i + 1) * n / splits - begin;
    const at::Tensor part = p.narrow(0, begin, size);
    // A class that no row gives at all adds nothing: 0 times the logarithm of 0.
    const at::Tensor mean = part.mean(0);
    const at::Tensor gain = at::where(part > 0, part * (log_p.narrow(0, begin, size) -
                                                        mean.log()), 0.0);
    score.values.push_back(std::exp(gain.sum(1).mean().item<double>()));
  }
  const at::Tensor values = at::tensor(score.values, at::kDouble);
  score.mean = values.mean().item<double>();
  score.deviation = std::sqrt((values - score.mean).square().mean().item<double>());
  return score;
}

std::shared_ptr<Metric> make_inception_score(const Config& options) {
  return std::make_shared<InceptionScoreMetric>("inception", "logits_unbiased", options);
}

std::shared_ptr<Metric> make_classifier_score(const Config& options) {
  return std::make_shared<InceptionScoreMetric>("", options.string("layer", "logits"),
                                                options);
}

}  // namespace flowmap::metrics
