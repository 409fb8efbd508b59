#include <ATen/ATen.h>

#include <algorithm>

#include "flowmap/base/error.h"
#include "metrics/scoring.h"

namespace flowmap::metrics {

FeatureCollector::FeatureCollector(const Scorer& scorer, int64_t expected)
    : scorer_(scorer) {
  for (const FeatureLayer& layer : scorer.layers()) {
    names_.push_back(layer.name);
    sets_.emplace_back();
    sets_.back().keep_features = scorer.keeps(layer, expected);
  }
}

void FeatureCollector::add(const at::Tensor& samples) {
  const at::NoGradGuard no_grad;
  add_features(scorer_.detector().features(samples, names_));
  count_ += samples.size(0);
}

void FeatureCollector::add(std::span<const SampleGroup> portion) {
  if (portion.size() == 1 &&
      std::is_sorted(portion[0].places.begin(), portion[0].places.end()))
    return add(portion[0].samples);
  const at::NoGradGuard no_grad;
  std::vector<std::vector<at::Tensor>> parts(names_.size());
  std::vector<int64_t> places;
  for (const SampleGroup& group : portion) {
    const auto features = scorer_.detector().features(group.samples, names_);
    for (std::size_t i = 0; i < names_.size(); ++i) parts[i].push_back(features.at(i));
    places.insert(places.end(), group.places.begin(), group.places.end());
  }
  // Row r of the joined parts is sample places[r]; rows in the order of their samples.
  const at::Tensor order = at::tensor(places, at::kLong).argsort();
  std::vector<at::Tensor> rows;
  for (const auto& part : parts) {
    const at::Tensor joined = at::cat(part);
    rows.push_back(joined.index_select(0, order.to(joined.device())));
  }
  add_features(rows);
  count_ += static_cast<int64_t>(places.size());
}

void FeatureCollector::add_features(const std::vector<at::Tensor>& features) {
  FM_CHECK(features.size() == sets_.size(), "detector ", scorer_.detector().name(),
           " gave ", features.size(), " layers of ", sets_.size());
  for (std::size_t i = 0; i < sets_.size(); ++i) sets_[i].add(features[i]);
}

SampleFeatures FeatureCollector::finish() {
  SampleFeatures result;
  result.count = count_;
  for (std::size_t i = 0; i < names_.size(); ++i)
    result.layers[names_[i]] = std::move(sets_[i]);
  return result;
}

}  // namespace flowmap::metrics
