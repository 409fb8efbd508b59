#include "apps/pairs_verify.h"

#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "apps/cli.h"
#include "apps/pair_flags.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/data/dataset.h"
#include "flowmap/draw.h"
#include "flowmap/pairs/flip.h"
#include "flowmap/pairs/pair_store.h"

namespace flowmap::apps {
namespace {

struct PairsVerifyOptions {
  NetworkFlags network;
  std::string folder, guide, device;
  int64_t num = 64, batch = 64;
  double tolerance = 0;
  bool flip = false;
};

// Rounding of what is stored, and of the network in batches of another size. In units of
// the samples, which span 2; of the noise where that is stored.
double default_tolerance(const PairRecipe& recipe) {
  const double computed = recipe.dtype == "float32" || recipe.dtype == "float64" ? 1e-3
                                                                                 : 5e-2;
  switch (recipe.images) {
    case DType::U8: return recipe.stored_noise ? 10 * computed : 1 / 127.5 + computed;
    case DType::F16: return recipe.stored_noise ? 50 * computed : 2e-3 + computed;
    default: return computed;
  }
}

// That what takes the place of noise is noise: unit normals, not samples, nor scaled.
void check_noise(const at::Tensor& noise, bool of_seeds) {
  const double n = static_cast<double>(noise.numel());
  const double mean = noise.mean().item<double>(), std = noise.std().item<double>();
  // Five deviations of the estimates.
  const double slack = 5 / std::sqrt(n);
  log_line(format("noise: mean %.4f, deviation %.4f over %lld numbers", mean, std,
                  static_cast<long long>(noise.numel())));
  if (!of_seeds) return;  // inverted images are as normal as the teacher is good
  FM_CHECK(std::abs(mean) <= slack && std::abs(std - 1) <= slack, "the noise is not unit ",
           "normal: mean ", mean, ", deviation ", std);
}

// The teacher's map of these pairs, from any noise.
NoiseMap map_of(const Sampling& sampling, const PairStore& store, const at::Tensor& rows,
                int64_t batch) {
  return [=, &sampling, &store](const at::Tensor& noise) {
    samplers::GenerateRequest request = sampling.request;
    request.latents = noise;
    request.seeds = store.seeds(rows);  // of solvers that draw more
    request.classes = store.classes(rows);
    request.batch = batch;
    std::vector<at::Tensor> parts;
    samplers::generate_batches(*sampling.model, *sampling.sampler, sampling.schedule,
                               request, [&](const samplers::GeneratedBatch& made) {
                                 parts.push_back(made.samples);
                                 return true;
                               });
    return at::cat(parts);
  };
}

void report_flips(const Sampling& sampling, const PairStore& store, const at::Tensor& rows,
                  int64_t batch) {
  const NoiseMap map = map_of(sampling, store, rows, batch);
  for (const int64_t dimension : {3, 2}) {
    const at::Tensor error = flip_equivariance(map, store.noise(rows), dimension);
    log_line(format("%s flip: ||flip(T(n)) - T(flip n)|| / ||T(n)|| = %.4f on average, at "
                    "most %.4f",
                    dimension == 3 ? "horizontal" : "vertical", error.mean().item<double>(),
                    error.max().item<double>()));
  }
}

// What was stored, and the same made again.
std::pair<at::Tensor, at::Tensor> made_again(const Sampling& sampling,
                                             const PairStore& store, const at::Tensor& rows,
                                             int64_t batch) {
  const at::Tensor stored = samples_to_float(store.images(rows));
  if (store.recipe().stored_noise) {
    std::vector<at::Tensor> parts;
    for (int64_t first = 0; first < rows.numel(); first += batch) {
      const at::Tensor some = rows.slice(0, first, std::min(first + batch, rows.numel()));
      parts.push_back(inverted_noise(sampling, samples_to_float(store.images(some)),
                                     store.classes(some)));
    }
    return {store.noise(rows), at::cat(parts)};
  }
  samplers::GenerateRequest request = sampling.request;
  request.seeds = store.seeds(rows);
  request.classes = store.classes(rows);
  request.batch = batch;
  std::vector<at::Tensor> parts;
  samplers::generate_batches(*sampling.model, *sampling.sampler, sampling.schedule, request,
                             [&](const samplers::GeneratedBatch& made) {
                               parts.push_back(made.samples.to(at::kFloat));
                               return true;
                             });
  at::Tensor again = at::cat(parts);
  if (store.recipe().images == DType::U8)
    again = samples_to_float(images_to_bytes(again));
  return {stored, again};
}

}  // namespace

int run_pairs_verify(std::span<const std::string> arguments) {
  CLI::App app("Makes some pairs again and compares.", "flowmap pairs verify");
  PairsVerifyOptions o;
  app.add_option("FOLDER", o.folder, "folder of pairs")->required();
  add_network_flags(app, o.network, "--network");
  app.add_option("--gnet", o.guide, "the weaker network that guided them, if one did")
      ->check(not_empty());
  app.add_option("--num", o.num, "how many pairs")
      ->check(whole_number(1))
      ->capture_default_str();
  app.add_option("--batch", o.batch, "pairs at once")
      ->check(whole_number(1))
      ->capture_default_str();
  app.add_option("--tolerance", o.tolerance,
                 "largest difference of samples, which span 2 (default: the rounding of "
                 "how they are stored)")
      ->check(positive_number());
  app.add_flag("--flip", o.flip,
               "print how far the teacher is from commuting with flips (images)");
  app.add_option("--device", o.device, "cpu, cuda, cuda:N (default: cuda where found)");
  if (!parse_arguments(app, arguments)) return 0;
  const PairStore store(o.folder);
  const PairRecipe& recipe = store.recipe();
  FM_CHECK_USAGE(!o.flip || recipe.sample_shape.size() == 3,
                 "--flip: these pairs are of points");
  const Sampling sampling =
      sampling_of(recipe, o.network, o.guide, parse_device(o.device));

  const int64_t num = std::min(o.num, store.count());
  std::vector<int64_t> picked;
  for (int64_t i = 0; i < num; ++i)
    picked.push_back(shuffled_index(0, static_cast<std::uint64_t>(i), store.count()));
  std::sort(picked.begin(), picked.end());
  const at::Tensor rows = at::tensor(picked, at::kLong);
  check_noise(store.noise(rows), !recipe.stored_noise);
  if (o.flip) report_flips(sampling, store, rows, o.batch);

  const auto [stored, again] = made_again(sampling, store, rows, o.batch);
  const double tolerance = o.tolerance > 0 ? o.tolerance : default_tolerance(recipe);
  const at::Tensor difference = (stored - again).abs().flatten(1).amax(1);
  const double largest = difference.max().item<double>();
  const auto seed = store.seeds(rows.index_select(0, difference.argmax().reshape({1})))[0];
  if (!(largest <= tolerance))
    throw Error(format("%s: the %s of seed %llu is off by %.3g (tolerance %.3g); delete its "
                       "shard and make it again with: %s",
                       o.folder.c_str(), recipe.stored_noise ? "noise" : "sample",
                       static_cast<unsigned long long>(seed), largest, tolerance,
                       store.manifest().remedy(o.folder).c_str()));
  log_line(format("%lld of %lld pairs made again: largest difference %.3g (tolerance %.3g)",
                  static_cast<long long>(num), static_cast<long long>(store.count()), largest,
                  tolerance));
  return 0;
}

}  // namespace flowmap::apps
