// Straightening on the knots of a schedule: closed forms, the public program's numbers, the
// task as the trainer runs it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "distill/reflow/boss_straighten.h"
#include "distill/reflow/losses.h"
#include "flowmap/base/error.h"
#include "flowmap/model_checksum.h"
#include "flowmap/ops.h"
#include "samplers/boss/schedule_file.h"
#include "tests/distill/method_steps.h"
#include "tests/support/flow_map_models.h"
#include "tests/support/scratch.h"
#include "tests/support/training_reference.h"

namespace flowmap::distill {
namespace {

using ::testing::HasSubstr;
using testing::difference;
using testing::GaussianFlow;

std::vector<double> equal_steps(int64_t n) {
  std::vector<double> times;
  for (int64_t i = 0; i <= n; ++i)
    times.push_back(static_cast<double>(i) / static_cast<double>(n));
  return times;
}

// N(0,1) to N(m, s^2): Euler's deviations y_k on the fine grid.
std::vector<double> euler_deviations(double s, int64_t steps) {
  std::vector<double> y{1};
  for (int64_t k = 0; k < steps; ++k) {
    const double t = static_cast<double>(k) / static_cast<double>(steps);
    const double variance = t * t * s * s + (1 - t) * (1 - t);
    y.push_back(y.back() * (1 + (t * s * s - (1 - t)) / variance /
                                    static_cast<double>(steps)));
  }
  return y;
}

// v = theta_k (x - tau_k m) + m at the knots.
class KnotStudent : public testing::AnalyticModel {
 public:
  KnotStudent(std::vector<double> knots, std::vector<double> theta, double m)
      : AnalyticModel({.kind = ModelKind::velocity, .sample_shape = {1}}),
        knots_(std::move(knots)), theta_(std::move(theta)), m_(m) {}
  Dual velocity(const Dual& x, const Dual& t, const Condition&, Context&) override {
    const double at = t.value[0].item<double>();
    for (std::size_t k = 0; k < theta_.size(); ++k)
      if (std::abs(at - knots_[k]) < 1e-12) return theta_[k] * (x.value - at * m_) + m_;
    throw Error("a time that is no knot");
  }

 private:
  std::vector<double> knots_, theta_;
  double m_;
};

struct GaussianCase {
  double s = 0.5, m = 0.3;
  std::vector<double> knots{0, 0.43, 0.66, 0.83, 1};
  GaussianFlow flow{{1}, 0, 1, m, s};
  SegmentGrid grid = segment_grid(equal_steps(100), knots, 1, false, "test");
  at::Tensor start = at::tensor({-1.5, -0.2, 0.1, 2.0}, at::kDouble).view({4, 1});
  Context context;

