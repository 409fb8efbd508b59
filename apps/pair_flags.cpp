#include "apps/pair_flags.h"

#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "samplers/guided.h"
#include "samplers/inversion.h"

namespace flowmap::apps {
namespace {

// The last part of a path, also of "folder/".
std::string file_name(const std::string& path) {
  const std::filesystem::path whole = std::filesystem::absolute(path).lexically_normal();
  return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

std::string shell_word(const std::string& word) {
  const std::string plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=,:+";
  if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word)
    if (c == '\'')
      quoted += R"('\'')";
    else
      quoted += c;
  return quoted + "'";
}

std::string network_options(const NetworkFlags& flags) {
  std::vector<std::string> parts;
  if (!flags.key.empty()) parts.push_back("key " + flags.key);
  if (!flags.arch.empty()) parts.push_back("arch " + flags.arch);
  for (const std::string& option : flags.arch_options) parts.push_back(option);
  return join(parts, ", ");
}

}  // namespace

PairRecipe pair_recipe(const CLI::App& app, const SamplingFlags& flags,
                       const Sampling& sampling) {
  const ModelInfo info = sampling.model->info();
  const samplers::Schedule& schedule = sampling.schedule;
  PairRecipe recipe;
  recipe.teacher = file_name(flags.network.network);
  recipe.teacher_sha256 = weights_checksum(flags.network.network);
  recipe.teacher_options = network_options(flags.network);
  if (!flags.guidance.guide.empty()) {
    recipe.guide = file_name(flags.guidance.guide);
    recipe.guide_sha256 = weights_checksum(flags.guidance.guide);
  }
  recipe.guidance = flags.guidance.scale;
  recipe.solver = sampling.solver;
  recipe.solver_options = solver_options(app, flags.solver).json(0);
  recipe.schedule = schedule.source;
  recipe.times = schedule.times;
  recipe.sigma = schedule.sigma;
  recipe.sigma_min = schedule.sigma_min;
  recipe.sigma_max = schedule.sigma_max;
  recipe.epsilon_s = schedule.epsilon_s;
  recipe.dtype = precision_name(sampling.request.precision);
  recipe.sample_shape = info.sample_shape;
  recipe.class_count = info.label_dim;
  FM_CHECK_USAGE(sampling.one_class < info.label_dim, "--class: ", sampling.one_class,
                 info.label_dim == 0
                     ? std::string(", and the model was trained without classes")
                     : " is not among the model's classes 0 to " +
                           std::to_string(info.label_dim - 1));
  recipe.classes = info.label_dim == 0       ? "none"
                   : sampling.one_class >= 0 ? std::to_string(sampling.one_class)
                                             : "seed";
  return recipe;
}

std::string command_words(std::span<const std::string> arguments,
                          const std::vector<std::string>& dropped) {
  std::vector<std::string> words;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    const std::string name = word.substr(0, word.find('='));
    if (std::find(dropped.begin(), dropped.end(), name) == dropped.end())
      words.push_back(shell_word(word));
    else if (name == word)
      ++i;  // its value
  }
  return join(words, " ");
}

Sampling sampling_of(const PairRecipe& recipe, const NetworkFlags& network,
                     const std::string& guide, at::Device device) {
  const auto check = [](const std::string& flag, const std::string& path,
                        const std::string& name, const std::string& sha256) {
    const std::string sum = weights_checksum(path);
    FM_CHECK_USAGE(sum == sha256, flag, ": ", path, " is not the network that made these ",
                   "pairs: sha256 ", sum.substr(0, 12), "..., not ", sha256.substr(0, 12),
                   "... (", name, ")");
  };
  require_network(network);
  check("--network", network.network, recipe.teacher, recipe.teacher_sha256);
  FM_CHECK_USAGE(network_options(network) == recipe.teacher_options, "--network: read as '",
                 network_options(network), "', and these pairs were made with '",
                 recipe.teacher_options, "' (--key, --arch, --arch-options)");
  Sampling sampling;
  sampling.request.device = device;
  sampling.request.precision = parse_precision(recipe.dtype, "dtype of the pairs");
  const Precision& precision = sampling.request.precision;
  sampling.model = load_model(network, device, precision).model;
  const bool takes_scale = sampling.model->info().guidance_input && recipe.guide.empty();
  if (takes_scale) {
    sampling.request.guidance = recipe.guidance;
  } else if (!recipe.guide.empty()) {
    FM_CHECK_USAGE(!guide.empty(), "--gnet: these pairs were guided by ", recipe.guide,
                   "; give that file");
    NetworkFlags other;
    other.network = guide;
    require_network(other, "--gnet");
    check("--gnet", guide, recipe.guide, recipe.guide_sha256);
    sampling.model = std::make_shared<samplers::GuidedModel>(
        sampling.model, load_model(other, device, precision).model, recipe.guidance);
  } else if (recipe.guidance != 1) {
    sampling.model =
        std::make_shared<samplers::GuidedModel>(sampling.model, recipe.guidance);
  }
  sampling.solver = recipe.solver;
  sampling.sampler = samplers::make_sampler(
      recipe.solver, Config::from_text(recipe.solver_options, "options of the solver"));
  samplers::Schedule& schedule = sampling.schedule;
  schedule.times = recipe.times;
  schedule.sigma = recipe.sigma;
  schedule.source = recipe.schedule;
  schedule.sigma_min = recipe.sigma_min;
  schedule.sigma_max = recipe.sigma_max;
  schedule.epsilon_s = recipe.epsilon_s;
  return sampling;
}

at::Tensor inverted_noise(const Sampling& sampling, const at::Tensor& samples,
                          const at::Tensor& classes) {
  const at::NoGradGuard no_grad;
  const samplers::GenerateRequest& request = sampling.request;
  const PrecisionGuard scope(request.device.type(), request.precision);
  const ModelInfo info = sampling.model->info();
  const at::Tensor x = samples.to(request.device, request.precision.weights());
  Condition condition;
  if (classes.defined())
    condition.class_labels = at::one_hot(classes, info.label_dim).to(x.options());
  if (info.guidance_input)
    condition.guidance = at::full({x.size(0)}, request.guidance, x.options());
  return samplers::invert(*sampling.model, x, condition, sampling.schedule,
                          sampling.solver != "euler")
      .to(at::kCPU, at::kFloat);
}

}  // namespace flowmap::apps
