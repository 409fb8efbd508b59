// The methods that learn from pairs as the trainer runs them: what their losses are made of,
// schedules and resuming, statistics, refusals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>

#include "distill/ladder.h"
#include "distill/reflow/annealing.h"
#include "distill/reflow/losses.h"
#include "flowmap/interpolant.h"
#include "samplers/euler_paths.h"
#include "tests/distill/method_steps.h"
#include "tests/support/scratch.h"
#include "tests/support/training_reference.h"

namespace flowmap::distill {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::difference;

const std::string kFlow = R"(, "preconditioning": {"type": "flow", "base_std": 0.6})";

std::string pair_config(const std::string& method, const std::string& more = "") {
  return "{" + kMlp + kFlow + ", \"method\": {" + method + "}" + more + "}";
}

class ReflowTask : public ::testing::Test {
 protected:
  std::shared_ptr<Task> task(const std::string& config, int64_t classes = 0) {
    data_ = data_of(false, classes);
    auto made = make(Config::from_text(config, "test.json"), false, classes);
    shake(*made->players()[0].model);
    return made;
  }
  std::string teacher_file(const char* preconditioning = R"({"type": "flow",
      "base_std": 0.6})") const {
    const auto path = folder_ / "teacher.safetensors";
    save_shaken(path, "{" + kMlp + ", \"preconditioning\": " + preconditioning +
                          R"(, "sample_shape": [2], "label_dim": 0})");
    return R"(, "teacher": ")" + path.string() + '"';
  }
  // Rows of one step of 16, as step() draws them.
  struct Drawn {
    Draw samples, draw;
    Batch batch;
  };
  Drawn drawn(int64_t images_seen = 0) const {
    const Draw samples = samples_of(images_seen, 0, kBatch);
    return {samples, samples.fork("model"), batch_of(data_, samples, 0)};
  }
  at::Tensor velocity(Task& t, const at::Tensor& x, const at::Tensor& at) {
    Context context;
    return t.players()[0].model->velocity(x, at, {}, context).value.detach();
  }

  testing::ScratchFolder folder_;
  DatasetInfo data_;
};

// Noise of the pair, deviation b; beta by the images seen, whatever the batch.
TEST_F(ReflowTask, AnnealingReflowMixesByImagesSeen) {
  const auto made = task(pair_config(R"("type": "annealing_reflow", "warmup": 0.1)"));
  for (const int64_t seen : {0, 32, 80, 160}) {
    const double beta = std::max(0.0, 1 - static_cast<double>(seen) / 100);
    const Drawn rows = drawn(seen);
    const at::Tensor noise =
        annealed_noise(rows.batch.noise, rows.draw.normal("fresh", {2}), beta);
    const at::Tensor t = rows.draw.uniform("time", {});
    const Interpolated at_t = interpolate(rows.batch.x, noise, t, 0.6);
    const double expected =
        mean_square(velocity(*made, at_t.x, t), at_t.target).mean().item<double>();
    Outcome outcome = step(*made, data_, kBatch, 2, seen);
    EXPECT_NEAR(outcome.loss, expected, 1e-5 * expected) << seen;
    EXPECT_NEAR(outcome.sums["Annealing/beta"] / kBatch, beta, 1e-12) << seen;
  }
}

// A run that starts again at an image count is where it was: nothing but the clock counts.
TEST_F(ReflowTask, ResumesFromTheClockAlone) {
  const std::string config =
      pair_config(R"("type": "annealing_reflow", "randomness": "cosine", "warmup": 1)");
  const auto first = task(config), second = task(config);
  step(*first, data_, kBatch, 1, 0);
  step(*first, data_, kBatch, 1, 16);
  EXPECT_EQ(step(*first, data_, kBatch, 1, 320).loss,
            step(*second, data_, kBatch, 1, 320).loss);
}

// The fully annealed loss is that of reflow.
TEST_F(ReflowTask, ReflowIsAnnealingAtItsEnd) {
  const auto annealed = task(pair_config(R"("type": "annealing_reflow", "warmup": 0.01)"));
  const auto reflow = task(pair_config(R"("type": "reflow")"));
  EXPECT_EQ(step(*annealed, data_, kBatch, 1, 16).loss,
            step(*reflow, data_, kBatch, 1, 16).loss);
  EXPECT_NE(step(*annealed, data_, kBatch, 1, 0).loss,
            step(*reflow, data_, kBatch, 1, 0).loss);
}

