#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "apps/cli.h"
#include "apps/run_options.h"
#include "apps/sample_files.h"
#include "apps/sampling.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/formats/npy.h"
#include "flowmap/base/text.h"
#include "flowmap/precision.h"
#include "flowmap/tensor_io.h"
#include "samplers/engine.h"
#include "samplers/inversion.h"

namespace flowmap::apps {
namespace {

struct GenerateOptions {
  SamplingFlags sampling;
  std::string seeds = "0-63", classes, latents;
  SampleFiles files;
  int64_t batch = 64, interpolate = 0;
};

void declare_generate(CLI::App& app, GenerateOptions& o) {
  add_sampling_flags(app, o.sampling);
  app.add_option("--seeds", o.seeds, "seeds, one an image: 1,2,5-10")
      ->capture_default_str();
  app.add_option("--outdir", o.files.outdir, "folder for SEED.png")->check(not_empty());
  app.add_flag("--subdirs", o.files.subdirs, "a subfolder for every 1000 seeds");
  app.add_option("--class", o.classes,
                 "class of all images, or a comma list, one an image (default: drawn "
                 "from the seed)");
  app.add_option("--batch", o.batch, "images at once")
      ->check(whole_number(1))
      ->capture_default_str();
  app.add_option("--interpolate", o.interpolate,
                 "walk from each seed to the next in this many images, along great circles "
                 "of the latents; the class is the nearer seed's")
      ->check(whole_number(1, 100000));
  app.add_option("--grid", o.files.grid, "all images in one PNG, rows of --grid-cols")
      ->check(not_empty());
  app.add_option("--grid-cols,--grid_cols", o.files.grid_columns, "columns of --grid")
      ->check(whole_number(1, 4096))
      ->capture_default_str();
  app.add_option("--npz", o.files.npz,
                 "npz: arr_0 bytes [N,H,W,C], arr_1 classes; points [N,d] for point sets; "
                 "samples float32 [N,C,H,W] and labels for latents")
      ->check(not_empty());
  app.add_option("--raw", o.files.raw,
                 "safetensors: images, floats [N,C,H,W] before they become bytes; points")
      ->check(not_empty());
  app.add_option("--latents", o.latents,
                 "npz or safetensors with 'latents' (unit normals [N,...]) instead of "
                 "--seeds")
      ->check(not_empty());
  app.add_flag("--overwrite", o.files.overwrite, "replace files that are there");
}

at::Tensor read_latents(const std::string& path) {
  if (ends_with_ignoring_case(path, ".npz")) {
    const auto arrays = read_npz(path);
    const auto found = arrays.find("latents");
    if (found == arrays.end()) throw DataError(path, {}, "an array 'latents'", "none");
    return to_tensor(found->second);
  }
  return read_tensor(SafetensorsReader(path), "latents");
}

// int64 [n]
at::Tensor parse_classes(const std::string& text, int64_t n) {
  std::vector<std::int64_t> classes = parse_int_list(text, "--class");
  if (classes.size() == 1)
    classes.assign(static_cast<std::size_t>(n), classes.front());
  FM_CHECK_USAGE(static_cast<int64_t>(classes.size()) == n, "--class: ", classes.size(),
                 " classes for ", n, " images; give one for all or one an image");
  return at::tensor(classes, at::kLong);
}

// Latents on the way from each seed (or given latent) to the next, and the class of the
// nearer one; the rows become numbered from 0.
void interpolate(samplers::GenerateRequest& request, const ModelInfo& info,
                 std::vector<std::int64_t>& numbers, int64_t n) {
  FM_CHECK_USAGE(numbers.size() >= 2, "--interpolate: two seeds or more are needed, got ",
                 numbers.size());
  const std::vector<std::uint64_t> seeds(numbers.begin(), numbers.end());
  const Draw draw = Draw::per_seed(seeds);
  if (!request.latents.defined())
    request.latents = draw.normal("latents", info.sample_shape);
  if (!request.classes.defined() && info.label_dim > 0)
    request.classes = draw.integer("class", {}, info.label_dim);
  request.latents = samplers::interpolate_latents(request.latents, n);
  const int64_t rows = request.latents.size(0);
  if (request.classes.defined()) {
    const at::Tensor at_seed = at::arange(rows) + n / 2;
    request.classes = request.classes.index_select(0, at_seed.floor_divide(n));
  }
  numbers.resize(static_cast<std::size_t>(rows));
  std::iota(numbers.begin(), numbers.end(), 0);
}

// Rows whose picture is there already need no work where pictures are all that is wanted.
std::vector<int64_t> rows_to_make(const SampleFiles& files,
                                  const std::vector<std::int64_t>& numbers) {
  std::vector<int64_t> rows;
  const bool skip = !files.collects() && !files.overwrite && !files.outdir.empty();
  for (std::size_t i = 0; i < numbers.size(); ++i)
    if (!skip || !std::filesystem::is_regular_file(files.image_path(numbers[i])))
      rows.push_back(static_cast<int64_t>(i));
  return rows;
}

// What is left of a run that Ctrl-C stopped after `done` of `total` samples.
std::string interruption_text(const SampleFiles& files, int64_t done, int64_t total) {
  std::string text = format("interrupted after %lld of %lld samples",
                            static_cast<long long>(done), static_cast<long long>(total));
  std::vector<std::string> unwritten;
  for (const auto& [flag, value] :
       {std::pair{"--grid", files.grid}, {"--npz", files.npz}, {"--raw", files.raw}})
    if (!value.empty()) unwritten.emplace_back(flag);
  if (!unwritten.empty()) text += "; nothing of " + join(unwritten, ", ") + " was written";
  if (!files.outdir.empty()) text += "; pictures finished so far are in " + files.outdir;
  if (files.outdir.empty() || files.collects())
    return text + "; the same command makes all samples anew";
  return text + (files.overwrite
                     ? "; the same command without --overwrite makes the missing ones"
                     : "; the same command continues with the missing ones");
}

}  // namespace

int run_generate(std::span<const std::string> arguments) {
  CLI::App app("Images (or points) from seeds and a snapshot.", "flowmap generate");
  GenerateOptions o;
  declare_generate(app, o);
  app.footer("\nExample: flowmap generate --network student.safetensors --seeds 0-63 "
             "--steps 1 --outdir out --grid out/grid.png");
  if (!parse_arguments(app, arguments)) return 0;
  if (o.files.outdir.empty() && !o.files.collects())
    throw UsageError("nothing to write; give --outdir, --grid, --npz or --raw");
  if (!o.latents.empty() && app.count("--seeds"))
    throw UsageError("--latents and --seeds exclude each other");
  require_network(o.sampling.network);
  if (!o.files.grid.empty()) require_ending(o.files.grid, ".png", "--grid");

  at::Tensor latents, classes;
  std::vector<std::int64_t> numbers;
  if (o.latents.empty()) {
    numbers = parse_int_list(o.seeds, "--seeds");
  } else {
    require_file(o.latents, "--latents");
    latents = read_latents(o.latents);
    FM_CHECK(latents.dim() >= 2 && latents.size(0) > 0, o.latents,
             ": expected latents [N, ...], got shape ", latents.sizes());
    for (int64_t i = 0; i < latents.size(0); ++i) numbers.push_back(i);
  }
  if (app.count("--class"))
    classes = parse_classes(o.classes, static_cast<int64_t>(numbers.size()));

  const Sampling sampling = prepare_sampling(app, o.sampling);
  const ModelInfo info = sampling.model->info();
  const samplers::Schedule& schedule = sampling.schedule;
  samplers::GenerateRequest request = sampling.request;
  request.latents = latents;
  request.classes = classes;
  const int64_t evaluations =
      samplers::network_evaluations(*sampling.sampler, *sampling.model, schedule);
  const auto steps = static_cast<int64_t>(schedule.times.size()) - 1;
  if (o.interpolate > 0) interpolate(request, info, numbers, o.interpolate);

  const std::vector<int64_t> rows = rows_to_make(o.files, numbers);
  const auto skipped = static_cast<int64_t>(numbers.size() - rows.size());
  if (skipped > 0) {
    const at::Tensor index = at::tensor(rows, at::kLong);
    if (request.latents.defined()) request.latents = request.latents.index_select(0, index);
    if (request.classes.defined()) request.classes = request.classes.index_select(0, index);
  }
  std::vector<std::int64_t> made;
  for (const int64_t row : rows) made.push_back(numbers[static_cast<std::size_t>(row)]);
  request.seeds.assign(made.begin(), made.end());
  request.batch = o.batch;
  const auto total = static_cast<int64_t>(made.size());

  const std::filesystem::path network = o.sampling.network.network;
  SampleWriter writer(o.files, info.sample_shape, made,
                      {{"network", network.filename().string()},
                       {"steps", std::to_string(steps)},
                       {"solver", sampling.solver}});
  install_interrupt_handler();
  LiveLine live;
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  int64_t done = 0;
  const bool complete = samplers::generate_batches(
      *sampling.model, *sampling.sampler, schedule, request,
      [&](const samplers::GeneratedBatch& batch) {
        writer.add(batch);
        done = batch.first + batch.samples.size(0);
        const double rate = static_cast<double>(done) / std::max(seconds(), 1e-9);
        live.update(format("%lld/%lld  %.1f images/s  ETA %s",
                           static_cast<long long>(done), static_cast<long long>(total),
                           rate,
                           format_duration(static_cast<double>(total - done) / rate)
                               .c_str()));
        return !interrupted() || done == total;
      });
  live.clear();
  if (!complete)
    throw Interrupted(interruption_text(o.files, done, total));
  const double took = seconds();
  if (total > 0) writer.finish();
  if (const int64_t kept = skipped + writer.kept(); kept > 0)
    log_line(format("kept %lld pictures that were there (--overwrite replaces them)",
                    static_cast<long long>(kept)));
  // Adaptive solvers declare neither steps nor evaluations.
  const bool adaptive = evaluations == 0;
  const std::string cost =
      adaptive ? "network evaluations by tolerance"
               : format("%lld network evaluation%s an image, %lld in all",
                        static_cast<long long>(evaluations), evaluations == 1 ? "" : "s",
                        static_cast<long long>(evaluations * total));
  const std::string walk =
      adaptive ? "" : format("%lld step%s, %s, ", static_cast<long long>(steps),
                             steps == 1 ? "" : "s", schedule.source.c_str());
  log_line(format("%lld %s in %.2f s, %.1f images/s; %s (%s, %s%s)",
                  static_cast<long long>(total),
                  info.sample_shape.size() == 3 ? "images" : "points", took,
                  static_cast<double>(total) / std::max(took, 1e-9), cost.c_str(),
                  sampling.solver.c_str(), walk.c_str(), request.device.str().c_str()));
  return 0;
}

}  // namespace flowmap::apps
