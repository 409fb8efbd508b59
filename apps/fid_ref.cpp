// flowmap fid ref, fid features: statistics and features of a data set.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <numeric>

#include "apps/cli.h"
#include "apps/fid_flags.h"
#include "apps/run_options.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"

namespace flowmap::apps {
namespace {

struct SetFlags {
  ScoreFlags score;
  std::string data, split = "train", dest, num;
  int64_t seed = 0;
  bool overwrite = false;
};

void add_set_flags(CLI::App& app, SetFlags& o, const char* data) {
  app.add_option(data, o.data, "folder of PNG/JPEG, zip, CIFAR tarball, npz, IDX files");
  app.add_option("--split", o.split, "train or test, where the data has both")
      ->capture_default_str();
  app.add_option("--dest", o.dest, "npz to write");
  app.add_flag("--overwrite", o.overwrite, "replace the npz if it is there");
  app.add_option("--num", o.num, "how many samples, a random subset (default: all)")
      ->check(not_empty());
  app.add_option("--seed", o.seed, "of that subset")
      ->check(whole_number(0))
      ->capture_default_str();
  app.add_option("--batch", o.score.batch, "samples at once")
      ->check(whole_number(1, 1 << 20))
      ->capture_default_str();
  add_detector_flags(app, o.score.detector);
  app.add_option("--device", o.score.detector.device,
                 "cpu, cuda, cuda:N (default: cuda where found)");
  app.add_option("--dtype", o.score.detector.dtype, "of the detector: float32, bf16")
      ->capture_default_str();
  app.add_flag("--skip-bad", o.score.skip_bad, "leave out pictures that are broken");
}

struct OpenSet {
  std::shared_ptr<SampleSource> source;
  Rows rows;
  std::shared_ptr<metrics::Detector> detector;
};

OpenSet open_set(const SetFlags& o, const std::string& flag) {
  FM_CHECK_USAGE(!o.data.empty(), flag, " is required");
  FM_CHECK_USAGE(!o.dest.empty(), "--dest is required");
  // Read back by its ending, and numpy adds it to other names.
  require_ending(o.dest, ".npz", "--dest");
  prepare_output(o.dest, o.overwrite, "--dest");
  check_detector_flags(o.score.detector);
  install_interrupt_handler();
  OpenSet set;
  set.source = open_source(o.data, flag, o.split);
  const DatasetInfo info = set.source->info();
  const int64_t num = wanted_count(o.num, info.count);
  FM_CHECK_USAGE(info.count >= num && num >= 2, flag, ": ", o.data, " holds ", info.count,
                 " samples; ", num < 2 ? "2 are needed" : "--num asks for ",
                 num < 2 ? "" : std::to_string(num));
  set.rows = choose_rows(info.count, num, o.seed, 1)[0];
  set.detector = open_detector(o.score.detector, info, "edm");
  return set;
}

std::vector<metrics::LayerStatistics> layers_of(const Gathered& gathered,
                                                const metrics::Scorer& scorer) {
  std::vector<metrics::LayerStatistics> layers;
  for (const metrics::FeatureLayer& layer : scorer.layers())
    layers.push_back({layer.name, "", gathered.features.at(layer.name)});
  return layers;
}

void say_made(const SetFlags& o, const char* what, const Gathered& gathered,
              const metrics::Scorer& scorer) {
  std::vector<std::string> names;
  for (const metrics::FeatureLayer& layer : scorer.layers()) names.push_back(layer.name);
  const metrics::Detector& detector = scorer.detector();
  std::string text = format("%s: %s of %lld samples, detector %s", o.dest.c_str(), what,
                            static_cast<long long>(gathered.features.count),
                            detector.name().c_str());
  if (!detector.checksum().empty())
    text += " sha256 " + detector.checksum().substr(0, 12);
  log_line(text + ", mode " + detector.mode() + ", layer " + join(names, ", "));
}

}  // namespace

int fid_ref(std::span<const std::string> words) {
  SetFlags o;
  CLI::App app("Statistics of a data set, for --ref.\n\nExample:\n"
               "  flowmap fid ref --data /usr/share/datasets/fashion-mnist --dest "
               "fid-refs/fashion-mnist.npz",
               "flowmap fid ref");
  add_set_flags(app, o, "--data");
  app.add_option("--metrics", o.score.metrics,
                 "whose reference it will be: fid,sfid keeps two layers, kid and pr keep "
                 "the features too (default: fid, or fd)")
      ->check(not_empty());
  if (!parse_arguments(app, words)) return 0;
  const OpenSet set = open_set(o, "--data");
  std::vector<std::string> names;
  if (o.score.metrics.empty())
    names = {"fd"};  // of the first layer
  else
    for (const std::string& part : split(o.score.metrics, ','))
      names.emplace_back(trim(part));
  std::unique_ptr<metrics::Scorer> scorer;
  under_flag("--metrics", [&] {
    scorer = std::make_unique<metrics::Scorer>(set.detector, names, false);
  });
  const Gathered gathered =
      gather(*set.source, set.rows, *scorer, o.score, "data", "--data");
  auto layers = layers_of(gathered, *scorer);
  // Few samples keep their features for the distance; a file keeps what was asked for.
  for (metrics::LayerStatistics& layer : layers)
    if (!scorer->needs_reference_features(layer.layer)) layer.set.features.reset();
  metrics::write_statistics(o.dest, layers,
                            feature_source(*set.detector, gathered.resolution));
  say_made(o, "statistics", gathered, *scorer);
  return 0;
}

int fid_features(std::span<const std::string> words) {
  SetFlags o;
  std::string layer_list;
  CLI::App app("Features of samples as float32 arrays.\n\nExample:\n"
               "  flowmap fid features --images out --dest features.npz --layer 768",
               "flowmap fid features");
  add_set_flags(app, o, "--images");
  app.add_option("--layer", layer_list,
                 "comma list of the detector's layers (default: its first)")
      ->check(not_empty());
  if (!parse_arguments(app, words)) return 0;
  const OpenSet set = open_set(o, "--images");
  std::vector<metrics::FeatureLayer> layers;
  if (layer_list.empty()) layers.push_back(set.detector->layers().front());
  std::vector<std::string> known;
  for (const auto& layer : set.detector->layers()) known.push_back(layer.name);
  if (!layer_list.empty())
    for (const std::string& part : split(layer_list, ',')) {
      const std::string name(trim(part));
      const auto all = set.detector->layers();
      const auto found = std::find_if(all.begin(), all.end(),
                                      [&](const auto& each) { return each.name == name; });
      const std::string why = set.detector->why_missing(name);
      FM_CHECK_USAGE(found != all.end(), "--layer: detector ", set.detector->name(),
                     " gives no layer '", name, "'",
                     why.empty() ? suggestion(name, known) : "; " + why);
      layers.push_back(*found);
    }
  const metrics::Scorer scorer(set.detector, layers);
  const Gathered gathered =
      gather(*set.source, set.rows, scorer, o.score, "images", "--images");
  metrics::write_features(o.dest, layers_of(gathered, scorer),
                          feature_source(*set.detector, gathered.resolution));
  say_made(o, "features", gathered, scorer);
  return 0;
}

}  // namespace flowmap::apps
