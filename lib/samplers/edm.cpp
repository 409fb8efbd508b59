#include "samplers/edm.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "samplers/ode.h"

namespace flowmap::samplers {
namespace {

// The VP schedule of the range that the knots were made for.
NoiseTime noise_time(const Schedule& schedule, const EdmOptions& options) {
  if (options.schedule != NoiseTime::Kind::vp)
    return NoiseTime(options.schedule, options.vp_scaling);
  double low = schedule.sigma_min;
  const double high = schedule.sigma_max > 0 ? schedule.sigma_max : schedule.times.front();
  for (const double knot : schedule.times)
    if (schedule.sigma_min == 0 && knot > 0) low = knot;
  FM_CHECK_USAGE(low < high, "--schedule vp: needs two noise levels above 0; give more "
                 "--steps or knots");
  return NoiseTime(options.schedule, options.vp_scaling,
                   VpSchedule::through(low, high, schedule.epsilon_s));
}

// dx/dt and the noise level along the variable that is stepped in.
class EdmPath {
 public:
  EdmPath(Model& model, const Condition& condition, const Schedule& schedule,
          const at::Tensor& latents, const EdmOptions& options)
      : model_(model),
        ode_(model, condition, schedule, latents),
        info_(model.info()),
        sigma_(schedule.sigma) {
    if (sigma_) time_ = noise_time(schedule, options);
    const bool needs_sigma = options.schedule != NoiseTime::Kind::linear ||
                             options.vp_scaling || options.afs;
    FM_CHECK_USAGE(sigma_ || !needs_sigma, "--schedule, --scaling, afs: for denoisers; "
                   "this model is a ", model_kind_name(info_.kind));
  }

  double at_knot(double knot) const { return sigma_ ? time_.time(knot) : knot; }
  at::Tensor start(const at::Tensor& latents, double t) const {
    return sigma_ ? ode_.start(latents) * time_.scale(t) : ode_.start(latents);
  }

  at::Tensor slope(const at::Tensor& x, double t) {
    if (!sigma_ || time_.is_plain()) return ode_.slope(x, t);
    const double s = time_.scale(t);
    // (sigma'/sigma) (x - s D) + (s'/s) x, with (x/s - D)/sigma from the network.
    return x * time_.log_scale_rate(t) +
           ode_.slope(x / s, time_.sigma(t)) * (s * time_.sigma_rate(t));
  }
  // The slope of unit-normal data.
  at::Tensor slope_without_network(const at::Tensor& x, double t) const {
    const double s = time_.scale(t), sigma = time_.sigma(t);
    return x * time_.log_scale_rate(t) +
           x / s / std::sqrt(1 + sigma * sigma) * (s * time_.sigma_rate(t));
  }

  // Noise over data; infinite at pure noise.
  double noise_ratio(double t) const {
    if (sigma_) return time_.sigma(t);
    const NoiseLevel level = noise_level(info_, t);
    return level.sigma / level.alpha;
  }
  // The time of the level (1 + gamma) sigma(t).
  double churned(double t, double gamma) const {
    const double sigma = noise_ratio(t) * (1 + gamma);
    const at::Tensor level = at::scalar_tensor(sigma, at::kDouble);
    if (sigma_) return time_.time(model_.round_sigma(level).item<double>());
    return t_from_sigma(Dual(level), info_.base_std, info_.interpolant)
        .value.item<double>();
  }
  at::Tensor add_noise(const at::Tensor& x, double t, double noisier,
                       const at::Tensor& noise) const {
    const double from = noise_ratio(t), to = noise_ratio(noisier);
    const double scale = data_scale(noisier);
    return x * (scale / data_scale(t)) +
           noise.to(x.options()) *
               (scale * std::sqrt(std::max(to * to - from * from, 0.0)));
  }

 private:
  double data_scale(double t) const {
    return sigma_ ? time_.scale(t) : noise_level(info_, t).alpha;
  }

