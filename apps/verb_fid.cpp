// flowmap fid calc | ref: samples against a reference, and statistics of a reference.
#include <ATen/ATen.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "apps/cli.h"
#include "apps/image_source.h"
#include "apps/run_options.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/formats/safetensors.h"
#include "flowmap/base/text.h"
#include "flowmap/draw.h"
#include "flowmap/train/snapshot.h"
#include "metrics/metric.h"
#include "metrics/stats_file.h"

namespace flowmap::apps {
namespace {

namespace fs = std::filesystem;
using metrics::Detector;
using metrics::FeatureSet;

struct FidOptions {
  std::string images, ref, dest;
  std::string num, metrics = "fd", detector, record, record_as;
  int64_t seed = 0, batch = 64;
  bool json = false, force = false, overwrite = false;
};

// "10k", "500".
std::string count_text(int64_t count) {
  return count % 1000 == 0 ? std::to_string(count / 1000) + "k" : std::to_string(count);
}

bool is_detector_file(const std::string& given) {
  return given.find('/') != std::string::npos ||
         ends_with_ignoring_case(given, ".safetensors");
}

// What can be refused before any sample is read.
void check_detector_name(const std::string& given) {
  if (given.empty()) return;
  if (is_detector_file(given)) return require_file(given, "--detector");
  std::vector<std::string> names;
  for (const auto& entry : metrics::detector_registry()) names.emplace_back(entry.name);
  FM_CHECK_USAGE(std::count(names.begin(), names.end(), given), "--detector: unknown "
                 "detector '", given, "'", suggestion(given, names));
}

// --detector NAME or FILE; by default what the samples are made for.
std::shared_ptr<Detector> open_detector(const std::string& given,
                                        const DatasetInfo& info) {
  Config options;
  std::string name = given;
  if (given.empty()) name = info.images ? "fmnist64" : "points";
  if (is_detector_file(given)) {
    name = "fmnist64";
    options.set_json("path", nlohmann::json(given).dump(), "--detector");
  }
  if (name == "points" && !info.images)
    options.set_json("dimensions", std::to_string(info.sample_shape.at(0)), "samples");
  std::shared_ptr<Detector> detector;
  under_flag("--detector", [&] { detector = metrics::make_detector(name, options); });
  return detector;
}

metrics::FeatureSource feature_source(const Detector& detector, const DatasetInfo& info) {
  return {detector.name(), detector.checksum(), "native", resolution_text(info)};
}

// Rows to take, rising: all, or a seeded random subset without repeats.
std::vector<int64_t> choose_rows(int64_t count, int64_t num, int64_t seed) {
  std::vector<int64_t> rows(static_cast<std::size_t>(num));
  for (int64_t k = 0; k < num; ++k)
    rows[k] = num == count ? k
                           : shuffled_index(static_cast<std::uint64_t>(seed),
                                            static_cast<std::uint64_t>(k), count);
  std::sort(rows.begin(), rows.end());
  return rows;
}

FeatureSet gather_features(const Dataset& data, const std::vector<int64_t>& rows,
                           Detector& detector, int64_t batch, bool keep,
                           const char* what) {
  FeatureSet set;
  const auto total = static_cast<int64_t>(rows.size());
  // With fewer samples than features only the features themselves are exact.
  set.keep_features = keep || total <= detector.layers().front().dimensions;
  // Points need no network: larger portions cost nothing.
  if (!data.info().images) batch = std::max<int64_t>(batch, 1 << 16);
  const at::Tensor index = at::tensor(rows, at::kLong);
  LiveLine line;
  for (int64_t begin = 0; begin < total; begin += batch) {
    const int64_t size = std::min(batch, total - begin);
    const at::Tensor samples = data.samples(index.narrow(0, begin, size));
    under_flag("--detector", [&] {
      const std::string layer = detector.layers().front().name;
      set.add(detector.features(samples, {&layer, 1}).front());
    });
    line.update(format("%s: features of %lld / %lld", what,
                       static_cast<long long>(begin + size),
                       static_cast<long long>(total)));
  }
  return set;
}

int64_t wanted_count(const std::string& text, int64_t fallback) {
  if (text.empty()) return fallback;
  const int64_t num = parse_count(text, CountUnit::images, "--num");
  FM_CHECK_USAGE(num >= 2, "--num: at least 2 samples are needed, got ", num);
  return num;
}

struct Reference {
  FeatureSet set;
  std::optional<int64_t> count;
};

Reference open_reference(const FidOptions& o, const std::shared_ptr<Detector>& detector,
                         const DatasetInfo& info, bool keep) {
  const auto ours = feature_source(*detector, info);
  if (metrics::is_statistics_file(o.ref) || ends_with_ignoring_case(o.ref, ".pkl")) {
    Reference reference;
    under_flag("--ref", [&] {
      const auto statistics = metrics::read_statistics(o.ref);
      for (const std::string& warning : metrics::check_comparable(
               statistics, o.ref, ours, detector->layers().front().dimensions, o.force))
        log_warning(warning);
      reference = {statistics.set, statistics.num_images};
    });
    return reference;
  }
  const auto data = open_samples(o.ref, "--ref");
  const DatasetInfo other = data->info();
  FM_CHECK_USAGE(other.count >= 2, "--ref: ", o.ref, " holds ", other.count, " samples; "
                 "at least 2 are needed");
  FM_CHECK_USAGE(other.images == info.images, "--ref: ", o.ref, " holds ",
                 other.images ? "images" : "points", ", --images ",
                 info.images ? "images" : "points");
  const auto rows = choose_rows(other.count, other.count, 0);
  return {gather_features(*data, rows, *detector, o.batch, keep, "reference"),
          other.count};
}

std::string detector_text(const Detector& detector) {
  std::string text = "detector " + detector.name();
  if (!detector.checksum().empty())
    text += " sha256 " + detector.checksum().substr(0, 12);
  return text;
}

// Scores go into metadata that only snapshots have.
void check_record(const std::string& path) {
  require_file(path, "--record");
  const auto metadata = SafetensorsReader(path).metadata();
  FM_CHECK_USAGE(metadata.contains("flowmap") && metadata.contains("spec"), "--record: ",
                 path, " is no snapshot of this program; take "
                 "network-snapshot-*.safetensors of a run");
}

int fid_calc(const FidOptions& o) {
  struct Asked {
    std::string name;
    std::shared_ptr<metrics::Metric> metric;
  };
  std::vector<Asked> asked;
  bool keep = false, compare = false;
  for (const std::string& name : split(o.metrics, ',')) {
    const std::string trimmed(trim(name));
    under_flag("--metrics", [&] {
      asked.push_back({trimmed, metrics::make_metric(trimmed, Config())});
    });
    keep = keep || asked.back().metric->needs_features();
    compare = compare || asked.back().metric->needs_reference();
  }
  FM_CHECK_USAGE(!compare || !o.ref.empty(), "--ref: metric ", o.metrics, " needs a "
                 "reference: statistics (`flowmap fid ref`), a folder, a zip, IDX files");

  FM_CHECK_USAGE(o.ref.empty() || fs::exists(o.ref), "--ref: ", o.ref,
                 " does not exist");
  check_detector_name(o.detector);
  if (!o.record.empty()) check_record(o.record);

  const auto data = open_samples(o.images, "--images");
  const DatasetInfo info = data->info();
  const char* noun = info.images ? "images" : "points";
  const int64_t num = wanted_count(o.num, 50000);
  FM_CHECK_USAGE(info.count >= num, "--images: ", o.images, " holds ", info.count, " ",
                 noun, ", --num asks for ", num, o.num.empty() ? " (the default)" : "",
                 "; make more or pass --num ", info.count);
  const auto detector = open_detector(o.detector, info);
  // First, so that statistics that do not fit are refused at once.
  Reference reference;
  if (compare) reference = open_reference(o, detector, info, false);
  const FeatureSet generated =
      gather_features(*data, choose_rows(info.count, num, o.seed), *detector, o.batch,
                      keep, noun);

  nlohmann::json report = {{"results", nlohmann::json::object()},
                           {"num_images", num},
                           {"images", o.images},
                           {"seed", o.seed},
                           {"detector", detector->name()},
                           {"detector_sha256", detector->checksum()}};
  if (compare) {
    report["ref"] = o.ref;
    report["ref_num_images"] =
        reference.count ? nlohmann::json(*reference.count) : nlohmann::json(nullptr);
  }
  for (const Asked& one : asked) {
    const bool compares = one.metric->needs_reference();
    struct {
      std::string name;
      double value;
      int64_t count;
    } result = {
        compares ? one.name + "_" + detector->name() + "_" + count_text(num) : one.name,
        0, num};
    std::vector<metrics::MetricValue> values;
    under_flag("--metrics " + one.name, [&] {
      values = one.metric->compute(reference.set, generated);
      result.value = values.at(0).value;
    });
    std::string facts = std::to_string(num) + " " + noun;
    if (compares)
      facts += " against " +
               (reference.count ? std::to_string(*reference.count)
                                : "an unknown number") +
               ", " + detector_text(*detector);
    report["results"][result.name] = result.value;
    if (!o.record.empty())
      record_score(o.record, result.name, result.value, num, o.record_as);
    for (const auto& [name, value, detail] : values) {
      if (!detail) continue;
      facts += format(", %s %.4g", name.c_str(), value);
      report["details"][result.name][name] = value;
    }
    if (!o.json)
      std::printf("%s: %.6g  (%s)\n", result.name.c_str(), result.value, facts.c_str());
  }
  if (o.json) std::printf("%s\n", report.dump(2).c_str());
  FM_CHECK(std::fflush(stdout) == 0, "cannot write the result to the standard output");
  return 0;
}

int fid_ref(const FidOptions& o) {
  // Read back by its ending, and numpy adds it to other names.
  require_ending(o.dest, ".npz", "--dest");
  prepare_output(o.dest, o.overwrite, "--dest");
  check_detector_name(o.detector);
  const auto data = open_samples(o.images, "--data");
  const DatasetInfo info = data->info();
  const int64_t num = wanted_count(o.num, info.count);
  FM_CHECK_USAGE(info.count >= num && num >= 2, "--data: ", o.images, " holds ",
                 info.count, " samples; ", num < 2 ? 2 : num, " are needed");
  const auto detector = open_detector(o.detector, info);
  const FeatureSet set =
      gather_features(*data, choose_rows(info.count, num, o.seed), *detector, o.batch,
                      false, "data");
  metrics::write_statistics(o.dest, set, feature_source(*detector, info));
  log_line(format("%s: statistics of %lld samples, %s", o.dest.c_str(),
                  static_cast<long long>(num), detector_text(*detector).c_str()));
  return 0;
}

void add_common(CLI::App& verb, FidOptions& o) {
  verb.add_option("--num", o.num, "how many samples; where there are more, a random "
                  "subset (calc: 50000, ref: all)")
      ->check(not_empty());
  verb.add_option("--seed", o.seed, "of that subset")
      ->check(whole_number(0))->capture_default_str();
  verb.add_option("--batch", o.batch, "samples at once")
      ->check(whole_number(1, 1 << 20))->capture_default_str();
  verb.add_option("--detector", o.detector, "fmnist64, points, or a classifier's "
                  "snapshot (.safetensors); by default what fits the samples")
      ->check(not_empty());
}

}  // namespace

int run_fid(std::span<const std::string> arguments) {
  FidOptions o;
  CLI::App app("Scores samples.\n\nExample:\n"
               "  flowmap fid ref --data /usr/share/datasets/fashion-mnist --dest "
               "fid-refs/fashion-mnist.npz\n"
               "  flowmap fid calc --images fid-tmp --ref fid-refs/fashion-mnist.npz "
               "--num 10000",
               "flowmap fid");
  app.require_subcommand(1);
  CLI::App* calc = app.add_subcommand("calc", "distance of samples from a reference");
  calc->add_option("--images", o.images, "folder of PNG/JPEG, EDM zip, npz (arr_0 or "
                   "points), IDX files");
  calc->add_option("--ref", o.ref, "statistics npz, or samples as for --images")
      ->check(not_empty());
  calc->add_option("--metrics", o.metrics, "comma list of fd, kl48 (klM)")
      ->capture_default_str();
  calc->add_flag("--json", o.json, "the result as one JSON object");
  calc->add_flag("--force", o.force, "compare with statistics of another detector, mode "
                 "or resolution");
  calc->add_option("--record", o.record,
                   "snapshot whose metadata takes the scores (flowmap inspect)")
      ->check(not_empty());
  calc->add_option("--record-as", o.record_as, "how they were made, e.g. \"1 step\"");
  add_common(*calc, o);
  CLI::App* ref = app.add_subcommand("ref", "statistics of a data set, for --ref");
  ref->add_option("--data", o.images, "samples as for --images");
  ref->add_option("--dest", o.dest, "npz to write");
  ref->add_flag("--overwrite", o.overwrite, "replace the npz if it is there");
  add_common(*ref, o);
  if (!parse_arguments(app, arguments)) return 0;
  // Not left to CLI11, which would name a missing flag before a mistyped one.
  const bool calculates = calc->parsed();
  FM_CHECK_USAGE(!o.images.empty(), calculates ? "--images" : "--data", " is required");
  FM_CHECK_USAGE(calculates || !o.dest.empty(), "--dest is required");
  return calculates ? fid_calc(o) : fid_ref(o);
}

}  // namespace flowmap::apps
