// Runs that score themselves.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/apps/fid_fixture.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kScoredRun = R"({
  "data": {"type": "checkerboard"},
  "network": {"type": "mlp", "width": 16, "depth": 2},
  "preconditioning": {"type": "flow"},
  "method": {"type": "flow_matching"},
  "trainer": {"duration": 0.006, "batch": 100, "optimizer": {"type": "radam"}, "tick": 1,
              "ema": [{"type": "constant", "decay": 0.9, "warmup": true}],
              "snap": 1, "dump": 2, "threads": 1, "seed": 3},
  "metrics": ["kl48", "fd"],
  "metrics_options": {"num": 500, "every": 2, "steps": 2, "seed": 700},
})";

class TrainMetrics : public JsonFidTest<json> {
 protected:
  void SetUp() override {
    FidTest::SetUp();
    put_file(path("run.json"), kScoredRun);
  }
  std::vector<json> lines(const std::string& file) const {
    std::istringstream in(content(path(file)));
    std::vector<json> out;
    for (std::string line; std::getline(in, line);) out.push_back(json::parse(line));
    return out;
  }
  void trained(const std::string& arguments) const {
    const AppResult result = run("train " + arguments);
    ASSERT_EQ(result.code, 0) << arguments << "\n" << result.err;
    EXPECT_EQ(result.err, "");
  }
};

TEST_F(TrainMetrics, AreThoseOfFidGen) {
  trained("--config run.json --outdir run --nosubdir");
  const auto kl = lines("run/metric-kl48.jsonl"), fd = lines("run/metric-fd_points_500.jsonl");
  ASSERT_EQ(kl.size(), 3u);  // at 2, 4 and 6 kimg
  ASSERT_EQ(fd.size(), 3u);
  EXPECT_EQ(kl[0]["images_seen"], 2000);
  EXPECT_EQ(kl[2]["images_seen"], 6000);
  const json& last = kl[2];
  EXPECT_EQ(last["metric"], "kl48");
  EXPECT_EQ(last["snapshot_pkl"], "network-snapshot-000006.safetensors");
  EXPECT_EQ(last["num_gpus"], 0);
  EXPECT_GT(last["total_time"].get<double>(), 0);
  for (const char* key : {"total_time_str", "timestamp", "sampler"})
    EXPECT_TRUE(last.contains(key)) << key;
  // Through the same code.
  const auto gen = [&](const std::string& seeds) {
    return json_of("gen --network run/network-snapshot-000006.safetensors --metrics kl48 "
                   "--steps 2 --seeds " + seeds)["results"]["kl48"];
  };
  EXPECT_EQ(last["results"]["kl48"], gen("700-1199"));
  EXPECT_NE(last["results"]["kl48"], gen("0-499"));
  EXPECT_THAT(content(path("run/log.txt")), HasSubstr("kl48: "));
  // Not FID, so no fid.json.
  EXPECT_FALSE(fs::exists(path("run/fid.json")));
}

TEST_F(TrainMetrics, ARunThatGoesOnScoresNothingTwice) {
  trained("--config run.json --outdir run --nosubdir");
  const auto before = lines("run/metric-kl48.jsonl");
  const std::string weights = content(path("run/network-snapshot-000006.safetensors"));
  // Back to the state at 4 kimg, as after a kill: 6 kimg is made again, byte for byte.
  fs::remove_all(path("run/training-state-000006"));
  fs::remove(path("run/network-snapshot-000006.safetensors"));
  trained("--resume run");
  EXPECT_EQ(content(path("run/network-snapshot-000006.safetensors")), weights);
  EXPECT_EQ(lines("run/metric-kl48.jsonl"), before);
  // Longer: the new ones are added.
  trained("--resume run - trainer.duration=0.008");
  const auto after = lines("run/metric-kl48.jsonl");
  ASSERT_EQ(after.size(), 4u);
  EXPECT_EQ(after[3]["images_seen"], 8000);
  // Scores change no weights.
  put_file(path("plain.json"), kScoredRun);
  trained("--config plain.json --outdir plain --nosubdir - metrics=null "
          "metrics_options=null");
  EXPECT_EQ(content(path("plain/network-snapshot-000006.safetensors")), weights);
}

TEST_F(TrainMetrics, WhatCannotWorkIsRefusedBeforeTraining) {
  const auto refused_run = [&](const std::string& settings, const std::string& what) {
    const AppResult result =
        run("train --config run.json --outdir runs - " + settings);
    EXPECT_EQ(result.code, 2) << settings << "\n" << result.err;
    EXPECT_THAT(result.err, HasSubstr(what)) << settings;
  };
  refused_run("metrics=fdd", "unknown metric 'fdd'");
  refused_run("metrics=fid", "metric fid is a number of detector inception");
  refused_run("metrics_options.ref=none.npz", "none.npz does not exist");
  refused_run("metrics_options.num=1", "metrics_options.num");
  refused_run("metrics_options.evry=1", "every");
  refused_run("metrics_options.detector=fmnist64", "detector");
  write_pictures("a-idx3-ubyte", 3);
  refused_run("metrics_options.ref=a-idx3-ubyte", "holds images");
  EXPECT_FALSE(fs::exists(path("runs")));
}

}  // namespace
}  // namespace flowmap::testing
