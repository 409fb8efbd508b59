#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "apps/cli.h"
#include "apps/image_source.h"
#include "apps/run_options.h"
#include "apps/sampler_flags.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/formats/npy.h"
#include "flowmap/base/text.h"
#include "flowmap/precision.h"
#include "flowmap/tensor_io.h"
#include "samplers/guided.h"
#include "samplers/inversion.h"

namespace flowmap::apps {
namespace {

struct InvertOptions {
  NetworkFlags network;
  ScheduleFlags schedule;
  GuidanceFlags guidance;
  std::string images, dest, classes, solver = "heun", device, dtype = "float32";
  int64_t batch = 64;
  bool overwrite = false;
};

void declare_invert(CLI::App& app, InvertOptions& o) {
  add_network_flags(app, o.network, "--network");
  app.add_option("--images", o.images,
                 "PNG/JPEG folder, EDM zip, IDX files, npz, npy or safetensors")
      ->required();
  app.add_option("--dest,--latents-out", o.dest,
                 "npz to write: latents [N,...], which generate --latents reads")
      ->required()
      ->check(not_empty());
  app.add_option("--class", o.classes,
                 "class of all images, or a comma list, one an image (needed where the "
                 "network has classes)");
  app.add_option("--batch", o.batch, "images at once")
      ->check(whole_number(1))
      ->capture_default_str();
  add_schedule_flags(app, o.schedule);
  app.add_option("--solver", o.solver, "euler or heun")->capture_default_str();
  add_guidance_flags(app, o.guidance);
  app.add_option("--device", o.device, "cpu, cuda, cuda:N (default: cuda where found)");
  app.add_option("--dtype", o.dtype, "float32, bf16 or float64")->capture_default_str();
  app.add_flag("--overwrite", o.overwrite, "replace the file if it is there");
  app.footer("\nExample: flowmap invert --network teacher.safetensors --images photos "
             "--dest latents.npz --steps 64\n"
             "         flowmap generate --network teacher.safetensors --latents latents.npz "
             "--solver heun --steps 64 --outdir out");
}

// One-hot [n, label_dim] on the CPU, or undefined.
at::Tensor read_labels(const CLI::App& app, const InvertOptions& o, const ModelInfo& info,
                       int64_t n) {
  if (app.count("--class") == 0) {
    FM_CHECK_USAGE(info.label_dim == 0, "--class: the network has ", info.label_dim,
                   " classes; say which the images are of");
    return {};
  }
  FM_CHECK_USAGE(info.label_dim > 0, "--class: the model was trained without classes");
  std::vector<std::int64_t> classes = parse_int_list(o.classes, "--class");
  if (classes.size() == 1) classes.assign(static_cast<std::size_t>(n), classes.front());
  FM_CHECK_USAGE(static_cast<int64_t>(classes.size()) == n, "--class: ", classes.size(),
                 " classes for ", n, " images; give one for all or one an image");
  for (const std::int64_t label : classes)
    FM_CHECK_USAGE(label >= 0 && label < info.label_dim, "--class: ", label,
                   " is not among the model's classes 0 to ", info.label_dim - 1);
  return at::one_hot(at::tensor(classes, at::kLong), info.label_dim);
}

}  // namespace

int run_invert(std::span<const std::string> arguments) {
  CLI::App app("Latents (unit normals) from which a network gives images back.",
               "flowmap invert");
  InvertOptions o;
  declare_invert(app, o);
  if (!parse_arguments(app, arguments)) return 0;
  require_network(o.network);
  require_ending(o.dest, ".npz", "--dest");
  FM_CHECK_USAGE(o.solver == "heun" || o.solver == "euler", "--solver: '", o.solver,
                 "' does not run backwards; use heun or euler");
  const Precision precision = parse_precision(o.dtype, "--dtype");
  const at::Device device = parse_device(o.device);
  const auto images = open_samples(o.images, "--images");
  const int64_t n = images->info().count;

  const Snapshot snapshot = load_model(o.network, device, precision);
  const ModelInfo info = snapshot.model->info();
  FM_CHECK_USAGE(images->info().sample_shape == info.sample_shape, "--images: shape ",
                 at::IntArrayRef(images->info().sample_shape), " does not fit the network's ",
                 at::IntArrayRef(info.sample_shape));
  const at::Tensor labels = read_labels(app, o, info, n);
  const Guided guided = read_guidance(app, o.guidance, snapshot.model, device, precision);
  constexpr int64_t kDefaultSteps = 64;  // few steps of the snapshot's do not lead back
  const samplers::Schedule schedule =
      read_schedule(app, o.schedule, *snapshot.model, kDefaultSteps);
  const bool second_order = o.solver == "heun";
  const int64_t evaluations = samplers::inversion_evaluations(schedule, second_order) *
                              samplers::networks_of(*guided.model);
  prepare_output(o.dest, o.overwrite, "--dest");

  const at::NoGradGuard no_grad;
  const PrecisionGuard scope(device.type(), precision);
  install_interrupt_handler();
  LiveLine live;
  std::vector<at::Tensor> latents;
  for (int64_t first = 0; first < n; first += o.batch) {
    const int64_t end = std::min(n, first + o.batch);
    const at::Tensor bytes = images->samples(at::arange(first, end));
    const at::Tensor x = samples_to_float(bytes).to(device, precision.weights());
    Condition condition;
    if (labels.defined()) condition.class_labels = labels.slice(0, first, end).to(x.options());
    if (info.guidance_input && guided.model == snapshot.model)
      condition.guidance = at::full({end - first}, guided.input_scale, x.options());
    latents.push_back(
        samplers::invert(*guided.model, x, condition, schedule, second_order)
            .to(at::kCPU, at::kFloat));
    live.update(format("%lld/%lld", static_cast<long long>(end), static_cast<long long>(n)));
    if (interrupted() && end < n)
      throw Interrupted(format("interrupted after %lld of %lld images; nothing was written",
                               static_cast<long long>(end), static_cast<long long>(n)));
  }
  live.clear();
  const at::Tensor all = at::cat(latents);
  FM_CHECK(all.isfinite().all().item<bool>(), "the latents are not finite: the network gives "
           "NaN or infinity; try --dtype float32 or float64, or another snapshot");
  write_npz(o.dest, {{"latents", to_host(all)}});
  log_line(format("%lld latents of deviation %.3f -> %s; %lld network evaluations an image "
                  "(%s, %s)",
                  static_cast<long long>(n), all.std().item<double>(), o.dest.c_str(),
                  static_cast<long long>(evaluations), o.solver.c_str(),
                  schedule.source.c_str()));
  return 0;
}

}  // namespace flowmap::apps
