// What every training method promises the loop, over the whole registry; and the
// settings that each refuses.
#include "distill/method.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/tensor_io.h"
#include "flowmap/train/snapshot.h"
#include "tests/distill/method_steps.h"
#include "tests/support/scratch.h"

namespace flowmap::distill {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

struct Example {
  const char* method;  // in the registry
  const char* name;
  std::string config;
  bool images = false;
  int64_t classes = 0;
  const char* teacher = "";  // preconditioning of what stands for @TEACHER@
};

std::vector<Example> examples() {
  const std::string flow = R"(, "preconditioning": {"type": "flow", "base_std": 0.6})";
  const std::string map = R"(, "preconditioning": {"type": "flow", "two_times": true})";
  return {
      {"flow_matching", "Points", "{" + kMlp + flow +
       R"(, "method": {"type": "flow_matching", "times": {"type": "logit_normal"}}})"},
      {"flow_matching", "Classes", "{" + kMlp + flow +
       R"(, "method": {"type": "flow_matching", "label_dropout": 0.4}})", false, 3},
      {"edm", "Points", "{" + kMlp +
       R"(, "preconditioning": {"type": "edm"}, "method": {"type": "edm"}})"},
      {"edm", "VariancePreserving", "{" + kMlp +
       R"(, "preconditioning": {"type": "vp"}, "method": {"type": "edm"}})", false, 3},
      {"edm", "VarianceExploding", "{" + kMlp +
       R"(, "preconditioning": {"type": "ve"}, "method": {"type": "edm"}})"},
      {"edm2", "Images", R"({"network": {"type": "edm2", "model_channels": 4,
       "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [],
       "channels_per_head": 4, "dropout": 0.3}, "preconditioning": {"type": "edm2",
       "logvar_channels": 8}, "method": {"type": "edm2"}})", true, 3},
      {"lsd", "Points", "{" + kMlp + map + R"(, "method": {"type": "lsd"}})"},
      {"lsd", "LearnedWeight", "{" + kMlp + R"(, "preconditioning": {"type": "flow",
       "two_times": true, "log_weight": true}, "method": {"type": "lsd", "eta": 0.5,
       "pairs": {"zero_probability": 0.3}}})", false, 3},
      {"lsd", "Adaptive", "{" + kMlp + map + R"(, "method": {"type": "lsd", "eta": 0.6,
       "weight": "adaptive", "stop_gradient": "none", "off_diagonal_weight": 2}})"},
      {"lsd", "Images", "{" + kUnet + map + R"(, "method": {"type": "lsd",
       "stop_gradient": "detached"}})", true},
      {"lsd", "Cauchy", "{" + kMlp + R"(, "preconditioning": {"type": "flow",
       "two_times": true, "log_weight": true, "interpolant": "trig"}, "method": {"type":
       "lsd", "weight": "cauchy", "times": {"type": "lognormal", "P_mean": -0.5,
       "P_std": 1.1}, "pairs": {"type": "logit_normal", "mean": 0.2, "std": 1.5}}})"},
      {"lsd", "Annealed", "{" + kMlp + map + R"(, "method": {"type": "lsd",
       "anneal": 0.1, "eta": 0.5, "pairs": {"type": "gap", "power": 2}}})"},
      {"lsd", "DiagonalOnly", "{" + kMlp + map + R"(, "method": {"type": "lsd",
       "diagonal_only": 1, "diagonal_gap": 0.01}})"},
      {"lsd", "GuidanceInput", "{" + kMlp + R"(, "preconditioning": {"type": "flow",
       "two_times": true, "guidance_input": true}, "method": {"type": "lsd",
       "guidance_max": 4, "label_dropout": 0.2}})", false, 3},
      {"lsd", "Guided", "{" + kMlp + map + R"(, "method": {"type": "lsd",
       "teacher": "@TEACHER@", "guidance": 2.5}})", false, 3, R"({"type": "flow"})"},
      {"esd", "Points", "{" + kMlp + map + R"(, "method": {"type": "esd"}})"},
      {"esd", "Images", "{" + kUnet + map + R"(, "method": {"type": "esd",
       "stop_gradient": "none"}})", true},
      {"esd", "Frozen", "{" + kMlp + map + R"(, "method": {"type": "esd",
       "teacher": "@TEACHER@", "stop_gradient": "convex"}})", false, 0,
       R"({"type": "flow"})"},
      {"psd", "Midpoint", "{" + kMlp + map + R"(, "method": {"type": "psd"}})"},
      {"psd", "Uniform", "{" + kMlp + map + R"(, "method": {"type": "psd",
       "split": "uniform", "preconditioned": false, "stop_gradient": "none",
       "reduction": "means", "target_clip": 3}})"},
      {"psd", "Average", "{" + kMlp + map + R"(, "method": {"type": "psd",
       "target": "ema", "target_profile": 0, "pairs": {"type": "dyadic", "grid": 16}}})"},
      {"psd", "Rounds", "{" + kMlp + map + R"(, "method": {"type": "psd", "rounds": 4,
       "teacher": "@TEACHER@", "diagonal_target": "data"}, "trainer": {"duration": 1}})",
       false, 0, R"({"type": "flow"})"},
      {"meanflow", "Points", "{" + kMlp + map + R"(, "method": {"type": "meanflow",
       "pairs": {"type": "lognormal", "P_mean": -0.4, "P_std": 1, "P_mean_t": -3,
       "P_std_t": 1.2, "zero_probability": 0.2}}})"},
      {"meanflow", "Mixed", "{" + kMlp + map + R"(, "method": {"type": "meanflow",
       "omega": 2, "kappa": 0.25, "label_dropout": 0.3, "guidance_low": 0.1,
       "guidance_high": 0.9}})", false, 3},
      {"meanflow", "Normalized", "{" + kMlp + map + R"(, "method": {"type": "meanflow",
       "velocity": "teacher", "tangent_velocity": "sample", "tangent": {"normalize": true,
       "c": 0.2, "p": 0.5, "dimension_invariant": false, "warmup": 0.001,
       "max_gap": 0.9}, "weight": "none"}})"},
      {"improved_meanflow", "Points", "{" + kMlp + map +
       R"(, "method": {"type": "improved_meanflow", "adaptive_p": 0.5}})"},
      {"alpha_flow", "Schedule", "{" + kMlp + map + R"(, "method": {"type": "alpha_flow",
       "alpha_temperature": 20, "alpha_snap": 0.01}, "trainer": {"duration": 0.0001}})"},
      {"alpha_flow", "Fixed", "{" + kMlp + map + R"(, "method": {"type": "alpha_flow",
       "alpha": 0.3}})"},
      {"consistency", "Training", "{" + kMlp + map +
       R"(, "method": {"type": "consistency"}})"},
      {"consistency", "Distillation", "{" + kMlp + map +
       R"(, "method": {"type": "consistency", "teacher": "@TEACHER@"}})", false, 0,
       R"({"type": "flow"})"},
      {"ayf_emd", "Points", "{" + kMlp + map + R"(, "method": {"type": "ayf_emd",
       "teacher": "@TEACHER@", "tangent": {"normalize": true}}})", false, 0,
       R"({"type": "flow"})"},
      {"ayf_lmd", "Points", "{" + kMlp + map + R"(, "method": {"type": "ayf_lmd",
       "teacher": "@TEACHER@"}})", false, 0, R"({"type": "flow"})"},
      {"tvm", "Points", "{" + kMlp + map + R"(, "method": {"type": "tvm"}})"},
      {"shortcut", "Points", "{" + kMlp + map + R"(, "method": {"type": "shortcut"}})"},
      {"chord", "Points", "{" + kMlp + map + R"(, "method": {"type": "chord",
       "teacher": "@TEACHER@", "chord_steps": 2}})", false, 0, R"({"type": "flow"})"},
      {"fmm", "Points", "{" + kMlp + map + R"(, "method": {"type": "fmm"}})"},
      {"fmm", "OneSided", "{" + kMlp + map + R"(, "method": {"type": "fmm",
       "round_trip": false}})"},
      {"reflow", "Points", "{" + kMlp + flow + R"(, "method": {"type": "reflow",
       "times": {"type": "u_shape", "a": 4, "low": 1e-5, "high": 0.99999},
       "loss": "huber", "huber_c": 0.001, "probe": {"every": 0.016, "steps": 4}}})"},
      {"reflow", "Images", "{" + kUnet + flow + R"(, "method": {"type": "reflow",
       "times": {"type": "knots", "count": 4}, "probe": {"rows": 3, "steps": 2}}})", true},
      {"annealing_reflow", "Points", "{" + kMlp + flow + R"(, "method": {"type":
       "annealing_reflow", "warmup": 0.1, "label_dropout": 0.3}})", false, 3},
      {"annealing_reflow", "Constant", "{" + kMlp + flow + R"(, "method": {"type":
       "annealing_reflow", "randomness": "constant", "beta": 0.4}})"},
      {"one_step_distillation", "Points", "{" + kMlp + flow + R"(, "method": {"type":
       "one_step_distillation", "loss": "huber", "eps": 1e-3, "leak": false}})"},
      {"flow_guided_distillation", "Points", "{" + kMlp + R"(, "preconditioning": {"type":
       "flow"}, "method": {"type": "flow_guided_distillation", "teacher": "@TEACHER@"}})",
       false, 3, R"({"type": "flow"})"},
      {"flow_guided_distillation", "GuideFirst", "{" + kMlp + R"(, "preconditioning":
       {"type": "flow"}, "method": {"type": "flow_guided_distillation", "teacher":
       "@TEACHER@", "first_step": "guide", "guide_times": {"low": 0.1, "high": 0.9},
       "direct_weight": 0.5, "guide_weight": 2, "eps": 1e-3}})", false, 0,
       R"({"type": "flow"})"},
      {"progressive_distillation", "Points", "{" + kMlp + R"(, "preconditioning": {"type":
       "flow"}, "method": {"type": "progressive_distillation", "teacher": "@TEACHER@",
       "start_steps": 8, "end_steps": 2, "weight": "truncated_snr"}, "trainer":
       {"duration": 1}})", false, 0, R"({"type": "flow"})"},
      {"boss_straighten", "Points", "{" + kMlp + R"(, "preconditioning": {"type": "flow"},
       "method": {"type": "boss_straighten", "teacher": "@TEACHER@", "anchors": 8,
       "knots": [0, 1], "weight": "h2"}})", false, 3, R"({"type": "flow"})"},
      {"classifier", "Images", R"({"network": {"type": "classifier_cnn",
       "channels": [4, 4, 4, 4], "squeeze": 4, "features": 6, "dropout": 0.2},
       "preconditioning": {"type": "classifier"},
       "method": {"type": "classifier", "label_smoothing": 0.1}})", true, 3},
  };
}

