// flowmap fid calc and ref on small sets: equal roads give equal numbers, and what is
// refused before any work.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flowmap/formats/npy.h"
#include "flowmap/tensor_io.h"
#include "metrics/stats_file.h"
#include "tests/apps/fid_fixture.h"

namespace flowmap::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

using Fid = JsonFidTest<nlohmann::json>;

TEST_F(Fid, StatisticsStandForTheirSamples) {
  FM_NEED_FILE(detector());
  write_pictures("a-idx3-ubyte", 3);
  write_pictures("b-idx3-ubyte", 50);
  const std::string make = "fid ref --data b-idx3-ubyte --dest made/b.npz --detector '" +
                           detector().string() + "'";
  const AppResult made = run(make);
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("statistics of 100 samples, detector fmnist64 sha256"));
  // Not a second time unless asked.
  const std::string before = content(path("made/b.npz"));
  put_file(path("made/b.npz"), "mine");
  const AppResult again = run(make);
  EXPECT_EQ(again.code, 2);
  EXPECT_THAT(again.err, HasSubstr("--dest: made/b.npz is there already"));
  EXPECT_EQ(content(path("made/b.npz")), "mine");
  ASSERT_EQ(run(make + " --overwrite").code, 0);
  EXPECT_EQ(content(path("made/b.npz")), before);

  const auto by_file = scored("--images a-idx3-ubyte --ref made/b.npz --num 100");
  const auto by_samples = scored("--images a-idx3-ubyte --ref b-idx3-ubyte --num 100");
  const double distance = by_file["results"]["fd_fmnist64_100"];
  EXPECT_GT(distance, 0);
  EXPECT_NEAR(by_samples["results"]["fd_fmnist64_100"].get<double>(), distance,
              1e-6 * distance);
  EXPECT_EQ(by_file["num_images"], 100);
  EXPECT_EQ(by_file["ref_num_images"], 100);
  EXPECT_EQ(by_file["detector"], "fmnist64");
  // A set has no distance from itself.
  const auto self = scored("--images b-idx3-ubyte --ref made/b.npz --num 100");
  EXPECT_LT(self["results"]["fd_fmnist64_100"].get<double>(), 1e-6 * distance);
  // As text, a line.
  const AppResult text = run("fid calc --images a-idx3-ubyte --ref made/b.npz --num 100");
  EXPECT_THAT(text.out, StartsWith("fd_fmnist64_100: "));
  EXPECT_THAT(text.out, HasSubstr("(100 images against 100 of made/b.npz, mode native, detector "
                                  "fmnist64 sha256 "));
}

TEST_F(Fid, ScoresGoIntoASnapshot) {
  FM_NEED_FILE(detector());
  write_pictures("a-idx3-ubyte", 3);
  write_pictures("b-idx3-ubyte", 50);
  save("m.safetensors", kTinyFlowMap);
  const auto report = scored("--images a-idx3-ubyte --ref b-idx3-ubyte --num 100 --record "
                             "m.safetensors --record-as '1 step'");
  const Snapshot snapshot = load_snapshot(path("m.safetensors"));
  const auto scores = nlohmann::json::parse(snapshot.metadata.at("scores"));
  EXPECT_EQ(scores["fd_fmnist64_100 1 step"]["value"], report["results"]["fd_fmnist64_100"]);
  EXPECT_EQ(scores["fd_fmnist64_100 1 step"]["num_images"], 100);
}

