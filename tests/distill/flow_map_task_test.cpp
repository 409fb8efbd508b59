// What the members of the flow-map family share: which samples, times, velocities and
// teachers a residual gets, how terms add up, and the settings that are refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "distill/flow_map/losses.h"
#include "distill/flow_map/residual.h"
#include "flowmap/interpolant.h"
#include "flowmap/time_sampling.h"
#include "tests/distill/method_steps.h"
#include "tests/support/scratch.h"
#include "tests/support/training_reference.h"

namespace flowmap::distill {
namespace {

using ::testing::HasSubstr;
using testing::difference;

// What a residual was asked with.
struct Asked {
  MapSamples at;
  const Model* teacher;
  at::Tensor teacher_weight;  // its first parameter
  double progress;
};

// Writes down what it is asked with; pays for the sample's velocity.
class Spy : public Residual {
 public:
  Spy(std::vector<Asked>& asked, bool map) : asked_(asked), map_(map) {}
  at::Tensor loss(const ResidualInput& in) const override {
    asked_.push_back({in.at, &in.teacher.model(),
                      in.teacher.model().parameters()[0].detach().clone(), in.progress});
    return average_velocity_loss(in.student, in.at, in.at.velocity, in.context);
  }
  bool uses_teacher_map() const override { return map_; }

 private:
  std::vector<Asked>& asked_;
  bool map_;
};

std::string config_text(const std::string& method, const std::string& preconditioning = "",
                        const std::string& more = "") {
  return "{" + kMlp + R"(, "preconditioning": {"type": "flow", "two_times": true)" +
         preconditioning + "}, \"method\": {" + method + "}" + more + "}";
}

// A task whose residual is a spy.
struct SpyTask {
  explicit SpyTask(const std::string& config, int64_t classes = 0, bool map = false,
                   const FamilyDefaults& defaults = {})
      : data(data_of(false, classes)) {
    const Config read = Config::from_text(config, "test.json");
    task = make_flow_map_task({read, data, 7}, "spy", defaults,
                              [this, map](const Config&, bool) {
                                return std::make_unique<Spy>(asked, map);
                              });
    shake(student());
  }
  Model& student() { return *task->players()[0].model; }
  std::shared_ptr<Model> average(uint64_t seed) {
    const auto model = clone_frozen(
        student(), Config::from_text(task->players()[0].spec_json, "spec"));
    shake(*model, seed);
    return model;
  }
  // Off-diagonal samples of one step of `batch` at once.
  const Asked& ask(int64_t batch = 64, int64_t images_seen = 0, const Average& other = {}) {
    outcome = step(*task, data, batch, 1, images_seen, other);
    return asked.back();
  }
  at::Tensor gaps(int64_t batch, int64_t images_seen) {
    const Asked& last = ask(batch, images_seen);
    return last.at.t - last.at.s;
  }