// The configuration of an example, its teacher written to a file.
Config config_of(const Example& example) {
  static const testing::ScratchFolder folder;
  std::string text = example.config;
  const auto place = text.find("@TEACHER@");
  if (place != std::string::npos) {
    const auto file =
        folder / (std::string(example.method) + example.name + ".safetensors");
    if (!std::filesystem::exists(file))
      save_shaken(file, "{" + kMlp + ", \"preconditioning\": " + example.teacher +
                            ", \"sample_shape\": [2], \"label_dim\": " +
                            std::to_string(example.classes) + "}");
    text.replace(place, 9, file.string());
  }
  return Config::from_text(text, "test");
}

std::shared_ptr<Task> task_of(const Example& example) {
  auto task = make(config_of(example), example.images, example.classes);
  shake(*task->players()[0].model);
  return task;
}

class EveryMethod : public ::testing::TestWithParam<Example> {
 protected:
  DatasetInfo data_ = data_of(GetParam().images, GetParam().classes);
};

INSTANTIATE_TEST_SUITE_P(Registry, EveryMethod, ::testing::ValuesIn(examples()),
                         [](const auto& test) {
                           return std::string(test.param.method) + "_" + test.param.name;
                         });

TEST(MethodRegistry, EveryEntryHasAnExample) {
  std::set<std::string> seen;
  for (const Example& example : examples()) seen.insert(example.method);
  for (const MethodEntry& entry : method_registry())
    EXPECT_TRUE(seen.contains(entry.name)) << entry.name << " lacks an example above";
}

