#include "apps/score_report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "apps/run_options.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/formats/safetensors.h"
#include "flowmap/train/snapshot.h"

namespace flowmap::apps {
namespace {

using metrics::Score;

// Scores of the same name in all blocks.
std::vector<double> values_of_score(const ScoreReport& report, std::size_t i) {
  std::vector<double> values;
  for (const BlockScores& block : report.blocks) values.push_back(block.scores.at(i).value);
  return values;
}

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) /
         static_cast<double>(values.size());
}

std::string score_facts(const ScoreReport& report, const BlockScores& block,
                        const Score& score) {
  std::string text = std::to_string(score.count) + " " + report.noun;
  if (!report.made_by.empty()) text += " by " + report.made_by;
  if (score.compares)
    text += " against " +
            (report.reference_count ? std::to_string(*report.reference_count)
                                    : "an unknown number") +
            " of " + report.reference;
  text += ", mode " + report.mode + ", detector " + report.detector;
  if (!report.checksum.empty()) text += " sha256 " + report.checksum.substr(0, 12);
  for (const auto& [name, value] : score.details)
    text += format(", %s %.4g", name.c_str(), value);
  if (const auto found = block.intervals.find(score.name); found != block.intervals.end())
    text += format(", 95%% bootstrap interval %.6g to %.6g", found->second.low,
                   found->second.high);
  return text;
}

// torch-fidelity's keys, where the number is what it calls so.
void add_fidelity_keys(const ScoreReport& report, const Score& score, double value,
                       nlohmann::json& out) {
  const auto detail = [&](const char* name) -> nlohmann::json {
    for (const auto& [key, number] : score.details)
      if (key == name) return number;
    return nullptr;
  };
  if (score.value_name.starts_with("precision")) out["precision"] = value;
  if (score.value_name.starts_with("recall")) out["recall"] = value;
  if (report.detector != "inception") return;
  if (score.metric == "fid") out["frechet_inception_distance"] = value;
  if (score.metric == "is") {
    out["inception_score_mean"] = value;
    out["inception_score_std"] = detail("deviation over splits");
  }
  if (score.metric == "kid_subsets") {
    out["kernel_inception_distance_mean"] = value;
    out["kernel_inception_distance_std"] = detail("deviation over subsets");
  } else if (score.metric == "kid" && !out.contains("kernel_inception_distance_mean")) {
    // Over all pairs: the mean that torch-fidelity's subsets estimate, and its error.
    out["kernel_inception_distance_mean"] = value;
    out["kernel_inception_distance_std"] = detail("standard error");
  }
}

}  // namespace

ScoreReport begin_report(const Scoring& scoring, const DatasetInfo& info) {
  ScoreReport report;
  report.noun = info.images ? "images" : "points";
  report.detector = scoring.detector().name();
  report.checksum = scoring.detector().checksum();
  report.mode = scoring.detector().mode();
  if (scoring.scorer().needs_reference()) report.reference = scoring.reference().name;
  report.reference_count = scoring.reference_count();
  return report;
}

std::string report_text(const ScoreReport& report) {
  std::string text;
  const bool several = report.blocks.size() > 1;
  for (std::size_t b = 0; b < report.blocks.size(); ++b)
    for (const Score& score : report.blocks[b].scores)
      text += format("%s: %.6g  (%s%s)\n", score.name.c_str(), score.value,
                     several ? (report.block_names.at(b) + "; ").c_str() : "",
                     score_facts(report, report.blocks[b], score).c_str());
  if (!several) return text;
  for (std::size_t i = 0; i < report.blocks.front().scores.size(); ++i) {
    const std::vector<double> values = values_of_score(report, i);
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    text += format("%s: min %.6g, mean %.6g, spread %.3g over %zu repeats\n",
                   report.blocks.front().scores[i].name.c_str(), *low, mean_of(values),
                   *high - *low, values.size());
  }
  return text;
}

std::vector<std::pair<std::string, double>> final_scores(const ScoreReport& report) {
  std::vector<std::pair<std::string, double>> scores;
  for (std::size_t i = 0; i < report.blocks.at(0).scores.size(); ++i)
    scores.emplace_back(report.blocks[0].scores[i].name,
                        mean_of(values_of_score(report, i)));
  return scores;
}

std::string report_json(const ScoreReport& report) {
  using nlohmann::json;
  const BlockScores& first = report.blocks.at(0);
  json out = {{"results", json::object()},
              {"num_images", first.samples.features.count},
              {report.samples_key, report.samples},
              {"seed", report.seed},
              {"mode", report.mode},
              {"detector", report.detector},
              {"detector_sha256", report.checksum},
              {"resolution", first.samples.resolution}};
  if (!report.reference.empty()) {
    out["ref"] = report.reference;
    out["ref_num_images"] =
        report.reference_count ? json(*report.reference_count) : json(nullptr);
  }
  if (!report.made_by.empty()) out["sampler"] = report.made_by;
  const auto finals = final_scores(report);
  for (std::size_t i = 0; i < finals.size(); ++i) {
    const auto& [name, value] = finals[i];
    const Score& score = first.scores[i];
    out["results"][name] = value;
    for (const auto& [detail, number] : score.details) out["details"][name][detail] = number;
    add_fidelity_keys(report, score, value, out);
    if (report.blocks.size() > 1) {
      const std::vector<double> values = values_of_score(report, i);
      const auto [low, high] = std::minmax_element(values.begin(), values.end());
      out["repeats"][name] = {{"values", values}, {"blocks", report.block_names},
                              {"min", *low}, {"mean", value}, {"spread", *high - *low}};
    }
    if (const auto found = first.intervals.find(name); found != first.intervals.end())
      out["intervals"][name] = {{"low", found->second.low}, {"high", found->second.high},
                                {"level", 0.95},
                                {"standard_error", found->second.deviation},
                                {"bias", found->second.bias}};
  }
  if (out.contains("precision") && out.contains("recall")) {
    const double p = out["precision"], r = out["recall"];
    out["f_score"] = p + r > 0 ? 2 * p * r / (p + r) : 0.0;
  }
  return out.dump(2);
}

void print_report(const ScoreReport& report, bool json) {
  std::printf("%s", json ? (report_json(report) + "\n").c_str()
                         : report_text(report).c_str());
  FM_CHECK(std::fflush(stdout) == 0, "cannot write the result to the standard output");
}

// Scores go into metadata that only snapshots have.
void check_record(const std::string& path) {
  require_file(path, "--record");
  const auto metadata = SafetensorsReader(path).metadata();
  FM_CHECK_USAGE(metadata.contains("flowmap") && metadata.contains("spec"), "--record: ",
                 path, " is no snapshot of this program; take "
                 "network-snapshot-*.safetensors of a run");
}

void record_scores(const ScoreReport& report, const std::string& path,
                   const std::string& how) {
  for (const auto& [name, value] : final_scores(report))
    record_score(path, name, value, report.blocks.at(0).samples.features.count, how);
}

}  // namespace flowmap::apps