TEST_F(ReflowTask, OneStepLeaksAsMuchAsEps) {
  for (const bool leak : {true, false}) {
    const auto made = task(pair_config(
        std::string(R"("type": "one_step_distillation", "eps": 0.1, "leak": )") +
        (leak ? "true" : "false")));
    const Drawn rows = drawn();
    const at::Tensor x0 = 0.6 * rows.batch.noise;
    const at::Tensor x = leak ? 0.1 * rows.batch.x + 0.9 * x0 : x0;
    const at::Tensor v = velocity(*made, x, at::full({kBatch}, 0.1));
    const double expected = mean_square(x0 + v, rows.batch.x).mean().item<double>();
    EXPECT_NEAR(step(*made, data_, kBatch, 1).loss, expected, 1e-5 * expected) << leak;
  }
}

// Both terms, the guide frozen; the target's gradient is cut.
TEST_F(ReflowTask, FlowGuidedDistillationAddsTheTwoStepTerm) {
  for (const bool guide_first : {false, true}) {
    const auto made = task(pair_config(
        R"("type": "flow_guided_distillation", "direct_weight": 0.5, "guide_weight": 2)" +
        teacher_file() + (guide_first ? R"(, "first_step": "guide")" : "")));
    const Drawn rows = drawn();
    Model& student = *made->players()[0].model;
    Model& guide = *made->players()[1].model;
    Context context;
    const Draw fork = rows.draw.fork("guided");
    const at::Tensor x0 = 0.6 * rows.batch.noise, zero = at::zeros({kBatch});
    const at::Tensor fresh = 0.6 * fork.normal("noise", {2});
    const at::Tensor t = 0.2 + 0.6 * fork.uniform("time", {});
    const at::Tensor direct = student.velocity(x0, zero, {}, context).value;
    const at::Tensor own = student.velocity(fresh, zero, {}, context).value;
    const at::Tensor first =
        guide_first ? guide.velocity(fresh, zero, {}, context).value : own;
    const at::Tensor middle = (fresh + t.unsqueeze(1) * first).detach();
    const at::Tensor end =
        (middle + (1 - t).unsqueeze(1) * guide.velocity(middle, t, {}, context).value)
            .detach();
    const at::Tensor loss = 0.5 * mean_square(x0 + direct, rows.batch.x).mean() +
                            2 * mean_square(fresh + own, end).mean();
    Outcome outcome = step(*made, data_, kBatch, 4);
    EXPECT_NEAR(outcome.loss, loss.item<double>(), 1e-5 * outcome.loss) << guide_first;
    for (const at::Tensor& p : student.parameters()) p.mutable_grad().reset();
    loss.backward();
    std::size_t i = 0;
    for (const at::Tensor& p : student.parameters())
      EXPECT_LT(difference(outcome.gradients[i++], p.grad()), 1e-5) << guide_first;
    for (const at::Tensor& p : guide.parameters()) EXPECT_FALSE(p.grad().defined());
    EXPECT_EQ(outcome.counts["Loss/two_step"], kBatch);
  }
}

// Gradients against central differences, in float64, of every kind of loss.
TEST_F(ReflowTask, GradientsAgainstFiniteDifferences) {
  const auto check = [&](const std::string& method) {
    const auto made = task(pair_config(method));
    Model& model = *made->players()[0].model;
    for (Player& player : made->players()) player.model->to(at::kDouble);
    const Draw samples = samples_of(32, 0, kBatch), draw = samples.fork("model");
    Batch batch = batch_of(data_, samples, 0);
    batch.x = batch.x.to(at::kDouble);
    batch.noise = batch.noise.to(at::kDouble);
    const StepContext context{{32, 2}, draw, kBatch, 0, {}};
    const auto loss = [&] { return made->loss({"model", 1}, batch, context).loss; };
    loss().backward();
    at::Tensor weight = model.parameters()[0];
    const at::Tensor way = draw.normal("way", weight.sizes())[0].to(at::kDouble);
    const double slope = (weight.grad() * way).sum().item<double>(), h = 1e-6;
    const at::NoGradGuard no_grad;
    weight.add_(way, h);
    const double above = loss().item<double>();
    weight.sub_(way, 2 * h);
    const double below = loss().item<double>();
    EXPECT_NEAR((above - below) / (2 * h), slope, 1e-6 * std::abs(slope) + 1e-9) << method;
  };
  check(R"("type": "reflow")");
  check(R"("type": "reflow", "loss": "huber")");
  check(R"("type": "annealing_reflow", "warmup": 1)");
  check(R"("type": "one_step_distillation", "loss": "huber", "eps": 0.01)");
}

