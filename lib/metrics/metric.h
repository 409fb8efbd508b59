// Features and metrics. A detector turns images into rows of features; a metric turns two
// accumulated sets into one number. Neither knows where images come from.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/config.h"

namespace flowmap::metrics {

// samples -> features.
class Detector {
 public:
  virtual ~Detector() = default;
  virtual std::string name() const = 0;      // "fmnist64", "points"
  virtual std::string checksum() const = 0;  // SHA-256 or CRC of the weights; "" if none
  virtual int64_t dimensions() const = 0;
  // images uint8 [B, C, H, W] (gray repeated or reduced as the detector needs), or points
  // float [B, d] -> float32 [B, dimensions]. Throws UsageError on a shape it cannot take.
  virtual at::Tensor features(const at::Tensor& samples) = 0;
};

struct DetectorEntry {
  const char* name;
  const char* summary;
  std::shared_ptr<Detector> (*make)(const Config& options);  // "path": weights
};
const std::vector<DetectorEntry>& detector_registry();
std::shared_ptr<Detector> make_detector(const std::string& name, const Config& options);

// One side of a comparison, accumulated batch by batch and mergeable: count, mean and
// scatter in float64 (shifted sums), and the features themselves where the metric wants
// them.
struct FeatureSet {
  int64_t count = 0;
  at::Tensor mean;      // float64 [d]
  at::Tensor scatter;   // float64 [d, d], sum of (f - mean)(f - mean)^T
  at::Tensor features;  // [count, d] as added (detectors: float32) if kept
  bool keep_features = false;

  void add(const at::Tensor& batch);    // [B, d]
  void merge(const FeatureSet& other);
  at::Tensor covariance() const;        // scatter / (count - 1)
};

// What a result line says.
struct Result {
  std::string name;  // "fd_fmnist64_10k", "kl48"
  double value = 0;
  int64_t count = 0;
};

class Metric {
 public:
  virtual ~Metric() = default;
  virtual bool needs_features() const = 0;
  // `reference`, `generated`: what the detector (or the points themselves) gave.
  virtual double compute(const FeatureSet& reference, const FeatureSet& generated) = 0;
  // False where `reference` is ignored: the metric knows its target.
  virtual bool needs_reference() const { return true; }
  // Further numbers for the result line, by name.
  virtual std::vector<std::pair<std::string, double>> details(const FeatureSet&,
                                                              const FeatureSet&) {
    return {};
  }
};

struct MetricEntry {
  const char* name;  // "fd", "kl48"
  const char* summary;
  const char* paper;
  std::shared_ptr<Metric> (*make)(const Config& options);
};
const std::vector<MetricEntry>& metric_registry();
// "kl48" stands for "klM" with any M (option "bins"). Throws UsageError.
std::shared_ptr<Metric> make_metric(const std::string& name, const Config& options);

}  // namespace flowmap::metrics
