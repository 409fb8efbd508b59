#include "apps/train_setup.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/picture.h"
#include "apps/run_options.h"
#include "apps/train_metrics.h"
#include "distill/method.h"
#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/data/augment.h"
#include "flowmap/train/run_folder.h"
#include "flowmap/train/snapshot.h"
#include "samplers/sampler.h"

namespace flowmap::apps {

Config edm_defaults() {
  return Config::from_text(R"({
    "data": {"type": "auto"},
    "network": {"type": "ddpmpp", "model_channels": 128, "channel_mult": [2, 2, 2],
                "dropout": 0.13},
    "preconditioning": {"type": "edm"},
    "method": {"type": "edm"},
    "trainer": {"duration": 200, "batch": 512, "lr": 10e-4, "lr_rampup": 10000000,
                "ema": [{"type": "halflife", "images": 500000}], "tick": 50,
                "snap": 50, "dump": 500, "seed": 0, "augment": 0.12}
  })",
                           "built-in defaults");
}

namespace {

// As EDM's train.py: a network that nothing was said of gets its augmentation labels.
void default_augment_labels(const Config& config, const DatasetInfo& data) {
  FM_CHECK_USAGE(data.images, config.where("trainer.augment"), ": trainer.augment turns ",
                 "and stretches images, and ", data.name, " holds points: set it to 0");
  Config network = config;  // one tree
  if (!config.has("network.augment_dim"))
    network.set_json("network.augment_dim", std::to_string(kAugmentLabels),
                     "trainer.augment");
}

// A network that is not told of the augmentation would learn to make augmented images.
// After the network was built: it has read its options, or has no such option.
void require_augment_labels(const Config& config) {
  const Config network = config.child("network");
  const std::string remedy =
      format("; trainer.augment has %lld numbers to tell the network: take one that "
             "listens (ddpmpp, ncsnpp, adm), or set trainer.augment = 0",
             static_cast<long long>(kAugmentLabels));
  try {
    network.check_all_read();
  } catch (const UsageError& error) {
    const std::string what = error.what();
    throw UsageError(what.find("augment_dim") == std::string::npos ? what : what + remedy);
  }
  FM_CHECK_USAGE(network.integer("augment_dim") == kAugmentLabels,
                 config.where("network.augment_dim"), ": network.augment_dim is ",
                 network.integer("augment_dim"), ", not ", kAugmentLabels, remedy);
}

// Before the first step, and by name.
void require_pairs(const Config& config, const TrainSetup& setup, const DatasetInfo& data) {
  FM_CHECK_USAGE(data.pairs, config.where("data"), ": data: method ",
                 config.child("method").string("type"), " learns from pairs of noise and ",
                 "samples, and ", data.name, " holds samples alone; make pairs with ",
                 "`flowmap pairs` and set data.type = \"pairs\"");
  FM_CHECK_USAGE(setup.options.augment <= 0, config.where("trainer.augment"),
                 ": trainer.augment would change the samples of pairs and not their noise: ",
                 "set it to 0 (data.flip flips both)");
}

}  // namespace

TrainSetup prepare_training(const Config& config, bool continues) {
  TrainSetup setup;
  setup.options = read_train_options(config);
  setup.options.device = parse_device(setup.options.device, "trainer.device").str();
  if (setup.options.threads > 0) at::set_num_threads(setup.options.threads);
  setup.dataset = make_dataset(config.child("data"));
  const DatasetInfo data = setup.dataset->info();
  setup.labels = data.label_dim > 0;
  if (setup.options.augment > 0) default_augment_labels(config, data);
  setup.task = distill::make_method({config, data, setup.options.seed, !continues});
  if (setup.options.augment > 0) require_augment_labels(config);
  if (setup.task->stream() == Stream::pairs) require_pairs(config, setup, data);
  setup.method = config.child("method").string("type");
  setup.network = config.child("network").string("type");
  setup.metrics = TrainMetrics::from_config(config, setup.dataset, setup.options,
                                            setup.task->snapshot_info());
  config.check_all_read();
  return setup;
}

std::string resolved_options(const Config& config) { return config.resolved_json() + "\n"; }

std::string run_description(const TrainSetup& setup, const std::string& desc) {
  const DatasetInfo data = setup.dataset->info();
  std::string text = data.name + (setup.labels ? "-cond-" : "-uncond-") + setup.network +
                     "-" + setup.method + "-batch" +
                     std::to_string(setup.options.batch) + "-" +
                     precision_name(setup.options.precision, true);
  return desc.empty() ? text : text + "-" + desc;
}