TEST_P(EveryMethod, ReadsAllItsOptionsAndNamesItself) {
  const Config config = config_of(GetParam());
  const auto task = make(config, GetParam().images, GetParam().classes);
  config.check_all_read();
  EXPECT_THAT(task->snapshot_info(), HasSubstr(GetParam().method));
  ASSERT_FALSE(task->players().empty());
  EXPECT_EQ(task->players()[0].name, "model");
  EXPECT_TRUE(task->players()[0].trained);
  // The specification that goes into snapshots makes the same network by itself.
  const auto again = make_model(Config::from_text(task->players()[0].spec_json, "s"), 0);
  EXPECT_EQ(parameter_count(*again), parameter_count(*task->players()[0].model));
}

// Micro-batches and ranks must give what one batch gives.
TEST_P(EveryMethod, IsIndependentOfMicroBatches) {
  const auto task = task_of(GetParam());
  const Outcome whole = step(*task, data_, kBatch, 1);
  ASSERT_TRUE(std::isfinite(whole.loss));
  for (const int64_t parts : {2, 4, 16}) {
    const Outcome split = step(*task, data_, kBatch, parts);
    EXPECT_NEAR(split.loss, whole.loss, 1e-5 * std::abs(whole.loss)) << parts;
    EXPECT_EQ(split.counts, whole.counts) << parts;
    for (std::size_t i = 0; i < whole.gradients.size(); ++i) {
      const double scale = whole.gradients[i].abs().max().item<double>();
      EXPECT_LT((split.gradients[i] - whole.gradients[i]).abs().max().item<double>(),
                1e-4 * scale + 1e-7)
          << parts << " parts, parameter " << i;
    }
  }
}

