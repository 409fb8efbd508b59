#include "distill/reflow/losses.h"

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/interpolant.h"

namespace flowmap::distill {
namespace {

// The distance that a loss of this name asks for.
std::shared_ptr<PerceptualDistance> distance_of_loss(const Config& method,
                                                     const std::vector<int64_t>& shape,
                                                     const std::string& loss) {
  FM_CHECK_USAGE(shape.size() == 3, method.where("loss"), ": method.loss = ", loss,
                 " compares images, and these samples are points; take l2 or huber");
  return make_perceptual_distance(loss.substr(0, loss.find('_')),
                                  method.child("perceptual"));
}

}  // namespace

at::Tensor mean_square(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).square().flatten(1).mean(1);
}

at::Tensor pseudo_huber(const at::Tensor& a, const at::Tensor& b, double relative_c) {
  const double d = static_cast<double>(a[0].numel()), c = relative_c * d;
  return ((a - b).square().flatten(1).sum(1) + c * c).sqrt().sub(c) / d;
}

at::Tensor EndLoss::operator()(const at::Tensor& x0, const at::Tensor& velocity,
                               const at::Tensor& end) const {
  if (rule == Rule::perceptual) return (*distance)(x0 + velocity, end);
  return rule == Rule::l2 ? mean_square(velocity, end - x0)
                          : pseudo_huber(velocity, end - x0, relative_c);
}

EndLoss read_end_loss(const Config& method, const std::vector<int64_t>& shape,
                      const std::string& by_default) {
  EndLoss loss;
  const std::vector<std::string> rules = {"l2", "huber", "lpips", "classifier"};
  const std::string rule = method.choice("loss", rules, by_default);
  if (rule == "l2") return loss;
  loss.rule = rule == "huber" ? EndLoss::Rule::huber : EndLoss::Rule::perceptual;
  if (rule == "huber")
    loss.relative_c = method.number("huber_c", 0.00054, 0, 1);
  else
    loss.distance = distance_of_loss(method, shape, rule);
  return loss;
}

at::Tensor ReflowLoss::operator()(const at::Tensor& x, const at::Tensor& velocity,
                                  const at::Tensor& slope, const at::Tensor& data,
                                  const at::Tensor& t) const {
  if (rule == Rule::l2) return mean_square(velocity, slope);
  const at::Tensor huber = pseudo_huber(velocity, slope, relative_c);
  if (rule == Rule::huber) return huber;
  const at::Tensor rest = 1 - t;
  const at::Tensor far = (*distance)(x + column_like(rest, x) * velocity, data);
  // At t = 1 the distance goes to zero faster than the rest of the time; rfpp stops there.
  return t * huber +
         (rule == Rule::perceptual ? far : far / rest.clamp_min(1e-5));
}

ReflowLoss read_reflow_loss(const Config& method, const std::vector<int64_t>& shape) {
  using Rule = ReflowLoss::Rule;
  ReflowLoss loss;
  const std::vector<std::string> rules = {"l2", "huber", "lpips_huber", "classifier_huber"};
  const std::string rule = method.choice("loss", rules, "l2");
  if (rule == "l2") return loss;
  loss.rule = Rule::huber;
  loss.relative_c = method.number("huber_c", 0.00054, 0, 1);
  if (rule == "huber") return loss;
  loss.distance = distance_of_loss(method, shape, rule);
  const std::vector<std::string> weights = {"one", "inverse_time"};
  loss.rule = method.choice("perceptual_weight", weights, "inverse_time") == "one"
                  ? Rule::perceptual
                  : Rule::perceptual_over_time;
  return loss;
}

TwoSteps two_step_target(const Teacher& guide, const at::Tensor& x0,
                         const at::Tensor& first, const at::Tensor& t,
                         const Condition& condition, Context& context) {
  const at::NoGradGuard no_grad;
  const at::Tensor middle = x0 + column_like(t, x0) * first.to(x0.dtype());
  const at::Tensor slope =
      guide.velocity(middle, t, condition, {}, context).to(x0.dtype());
  return {middle, middle + column_like(1 - t, x0) * slope};
}

at::Tensor halving_target(const Teacher& teacher, const at::Tensor& x, const at::Tensor& s,
                          double h, const Condition& condition, Context& context) {
  const at::NoGradGuard no_grad;
  const at::Tensor first =
      teacher.velocity(x, s, condition, {}, context).to(x.dtype());
  const at::Tensor second =
      teacher.velocity(x + (h / 2) * first, s + h / 2, condition, {}, context);
  return 0.5 * (first + second.to(x.dtype()));
}

}  // namespace flowmap::distill
