// EDM2's training against two steps of its own program; the losses of the published
// flow-map code on its network.
#include "distill/edm2.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "distill/flow_map/losses.h"
#include "distill/regression_losses.h"
#include "distill/method.h"
#include "flowmap/base/error.h"
#include "flowmap/formats/safetensors.h"
#include "flowmap/interpolant.h"
#include "flowmap/train/ema.h"
#include "flowmap/train/lr_schedule.h"
#include "flowmap/train/optimizer.h"
#include "flowmap/train/trainer.h"
#include "tests/support/edm2_reference.h"
#include "tests/support/scratch.h"

namespace flowmap::distill {
namespace {

using testing::NetworkReference;
using testing::relative_error;

// The loop of the peer's program in ours: project, loss, gradient, Adam, averages.
class TwoSteps : public ::testing::Test {
 protected:
  static constexpr int64_t kBatch = 4, kStart = 4096;

  void SetUp() override { FM_NEED_FILE(testing::network_file("edm2_two_training_steps")); }

  // `prefix` of the reference's names: "" in float32, "f64." in float64.
  static void run(at::ScalarType type, const std::string& prefix, double bound,
                  double moved_bound) {
    const NetworkReference reference("edm2_two_training_steps");
    auto model = testing::load_edm2(reference);
    if (HasFatalFailure()) return;
    model->to(type);
    std::vector<NamedTensor> parameters;
    for (const auto& item : model->named_parameters())
      parameters.push_back({item.key(), item.value()});
    OptimizerOptions adam;
    adam.beta2 = 0.99;
    Optimizer optimizer(adam, parameters);
    const Config trainer = Config::from_text(
        R"({"lr": 0.01, "lr_rampup": "10000", "lr_schedule": "inverse_sqrt",
            "lr_decay_start": "2000",
            "ema": [{"type": "power", "std": 0.05}, {"type": "power", "std": 0.1}]})",
        "test");
    const LrSchedule schedule = read_lr_schedule(trainer, 1'000'000);
    std::vector<Ema> averages;
    for (const EmaProfile& profile : read_ema_profiles(trainer))
      averages.emplace_back(profile, parameters);
    // Tensors of the file under `head` against ours; how many there were.
    const auto compare = [&](const std::vector<NamedTensor>& ours,
                             const std::string& head, double limit) {
      int checked = 0;
      for (const NamedTensor& p : ours) {
        const std::string key = prefix + head + testing::edm2_name(p.name);
        if (!reference.has(key)) continue;
        EXPECT_LT(relative_error(p.tensor, reference.at(key)), limit) << key;
        ++checked;
      }
      return checked;
    };
    model->train();
    for (int64_t step = 0; step < 2; ++step) {
      const std::string head = "step" + std::to_string(step) + ".";
      const int64_t seen = kStart + step * kBatch;
      model->project();
      optimizer.zero_grad();
      const at::Tensor sigma =
          (reference.at(head + "normal").to(type).flatten() * 1.6 - 0.8).exp();
      Condition c;
      c.class_labels = reference.at(head + "labels");
      Context ctx;
      ctx.train = true;
      const UncertainLoss loss = uncertain_denoising_loss(
          *model, reference.at(head + "images").to(type),
          reference.at(head + "noise").to(type), sigma, c, ctx);
      const std::string name = head + (type == at::kDouble ? "loss_f64" : "loss");
      EXPECT_LT(relative_error(loss.loss, reference.at(name).flatten(1).sum(1)), bound);
      (loss.loss.sum() / static_cast<double>(kBatch)).backward();
      if (step == 0) {
        EXPECT_EQ(compare(parameters, "forced.", 1e-6), 1);
        std::vector<NamedTensor> gradients;
        for (const NamedTensor& p : parameters)
          gradients.push_back({p.name, p.tensor.grad()});
        EXPECT_EQ(compare(gradients, "grad.", bound), 3);
      }
      const double lr = schedule.at(seen);
      EXPECT_NEAR(lr, reference.at(head + "lr").item<double>(), 1e-15);
      optimizer.step(lr);
      for (Ema& average : averages) average.update(parameters, seen, kBatch, step);
    }
    EXPECT_GE(compare(parameters, "after.", moved_bound), 5);
    EXPECT_EQ(compare(averages[0].averages(), "ema0.050.", moved_bound), 12);
    EXPECT_EQ(compare(averages[1].averages(), "ema0.100.", moved_bound), 12);
  }
};

TEST_F(TwoSteps, AgreeInDouble) { run(at::kDouble, "f64.", 1e-10, 1e-10); }
TEST_F(TwoSteps, AgreeInFloat) { run(at::kFloat, "", 1e-5, 1e-5); }

// exp(-u) l + u, each dimension its u: least at u = ln of the mean error.
TEST(UncertainLoss, IsTheErrorWeighedByItsOwnScale) {
  const Config spec = Config::from_text(
      R"({"network": {"type": "mlp", "width": 8}, "preconditioning": {"type": "edm2"},
          "sample_shape": [2]})", "test");
  const auto model = make_model(spec, 1);
  const Draw draw(2, 0, 8);
  const at::Tensor x1 = draw.normal("x1", {2}), noise = draw.normal("noise", {2});
  const at::Tensor sigma = draw.normal("sigma", {}).exp();
  Context ctx;
  const UncertainLoss loss = uncertain_denoising_loss(*model, x1, noise, sigma, {}, ctx);
  const at::Tensor error = denoising_loss(*model, x1, noise, sigma, {}, ctx);
  const at::Tensor u = model->log_variance(sigma);
  EXPECT_GT(u.abs().min().item<float>(), 0);
  EXPECT_TRUE(at::equal(loss.error, error.detach()));
  EXPECT_FALSE(loss.error.requires_grad());
  EXPECT_TRUE(at::allclose(loss.loss, error * (-u).exp() + 2 * u));
}

