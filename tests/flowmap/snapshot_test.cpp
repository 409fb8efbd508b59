// Snapshots: what comes back, equal bytes, and what is refused.
#include "flowmap/train/snapshot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <ATen/ATen.h>

#include <cmath>
#include <filesystem>
#include <string>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/tensor_io.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr const char* kSpec = R"({"network": {"type": "mlp", "width": 8, "depth": 2},
  "preconditioning": {"type": "flow", "two_times": true, "base_std": 0.5},
  "sample_shape": [2], "label_dim": 0})";
constexpr const char* kWider = R"({"network": {"type": "mlp", "width": 9, "depth": 3},
  "preconditioning": {"type": "flow", "two_times": true, "base_std": 0.5},
  "sample_shape": [2], "label_dim": 0})";

std::shared_ptr<Model> model_of(const char* spec, std::uint64_t seed = 1) {
  return make_model(Config::from_text(spec, "test"), seed);
}

class SnapshotFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              ("flowmap_snapshot_" + std::to_string(getpid()) + "_" +
               ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path path(const char* name) const { return folder_ / name; }
  std::string refusal(const char* name) const {
    try {
      load_snapshot(path(name));
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(name));
      return error.what();
    }
    return "accepted";
  }
  fs::path folder_;
};

TEST_F(SnapshotFiles, ComesBackWhole) {
  const auto model = model_of(kSpec);
  save_snapshot(path("a.st"), *model, kSpec,
                {{"images_seen", "77"},
                 {"method", R"({"default_sampler": "flow_map", "default_steps": 4})"}});
  const Snapshot snapshot = load_snapshot(path("a.st"));
  EXPECT_EQ(snapshot.defaults.sampler, "flow_map");
  EXPECT_EQ(snapshot.defaults.steps, 4);
  EXPECT_EQ(snapshot.metadata.at("images_seen"), "77");
  EXPECT_EQ(snapshot.metadata.at("format"), "pt");
  EXPECT_EQ(snapshot.spec_json, kSpec);
  EXPECT_EQ(snapshot.model->info().base_std, 0.5);
  EXPECT_FALSE(snapshot.model->is_training());
  const auto parameters = model->named_parameters();
  for (const auto& item : snapshot.model->named_parameters()) {
    EXPECT_FALSE(item.value().requires_grad());
    EXPECT_TRUE(item.value().equal(parameters[item.key()])) << item.key();
  }
  // Saved again, it is the same file.
  save_snapshot(path("b.st"), *snapshot.model, snapshot.spec_json, snapshot.metadata);
  EXPECT_EQ(read_file(path("a.st")), read_file(path("b.st")));
}

TEST_F(SnapshotFiles, DefaultsMayBeAbsent) {
  save_snapshot(path("a.st"), *model_of(kSpec), kSpec, {});
  EXPECT_EQ(load_snapshot(path("a.st")).defaults.sampler, "");
  EXPECT_EQ(load_snapshot(path("a.st")).defaults.steps, 0);
}

TEST_F(SnapshotFiles, OtherArchitecturesAreListed) {
  save_snapshot(path("w.st"), *model_of(kWider), kSpec, {});
  const std::string message = refusal("w.st");
  EXPECT_THAT(message, HasSubstr("of another shape: "));
  EXPECT_THAT(message, HasSubstr("unexpected: model.layer3"));
  save_snapshot(path("m.st"), *model_of(kSpec), kWider, {});
  EXPECT_THAT(refusal("m.st"), HasSubstr("missing: model.layer3"));
}

TEST_F(SnapshotFiles, NotASnapshot) {
  save_tensors(path("p.st"), {{"a", at::zeros({2})}});
  EXPECT_THAT(refusal("p.st"), HasSubstr("got 'a', ..."));
  save_tensors(path("v.st"), {{"a", at::zeros({2})}}, {{"flowmap", "2"}, {"spec", "{}"}});
  EXPECT_THAT(refusal("v.st"), HasSubstr("format '2'"));
  save_tensors(path("s.st"), {{"a", at::zeros({2})}}, {{"flowmap", "1"}, {"spec", "{"}});
  EXPECT_THAT(refusal("s.st"), HasSubstr("spec"));
  save_snapshot(path("j.st"), *model_of(kSpec), kSpec, {{"method", "lsd"}});
  EXPECT_THAT(refusal("j.st"), HasSubstr("'method'"));
}

TEST_F(SnapshotFiles, WeightsThatAreNotFiniteAreRefused) {
  for (const double bad : {std::nan(""), static_cast<double>(INFINITY)}) {
    const auto model = model_of(kSpec);
    {
      const at::NoGradGuard no_grad;
      model->parameters()[1][0].fill_(bad);
    }
    save_snapshot(path("n.st"), *model, kSpec, {});
    EXPECT_THAT(refusal("n.st"), HasSubstr("1 of 8 values of 'model.layer0.bias'"));
  }
}

TEST_F(SnapshotFiles, PartialLoadCopiesWhatFits) {
  const auto source = model_of(kSpec, 1);
  save_snapshot(path("a.st"), *source, kSpec, {});
  const auto target = model_of(kSpec, 2);
  EXPECT_EQ(load_weights(path("a.st"), *target, false),
            static_cast<int64_t>(source->parameters().size()));
  EXPECT_TRUE(target->parameters()[0].equal(source->parameters()[0]));
  const auto wider = model_of(kWider, 2);
  const at::Tensor before = wider->parameters()[0].clone();
  EXPECT_THROW(load_weights(path("a.st"), *wider, false), DataError);
  EXPECT_TRUE(wider->parameters()[0].equal(before));
  EXPECT_EQ(load_weights(path("a.st"), *wider, true), 0);  // no layer has its shape
}

TEST(MethodDefaults, ReadsWhatIsStatedAndRefusesWhatIsNoNumber) {
  EXPECT_EQ(method_defaults("", "f").guidance, 1);
  const MethodDefaults read = method_defaults(
      R"({"method": "x", "default_sampler": "euler", "default_steps": 2,
          "default_times": [0, 0.25, 1], "default_guidance": 1.5})", "f");
  EXPECT_EQ(read.sampler, "euler");
  EXPECT_EQ(read.steps, 2);
  EXPECT_EQ(read.times, (std::vector<double>{0, 0.25, 1}));
  EXPECT_EQ(read.guidance, 1.5);
  for (const char* bad : {"[]", R"({"default_times": 3})", R"({"default_times": ["a"]})",
                          R"({"default_guidance": "1"})"})
    EXPECT_THROW(method_defaults(bad, "f"), DataError) << bad;
}

}  // namespace
}  // namespace flowmap
