#include "apps/score.h"

#include <algorithm>
#include <set>
#include <utility>

#include "apps/cli.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/draw.h"

namespace flowmap::apps {
namespace {

std::vector<std::string> metric_names(const std::string& given,
                                      const metrics::Detector& detector) {
  if (given.empty()) {
    const bool inception =
        detector.name() == "inception" || metrics::is_unknown_inception(detector);
    return {inception ? "fid" : "fd"};
  }
  std::vector<std::string> names;
  for (const std::string& part : split(given, ',')) {
    std::string name(trim(part));
    FM_CHECK_USAGE(std::find(names.begin(), names.end(), name) == names.end(),
                   "--metrics: ", name, " is named twice");
    names.push_back(std::move(name));
  }
  return names;
}

[[noreturn]] void refuse_broken(const StreamReport& report, std::size_t asked) {
  std::string text = format("%lld of %zu pictures %s broken: ",
                            static_cast<long long>(report.broken_count), asked,
                            report.broken_count == 1 ? "is" : "are");
  text += join(report.broken, "; ");
  if (report.broken_count > static_cast<int64_t>(report.broken.size())) text += "; ...";
  throw Error(text + "; mend or remove them, or leave them out by --skip-bad");
}

// Joins what further passes met.
void add_report(StreamReport& sum, const StreamReport& part) {
  sum.delivered += part.delivered;
  sum.broken_count += part.broken_count;
  sum.broken.insert(sum.broken.end(), part.broken.begin(), part.broken.end());
  sum.rows.insert(sum.rows.end(), part.rows.begin(), part.rows.end());
  sum.resolutions.insert(part.resolutions.begin(), part.resolutions.end());
}

}  // namespace

Reference open_reference(const std::string& path, const std::string& flag) {
  FM_CHECK_USAGE(std::filesystem::exists(path), flag, ": ", path, " does not exist");
  Reference reference;
  reference.name = path;
  if (metrics::is_statistics_file(path)) {
    under_flag(flag, [&] { reference.statistics = metrics::read_statistics(path); });
    return reference;
  }
  reference.samples = open_source(path, flag);
  const int64_t count = reference.samples->info().count;
  FM_CHECK_USAGE(count >= 2, flag, ": ", path, " holds ", count, " samples; at least 2 "
                 "are needed");
  return reference;
}

std::vector<Rows> choose_rows(int64_t count, int64_t num, int64_t seed, int64_t blocks) {
  std::vector<Rows> chosen(static_cast<std::size_t>(blocks));
  int64_t k = 0;
  for (Rows& rows : chosen) {
    for (int64_t i = 0; i < num; ++i, ++k)
      rows.push_back(num == count ? k
                                  : shuffled_index(static_cast<std::uint64_t>(seed),
                                                   static_cast<std::uint64_t>(k), count));
    std::sort(rows.begin(), rows.end());
  }
  return chosen;
}

Gathered gather(const SampleSource& source, const Rows& rows,
                const metrics::Scorer& scorer, const ScoreFlags& flags,
                const std::string& what, const std::string& flag) {
  const auto total = static_cast<int64_t>(rows.size());
  metrics::FeatureCollector collector(scorer, total);
  LiveLine line;
  StreamReport report;
  under_flag(flag, [&] {
    const StreamReport part = source.stream(
        rows, flags.batch, flags.skip_bad, [&](std::span<const metrics::SampleGroup> g) {
          collector.add(g);
          if (interrupted()) throw Interrupted("interrupted; nothing was scored");
          line.update(format("%s: features of %lld / %lld", what.c_str(),
                             static_cast<long long>(collector.count()),
                             static_cast<long long>(total)));
        });
    add_report(report, part);
  });
  line.clear();
  if (report.broken_count > 0) {
    if (!flags.skip_bad) refuse_broken(report, rows.size());
    log_warning(format("%s: left out %lld broken picture%s, %lld remain (%s%s)",
                       flag.c_str(), static_cast<long long>(report.broken_count),
                       report.broken_count == 1 ? "" : "s",
                       static_cast<long long>(report.delivered), report.broken[0].c_str(),
                       report.broken_count > 1 ? "; ..." : ""));
  }
  FM_CHECK_USAGE(report.delivered >= 2, flag, ": at least 2 samples are needed, ",
                 report.delivered, " could be read");
  Gathered gathered;
  gathered.features = collector.finish();
  gathered.rows = std::move(report.rows);
  if (report.resolutions.size() > 1) {
    gathered.resolution = "mixed";
    log_warning(format("%s: pictures of %zu different sizes; each is resized on its own",
                       flag.c_str(), report.resolutions.size()));
  } else if (!report.resolutions.empty()) {
    gathered.resolution = *report.resolutions.begin();
  }
  return gathered;
}

Scoring::Scoring(const ScoreFlags& flags, const DatasetInfo& info, Reference reference,
                 const std::string& default_mode)
    : flags_(flags), info_(info), reference_(std::move(reference)) {
  const std::string stated = reference_.mode();
  auto detector = open_detector(flags.detector, info,
                                stated.empty() || stated == "native" ? default_mode
                                                                     : stated);
  const auto names = metric_names(flags.metrics, *detector);
  under_flag("--metrics", [&] {
    scorer_ = std::make_unique<metrics::Scorer>(std::move(detector), names,
                                                flags.bootstrap > 0);
  });
  const bool given = reference_.statistics || reference_.samples;
  FM_CHECK_USAGE(given || !scorer_->needs_reference(), "--ref: metric ", join(names, ","),
                 " needs a reference: statistics (`flowmap fid ref`), a folder, a zip, "
                 "IDX files");
  if (reference_.samples) {
    const bool images = reference_.samples->info().images;
    FM_CHECK_USAGE(images == info.images, "--ref: ", reference_.name, " holds ",
                   images ? "images" : "points", ", --images ",
                   info.images ? "images" : "points");
  }
}

void Scoring::use_statistics(const metrics::Statistics& statistics, int64_t generated,
                             const std::string& resolution) {
  const auto ours = feature_source(detector(), resolution);
  std::set<std::string> said;
  for (const metrics::FeatureLayer& layer : scorer_->layers()) {
    const auto* wants_features = scorer_->needs_reference_features(layer.name);
    std::vector<std::string> warnings;
    under_flag("--ref", [&] {
      const metrics::LayerStatistics& found =
          comparable_layer(statistics, reference_.name, ours, layer, generated,
                           flags_.force, warnings);
      FM_CHECK_USAGE(!wants_features || found.set.features.defined(), reference_.name,
                     " has mean and covariance only; metric ",
                     wants_features ? wants_features->name : "", " needs the features of "
                     "the reference: pass its images as --ref, or statistics made by "
                     "`flowmap fid ref --metrics ",
                     wants_features ? wants_features->name : "", "`");
      reference_features_.features.layers[layer.name] = found.set;
    });
    for (const std::string& warning : warnings)
      if (said.insert(warning).second) log_warning(warning);
  }
  reference_features_.resolution = statistics.source.resolution;
  reference_count_ = statistics.num_images;
}

void Scoring::prepare(int64_t generated) {
  if (prepared_ || !scorer_->needs_reference()) return;
  if (reference_.statistics) {
    use_statistics(*reference_.statistics, generated, resolution_text(info_));
    prepared_ = true;
    return;
  }
  const DatasetInfo info = reference_.samples->info();
  reference_features_ = gather(*reference_.samples,
                               choose_rows(info.count, info.count, 0, 1)[0], *scorer_,
                               flags_, "reference", "--ref");
  reference_count_ = reference_features_.features.count;
  prepared_ = true;
  const std::string ours = resolution_text(info_);
  if (detector().mode() != "native" && reference_features_.resolution != ours)
    log_warning("--ref: pictures of " + reference_features_.resolution + " against " +
                ours + ": the distance is also one of sizes");
}

BlockScores Scoring::score(const SampleSource& source, const Rows& rows,
                           const std::string& flag) {
  prepare(static_cast<int64_t>(rows.size()));
  BlockScores result;
  result.samples = gather(source, rows, *scorer_, flags_,
                          info_.images ? "images" : "points", flag);
  result.scores = scorer_->scores(reference_features_.features, reference_count_,
                                  result.samples.features);
  if (flags_.bootstrap == 0) return result;
  const metrics::BootstrapOptions options{flags_.bootstrap, 0, 0.95};
  for (const metrics::Score& score : result.scores) {
    const std::string stem = score.metric.substr(
        0, score.metric.find_last_not_of("0123456789") + 1);
    const bool frechet = stem == "fid" || stem == "fd" || stem == "sfid";
    if (!frechet && stem != "kid" && stem != "kd") continue;
    under_flag("--bootstrap", [&] {
      const auto& theirs = reference_features_.features.at(score.layer);
      const auto& ours = result.samples.features.at(score.layer);
      result.intervals[score.name] =
          frechet ? metrics::bootstrap_frechet(theirs, ours, options)
                  : metrics::bootstrap_kernel_distance(theirs, ours, options);
    });
  }
  return result;
}

}  // namespace flowmap::apps
