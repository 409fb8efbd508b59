// The losses of EDM's preconditionings, and EDM2's, against their own programs; method edm
// under each.
#include "distill/edm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "distill/edm2.h"
#include "distill/regression_losses.h"
#include "distill/method.h"
#include "flowmap/base/error.h"
#include "tests/support/analytic_models.h"
#include "tests/support/training_reference.h"

namespace flowmap::distill {
namespace {

using testing::difference;
using testing::MethodReference;
using ::testing::HasSubstr;

// The file's mixture as a denoiser.
class ReferenceDenoiser : public testing::MixtureModel {
 public:
  explicit ReferenceDenoiser(const MethodReference& group)
      : MixtureModel(ModelKind::denoiser, {2}, group.at("model/w"), group.at("model/m"),
                     group.at("model/c")) {}
  void set_sigma_data(double s) { info_.sigma_data = s; }
  at::Tensor log_variance(const at::Tensor&) override { return log_variance_; }
  bool has_log_variance() const override { return log_variance_.defined(); }
  at::Tensor log_variance_;
};

class EdmReference : public ::testing::Test {
 protected:
  void SetUp() override { FM_NEED_METHOD_REFERENCE("training"); }

  static void check_score_matching(const std::string& name, const at::Tensor& sigma) {
    const MethodReference group("training");
    ReferenceDenoiser model(group);
    Context context;
    const at::Tensor loss =
        score_matching_loss(model, group.at(name + "/image"), group.at(name + "/eps"),
                            sigma, {}, context);
    EXPECT_LT(difference(loss, group.at(name + "/loss").sum(1)), 1e-12) << name;
  }
};

TEST_F(EdmReference, VariancePreserving) {
  const MethodReference group("training");
  const Config c = group.config("loss_vp");
  const auto levels = [&](const at::Tensor& u) {
    return vp_noise_levels(u, c.number("beta_d"), c.number("beta_min"),
                           c.number("epsilon_t"));
  };
  EXPECT_LT(difference(levels(group.at("time_samplers/u")),
                       group.at("time_samplers/vp_edm_loss")), 1e-12);
  check_score_matching("loss_vp", levels(group.at("loss_vp/u")));
}

TEST_F(EdmReference, VarianceExploding) {
  const MethodReference group("training");
  const Config c = group.config("loss_ve");
  const auto levels = [&](const at::Tensor& u) {
    return ve_noise_levels(u, c.number("sigma_min"), c.number("sigma_max"));
  };
  EXPECT_LT(difference(levels(group.at("time_samplers/u")),
                       group.at("time_samplers/ve_0.02_100")), 1e-12);
  check_score_matching("loss_ve", levels(group.at("loss_ve/u")));
}

TEST_F(EdmReference, WithUncertainty) {
  const MethodReference group("training");
  const Config c = group.config("loss_edm2");
  ReferenceDenoiser model(group);
  model.set_sigma_data(c.number("sigma_data"));
  model.log_variance_ = group.at("loss_edm2/logvar");
  const at::Tensor sigma =
      (group.at("loss_edm2/z") * c.number("P_std") + c.number("P_mean")).exp();
  Context context;
  const UncertainLoss loss =
      uncertain_denoising_loss(model, group.at("loss_edm2/image"),
                               group.at("loss_edm2/eps"), sigma, {}, context);
  EXPECT_LT(difference(loss.loss, group.at("loss_edm2/loss").sum(1)), 1e-12);
}

// A Gaussian denoiser's error is c^2 sigma^2 / (c^2 + sigma^2) a dimension.
TEST(ScoreMatchingLoss, OfAPerfectGaussianDenoiser) {
  const double c = 0.7;
  testing::MixtureModel model(ModelKind::denoiser, {2}, at::ones({1}, at::kDouble),
                              at::zeros({1, 2}, at::kDouble),
                              at::full({1}, c, at::kDouble));
  const int64_t rows = 100'000;
  const Draw draw(2, 0, rows);
  const at::Tensor x1 = draw.normal("x1", {2}).to(at::kDouble) * c;
  const at::Tensor noise = draw.normal("noise", {2}).to(at::kDouble);
  for (const double s : {0.1, 0.7, 5.0}) {
    Context context;
    const at::Tensor loss = score_matching_loss(
        model, x1, noise, at::full({rows}, s, at::kDouble), {}, context);
    const double expected = 2 * c * c / (c * c + s * s);
    EXPECT_NEAR(loss.mean().item<double>(), expected, 0.015 * expected) << s;
  }
}

// --- the method -----------------------------------------------------------------------

DatasetInfo picture_data() {
  DatasetInfo data;
  data.name = "test";
  data.sample_shape = {1, 8, 8};
  data.count = 100;
  return data;
}

std::string config_of(const std::string& preconditioning, const std::string& network = "") {
  return R"({"network": {"type": "ddpmpp", "model_channels": 8, "channel_mult": [1],
      "num_blocks": 1, "attn_resolutions": [])" + network + R"(},
      "preconditioning": {)" + preconditioning + R"(}, "method": {"type": "edm"}})";
}

