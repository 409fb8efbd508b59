// flowmap reconstruct_phema: against averages that the same run tracked.
#include <cmath>
#include <filesystem>
#include <map>
#include <string>

#include "flowmap/tensor_io.h"
#include "flowmap/train/snapshot.h"
#include "tests/apps/app_fixture.h"
#include "tests/support/scratch.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// 600 steps, twelve snapshots of four power profiles and of one of another rule.
constexpr const char* kPhemaRun = R"({
  "data": {"type": "checkerboard"},
  "network": {"type": "mlp", "width": 16, "depth": 2},
  "preconditioning": {"type": "flow"},
  "method": {"type": "flow_matching"},
  "trainer": {"duration": 0.06, "batch": 100, "tick": 5, "snap": 1, "dump": 0,
              "threads": 1, "seed": 3, "lr": 3e-3,
              "ema": [{"type": "power", "std": 0.05}, {"type": "power", "std": 0.1},
                      {"type": "power", "std": 0.075}, {"type": "power", "std": 0.15},
                      {"images": 5000}]}
})";

using Tensors = std::map<std::string, at::Tensor>;

class ReconstructPhema : public AppTest {
 protected:
  void SetUp() override {
    AppTest::SetUp();
    put_file(path("run.json"), kPhemaRun);
    const AppResult result = run("train --config run.json --outdir run --nosubdir");
    ASSERT_EQ(result.code, 0) << result.err;
  }
  AppResult reconstruct(const std::string& arguments) const {
    return run("reconstruct_phema --indir run --outdir out " + arguments);
  }
  void refused(const std::string& arguments, int code, const std::string& what) const {
    const AppResult result = run("reconstruct_phema " + arguments);
    EXPECT_EQ(result.code, code) << arguments << "\n" << result.err;
    EXPECT_THAT(result.err,
                AllOf(StartsWith("flowmap reconstruct_phema: "), HasSubstr(what)));
  }
  Tensors weights(const std::string& file) const { return load_tensors(path(file)); }
  // |a - b| over all weights.
  static double distance(const Tensors& a, const Tensors& b) {
    double squares = 0;
    for (const auto& [name, tensor] : a)
      squares += (tensor - b.at(name)).to(at::kDouble).square().sum().item<double>();
    return std::sqrt(squares);
  }
};

// Out of 0.05 and 0.1 alone, those that the run tracked beside them.
TEST_F(ReconstructPhema, MeetsWhatTheRunTracked) {
  const AppResult result =
      reconstruct("--outstd 0.075,0.15,0.1 --instd 0.05,0.1 --batch 2");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("from 24 snapshots"));
  // The average of every step, to which all of this is small.
  const Tensors wide = weights("run/network-snapshot-000060-0.150.safetensors");
  const Tensors narrow = weights("run/network-snapshot-000060-0.050.safetensors");
  const double spread = distance(wide, narrow);
  EXPECT_GT(spread, 0.1);
  for (const char* std : {"0.075", "0.150", "0.100"}) {
    const Tensors made = weights(std::string("out/phema-0000060-") + std + ".safetensors");
    const Tensors tracked =
        weights(std::string("run/network-snapshot-000060-") + std + ".safetensors");
    ASSERT_EQ(made.size(), tracked.size());
    const double off = distance(made, tracked);
    RecordProperty(std, std::to_string(off / spread));
    EXPECT_LT(off, (std == std::string("0.100") ? 1e-6 : 0.01) * spread) << std;
  }
}

TEST_F(ReconstructPhema, WritesSnapshotsThatSample) {
  ASSERT_EQ(reconstruct("--outstd 0.12 --outkimg 30 --outprefix mine").code, 0);
  const std::string file = "out/mine-0000030-0.120.safetensors";
  const Snapshot snapshot = load_snapshot(path(file));
  EXPECT_EQ(snapshot.metadata.at("ema"), "power=0.120 (reconstructed)");
  EXPECT_EQ(snapshot.metadata.at("images_seen"), "30000");
  EXPECT_FALSE(snapshot.metadata.contains("scores"));
  const AppResult sampled =
      run("generate --network " + file + " --npz samples.npz --seeds 0-3");
  EXPECT_EQ(sampled.code, 0) << sampled.err;
  // Nothing later than that moment has entered: the run's end can go.
  const std::string before = content(path(file));
  for (const char* kimg : {"000035", "000045", "000060"})
    for (const char* std : {"0.050", "0.100", "0.075", "0.150"})
      fs::remove(path(std::string("run/network-snapshot-") + kimg + "-" + std +
                      ".safetensors"));
  ASSERT_EQ(reconstruct("--outstd 0.12 --outkimg 30 --outprefix mine").code, 0);
  EXPECT_EQ(content(path(file)), before);
}

TEST_F(ReconstructPhema, SkipsWhatIsThere) {
  ASSERT_EQ(reconstruct("--outstd 0.06").code, 0);
  const std::string file = path("out/phema-0000060-0.060.safetensors");
  put_file(file, "kept");
  const AppResult result = reconstruct("--outstd 0.06,0.07 --skip");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("skipped out/phema-0000060-0.060"),
                                HasSubstr("wrote out/phema-0000060-0.070")));
  EXPECT_EQ(content(file), "kept");
  // What was made is no source of further ones.
  const AppResult again = run("reconstruct_phema --indir out --outdir x --inprefix "
                              "phema-0000060-0.07 --outstd 0.1");
  EXPECT_EQ(again.code, 2);
  EXPECT_THAT(again.err, HasSubstr("1 of other averages"));
}

TEST_F(ReconstructPhema, SaysWhatIsWrong) {
  refused("--indir run --outstd 0.1", 2, "--outdir");
  refused("--indir nowhere --outdir out --outstd 0.1", 2, "--indir: nowhere is no folder");
  refused("--indir run --outdir out --outstd 0.3", 2, "--outstd: 0.3 is outside");
  refused("--indir run --outdir out --outstd 0.1 --outkimg 31", 2,
          "--outkimg: no snapshot at 31 kimg; there are: 10, 15, 20");
  refused("--indir run --outdir out --outstd 0.1 --outprefix a/b", 2, "--outprefix");
  refused("--indir run --outdir out --outstd 0.1 --instd 0.2", 2, "--instd");
  fs::create_directories(path("empty"));
  refused("--indir empty --outdir out --outstd 0.1", 2, "trainer.snap above 0");
  const std::string last = path("run/network-snapshot-000060-0.050.safetensors");
  fs::copy(last, path("run/copy.safetensors"));
  refused("--indir run --outdir out --outstd 0.1", 2, "same average of the same moment");
  fs::remove(path("run/copy.safetensors"));
  // Of another network.
  save("run/network-snapshot-000060-0.050.safetensors", kTinyPoints,
       {{"ema", "power=0.050"}, {"images_seen", "60000"}});
  refused("--indir run --outdir out --outstd 0.1", 1, "0.050.safetensors");
  EXPECT_FALSE(fs::exists(path("out/phema-0000060-0.100.safetensors")));
  put_file(last, "not weights");
  refused("--indir run --outdir out --outstd 0.1", 1, "0.050.safetensors");
}

}  // namespace
}  // namespace flowmap::testing