  DatasetInfo data;
  std::vector<Asked> asked;
  std::shared_ptr<Task> task;
  Outcome outcome;
};

double most(const at::Tensor& values) { return values.max().item<double>(); }

TEST(FlowMapTask, AnnealingLimitsGaps) {
  SpyTask spy(config_text(R"("eta": 0, "anneal": 0.1)"));
  EXPECT_EQ(most(spy.gaps(64, 0)), 0);
  EXPECT_NEAR(most(spy.gaps(64, 50)), 0.5, 1e-6);
  EXPECT_GT(most(spy.gaps(64, 100)), 0.8);
  EXPECT_GT(most(spy.gaps(64, 10'000)), 0.8);
}

TEST(FlowMapTask, StartsOnTheDiagonalAlone) {
  SpyTask spy(config_text(R"("eta": 0.25, "diagonal_only": 0.032, "anneal": 0.1)"));
  spy.outcome = step(*spy.task, spy.data, 16, 1, 16);
  EXPECT_TRUE(spy.asked.empty());
  EXPECT_EQ(spy.outcome.counts["Loss/diagonal"], 16);
  EXPECT_EQ(spy.outcome.counts["Loss/loss"], 16);
  spy.ask(16, 32);
  EXPECT_EQ(spy.outcome.counts["Loss/diagonal"], 4);
  // The gaps grow from there on.
  EXPECT_NEAR(most(spy.gaps(64, 82)), 0.5, 1e-6);
}

// Means of the two terms weigh one to one, whatever eta.
TEST(FlowMapTask, MeansReductionAddsTwoMeans) {
  const auto outcome = [](const char* reduction, int64_t parts) {
    SpyTask spy(config_text(std::string(R"("eta": 0.75, "reduction": ")") + reduction +
                            '"'));
    return step(*spy.task, spy.data, 16, parts);
  };
  const Outcome means = outcome("means", 1), counts = outcome("counts", 1);
  const double on = means.sums.at("Loss/diagonal"), off = means.sums.at("Loss/off_diagonal");
  EXPECT_NEAR(means.loss, on / 12 + off / 4, 1e-6 * means.loss);
  EXPECT_NEAR(counts.loss, (on + off) / 16, 1e-6 * counts.loss);
  EXPECT_NEAR(outcome("means", 8).loss, means.loss, 1e-5 * means.loss);
}

TEST(FlowMapTask, DiagonalTermOnEverySample) {
  SpyTask spy(config_text(R"("eta": 0, "diagonal_on_all": true)"));
  const Asked& asked = spy.ask(16);
  EXPECT_EQ(spy.outcome.counts.at("Loss/diagonal"), 16);
  EXPECT_EQ(spy.outcome.counts.at("Loss/off_diagonal"), 16);
  EXPECT_EQ(spy.outcome.counts.at("Loss/loss"), 16);
  EXPECT_NEAR(spy.outcome.loss, (spy.outcome.sums.at("Loss/diagonal") +
                                 spy.outcome.sums.at("Loss/off_diagonal")) / 16, 1e-5);
  // At the same I_s.
  Context context;
  MapSamples on = asked.at;
  on.t = on.s;
  EXPECT_NEAR(average_velocity_loss(spy.student(), on, on.velocity, context).sum()
                  .item<double>(), spy.outcome.sums.at("Loss/diagonal"), 1e-4);
}

// The rows of a step of 16, as a task of eta = 1 places them.
struct DiagonalRows {
  at::Tensor x1, noise, t;
  Condition condition;
  explicit DiagonalRows(const DatasetInfo& data) {
    const Draw samples = samples_of(0, 0, 16);
    const Batch batch = batch_of(data, samples, 0);
    const Draw draw = samples.fork("model");
    x1 = batch.x;
    noise = draw.normal("noise", data.sample_shape);
    t = draw.uniform("time", {});
    condition.class_labels = batch.labels;
  }
};

TEST(FlowMapTask, DiagonalGapRegressesShortJumps) {
  SpyTask spy(config_text(R"("eta": 1, "diagonal_gap": 0.25)"));
  const Outcome outcome = step(*spy.task, spy.data, 16, 1);
  const DiagonalRows rows(spy.data);
  const Interpolated at_t = interpolate(rows.x1, rows.noise, rows.t, 1);
  const at::Tensor end = (rows.t + 0.25).clamp_max(1);
  EXPECT_GT(end.eq(1).sum().item<int64_t>(), 0);
  Context context;
  const double expected =
      average_velocity_loss(spy.student(), {at_t.x, {}, rows.t, end, {}, {}}, at_t.target,
                            context).sum().item<double>();
  EXPECT_NEAR(outcome.sums.at("Loss/diagonal"), expected, 1e-5 * expected);
}

TEST(FlowMapTask, FollowsTheInterpolant) {
  for (const bool trig : {true, false}) {
    SpyTask spy(config_text(R"("eta": 0)", trig ? R"(, "interpolant": "trig")" : ""));
    const Asked& asked = spy.ask(16);
    const DiagonalRows rows(spy.data);
    const Interpolated expected =
        interpolate(rows.x1, rows.noise, asked.at.s, 1,
                    trig ? Interpolant::trigonometric : Interpolant::linear);
    EXPECT_LT(difference(asked.at.x, expected.x), 1e-6) << trig;
    EXPECT_LT(difference(asked.at.velocity, expected.target), 1e-6) << trig;
  }
}

TEST(FlowMapTask, LabelDropoutHidesWholeRows) {
  SpyTask spy(config_text(R"("eta": 0, "label_dropout": 0.25)"), 3);
  const at::Tensor classed = spy.ask(1024).at.condition.class_labels.sum(1);
  EXPECT_TRUE(at::equal(classed, classed.ne(0).to(at::kFloat)));
  EXPECT_NEAR(classed.mean().item<double>(), 0.75, 0.05);
}

// MeanFlow's guidance: within the interval of times the mix, elsewhere the sample's own;
// on the diagonal too.
TEST(FlowMapTask, MixesVelocitiesInTheIntervalOfTimes) {
  const std::string mix = R"("omega": 2, "kappa": 0.25, "guidance_low": 0.2,
    "guidance_high": 0.6, "eta": )";
  SpyTask spy(config_text(mix + "0"), 3);
  const Asked& asked = spy.ask(16);
  const DiagonalRows rows(spy.data);
  Context context;
  const auto expected = [&](Model& student, const at::Tensor& t) {
    const Interpolated at_t = interpolate(rows.x1, rows.noise, t, 1);
    const MapSamples at{at_t.x, at_t.target, t, t, rows.condition, {}};
    const at::Tensor inside = t.ge(0.2).logical_and(t.le(0.6)).unsqueeze(1);
    EXPECT_GT(inside.sum().item<int64_t>(), 2);
    EXPECT_LT(inside.sum().item<int64_t>(), 14);
    return at::where(inside, mixed_velocity(student, at, 2, 0.25, context), at.velocity);
  };
  EXPECT_LT(difference(asked.at.velocity, expected(spy.student(), asked.at.s)), 1e-6);
  SpyTask diagonal(config_text(mix + "1"), 3);
  const Outcome outcome = step(*diagonal.task, diagonal.data, 16, 1);
  const at::Tensor x = interpolate(rows.x1, rows.noise, rows.t, 1).x;
  const double raw =
      average_velocity_loss(diagonal.student(), {x, {}, rows.t, rows.t, rows.condition, {}},
                            expected(diagonal.student(), rows.t), context)
          .sum().item<double>();
  EXPECT_NEAR(outcome.sums.at("Loss/diagonal"), raw, 1e-5 * raw);
}

// The map takes the scale that its teacher is guided by, drawn for each sample.
TEST(FlowMapTask, DrawsTheScaleThatTheMapTakes) {
  SpyTask spy(config_text(R"("eta": 0, "guidance_max": 4)", R"(, "guidance_input": true)"),
              3);
  const Asked& asked = spy.ask(1024);
  const at::Tensor& scale = asked.at.teacher_guidance;
  EXPECT_TRUE(at::equal(scale, asked.at.condition.guidance));
  EXPECT_GE(scale.min().item<double>(), 0);
  EXPECT_LT(most(scale), 4);
  EXPECT_NEAR(scale.mean().item<double>(), 2, 0.15);
  EXPECT_NEAR(scale.std().item<double>(), 4 / std::sqrt(12.0), 0.1);
  SpyTask plain(config_text(R"("eta": 0)"), 3);
  EXPECT_FALSE(plain.ask(16).at.teacher_guidance.defined());
  EXPECT_FALSE(plain.ask(16).at.condition.guidance.defined());
}

class FlowMapTeacher : public ::testing::Test {
 protected:
  std::string file(const char* preconditioning, int64_t classes = 0) const {
    const auto path = folder_ / "teacher.safetensors";
    save_shaken(path, "{" + kMlp + ", \"preconditioning\": " + preconditioning +
                          ", \"sample_shape\": [2], \"label_dim\": " +
                          std::to_string(classes) + "}");
    return "\"teacher\": \"" + path.string() + "\"";
  }
  testing::ScratchFolder folder_;
};

constexpr const char* kVelocity = R"({"type": "flow"})";
constexpr const char* kMap = R"({"type": "flow", "two_times": true})";

TEST_F(FlowMapTeacher, OfAFixedScaleGuidesBothTerms) {
  const std::string teacher = file(kVelocity, 3);
  SpyTask spy(config_text(teacher + R"(, "eta": 0, "guidance": 2.5)"), 3);
  const Asked& asked = spy.ask(16);
  EXPECT_TRUE(at::equal(asked.at.teacher_guidance, at::full({16}, 2.5)));
  EXPECT_FALSE(asked.at.condition.guidance.defined());
  EXPECT_EQ(asked.teacher, spy.task->players()[1].model.get());
  SpyTask diagonal(config_text(teacher + R"(, "eta": 1, "guidance": 2.5)"), 3);
  const Outcome outcome = step(*diagonal.task, diagonal.data, 16, 1);
  const DiagonalRows rows(diagonal.data);
  const at::Tensor x = interpolate(rows.x1, rows.noise, rows.t, 1).x;
  Context context;
  const at::Tensor target =
      Teacher(*diagonal.task->players()[1].model)
          .velocity(x, rows.t, rows.condition, at::full_like(rows.t, 2.5), context);
  const double raw =
      average_velocity_loss(diagonal.student(), {x, {}, rows.t, rows.t, rows.condition, {}},
                            target.detach(), context).sum().item<double>();
  EXPECT_NEAR(outcome.sums.at("Loss/diagonal"), raw, 1e-5 * raw);
}

// A frozen velocity serves residuals that ask for velocities; of those that ask for a map,
// only in rounds, or where the teacher is a map.
TEST_F(FlowMapTeacher, IsTheTargetWhereItFits) {
  const auto frozen = [&](const char* preconditioning, bool map, const char* more = "") {
    SpyTask spy(config_text(file(preconditioning) + R"(, "eta": 0)" + more), 0, map);
    const Asked& asked = spy.ask(16);
    EXPECT_TRUE(asked.teacher == spy.task->players()[1].model.get() ||
                asked.teacher == &spy.student());
    return asked.teacher == spy.task->players()[1].model.get();
  };
  EXPECT_TRUE(frozen(kVelocity, false));
  EXPECT_FALSE(frozen(kVelocity, true));
  EXPECT_TRUE(frozen(kMap, true));
  EXPECT_TRUE(frozen(kVelocity, true, R"(, "rounds": 3)"));
  EXPECT_TRUE(frozen(kVelocity, true, R"(, "target": "frozen")"));
  EXPECT_FALSE(frozen(kMap, true, R"(, "target": "current")"));
}

// 400 images in four rounds: gaps up to 1/8, 1/4, 1/2, 1; the teacher of a round is the
// average at its start.
TEST_F(FlowMapTeacher, RoundsDoubleGapsAndMoveTheTeacher) {
  SpyTask spy(config_text(file(kVelocity) + R"(, "eta": 0, "rounds": 4)", "",
                          R"(, "trainer": {"duration": 0.0004})"), 0, true);
  int64_t asked_for = 0;
  std::shared_ptr<Model> current;
  const auto gaps = [&](int64_t images_seen, uint64_t seed) {
    current = spy.average(seed);
    const Asked& last = spy.ask(64, images_seen, [&](int profile) {
      EXPECT_EQ(profile, 0);
      ++asked_for;
      return current;
    });
    return last.at.t - last.at.s;
  };
  const auto weight = [&] { return spy.asked.back().teacher_weight; };
  EXPECT_NEAR(most(gaps(0, 20)), 0.125, 1e-6);
  EXPECT_NEAR(most(gaps(99, 21)), 0.125, 1e-6);
  EXPECT_EQ(spy.asked.back().teacher, spy.task->players()[1].model.get());
  EXPECT_NEAR(spy.asked.back().progress, 99.0 / 400, 1e-12);
  EXPECT_EQ(asked_for, 0);
  EXPECT_NEAR(most(gaps(100, 22)), 0.25, 1e-6);
  const at::Tensor first = current->parameters()[0].clone();
  EXPECT_TRUE(at::equal(weight(), first));
  EXPECT_NEAR(most(gaps(199, 23)), 0.25, 1e-6);
  EXPECT_TRUE(at::equal(weight(), first));  // whatever became of the average
  EXPECT_EQ(asked_for, 1);
  EXPECT_NEAR(most(gaps(200, 24)), 0.5, 1e-6);
  EXPECT_TRUE(at::equal(weight(), current->parameters()[0]));
  EXPECT_GT(most(gaps(300, 25)), 0.5);
  EXPECT_TRUE(at::equal(weight(), current->parameters()[0]));
  gaps(400, 26);  // past the end nothing changes any more
  EXPECT_EQ(asked_for, 3);
  EXPECT_NE(spy.asked.back().teacher, spy.task->players()[1].model.get());
}

// A run that says no duration has the trainer's, 200 million images.
TEST(FlowMapTask, ProgressIsThatOfTheTrainer) {
  const Config config = Config::from_text(config_text(R"("eta": 0)"), "test.json");
  SpyTask spy(config_text(R"("eta": 0)"));
  spy.ask(16, 100'000'000);
  EXPECT_NEAR(spy.asked.back().progress, 0.5, 1e-12);
  std::vector<Asked> unused;
  make_flow_map_task({config, data_of(false, 0), 7}, "spy", {}, [&](const Config&, bool) {
    return std::make_unique<Spy>(unused, false);
  });
  EXPECT_THAT(config.resolved_json(0), ::testing::HasSubstr("\"duration\": 200\n"));
}

// A frozen map is not guided by a scale that it does not take.
TEST_F(FlowMapTeacher, AFixedScaleNeedsAVelocity) {
  const auto make = [&](bool asks_for_map) {
    SpyTask spy(config_text(file(kMap, 3) + R"(, "guidance": 2)"), 3, asks_for_map);
  };
  EXPECT_NO_THROW(make(false));
  EXPECT_THROW(make(true), UsageError);
}

TEST_F(FlowMapTeacher, StateKeepsTheTeacherOfTheRound) {
  const std::string config = config_text(
      file(kVelocity) + R"(, "type": "psd", "rounds": 4, "eta": 0.25)", "",
      R"(, "trainer": {"duration": 0.0004})");
  const DatasetInfo data = data_of(false, 0);
  const auto fresh = [&] {
    const auto task = make(Config::from_text(config, "test.json"));
    shake(*task->players()[0].model);
    return task;
  };
  const auto average_of = [](Task& task, uint64_t seed) {
    return [&task, seed](int) {
      const auto model =
          clone_frozen(*task.players()[0].model,
                       Config::from_text(task.players()[0].spec_json, "spec"));
      shake(*model, seed);
      return model;
    };
  };
  const auto first = fresh(), again = fresh(), lost = fresh();
  step(*first, data, 16, 1, 0, average_of(*first, 30));
  EXPECT_TRUE(first->state().empty());  // the teacher of the file
  step(*first, data, 16, 1, 100, average_of(*first, 31));
  EXPECT_EQ(first->state().at("round").item<int64_t>(), 1);
  again->load_state(first->state());
  const auto loss = [&](Task& task) {
    return step(task, data, 16, 1, 150, average_of(task, 32)).sums.at("Loss/off_diagonal");
  };
  const double expected = loss(*first);
  EXPECT_EQ(loss(*again), expected);
  EXPECT_NE(loss(*lost), expected);
  // What was loaded is a copy.
  auto state = first->state();
  again->load_state({});
  EXPECT_EQ(loss(*again), expected);
  state.erase(std::prev(state.end()));
  EXPECT_THROW(lost->load_state(state), Error);
}

// An average is the target where it is asked for, under the profile that is asked for.
TEST(FlowMapTask, LearnsFromTheAverage) {
  const DatasetInfo data = data_of(false, 0);
  const auto run = [&](const char* method, const char* target, bool moved, int& profile) {
    const auto task = make(Config::from_text(
        config_text(std::string("\"type\": \"") + method + R"(", "eta": 0.5)" + target, "",
                    R"(, "trainer": {"ema": [{"type": "constant", "decay": 0.9},
                                             {"type": "constant", "decay": 0.99}]})"),
        "test.json"));
    shake(*task->players()[0].model);
    profile = -1;
    return step(*task, data, 16, 2, 0, [&](int asked) {
      profile = asked;
      const auto model =
          clone_frozen(*task->players()[0].model,
                       Config::from_text(task->players()[0].spec_json, "spec"));
      if (moved) shake(*model, 40);
      return model;
    });
  };
  for (const char* method : {"psd", "tvm", "esd", "improved_meanflow"}) {
    int profile = 0;
    const Outcome current = run(method, R"(, "target": "current")", true, profile);
    EXPECT_EQ(profile, -1) << method;
    const Outcome same = run(method, R"(, "target": "ema")", false, profile);
    EXPECT_EQ(profile, 0) << method;
    const Outcome average =
        run(method, R"(, "target": "ema", "target_profile": 1)", true, profile);
    EXPECT_EQ(profile, 1) << method;
    EXPECT_EQ(same.sums.at("Loss/off_diagonal"), current.sums.at("Loss/off_diagonal"));
    EXPECT_NE(average.sums.at("Loss/off_diagonal"), current.sums.at("Loss/off_diagonal"));
    EXPECT_EQ(average.sums.at("Loss/diagonal"), current.sums.at("Loss/diagonal"));
  }
}

// Names for settings of one another.
TEST_F(FlowMapTeacher, MembersAreSettingsOfOneAnother) {
  const DatasetInfo data = data_of(false, 0);
  const std::string teacher = ", " + file(kVelocity);
  const auto run = [&](const std::string& method) {
    const auto task = make(Config::from_text(
        config_text(method, "", R"(, "trainer": {"duration": 0.0001})"), "test.json"));
    Model& student = *task->players()[0].model;
    shake(student);
    {
      const at::NoGradGuard no_grad;  // beyond where shortcut models cut their targets
      student.named_parameters()["model.layer2.bias"].add_(4);
    }
    return step(*task, data, 64, 1, 128);
  };
  const std::string adaptive =
      R"(, "weight": "adaptive", "adaptive_p": 0.75, "adaptive_c": 0.001)";
  const std::pair<std::string, std::string> same[] = {
      {R"("type": "tvm")", R"("type": "lsd", "pairs": {"type": "gap"}, "eta": 0,
         "diagonal_on_all": true, "target": "ema")"},
      {R"("type": "shortcut")", R"("type": "psd", "pairs": {"type": "dyadic"},
         "eta": 0.875, "diagonal_gap": 0.0078125, "target": "ema", "target_clip": 4)"},
      {R"("type": "ayf_lmd")" + teacher,
       R"("type": "lsd", "stop_gradient": "detached")" + teacher},
      {R"("type": "ayf_emd")" + teacher,
       R"("type": "meanflow", "velocity": "teacher", "tangent_velocity": "teacher")" +
           teacher},
      {R"("type": "improved_meanflow")",
       R"("type": "meanflow", "tangent_velocity": "teacher")"},
      {R"("type": "consistency")",
       R"("type": "meanflow", "pairs": {"one_probability": 1})"},
      {R"("type": "consistency")" + teacher,
       R"("type": "ayf_emd", "pairs": {"one_probability": 1})" + teacher},
      {R"("type": "meanflow", "weight": "none")",
       R"("type": "meanflow", "weight": "adaptive", "adaptive_p": 0)"},
      {R"("type": "meanflow")", R"("type": "meanflow")" + adaptive},
      // Past the end of its schedule.
      {R"("type": "alpha_flow")", R"("type": "meanflow")"},
      {R"("type": "meanflow", "tangent": {"warmup": 0.128})", R"("type": "meanflow")"},
  };
  for (const auto& [name, setting] : same) {
    const Outcome one = run(name), other = run(setting);
    EXPECT_EQ(one.loss, other.loss) << name;
    EXPECT_EQ(one.sums, other.sums) << name;
    for (std::size_t i = 0; i < one.gradients.size(); ++i)
      EXPECT_TRUE(at::equal(one.gradients[i], other.gradients[i])) << name << " " << i;
  }
  EXPECT_NE(run(R"("type": "meanflow", "tangent": {"warmup": 0.256})").loss,
            run(R"("type": "meanflow")").loss);
}

// alpha falls from 1 over 1/2 halfway to 0, and snaps to its ends.
TEST(FlowMapTask, AlphaFollowsItsSigmoid) {
  const DatasetInfo data = data_of(false, 0);
  const auto loss = [&](const std::string& method, int64_t images_seen) {
    const auto task = make(Config::from_text(
        config_text(R"("weight": "none", "eta": 0, "type": )" + method, "",
                    R"(, "trainer": {"duration": 0.001})"), "test.json"));
    shake(*task->players()[0].model);
    return step(*task, data, 64, 1, images_seen).loss;
  };
  EXPECT_EQ(loss(R"("alpha_flow")", 0), loss(R"("alpha_flow", "alpha": 1)", 0));
  EXPECT_EQ(loss(R"("alpha_flow")", 500), loss(R"("alpha_flow", "alpha": 0.5)", 500));
  const double later = 1 / (1 + std::exp(25 * 0.1));
  EXPECT_NEAR(loss(R"("alpha_flow")", 600),
              loss(R"("alpha_flow", "alpha": )" + std::to_string(later), 600), 1e-4);
  EXPECT_NE(loss(R"("alpha_flow")", 600), loss(R"("alpha_flow", "alpha": 0.5)", 600));
  EXPECT_EQ(loss(R"("alpha_flow")", 950), loss(R"("meanflow")", 950));
  // With the tangent left out it is flow matching of jumps, as at alpha = 1.
  EXPECT_EQ(loss(R"("meanflow", "tangent": {"warmup": 1})", 0),
            loss(R"("alpha_flow", "alpha": 1)", 0));
}

// I_s goes to t and back: what the two-sided loss calls I_t is where the sample is.
TEST(FlowMapTask, TwoSidedTripsStartAtTheSample) {
  const auto task = make(Config::from_text(
      config_text(R"("type": "fmm", "eta": 0, "weight": "none")"), "test.json"));
  Model& student = *task->players()[0].model;
  shake(student);
  const DatasetInfo data = data_of(false, 0);
  const Outcome outcome = step(*task, data, 16, 1);
  const DiagonalRows rows(data);
  const auto [s, t] = TimePairSampler{}.sample(samples_of(0, 0, 16).fork("model"), "pair");
  const Interpolated at_s = interpolate(rows.x1, rows.noise, s, 1);
  Context context;
  const double expected =
      two_sided_loss(student, {at_s.x, at_s.target, t, s, {}, {}}, context)
          .sum().item<double>();
  EXPECT_NEAR(outcome.sums.at("Loss/off_diagonal"), expected, 1e-5 * expected);
}

// The share of t = 1 that a member asks for gives way to the configuration's.
TEST(FlowMapTask, PairsOfAMemberGiveWay) {
  const FamilyDefaults jumps{.one_probability = 1};
  SpyTask ends(config_text(R"("eta": 0)"), 0, false, jumps);
  EXPECT_TRUE(ends.ask(64).at.t.eq(1).all().item<bool>());
  SpyTask half(config_text(R"("eta": 0, "pairs": {"one_probability": 0.5})"), 0, false,
               jumps);
  EXPECT_NEAR(half.ask(512).at.t.eq(1).to(at::kDouble).mean().item<double>(), 0.5, 0.08);
  const FamilyDefaults dyadic{.pairs = "dyadic"};
  SpyTask grid(config_text(R"("eta": 0, "pairs": {"grid": 4})"), 0, false, dyadic);
  for (const double h : {1.0, 0.5})
    EXPECT_GT(grid.gaps(64, 0).eq(h).sum().item<int64_t>(), 16) << h;
  SpyTask other(config_text(R"("eta": 0, "pairs": {"type": "triangle"})"), 0, false, dyadic);
  EXPECT_EQ(other.gaps(64, 0).eq(0.5).sum().item<int64_t>(), 0);
}

TEST_F(FlowMapTeacher, WrongSettingsAreRefused) {
  const std::string velocity = file(kVelocity);
  const auto say = [](const std::string& method, const std::string& preconditioning = "",
                      int64_t classes = 0) {
    return refusal(config_text(method, preconditioning), false, classes);
  };
  for (const char* name : {"chord", "ayf_emd", "ayf_lmd"})
    EXPECT_THAT(say(std::string("\"type\": \"") + name + '"'),
                HasSubstr("give method.teacher"));
  EXPECT_THAT(say(R"("type": "psd", "rounds": 3)"), HasSubstr("method.rounds"));
  EXPECT_THAT(say(R"("type": "lsd", "rounds": 3, )" + velocity), HasSubstr("method.rounds"));
  EXPECT_THAT(say(R"("type": "lsd", "target": "frozen")"), HasSubstr("method.teacher"));
  EXPECT_THAT(say(R"("type": "lsd", "target": "ema", "target_profile": 1)"),
              HasSubstr("target_profile"));
  for (const char* eta : {"0", "1"})
    EXPECT_THAT(say(std::string(R"("type": "lsd", "reduction": "means", "eta": )") + eta),
                HasSubstr("method.reduction"));
  EXPECT_THAT(say(R"("type": "lsd", "weight": "cauchy")"),
              HasSubstr("preconditioning.log_weight"));
  for (const char* option : {"\"guidance\": 2", "\"guidance_max\": 2", "\"omega\": 2",
                             "\"kappa\": 0.5", "\"label_dropout\": 0.1"}) {
    const std::string text = option;
    EXPECT_THAT(say(R"("type": "lsd", )" + text),
                HasSubstr("method." + text.substr(1, text.find(':') - 2) +
                          " needs classes; set data.labels"));
  }
  EXPECT_THAT(say(R"("type": "lsd", "guidance": 2)", "", 3), HasSubstr("method.teacher"));
  EXPECT_THAT(say(R"("type": "lsd", "guidance_max": 2)", "", 3),
              HasSubstr("preconditioning.guidance_input"));
  EXPECT_THAT(say(R"("type": "lsd", "guidance_max": 2, "guidance": 2, )" +
                      file(kVelocity, 3), R"(, "guidance_input": true)", 3),
              HasSubstr("exclude each other"));
  EXPECT_THAT(say(R"("type": "esd", "stop_gradient": "halfway")"),
              HasSubstr("stop_gradient"));
  EXPECT_THAT(say(R"("type": "psd", "stop_gradient": "full")"), HasSubstr("stop_gradient"));
  EXPECT_THAT(say(R"("type": "psd", "split": "thirds")"), HasSubstr("split"));
  EXPECT_THAT(say(R"("type": "meanflow", "velocity": "student")"), HasSubstr("velocity"));
  EXPECT_THAT(say(R"("type": "lsd", "pairs": {"type": "dyadic", "grid": 12})"),
              HasSubstr("power of two"));
}

}  // namespace
}  // namespace flowmap::distill