TEST_P(EveryMethod, IsDeterministic) {
  const Outcome once = step(*task_of(GetParam()), data_, kBatch, 2, 64);
  const Outcome again = step(*task_of(GetParam()), data_, kBatch, 2, 64);
  EXPECT_EQ(once.loss, again.loss);
  for (std::size_t i = 0; i < once.gradients.size(); ++i)
    EXPECT_TRUE(at::equal(once.gradients[i], again.gradients[i])) << i;
  // Another place in the run draws other numbers.
  EXPECT_NE(once.loss, step(*task_of(GetParam()), data_, kBatch, 2, 80).loss);
}

TEST_P(EveryMethod, ReachesEveryParameter) {
  const auto task = task_of(GetParam());
  const Outcome outcome = step(*task, data_, kBatch, 1);
  std::size_t i = 0;
  for (const auto& item : task->players()[0].model->named_parameters())
    EXPECT_GT(outcome.gradients[i++].abs().max().item<double>(), 0) << item.key();
  EXPECT_EQ(outcome.counts.at("Loss/loss"), kBatch);
}

std::string lsd_config(const std::string& method) {
  return "{" + kMlp + R"(, "preconditioning": {"type": "flow", "two_times": true},
    "method": {"type": "lsd", )" + method + "}}";
}

// 1 - eta of the samples are off-diagonal, exactly, over a step or over the run.
TEST(Lsd, OffDiagonalShareIsExact) {
  const DatasetInfo data = data_of(false, 0);
  for (const double eta : {0.75, 0.5, 0.9375, 0.0, 1.0}) {
    const Config config = Config::from_text(
        lsd_config("\"eta\": " + std::to_string(eta)), "test");
    const auto task = make(config);
    task->players()[0].model->train();
    auto counts = step(*task, data, 64, 4).counts;
    EXPECT_EQ(counts["Loss/off_diagonal"], std::llround(64 * (1 - eta))) << eta;
    EXPECT_EQ(counts["Loss/diagonal"], std::llround(64 * eta)) << eta;
    int64_t singly = 0;
    for (int64_t seen = 0; seen < 32; ++seen) {
      auto one = step(*task, data, 1, 1, seen).counts;
      singly += one["Loss/off_diagonal"];
    }
    EXPECT_EQ(singly, std::llround(32 * (1 - eta))) << eta;
  }
}

