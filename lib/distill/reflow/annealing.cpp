#include "distill/reflow/annealing.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "flowmap/base/error.h"

namespace flowmap::distill {

double AnnealingSchedule::beta(int64_t images_seen) const {
  const double part = static_cast<double>(images_seen) / static_cast<double>(warmup);
  switch (rule) {
    case Rule::linear: return 1 - std::min(1.0, part);
    case Rule::cosine: return (1 + std::cos(std::numbers::pi * std::min(1.0, part))) / 2;
    case Rule::exponential: return std::exp(-part);
    case Rule::constant: return fixed;
  }
  return 0;
}

AnnealingSchedule read_annealing(const Config& method) {
  using Rule = AnnealingSchedule::Rule;
  AnnealingSchedule schedule;
  const std::vector<std::string> rules = {"linear", "cosine", "exponential", "constant"};
  const std::string rule = method.choice("randomness", rules, "linear");
  if (rule == "constant") {
    schedule.fixed = method.number("beta", {}, 0, 1);
    return schedule;
  }
  schedule.rule = rule == "linear"   ? Rule::linear
                  : rule == "cosine" ? Rule::cosine
                                     : Rule::exponential;
  schedule.warmup = method.count("warmup", 1, 38'400'000);
  FM_CHECK_USAGE(schedule.warmup > 0, method.where("warmup"),
                 ": method.warmup is the number of images over which the randomness goes ",
                 "away; for none at all take method reflow");
  return schedule;
}

at::Tensor annealed_noise(const at::Tensor& noise, const at::Tensor& fresh, double beta) {
  return std::sqrt(1 - beta * beta) * noise + beta * fresh;
}

}  // namespace flowmap::distill
