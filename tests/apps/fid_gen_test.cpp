// flowmap fid gen, features and A B: other roads to the same numbers.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "flowmap/formats/npy.h"
#include "flowmap/tensor_io.h"
#include "metrics/stats_file.h"
#include "tests/apps/fid_fixture.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const char* const kSmallFlowMap = R"({"network": {"type": "mlp", "width": 32, "depth": 2},
  "preconditioning": {"type": "flow", "two_times": true},
  "sample_shape": [1, 28, 28], "label_dim": 3})";

class FidGen : public JsonFidTest<nlohmann::json> {
 protected:
  void SetUp() override {
    FidTest::SetUp();
    save("m.safetensors", kSmallFlowMap);
  }
};

// Scoring while sampling gives the number of the PNGs that generate writes.
TEST_F(FidGen, IsAsGenerateAndCalc) {
  FM_NEED_FILE(detector());
  write_pictures("b-idx3-ubyte", 50);
  const std::string how = "--network m.safetensors --steps 3 --seeds 10-109 --batch 32";
  ASSERT_EQ(run("generate " + how + " --outdir out").code, 0);
  const std::string ref = " --ref b-idx3-ubyte --metrics fd,kd";
  const auto files = scored("--images out --num 100 --batch 32" + ref);
  const auto direct = json_of("gen " + how + ref);
  for (const char* name : {"fd_fmnist64_100", "kd_fmnist64_100"}) {
    const double wanted = files["results"][name];
    EXPECT_NEAR(direct["results"][name].get<double>(), wanted, 1e-6 * std::abs(wanted))
        << name;
  }
  EXPECT_EQ(direct["network"], "m.safetensors");
  EXPECT_EQ(direct["sampler"], "3 steps of flow_map");
  EXPECT_EQ(direct["num_images"], 100);
  EXPECT_EQ(direct["ref_num_images"], 100);
  // Another number of steps, solver or class is another set of samples.
  for (const char* other : {"--network m.safetensors --steps 1 --seeds 10-109",
                            "--network m.safetensors --steps 3 --seeds 10-109 --class 1",
                            "--network m.safetensors --steps 3 --num 100"})
    EXPECT_NE(json_of("gen " + std::string(other) + ref)["results"]["fd_fmnist64_100"],
              direct["results"]["fd_fmnist64_100"])
        << other;
}

TEST_F(FidGen, RepeatsMoveTheSeeds) {
  FM_NEED_FILE(detector());
  write_pictures("b-idx3-ubyte", 50);
  const std::string gen = "gen --network m.safetensors --steps 1 --ref b-idx3-ubyte ";
  const auto report = json_of(gen + "--num 80 --repeats 3");
  const auto& repeats = report["repeats"]["fd_fmnist64_80"];
  EXPECT_EQ(repeats["blocks"],
            (nlohmann::json{"seeds 0-79", "seeds 80-159", "seeds 160-239"}));
  const auto third = json_of(gen + "--seeds 160-239");
  EXPECT_EQ(third["results"]["fd_fmnist64_80"], repeats["values"][2]);
  // Into the snapshot, with how they were made.
  ASSERT_EQ(run("fid " + gen + "--num 80 --record m.safetensors").code, 0);
  const Snapshot snapshot = load_snapshot(path("m.safetensors"));
  const auto scores = nlohmann::json::parse(snapshot.metadata.at("scores"));
  EXPECT_EQ(scores["fd_fmnist64_80 1 step of flow_map"]["value"], repeats["values"][0]);
}

TEST_F(FidGen, PointsAndRefusals) {
  save("p.safetensors", kTinyPoints);
  const auto report =
      json_of("gen --network p.safetensors --steps 2 --metrics kl48 --num 500");
  EXPECT_TRUE(report["results"].contains("kl48")) << report.dump(1);
  EXPECT_EQ(report["detector"], "points");
  write_npz(path("p.npz"), {{"points", to_host(at::rand({600, 2}))}});
  const auto other = json_of("gen --network p.safetensors --steps 2 --metrics swd,fd --num "
                             "500 --ref p.npz");
  EXPECT_TRUE(other["results"].contains("swd_points_500")) << other.dump(1);
  EXPECT_TRUE(other["results"].contains("fd_points_500"));
  const std::string gen = "gen --network p.safetensors --metrics kl48 ";
  refused("gen --metrics kl48", 2, "--network is required");
  refused(gen + "--seeds 0-9 --num 3", 2, "--seeds and --num exclude each other");
  refused(gen + "--seeds 4", 2, "at least 2 samples are needed, got 1");
  refused(gen + "--solver eulr", 2, "euler");
  refused("gen --network none.safetensors --metrics kl48", 2, "none.safetensors");
  refused("gen --network p.safetensors", 2, "--ref: metric fd needs a reference");
}

TEST_F(FidGen, FeaturesAreAReference) {
  FM_NEED_FILE(detector());
  write_pictures("a-idx3-ubyte", 3);
  write_pictures("b-idx3-ubyte", 50);
  const AppResult made = run("fid features --images b-idx3-ubyte --dest f.npz");
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("f.npz: features of 100 samples, detector fmnist64"));
  const auto arrays = read_npz(path("f.npz"));
  EXPECT_EQ(to_tensor(arrays.at("features")).sizes(), (at::IntArrayRef{100, 64}));
  const std::string calc = "--images a-idx3-ubyte --num 100 --metrics fd,kd --ref ";
  const auto by_features = scored(calc + "f.npz"), by_images = scored(calc + "b-idx3-ubyte");
  const double wanted = by_images["results"]["fd_fmnist64_100"];
  EXPECT_NEAR(by_features["results"]["fd_fmnist64_100"].get<double>(), wanted,
              1e-9 * wanted);
  EXPECT_EQ(by_features["results"]["kd_fmnist64_100"],
            by_images["results"]["kd_fmnist64_100"]);
  refused("features --images b-idx3-ubyte --dest g.npz --layer 2048", 2,
          "--layer: detector fmnist64 gives no layer '2048'");
  refused("features --images b-idx3-ubyte --dest f.npz", 2, "f.npz is there already");
}