// The objective is the mean of the weighted raw losses over the whole batch.
TEST(Lsd, ObjectiveIsTheMeanOverTheBatch) {
  const DatasetInfo data = data_of(false, 0);
  const auto plain = make(Config::from_text(lsd_config(R"("eta": 0.75)"), "test"));
  const auto heavy = make(Config::from_text(
      lsd_config(R"("eta": 0.75, "off_diagonal_weight": 3)"), "test"));
  const Outcome one = step(*plain, data, kBatch, 1), three = step(*heavy, data, kBatch, 1);
  const double on = one.sums.at("Loss/diagonal"), off = one.sums.at("Loss/off_diagonal");
  EXPECT_NEAR(one.loss, (on + off) / kBatch, 1e-6 * one.loss);
  EXPECT_NEAR(three.loss, (on + 3 * off) / kBatch, 1e-6 * three.loss);
}

// Student and teacher of the residual are one function: no dropout there.
TEST(Lsd, DropoutIsOnOnTheDiagonalAlone) {
  const auto loss = [](const char* eta, const char* dropout) {
    std::string network = kUnet;
    network.replace(network.find("0.3"), 3, dropout);
    const Example example{"lsd", "", "{" + network + R"(, "preconditioning": {"type":
      "flow", "two_times": true}, "method": {"type": "lsd", "eta": )" + eta + "}}", true};
    return step(*task_of(example), data_of(true, 0), 8, 1).loss;
  };
  EXPECT_EQ(loss("0", "0.5"), loss("0", "0"));
  EXPECT_NE(loss("1", "0.5"), loss("1", "0"));
}

TEST(FlowMatching, LabelDropoutHidesLabels) {
  const DatasetInfo data = data_of(false, 3);
  const auto config = [](const char* dropout) {
    return "{" + kMlp + R"(, "preconditioning": {"type": "flow"},
      "method": {"type": "flow_matching", "label_dropout": )" + dropout + "}}";
  };
  const auto hidden = make(Config::from_text(config("1"), "test"), false, 3);
  const auto shown = make(Config::from_text(config("0"), "test"), false, 3);
  EXPECT_NE(step(*hidden, data, 8, 1).loss, step(*shown, data, 8, 1).loss);
  // Without the weights of the labels nothing is left to hide.
  for (const auto& task : {hidden, shown}) {
    const at::NoGradGuard no_grad;
    task->players()[0].model->named_parameters()["model.layer0.weight"].slice(1, 3)
        .zero_();
  }
  EXPECT_EQ(step(*hidden, data, 8, 1).loss, step(*shown, data, 8, 1).loss);
}

class LsdTeacher : public ::testing::Test {
 protected:
  std::string teacher(const std::string& spec) const {
    const auto path = folder_ / "teacher.safetensors";
    save_shaken(path, spec);
    return path.string();
  }
  static std::string spec(const char* preconditioning, const char* shape = "[2]",
                          const char* classes = "0") {
    return "{" + kMlp + ", \"preconditioning\": " + preconditioning +
           ", \"sample_shape\": " + shape + ", \"label_dim\": " + classes + "}";
  }
  testing::ScratchFolder folder_;
};

TEST_F(LsdTeacher, IsFrozenAndSetsTheTarget) {
  const std::string path = teacher(spec(R"({"type": "flow"})"));
  const DatasetInfo data = data_of(false, 0);
  const std::string option = "\"teacher\": \"" + path + "\"";
  const auto task = make(Config::from_text(lsd_config(option), "test"));
  ASSERT_EQ(task->players().size(), 2u);
  EXPECT_FALSE(task->players()[1].trained);
  const Outcome whole = step(*task, data, kBatch, 1), split = step(*task, data, kBatch, 4);
  EXPECT_NEAR(split.loss, whole.loss, 1e-5 * whole.loss);
  for (const at::Tensor& p : task->players()[1].model->parameters())
    EXPECT_FALSE(p.grad().defined());
  // On the diagonal the teacher's velocity takes the place of the data's.
  const auto of_data = make(Config::from_text(
      lsd_config(option + R"(, "diagonal_target": "data")"), "test"));
  const auto alone = make(Config::from_text(lsd_config(R"("eta": 0.75)"), "test"));
  const Outcome data_target = step(*of_data, data, kBatch, 1),
                self = step(*alone, data, kBatch, 1);
  EXPECT_NE(whole.sums.at("Loss/diagonal"), self.sums.at("Loss/diagonal"));
  EXPECT_EQ(data_target.sums.at("Loss/diagonal"), self.sums.at("Loss/diagonal"));
  EXPECT_NE(data_target.sums.at("Loss/off_diagonal"), self.sums.at("Loss/off_diagonal"));
}