std::shared_ptr<Task> task_of(const Config& config) {
  auto task = make_method({config, picture_data(), 7});
  const at::NoGradGuard no_grad;
  std::uint64_t k = 0;
  for (at::Tensor& p : task->players()[0].model->parameters())
    p.add_(Draw(11, k++, 1).normal("shake", p.sizes())[0] * 0.05);
  return task;
}

LossResult loss_of(Task& task, const at::Tensor& augment_labels = {}) {
  const Draw draw(5, 0, 6);
  Batch batch;
  batch.x = draw.normal("x1", {1, 8, 8}) * 0.5;
  batch.augment_labels = augment_labels;
  const StepContext context{{}, draw, 6, 0, {}};
  return task.loss({"model", 1}, batch, context);
}

// The noise levels and the weight are those of the preconditioning, with its options.
TEST(EdmMethod, FollowsThePreconditioning) {
  const Draw draw(5, 0, 6);
  const at::Tensor u = draw.uniform("sigma", {});
  const struct { const char* text; at::Tensor sigma; } cases[] = {
      {R"("type": "vp", "beta_d": 12, "beta_min": 0.2, "epsilon_t": 1e-3)",
       vp_noise_levels(u, 12, 0.2, 1e-3)},
      {R"("type": "ve", "sigma_min": 0.05, "sigma_max": 20)", ve_noise_levels(u, 0.05, 20)}};
  for (const auto& c : cases) {
    const Config config = Config::from_text(config_of(c.text), "test");
    const auto task = task_of(config);
    config.check_all_read();
    const LossResult result = loss_of(*task);
    Context context;
    const at::Tensor expected = score_matching_loss(
        *task->players()[0].model, draw.normal("x1", {1, 8, 8}) * 0.5,
        draw.normal("noise", {1, 8, 8}), c.sigma, {}, context);
    EXPECT_LT(difference(result.loss, expected.mean()), 1e-6) << c.text;
    EXPECT_LT(difference(result.stats[0].second, expected / 64), 1e-6);
  }
}

TEST(EdmMethod, RefusesWhatHasAnotherLoss) {
  for (const char* type : {"iddpm", "edm2", "flow"}) {
    try {
      make_method({Config::from_text(config_of("\"type\": \"" + std::string(type) + "\""),
                                     "test"), picture_data(), 7});
      FAIL() << type;
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("edm, vp and ve; '" + std::string(type)));
    }
  }
  // P_mean is EDM's own.
  const Config stray = Config::from_text(
      R"({"network": {"type": "mlp"}, "preconditioning": {"type": "vp"},
          "method": {"type": "edm", "P_mean": -1}})", "test");
  make_method({stray, picture_data(), 7});
  EXPECT_THROW(stray.check_all_read(), UsageError);
}

TEST(EdmMethod, TellsTheNetworkOfTheAugmentation) {
  const Config config =
      Config::from_text(config_of("\"type\": \"edm\"", ", \"augment_dim\": 9"), "test");
  const auto task = task_of(config);
  const at::Tensor plain = loss_of(*task).loss;
  EXPECT_TRUE(at::equal(loss_of(*task, at::zeros({6, 9})).loss, plain));
  EXPECT_FALSE(at::equal(loss_of(*task, at::ones({6, 9})).loss, plain));
}

}  // namespace
}  // namespace flowmap::distill
