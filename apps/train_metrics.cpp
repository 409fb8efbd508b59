#include "apps/train_metrics.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

#include "apps/sampling.h"
#include "apps/score_report.h"
#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/log.h"
#include "flowmap/base/sha256.h"
#include "flowmap/base/text.h"
#include "flowmap/train/run_folder.h"
#include "flowmap/train/snapshot.h"

namespace flowmap::apps {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
// More of a training set than this is not taken as a reference: synthetic ones are endless.
constexpr int64_t kMostReference = 1 << 20, kOfEndless = 50000;

TrainMetricsOptions read_metrics_options(const Config& config) {
  const Config o = config.child("metrics_options");
  TrainMetricsOptions options;
  options.every = o.integer("every", 1, 1, 1 << 20);
  options.num = o.count("num", 0, 10000);
  FM_CHECK_USAGE(options.num >= 2 && options.num <= (1 << 24), o.where("num"),
                 ": metrics_options.num: 2 to 16777216 samples, not ", options.num);
  options.seed = o.integer("seed", 0, 0, int64_t{1} << 40);
  options.steps = o.integer("steps", 0, 0, 1 << 20);
  options.sampler = o.string("sampler", "");
  options.batch = o.integer("batch", 64, 1, 1 << 20);
  options.ref = o.path("ref", "");
  options.detector.detector = o.string("detector", "");
  options.detector.mode = o.string("mode", "");
  options.detector.dtype = o.string("dtype", "float32");
  options.force = o.boolean("force", false);
  return options;
}

// The first rows of an endless set.
class FirstSamples final : public Dataset {
 public:
  FirstSamples(std::shared_ptr<Dataset> data, int64_t count)
      : data_(std::move(data)), count_(count) {}
  DatasetInfo info() const override {
    DatasetInfo info = data_->info();
    info.count = count_;
    return info;
  }
  at::Tensor samples(const at::Tensor& index) const override {
    return data_->samples(index);
  }
  at::Tensor labels(const at::Tensor&) const override { return {}; }

 private:
  std::shared_ptr<Dataset> data_;
  int64_t count_;
};

Reference training_reference(const std::shared_ptr<Dataset>& data) {
  const DatasetInfo info = data->info();
  Reference reference;
  reference.name = info.name;
  std::shared_ptr<const Dataset> samples = data;
  if (info.count > kMostReference)
    samples = std::make_shared<FirstSamples>(data, kOfEndless);
  reference.samples = source_of(std::move(samples));
  return reference;
}

fs::path metric_file(const fs::path& run, const std::string& metric) {
  return run / ("metric-" + metric + ".jsonl");
}

// Whether a line of a metric's file scores a snapshot of these bytes.
bool scored_before(const fs::path& file, const std::string& checksum) {
  if (!fs::exists(file)) return false;
  std::istringstream lines(read_file(file));
  for (std::string line; std::getline(lines, line);) {
    const json entry = json::parse(line, nullptr, false);
    if (entry.is_object() && entry.value("snapshot_sha256", "") == checksum) return true;
  }
  return false;
}

// FastGen's: {"ckpt_num": [...], "fid": [...]}, rising.
void add_to_fid_json(const fs::path& file, const std::string& checkpoint, double fid) {
  std::map<int64_t, double> scores;
  if (fs::exists(file)) {
    const json before = json::parse(read_file(file), nullptr, false);
    if (!before.is_object() || !before.contains("ckpt_num") || !before.contains("fid") ||
        before["ckpt_num"].size() != before["fid"].size())
      throw DataError(file.string(), {}, "{\"ckpt_num\": [...], \"fid\": [...]}",
                      "something else");
    for (std::size_t i = 0; i < before["fid"].size(); ++i)
      scores[before["ckpt_num"][i].get<int64_t>()] = before["fid"][i].get<double>();
  }
  scores[parse_int(checkpoint, "number of a snapshot")] = fid;
  json numbers = json::array(), values = json::array();
  for (const auto& [number, value] : scores) {
    numbers.push_back(number);
    values.push_back(value);
  }
  write_file_atomic(file, json({{"ckpt_num", numbers}, {"fid", values}}).dump() + "\n");
}

}  // namespace

