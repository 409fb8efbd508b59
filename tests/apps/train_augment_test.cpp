// flowmap train with trainer.augment: the network is told, a run goes on to the byte, and
// what cannot be told is refused.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "flowmap/train/snapshot.h"
#include "tests/apps/app_fixture.h"
#include "tests/support/scratch.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

constexpr const char* kAugmentedRun = R"({
  "data": {"type": "idx", "path": "pictures"},
  "network": {"type": "ddpmpp", "model_channels": 8, "channel_mult": [1],
              "num_blocks": 1, "attn_resolutions": []},
  "preconditioning": {"type": "edm"},
  "method": {"type": "edm"},
  "trainer": {"duration": 160e-6, "batch": 8, "batch_gpu": 4, "augment": 0.5,
              "lr": 1e-3, "tick": 0.04, "snap": 0, "dump": 1, "ema": [{"images": 2000}],
              "threads": 1, "seed": 4}
})";

class TrainAugment : public AppTest {
 protected:
  void SetUp() override {
    AppTest::SetUp();
    put_file(path("run.json"), kAugmentedRun);
    fs::create_directories(path("pictures"));
    std::string pixels = big(0x803, 4) + big(24, 4) + big(8, 4) + big(8, 4);
    for (int i = 0; i < 24 * 64; ++i) pixels += static_cast<char>(i * i * 37 % 251);
    put_file(path("pictures/train-images-idx3-ubyte"), pixels);
  }
  std::string snapshot(const std::string& run) const {
    return path(run + "/network-snapshot-000000.safetensors");
  }
  void refused(const std::string& arguments, const std::string& what) const {
    const AppResult result = run("train --config run.json --outdir r " + arguments);
    EXPECT_EQ(result.code, 2) << arguments << "\n" << result.err;
    EXPECT_THAT(result.err, HasSubstr(what)) << arguments;
  }
};

TEST_F(TrainAugment, GoesOnToTheByte) {
  ASSERT_EQ(run("train --config run.json --outdir whole --nosubdir").code, 0);
  ASSERT_EQ(run("train --config run.json --outdir parts --nosubdir --duration 80e-6").code,
            0);
  ASSERT_EQ(run("train --config run.json --outdir parts --nosubdir").code, 0);
  EXPECT_EQ(content(snapshot("whole")), content(snapshot("parts")));
  // The weights that take the labels have learned from them.
  const Snapshot trained = load_snapshot(snapshot("whole"));
  const json spec = json::parse(trained.spec_json);
  EXPECT_EQ(spec["network"]["augment_dim"], 9);
  const auto fresh = make_model(Config::from_text(trained.spec_json, "spec"), 4);
  const std::string name = "model.map_augment.weight";
  EXPECT_FALSE(at::equal(trained.model->named_parameters()[name],
                         fresh->named_parameters()[name]));
  // Without augmentation: other images, another network.
  ASSERT_EQ(run("train --config run.json --outdir plain --nosubdir --augment 0").code, 0);
  EXPECT_NE(content(snapshot("plain")), content(snapshot("whole")));
  const AppResult other =
      run("train --config run.json --outdir whole --nosubdir --augment 0.25");
  EXPECT_EQ(other.code, 2);
  EXPECT_THAT(other.err, HasSubstr("trainer.augment was 0.5, now 0.25"));
}

TEST_F(TrainAugment, RefusesWhatCannotBeTold) {
  refused("- data.type=checkerboard data.path=null", "holds points");
  refused("- network.augment_dim=0",
          "network.augment_dim is 0, not 9; trainer.augment has 9");
  refused("- trainer.augment=1.5", "trainer.augment");
  refused("- 'network={\"type\": \"mlp\"}'", "take one that listens (ddpmpp");
}

}  // namespace
}  // namespace flowmap::testing
