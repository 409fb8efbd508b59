#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/cli.h"
#include "apps/run_options.h"
#include "apps/score.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "metrics/detectors/weights_file.h"

namespace flowmap::apps {
namespace {

constexpr std::array kModes = {"clean", "legacy_tensorflow", "legacy_pytorch", "edm"};

bool is_mode(const std::string& text) {
  return std::find(kModes.begin(), kModes.end(), text) != kModes.end();
}

bool is_weights_file(const std::string& given) {
  if (given.find('/') != std::string::npos) return true;
  for (const char* ending : {".safetensors", ".pth", ".pt", ".pkl"})
    if (ends_with_ignoring_case(given, ending)) return true;
  return false;
}

// Whose weights a file holds.
std::string detector_of_file(const std::string& path) {
  return metrics::is_snapshot_file(path) ? "fmnist64" : "inception";
}

std::string default_detector(const DatasetInfo& info) {
  if (!info.images) return "points";
  return info.sample_shape == std::vector<int64_t>{1, 28, 28} ? "fmnist64" : "inception";
}

}  // namespace

void check_detector_flags(const DetectorFlags& flags) {
  FM_CHECK_USAGE(flags.mode.empty() || is_mode(flags.mode), "--mode: unknown mode '",
                 flags.mode, "'",
                 suggestion(flags.mode, std::vector<std::string>(kModes.begin(),
                                                                 kModes.end())));
  FM_CHECK_USAGE(flags.dtype == "float32" || flags.dtype == "bf16",
                 "--dtype: float32 or bf16 for a detector, not '", flags.dtype, "'");
  if (flags.detector.empty()) return;
  if (is_weights_file(flags.detector)) return require_file(flags.detector, "--detector");
  std::vector<std::string> names;
  for (const auto& entry : metrics::detector_registry()) names.emplace_back(entry.name);
  FM_CHECK_USAGE(std::count(names.begin(), names.end(), flags.detector),
                 "--detector: unknown detector '", flags.detector, "'",
                 suggestion(flags.detector, names));
}

std::shared_ptr<metrics::Detector> open_detector(const DetectorFlags& flags,
                                                 const DatasetInfo& info,
                                                 const std::string& mode) {
  std::string name = flags.detector, file;
  if (!name.empty() && is_weights_file(name)) {
    file = name;
    name = detector_of_file(file);
  } else if (name.empty()) {
    name = default_detector(info);
    // Each detector passes over another's file there; a classifier's says what it is for.
    const char* variable = std::getenv("FLOWMAP_DETECTOR");
    if (info.images && variable && std::filesystem::exists(variable) &&
        metrics::is_snapshot_file(variable))
      name = "fmnist64";
  }
  Config options;
  const auto set = [&](const char* key, const std::string& value) {
    options.set_json(key, nlohmann::json(value).dump(), "--detector");
  };
  if (!file.empty()) set("path", file);
  set("mode", !flags.mode.empty() ? flags.mode : is_mode(mode) ? mode : "edm");
  set("device", parse_device(flags.device).str());
  set("dtype", flags.dtype);
  if (name == "points" && !info.images)
    options.set_json("dimensions", std::to_string(info.sample_shape.at(0)), "samples");
  std::shared_ptr<metrics::Detector> detector;
  under_flag("--detector", [&] { detector = metrics::make_detector(name, options); });
  FM_CHECK_USAGE(flags.mode.empty() || detector->mode() == flags.mode, "--mode: detector ",
                 detector->name(), " takes pictures as they are (mode ", detector->mode(),
                 "), not resized by ", flags.mode);
  return detector;
}

metrics::FeatureSource feature_source(const metrics::Detector& detector,
                                      const std::string& resolution) {
  return {detector.name(), detector.checksum(), detector.mode(), resolution};
}

}  // namespace flowmap::apps
