// The step search against the public programs' numbers (reference/methods, group boss).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flowmap/base/file.h"
#include "samplers/boss/anchors.h"
#include "samplers/boss/bellman.h"
#include "samplers/boss/search.h"
#include "samplers/boss/straightness.h"
#include "samplers/boss/student_states.h"
#include "tests/samplers/sampler_reference.h"

namespace flowmap::samplers {
namespace {

using flowmap::testing::AnalyticModel;
using flowmap::testing::difference;
using flowmap::testing::GaussianDenoiser;
using flowmap::testing::method_file;
using flowmap::testing::MethodReference;
using flowmap::testing::MixtureModel;
using flowmap::testing::VelocityOf;
using nlohmann::json;

// The network sees t (1 - eps) + eps, the solver t.
class Remapped : public AnalyticModel {
 public:
  Remapped(std::shared_ptr<AnalyticModel> inner, double eps)
      : AnalyticModel(inner->info()), inner_(std::move(inner)), eps_(eps) {}
  Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override {
    return inner_->velocity(x, ops::add_scalar(ops::scale(t, 1 - eps_), eps_), c, ctx);
  }

 private:
  std::shared_ptr<AnalyticModel> inner_;
  double eps_;
};

std::shared_ptr<AnalyticModel> model_of(const MethodReference& reference,
                                        const std::string& name, double eps) {
  if (name.starts_with("gauss12"))
    return std::make_shared<Remapped>(
        std::make_shared<VelocityOf>(std::make_shared<GaussianDenoiser>(
            std::vector<int64_t>{3, 2, 2}, reference.at("gauss/m"),
            reference.at("gauss/Q"), reference.at("gauss/s"))),
        eps);
  return std::make_shared<Remapped>(
      std::make_shared<MixtureModel>(ModelKind::velocity, std::vector<int64_t>{2, 1, 1},
                                     reference.at("model/w"), reference.at("model/m"),
                                     reference.at("model/c")),
      eps);
}

json boss_json() { return json::parse(read_file(method_file("boss", ".json"))); }

std::vector<json> cases_with(const json& root, const std::string& key) {
  std::vector<json> found;
  for (const json& item : root["cases"])
    if (item.contains("tensors"))
      for (const json& tensor : item["tensors"])
        if (tensor == key) found.push_back(item);
  return found;
}

// Schedules of a table; where two tie, costs alone are compared.
void expect_schedules(const BellmanTable& table, const json& schedules,
                      const std::string& name) {
  for (const json& row : schedules) {
    const auto k = row["K"].get<int64_t>();
    const double want = row["cost"].get<double>();
    EXPECT_NEAR(table.cost(0, k), want, 1e-10 * std::max(want, 1.0)) << name << " " << k;
    if (row.contains("brute_force_cost")) {
      EXPECT_NEAR(table.cost(0, k), row["brute_force_cost"].get<double>(),
                  1e-10 * std::max(want, 1.0));
    }
    if (row["gap"].is_string() || row["gap"].get<double>() >= 1e-9) {
      EXPECT_EQ(table.path(k), row["indices"].get<std::vector<int64_t>>()) << name << k;
    }
  }
}

// V and A of every anchor and number of steps; A where the two best do not tie by rounding.
void expect_table(const BellmanTable& table, const at::Tensor& v, const at::Tensor& a,
                  const std::string& name) {
  ASSERT_EQ(v.size(0), table.anchors()) << name;
  for (int64_t i = 0; i < v.size(0); ++i)
    for (int64_t k = 1; k <= v.size(1); ++k) {
      const double want = v[i][k - 1].item<double>(), got = table.cost(i, k);
      if (std::isinf(want)) {
        EXPECT_TRUE(std::isinf(got)) << name << " V(" << i << "," << k << ")";
        EXPECT_EQ(table.next(i, k), -1);
      } else {
        EXPECT_NEAR(got, want, 1e-10 * std::max(1.0, want)) << name << i << " " << k;
        EXPECT_EQ(table.next(i, k), a[i][k - 1].item<int64_t>()) << name << i << " " << k;
      }
    }
}

TEST(BossReference, CostsOfTrajectories) {
  FM_NEED_METHOD_REFERENCE("boss");
  const MethodReference reference("boss");
  int found = 0;
  const json root = boss_json();
  for (const json& item : cases_with(root, "cost_power1")) {
    const auto name = item["name"].get<std::string>();
    const json& config = item["config"];
    const auto model = model_of(reference, name, config["eps"].get<double>());
    const auto steps = config["anchors"].get<int64_t>();
    const Schedule anchors = anchor_grid(model->info(), "uniform", steps);
    std::vector<int64_t> shape{config["samples"].get<int64_t>()};
    for (const int64_t size : model->info().sample_shape) shape.push_back(size);
    const at::Tensor latents = reference.at(name + "/z").reshape(shape);
    const TeacherPath path = teacher_path(*model, latents, {}, anchors);
    EXPECT_FALSE(path.slopes.defined());
    for (const json& tensor : item["tensors"])
      if (tensor == "x") {
        EXPECT_LT(difference(path.states, reference.at(name + "/x")), 1e-12) << name;
      }
    CostSums sums(anchors.times);
    sums.add_euler_steps(path);
    EXPECT_LT(difference(sums.plain(2), reference.at(name + "/cost")), 1e-12) << name;
    EXPECT_LT(difference(sums.plain(1), reference.at(name + "/cost_power1")), 1e-10);
    for (int64_t i = 0; i < steps; ++i)
      EXPECT_EQ(sums.plain(2)[i][i + 1].item<double>(), 0) << name << " " << i;
    const at::Tensor v = reference.at(name + "/V");
    const BellmanTable table(sums.plain(2), v.size(1));
    expect_table(BellmanTable(reference.at(name + "/cost"), v.size(1)), v,
                 reference.at(name + "/A"), name);
    expect_schedules(table, item["schedules"], name);
    const BellmanTable power1(sums.plain(1), v.size(1));
    expect_schedules(power1, item["power1"], name + " power 1");
    const BellmanTable whole(sums.plain(2), steps);
    EXPECT_EQ(whole.path(steps), item["all_anchors"]["indices"].get<std::vector<int64_t>>());
    // What the schedules do to samples: against the teacher's own end.
    std::vector<SearchBatch> batches{{latents, {}, Draw(0, 0, latents.size(0))}};
    const EndError error(*model, batches, anchors, {});
    const double dims = static_cast<double>(path.states.size(2));
    for (const json& row : item["schedules"]) {
      const double uniform =
          error(schedule_of(anchors, row["rounded_uniform"].get<std::vector<int64_t>>(),
                            "uniform"), StepSolver::euler);
      const double boss =
          error(schedule_of(anchors, row["indices"].get<std::vector<int64_t>>(), "boss"),
                StepSolver::euler);
      EXPECT_NEAR(uniform * std::sqrt(dims), row["rmse_uniform"].get<double>(), 1e-10);
      EXPECT_NEAR(boss * std::sqrt(dims), row["rmse_to_teacher"].get<double>(), 1e-10);
    }
    ++found;
  }
  EXPECT_EQ(found, 6);
}

// The same costs out of states and slopes, as teachers other than Euler's have them.
TEST(BossReference, SlopesGiveTheSameCosts) {
  FM_NEED_METHOD_REFERENCE("boss");
  const MethodReference reference("boss");
  for (const char* name : {"mixture_T40", "mixture_T12", "mixture_T9"}) {
    TeacherPath path;
    const at::Tensor t = reference.at(std::string(name) + "/t").contiguous();
    path.anchors.assign(t.const_data_ptr<double>(), t.const_data_ptr<double>() + t.numel());
    path.states = reference.at(std::string(name) + "/x");
    path.slopes = reference.at(std::string(name) + "/v");
    CostSums sums(path.anchors);
    sums.add_euler_steps(path);
    EXPECT_LT(difference(sums.plain(2), reference.at(std::string(name) + "/cost")), 1e-12);
  }
}

TEST(BossReference, RandomMatricesAndTies) {
  FM_NEED_METHOD_REFERENCE("boss");
  int matrices = 0;
  const MethodReference reference("boss");
  const json root = boss_json();
  for (const json& item : root["cases"]) {
    const auto name = item["name"].get<std::string>();
    if (!name.starts_with("random")) continue;
    const at::Tensor v = reference.at(name + "/V");
    const BellmanTable table(reference.at(name + "/cost"), v.size(1));
    expect_table(table, v, reference.at(name + "/A"), name);
    expect_schedules(table, item["schedules"], name);
    ++matrices;
  }
  EXPECT_EQ(matrices, 3);
}

// One Gaussian of deviation s: paths, their value and the error at the end, for plain costs
// and for sqrt(c) sig_T/sig_j.
TEST(BossReference, GaussianFamily) {
  FM_NEED_METHOD_REFERENCE("boss");
  const json root = boss_json();
  int rows = 0;
  for (const json& row : root["gaussian_family"]) {
    const auto s = row["s"].get<double>();
    const auto steps = row["T"].get<int64_t>(), k = row["K"].get<int64_t>();
    TeacherPath path;
    std::vector<double> states{1}, slopes, deviations;
    const auto rate = [&](double t) {
      return (t * s * s - (1 - t)) / (t * t * s * s + (1 - t) * (1 - t));
    };
    for (int64_t i = 0; i <= steps; ++i) {
      const double t = static_cast<double>(i) / static_cast<double>(steps);
      path.anchors.push_back(t);
      deviations.push_back(std::hypot(t * s, 1 - t));
      const bool exact = row["teacher"] == "exact";
      if (exact) states.resize(static_cast<std::size_t>(i));
      if (exact) states.push_back(deviations.back());
      slopes.push_back(states.back() * rate(t));
      if (!exact && i < steps)
        states.push_back(states.back() + slopes.back() / static_cast<double>(steps));
    }
    slopes.pop_back();
    path.states = at::tensor(states, at::kDouble).reshape({steps + 1, 1, 1});
    if (row["teacher"] == "exact")
      path.slopes = at::tensor(slopes, at::kDouble).reshape({steps, 1, 1});
    CostSums sums(path.anchors);
    sums.add_euler_steps(path);
    at::Tensor cost = sums.plain(2);
    if (row["cost"] == "weighted")
      cost = sums.plain(1) * deviations.back() / at::tensor(deviations, at::kDouble);
    const BellmanTable table(cost, k);
    EXPECT_NEAR(table.cost(0, k), row["value"].get<double>(), 1e-9) << row.dump();
    if (row["gap"].is_string() || row["gap"].get<double>() > 1e-9) {
      EXPECT_EQ(table.path(k), row["indices"].get<std::vector<int64_t>>()) << row.dump();
    }
    double factor = 1;
    const auto knots = row["indices"].get<std::vector<std::size_t>>();
    for (std::size_t n = 0; n + 1 < knots.size(); ++n)
      factor *= 1 + (path.anchors[knots[n + 1]] - path.anchors[knots[n]]) *
                        rate(path.anchors[knots[n]]);
    EXPECT_NEAR(std::abs(factor - s), row["end_error"].get<double>(), 1e-12);
    EXPECT_NEAR(states.back(), row["end_factor"].get<double>(), 1e-12);
    ++rows;
  }
  EXPECT_EQ(rows, 192);
}

TEST(BossReference, StudentStates) {
  FM_NEED_METHOD_REFERENCE("boss");
  const MethodReference reference("boss");
  const json root = boss_json();
  json item;
  for (const json& one : root["cases"])
    if (one["name"] == "oss") item = one;
  // The stored teacher says which of the two network times the case has.
  const Schedule anchors =
      anchor_grid(model_of(reference, "oss", 0)->info(), "uniform", 20);
  const at::Tensor z = reference.at("oss/z").reshape({8, 2, 1, 1});
  const at::Tensor wanted = reference.at("oss/teacher");
  bool matched = false;
  for (const double eps : {0.0, 1e-3}) {
    const auto model = model_of(reference, "oss", eps);
    const TeacherPath path = teacher_path(*model, z, {}, anchors);
    if (difference(path.states, wanted) > 1e-10) continue;
    matched = true;
    const StudentSchedules found =
        student_state_search(*model, {}, anchors, path, {2, 1, 1}, 5, false);
    for (const json& row : item["results"]) {
      const auto k = row["K"].get<int64_t>();
      const auto& got = found.anchors[static_cast<std::size_t>(k - 1)];
      EXPECT_EQ(got, row["per_sample"].get<std::vector<std::vector<int64_t>>>()) << k;
      const at::Tensor mse = at::tensor(row["mse"].get<std::vector<double>>(), at::kDouble);
      EXPECT_LT(difference(found.error[k - 1], mse), 1e-11) << k;
      const auto middle = row["median"].get<std::vector<double>>();
      for (std::size_t i = 0; i < middle.size(); ++i)
        EXPECT_NEAR(static_cast<double>(found.median(k)[i]), middle[i], 0.5);
    }
    // One sample's own schedule is the schedule of a batch of one.
    TeacherPath one = path;
    one.states = path.states.narrow(1, 3, 1);
    const StudentSchedules alone =
        student_state_search(*model, {}, anchors, one, {2, 1, 1}, 5, true);
    EXPECT_EQ(alone.anchors[4][0], found.anchors[4][3]);
  }
  EXPECT_TRUE(matched);
  EXPECT_EQ(item["results"].size(), 5u);
}

TEST(BossReference, Gits) {
  FM_NEED_METHOD_REFERENCE("boss");
  const MethodReference reference("boss");
  int schedules = 0;
  const json root = boss_json();
  for (const json& item : root["cases"]) {
    const auto name = item["name"].get<std::string>();
    if (!name.starts_with("gits")) continue;
    if (name.ends_with("_dev")) {
      TeacherPath path;
      const at::Tensor t = reference.at(name + "/t_steps").contiguous();
      path.anchors.assign(t.const_data_ptr<double>(),
                          t.const_data_ptr<double>() + t.numel());
      path.states = reference.at(name + "/trajectory").flatten(2);
      path.slopes = reference.at(name + "/d").flatten(2);
      EXPECT_LT(difference(chord_deviation_costs(path), reference.at(name + "/cost")), 1e-11)
          << name;
    }
    for (const json& row : item["schedules"]) {
      const auto steps = row["num_steps"].get<int64_t>() - 1;
      const BellmanTable table(reference.at(name + "/cost"), steps,
                               row["coeff"].get<double>());
      EXPECT_EQ(table.path(steps), row["indices"].get<std::vector<int64_t>>()) << name;
      ++schedules;
    }
  }
  EXPECT_EQ(schedules, 60);
}

TEST(BossReference, StraightnessOfReflow) {
  FM_NEED_METHOD_REFERENCE("reflow");
  const MethodReference reference("reflow");
  const Config item = reference.item("straightness");
  const at::Tensor z = reference.at("straightness/noise");
  // Which mixture and network time it was made with, its end states tell.
  const MethodReference boss("boss");
  bool matched = false;
  for (const double eps : {0.0, 1e-3}) {
    const auto model = model_of(boss, "mixture", eps);
    const at::Tensor latents = z.reshape({z.size(0), 2, 1, 1});
    const TeacherPath path =
        teacher_path(*model, latents, {}, anchor_grid(model->info(), "uniform", 100));
    if (difference(path.states[100], reference.at("straightness/data").flatten(1)) > 1e-9)
      continue;
    matched = true;
    StraightnessSums sums(model->info());
    sums.add(path);
    EXPECT_NEAR(sums.result().squared, item.number("squared"), 1e-11);
    EXPECT_NEAR(sums.result().norm, item.number("unsquared_norm"), 1e-11);
    EXPECT_NEAR(sums.result().per_pixel, item.number("per_pixel"), 1e-11);
  }
  EXPECT_TRUE(matched);
}

}  // namespace
}  // namespace flowmap::samplers
