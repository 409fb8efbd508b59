// A training run that scores itself: "metrics" and "metrics_options" of a configuration.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "apps/score.h"
#include "flowmap/base/config.h"
#include "flowmap/data/dataset.h"
#include "flowmap/train/options.h"
#include "flowmap/train/trainer.h"
#include "samplers/sampler.h"

namespace flowmap::apps {

// "metrics_options".
struct TrainMetricsOptions {
  int64_t every = 1;      // snapshots between scores; the last one is always scored
  int64_t num = 10000;    // samples, seeds from `seed` on
  int64_t seed = 0;
  int64_t steps = 0;      // of the sampler; 0: the method's
  std::vector<double> times;  // the method's own knots, where steps are not given
  std::string sampler;    // "": the method's
  int64_t batch = 64;
  std::string ref;        // statistics or samples; "": the training data
  DetectorFlags detector;  // "detector", "mode", "dtype"
  bool force = false;
};

class TrainMetrics {
 public:
  // Reads both keys; nullptr where there are no metrics. Opens the reference, the detector
  // and the sampler, so that what cannot work is refused before training starts
  // (UsageError, DataError). `method_info` is the task's snapshot_info().
  static std::shared_ptr<TrainMetrics> from_config(const Config& config,
                                                   std::shared_ptr<Dataset> data,
                                                   const TrainOptions& trainer,
                                                   const std::string& method_info);

  // Scores every N-th snapshot: appends a line to metric-NAME.jsonl for each score (keys
  // of StyleGAN's) and, for fid, writes fid.json (FastGen's). A snapshot of the same bytes
  // is not scored twice, so that a run that goes on repeats nothing. On Ctrl-C returns
  // without a score.
  void on_snapshot(const SnapshotEvent& event);
  // Whether the snapshot at so many images is one to score.
  bool due(int64_t images_seen) const;

 private:
  TrainMetrics(TrainMetricsOptions options, std::vector<std::string> names,
               const TrainOptions& trainer)
      : options_(std::move(options)), names_(std::move(names)), trainer_(trainer) {}

  TrainMetricsOptions options_;
  std::vector<std::string> names_;
  TrainOptions trainer_;
  std::shared_ptr<samplers::Sampler> sampler_;
  std::unique_ptr<Scoring> scoring_;
};

}  // namespace flowmap::apps
