// What stands between the arguments of `flowmap train` and the loop.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "flowmap/base/config.h"
#include "flowmap/data/dataset.h"
#include "flowmap/train/options.h"
#include "flowmap/train/task.h"
#include "flowmap/train/trainer.h"

namespace flowmap::apps {

class TrainMetrics;

struct TrainSetup {
  TrainOptions options;
  std::shared_ptr<Dataset> dataset;
  std::shared_ptr<Task> task;
  std::string method, network;
  bool labels = false;
  std::shared_ptr<TrainMetrics> metrics;  // nullptr: the run does not score itself
};

// EDM's own defaults: CIFAR-10 DDPM++ under the EDM loss.
Config edm_defaults();
// Reads everything; afterwards an unread key is an error. A run that continues needs no
// `transfer` file: its weights come from the state. Throws UsageError, DataError.
TrainSetup prepare_training(const Config& config, bool continues);
// training_options.json: the resolved configuration.
std::string resolved_options(const Config& config);
// "fashion-mnist-28x28-uncond-ddpmpp-lsd-batch128-fp32[-desc]"
std::string run_description(const TrainSetup& setup, const std::string& desc);
// Data, network, parameters, batch: a few lines for the log.
std::string setup_summary(const TrainSetup& setup);
// The resolved configuration, parameters, FLOPs an image, and the memory a step takes
// (weights, gradients, moments and averages counted; activations measured on one image).
std::string dry_run_report(TrainSetup& setup, const Config& config);
// For a configuration without data: the resolved configuration, and the size of the
// network that network, preconditioning and sample_shape describe; no weights are made.
std::string architecture_report(const Config& config);
// Throws UsageError if `options_file` describes a run of another structure (network,
// preconditioning, data, method, batch, seed); other differences are logged.
void check_same_run(const std::filesystem::path& options_file,
                    const std::string& resolved);
// reals.png: samples of the data set.
void write_reals(const TrainSetup& setup, const std::filesystem::path& png);
// At each snapshot a grid of samples, {kimg}.png, by the method's default sampler, and the
// scores of train_metrics.h.
TrainerHooks training_hooks(const TrainSetup& setup);

}  // namespace flowmap::apps