std::shared_ptr<TrainMetrics> TrainMetrics::from_config(const Config& config,
                                                        std::shared_ptr<Dataset> data,
                                                        const TrainOptions& trainer,
                                                        const std::string& method_info) {
  if (!config.has("metrics")) {
    config.raw("metrics");  // null takes back what a file says
    if (!config.has("metrics_options")) config.raw("metrics_options");
    return nullptr;
  }
  const std::vector<std::string> names = config.strings("metrics");
  if (names.empty()) return nullptr;
  const std::string where = config.where("metrics") + ": metrics";
  TrainMetricsOptions options = read_metrics_options(config);
  const MethodDefaults defaults = method_defaults(method_info, "method");
  if (options.sampler.empty()) options.sampler = defaults.sampler;
  FM_CHECK_USAGE(!options.sampler.empty(), where, ": this method trains no generator, so "
                 "there are no samples to score");
  if (options.steps == 0) {
    options.times = defaults.times;
    options.steps = std::max<int64_t>(defaults.steps, 1);
  }
  options.detector.device = trainer.device;

  std::shared_ptr<TrainMetrics> result(new TrainMetrics(options, names, trainer));
  try {
    check_detector_flags(options.detector);
    result->sampler_ = samplers::make_sampler(options.sampler, Config());
    ScoreFlags flags;
    flags.detector = options.detector;
    flags.metrics = join(names, ",");
    flags.batch = options.batch;
    flags.force = options.force;
    Reference reference = options.ref.empty() ? training_reference(data)
                                              : open_reference(options.ref, "ref");
    result->scoring_ = std::make_unique<Scoring>(flags, data->info(),
                                                 std::move(reference), "edm");
    // What the detector does not take, and statistics that do not fit, are refused now,
    // and not after hours.
    gather(*source_of(data), {0, 1}, result->scoring_->scorer(), flags, "data", "data");
    if (result->scoring_->reference().statistics) result->scoring_->prepare(options.num);
  } catch (const UsageError& error) {
    throw UsageError(where + ", metrics_options: " + error.what());
  }
  return result;
}

bool TrainMetrics::due(int64_t images_seen) const {
  if (images_seen >= trainer_.duration) return true;
  const int64_t snapshot = trainer_.snap * trainer_.tick;
  return snapshot > 0 && images_seen >= snapshot &&
         (images_seen / snapshot) % options_.every == 0;
}

void TrainMetrics::on_snapshot(const SnapshotEvent& event) {
  if (!due(event.images_seen) || interrupted()) return;
  Sampling sampling;
  sampling.model = event.model;
  sampling.sampler = sampler_;
  sampling.solver = options_.sampler;
  samplers::SampleOptions grid;
  grid.t_steps = options_.times;
  if (grid.t_steps.empty()) grid.steps = options_.steps;
  sampling.schedule = samplers::at_known_levels(
      *event.model, samplers::make_schedule(event.model->info(), grid));
  sampling.request.device = event.model->parameters().front().device();
  Rows seeds(static_cast<std::size_t>(options_.num));
  std::iota(seeds.begin(), seeds.end(), options_.seed);
  const auto source = generated_source(sampling, event.snapshot.filename().string());

  const auto began = std::chrono::steady_clock::now();
  const std::string checksum = sha256_file(event.snapshot);
  const std::string snapshot = event.snapshot.filename().string();
  ScoreReport report;
  try {
    scoring_->prepare(options_.num);
    bool scored = true;
    for (const auto& asked : scoring_->scorer().asked())
      scored = scored && scored_before(metric_file(event.run, metrics::score_name(
                                           asked, "", scoring_->detector(), options_.num,
                                           scoring_->reference_count())), checksum);
    if (scored) return;
    report = begin_report(*scoring_, source->info());
    report.made_by = sampling.text();
    report.blocks.push_back(scoring_->score(*source, seeds, "metrics"));
  } catch (const Interrupted&) {
    log_line(snapshot + " was not scored; `flowmap fid gen` can");
    return;
  } catch (const Error& error) {  // samples of a young network may be anything
    log_warning(snapshot + " was not scored: " + error.what());
    return;
  }
  const BlockScores& block = report.blocks.front();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  std::string text = report_text(report);
  if (text.ends_with('\n')) text.pop_back();
  log_line(text);

  // One file a metric asked for, with all its values.
  std::map<std::string, json> results;
  for (const metrics::Score& score : block.scores) {
    results[score.group][score.name] = score.value;
    if (score.metric == "fid")
      add_to_fid_json(event.run / "fid.json", kimg_text(event.images_seen), score.value);
  }
  for (const auto& [metric, values] : results) {
    const fs::path file = metric_file(event.run, metric);
    if (scored_before(file, checksum)) continue;
    const json line = {{"results", values},
                       {"metric", metric},
                       {"total_time", seconds},
                       {"total_time_str", format_duration(seconds)},
                       {"num_gpus", sampling.request.device.is_cpu() ? 0 : 1},
                       {"snapshot_pkl", snapshot},
                       {"timestamp", static_cast<double>(std::time(nullptr))},
                       {"images_seen", event.images_seen},
                       {"sampler", report.made_by},
                       {"snapshot_sha256", checksum}};
    JsonLines(file).append(line.dump());
  }
}

}  // namespace flowmap::apps