// A student that is the teacher has nothing to learn on the diagonal.
TEST_F(LsdTeacher, DiagonalLossVanishesForItsOwnWeights) {
  const std::string path = teacher(spec(R"({"type": "flow", "two_times": true})"));
  const auto task = make(Config::from_text(
      "{\"transfer\": \"" + path + "\", " +
      lsd_config("\"teacher\": \"" + path + "\"").substr(1), "test"));
  EXPECT_LT(step(*task, data_of(false, 0), kBatch, 1).sums.at("Loss/diagonal"), 1e-10);
}

TEST_F(LsdTeacher, ThatDoesNotFitIsRefused) {
  const auto with = [&](const std::string& s, int64_t classes = 0) {
    return refusal(lsd_config("\"teacher\": \"" + teacher(s) + "\""), false, classes);
  };
  EXPECT_EQ(with(spec(R"({"type": "flow"})")), "accepted");
  EXPECT_THAT(with(spec(R"({"type": "flow"})", "[3]")), HasSubstr("another shape"));
  EXPECT_THAT(with(spec(R"({"type": "flow", "base_std": 0.5})")),
              HasSubstr("preconditioning.base_std"));
  EXPECT_THAT(with(spec(R"({"type": "flow"})", "[2]", "4"), 3), HasSubstr("4 classes"));
  EXPECT_THAT(with(spec(R"({"type": "flow", "interpolant": "trig"})")),
              HasSubstr("preconditioning.interpolant"));
  EXPECT_EQ(with(spec(R"({"type": "flow"})", "[2]", "0"), 3), "accepted");
}

// Weights of SiT under its own names, in a file that says nothing else: neither the
// network nor its heads.
class BareTransformer : public LsdTeacher {
 protected:
  // Labels are as good as never dropped.
  static constexpr const char* kNetwork = R"("network": {"type": "sit", "hidden_size": 16,
    "depth": 1, "num_heads": 2, "patch_size": 2, "learn_sigma": false,
    "class_dropout_prob": 1e-9})";

  std::string file() const {
    const auto model = make_model(
        Config::from_text("{" + std::string(kNetwork) + R"(, "preconditioning": {"type":
          "flow"}, "sample_shape": [1, 8, 8], "label_dim": 2})", "spec"), 3);
    shake(*model);
    std::map<std::string, at::Tensor> tensors;
    for (const auto& item : model->named_parameters())
      tensors[item.key().substr(6)] = item.value();
    for (const auto& item : model->named_buffers())
      tensors[item.key().substr(6)] = item.value();
    const auto path = folder_ / "sit.safetensors";
    save_tensors(path, tensors, {});
    return path.string();
  }
  static std::string student(const std::string& method, const std::string& more = "") {
    return "{" + std::string(kNetwork) + R"(, "preconditioning": {"type": "flow",
      "two_times": true}, "method": {"type": "lsd")" + method + "}" + more + "}";
  }
};

constexpr const char* kHints = R"({"arch": "sit", "options": {"network": {"num_heads": 2}}})";

