#include "flowmap/model.h"

#include <ATen/ATen.h>

#include <numbers>
#include <string>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/ops.h"

namespace flowmap {

namespace {

constexpr double kQuarterTurn = std::numbers::pi / 2;

// f(a) with its derivative given.
Dual chained(at::Tensor value, const at::Tensor& derivative, const Dual& a) {
  return {std::move(value), a.has_tangent() ? derivative * a.tangent : at::Tensor()};
}

std::pair<Dual, Dual> sine_and_cosine(const Dual& t) {
  const at::Tensor s = (t.value * kQuarterTurn).sin(), c = (t.value * kQuarterTurn).cos();
  return {chained(s, kQuarterTurn * c, t), chained(c, -kQuarterTurn * s, t)};
}

Dual one_minus(const Dual& a) { return ops::add_scalar(ops::neg(a), 1); }

void copy_named(const torch::OrderedDict<std::string, at::Tensor>& from,
                torch::OrderedDict<std::string, at::Tensor>& to) {
  for (const auto& item : from)
    FM_CHECK(to.contains(item.key()), "copy_weights: the target has no '", item.key(),
             "'; the specifications differ");
  for (auto& item : to) {
    const at::Tensor* source = from.find(item.key());
    FM_CHECK(source, "copy_weights: the source has no '", item.key(),
             "'; the specifications differ");
    FM_CHECK(source->sizes() == item.value().sizes(), "copy_weights: '", item.key(),
             "' has shape ", source->sizes(), " and ", item.value().sizes());
    item.value().copy_(*source);
  }
}

}  // namespace

std::string_view model_kind_name(ModelKind kind) {
  switch (kind) {
    case ModelKind::velocity: return "velocity";
    case ModelKind::denoiser: return "denoiser";
    case ModelKind::flow_map: return "flow_map";
  }
  throw Error("model_kind_name: unknown kind");
}

Dual sigma_from_t(const Dual& t, double base_std, Interpolant interpolant) {
  if (interpolant == Interpolant::trigonometric) {
    // b cot(pi t/2)
    const at::Tensor angle = t.value * kQuarterTurn;
    return chained(base_std / angle.tan(),
                   -base_std * kQuarterTurn / angle.sin().square(), t);
  }
  return ops::scale(ops::div(one_minus(t), t), base_std);
}

Dual t_from_sigma(const Dual& sigma, double base_std, Interpolant interpolant) {
  if (interpolant == Interpolant::trigonometric) {
    const at::Tensor ratio = sigma.value / base_std;
    return chained(1 - ratio.atan() / kQuarterTurn,
                   -1 / (kQuarterTurn * base_std * (1 + ratio.square())), sigma);
  }
  const Dual denominator = ops::add_scalar(ops::scale(sigma, 1 / base_std), 1);
  return ops::div(Dual(at::ones_like(denominator.value)), denominator);
}

// With D the denoiser and x_t = beta x_sigma: D = E[x1], b E[n] = (x_t - beta D) / alpha,
// and v = alpha' b E[n] + beta' D. Linear: v = (D - x_t) / (1-t). Trigonometric, at the
// angle pi t/2: D = sin x_t + (2/pi) cos v.
Dual Model::velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) {
  const ModelInfo about = info();
  const int64_t dims = x.value.dim();
  FM_CHECK_USAGE(about.interpolant == Interpolant::linear,
                 "denoisers are views of the linear interpolant only");
  const Dual time = ops::clamp(t, about.t_min, about.t_max);
  const Dual noisy = ops::div(x, ops::column(time, dims));
  const Dual denoised = denoise(noisy, sigma_from_t(time, about.base_std), c, ctx);
  return ops::div(denoised - x, ops::column(one_minus(time), dims));
}

Dual Model::denoise(const Dual& x, const Dual& sigma, const Condition& c, Context& ctx) {
  const ModelInfo about = info();
  const int64_t dims = x.value.dim();
  const Dual time = ops::clamp(t_from_sigma(sigma, about.base_std, about.interpolant),
                               about.t_min, about.t_max);
  if (about.interpolant == Interpolant::trigonometric) {
    const auto [sine, cosine] = sine_and_cosine(ops::column(time, dims));
    const Dual x_t = x * sine;
    return sine * x_t + ops::scale(cosine * velocity(x_t, time, c, ctx), 1 / kQuarterTurn);
  }
  const Dual x_t = x * ops::column(time, dims);
  return x_t + velocity(x_t, time, c, ctx) * ops::column(one_minus(time), dims);
}

Dual Model::average_velocity(const Dual&, const Dual&, const Dual&, const Condition&,
                             Context&) {
  throw UsageError(detail::concat(
      "a model of kind '", model_kind_name(info().kind),
      "' has one time and no average velocity v_{s,t}; train or load a flow map "
      "(preconditioning.type=flow preconditioning.two_times=true), or sample this one "
      "with a solver (euler, heun)"));
}

at::Tensor Model::log_weight(const at::Tensor& s, const at::Tensor&) {
  return at::zeros_like(s);
}

at::Tensor Model::log_variance(const at::Tensor& sigma) { return at::zeros_like(sigma); }

Dual Model::map(const Dual& x, const Dual& s, const Dual& t, const Condition& c,
                Context& ctx) {
  return x + average_velocity(x, s, t, c, ctx) * ops::column(t - s, x.value.dim());
}

void copy_weights(const Model& from, Model& to) {
  const at::NoGradGuard no_grad;
  auto parameters = to.named_parameters();
  copy_named(from.named_parameters(), parameters);
  auto buffers = to.named_buffers();
  copy_named(from.named_buffers(), buffers);
}

int64_t parameter_count(const torch::nn::Module& module) {
  int64_t total = 0;
  for (const at::Tensor& p : module.parameters()) total += p.numel();
  return total;
}

}  // namespace flowmap
