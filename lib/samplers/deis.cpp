#include "samplers/deis.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <string>

#include "flowmap/base/error.h"
#include "samplers/ode.h"

namespace flowmap::samplers {
namespace {

constexpr std::size_t kShortDeisRun = 15;  // steps

// Gauss-Legendre with eight points: positive abscissas on [-1, 1] and their weights.
constexpr std::array<double, 4> kGaussPoints{0.18343464249564980, 0.52553240991632899,
                                             0.79666647741362674, 0.96028985649753623};
constexpr std::array<double, 4> kGaussWeights{0.36268378337836198, 0.31370664587788729,
                                              0.22238103445337447, 0.10122853629037626};

// Adams-Bashforth for equal steps.
constexpr std::array<std::array<double, 4>, 4> kAdamsBashforth{
    {{1},
     {3.0 / 2, -1.0 / 2},
     {23.0 / 12, -16.0 / 12, 5.0 / 12},
     {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24}}};

// int_a^b of f, in panels no longer than 1, which leaves f = e^u u^3 exact to rounding.
template <class F>
double integrate_smooth(double a, double b, const F& f) {
  const int panels = std::max(1, static_cast<int>(std::ceil(std::abs(b - a))));
  const double half = (b - a) / panels / 2;
  double total = 0;
  for (int panel = 0; panel < panels; ++panel) {
    const double middle = a + (2 * panel + 1) * half;
    for (std::size_t k = 0; k < kGaussPoints.size(); ++k)
      total += kGaussWeights[k] * (f(middle - half * kGaussPoints[k]) +
                                   f(middle + half * kGaussPoints[k]));
  }
  return total * half;
}

}  // namespace

std::vector<double> deis_weights(const std::vector<double>& nodes, double next,
                                 SlopePolynomial polynomial) {
  const double step = next - nodes[0];
  std::vector<double> weights;
  if (polynomial == SlopePolynomial::equal || nodes.size() == 1) {
    for (std::size_t j = 0; j < nodes.size(); ++j)
      weights.push_back(step * kAdamsBashforth[nodes.size() - 1][j]);
    return weights;
  }
  // The variable u of the polynomials, 0 at the start of the step: fractions of the step, or
  // log(sigma / sigma_0).
  const bool logarithmic = polynomial == SlopePolynomial::log_rho;
  const auto place = [&](double knot) {
    return logarithmic ? std::log(knot / nodes[0]) : (knot - nodes[0]) / step;
  };
  std::vector<double> places;
  for (const double node : nodes) places.push_back(place(node));
  for (std::size_t j = 0; j < nodes.size(); ++j)
    weights.push_back(integrate_smooth(0, place(next), [&](double u) {
      double value = logarithmic ? nodes[0] * std::exp(u) : step;  // dk/du
      for (std::size_t k = 0; k < nodes.size(); ++k)
        if (k != j) value *= (u - places[k]) / (places[j] - places[k]);
      return value;
    }));
  return weights;
}

at::Tensor solve_deis(Model& model, const at::Tensor& latents, const Condition& condition,
                      const Schedule& schedule, const DeisOptions& options) {
  const at::NoGradGuard no_grad;
  const bool logarithmic = options.polynomial == SlopePolynomial::log_rho;
  FM_CHECK_USAGE(!logarithmic || schedule.sigma,
                 "deis: polynomial = log_rho is for denoisers, which run in sigma; use rho");
  const Schedule knots = walked(schedule, options.final_sigma);
  Ode ode(model, condition, knots, latents);
  at::Tensor x = ode.start(latents);
  std::deque<double> nodes;
  std::deque<at::Tensor> slopes;
  const std::size_t steps = knots.times.size() - 1;
  for (std::size_t i = 0; i < steps; ++i) {
    const double now = knots.times[i], next = knots.times[i + 1];
    nodes.push_front(now);
    slopes.push_front(ode.slope(x, now));
    std::size_t order =
        std::min(nodes.size(), static_cast<std::size_t>(options.order));
    if (options.lower_order_final && steps < kShortDeisRun)
      order = std::min(order, steps - i);
    if (logarithmic && next == 0) order = 1;
    const std::vector<double> weights = deis_weights(
        {nodes.begin(), nodes.begin() + static_cast<std::ptrdiff_t>(order)}, next,
        options.polynomial);
    for (std::size_t j = 0; j < order; ++j) x = x + weights[j] * slopes[j];
    if (nodes.size() == kAdamsBashforth.size()) {
      nodes.pop_back();
      slopes.pop_back();
    }
  }
  return x;
}

namespace {

class Deis : public Sampler {
 public:
  explicit Deis(const DeisOptions& options) : options_(options) {}
  at::Tensor sample(Model& model, const at::Tensor& latents, const Condition& condition,
                    const Schedule& schedule, const Draw&) const override {
    return solve_deis(model, latents, condition, schedule, options_)
        .to(latents.scalar_type());
  }
  int64_t evaluations(const ModelInfo&, const Schedule& schedule) const override {
    return static_cast<int64_t>(walked(schedule, options_.final_sigma).times.size()) - 1;
  }

 private:
  DeisOptions options_;
};

}  // namespace

DeisOptions read_deis_options(const Config& options) {
  static const std::vector<std::string> polynomials{"rho", "log_rho"};
  DeisOptions read;
  read.order = options.integer("order", 3, 1, 4);
  if (options.choice("polynomial", polynomials, "rho") == "log_rho")
    read.polynomial = SlopePolynomial::log_rho;
  read.lower_order_final = options.boolean("lower_order_final", false);
  read.final_sigma = read_final_sigma(options);
  return read;
}

DeisOptions read_ipndm_options(const Config& options) {
  DeisOptions read;
  read.order = options.integer("order", 4, 1, 4);
  read.polynomial = SlopePolynomial::equal;
  read.lower_order_final = options.boolean("lower_order_final", false);
  read.final_sigma = read_final_sigma(options);
  return read;
}

std::shared_ptr<Sampler> make_deis(const Config& options) {
  return std::make_shared<Deis>(read_deis_options(options));
}

std::shared_ptr<Sampler> make_ipndm(const Config& options) {
  return std::make_shared<Deis>(read_ipndm_options(options));
}

}  // namespace flowmap::samplers