std::string setup_summary(const TrainSetup& setup) {
  const DatasetInfo data = setup.dataset->info();
  std::string text = format("data:    %s, %lld samples, labels %s\n", data.name.c_str(),
                            static_cast<long long>(data.count),
                            setup.labels ? "used" : "not used");
  for (const Player& player : setup.task->players())
    text += format("network: %s %s, %lld parameters, %.3f GFLOP an image%s\n",
                   player.name.c_str(), setup.network.c_str(),
                   static_cast<long long>(parameter_count(*player.model)),
                   2e-9 * player.model->multiply_adds(),
                   player.trained ? "" : " (frozen)");
  text += format("method:  %s, batch %lld in micro-batches of %lld, %.3f Mimg, %d threads",
                 setup.method.c_str(), static_cast<long long>(setup.options.batch),
                 static_cast<long long>(setup.options.batch_gpu),
                 static_cast<double>(setup.options.duration) * 1e-6,
                 at::get_num_threads());
  return text;
}

void check_same_run(const std::filesystem::path& options_file,
                    const std::string& resolved) {
  const auto before = nlohmann::json::parse(read_file(options_file), nullptr, false);
  const auto now = nlohmann::json::parse(resolved);
  if (!before.is_object())
    throw DataError(options_file.string(), {}, "a configuration", "something else");
  const std::vector<std::string> structural = {
      "/network", "/preconditioning", "/lora", "/data", "/method", "/trainer/batch",
      "/trainer/seed", "/trainer/xflip", "/trainer/augment", "/trainer/optimizer/type",
      "/trainer/ema"};
  for (const auto& change : nlohmann::json::diff(before, now)) {
    const std::string path = change["path"];
    const bool refuse =
        std::any_of(structural.begin(), structural.end(), [&](const std::string& p) {
          return path == p || path.starts_with(p + "/") || p.starts_with(path + "/");
        });
    const nlohmann::json::json_pointer pointer(path);
    const auto value = [&](const nlohmann::json& tree) {
      return tree.contains(pointer) ? tree.at(pointer).dump() : std::string("not set");
    };
    std::string key = path.substr(1);
    std::replace(key.begin(), key.end(), '/', '.');
    const std::string what = key + " was " + value(before) + ", now " +
                             value(now);
    FM_CHECK_USAGE(!refuse, "cannot continue ", options_file.parent_path().string(), ": ",
                   what, "; start a new run with --outdir (and --transfer for weights)");
    log_line("changed since the run began: " + what);
  }
}

void write_reals(const TrainSetup& setup, const std::filesystem::path& png) {
  const DatasetInfo data = setup.dataset->info();
  const int64_t count = std::min<int64_t>(data.images ? 64 : 16384, data.count);
  const at::Tensor samples = setup.dataset->samples(at::arange(count));
  write_png(png, samples_picture(samples_to_float(samples), 8));
}

TrainerHooks training_hooks(const TrainSetup& setup) {
  const MethodDefaults defaults = method_defaults(setup.task->snapshot_info(), "method");
  const std::string name = defaults.sampler;
  if (name.empty()) return {};  // not a generator
  samplers::SampleOptions grid;
  grid.t_steps = defaults.times;
  if (grid.t_steps.empty()) grid.steps = std::max<int64_t>(defaults.steps, 1);
  const DatasetInfo data = setup.dataset->info();
  const auto sampler = samplers::make_sampler(name, Config());
  TrainerHooks hooks;
  const auto draw_grid = [=](const SnapshotEvent& event) {
    const at::NoGradGuard no_grad;
    const int64_t count = data.images ? 64 : 8192, chunk = data.images ? 8 : 2048;
    const at::Device device = event.model->parameters().front().device();
    const samplers::Schedule schedule = samplers::at_known_levels(
        *event.model, samplers::make_schedule(event.model->info(), grid));
    LiveLine live;
    std::vector<at::Tensor> parts;
    for (int64_t first = 0; first < count; first += chunk) {
      // A grid may take longer than many steps; Ctrl-C must not wait for it.
      if (interrupted()) return;
      live.update(format("grid of samples: %lld of %lld", static_cast<long long>(first),
                         static_cast<long long>(count)));
      std::vector<std::uint64_t> seeds;
      for (int64_t i = first; i < first + chunk; ++i)
        seeds.push_back(static_cast<std::uint64_t>(i));
      const Draw draw = Draw::per_seed(seeds);
      Condition condition;
      if (data.label_dim > 0)  // classes 0, 1, 2, ... in turn
        condition.class_labels =
            at::eye(data.label_dim)
                .index_select(0, at::arange(first, first + chunk) % data.label_dim)
                .to(device);
      const at::Tensor latents = draw.normal("latents", data.sample_shape).to(device);
      parts.push_back(sampler->sample(*event.model, latents, condition, schedule, draw)
                          .to(at::kFloat)
                          .cpu());
    }
    write_png(event.run / (kimg_text(event.images_seen) + ".png"),
              samples_picture(at::cat(parts), 8));
  };
  hooks.on_snapshot = [draw_grid, metrics = setup.metrics](const SnapshotEvent& event) {
    draw_grid(event);
    if (metrics) metrics->on_snapshot(event);
  };
  return hooks;
}

}  // namespace flowmap::apps
