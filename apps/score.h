// One road from samples to numbers, for `fid calc`, `fid gen`, `fid A B` and for training:
// a reference, a detector that fits, one pass, results with truthful names.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/image_source.h"
#include "metrics/bootstrap.h"
#include "metrics/scoring.h"
#include "metrics/stats_file.h"

namespace flowmap::apps {

struct DetectorFlags {
  std::string detector;  // a name of the registry, or a file of weights; "": what fits
  std::string mode;      // "": what the statistics say, else the verb's
  std::string device, dtype = "float32";
};

struct ScoreFlags {
  DetectorFlags detector;
  std::string metrics;  // comma list; "": fid over Inception, fd over others
  int64_t batch = 64;
  int64_t bootstrap = 0;  // resamples, 0: no intervals
  bool force = false;     // compare what does not fit
  bool skip_bad = false;  // leave out broken pictures
};

// A reference before a detector has seen it. `statistics` or `samples` is set, or neither.
struct Reference {
  std::string name;  // for results: the path
  std::optional<metrics::Statistics> statistics;
  std::shared_ptr<SampleSource> samples;
  // The mode that statistics state, "" if none.
  std::string mode() const { return statistics ? statistics->source.mode : ""; }
};
// A statistics file or samples; `flag` names the option in errors.
Reference open_reference(const std::string& path, const std::string& flag);

// What can be refused before any sample is read.
void check_detector_flags(const DetectorFlags& flags);
// The detector asked for, or by default: FLOWMAP_DETECTOR's; points for points, fmnist64
// for 28x28 gray pictures, else the Inception. A file of weights is a classifier's snapshot
// of ours, else the Inception's. `mode` where the flags give none.
std::shared_ptr<metrics::Detector> open_detector(const DetectorFlags& flags,
                                                 const DatasetInfo& info,
                                                 const std::string& mode);
metrics::FeatureSource feature_source(const metrics::Detector& detector,
                                      const std::string& resolution);

// Positions in a source.
using Rows = std::vector<int64_t>;
// `blocks` disjoint sets of `num` of `count` rows, each rising: all where num = count, else
// seeded random subsets without repeats.
std::vector<Rows> choose_rows(int64_t count, int64_t num, int64_t seed, int64_t blocks);

struct Gathered {
  metrics::SampleFeatures features;
  std::string resolution;  // "28x28", "mixed", "" for points
  Rows rows;               // of the features
};
// One pass of the detector over `rows`. `what` stands in the progress line, `flag` in
// errors. Broken pictures: Error that names and counts them, or with flags.skip_bad a
// warning and fewer rows. Throws Interrupted on Ctrl-C.
Gathered gather(const SampleSource& source, const Rows& rows,
                const metrics::Scorer& scorer, const ScoreFlags& flags,
                const std::string& what, const std::string& flag);

// One set of samples scored.
struct BlockScores {
  std::vector<metrics::Score> scores;
  std::map<std::string, metrics::Interval> intervals;  // by the score's name
  Gathered samples;
};

class Scoring {
 public:
  // `info`: of the samples to be scored. Opens the detector and the metrics. Throws
  // UsageError: a metric without its reference, a detector that does not fit, statistics
  // that do not.
  Scoring(const ScoreFlags& flags, const DatasetInfo& info, Reference reference,
          const std::string& default_mode);

  const metrics::Detector& detector() const { return scorer_->detector(); }
  const metrics::Scorer& scorer() const { return *scorer_; }
  const Reference& reference() const { return reference_; }
  std::optional<int64_t> reference_count() const { return reference_count_; }
  const Gathered& reference_features() const { return reference_features_; }
  // Reads, or has the detector make, the features of the reference; `generated` samples
  // will be compared with it. Once; score() does it where it was not done.
  void prepare(int64_t generated);
  BlockScores score(const SampleSource& source, const Rows& rows, const std::string& flag);

 private:
  void use_statistics(const metrics::Statistics& statistics, int64_t generated,
                      const std::string& resolution);

  ScoreFlags flags_;
  DatasetInfo info_;
  Reference reference_;
  std::unique_ptr<metrics::Scorer> scorer_;
  bool prepared_ = false;
  Gathered reference_features_;
  std::optional<int64_t> reference_count_;
};

}  // namespace flowmap::apps
