// Results as lines and as JSON.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "apps/score.h"

namespace flowmap::apps {

struct ScoreReport {
  std::string samples;       // what was scored: a path, a network
  std::string samples_key = "images";  // of that in JSON
  std::string noun = "images";         // "points"
  std::string made_by;                 // "1 step of flow_map"; "" of files
  int64_t seed = 0;
  std::vector<std::string> block_names;  // "seeds 0-49999", one a block
  std::vector<BlockScores> blocks;
  // Of the detector and the reference.
  std::string detector, checksum, mode;
  std::string reference;  // "" if there is none
  std::optional<int64_t> reference_count;
};
// With the facts of `scoring`, without blocks.
ScoreReport begin_report(const Scoring& scoring, const DatasetInfo& info);

// "fid10k: 3.21  (10000 images against 50000 of REF, mode edm, detector inception sha256
// 0123456789ab)"; for several blocks a line each, then "fid10k: min .., mean .., spread .."
// (largest less smallest).
std::string report_text(const ScoreReport& report);
// One object: results (name -> value; the mean of several blocks), details, and the facts
// of the lines; repeats and intervals where asked for. With torch-fidelity's keys
// (frechet_inception_distance, inception_score_mean, ...) for what these mean there: the
// Inception's last layer.
std::string report_json(const ScoreReport& report);
// To the standard output.
void print_report(const ScoreReport& report, bool json);

// name -> value (the mean of several blocks).
std::vector<std::pair<std::string, double>> final_scores(const ScoreReport& report);
// Adds the scores to the metadata of a snapshot. check_record throws UsageError where
// `path` is none.
void check_record(const std::string& path);
void record_scores(const ScoreReport& report, const std::string& path,
                   const std::string& how);

}  // namespace flowmap::apps