TEST_F(ReflowTask, ProgressiveRoundsHalveTheStepsAndMoveTheTeacher) {
  const std::string config = pair_config(
      R"("type": "progressive_distillation", "start_steps": 8, "weight": "none")" +
          teacher_file(),
      R"(, "trainer": {"duration": 0.0003})");
  const auto made = task(config);
  EXPECT_EQ(made->stream(), Stream::samples);
  const auto steps_at = [&](int64_t seen) {
    return step(*made, data_, kBatch, 1, seen).sums["Progress/steps"] / kBatch;
  };
  EXPECT_EQ(steps_at(0), 4);
  EXPECT_TRUE(made->state().empty());
  // By hand, with the file's network as teacher.
  const Drawn rows = drawn();
  Context context;
  const at::Tensor s = rows.draw.integer("knot", {}, 4).to(at::kFloat) / 4;
  const at::Tensor x =
      interpolate(rows.batch.x, rows.draw.normal("noise", {2}), s, 0.6).x;
  const at::Tensor target =
      halving_target(*made->players()[1].model, x, s, 0.25, {}, context);
  const double expected = mean_square(velocity(*made, x, s), target).mean().item<double>();
  EXPECT_NEAR(step(*made, data_, kBatch, 1, 0).loss, expected, 1e-5 * expected);
  EXPECT_EQ(steps_at(96), 4);
  EXPECT_EQ(steps_at(112), 2);
  const auto state = made->state();
  EXPECT_EQ(state.at("round").item<int64_t>(), 1);
  // A resumed run has the same teacher, though its student is another by now.
  const auto again = task(config);
  again->load_state(state);
  EXPECT_EQ(step(*again, data_, kBatch, 1, 128).loss, step(*made, data_, kBatch, 1, 128).loss);
  EXPECT_EQ(steps_at(208), 1);
  EXPECT_EQ(steps_at(10'000), 1);
}

// Statistics of the first rows, by the images seen, whatever the micro-batches.
TEST_F(ReflowTask, ProbesPathsNowAndThen) {
  const auto made = task(pair_config(
      R"("type": "reflow", "probe": {"every": 0.032, "rows": 5, "steps": 8})"));
  for (const auto& [seen, probed] : std::map<int64_t, bool>{
           {0, true}, {16, false}, {32, true}, {48, false}, {64, true}})
    EXPECT_EQ(step(*made, data_, kBatch, 4, seen).counts["Paths/straightness"],
              probed ? 5 : 0) << seen;
  Outcome outcome = step(*made, data_, kBatch, 4, 64);
  const Drawn rows = drawn(64);
  const samplers::EulerPaths paths = samplers::euler_paths(
      *made->players()[0].model, rows.batch.noise.slice(0, 0, 5), {}, 8);
  const at::Tensor all = samplers::deviation_by_time(paths);
  EXPECT_NEAR(outcome.sums["Paths/straightness"] / 5, all.mean().item<double>(), 1e-7);
  EXPECT_NEAR(outcome.sums["Paths/straightness_norm"] / 5, all.sqrt().mean().item<double>(), 1e-7);
  EXPECT_NEAR(outcome.sums["Paths/straightness_per_pixel"] / 5,
              all.mean().item<double>() / 2, 1e-7);
  EXPECT_NEAR(outcome.sums["Paths/pair_error"] / 5,
              samplers::pair_error(paths.states[-1], rows.batch.x.slice(0, 0, 5))
                  .mean().item<double>(), 1e-7);
  EXPECT_NEAR(outcome.sums["Paths/curvature_1"] / 5,
              samplers::curvature_by_time(paths).slice(0, 0, 2).mean().item<double>(), 1e-7);
  EXPECT_EQ(outcome.counts["Paths/curvature_4"], 5);
}

// A classifier of 8x8 images, so that the perceptual losses run without foreign files.
TEST_F(ReflowTask, PerceptualLossesAddTheirDistance) {
  const std::string spec = R"({"network": {"type": "classifier_cnn", "channels": [4, 4, 4, 4],
    "squeeze": 4, "features": 6}, "preconditioning": {"type": "classifier"},
    "sample_shape": [1, 8, 8], "label_dim": 3})";
  const auto path = folder_ / "classifier.safetensors";
  save_shaken(path, spec);
  const std::string options = R"("perceptual": {"path": ")" + path.string() + "\"}";
  const auto distance = make_perceptual_distance(
      "classifier", Config::from_text(options.substr(options.find('{')), "test"));
  const DatasetInfo data = data_of(true, 0);
  const std::string unet = "{" + kUnet + R"(, "preconditioning": {"type": "flow"})";
  const Draw samples = samples_of(0, 0, kBatch), draw = samples.fork("model");
  const Batch batch = batch_of(data, samples, 0);
  const auto run = [&](const std::string& method) {
    std::string text = unet + ", \"method\": {" + method + ", " + options + "}}";
    text.replace(text.find("0.3"), 3, "0.0");  // no dropout
    const auto made = make(Config::from_text(text, "test"), true);
    shake(*made->players()[0].model);
    return std::pair{step(*made, data, kBatch, 1).loss, made};
  };
  Context context;
  {
    const auto [loss, made] =
        run(R"("type": "one_step_distillation", "loss": "classifier")");
    const at::Tensor v =
        made->players()[0].model->velocity(batch.noise, at::zeros({kBatch}), {}, context)
            .value;
    EXPECT_NEAR(loss, (*distance)(batch.noise + v, batch.x).mean().item<double>(), 1e-5);
  }
  for (const std::string weight : {"one", "inverse_time"}) {
    const auto [loss, made] = run(
        R"("type": "reflow", "loss": "classifier_huber", "perceptual_weight": ")" + weight +
        '"');
    const at::Tensor t = draw.uniform("time", {});
    const Interpolated at_t = interpolate(batch.x, batch.noise, t, 1);
    const at::Tensor v =
        made->players()[0].model->velocity(at_t.x, t, {}, context).value;
    const at::Tensor rest = 1 - t;
    const at::Tensor far = (*distance)(at_t.x + rest.view({-1, 1, 1, 1}) * v, batch.x);
    const at::Tensor expected = t * pseudo_huber(v, at_t.target) +
                                (weight == "one" ? far : far / rest);
    EXPECT_NEAR(loss, expected.mean().item<double>(), 1e-5) << weight;
  }
}