TEST_F(Fid, StatisticsOfAnotherDetectorAreRefused) {
  FM_NEED_FILE(detector());
  write_pictures("a-idx3-ubyte", 3);
  metrics::FeatureSet set;
  set.add(Draw(3, 0, 200).normal("features", {64}));
  metrics::write_statistics(path("other.npz"), {{"768", "", set}},
                            {"inception", "00ff", "native", "28x28"});
  const std::string score = "calc --images a-idx3-ubyte --num 100 --ref ";
  refused(score + "other.npz", 2, "--ref: detector of other.npz is 'inception'");
  const AppResult forced = run("fid " + score + "other.npz --force");
  EXPECT_EQ(forced.code, 0) << forced.err;
  EXPECT_THAT(forced.err, HasSubstr("warning: detector of other.npz"));
  metrics::FeatureSet wide;
  wide.add(Draw(3, 0, 200).normal("features", {65}));
  metrics::write_statistics(path("wide.npz"), {{"features", "", wide}},
                            {"fmnist64", "", "native", "28x28"});
  refused(score + "wide.npz --force", 2, "--ref: wide.npz: statistics of 65");
  put_file(path("broken.npz"), "PK and no more");
  refused(score + "broken.npz", 1, "broken.npz");
  put_file(path("old.pkl"), "x");
  refused(score + "old.pkl", 1, "old.pkl");
  // Statistics of 50 images say less than 100 images.
  ASSERT_EQ(run("fid ref --data a-idx3-ubyte --num 50 --dest few.npz").code, 0);
  refused(score + "few.npz", 2, "num_images of few.npz is 50, of these samples 100");
  EXPECT_EQ(run("fid " + score + "few.npz --force").code, 0);
  // What needs the reference's features says where they come from.
  refused(score + "few.npz --force --metrics kd", 2, "fid ref --metrics kd");
  // Too few samples, by the default and by request.
  refused("calc --images a-idx3-ubyte --ref a-idx3-ubyte", 2,
          "holds 100 images, --num asks for 50000 (the default); make more or pass --num "
          "100");
  refused("calc --images a-idx3-ubyte --ref a-idx3-ubyte --num 101", 2, "--num asks for 101");
  // A mode that the detector has not.
  refused(score + "a-idx3-ubyte --mode clean", 2, "--mode: detector fmnist64");
  refused(score + "a-idx3-ubyte --mode cleen", 2, "--mode: unknown mode 'cleen'; did you "
          "mean 'clean'");
  // Names that only the Inception's numbers may bear.
  refused(score + "a-idx3-ubyte --metrics fid", 2,
          "metric fid is a number of detector inception; over fmnist64 take fd");
}

TEST_F(Fid, SeveralMetricsInOnePass) {
  FM_NEED_FILE(detector());
  write_pictures("a-idx3-ubyte", 3);
  write_pictures("b-idx3-ubyte", 50);
  const std::string all = "--images a-idx3-ubyte --num 100 --metrics fd,kd,pr,prdc3 --ref ";
  const auto report = scored(all + "b-idx3-ubyte");
  for (const char* name :
       {"fd_fmnist64_100", "kd_fmnist64_100", "precision3_fmnist64_100",
        "recall3_fmnist64_100", "density3_fmnist64_100", "coverage3_fmnist64_100"})
    EXPECT_TRUE(report["results"].contains(name)) << name << report.dump(1);
  EXPECT_EQ(report["results"].size(), 6u);
  EXPECT_TRUE(report["details"]["kd_fmnist64_100"].contains("standard error"));
  // torch-fidelity's keys, where they mean the same.
  EXPECT_EQ(report["precision"], report["results"]["precision3_fmnist64_100"]);
  EXPECT_TRUE(report.contains("f_score"));
  EXPECT_FALSE(report.contains("frechet_inception_distance"));
  // A reference made for them holds what they need.
  ASSERT_EQ(run("fid ref --data b-idx3-ubyte --dest b.npz --metrics fd,kd,pr").code, 0);
  const auto by_file = scored(all + "b.npz");
  EXPECT_EQ(by_file["results"]["kd_fmnist64_100"], report["results"]["kd_fmnist64_100"]);
  // The picture of the closest pairs: all of the reference's own samples.
  const auto copies = scored("--images b-idx3-ubyte --num 100 --metrics memorisation "
                             "--nearest near.png --ref b-idx3-ubyte");
  const Image near = read_image(path("near.png"));
  EXPECT_EQ(near.width, 8 * 56);
  EXPECT_EQ(near.height, 8 * 56);
  for (int y = 0; y < 56; ++y)  // each beside its copy
    for (int x = 0; x < 56; ++x)
      ASSERT_EQ(near.pixels[(y * near.width + x) * 3],
                near.pixels[(y * near.width + x + 56) * 3]);
  refused("calc --images b-idx3-ubyte --num 100 --ref b.npz --nearest n.png", 2,
          "--nearest: goes with --metrics memorisation");
  refused("calc --images b-idx3-ubyte --num 100 --ref b.npz --nearest n.png --metrics "
          "memorisation", 2, "--nearest: b.npz holds no pictures");
}

