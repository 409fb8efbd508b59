#include "metrics/memorisation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "flowmap/base/error.h"
#include "metrics/entries.h"
#include "metrics/neighbours.h"

namespace flowmap::metrics {
namespace {

class MemorisationMetric final : public Metric {
 public:
  explicit MemorisationMetric(std::string layer) : layer_(std::move(layer)) {}
  std::string layer() const override { return layer_; }
  bool needs_features() const override { return true; }
  std::vector<MetricValue> compute(const FeatureSet& reference,
                                   const FeatureSet& generated) override {
    const Memorisation result = memorisation(reference.features, generated.features);
    return {{"authenticity", result.authenticity},
            {"memorised", result.memorised},
            {"median ratio", result.median_ratio, true}};
  }

 private:
  std::string layer_;
};

// The lower middle one of an even number is averaged with the upper.
double median_of(std::vector<double> values) {
  const std::size_t half = values.size() / 2;
  std::sort(values.begin(), values.end());
  if (values.size() % 2 == 1 || values[half - 1] == values[half]) return values[half];
  return (values[half - 1] + values[half]) / 2;
}

}  // namespace

Memorisation memorisation(const at::Tensor& reference, const at::Tensor& generated) {
  FM_CHECK(reference.defined() && reference.size(0) >= 2, "a memorisation check needs the "
           "features of at least 2 reference samples; statistics do not hold them");
  const Neighbours nearest = nearest_neighbours(generated, reference, 2);
  // Each reference row that some generated row is nearest to, once, and the distance to
  // its own nearest other row: the row itself is the first, at 0.
  const auto [who, which, repeats] = at::_unique2(nearest.rows.select(1, 0), true, true);
  const at::Tensor own =
      nearest_neighbours(reference.index_select(0, who.to(reference.device())), reference,
                         2)
          .squares.select(1, 1)
          .index_select(0, which);
  const int64_t n = generated.size(0);
  const auto first = nearest.squares.select(1, 0).contiguous();
  const auto second = nearest.squares.select(1, 1).contiguous();
  const auto* d1 = first.const_data_ptr<double>();
  const auto* d2 = second.const_data_ptr<double>();
  const auto* others = own.const_data_ptr<double>();
  int64_t authentic = 0, memorised = 0;
  std::vector<double> ratios;
  for (int64_t i = 0; i < n; ++i) {
    authentic += d1[i] > others[i];
    memorised += d1[i] == 0 || 9 * d1[i] < d2[i];
    ratios.push_back(d1[i] == 0 ? 0 : std::sqrt(d1[i] / others[i]));
  }
  Memorisation out;
  out.authenticity = static_cast<double>(authentic) / static_cast<double>(n);
  out.memorised = static_cast<double>(memorised) / static_cast<double>(n);
  out.median_ratio = median_of(std::move(ratios));
  return out;
}

std::vector<ClosePair> closest_pairs(const at::Tensor& reference,
                                     const at::Tensor& generated, int64_t count) {
  const Neighbours nearest = nearest_neighbours(generated, reference, 1);
  const auto* squares = nearest.squares.const_data_ptr<double>();
  const auto* rows = nearest.rows.const_data_ptr<int64_t>();
  std::vector<int64_t> order(static_cast<std::size_t>(generated.size(0)));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return squares[a] < squares[b]; });
  std::vector<ClosePair> out;
  for (const int64_t i : order) {
    if (static_cast<int64_t>(out.size()) >= count) break;
    out.push_back({i, rows[i], std::sqrt(squares[i])});
  }
  return out;
}

std::shared_ptr<Metric> make_memorisation(const Config& options) {
  return std::make_shared<MemorisationMetric>(options.string("layer", ""));
}

}  // namespace flowmap::metrics