  Model& model_;
  Ode ode_;
  ModelInfo info_;
  bool sigma_;
  NoiseTime time_;
};

bool is_euler_step(const Schedule& schedule, const EdmOptions& options, std::size_t step) {
  if (!options.second_order) return true;
  const bool last = step + 2 == schedule.times.size();
  return (schedule.sigma && schedule.times[step + 1] == 0) ||
         (last && options.lower_order_final);
}

}  // namespace

at::Tensor solve_edm(Model& model, const at::Tensor& latents, const Condition& condition,
                     const Schedule& schedule, const EdmOptions& options,
                     const NoiseSource& noise) {
  const at::NoGradGuard no_grad;
  EdmPath path(model, condition, schedule, latents, options);
  const std::size_t steps = schedule.times.size() - 1;
  const double most = std::min(options.s_churn / static_cast<double>(steps),
                               std::sqrt(2.0) - 1);
  at::Tensor x = path.start(latents, path.at_knot(schedule.times.front()));
  for (std::size_t i = 0; i < steps; ++i) {
    double now = path.at_knot(schedule.times[i]);
    const double next = path.at_knot(schedule.times[i + 1]);
    const double level = path.noise_ratio(now);
    if (most > 0 && std::isfinite(level) && level >= options.s_min &&
        level <= options.s_max) {
      const double noisier = path.churned(now, most);
      x = path.add_noise(x, now, noisier, noise(i) * options.s_noise);
      now = noisier;
    }
    const double step = next - now;
    const at::Tensor slope = i == 0 && options.afs ? path.slope_without_network(x, now)
                                                   : path.slope(x, now);
    if (is_euler_step(schedule, options, i)) {
      x = x + step * slope;
      continue;
    }
    const double a = options.alpha;
    const at::Tensor second = path.slope(x + a * step * slope, now + a * step);
    x = x + step * ((1 - 0.5 / a) * slope + 0.5 / a * second);
  }
  return x;
}

int64_t edm_evaluations(const Schedule& schedule, const EdmOptions& options) {
  int64_t count = options.afs ? -1 : 0;
  for (std::size_t i = 0; i + 1 < schedule.times.size(); ++i)
    count += is_euler_step(schedule, options, i) ? 1 : 2;
  return count;
}

EdmOptions read_edm_options(const Config& options, bool second_order) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  EdmOptions o;
  o.second_order = second_order;
  o.s_churn = options.number("S_churn", options.number("churn", 0, 0), 0);
  o.s_min = options.number("S_min", 0, 0);
  o.s_max = options.number("S_max", kInfinity, 0);
  o.s_noise = options.number("S_noise", 1, 0);
  static const std::vector<std::string> schedules{"linear", "ve", "vp"};
  static const std::vector<std::string> scalings{"none", "vp"};
  const std::string schedule = options.choice("schedule", schedules, "linear");
  if (schedule != "linear")
    o.schedule = schedule == "ve" ? NoiseTime::Kind::ve : NoiseTime::Kind::vp;
  o.vp_scaling = options.choice("scaling", scalings, "none") == "vp";
  o.afs = options.boolean("afs", false);
  if (!second_order) return o;
  o.alpha = options.number("alpha", 1, 1e-3, 1);
  o.lower_order_final = options.boolean("lower_order_final", false);
  return o;
}

namespace {

class EdmSampler : public Sampler {
 public:
  explicit EdmSampler(const EdmOptions& options) : options_(options) {}

  at::Tensor sample(Model& model, const at::Tensor& latents, const Condition& condition,
                    const Schedule& schedule, const Draw& draw) const override {
    return solve_edm(model, latents, condition, schedule, options_,
                     noise_of(draw, latents))
        .to(latents.scalar_type());
  }
  int64_t evaluations(const ModelInfo&, const Schedule& schedule) const override {
    return edm_evaluations(schedule, options_);
  }

 private:
  EdmOptions options_;
};

}  // namespace

std::shared_ptr<Sampler> make_euler(const Config& options) {
  return std::make_shared<EdmSampler>(read_edm_options(options, false));
}
std::shared_ptr<Sampler> make_heun(const Config& options) {
  return std::make_shared<EdmSampler>(read_edm_options(options, true));
}

}  // namespace flowmap::samplers
