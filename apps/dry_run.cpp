// flowmap train --dry-run.
#include <ATen/ATen.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include "apps/train_setup.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/nn/init.h"
#include "flowmap/preconditioning.h"
#include "flowmap/train/live_bytes.h"

namespace flowmap::apps {
namespace {

// Bytes that one more image costs in a micro-batch: loss and backward pass of two sizes,
// run for real, the difference of their peaks.
double bytes_an_image(const TrainSetup& setup) {
  const DatasetInfo data = setup.dataset->info();
  const auto peak = [&](int64_t rows) {
    Batch batch;
    batch.index = at::arange(rows) % data.count;
    batch.x = samples_to_float(setup.dataset->samples(batch.index));
    batch.labels = setup.dataset->labels(batch.index);
    batch.noise = setup.dataset->noise(batch.index);
    const Draw draw(0, 0, rows);
    // An average starts as the weights themselves.
    const auto average = [&](const std::string& name, int) {
      for (const Player& player : setup.task->players())
        if (player.name == name)
          return clone_frozen(*player.model,
                              Config::from_text(player.spec_json, "specification"));
      throw Error("there is no player '" + name + "'");
    };
    const StepContext context{{}, draw, rows, 0, average,
                              setup.options.gradient_checkpointing};
    const auto counter = std::make_shared<LiveBytes>();
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, counter);
    const Turn turn = setup.task->turns({}).front();
    setup.task->loss(turn, batch, context).loss.backward();
    return static_cast<double>(counter->peak());
  };
  for (const Player& player : setup.task->players())
    for (const at::Tensor& p : player.model->parameters())
      p.set_requires_grad(player.trained);
  // The first pass makes the gradients, so that neither measured one does.
  peak(8);
  return (peak(16) - peak(8)) / 8;
}

}  // namespace

std::string dry_run_report(TrainSetup& setup, const Config& config) {
  double fixed = 0;
  int64_t largest = 0;
  for (const Player& player : setup.task->players()) {
    const int64_t count = parameter_count(*player.model);
    largest = std::max(largest, count);
    // Trained: weights, gradients, two moments, and the averages.
    const double copies =
        player.trained ? 4.0 + static_cast<double>(setup.options.ema.size()) : 1.0;
    fixed += 4 * copies * static_cast<double>(count);
  }
  const double image = bytes_an_image(setup);
  const double total = fixed + image * static_cast<double>(setup.options.batch_gpu);
  constexpr double kMiB = 1024.0 * 1024.0;
  return resolved_options(config) + setup_summary(setup) +
         format("\nmemory:  about %.0f MiB: %.0f MiB of weights, gradients, moments and "
                "averages + %lld x %.2f MiB of activations (float32, measured); lower "
                "trainer.batch_gpu to need less",
                total / kMiB, fixed / kMiB,
                static_cast<long long>(setup.options.batch_gpu), image / kMiB);
}

std::string architecture_report(const Config& config) {
  FM_CHECK_USAGE(config.has("network") && config.has("sample_shape"),
                 "--dry-run without data needs network and sample_shape ([C, H, W]) in the "
                 "configuration; or give --data");
  const ShapesOnly shapes;
  const std::shared_ptr<Model> model = build_model(config);
  config.check_all_read();
  const int64_t parameters = parameter_count(*model);
  return config.resolved_json() +
         format("\nnetwork: %s, %lld parameters, %.3f GFLOP a sample, %.0f MiB in float32 "
                "(no data given: sizes only)",
                config.child("network").string("type").c_str(),
                static_cast<long long>(parameters), 2e-9 * model->multiply_adds(),
                4 * static_cast<double>(parameters) / (1 << 20));
}

}  // namespace flowmap::apps