  KnotStudent student(double off = 0) const {
    const std::vector<double> y = euler_deviations(s, 100);
    std::vector<double> theta;
    for (std::size_t k = 0; k + 1 < knots.size(); ++k) {
      const auto from = static_cast<std::size_t>(grid.knots[k]),
                 to = static_cast<std::size_t>(grid.knots[k + 1]);
      theta.push_back((y[to] / y[from] - 1) / (knots[k + 1] - knots[k]) + off);
    }
    return {knots, theta, m};
  }
};

TEST(BossStraighten, GridTakesKnotsIn) {
  const SegmentGrid grid =
      segment_grid({0, 0.25, 0.5, 0.75, 1}, {0, 0.5 + 1e-13, 0.6, 1}, 2, false, "test");
  const std::vector<double> wanted{0,    0.125, 0.25,  0.375, 0.5 + 1e-13, 0.55,
                                   0.6, 0.675, 0.75, 0.875, 1};
  ASSERT_EQ(grid.times.size(), wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i)
    EXPECT_NEAR(grid.times[i], wanted[i], 1e-12) << i;
  EXPECT_EQ(grid.knots, (std::vector<int64_t>{0, 4, 6, 10}));
  EXPECT_NEAR(grid.length(1), 0.1, 1e-12);
  for (const std::vector<double>& bad :
       {std::vector<double>{0}, {0, 0.5}, {0.1, 1}, {0, 0.7, 0.7, 1}, {0, 0.8, 0.6, 1}})
    EXPECT_THROW(segment_grid(equal_steps(4), bad, 1, false, "test"), UsageError);
}

// The student that is linear at each knot has loss 0 and lands on the Euler teacher.
TEST(BossStraighten, LinearStudentIsTheEulerTeacher) {
  GaussianCase c;
  KnotStudent student = c.student();
  const Segments found =
      teacher_segments(c.flow, c.start, {}, 1, c.grid, nullptr, {}, c.context);
  EXPECT_EQ(found.starts.sizes(), (std::vector<int64_t>{4, 4, 1}));
  const std::vector<double> y = euler_deviations(c.s, 100);
  EXPECT_NEAR(y[100], 0.49264548, 5e-9);
  at::Tensor x = c.start;
  for (int64_t k = 0; k < 4; ++k) {
    const double t = c.grid.knot(k);
    EXPECT_LT(difference(found.starts[k],
                         t * c.m + y[static_cast<std::size_t>(c.grid.knots[k])] * c.start),
              1e-13) << k;
    const at::Tensor v =
        student.velocity(found.starts[k], at::full({4}, t, at::kDouble), {}, c.context).value;
    EXPECT_LT(mean_square(v, found.slopes[k]).max().item<double>(), 1e-26) << k;
    x = x + c.grid.length(k) *
                student.velocity(x, at::full({4}, t, at::kDouble), {}, c.context).value;
  }
  EXPECT_LT(difference(x, c.m + 0.49264548 * c.start), 1e-8);
}

TEST(BossStraighten, OneWalkServesAllSegments) {
  GaussianCase c;
  testing::CountingModel euler(c.flow), heun(c.flow);
  teacher_segments(euler, c.start, {}, 1, c.grid, nullptr, {}, c.context);
  EXPECT_EQ(euler.evaluations(), 100);
  c.grid.heun = true;
  const Segments fine =
      teacher_segments(heun, c.start, {}, 1, c.grid, nullptr, {}, c.context);
  EXPECT_EQ(heun.evaluations(), 200);
  // Heun's end is the flow's own, to the square of the step.
  const at::Tensor end = fine.starts[3] + c.grid.length(3) * fine.slopes[3];
  EXPECT_LT(difference(end, c.m + c.s * c.start), 5e-5);
}

// Chosen rows stand where the student's own steps lead, and the chord is the teacher's from
// there; the others do not notice.
TEST(BossStraighten, StudentStates) {
  GaussianCase c;
  KnotStudent bent = c.student(0.3);
  const at::Tensor chosen = at::tensor({0, 1, 0, 1}, at::kLong).to(at::kBool);
  testing::CountingModel counted(bent);
  const Segments plain =
      teacher_segments(c.flow, c.start, {}, 1, c.grid, nullptr, {}, c.context);
  const Segments mixed =
      teacher_segments(c.flow, c.start, {}, 1, c.grid, &counted, chosen, c.context);
  EXPECT_EQ(counted.evaluations(), 3);
  at::Tensor own = c.start;
  for (int64_t k = 0; k < 4; ++k) {
    EXPECT_TRUE(at::equal(mixed.starts[k][0], plain.starts[k][0])) << k;
    EXPECT_TRUE(at::equal(mixed.slopes[k][2], plain.slopes[k][2])) << k;
    EXPECT_LT(difference(mixed.starts[k][1], own[1]), 1e-14) << k;
    // The teacher's chord is linear in the state: theta_k of the exact student.
    KnotStudent exact = c.student();
    const at::Tensor t = at::full({4}, c.grid.knot(k), at::kDouble);
    EXPECT_LT(difference(mixed.slopes[k][3],
                         exact.velocity(own, t, {}, c.context).value[3]), 1e-12) << k;
    own = own + c.grid.length(k) * bent.velocity(own, t, {}, c.context).value;
  }
}

// The public program's segments and loss, network time t (1 - eps) + eps.
class BossTime : public testing::AnalyticModel {
 public:
  BossTime(Model& inner, double eps)
      : AnalyticModel({.kind = ModelKind::velocity, .sample_shape = {2}}),
        inner_(inner), eps_(eps) {}
  Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override {
    return inner_.velocity(x, ops::add_scalar(ops::scale(t, 1 - eps_), eps_), c, ctx);
  }

