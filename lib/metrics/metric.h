// Features and metrics. A detector turns images into rows of features; a metric turns two
// accumulated sets into numbers. Neither knows where images come from.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flowmap/base/config.h"

namespace flowmap::metrics {

// A place of a detector's network that hands out features.
struct FeatureLayer {
  std::string name;        // "2048", "768", "spatial", "logits"
  int64_t dimensions = 0;
};

// samples -> features.
class Detector {
 public:
  virtual ~Detector() = default;
  virtual std::string name() const = 0;      // "inception", "fmnist64", "points"
  virtual std::string checksum() const = 0;  // SHA-256 of the weights' file; "" if none
  // How pictures are brought to the network's size: "clean", "legacy_tensorflow",
  // "legacy_pytorch", "edm"; "native": they have it.
  virtual std::string mode() const { return "native"; }
  // What it gives; the first is what metrics take that ask for none.
  virtual std::vector<FeatureLayer> layers() const = 0;
  // Why it does not give layer `name` and what to do about it ("the weights end at
  // mixed_8; ..."); "" where it knows nothing of such a layer.
  virtual std::string why_missing(const std::string& name) const {
    static_cast<void>(name);
    return "";
  }
  // samples: images uint8 [B, C, H, W] of any size (gray repeated or reduced as the
  // detector needs), or points float [B, d]; on any device. Returns for each name in
  // `layers` float32 [B, dimensions] on the detector's device, all from one pass. Throws
  // UsageError on a shape that it cannot take.
  virtual std::vector<at::Tensor> features(const at::Tensor& samples,
                                           std::span<const std::string> layers) = 0;
};

// Options of a detector: "path" (weights), "mode", "device" ("cpu", "cuda:0"), "dtype"
// ("float32" | "bf16"), "dimensions" (of points). A detector reads those that it has;
// the others may be given and are not looked at.
struct DetectorEntry {
  const char* name;
  const char* summary;
  std::shared_ptr<Detector> (*make)(const Config& options);
};
const std::vector<DetectorEntry>& detector_registry();
std::shared_ptr<Detector> make_detector(const std::string& name, const Config& options);

// One side of a comparison, accumulated batch by batch in one pass and mergeable: count,
// mean and scatter in float64 (pairwise updates) on the device of the first batch, and the
// features themselves where the metric wants them.
struct FeatureSet {
  int64_t count = 0;
  at::Tensor mean;      // float64 [d]
  at::Tensor scatter;   // float64 [d, d], sum of (f - mean)(f - mean)^T
  at::Tensor features;  // [count, d] as added (detectors: float32) if kept
  bool keep_features = false;

  // batch: [B, d], floating, on any device. Throws Error on other shapes, and on another d.
  void add(const at::Tensor& batch);
  void merge(const FeatureSet& other);
  at::Tensor covariance() const;        // scatter / (count - 1)

 private:
  struct Buffer;
  void keep(const at::Tensor& rows);
  std::shared_ptr<Buffer> buffer_;  // what `features` is the beginning of
};

// A number that a metric gives. The first of a metric's is what its name promises
// (name ""), or each has its own ("precision", "recall").
struct MetricValue {
  std::string name;
  double value = 0;
  bool detail = false;  // stands in the line's brackets ("standard error"), no result
};

class Metric {
 public:
  virtual ~Metric() = default;
  // The detector's layer that it is made of; "": the detector's first.
  virtual std::string layer() const { return ""; }
  // The only detector whose numbers may carry this name ("fid": "inception"); "": any.
  virtual std::string detector() const { return ""; }
  virtual bool needs_features() const = 0;
  // False where `reference` is ignored: the metric knows its target, or wants none.
  virtual bool needs_reference() const { return true; }
  // `reference`, `generated`: what the detector (or the points themselves) gave. Throws
  // Error where they are too few or not finite.
  virtual std::vector<MetricValue> compute(const FeatureSet& reference,
                                           const FeatureSet& generated) = 0;
};

// A metric's name may end in a number, which is option `number` of the entry: "fid768"
// sets "layer" to 768, "kl96" sets "bins" to 96. Without one, the option's own default.
struct MetricEntry {
  const char* name;     // without the number: "fid", "kl"
  const char* number;   // "layer", "bins", "k"; nullptr: takes none
  const char* summary;
  const char* paper;
  std::shared_ptr<Metric> (*make)(const Config& options);
};
const std::vector<MetricEntry>& metric_registry();
// Throws UsageError: an unknown name, a number where none belongs or out of its range.
std::shared_ptr<Metric> make_metric(const std::string& name, const Config& options);

}  // namespace flowmap::metrics