TEST_F(Fid, RepeatsAndIntervals) {
  FM_NEED_FILE(detector());
  write_pictures("a-idx3-ubyte", 3, 90);
  write_pictures("b-idx3-ubyte", 50);
  const std::string calc = "--images a-idx3-ubyte --ref b-idx3-ubyte --num 30 --metrics "
                           "fd,kd --repeats 3 --bootstrap 20";
  const auto report = scored(calc);
  const auto& repeats = report["repeats"]["fd_fmnist64_30"];
  ASSERT_EQ(repeats["values"].size(), 3u) << report.dump(1);
  std::vector<double> values = repeats["values"];
  EXPECT_EQ(repeats["min"], *std::min_element(values.begin(), values.end()));
  EXPECT_NEAR(repeats["mean"].get<double>(), (values[0] + values[1] + values[2]) / 3, 1e-9);
  EXPECT_NEAR(repeats["spread"].get<double>(),
              *std::max_element(values.begin(), values.end()) -
                  *std::min_element(values.begin(), values.end()), 1e-9);
  EXPECT_NE(values[0], values[1]);
  for (const char* name : {"fd_fmnist64_30", "kd_fmnist64_30"}) {
    const auto& interval = report["intervals"][name];
    EXPECT_LT(interval["low"].get<double>(), interval["high"].get<double>()) << name;
    EXPECT_GT(interval["standard_error"].get<double>(), 0) << name;
  }
  const AppResult text = run("fid calc " + calc);
  EXPECT_THAT(text.out, HasSubstr("fd_fmnist64_30: min "));
  EXPECT_THAT(text.out, HasSubstr("(subset 2; 30 images against 100 of b-idx3-ubyte"));
  EXPECT_THAT(text.out, HasSubstr("95% bootstrap interval "));
  // The three are disjoint, so a fourth would need more.
  refused("calc --images a-idx3-ubyte --ref b-idx3-ubyte --num 30 --repeats 4", 2,
          "holds 90 images, --repeats of --num asks for 120; make more or pass --num 22");
}

TEST_F(Fid, KlOfPoints) {
  // One point in the middle of each square of the histogram: the density is 1/4 where the
  // board's is 1/2, so KL = log 2, and half of the points lie off the board.
  at::Tensor points = at::empty({48 * 48, 2});
  auto xy = points.accessor<float, 2>();
  for (int i = 0; i < 48 * 48; ++i) {
    xy[i][0] = static_cast<float>((i % 48 + 0.5) / 24 - 1);
    xy[i][1] = static_cast<float>((i / 48 + 0.5) / 24 - 1);
  }
  write_npz(path("p.npz"), {{"points", to_host(points)}});
  const auto report = scored("--images p.npz --metrics kl48 --num 2304");
  EXPECT_NEAR(report["results"]["kl48"].get<double>(), std::log(2.0), 1e-6);
  EXPECT_EQ(report["details"]["kl48"]["mass outside the support"], 0.5);
  // Subsets follow their seed.
  const auto part = [&](const std::string& seed) {
    return scored("--images p.npz --metrics kl48 --num 1000 --seed " + seed)["results"];
  };
  EXPECT_EQ(part("1"), part("1"));
  EXPECT_NE(part("1"), part("2"));
}

TEST_F(Fid, NamesTheFlagBeforeAnyWork) {
  write_npz(path("p.npz"), {{"points", to_host(at::zeros({9, 2}))}});
  save_tensors(path("t.safetensors"), {{"a", at::zeros({2})}});
  const std::string calc = "calc --images p.npz --num 9 --metrics kl48 ";
  refused("calc --images p.npz --metrics kl48,fdd --num 9", 2,
          "--metrics: unknown metric 'fdd'; did you mean 'fd'");
  refused(calc + "--ref none.npz", 2, "--ref: none.npz does not exist");
  refused(calc + "--detector none.safetensors", 2,
          "--detector: none.safetensors does not exist");
  refused(calc + "--detector fmnist46", 2, "--detector: unknown detector 'fmnist46'; did "
          "you mean 'fmnist64'");
  refused(calc + "--record none.safetensors", 2, "--record: none.safetensors does not");
  refused(calc + "--record t.safetensors", 2, "--record: t.safetensors is no snapshot");
  refused(calc + "--seed -1", 2, "--seed: at least 0, not -1");
  refused(calc + "--seed x", 2, "--seed: a whole number, not 'x'");
  refused(calc + "--batch 0", 2, "--batch: at least 1, not 0");
  refused(calc + "--num 3", 2, "--num given twice");
  refused("calc --images none.npz --metrics kl48", 2, "--images: none.npz does not exist");
  refused("clac --images p.npz", 2, "did you mean 'calc'");
  refused("--num 9 calc --images p.npz", 2, "'--num' goes after one of calc, ref, gen");
  refused("", 2, "one of these is missing: calc, ref, gen, features; see flowmap fid");
  EXPECT_THAT(run("fid --help").out, HasSubstr("features"));
  refused("calc --images p.npz --qqqqqqqq", 2, "see flowmap fid calc --help");
  refused("ref --data p.npz --dest r.txt", 2, "--dest: 'r.txt' does not end in .npz");
  refused("ref --data p.npz", 2, "--dest is required");
  ASSERT_EQ(run("fid ref --data p.npz --dest r.npz").code, 0);
  EXPECT_EQ(to_tensor(read_npz(path("r.npz")).at("mu")).numel(), 2);
}

}  // namespace
}  // namespace flowmap::testing