 private:
  Model& inner_;
  double eps_;
};

TEST(BossStraightenReference, SegmentsAndLoss) {
  FM_NEED_METHOD_REFERENCE("boss");
  FM_NEED_METHOD_REFERENCE("reflow");
  const testing::MethodReference boss("boss"), reflow("reflow");
  // The mixture is that of group reflow.
  testing::MixtureModel mixture(ModelKind::velocity, {2}, reflow.at("teacher/w"),
                                reflow.at("teacher/m"), reflow.at("teacher/c"));
  for (const char* name : {"phase2_mean", "phase2_half_sum"}) {
    SCOPED_TRACE(name);
    const Config config = boss.config(name);
    const double eps = config.number("eps");
    const at::Tensor x = boss.at("phase2_teacher/x"), v = boss.at("phase2_teacher/v");
    BossTime teacher(mixture, eps);
    std::vector<double> knots;
    for (const int64_t k : config.integers("knots")) knots.push_back(0.05 * k);
    knots.back() = 1;
    SegmentGrid grid = segment_grid(equal_steps(20), knots, 1, false, "test");
    ASSERT_EQ(grid.knots, config.integers("knots"));
    Context context;
    const Segments found =
        teacher_segments(teacher, x[0], {}, 1, grid, nullptr, {}, context);
    for (int64_t k = 0; k < 4; ++k) {
      EXPECT_LT(difference(found.starts[k], x[grid.knots[k]]), 1e-11) << k;
      EXPECT_LT(difference(found.slopes[k], (x[grid.knots[k + 1]] - x[grid.knots[k]]) /
                                                grid.length(k)), 1e-10) << k;
    }
    const std::string prefix = std::string(name) + "/";
    testing::ReferenceMap net(
        std::make_shared<testing::ReferenceNet>(
            4, false, [&](const std::string& part) { return boss.at("net/A/" + part); }),
        0.5);
    BossTime student(net, eps);
    const at::Tensor z0 = boss.at(prefix + "z0"), z1 = boss.at(prefix + "z1"),
                     t0 = boss.at(prefix + "t0"), t1 = boss.at(prefix + "t1");
    const at::Tensor slope = (z1 - z0) / (t1 - t0).unsqueeze(1);
    const at::Tensor raw = mean_square(student.velocity(z0, t0, {}, context).value, slope);
    // Half the sum over two dimensions is the mean.
    EXPECT_LT(difference(raw, boss.at(prefix + "per_sample")), 1e-11);
    EXPECT_NEAR(raw.mean().item<double>(), boss.item(name).number("loss"), 1e-11);
    raw.mean().backward();
    EXPECT_LT(difference(testing::flat_gradient(net.net()), boss.at(prefix + "grad")), 1e-10);
  }
}

class BossTask : public ::testing::Test {
 protected:
  void SetUp() override {
    save_shaken(teacher_, "{" + kMlp + R"(, "preconditioning": {"type": "flow"},
      "sample_shape": [2], "label_dim": 0})");
  }
  std::string config(const std::string& method, const std::string& more = "") const {
    return "{" + kMlp + R"(, "preconditioning": {"type": "flow"}, "method": {"type":
      "boss_straighten", "teacher": ")" + teacher_.string() + "\", " + method +
           R"(}, "trainer": {"duration": 9e-5}, "transfer": ")" + teacher_.string() + "\"" +
           more + "}";
  }
  std::shared_ptr<Task> task(const std::string& method) const {
    return make(Config::from_text(config(method), "test.json"));
  }
  testing::ScratchFolder folder_;
  std::filesystem::path teacher_ = folder_ / "teacher.safetensors";
};

TEST_F(BossTask, MicroBatchesAddUpAndSegmentsTakeTurns) {
  const auto trained = task(R"("knots": [0, 0.3, 0.6, 0.9, 1], "anchors": 20)");
  EXPECT_EQ(trained->stream(), Stream::none);
  shake(*trained->players()[0].model);
  const Outcome whole = step(*trained, data_of(false, 0), kBatch, 1);
  const Outcome parts = step(*trained, data_of(false, 0), kBatch, 4);
  EXPECT_GT(whole.loss, 0);
  EXPECT_NEAR(whole.loss, parts.loss, 1e-6 * whole.loss);
  for (std::size_t i = 0; i < whole.gradients.size(); ++i)
    EXPECT_LT(difference(parts.gradients[i], whole.gradients[i]), 1e-5) << i;
  for (int k = 1; k <= 4; ++k)
    EXPECT_EQ(whole.counts.at("Segments/loss_" + std::to_string(k)), kBatch / 4) << k;
  EXPECT_THAT(trained->snapshot_info(),
              HasSubstr("\"default_times\": [0, 0.29999999999999999, "));
}

