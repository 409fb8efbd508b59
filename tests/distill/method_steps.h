// Steps of training methods as the trainer makes them, for tests.
#pragma once

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "distill/method.h"
#include "flowmap/base/error.h"
#include "flowmap/train/snapshot.h"

namespace flowmap::distill {

constexpr int64_t kBatch = 16;

inline const std::string kMlp = R"("network": {"type": "mlp", "width": 12, "depth": 2})";
inline const std::string kUnet = R"("network": {"type": "ddpmpp", "model_channels": 8,
  "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "dropout": 0.3})";
inline const std::string kTwoTimes =
    R"(, "preconditioning": {"type": "flow", "two_times": true})";

inline DatasetInfo data_of(bool images, int64_t classes) {
  DatasetInfo data;
  data.name = "test";
  data.sample_shape = images ? std::vector<int64_t>{1, 8, 8} : std::vector<int64_t>{2};
  data.label_dim = classes;
  data.count = 1000;
  data.images = images;
  data.pairs = true;  // for the methods that ask for them
  return data;
}

inline std::shared_ptr<Task> make(const Config& config, bool images = false,
                                  int64_t classes = 0) {
  return make_method({config, data_of(images, classes), 7});
}

// No weight is the zero that training starts from, so that every gradient can be seen.
inline void shake(Model& model, std::uint64_t seed = 11) {
  const at::NoGradGuard no_grad;
  std::uint64_t k = 0;
  for (at::Tensor& p : model.parameters()) {
    p.add_(Draw(seed, k++, 1).normal("shake", p.sizes())[0] * 0.05);
    p.set_requires_grad(true);
  }
}

// A snapshot of a shaken model of the specification.
inline void save_shaken(const std::filesystem::path& path, const std::string& spec) {
  const auto model = make_model(Config::from_text(spec, "spec"), 3);
  shake(*model);
  save_snapshot(path, *model, spec, {});
}

// What a configuration is refused with, or "accepted".
inline std::string refusal(const std::string& config, bool images = false,
                           int64_t classes = 0) {
  try {
    make(Config::from_text(config, "test.json"), images, classes);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "accepted";
}

struct Outcome {
  double loss = 0;
  std::vector<at::Tensor> gradients;
  std::map<std::string, int64_t> counts;  // values a statistic got
  std::map<std::string, double> sums;
};

// Gives the average of the student's weights under a profile.
using Average = std::function<std::shared_ptr<Model>(int profile)>;

// The data and the draws of rows `row` ... of the step, as `step` below makes them.
inline Batch batch_of(const DatasetInfo& data, const Draw& samples, int64_t row) {
  Batch part;
  part.x = samples.normal("x1", data.sample_shape) * 0.5;
  if (data.pairs) part.noise = samples.normal("pair_noise", data.sample_shape);
  part.index = at::arange(row, row + samples.rows());
  if (data.label_dim > 0)
    part.labels = at::one_hot(samples.integer("label", {}, data.label_dim),
                              data.label_dim).to(at::kFloat);
  return part;
}
inline Draw samples_of(int64_t images_seen, int64_t row, int64_t rows) {
  return {5, static_cast<uint64_t>(images_seen + row), rows};
}

// One step of `batch` samples cut into `parts`, as the trainer does it. The average is the
// student itself unless another is given.
inline Outcome step(Task& task, const DatasetInfo& data, int64_t batch, int64_t parts,
                    int64_t images_seen = 0, const Average& other = {}) {
  Outcome outcome;
  Player& player = task.players()[0];
  for (const at::Tensor& p : player.model->parameters()) p.mutable_grad().reset();
  const int64_t rows = batch / parts;
  for (int64_t row = 0; row < batch; row += rows) {
    const Draw samples = samples_of(images_seen, row, rows);
    const Batch part = batch_of(data, samples, row);
    const Draw draw = samples.fork("model");
    const auto average = [&](const std::string&, int profile) {
      return other ? other(profile)
                   : clone_frozen(*player.model,
                                  Config::from_text(player.spec_json, "spec"));
    };
    const StepContext context{{images_seen, 0}, draw, batch, row, average};
    const LossResult result = task.loss({"model", 1}, part, context);
    result.loss.backward();
    outcome.loss += result.loss.item<double>();
    for (const auto& [name, values] : result.stats) {
      EXPECT_FALSE(values.requires_grad()) << name;
      outcome.counts[name] += values.numel();
      outcome.sums[name] += values.sum().item<double>();
    }
  }
  for (const at::Tensor& p : player.model->parameters())
    outcome.gradients.push_back(p.grad().defined() ? p.grad().clone() : at::zeros_like(p));
  return outcome;
}

}  // namespace flowmap::distill