TEST_F(BareTransformer, IsReadAsTheOptionsSay) {
  const std::string name = "\"" + file() + "\"", hints = kHints;
  const Config config = Config::from_text(
      student(", \"teacher\": " + name + ", \"teacher_options\": " + hints,
              ", \"transfer\": " + name + ", \"transfer_options\": " + hints), "test.json");
  const auto task = make(config, true, 2);
  config.check_all_read();
  ASSERT_EQ(task->players().size(), 2u);
  EXPECT_THAT(task->players()[1].spec_json, HasSubstr("\"num_heads\":2"));
  // The student starts as its teacher: v_{s,s} is the velocity.
  EXPECT_LT(step(*task, data_of(true, 2), kBatch, 1).sums.at("Loss/diagonal"), 1e-10);
}

TEST_F(BareTransformer, ErrorsNameTheKeysOfTheConfiguration) {
  const std::string name = "\"" + file() + "\"";
  const auto teacher = [&](const std::string& more) {
    return refusal(student(", \"teacher\": " + name + more), true, 2);
  };
  const auto transfer = [&](const std::string& more) {
    return refusal(student("", ", \"transfer\": " + name + more), true, 2);
  };
  EXPECT_THAT(teacher(""), AllOf(HasSubstr("method.teacher_options.arch=sit"),
                                 Not(HasSubstr("--arch"))));
  EXPECT_THAT(teacher(R"(, "teacher_options": {"arch": "sit"})"),
              AllOf(HasSubstr("test.json:"),
                    HasSubstr("method.teacher_options.options.network.num_heads=N")));
  EXPECT_THAT(teacher(R"(, "teacher_options": {"arch": "sit", "key": "emma"})"),
              HasSubstr("method.teacher_options: "));
  EXPECT_THAT(teacher(R"(, "teacher_options": {"options": 3})"),
              HasSubstr("method.teacher_options.options"));
  EXPECT_THAT(transfer(""), HasSubstr("transfer_options.arch=sit"));
  EXPECT_THAT(transfer(R"(, "transfer_options": {"arch": "sit"})"),
              HasSubstr("transfer_options.options.network.num_heads=N"));
  EXPECT_THAT(transfer(R"(, "transfer_options": {"arch": "sit", "options":
                {"network": {"num_heads": 3}}})"), HasSubstr("transfer_options: "));
  // Hints that lead to other tensors than the file's.
  try {
    teacher(R"(, "teacher_options": {"arch": "sit", "options":
      {"network": {"num_heads": 2, "depth": 2}}})");
    ADD_FAILURE() << "accepted";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("read as method.teacher_options, test.json:"));
  }
  // Options of nothing.
  EXPECT_THAT(refusal(student(R"(, "teacher_options": {"arch": "sit"})"), true, 2),
              HasSubstr("no method.teacher"));
  EXPECT_THAT(refusal(student("", R"(, "transfer_options": {"arch": "sit"})"), true, 2),
              HasSubstr("no transfer"));
}

class Transfer : public LsdTeacher {
 protected:
  // stdout and stderr of a student that starts from `file`, or what it says in refusing.
  struct Said {
    std::string out, err, refusal;
  };
  static Said start(const std::string& file, const std::string& parts) {
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    Said said;
    said.refusal = refusal("{\"transfer\": \"" + file + "\", " + parts +
                           R"(, "method": {"type": "lsd"}})");
    said.out = ::testing::internal::GetCapturedStdout();
    said.err = ::testing::internal::GetCapturedStderr();
    return said;
  }
};

TEST_F(Transfer, SaysHowMuchItCopied) {
  const std::string path = teacher(spec(R"({"type": "flow", "two_times": true})"));
  const Said same = start(path, kMlp + kTwoTimes);
  EXPECT_EQ(same.refusal, "accepted");
  EXPECT_EQ(same.out, "transfer: 6 of 6 tensors of " + path + " copied (of the model's 6)\n");
  EXPECT_EQ(same.err, "");
  // A deeper student: its last layers are new.
  const Said deeper = start(path, R"("network": {"type": "mlp", "width": 12, "depth": 3})" +
                                      kTwoTimes);
  EXPECT_EQ(deeper.refusal, "accepted");
  EXPECT_THAT(deeper.out, HasSubstr("transfer: 4 of 6 tensors of "));
  EXPECT_THAT(deeper.out, HasSubstr("(of the model's 8)"));
}

