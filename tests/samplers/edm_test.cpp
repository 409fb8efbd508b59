// EDM's samplers against its own numbers, all of them, and what churn and the ablations'
// variables are by themselves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <string>

#include "flowmap/base/error.h"
#include "samplers/edm.h"
#include "samplers/engine.h"
#include "samplers/guided.h"
#include "tests/samplers/sampler_reference.h"

namespace flowmap::samplers {
namespace {

using flowmap::testing::CountingModel;
using flowmap::testing::difference;
using flowmap::testing::GaussianFlow;
using flowmap::testing::MethodReference;
using flowmap::testing::MixtureModel;

// A mixture whose network knows the levels of a table only, nearest in float32.
class TableMixture : public MixtureModel {
 public:
  TableMixture(const MethodReference& r, const at::Tensor& levels)
      : MixtureModel(ModelKind::denoiser, {2}, r.at("model/mix2/w"), r.at("model/mix2/m"),
                     r.at("model/mix2/c")),
        levels_(levels) {}
  at::Tensor round_sigma(const at::Tensor& sigma) const override {
    return levels_.index({nearest_level(sigma, levels_)}).to(sigma.scalar_type());
  }

 private:
  at::Tensor levels_;
};

std::shared_ptr<flowmap::testing::AnalyticModel> model_of(const MethodReference& r,
                                                          const Config& item) {
  const std::string name = item.string("name");
  const Config config = item.child("config");
  std::shared_ptr<flowmap::testing::AnalyticModel> model;
  if (name.ends_with("rounded"))
    model = std::make_shared<TableMixture>(r, r.at("iddpm/u_f32"));
  else
    model = reference_denoiser(r, config.string("model"));
  const auto range = item.numbers("network_sigma_range", std::vector<double>{});
  if (!range.empty())
    dynamic_cast<MixtureModel&>(*model).set_sigma_range(range[0], range[1]);
  return model;
}

SampleOptions grid_of(const Config& config) {
  SampleOptions o;
  o.steps = config.integer("num_steps");
  o.sigma_min = config.number("sigma_min", 0);
  o.sigma_max = config.number("sigma_max", 0);
  o.rho = config.number("rho", 7);
  o.discretization = config.string("discretization", "edm");
  o.epsilon_s = config.number("epsilon_s", 1e-3);
  o.c_1 = config.number("C_1", 1e-3);
  o.c_2 = config.number("C_2", 8e-3);
  o.m = config.integer("M", 1000);
  return o;
}

EdmOptions options_of(const Config& config) {
  Config options;
  for (const char* key :
       {"S_churn", "S_min", "S_max", "S_noise", "alpha", "schedule", "scaling"})
    if (config.has(key)) options.set_json(key, config.raw(key), "test");
  return read_edm_options(options, config.string("solver", "heun") == "heun");
}

// Largest relative difference of any element.
double worst_ratio(const at::Tensor& got, const at::Tensor& expected) {
  if (got.sizes() != expected.sizes()) return INFINITY;
  return (got / expected - 1).abs().max().item<double>();
}

class EdmReference : public ::testing::Test {
 protected:
  // All cases that start so, without a second network.
  int compare(const std::string& prefix) {
    const MethodReference r("samplers_edm");
    int compared = 0;
    for (const std::string& name : r.names(prefix)) {
      SCOPED_TRACE(name);
      const Config config = r.config(name);
      const auto model = model_of(r, r.item(name));
      CountingModel counting(*model);
      const Schedule schedule =
          at_known_levels(counting, make_schedule(counting.info(), grid_of(config)));
      const EdmOptions options = options_of(config);
      const auto noise = options.s_churn > 0
                             ? flowmap::testing::recorded_noise(r.at(name + "/noise"))
                             : flowmap::testing::no_noise();
      const at::Tensor out =
          solve_edm(counting, r.at(name + "/latents"), {}, schedule, options, noise);
      EXPECT_LT(difference(out, r.at(name + "/final")), 1e-12);
      EXPECT_LT(difference(at::stack(counting.inputs), r.at(name + "/net_x")), 1e-12);
      // Levels of 0.002 are known to 1e-16 / 0.002^2 in the reference's exp(..) - 1.
      EXPECT_LT(worst_ratio(at::tensor(counting.times, at::kDouble),
                            r.at(name + "/net_sigma")), 2e-11);
      EXPECT_EQ(counting.evaluations(), r.item(name).integer("nfe"));
      EXPECT_EQ(edm_evaluations(schedule, options), r.item(name).integer("nfe"));
      ++compared;
    }
    return compared;
  }
};

TEST_F(EdmReference, SamplerWithAndWithoutChurn) {
  FM_NEED_METHOD_REFERENCE("samplers_edm");
  EXPECT_EQ(compare("edm_"), 10);
}

TEST_F(EdmReference, Ablations) {
  FM_NEED_METHOD_REFERENCE("samplers_edm");
  EXPECT_EQ(compare("abl_"), 55);
}

TEST_F(EdmReference, Grids) {
  FM_NEED_METHOD_REFERENCE("samplers_edm");
  const MethodReference r("samplers_edm");
  const ModelInfo info{.kind = ModelKind::denoiser, .sample_shape = {2}};
  int compared = 0;
  for (const std::string& name : r.names("grid_")) {
    SCOPED_TRACE(name);
    const Schedule schedule = make_schedule(info, grid_of(r.config(name)));
    EXPECT_TRUE(schedule.sigma);
    EXPECT_EQ(schedule.times.back(), 0);
    const at::Tensor knots = at::tensor(schedule.times, at::kDouble);
    EXPECT_LT(worst_ratio(knots.slice(0, 0, -1), r.at(name + "/sigma")), 1e-12);
    ++compared;
  }
  EXPECT_EQ(compared, 20);
}

TEST_F(EdmReference, GuidedByASecondNetwork) {
  FM_NEED_METHOD_REFERENCE("samplers_edm");
  const MethodReference r("samplers_edm");
  int compared = 0;
  for (const std::string& name : r.names("edm2_guided")) {
    SCOPED_TRACE(name);
    const Config config = r.config(name);
    const double scale = config.number("guidance");
    const auto inner = reference_denoiser(r, config.string("model"));
    const auto weak = reference_denoiser(r, config.string("guide"));
    const auto main = std::make_shared<CountingModel>(*inner);
    const auto guide = std::make_shared<CountingModel>(*weak);
    GuidedModel guided(main, guide, scale);
    const Schedule schedule = make_schedule(guided.info(), grid_of(config));
    const EdmOptions options = options_of(config);
    const auto noise = options.s_churn > 0
                           ? flowmap::testing::recorded_in_order(r.at(name + "/noise"))
                           : flowmap::testing::no_noise();
    const at::Tensor out =
        solve_edm(guided, r.at(name + "/latents"), {}, schedule, options, noise);
    EXPECT_LT(difference(out, r.at(name + "/final")), 1e-12);
    const int64_t nfe = r.item(name).integer("nfe");
    EXPECT_EQ(main->evaluations() + guide->evaluations(), nfe);
    EXPECT_EQ(edm_evaluations(schedule, options) * networks_of(guided), nfe);
    const at::Tensor net_x = r.at(name + "/net_x"), net_sigma = r.at(name + "/net_sigma");
    EXPECT_LT(difference(at::stack(main->inputs), net_x), 1e-12);
    EXPECT_LT(worst_ratio(at::tensor(main->times, at::kDouble), net_sigma), 2e-11);
    if (scale != 1) {
      EXPECT_LT(difference(at::stack(guide->inputs), net_x), 1e-12);
    }
    ++compared;
  }
  EXPECT_EQ(compared, 4);
}

at::Tensor plain_normals(int64_t rows, int64_t d) {
  return Draw(3, 0, rows).normal("latents", {d}).to(at::kDouble);
}

// x_0 = m + c / sqrt(c^2 + sigma^2) (x_sigma - m) of one Gaussian.
constexpr double kMean = 0.7, kSpread = 0.4, kTop = 3;
std::shared_ptr<MixtureModel> one_gaussian() {
  return std::make_shared<MixtureModel>(
      ModelKind::denoiser, std::vector<int64_t>{1}, at::ones({1}, at::kDouble),
      at::full({1, 1}, kMean, at::kDouble), at::full({1}, kSpread, at::kDouble));
}

// Error at noise level 0.05, where every variable of integration is smooth still.
double gaussian_error(const std::string& text, bool second_order, int64_t n) {
  const double end = 0.05;
  const auto model = one_gaussian();
  Schedule schedule;
  schedule.sigma = true;
  schedule.source = "test";
  schedule.sigma_min = 0.002;
  schedule.sigma_max = kTop;
  for (int64_t i = 0; i <= n; ++i) {
    const double u = static_cast<double>(i) / static_cast<double>(n);
    schedule.times.push_back(std::pow(std::sqrt(kTop) * (1 - u) + std::sqrt(end) * u, 2));
  }
  const at::Tensor latents = plain_normals(16, 1);
  const at::Tensor exact = kMean + std::hypot(kSpread, end) / std::hypot(kSpread, kTop) *
                                       (latents * kTop - kMean);
  const EdmOptions options = read_edm_options(Config::from_text(text, "test"), second_order);
  const at::Tensor out = solve_edm(*model, latents, {}, schedule, options,
                                   flowmap::testing::no_noise());
  const double scale = options.vp_scaling ? 1 / std::hypot(1, end) : 1;
  return (out / scale - exact).abs().max().item<double>();
}

// Every variable of integration, every place of the second slope; more than second where a
// coefficient happens to vanish.
TEST(EdmOrder, SecondInEveryVariableAndFirstForEuler) {
  for (const std::string scaling : {"none", "vp"})
    for (const std::string schedule : {"linear", "ve", "vp"}) {
      const std::string variable =
          R"("schedule": ")" + schedule + R"(", "scaling": ")" + scaling + "\"";
      for (const std::string alpha : {"1", "0.5", "0.6666666666666666"}) {
        const std::string text = "{" + variable + R"(, "alpha": )" + alpha + "}";
        const double order =
            std::log2(gaussian_error(text, true, 64) / gaussian_error(text, true, 128));
        EXPECT_GT(order, 1.85) << text;
        EXPECT_LT(order, 3.3) << text;
      }
      const std::string text = "{" + variable + "}";
      const double order =
          std::log2(gaussian_error(text, false, 128) / gaussian_error(text, false, 256));
      EXPECT_NEAR(order, 1, 0.15) << text;
    }
}

TEST(EdmOrder, TheSecondSlopeMayLieAnywhereInTimeToo) {
  GaussianFlow flow({2}, 0, 0.5, -1.1, 1.7);
  Context ctx;
  const at::Tensor latents = plain_normals(64, 2);
  const at::Tensor exact = flow.map(latents * 0.5, at::zeros({64}, at::kDouble),
                                    at::ones({64}, at::kDouble), {}, ctx).value;
  const auto error = [&](double alpha, int64_t n) {
    EdmOptions options;
    options.alpha = alpha;
    const at::Tensor out = solve_edm(flow, latents, {}, make_schedule(flow.info(), {.steps = n}),
                                     options, flowmap::testing::no_noise());
    return (out - exact).abs().max().item<double>();
  };
  for (const double alpha : {0.5, 2. / 3, 1.})
    EXPECT_GT(std::log2(error(alpha, 128) / error(alpha, 256)), 1.9) << alpha;
}

// Noise that is added and removed leaves the distribution as it is: in sigma and in time.
TEST(EdmChurn, KeepsTheDistribution) {
  const int64_t rows = 20000;
  const at::Tensor latents = plain_normals(rows, 1);
  const Draw draw(11, 0, rows);
  EdmOptions options;
  options.s_churn = 40;
  const auto check = [&](Model& model, const char* what) {
    const at::Tensor out =
        solve_edm(model, latents, {}, make_schedule(model.info(), {.steps = 100}), options,
                  noise_of(draw, latents));
    // Five standard errors, and the error of 100 steps.
    EXPECT_NEAR(out.mean().item<double>(), kMean, 5 * kSpread / std::sqrt(rows)) << what;
    EXPECT_NEAR(out.std().item<double>(), kSpread, 0.01) << what;
    options.s_churn = 0;
    const at::Tensor still = solve_edm(model, latents, {},
                                       make_schedule(model.info(), {.steps = 100}), options,
                                       flowmap::testing::no_noise());
    options.s_churn = 40;
    EXPECT_GT((out - still).abs().mean().item<double>(), 0.1) << what;  // it did churn
  };
  check(*one_gaussian(), "denoiser");
  GaussianFlow flow({1}, 0, 1.5, kMean, kSpread);
  check(flow, "flow");
}

TEST(EdmChurn, KnowsItsLimitsAndLevels) {
  const auto model = one_gaussian();
  CountingModel counting(*model);
  const at::Tensor latents = plain_normals(4, 1);
  Schedule schedule;
  schedule.sigma = true;
  schedule.source = "test";
  schedule.times = {8, 4, 2, 1, 0};
  EdmOptions options;
  options.second_order = false;
  options.s_churn = 1;  // a quarter of each level
  options.s_min = 2;
  options.s_max = 4;
  std::vector<std::size_t> asked;
  solve_edm(counting, latents, {}, schedule, options, [&](std::size_t step) {
    asked.push_back(step);
    return at::zeros({4, 1}, at::kDouble);
  });
  EXPECT_THAT(asked, ::testing::ElementsAre(1, 2));
  EXPECT_THAT(counting.times, ::testing::ElementsAre(8, 5, 2.5, 1));
  // However much is asked for, at most sqrt(2).
  options.s_churn = 1e9;
  counting.times.clear();
  solve_edm(counting, latents, {}, schedule, options,
            [&](std::size_t) { return at::zeros({4, 1}, at::kDouble); });
  EXPECT_DOUBLE_EQ(counting.times[1], 4 * std::sqrt(2.0));
}

// Row i of a batch has row i's noise alone.
TEST(EdmChurn, NoiseIsTheSeedsAlone) {
  const auto model = one_gaussian();
  GenerateRequest request;
  request.seeds = {4, 7, 9};
  request.precision.type = at::kDouble;
  Config config;
  config.set_json("S_churn", "20", "test");
  const auto sampler = make_sampler("heun", config);
  const Schedule schedule = make_schedule(model->info(), {.steps = 5});
  const auto all = [&](int64_t batch) {
    request.batch = batch;
    std::vector<at::Tensor> parts;
    generate_batches(*model, *sampler, schedule, request, [&](const GeneratedBatch& b) {
      parts.push_back(b.samples);
      return true;
    });
    return at::cat(parts);
  };
  EXPECT_TRUE(all(1).equal(all(3)));
}

// The first slope of data of deviation 1 about 0 is what the network would say.
TEST(EdmAfs, FirstSlopeIsThatOfUnitNormalData) {
  MixtureModel model(ModelKind::denoiser, {1}, at::ones({1}, at::kDouble),
                     at::zeros({1, 1}, at::kDouble), at::ones({1}, at::kDouble));
  CountingModel counting(model);
  const at::Tensor latents = plain_normals(4, 1);
  const Schedule schedule = make_schedule(model.info(), {.steps = 6});
  for (const bool second : {false, true}) {
    EdmOptions options;
    options.second_order = second;
    const at::Tensor asked =
        solve_edm(model, latents, {}, schedule, options, flowmap::testing::no_noise());
    options.afs = true;
    counting.denoisings = 0;
    const at::Tensor skipped =
        solve_edm(counting, latents, {}, schedule, options, flowmap::testing::no_noise());
    // x/sqrt(1 + sigma^2) has a shorter step where sigma x/(1 + sigma^2) is exact.
    EXPECT_LT((asked - skipped).abs().max().item<double>(), 1e-2);
    EXPECT_GT((asked - skipped).abs().max().item<double>(), 0);
    EXPECT_EQ(counting.evaluations(), edm_evaluations(schedule, options));
  }
}

TEST(EdmOptionsRead, RefusesWhatCannotBe) {
  const auto refusal = [](const char* solver, const char* text) -> std::string {
    try {
      make_sampler(solver, Config::from_text(text, "--solver-options"));
    } catch (const UsageError& error) {
      return error.what();
    }
    return "accepted";
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(refusal("heun", R"({"S_churn": -1})"), HasSubstr("S_churn"));
  EXPECT_THAT(refusal("heun", R"({"alpha": 0})"), HasSubstr("alpha"));
  EXPECT_THAT(refusal("heun", R"({"schedule": "cosine"})"), HasSubstr("schedule"));
  EXPECT_THAT(refusal("euler", R"({"alpha": 0.5})"), HasSubstr("'alpha'"));
  EXPECT_THAT(refusal("euler", R"({"S_chrun": 1})"), HasSubstr("did you mean 'S_churn'"));
  EXPECT_THAT(refusal("euler", R"({"S_chrun": 1})"), HasSubstr("--solver euler"));
  EXPECT_EQ(refusal("heun", R"({"S_max": "inf", "churn": 3})"), "accepted");
  // Options of denoisers on another model.
  GaussianFlow flow({1}, 0, 1, 0, 1);
  EdmOptions options;
  options.vp_scaling = true;
  EXPECT_THROW(solve_edm(flow, plain_normals(2, 1), {}, make_schedule(flow.info(), {}),
                         options, flowmap::testing::no_noise()),
               UsageError);
}

}  // namespace
}  // namespace flowmap::samplers