// pytorch-fid's command.
TEST_F(FidGen, PairPrintsItsLineLast) {
  FM_NEED_FILE(detector());
  write_pictures("a-idx3-ubyte", 3);
  write_pictures("b-idx3-ubyte", 50);
  const auto calc = scored("--images b-idx3-ubyte --num 100 --batch 50 --ref "
                           "a-idx3-ubyte");
  const AppResult pair = run("fid ./a-idx3-ubyte b-idx3-ubyte --batch-size 50 "
                             "--num-workers 4 --device cpu --detector fmnist64");
  ASSERT_EQ(pair.code, 0) << pair.err;
  EXPECT_THAT(pair.out, StartsWith("fd_fmnist64_100: "));
  const auto last = pair.out.rfind("FID:  ");
  ASSERT_NE(last, std::string::npos) << pair.out;
  EXPECT_EQ(std::stod(pair.out.substr(last + 6)),
            calc["results"]["fd_fmnist64_100"].get<double>());
  EXPECT_EQ(pair.out.find('\n', last), pair.out.size() - 1);
  // Statistics for the one or the other.
  ASSERT_EQ(run("fid --save-stats a-idx3-ubyte a.npz --detector fmnist64").code, 0);
  for (const char* paths : {"a.npz b-idx3-ubyte", "b-idx3-ubyte a.npz"}) {
    const AppResult by_file = run("fid " + std::string(paths) + " --detector fmnist64");
    ASSERT_EQ(by_file.code, 0) << by_file.err;
    const double value = std::stod(by_file.out.substr(by_file.out.rfind("FID:  ") + 6));
    EXPECT_NEAR(value, calc["results"]["fd_fmnist64_100"].get<double>(), 1e-6 * value);
  }
  refused("a-idx3-ubyte b-idx3-ubyte --dims 100", 2, "--dims: 64, 192, 768 or 2048");
  refused("./a-idx3-ubyte", 2, "paths");
  refused("a-idx3-ubyte ./none", 2, "PATH2: ./none does not exist");
}

// Two files of statistics need no detector.
TEST_F(FidGen, PairOfForeignStatistics) {
  const fs::path folder = reference_folder() / "metrics" / "stats_files";
  FM_NEED_FILE(folder / "edm.npz");
  const auto file = [&](const char* name) { return "'" + (folder / name).string() + "' "; };
  const AppResult pair =
      run("fid " + file("edm.npz") + file("pytorch_fid_dims64.npz") + "--dims 64");
  ASSERT_EQ(pair.code, 0) << pair.err;
  EXPECT_NEAR(std::stod(pair.out.substr(pair.out.rfind("FID:  ") + 6)),
              0.001961837711632164, 1e-8);
  // clean-fid's name says its mode; EDM2's pickle is of another.
  refused(file("cleanfid_example_clean_custom_na.npz") + file("edm2_numpy2.pkl") +
              "--dims 64", 2, "mode of ");
  refused(file("edm.npz") + file("pytorch_fid_dims64.npz"), 2, "--dims: ");
}

// pytorch-fid's numbers by its own weights, as far as the partial file reaches.
TEST_F(FidGen, PairAsPytorchFid) {
  const fs::path inception =
      data_folder() / "inception" / "fid_inception_2015_to_mixed8_f32.safetensors";
  FM_NEED_FILE(inception);
  fs::create_directories(path("a"));
  fs::create_directories(path("b"));
  for (int i = 0; i < 4; ++i) {
    write_png(path("a/" + std::to_string(i) + ".png"), picture(i, 3, 32, 3));
    write_png(path("b/" + std::to_string(i) + ".png"), picture(i, 9, 32, 3));
  }
  const std::string with = " --detector '" + inception.string() + "'";
  const AppResult pair = run("fid a/ b/ --dims 192" + with);
  ASSERT_EQ(pair.code, 0) << pair.err;
  EXPECT_THAT(pair.out, AllOf(StartsWith("fid192_4: "), HasSubstr("mode legacy_pytorch"),
                              HasSubstr("\nFID:  ")));
  const AppResult whole = run("fid a/ b/" + with);
  EXPECT_EQ(whole.code, 2);
  EXPECT_THAT(whole.err, HasSubstr("take --metrics fid768"));
  // Statistics made in one mode are used in it, and refused in another.
  ASSERT_EQ(run("fid ref --data b --dest b.npz --mode clean --metrics fid192" + with).code,
            0);
  const AppResult stated =
      run("fid calc --images a --num 4 --ref b.npz --metrics fid192" + with);
  ASSERT_EQ(stated.code, 0) << stated.err;
  EXPECT_THAT(stated.out, HasSubstr("mode clean"));
  refused("calc --images a --num 4 --ref b.npz --metrics fid192 --mode edm" + with, 2,
          "mode of b.npz is 'clean', of these samples 'edm'");
}

}  // namespace
}  // namespace flowmap::testing
