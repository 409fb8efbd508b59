#include "apps/boss_options.h"

#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "apps/cli.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"

namespace flowmap::apps {

void add_boss_network_flags(CLI::App& app, BossNetworkFlags& flags) {
  add_network_flags(app, flags.network, "--network");
  add_guidance_flags(app, flags.guidance);
  app.add_option("--class", flags.classes,
                 "class of all noises (default: drawn from the seed)");
  app.add_option("--batch", flags.batch, "noises at once")
      ->check(whole_number(1))
      ->capture_default_str();
  app.add_option("--device", flags.device, "cpu, cuda, cuda:N (default: cuda where found)");
  app.add_option("--dtype", flags.dtype, "float32, bf16 or float64")->capture_default_str();
}

BossNetwork load_boss_network(const CLI::App& app, const BossNetworkFlags& flags) {
  require_network(flags.network);
  BossNetwork network;
  network.precision = parse_precision(flags.dtype, "--dtype");
  network.device = parse_device(flags.device);
  network.bare = load_model(flags.network, network.device, network.precision).model;
  network.guided =
      read_guidance(app, flags.guidance, network.bare, network.device, network.precision);
  network.info = network.bare->info();
  if (flags.classes.empty()) return network;
  const int64_t label = parse_int(flags.classes, "--class");
  FM_CHECK_USAGE(label >= 0 && label < network.info.label_dim, "--class: ", label,
                 " is not among the model's ", network.info.label_dim, " classes");
  return network;
}

std::vector<std::vector<std::uint64_t>> seed_batches(
    const std::vector<std::int64_t>& seeds, int64_t batch, int64_t anchors,
    const ModelInfo& info, bool with_slopes) {
  int64_t elements = 1;
  for (const int64_t size : info.sample_shape) elements *= size;
  constexpr int64_t kMostBytes = int64_t{1} << 29;
  const int64_t bytes = (anchors + 1) * elements * 8 * (with_slopes ? 2 : 1);
  const int64_t fits = std::clamp(kMostBytes / bytes, int64_t{1}, batch);
  std::vector<std::vector<std::uint64_t>> batches;
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    if (i % static_cast<std::size_t>(fits) == 0) batches.emplace_back();
    batches.back().push_back(static_cast<std::uint64_t>(seeds[i]));
  }
  return batches;
}

samplers::SearchBatch boss_batch(const BossNetwork& network, const BossNetworkFlags& flags,
                                 const std::vector<std::uint64_t>& seeds) {
  at::Tensor classes;
  if (!flags.classes.empty())
    classes = at::full({static_cast<int64_t>(seeds.size())},
                       parse_int(flags.classes, "--class"), at::kLong);
  return samplers::search_batch(
      network.info, seeds, classes, network.guided.input_scale,
      at::TensorOptions(network.device).dtype(network.precision.weights()));
}

}  // namespace flowmap::apps
