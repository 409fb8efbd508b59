// flowmap fid calc and ref on small sets: equal roads give equal numbers, and what is
// refused before any work.
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "flowmap/formats/npy.h"
#include "flowmap/tensor_io.h"
#include "metrics/stats_file.h"
#include "tests/apps/app_fixture.h"
#include "tests/support/reference.h"
#include "tests/support/scratch.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class Fid : public AppTest {
 protected:
  static fs::path detector() {
    return source_folder() / "models" / "fmnist64.safetensors";
  }
  // 100 pictures of 28x28; the detector's 64 features have a full covariance.
  void write_pictures(const std::string& name, int step) const {
    std::string bytes = big(0x803, 4) + big(100, 4) + big(28, 4) + big(28, 4);
    for (int i = 0; i < 100 * 784; ++i)
      bytes += static_cast<char>((i % 251) * (i / 784 + step) % 256);
    put_file(path(name), bytes);
  }
  void refused(const std::string& arguments, int code, const std::string& what) const {
    const AppResult result = run("fid " + arguments);
    EXPECT_EQ(result.code, code) << arguments << "\n" << result.err;
    EXPECT_THAT(result.err, StartsWith("flowmap fid: ")) << arguments;
    EXPECT_THAT(result.err, HasSubstr(what)) << arguments;
    EXPECT_EQ(result.out, "") << arguments;
  }
  nlohmann::json scored(const std::string& arguments) const {
    const AppResult result = run("fid calc --json " + arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return nlohmann::json::parse(result.out, nullptr, false);
  }
};

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
  EXPECT_THAT(text.out, HasSubstr("(100 images against 100, detector fmnist64 sha256 "));
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
  metrics::write_statistics(path("other.npz"), set, {"inception", "00ff", "native", "28x28"});
  const std::string score = "calc --images a-idx3-ubyte --num 100 --ref ";
  refused(score + "other.npz", 2, "--ref: detector of other.npz is 'inception'");
  const AppResult forced = run("fid " + score + "other.npz --force");
  EXPECT_EQ(forced.code, 0) << forced.err;
  EXPECT_THAT(forced.err, HasSubstr("warning: detector of other.npz"));
  metrics::FeatureSet wide;
  wide.add(Draw(3, 0, 200).normal("features", {65}));
  metrics::write_statistics(path("wide.npz"), wide, {"fmnist64", "", "native", "28x28"});
  refused(score + "wide.npz --force", 2, "--ref: wide.npz: statistics of 65 dimensions");
  put_file(path("broken.npz"), "PK and no more");
  refused(score + "broken.npz", 1, "broken.npz");
  put_file(path("old.pkl"), "x");
  refused(score + "old.pkl", 2, "--ref: old.pkl: pickled statistics are not read");
  // Too few samples, by the default and by request.
  refused("calc --images a-idx3-ubyte --ref a-idx3-ubyte", 2,
          "holds 100 images, --num asks for 50000 (the default); make more or pass --num "
          "100");
  refused("calc --images a-idx3-ubyte --ref a-idx3-ubyte --num 101", 2, "--num asks for 101");
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
  refused("--num 9 calc --images p.npz", 2, "'--num' goes after 'calc'");
  refused("", 2, "one of these is missing: calc, ref; see flowmap fid --help");
  refused("calc --images p.npz --qqqqqqqq", 2, "see flowmap fid calc --help");
  refused("ref --data p.npz --dest r.txt", 2, "--dest: 'r.txt' does not end in .npz");
  refused("ref --data p.npz", 2, "--dest is required");
  ASSERT_EQ(run("fid ref --data p.npz --dest r.npz").code, 0);
  EXPECT_EQ(to_tensor(read_npz(path("r.npz")).at("mu")).numel(), 2);
}

}  // namespace
}  // namespace flowmap::testing
