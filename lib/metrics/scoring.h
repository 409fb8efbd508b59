// From samples to named numbers: which layers of a detector the metrics asked for need,
// one pass of the detector for all of them, and names that say what was measured.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "metrics/metric.h"

namespace flowmap::metrics {

// Samples of one shape and their places in the portion that they belong to: pictures of
// different sizes cannot share a tensor.
struct SampleGroup {
  at::Tensor samples;          // uint8 [b, C, H, W], or float points [b, d]
  std::vector<int64_t> places;
};

// Features of one side, a set a layer.
struct SampleFeatures {
  std::map<std::string, FeatureSet> layers;
  int64_t count = 0;
  const FeatureSet& at(const std::string& layer) const;
};

// One number.
struct Score {
  std::string name;    // "fid10k", "fid50k_full", "precision3_10k"
  std::string group;   // of all values of its metric: "fid10k", "pr3_10k"
  std::string metric;  // as it was asked for: "fid", "pr3"
  std::string value_name;  // of MetricValue: "", "precision"
  std::string layer;
  double value = 0;
  int64_t count = 0;   // generated samples
  bool compares = true;
  std::vector<std::pair<std::string, double>> details;
};

class Scorer {
 public:
  // `metrics`: names of the registry ("fid", "kid768"); `keep_features`: for intervals and
  // neighbours, whatever the metrics need. Throws UsageError naming the metric: unknown,
  // one that only another detector's numbers may carry, a layer that the detector lacks.
  Scorer(std::shared_ptr<Detector> detector, const std::vector<std::string>& metrics,
         bool keep_features);
  // No metrics: the features of these layers, kept.
  Scorer(std::shared_ptr<Detector> detector, std::vector<FeatureLayer> layers);

  struct Asked {
    std::string name, stem, number;  // "fid768", "fid", "768"
    std::shared_ptr<Metric> metric;
    std::string layer;
  };

  Detector& detector() const { return *detector_; }
  const std::vector<Asked>& asked() const { return asked_; }
  // What is needed of the detector, each once, in its order.
  const std::vector<FeatureLayer>& layers() const { return layers_; }
  bool needs_reference() const;
  // Whether a side of `count` samples keeps the features themselves: where a metric wants
  // them, and where the covariance of so few would be singular.
  bool keeps(const FeatureLayer& layer, int64_t count) const;
  // Whether some metric of the layer needs the reference's features and not only moments.
  const Asked* needs_reference_features(const std::string& layer) const;

  // Every number of the metrics, in the order asked. `reference_count`: if known.
  std::vector<Score> scores(const SampleFeatures& reference,
                            std::optional<int64_t> reference_count,
                            const SampleFeatures& generated) const;

 private:
  std::shared_ptr<Detector> detector_;
  std::vector<Asked> asked_;
  std::vector<FeatureLayer> layers_;
  bool keep_features_ = false;
};

// Gathers the features of one side, portion by portion.
class FeatureCollector {
 public:
  // `expected`: how many samples will come, as far as is known.
  FeatureCollector(const Scorer& scorer, int64_t expected);
  void add(const at::Tensor& samples);
  // A portion in parts; its rows are added in the order of their places, 0 to the sum of
  // all parts.
  void add(std::span<const SampleGroup> portion);
  int64_t count() const { return count_; }
  // Once, at the end. With fewer than `expected` samples all is as well.
  SampleFeatures finish();

 private:
  void add_features(const std::vector<at::Tensor>& features);
  const Scorer& scorer_;
  std::vector<std::string> names_;
  std::vector<FeatureSet> sets_;
  int64_t count_ = 0;
};

// "10k", "500".
std::string count_text(int64_t count);

// The name of a number: "fid10k", "fid768_10k", "fid50k_full" (50,000 generated against a
// reference of at least as many), "precision3_10k"; over other detectors than Inception
// "fd_fmnist64_10k", and with the layer where there are several: "fd_inception_768_10k".
// Metrics without a reference over points are called as they were asked for ("kl48").
std::string score_name(const Scorer::Asked& asked, const std::string& value_name,
                       const Detector& detector, int64_t count,
                       std::optional<int64_t> reference_count);

// Asked of a detector of this name, metrics that only Inception's numbers may be called by
// are computed and take another name: random or unknown weights.
bool is_unknown_inception(const Detector& detector);

}  // namespace flowmap::metrics