// --- flow maps ------------------------------------------------------------------------

TEST(FlowMapsEdm2, LossesAgree) {
  FM_NEED_FILE(testing::network_file("flowmaps_edm2"));
  const NetworkReference reference("flowmaps_edm2");
  const SafetensorsReader reader(testing::network_file("flowmaps_edm2"));
  const Config norms =
      Config::from_text(reader.metadata().find("gradient_norm_f64")->second, "norms");
  auto model = testing::load_edm2(reference);
  if (HasFatalFailure()) return;
  const LossWeighting learned{.rule = LossWeight::learned};
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    model->to(type);
    const bool is_double = type == at::kDouble;
    const std::string suffix = is_double ? "_f64" : "";
    const double bound = is_double ? 1e-10 : 7.5e-5;
    const auto in = [&](const char* name) { return reference.input(name).to(type); };
    const at::Tensor s = in("s"), t = in("t");
    Condition c;
    c.class_labels = at::one_hot(reference.input("label").to(at::kLong), 4);
    Context ctx;
    const auto check = [&](const std::string& name, const at::Tensor& raw,
                           const at::Tensor& from) {
      const at::Tensor loss = learned.apply(*model, raw, from, t);
      EXPECT_LT(relative_error(loss, reference.at("loss" + suffix + "." + name)), bound)
          << name;
      model->zero_grad();
      loss.mean().backward();
      testing::check_edm2_gradients(*model, reference, "loss_grad" + suffix + "." + name,
                                    bound, 3);
      double squares = 0;
      for (const at::Tensor& p : model->parameters())
        squares += p.grad().to(at::kDouble).square().sum().item<double>();
      const double norm = norms.number(name);
      EXPECT_NEAR(std::sqrt(squares), norm, bound * norm) << name;
    };
    const Interpolated diagonal = interpolate(in("x1"), in("x0"), t, 1);
    check("diagonal", diagonal_loss(*model, diagonal.x, t, diagonal.target, c, ctx), t);
    const at::Tensor x = interpolate(in("x1"), in("x0"), s, 1).x;
    check("lsd_convex",
          lagrangian_loss(*model, *model, {x, {}, s, t, c, {}}, ctx, StopGradient::convex), s);
    check("lsd_none",
          lagrangian_loss(*model, *model, {x, {}, s, t, c, {}}, ctx, StopGradient::none), s);
  }
}

// --- the method -----------------------------------------------------------------------

const char* const kEdm2Run = R"({
    "network": {"type": "edm2", "model_channels": 4, "channel_mult": [1, 2],
                "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 4},
    "preconditioning": {"type": "edm2"}, "method": {"type": "edm2"}})";

class FlatImages : public Dataset {
 public:
  DatasetInfo info() const override {
    DatasetInfo info;
    info.name = "flat";
    info.sample_shape = {1, 8, 8};
    info.count = 16;
    info.images = true;
    return info;
  }
  at::Tensor samples(const at::Tensor& index) const override {
    return (index * 15).to(at::kByte).view({-1, 1, 1, 1}).expand({-1, 1, 8, 8});
  }
  at::Tensor labels(const at::Tensor&) const override { return {}; }
};

// The trainer normalises the weights before the loss, and leaves them as the optimiser
// does: Adam's first step is the learning rate in every element, off normalised weights.
TEST(Edm2Method, TrainerProjectsBeforeEachStep) {
  const testing::ScratchFolder scratch;
  const auto dataset = std::make_shared<FlatImages>();
  auto task = make_method({Config::from_text(kEdm2Run, "test"), dataset->info(), 7});
  const std::string name = "logvar_linear.weight";
  at::Tensor weight = task->players()[0].model->named_parameters()[name];
  const at::Tensor start = weight.detach().clone() * 3;
  {
    const at::NoGradGuard no_grad;
    weight.copy_(start);
  }
  TrainOptions options;
  options.batch = options.batch_gpu = options.duration = 4;
  options.tick = 4;
  options.keep = 1;
  options.device = "cpu";
  options.lr.base = 0.25;
  Trainer trainer(options, task, dataset, scratch.path(), {});
  EXPECT_EQ(trainer.run(), Trainer::Outcome::finished);
  weight = task->players()[0].model->named_parameters()[name].detach();
  const at::Tensor normalised = start / (start.square().mean(1, true).sqrt() + 1e-4);
  EXPECT_LT(((weight - normalised).abs() - 0.25).abs().max().item<double>(), 1e-4);
}

TEST(Edm2Method, NeedsItsPreconditioning) {
  Config config = Config::from_text(kEdm2Run, "test");
  config.set_override("preconditioning.type=edm", "test");
  const DatasetInfo info = FlatImages().info();
  try {
    make_method({config, info, 7});
    FAIL() << "taken";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("preconditioning.type = edm2"));
  }
}

}  // namespace
}  // namespace flowmap::distill
