#include "samplers/dpmpp.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <deque>

#include "flowmap/base/error.h"

namespace flowmap::samplers {
namespace {

constexpr std::size_t kShortRun = 15;  // steps; the authors' bound for lower_order_final

// An evaluation that later steps interpolate through.
struct DpmppNode {
  double log_snr;
  at::Tensor value;  // data or noise, as predicted
};

// The multistep integral over one step of expm1-type weights, z = -h for data and h for
// noise (exponential integrators: int_0^1 e^{z(1-u)} z p(u) du with p the polynomial in the
// fraction u of the step). history[0] is the newest node.
at::Tensor dpmpp_integral(const std::deque<DpmppNode>& history, int64_t order, double h,
                          double z, const DpmppOptions& options) {
  const double weight = std::expm1(z);
  at::Tensor total = weight * history[0].value;
  if (order == 1) return total;
  const double slope_weight = weight / z - 1;
  const double r0 = (history[0].log_snr - history[1].log_snr) / h;
  const at::Tensor first = (history[0].value - history[1].value) / r0;
  if (order == 2)
    return total + (options.midpoint ? 0.5 * weight : slope_weight) * first;
  const double r1 = (history[1].log_snr - history[2].log_snr) / h;
  const at::Tensor second =
      (first - (history[1].value - history[2].value) / r1) / (r0 + r1);
  // p(u) = m + u first + u (u + r0) second; u^2 integrates to twice (weight - z)/z^2 - 1/2.
  const double curve_weight = (options.full_second_difference ? 2 : 1) *
                              ((weight - z) / (z * z) - 0.5);
  return total + slope_weight * (first + r0 * second) + curve_weight * second;
}

int64_t dpmpp_order(const DpmppOptions& options, std::size_t step, std::size_t steps) {
  const auto left = static_cast<int64_t>(steps - step);
  if (left == 1 && options.euler_at_final) return 1;
  if (options.lower_order_final && steps < kShortRun) return std::min(options.order, left);
  return options.order;
}

}  // namespace

at::Tensor solve_dpmpp(Model& model, const at::Tensor& latents, const Condition& condition,
                       const Schedule& schedule, const DpmppOptions& options,
                       const NoiseSource& noise) {
  const at::NoGradGuard no_grad;
  const Schedule knots = walked(schedule, options.final_sigma);
  DataPredictor predictor(model, condition, knots, latents);
  at::Tensor x = predictor.start(latents);
  std::deque<DpmppNode> history;
  const std::size_t steps = knots.times.size() - 1;
  for (std::size_t i = 0; i < steps; ++i) {
    const NoiseLevel now = predictor.level(knots.times[i]);
    const NoiseLevel next = predictor.level(knots.times[i + 1]);
    const at::Tensor data = predictor.denoised(x, knots.times[i]);
    const double h = next.log_snr() - now.log_snr();
    history.push_front({now.log_snr(), options.predict_noise
                                           ? (x - now.alpha * data) / now.sigma
                                           : data});
    if (history.size() > 3) history.pop_back();
    const int64_t order = std::min(dpmpp_order(options, i, steps),
                                   static_cast<int64_t>(history.size()));
    if (std::isinf(h)) {
      // Data alone at the end; from pure noise, the share of the old noise that is kept.
      const double kept = options.eta > 0 ? 0 : next.sigma / now.sigma;
      x = kept * x + (next.alpha - kept * now.alpha) * data;
    } else if (options.predict_noise) {
      x = next.alpha / now.alpha * x -
          next.sigma * dpmpp_integral(history, order, h, h, options);
    } else {
      x = next.sigma / now.sigma * std::exp(-options.eta * h) * x -
          next.alpha *
              dpmpp_integral(history, order, h, -(1 + options.eta) * h, options);
    }
    if (options.eta > 0 && next.sigma > 0)
      x = x + next.sigma * std::sqrt(-std::expm1(-2 * options.eta * h)) * noise(i);
  }
  return x;
}

namespace {

class Dpmpp : public Sampler {
 public:
  explicit Dpmpp(const DpmppOptions& options) : options_(options) {}
  at::Tensor sample(Model& model, const at::Tensor& latents, const Condition& condition,
                    const Schedule& schedule, const Draw& draw) const override {
    return solve_dpmpp(model, latents, condition, schedule, options_,
                       noise_of(draw, latents))
        .to(latents.scalar_type());
  }
  int64_t evaluations(const ModelInfo&, const Schedule& schedule) const override {
    return static_cast<int64_t>(walked(schedule, options_.final_sigma).times.size()) - 1;
  }

 private:
  DpmppOptions options_;
};

}  // namespace

DpmppOptions read_dpmpp_options(const Config& options) {
  static const std::vector<std::string> types{"midpoint", "heun"};
  static const std::vector<std::string> predictions{"data", "noise"};
  static const std::vector<std::string> differences{"half", "full"};
  DpmppOptions read;
  read.order = options.integer("order", 2, 1, 3);
  read.midpoint = options.choice("solver_type", types, "midpoint") == "midpoint";
  read.lower_order_final = options.boolean("lower_order_final", true);
  read.euler_at_final = options.boolean("euler_at_final", false);
  read.predict_noise = options.choice("prediction", predictions, "data") == "noise";
  const bool sde = options.boolean("sde", false);
  read.eta = options.number("eta", sde ? 1.0 : 0.0, 0, 10);
  FM_CHECK_USAGE(!sde || read.eta > 0, options.where("eta"),
                 ": eta = 0 is the ODE, but sde = true; leave one of them out");
  FM_CHECK_USAGE(read.eta == 0 || !read.predict_noise, options.where("prediction"),
                 ": the SDE is solved with prediction = data only");
  read.full_second_difference =
      options.choice("second_difference", differences, "half") == "full";
  read.final_sigma = read_final_sigma(options);
  return read;
}

std::shared_ptr<Sampler> make_dpmpp(const Config& options) {
  return std::make_shared<Dpmpp>(read_dpmpp_options(options));
}

}  // namespace flowmap::samplers