// The student that is the teacher: no loss with one step a segment.
TEST_F(BossTask, TeacherItselfHasNoLossOnItsOwnSteps) {
  const auto trained = task(R"("knots": [0, 0.3, 0.6, 1], "anchors": 1)");
  EXPECT_LT(step(*trained, data_of(false, 0), kBatch, 1).loss, 1e-12);
  const auto bent = task(R"("knots": [0, 0.3, 0.6, 1], "anchors": 30)");
  EXPECT_GT(step(*bent, data_of(false, 0), kBatch, 1).loss, 1e-8);
}

TEST_F(BossTask, StudentStatesInTheLastThird) {
  const auto trained =
      task(R"("knots": [0, 0.3, 0.6, 0.9, 1], "anchors": 10, "student_states": 0.5)");
  shake(*trained->players()[0].model);
  const DatasetInfo data = data_of(false, 0);
  EXPECT_EQ(step(*trained, data, kBatch, 1, 59).sums.at("Segments/student_states"), 0);
  double total = 0;
  for (int64_t seen = 60; seen < 60 + 20 * kBatch; seen += kBatch)
    total += step(*trained, data, kBatch, 1, seen).sums.at("Segments/student_states");
  EXPECT_NEAR(total / (20 * kBatch), 0.5, 0.2);
  EXPECT_EQ(std::fmod(total, 4), 0);  // groups as a whole
}

TEST_F(BossTask, WeightsAndHuber) {
  const std::string knots = R"("knots": [0, 0.2, 1], "anchors": 10)";
  const auto plain = task(knots), weighted = task(knots + R"(, "weight": "h2")"),
             huber = task(knots + R"(, "loss": "huber")");
  for (const auto& one : {plain, weighted, huber}) shake(*one->players()[0].model);
  const DatasetInfo data = data_of(false, 0);
  const Outcome a = step(*plain, data, kBatch, 1), b = step(*weighted, data, kBatch, 1);
  const double first = a.sums.at("Segments/loss_1"), second = a.sums.at("Segments/loss_2");
  EXPECT_NEAR(a.loss, (first + second) / kBatch, 1e-6 * a.loss);
  EXPECT_NEAR(b.loss, (0.16 * first + 2.56 * second) / kBatch, 1e-5 * b.loss);
  const Outcome c = step(*huber, data, kBatch, 1);
  EXPECT_GT(c.loss, 0);
  EXPECT_GT(std::abs(c.loss - a.loss), 1e-6);
}

TEST_F(BossTask, ScheduleFiles) {
  const auto teacher = load_snapshot(teacher_).model;
  samplers::ScheduleFile file;
  file.network = model_checksum(*teacher);
  file.network_file = "teacher.safetensors";
  file.tool = "test";
  file.sample_shape = {2};
  file.grid = "uniform";
  file.anchors = equal_steps(10);
  file.teacher = "euler";
  file.step_solver = "euler";
  file.weight = "none";
  file.seeds = "0";
  file.num = 1;
  file.budgets = {{2, 2, "boss", {0, 0.4, 1}, {}}, {3, 3, "boss", {0, 0.2, 0.7, 1}, {}}};
  const std::string path = (folder_ / "schedules.json").string();
  samplers::write_schedule_file(path, file);
  const std::string named = R"("schedule": ")" + path + '"';
  EXPECT_THAT(task(named)->snapshot_info(), HasSubstr("\"default_steps\": 3"));
  EXPECT_THAT(task(named + R"(, "nfe": 2)")->snapshot_info(),
              HasSubstr("[0, 0.40000000000000002, 1]"));
  EXPECT_THAT(refusal(config(named + R"(, "nfe": 5)")), HasSubstr("2, 3"));
  file.network[0] = file.network[0] == 'a' ? 'b' : 'a';
  samplers::write_schedule_file(path, file);
  EXPECT_THAT(refusal(config(named)), HasSubstr("made for another network"));
  EXPECT_EQ(refusal(config(named + R"(, "force": true)")), "accepted");
}

TEST_F(BossTask, Refusals) {
  EXPECT_THAT(refusal(config(R"("anchors": 10)")), HasSubstr("method.knots"));
  EXPECT_THAT(refusal(config(R"("knots": [0, 0.5])")), HasSubstr("rise from 0"));
  EXPECT_THAT(refusal(config(R"("knots": [0, 1], "guidance": 2)")), HasSubstr("classes"));
  // Groups of two segments cut by micro-batches of one row would draw other paths.
  const auto halves = task(R"("knots": [0, 0.5, 1], "anchors": 4)");
  EXPECT_THROW(step(*halves, data_of(false, 0), kBatch, kBatch), UsageError);
}

}  // namespace
}  // namespace flowmap::distill
