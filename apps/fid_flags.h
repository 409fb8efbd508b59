// The words of `flowmap fid` and what they share.
#pragma once

#include <span>
#include <string>

#include "apps/score_report.h"

namespace CLI {
class App;
}

namespace flowmap::apps {

// Flags of the scoring words (calc, gen).
struct FidFlags {
  ScoreFlags score;
  std::string ref, num, record, record_as, nearest;
  int64_t seed = 0, repeats = 1;
  bool json = false;
};
// --ref --metrics --batch --repeats --bootstrap --json --force --record --record-as
// --nearest, and the detector's: --detector --mode.
void add_fid_flags(CLI::App& app, FidFlags& flags);
// --detector, --mode.
void add_detector_flags(CLI::App& app, DetectorFlags& flags);
// What can be refused before any file is read but --ref: names of metrics and detectors,
// metrics without their reference.
void check_fid_flags(const FidFlags& flags);
// "--num": `text` as a count of at least 2, or `fallback` where it is "".
int64_t wanted_count(const std::string& text, int64_t fallback);

// The closest pairs of samples (left) and reference (right) as a PNG, closest first.
void draw_nearest(const std::string& png, const Scoring& scoring,
                  const SampleSource& samples, const BlockScores& block);
// Throws UsageError unless the flags allow that picture.
void check_nearest(const FidFlags& flags);

// Each parses the words after its own and does it; see verb_fid.cpp.
int fid_calc(std::span<const std::string> words);
int fid_gen(std::span<const std::string> words);
int fid_ref(std::span<const std::string> words);
int fid_features(std::span<const std::string> words);
int fid_pair(std::span<const std::string> words);

}  // namespace flowmap::apps
