// The adaptive solver against scipy's steps, closed-form flows and its own promises.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "samplers/rk45.h"
#include "tests/samplers/multistep_reference.h"

namespace flowmap::samplers {
namespace {

using flowmap::testing::CountingModel;
using flowmap::testing::GaussianFlow;
using flowmap::testing::MethodReference;
using flowmap::testing::MixtureModel;

at::Tensor normals(int64_t rows, int64_t d) {
  return Draw(5, 0, rows).normal("latents", {d}).to(at::kDouble);
}

double largest_gap(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

Schedule in_time(std::vector<double> times) {
  return {.times = std::move(times), .sigma = false, .source = "test"};
}

// N(m, Q diag(s^2) Q^T) as a velocity: v = m + Q diag((t s^2 - (1-t)) / (t^2 s^2 + (1-t)^2))
// Q^T (x - t m), finite at t = 1 where the view of a denoiser is 0/0.
class GaussianVelocity : public flowmap::testing::AnalyticModel {
 public:
  GaussianVelocity(at::Tensor mean, at::Tensor basis, at::Tensor deviations)
      : AnalyticModel({.kind = ModelKind::velocity, .sample_shape = {3, 2, 2}}),
        m_(std::move(mean)), q_(std::move(basis)), s2_(deviations.square()) {}
  Dual velocity(const Dual& x, const Dual& t, const Condition&, Context&) override {
    const at::Tensor time = t.value.unsqueeze(1), rest = 1 - time;
    const at::Tensor gain =
        (time * s2_ - rest) / (time.square() * s2_ + rest.square());
    const at::Tensor offset = x.value.flatten(1) - time * m_;
    return (m_ + at::matmul(at::matmul(offset, q_) * gain, q_.t())).reshape(x.value.sizes());
  }

 private:
  at::Tensor m_, q_, s2_;
};

TEST(Rk45Reference, SlimFlowByScipy) {
  FM_NEED_METHOD_REFERENCE("samplers_other");
  const MethodReference reference("samplers_other");
  int compared = 0;
  for (const std::string& name : reference.names("slim_rk45")) {
    SCOPED_TRACE(name);
    const Config config = reference.config(name);
    GaussianVelocity gaussian(reference.at("model/gauss12/m"),
                              reference.at("model/gauss12/Q"),
                              reference.at("model/gauss12/s"));
    const auto mixture = peer_model(reference, "mix2", ModelKind::velocity);
    CountingModel counting(config.string("model") == "mix2" ? *mixture : gaussian);
    const double first = config.number("eps"), tolerance = config.number("ode_tol");
    // Theirs starts with noise of deviation 1 at that time.
    const at::Tensor latents = reference.at(name + "/noise_init") / (1 - first);
    const Rk45Solution solution =
        solve_rk45(counting, latents, {}, in_time({first, 1}),
                   {.rtol = tolerance, .atol = tolerance, .per_row = false});
    EXPECT_LT(largest_gap(solution.final_state, reference.at(name + "/final")), 1e-6);
    const int64_t nfe = reference.item(name).integer("nfe");
    EXPECT_EQ(counting.evaluations(), nfe);
    EXPECT_THAT(solution.evaluations, ::testing::Each(nfe));
    const at::Tensor accepted = reference.at(name + "/t_accepted");
    const at::Tensor ours = at::tensor(solution.accepted, at::kDouble);
    const at::Tensor steps = accepted.numel() == ours.numel() ? ours : ours.slice(0, 1);
    ASSERT_EQ(steps.numel(), accepted.numel());
    EXPECT_LT(largest_gap(steps, accepted), 1e-6);
    ++compared;
  }
  EXPECT_EQ(compared, 2);
}

// Gaussian to Gaussian: x_t = mu_t + sig_t n.
at::Tensor gaussian_state(const GaussianFlow& flow, const at::Tensor& latents, double t) {
  const at::Tensor time = at::full({1}, t, at::kDouble);
  return flow.mean_at(time).value + flow.deviation(time).value * latents;
}

TEST(Rk45, ErrorFollowsTheTolerance) {
  GaussianFlow flow({2}, 0, 0.5, -1.1, 1.7);
  const at::Tensor latents = normals(8, 2);
  const at::Tensor exact = gaussian_state(flow, latents, 1);
  for (const bool per_row : {true, false}) {
    double previous = 1;
    int64_t previous_cost = 0;
    for (const double tolerance : {1e-3, 1e-5, 1e-7, 1e-9, 1e-11}) {
      const Rk45Solution solution =
          solve_rk45(flow, latents, {}, in_time({0, 1}),
                     {.rtol = tolerance, .atol = tolerance, .per_row = per_row});
      const double error = largest_gap(solution.final_state, exact);
      EXPECT_LT(error, 30 * tolerance);
      EXPECT_LT(error, previous / 10);
      EXPECT_GT(solution.evaluations[0], previous_cost);
      previous = error;
      previous_cost = solution.evaluations[0];
    }
    // A fifth-order method: ten thousand times the accuracy for 6.3 times the steps.
    EXPECT_LT(previous_cost, 2000);
  }
}

TEST(Rk45, DenseOutputFollowsTheTolerance) {
  GaussianFlow flow({2}, 0, 0.5, -1.1, 1.7);
  const at::Tensor latents = normals(8, 2);
  std::vector<double> times;
  for (int i = 0; i <= 50; ++i) times.push_back(i / 50.0);
  for (const double tolerance : {1e-4, 1e-6, 1e-8}) {
    const Rk45Solution solution =
        solve_rk45(flow, latents, {}, in_time(times),
                   {.rtol = tolerance, .atol = tolerance, .keep_knots = true});
    // Fewer steps than knots, so most knots are interpolated.
    EXPECT_LT(solution.evaluations[0], 6 * 50);
    for (std::size_t k = 0; k < times.size(); ++k)
      EXPECT_LT(largest_gap(solution.knots[static_cast<int64_t>(k)],
                            gaussian_state(flow, latents, times[k])),
                300 * tolerance)
          << "knot " << k;
    EXPECT_TRUE(solution.knots[-1].equal(solution.final_state));
  }
}

TEST(Rk45, KnotsBetweenTheEndsChangeNothing) {
  GaussianFlow flow({2}, 0, 0.5, -1.1, 1.7);
  const at::Tensor latents = normals(4, 2);
  const at::Tensor two = solve_rk45(flow, latents, {}, in_time({0, 1}), {}).final_state;
  const at::Tensor many =
      solve_rk45(flow, latents, {}, in_time({0, 0.1, 0.55, 1}), {}).final_state;
  EXPECT_TRUE(two.equal(many));
}

// A mixture whose rows need different steps.
std::shared_ptr<Model> uneven_mixture(ModelKind kind) {
  return std::make_shared<MixtureModel>(
      kind, std::vector<int64_t>{2}, at::tensor({.3, .7}, at::kDouble),
      at::tensor({-3.0, 0.2, 0.5, 2.0}, at::kDouble).reshape({2, 2}),
      at::tensor({.05, .6}, at::kDouble));
}

TEST(Rk45, RowsAreIndependent) {
  const auto model = uneven_mixture(ModelKind::velocity);
  const at::Tensor latents = normals(12, 2);
  const Rk45Solution all = solve_rk45(*model, latents, {}, in_time({0, 1}), {});
  std::vector<int64_t> costs;
  double by_batch = 0;
  const Rk45Solution coupled =
      solve_rk45(*model, latents, {}, in_time({0, 1}), {.per_row = false});
  for (int64_t row = 0; row < 12; ++row) {
    const at::Tensor one = latents.slice(0, row, row + 1);
    const Rk45Solution alone = solve_rk45(*model, one, {}, in_time({0, 1}), {});
    const auto at_row = static_cast<std::size_t>(row);
    EXPECT_LT(largest_gap(alone.final_state[0], all.final_state[row]), 1e-13);
    EXPECT_EQ(alone.evaluations[0], all.evaluations[at_row]);
    costs.push_back(alone.evaluations[0]);
    by_batch = std::max(by_batch, largest_gap(alone.final_state[0],
                                              coupled.final_state[row]));
  }
  EXPECT_GT(*std::max_element(costs.begin(), costs.end()),
            *std::min_element(costs.begin(), costs.end()));
  // With one step for the batch a row's neighbours show in its digits.
  EXPECT_GT(by_batch, 1e-9);
}

// Rows that finish early leave with their labels.
TEST(Rk45, ConditionFollowsItsRow) {
  class LabelledShift : public flowmap::testing::AnalyticModel {
   public:
    LabelledShift()
        : AnalyticModel({.kind = ModelKind::velocity, .sample_shape = {1}, .label_dim = 2}) {}
    Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context&) override {
      // The second class oscillates and takes more steps.
      const at::Tensor label = c.class_labels.select(1, 1).unsqueeze(1);
      EXPECT_EQ(c.class_labels.size(0), x.value.size(0));
      return 1 + label * (1 + 20 * (20 * t.value.unsqueeze(1)).cos());
    }
  } model;
  const at::Tensor latents = normals(4, 1);
  Condition condition;
  condition.class_labels = at::tensor({1., 0., 0., 1., 1., 0., 0., 1.}, at::kDouble)
                               .reshape({4, 2});
  const Rk45Solution solution =
      solve_rk45(model, latents, condition, in_time({0, 1}), {.rtol = 1e-8, .atol = 1e-8});
  const at::Tensor shift = solution.final_state - latents;
  for (const int64_t row : {0, 2}) EXPECT_NEAR(shift[row].item<double>(), 1, 1e-12);
  for (const int64_t row : {1, 3})
    EXPECT_NEAR(shift[row].item<double>(), 2 + std::sin(20.0), 1e-6);
  EXPECT_LT(solution.evaluations[0], solution.evaluations[1]);
}

TEST(Rk45, DenoiserInSigma) {
  const double c = 0.4, mean = 0.7;
  MixtureModel model(ModelKind::denoiser, {1}, at::ones({1}, at::kDouble),
                     at::full({1, 1}, mean, at::kDouble), at::full({1}, c, at::kDouble));
  const at::Tensor latents = normals(16, 1);
  const auto exact = [&](double high, double sigma) {
    return mean + std::hypot(c, sigma) / std::hypot(c, high) * (latents * high - mean);
  };
  Schedule schedule = make_schedule(model.info(), {.steps = 18});
  const double high = schedule.times.front(), low = schedule.times[17];
  Rk45Options options{.rtol = 1e-9, .atol = 1e-9, .keep_knots = true};
  const Rk45Solution solution = solve_rk45(model, latents, {}, schedule, options);
  for (std::size_t k = 0; k < 18; ++k)
    EXPECT_LT(largest_gap(solution.knots[static_cast<int64_t>(k)],
                          exact(high, schedule.times[k])), 1e-6 * (1 + schedule.times[k]));
  // The last Euler step from sigma_min leaves an error of its order squared.
  EXPECT_LT(largest_gap(solution.final_state, exact(high, 0)), low * low / c);
  // It ends in the denoised image of the last level, also of one where that is far from data.
  Context ctx;
  const at::Tensor coarse =
      solve_rk45(model, latents, {}, {.times = {3, 0.5, 0}, .sigma = true, .source = "test"},
                 options).final_state;
  const at::Tensor denoised =
      model.denoise(exact(3, 0.5), at::full({16}, 0.5, at::kDouble), {}, ctx).value;
  EXPECT_LT(largest_gap(coarse, denoised), 1e-6);
  options.final_sigma = FinalSigma::sigma_min;
  const Rk45Solution kept = solve_rk45(model, latents, {}, schedule, options);
  EXPECT_LT(largest_gap(kept.final_state, exact(high, low)), 1e-6);
  EXPECT_EQ(kept.evaluations, solution.evaluations);
}

TEST(Rk45, Float32NetworkAndResultType) {
  GaussianFlow flow({2}, 0, 0.5, -1.1, 1.7);
  const at::Tensor latents = normals(4, 2);
  const auto sampler = make_sampler("rk45", Config());
  const at::Tensor out = sampler->sample(flow, latents.to(at::kFloat), {}, in_time({0, 1}),
                                         Draw(0, 0, 4));
  EXPECT_EQ(out.scalar_type(), at::kFloat);
  EXPECT_LT(largest_gap(out, gaussian_state(flow, latents, 1)), 1e-4);
}

TEST(Rk45, SaysWhatIsWrong) {
  class Broken : public flowmap::testing::AnalyticModel {
   public:
    explicit Broken(double bad) : AnalyticModel({.sample_shape = {1}}), bad_(bad) {}
    Dual velocity(const Dual& x, const Dual& t, const Condition&, Context&) override {
      return at::where(t.value.unsqueeze(1) > 0.5, at::full_like(x.value, bad_), x.value);
    }

   private:
    double bad_;
  } broken(std::numeric_limits<double>::quiet_NaN());
  const auto message = [](Model& model, const Schedule& schedule) -> std::string {
    try {
      solve_rk45(model, normals(2, 1), {}, schedule, {});
    } catch (const std::exception& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(message(broken, in_time({0, 1})), ::testing::HasSubstr("not finite"));
  // x' = 1/(1-t)^2 blows up at the end.
  class Singular : public flowmap::testing::AnalyticModel {
   public:
    Singular() : AnalyticModel({.sample_shape = {1}}) {}
    Dual velocity(const Dual& x, const Dual& t, const Condition&, Context&) override {
      return at::zeros_like(x.value) + (1 - 1.5 * t.value).abs().pow(-2).unsqueeze(1);
    }
  } singular;
  EXPECT_THAT(message(singular, in_time({0, 1})), ::testing::HasSubstr("too small"));
  MixtureModel denoiser(ModelKind::denoiser, {1}, at::ones({1}, at::kDouble),
                        at::zeros({1, 1}, at::kDouble), at::ones({1}, at::kDouble));
  EXPECT_THAT(message(denoiser, {.times = {80, 0}, .sigma = true, .source = "test"}),
              ::testing::HasSubstr("two steps"));
  EXPECT_THROW(make_sampler("rk45", Config::from_text(R"({"rtol": 0})", "t")), UsageError);
  EXPECT_THROW(make_sampler("rk45", Config::from_text(R"({"control": "pixel"})", "t")),
               UsageError);
}

}  // namespace
}  // namespace flowmap::samplers
