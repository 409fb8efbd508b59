#include "apps/sampling.h"

#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <numeric>
#include <utility>

#include "apps/cli.h"
#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"

namespace flowmap::apps {
namespace {

class GeneratedSamples final : public SampleSource {
 public:
  GeneratedSamples(Sampling sampling, std::string name) : sampling_(std::move(sampling)) {
    const ModelInfo model = sampling_.model->info();
    info_.name = std::move(name);
    info_.sample_shape = model.sample_shape;
    info_.images = model.sample_shape.size() == 3;
    info_.count = int64_t{1} << 40;
    FM_CHECK_USAGE(!info_.images || model.sample_shape[0] == 1 ||
                       model.sample_shape[0] == 3,
                   info_.name, ": samples of shape ", shape_text(model.sample_shape),
                   " are latents, not pictures; they cannot be scored");
  }
  DatasetInfo info() const override { return info_; }

  StreamReport stream(const std::vector<int64_t>& rows, int64_t batch, bool,
                      const DeliverPortion& deliver) const override {
    samplers::GenerateRequest request = sampling_.request;
    request.seeds.assign(rows.begin(), rows.end());
    request.batch = batch;
    if (sampling_.one_class >= 0)
      request.classes =
          at::full({static_cast<int64_t>(rows.size())}, sampling_.one_class, at::kLong);
    StreamReport report;
    report.rows = rows;
    if (info_.images) report.resolutions.insert(resolution_text(info_));
    samplers::generate_batches(
        *sampling_.model, *sampling_.sampler, sampling_.schedule, request,
        [&](const samplers::GeneratedBatch& made) {
          at::Tensor samples = made.samples.to(at::kFloat);
          if (info_.images) samples = images_to_bytes(samples);
          metrics::SampleGroup group{samples, {}};
          group.places.resize(static_cast<std::size_t>(samples.size(0)));
          std::iota(group.places.begin(), group.places.end(), 0);
          report.delivered += samples.size(0);
          deliver({&group, 1});
          return true;
        });
    return report;
  }

 private:
  Sampling sampling_;
  DatasetInfo info_;
};

}  // namespace

void add_sampling_flags(CLI::App& app, SamplingFlags& flags) {
  add_network_flags(app, flags.network, "--network");
  add_adapter_flag(app, flags.network);
  app.add_flag("--channels-last", flags.network.channels_last,
               "images channels-last in memory: often faster with bf16 on a GPU");
  add_schedule_flags(app, flags.schedule);
  add_solver_flags(app, flags.solver);
  add_guidance_flags(app, flags.guidance);
  app.add_option("--device", flags.device, "cpu, cuda, cuda:N (default: cuda where found)");
  app.add_option("--dtype", flags.dtype, "of the network: float32, bf16 or float64")
      ->capture_default_str();
}

void add_class_flag(CLI::App& app, SamplingFlags& flags) {
  app.add_option("--class", flags.classes,
                 "class of all samples (default: drawn from the seed)")
      ->check(whole_number(0));
}

Sampling prepare_sampling(const CLI::App& app, const SamplingFlags& flags) {
  require_network(flags.network);
  Sampling sampling;
  samplers::GenerateRequest& request = sampling.request;
  request.precision = parse_precision(flags.dtype, "--dtype");
  request.device = parse_device(flags.device);
  NetworkFlags network = flags.network;
  network.force = flags.schedule.force;
  const Snapshot snapshot = load_model(network, request.device, request.precision);
  sampling.solver = flags.solver.solver.empty()
                        ? samplers::default_sampler(snapshot.model->info(),
                                                    snapshot.defaults.sampler)
                        : flags.solver.solver;
  sampling.sampler = read_solver(app, flags.solver, sampling.solver);
  const Guided guided = read_guidance(app, flags.guidance, snapshot, request.device,
                                      request.precision);
  sampling.model = guided.model;
  request.guidance = guided.input_scale;
  sampling.schedule = read_schedule(app, flags.schedule, snapshot);
  if (!flags.classes.empty()) sampling.one_class = parse_int(flags.classes, "--class");
  return sampling;
}

std::string Sampling::text() const {
  if (samplers::network_evaluations(*sampler, *model, schedule) == 0)
    return solver;  // adaptive: it declares neither steps nor evaluations
  const auto steps = static_cast<long long>(schedule.times.size()) - 1;
  return format("%lld step%s of %s", steps, steps == 1 ? "" : "s", solver.c_str());
}

std::shared_ptr<SampleSource> generated_source(Sampling sampling, std::string name) {
  return std::make_shared<GeneratedSamples>(std::move(sampling), std::move(name));
}

}  // namespace flowmap::apps
