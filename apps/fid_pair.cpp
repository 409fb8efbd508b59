// flowmap fid A B: pytorch-fid's command.
#include <CLI/CLI.hpp>

#include <charconv>
#include <cstdio>
#include <vector>

#include "apps/cli.h"
#include "apps/fid_flags.h"
#include "apps/run_options.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "metrics/frechet.h"

namespace flowmap::apps {
namespace {

// As Python prints a float: the shortest text that reads back as the same number.
std::string shortest(double value) {
  char text[64];
  const auto result = std::to_chars(text, text + sizeof text, value);
  std::string written(text, result.ptr);
  if (written.find_first_of(".en") == std::string::npos) written += ".0";
  return written;
}

struct PairFlags {
  ScoreFlags score;
  std::vector<std::string> paths;
  std::string workers;
  int64_t dims = 2048;
  bool save_stats = false;
};

void save_pair_statistics(const PairFlags& o, const std::string& metric) {
  require_ending(o.paths[1], ".npz", "--save-stats");
  prepare_output(o.paths[1], false, "--save-stats");
  const auto source = open_source(o.paths[0], "PATH1");
  const DatasetInfo info = source->info();
  const metrics::Scorer scorer(open_detector(o.score.detector, info, "legacy_pytorch"),
                               {metric}, false);
  const Gathered made = gather(*source, choose_rows(info.count, info.count, 0, 1)[0],
                               scorer, o.score, "images", "PATH1");
  const metrics::FeatureLayer& layer = scorer.layers().front();
  metrics::FeatureSet set = made.features.at(layer.name);
  set.features.reset();
  metrics::write_statistics(o.paths[1], {{layer.name, "", set}},
                            feature_source(scorer.detector(), made.resolution));
  log_line(format("%s: statistics of %lld images", o.paths[1].c_str(),
                  static_cast<long long>(set.count)));
}

// Both are statistics: no detector is needed.
void compare_statistics(const Reference& a, const Reference& b, const PairFlags& o) {
  const auto layer_of = [&](const Reference& side) -> const metrics::LayerStatistics& {
    for (const auto& layer : side.statistics->layers)
      if (layer.set.mean.size(0) == o.dims) return layer;
    throw UsageError("--dims: " + side.name + " holds no statistics of " +
                     std::to_string(o.dims) + " dimensions, but of " +
                     std::to_string(side.statistics->layers.front().set.mean.size(0)));
  };
  const auto& first = layer_of(a);
  const auto& second = layer_of(b);
  metrics::Statistics said = *a.statistics;
  std::vector<std::string> warnings;
  metrics::FeatureSource ours = b.statistics->source;
  if (!second.detector.empty()) ours.detector = second.detector;
  under_flag("PATH1", [&] {
    comparable_layer(said, a.name, ours, {second.layer, o.dims}, 0, o.score.force, warnings);
  });
  for (const std::string& warning : warnings) log_warning(warning);
  const double distance = metrics::frechet_distance(first.set, second.set);
  const auto count = [](const Reference& side) {
    return (side.statistics->num_images ? std::to_string(*side.statistics->num_images)
                                        : std::string("an unknown number of")) +
           " images, " + side.name;
  };
  std::printf("fd_%lld: %.6g  (statistics of %s, against %s)\nFID:  %s\n",
              static_cast<long long>(o.dims), distance, count(b).c_str(), count(a).c_str(),
              shortest(distance).c_str());
}

}  // namespace

int fid_pair(std::span<const std::string> words) {
  PairFlags o;
  o.score.batch = 50;
  CLI::App app("Fréchet distance of two sets, as pytorch-fid prints it. Other words: calc, "
               "ref, gen, features.\n\nExample:\n  flowmap fid a/ b/ --dims 768",
               "flowmap fid");
  app.add_option("paths", o.paths, "two folders, zips, or statistics (npz)")->expected(2);
  app.add_option("--batch-size", o.score.batch, "images at once")
      ->check(whole_number(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--dims", o.dims, "64, 192, 768 or 2048 features")->capture_default_str();
  app.add_flag("--save-stats", o.save_stats,
               "write statistics of the first path to the second");
  app.add_option("--num-workers", o.workers, "accepted for pytorch-fid's sake");
  app.add_option("--device", o.score.detector.device, "cpu, cuda, cuda:N");
  app.add_option("--dtype", o.score.detector.dtype, "of the detector: float32, bf16")
      ->capture_default_str();
  add_detector_flags(app, o.score.detector);
  app.add_flag("--force", o.score.force, "compare what does not fit");
  app.add_flag("--skip-bad", o.score.skip_bad, "leave out pictures that are broken");
  if (!parse_arguments(app, words)) return 0;
  FM_CHECK_USAGE(o.paths.size() == 2, "two paths are expected: flowmap fid A B");
  FM_CHECK_USAGE(o.dims == 64 || o.dims == 192 || o.dims == 768 || o.dims == 2048,
                 "--dims: 64, 192, 768 or 2048, not ", o.dims);
  check_detector_flags(o.score.detector);
  install_interrupt_handler();
  const bool inception = o.score.detector.detector != "fmnist64";
  if (o.score.detector.detector.empty()) o.score.detector.detector = "inception";
  o.score.metrics = !inception        ? std::string("fd")
                    : o.dims == 2048 ? std::string("fid")
                                     : "fid" + std::to_string(o.dims);
  if (o.save_stats) {
    save_pair_statistics(o, o.score.metrics);
    return 0;
  }
  Reference a = open_reference(o.paths[0], "PATH1"), b = open_reference(o.paths[1], "PATH2");
  if (a.statistics && b.statistics) {
    compare_statistics(a, b, o);
    return 0;
  }
  // The distance is symmetric; samples play the generated ones.
  if (!b.samples) std::swap(a, b);
  const DatasetInfo info = b.samples->info();
  Scoring scoring(o.score, info, a, "legacy_pytorch");
  scoring.prepare(info.count);
  ScoreReport report = begin_report(scoring, info);
  report.blocks.push_back(
      scoring.score(*b.samples, choose_rows(info.count, info.count, 0, 1)[0], b.name));
  print_report(report, false);
  std::printf("FID:  %s\n", shortest(report.blocks[0].scores.at(0).value).c_str());
  return 0;
}

}  // namespace flowmap::apps