TEST_F(ReflowTask, RefusesWhatCannotBe) {
  EXPECT_THAT(refusal("{" + kMlp + kTwoTimes + R"(, "method": {"type": "reflow"}})"),
              HasSubstr("two_times = false"));
  EXPECT_THAT(refusal("{" + kMlp + R"(, "preconditioning": {"type": "flow", "interpolant":
                      "trig"}, "method": {"type": "reflow"}})"),
              HasSubstr("interpolant = linear"));
  EXPECT_THAT(refusal(pair_config(R"("type": "reflow", "loss": "lpips_huber")")),
              HasSubstr("points"));
  EXPECT_THAT(refusal(pair_config(R"("type": "annealing_reflow", "warmup": 0)")),
              HasSubstr("method.warmup"));
  EXPECT_THAT(refusal(pair_config(R"("type": "flow_guided_distillation")")),
              HasSubstr("method.teacher"));
  EXPECT_THAT(refusal(pair_config(R"("type": "progressive_distillation", "start_steps": 12)" +
                                  teacher_file())),
              AllOf(HasSubstr("start_steps = 12"), HasSubstr("halving")));
  EXPECT_THAT(refusal(pair_config(R"("type": "flow_guided_distillation")" +
                                  teacher_file(R"({"type": "flow"})"))),
              HasSubstr("standard deviation"));
  EXPECT_THAT(refusal(pair_config(R"("type": "reflow", "label_dropout": 0.1)")),
              HasSubstr("data.labels"));
}

}  // namespace
}  // namespace flowmap::distill
