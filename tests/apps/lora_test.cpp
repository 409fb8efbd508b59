// flowmap train with "lora": snapshots, adapters, going on to the byte, and generate and
// convert with an adapter.
#include <vector>

#include "flowmap/tensor_io.h"
#include "tests/apps/app_fixture.h"
#include "tests/support/scratch.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class LoraRun : public AppTest {
 protected:
  void SetUp() override {
    AppTest::SetUp();
    save("base.safetensors", kSpec, {{"method", R"({"default_sampler": "euler",
      "default_steps": 32})"}});
    save_snapshot(path("other.safetensors"),
                  *make_model(Config::from_text(kSpec, "test"), 9), kSpec, {});
    put_file(path("run.json"), R"({
      "data": {"type": "checkerboard"},
      "network": {"type": "mlp", "width": 16, "depth": 2},
      "preconditioning": {"type": "flow"},
      "method": {"type": "boss_straighten", "teacher": "base.safetensors",
                 "knots": [0, 0.3, 0.7, 1], "anchors": 12},
      "transfer": "base.safetensors",
      "lora": {"rank": 2, "alpha": 2},
      "trainer": {"duration": 0.003, "batch": 60, "batch_gpu": 30, "lr": 1e-2, "tick": 1,
                  "snap": 1, "dump": 1, "threads": 1, "seed": 3,
                  "ema": [{"type": "constant", "decay": 0.9}]}})");
  }
  void ran(const std::string& arguments) const {
    const AppResult result = run(arguments);
    ASSERT_EQ(result.code, 0) << arguments << "\n" << result.err;
  }
  at::Tensor samples(const std::string& arguments, const std::string& name) const {
    ran("generate --seeds 0-9 --raw " + name + " " + arguments);
    return load_tensors(path(name)).at("points");
  }
  static constexpr const char* kSpec = R"({"network": {"type": "mlp", "width": 16,
    "depth": 2}, "preconditioning": {"type": "flow"}, "sample_shape": [2],
    "label_dim": 0})";
};

TEST_F(LoraRun, AdapterIsTheSnapshot) {
  const AppResult result = run("train --config run.json --outdir a --nosubdir");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out + result.err, HasSubstr("lora: rank 2, "));
  const fs::path run_folder = path("a");
  for (const char* name : {"network-snapshot-000003.safetensors",
                           "adapter-snapshot-000003.safetensors"})
    ASSERT_TRUE(fs::exists(run_folder / name)) << name;
  const std::string adapter = "--adapter a/adapter-snapshot-000003.safetensors";
  const std::string whole = "a/network-snapshot-000003.safetensors";
  const at::Tensor plain = samples("--network base.safetensors --t_steps 0,0.3,0.7,1", "p");
  const at::Tensor trained = samples("--network " + whole, "t");
  EXPECT_FALSE(at::equal(plain, trained));
  // The same weights, sampler and knots.
  EXPECT_TRUE(at::equal(samples("--network base.safetensors " + adapter, "m"), trained));
  EXPECT_TRUE(at::equal(samples("--t_steps 0,0.3,0.7,1 --network " + whole, "k"), trained));
  EXPECT_FALSE(at::equal(samples("--steps 3 --network " + whole, "u"), trained));
  ran("convert --source base.safetensors " + adapter + " --dest merged.safetensors");
  const TensorMap ours = load_tensors(path("merged.safetensors")),
                  theirs = load_tensors(path(whole));
  ASSERT_EQ(ours.size(), theirs.size());
  for (const auto& [name, tensor] : theirs)
    EXPECT_TRUE(at::equal(ours.at(name), tensor)) << name;
  EXPECT_TRUE(at::equal(samples("--network merged.safetensors", "c"), trained));
}

TEST_F(LoraRun, OtherNetworksAreRefused) {
  ran("train --config run.json --outdir a --nosubdir");
  const std::string adapter = " --adapter a/adapter-snapshot-000003.safetensors ";
  for (const std::string& words :
       {"generate --seeds 0-9 --raw x --network other.safetensors" + adapter,
        "convert --source other.safetensors --dest y.safetensors" + adapter}) {
    const AppResult result = run(words);
    EXPECT_EQ(result.code, 2) << words;
    EXPECT_THAT(result.err, HasSubstr("made for another network")) << words;
    ran(words + " --force");
  }
  const AppResult wrong = run("train --config run.json --outdir b --nosubdir - transfer=null");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("give its file as transfer"));
  const AppResult wide =
      run("train --config run.json --outdir b --nosubdir - preconditioning.two_times=true");
  EXPECT_EQ(wide.code, 2);
}

TEST_F(LoraRun, GoesOnToTheByte) {
  ran("train --config run.json --outdir a --nosubdir");
  ran("train --config run.json --outdir b --nosubdir - trainer.duration=0.00202");
  ran("train --config run.json --outdir b --nosubdir - trainer.duration=0.003");
  for (const char* name : {"network-snapshot-000003.safetensors",
                           "adapter-snapshot-000003.safetensors",
                           "training-state-000003/weights-model.safetensors",
                           "training-state-000003/ema-model-0.safetensors",
                           "training-state-000003/optimizer-model.safetensors"}) {
    const std::string whole = content(path(std::string("a/") + name));
    EXPECT_FALSE(whole.empty()) << name;
    EXPECT_EQ(whole, content(path(std::string("b/") + name))) << name;
  }
  // Factors, not weights.
  const auto state =
      load_tensors(path("a/training-state-000003/weights-model.safetensors"));
  for (const auto& [name, tensor] : state)
    EXPECT_NE(name.find("lora_"), std::string::npos) << name;
  // Another network under the name of the first.
  fs::copy_file(path("other.safetensors"), path("base.safetensors"),
                fs::copy_options::overwrite_existing);
  const AppResult result = run("train --resume b - trainer.duration=0.004");
  EXPECT_NE(result.code, 0);
  EXPECT_THAT(result.err, HasSubstr("another network"));
}

}  // namespace
}  // namespace flowmap::testing
