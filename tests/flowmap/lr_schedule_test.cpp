// Learning rates: EDM's ramp, EDM2's and the flow maps' square root, cosine and linear.
#include "flowmap/train/lr_schedule.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <functional>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "tests/support/training_reference.h"

namespace flowmap {
namespace {

using testing::difference;
using testing::MethodReference;
using Rule = LrSchedule::Rule;

at::Tensor rates(const LrSchedule& schedule, const at::Tensor& images, int64_t first = 0) {
  std::vector<double> result;
  for (int64_t i = first; i < images.size(0); ++i)
    result.push_back(schedule.at(images[i].to(at::kLong).item<int64_t>()));
  return at::tensor(result, at::kDouble);
}

// Differences over the largest rate, which is far below 1.
void expect_rates(const LrSchedule& schedule, const at::Tensor& images,
                  const at::Tensor& expected, const std::string& name, int64_t first = 0) {
  const double scale = expected.max().item<double>();
  EXPECT_LT(difference(rates(schedule, images, first) / scale,
                       expected.slice(0, first) / scale),
            1e-12)
      << name;
}

TEST(LearningRateReference, InImages) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference r("training");
  expect_rates({.base = 1e-3, .rampup = 10'000'000}, r.at("lr_edm/nimg"), r.at("lr_edm/lr"),
               "lr_edm");
  for (const std::string& name : r.names("lr_edm2_")) {
    const Config c = r.config(name);
    const int64_t batch = c.integer("batch");
    const auto start = static_cast<int64_t>(c.number("ref_batches")) * batch;
    expect_rates({.rule = start ? Rule::inverse_sqrt : Rule::constant,
                  .base = c.number("ref_lr"),
                  .rampup = c.integer("rampup_Mimg") * 1'000'000,
                  .start = start},
                 r.at(name + "/nimg"), r.at(name + "/lr"), name);
  }
}

// One image a step, so that images are steps.
TEST(LearningRateReference, InSteps) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference r("training");
  const auto check = [&](const std::string& name, const char* values, LrSchedule schedule,
                         int64_t first = 0) {
    expect_rates(schedule, r.at(name + "/step"), r.at(name + "/" + values), name, first);
  };
  check("lr_flow_maps_sqrt", "lr",
        {.rule = Rule::inverse_sqrt, .base = 0.01, .start = 35000});
  check("lr_optax_cosine", "lr", {.rule = Rule::cosine, .base = 0.01, .duration = 100});
  check("lr_slimflow_warmup", "lr", {.base = 2e-4, .rampup = 50});
  check("lr_fastgen_inverse_sqrt", "factor",
        {.rule = Rule::inverse_sqrt, .base = 1, .rampup = 20, .start = 50});
  // Its warm-up starts at 0.01 and not at 0: from step 24 on (row 3).
  check("lr_fastgen_cosine", "factor",
        {.rule = Rule::cosine, .base = 1, .start = 20, .duration = 100,
         .final_fraction = 0.1}, 3);
}

TEST(LearningRate, ByHand) {
  const LrSchedule linear{.rule = Rule::linear, .base = 2, .start = 100, .duration = 300,
                          .final_fraction = 0.5};
  EXPECT_DOUBLE_EQ(linear.at(0), 2);
  EXPECT_DOUBLE_EQ(linear.at(100), 2);
  EXPECT_DOUBLE_EQ(linear.at(200), 1.5);
  EXPECT_DOUBLE_EQ(linear.at(300), 1);
  EXPECT_DOUBLE_EQ(linear.at(999), 1);
  const LrSchedule cosine{.rule = Rule::cosine, .base = 2, .duration = 100};
  EXPECT_DOUBLE_EQ(cosine.at(50), 1);
  EXPECT_NEAR(cosine.at(100), 0, 1e-15);
  const LrSchedule root{.rule = Rule::inverse_sqrt, .base = 2, .start = 10};
  EXPECT_DOUBLE_EQ(root.at(10), 2);
  EXPECT_DOUBLE_EQ(root.at(40), 1);
  const LrSchedule ramp{.base = 2, .rampup = 10};
  EXPECT_EQ(ramp.at(0), 0);
  EXPECT_DOUBLE_EQ(ramp.at(5), 1);
  EXPECT_DOUBLE_EQ(ramp.at(10), 2);
}

TEST(LearningRate, IsReadFromTheTrainer) {
  const Config config = Config::from_text(R"({"lr": 5e-4, "lr_rampup": "10Ki",
    "lr_schedule": "linear", "lr_decay_start": 1000, "lr_final_fraction": 0.1})", "test");
  const LrSchedule schedule = read_lr_schedule(config, 2000);
  EXPECT_EQ(schedule.base, 5e-4);
  EXPECT_EQ(schedule.rampup, 10240);
  EXPECT_EQ(schedule.rule, Rule::linear);
  EXPECT_EQ(schedule.start, 1000);
  EXPECT_EQ(schedule.duration, 2000);
  EXPECT_EQ(schedule.final_fraction, 0.1);
  config.check_all_read();
  // What a rule does not know is an unread key.
  const Config stray = Config::from_text(R"({"lr_decay_start": 5})", "test");
  read_lr_schedule(stray, 10);
  EXPECT_THROW(stray.check_all_read(), UsageError);
  EXPECT_THROW(read_lr_schedule(Config::from_text(R"({"lr_schedule": "step"})", "t"), 1),
               UsageError);
  EXPECT_THROW(read_lr_schedule(Config::from_text(R"({"lr": -1})", "t"), 1), UsageError);
}

}  // namespace
}  // namespace flowmap