TEST_F(Transfer, OfLessThanHalfIsRefused) {
  const std::string path = teacher(spec(R"({"type": "flow", "two_times": true})"));
  const Said wider = start(path, R"("network": {"type": "mlp", "width": 16, "depth": 2})" +
                                     kTwoTimes);
  EXPECT_THAT(wider.refusal, AllOf(HasSubstr("fewer than half"), HasSubstr("\"mlp\""),
                                   HasSubstr("network.width is 12 there, 16 here")));
  EXPECT_EQ(wider.out, "");
  // Another network altogether.
  const std::string unet = "{\"transfer\": \"" + path + "\", " + kUnet + kTwoTimes +
                           R"(, "method": {"type": "lsd"}})";
  EXPECT_THAT(refusal(unet, true),
              AllOf(HasSubstr("\"mlp\""), HasSubstr("\"ddpmpp\""),
                    HasSubstr("sample_shape is [2] there, [1,8,8] here")));
}

TEST_F(Transfer, WarnsOfAnotherPreconditioning) {
  const Said kind = start(teacher(spec(R"({"type": "edm"})")), kMlp + kTwoTimes);
  EXPECT_EQ(kind.refusal, "accepted");
  EXPECT_THAT(kind.err,
              AllOf(HasSubstr("preconditioning.type is \"edm\" there, \"flow\" here"),
                    HasSubstr("velocity on the diagonal")));
  const Said scale = start(teacher(spec(R"({"type": "flow", "time_scale": 999})")),
                           kMlp + kTwoTimes);
  EXPECT_THAT(scale.err, HasSubstr("preconditioning.time_scale is 999 there, 1 here"));
  const Said none = start(teacher(spec(R"({"type": "flow"})")), kMlp + kTwoTimes);
  EXPECT_EQ(none.refusal, "accepted");
  EXPECT_EQ(none.err, "");
}

// A second time adds tensors and takes none away.
TEST_F(Transfer, OneTimeNetworksStartStudentsOfTwo) {
  const std::string unet = R"("network": {"type": "ddpmpp", "model_channels": 8,
    "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "dropout": 0})";
  const std::string path = teacher("{" + unet + R"(, "preconditioning": {"type": "flow"},
    "sample_shape": [1, 8, 8], "label_dim": 0})");
  const auto task = make(
      Config::from_text("{\"transfer\": \"" + path + "\", " + unet + kTwoTimes +
                        R"(, "method": {"type": "lsd", "teacher": ")" + path + "\"}}",
                        "test.json"), true);
  EXPECT_LT(step(*task, data_of(true, 0), kBatch, 1).sums.at("Loss/diagonal"), 1e-10);
}

TEST(MethodSettings, WrongOnesAreRefused) {
  const auto lsd = [](const char* preconditioning, const char* method) {
    return refusal("{" + kMlp + ", \"preconditioning\": {\"type\": \"flow\"" +
                   preconditioning + "}, \"method\": {\"type\": \"lsd\"" + method + "}}");
  };
  EXPECT_THAT(lsd("", ""), HasSubstr("preconditioning.two_times"));
  EXPECT_THAT(lsd(R"(, "two_times": true)", R"(, "weight": "learned")"),
              HasSubstr("preconditioning.log_weight"));
  EXPECT_THAT(lsd(R"(, "two_times": true)", R"(, "eta": 1.5)"), HasSubstr("eta"));
  EXPECT_THAT(lsd(R"(, "two_times": true)", R"(, "stop_gradient": "full")"),
              HasSubstr("stop_gradient"));
  EXPECT_THAT(lsd(R"(, "two_times": true)",
                  R"(, "times": {"low": 0.5, "high": 0.5})"), HasSubstr("times.low"));
  EXPECT_THAT(refusal("{" + kMlp + R"(, "preconditioning": {"type": "flow"},
                "method": {"type": "flow_machting"}})"),
              HasSubstr("flow_matching"));  // the nearest name
  EXPECT_THAT(refusal(examples().back().config, true, 0), HasSubstr("data.labels"));
}

}  // namespace
}  // namespace flowmap::distill
