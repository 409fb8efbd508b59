// flowmap boss search, report, and generate --schedule-file.
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "flowmap/base/text.h"
#include "flowmap/formats/npy.h"
#include "flowmap/tensor_io.h"
#include "samplers/boss/cost_file.h"
#include "tests/apps/app_fixture.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using nlohmann::json;

class Boss : public AppTest {
 protected:
  void SetUp() override {
    AppTest::SetUp();
    save("p.safetensors", kTinyPoints);
  }
  AppResult search(const std::string& arguments) const {
    return run("boss search --anchors 12 --check 8 " + arguments);
  }
  void refused(const std::string& arguments, const std::string& what, int code = 2) const {
    const AppResult result = run(arguments);
    EXPECT_EQ(result.code, code) << arguments << "\n" << result.err;
    EXPECT_THAT(result.err, HasSubstr(what)) << arguments;
  }
  json schedules(const std::string& name) const { return json::parse(content(path(name))); }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary) << text;
  }
};

TEST_F(Boss, SearchReplayAndReport) {
  const AppResult found = search(
      "--network p.safetensors --nfe 1-6 --num 20 --batch 8 --weight sensitivity --dest "
      "s.json --plot s.png");
  ASSERT_EQ(found.code, 0) << found.err;
  EXPECT_TRUE(fs::file_size(path("s.png")) > 1000);
  const json file = schedules("s.json");
  EXPECT_EQ(file["seeds"], "0-19");
  EXPECT_EQ(file["network_file"], "p.safetensors");
  ASSERT_EQ(file["budgets"].size(), 6u);
  for (const json& budget : file["budgets"]) {
    EXPECT_EQ(budget["knots"].size(), budget["nfe"].get<std::size_t>() + 1);
    double chosen = NAN, uniform = NAN;
    for (const json& one : budget["candidates"]) {
      if (one["method"] == budget["method"]) chosen = one["rmse"];
      if (one["method"] == "uniform") uniform = one["rmse"];
    }
    EXPECT_LE(chosen, uniform);
    EXPECT_THAT(found.out, HasSubstr(budget["method"].get<std::string>()));
  }
  // Replayed, it is what the same knots by hand give.
  std::vector<std::string> knots;
  for (const json& knot : file["budgets"][3]["knots"])
    knots.push_back(format("%.17g", knot.get<double>()));
  const std::string network = "--network p.safetensors --solver euler --seeds 0-9 ";
  ASSERT_EQ(run("generate " + network + "--npz a.npz --t_steps " + join(knots, ",")).code, 0);
  const AppResult replay =
      run("generate " + network + "--npz b.npz --schedule-file s.json --nfe 4");
  ASSERT_EQ(replay.code, 0) << replay.err;
  EXPECT_THAT(replay.out, HasSubstr("4 network evaluations an image"));
  const auto points = [&](const char* name) {
    return to_tensor(read_npz(path(name)).begin()->second);
  };
  EXPECT_TRUE(at::equal(points("a.npz"), points("b.npz")));
  // Other solvers walk the same knots.
  EXPECT_EQ(run("generate --network p.safetensors --seeds 0-3 --npz c.npz --schedule-file "
                "s.json --nfe 2 --solver heun").code, 0);
  ASSERT_EQ(run("generate " + network + "--npz d.npz --schedule-file s.json --nfe 4 "
                "--schedule-method uniform").code, 0);
  ASSERT_EQ(run("generate " + network + "--npz e.npz --steps 4").code, 0);
  EXPECT_TRUE(at::equal(points("d.npz"), points("e.npz")));
  refused("generate " + network + "--npz f.npz --schedule-file s.json --nfe 4 "
          "--schedule-method best", "it has uniform, boss");
  const AppResult report =
      run("boss report --network p.safetensors --schedule s.json --nfe 2,4 --num 8 "
          "--reference-steps 60 --json r.json");
  ASSERT_EQ(report.code, 0) << report.err;
  EXPECT_THAT(report.out, HasSubstr("straightness"));
  EXPECT_THAT(report.out, HasSubstr("arctan"));
  const json rows = schedules("r.json");
  EXPECT_GT(rows["straightness"]["squared"].get<double>(), 0);
  EXPECT_NEAR(rows["straightness"]["per_pixel"].get<double>() * 2,
              rows["straightness"]["squared"].get<double>(), 1e-12);
  EXPECT_EQ(rows["curvature"]["rms"].size(), 11u);
  for (const char* method : {"uniform", "boss", "sensitivity", "gits", "oss", "edm"})
    EXPECT_THAT(report.out, HasSubstr(method));
}

// Ended and gone on with, or in two parts on two machines: the same schedules.
TEST_F(Boss, ResumedAndMergedSearchesAreTheWhole) {
  const std::string network = "--network p.safetensors --nfe 1-4 --batch 4 --weight sensitivity ";
  ASSERT_EQ(search(network + "--num 10 --dest whole.json").code, 0);
  ASSERT_EQ(search(network + "--num 4 --dest part.json").code, 0);
  const AppResult resumed =
      search(network + "--num 10 --dest part.json --resume --overwrite");
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_THAT(resumed.out, HasSubstr("4 of 10 noises are there already"));
  EXPECT_EQ(schedules("part.json")["budgets"], schedules("whole.json")["budgets"]);
  EXPECT_EQ(content(path("part.json.costs.safetensors")),
            content(path("whole.json.costs.safetensors")));
  ASSERT_EQ(search(network + "--seeds 4-9 --dest other.json").code, 0);
  ASSERT_EQ(search(network + "--num 4 --dest first.json").code, 0);
  const AppResult merged =
      search(network + "--dest merged.json --merge first.json.costs.safetensors "
             "other.json.costs.safetensors");
  ASSERT_EQ(merged.code, 0) << merged.err;
  const json all = schedules("merged.json"), whole = schedules("whole.json");
  EXPECT_EQ(all["num"], 10);
  for (std::size_t i = 0; i < all["budgets"].size(); ++i)
    EXPECT_EQ(all["budgets"][i]["knots"], whole["budgets"][i]["knots"]);
  refused("boss search --anchors 12 " + network + "--dest m.json --merge "
          "whole.json.costs.safetensors other.json.costs.safetensors", "is in both");
  refused("boss search --anchors 9 " + network + "--dest m.json --merge "
          "whole.json.costs.safetensors", "another anchors (12), not 9");
}

TEST_F(Boss, DenoisersAndConditionalModels) {
  save("d.safetensors", kTinyDenoiser);
  ASSERT_EQ(search("--network d.safetensors --nfe 2-4 --num 6 --dest d.json").code, 0);
  const json file = schedules("d.json");
  EXPECT_EQ(file["unit"], "sigma");
  EXPECT_EQ(file["grid"]["name"], "edm");
  for (const json& budget : file["budgets"]) {
    EXPECT_EQ(budget["knots"].back(), 0);
    EXPECT_GT(budget["knots"].front(), 1);
  }
  EXPECT_EQ(run("generate --network d.safetensors --solver dpmpp --schedule-file d.json "
                "--nfe 4 --seeds 0-1 --outdir out").code, 0);
  // Heun: a denoiser's last step takes one evaluation.
  ASSERT_EQ(search("--network d.safetensors --nfe 3,5 --num 4 --step-solver heun --weight "
                   "sensitivity --dest h.json").code, 0);
  EXPECT_EQ(schedules("h.json")["budgets"][1]["steps"], 3);
  refused("boss search --network d.safetensors --nfe 4 --step-solver heun --dest x.json",
          "take 3 or 5");
  save("c.safetensors", kTinyConditional);
  EXPECT_EQ(search("--network c.safetensors --nfe 2 --num 4 --class 1 --guidance 2 "
                   "--teacher-solver heun --dest c.json").code, 0);
  EXPECT_EQ(search("--network c.safetensors --nfe 2 --num 4 --teacher-solver rk45 "
                   "--grid logit --weight none --dest c2.json").code, 0);
}

TEST_F(Boss, RefusesWhatDoesNotFit) {
  ASSERT_EQ(search("--network p.safetensors --nfe 1-3 --num 4 --dest s.json").code, 0);
  const std::string points = "--network p.safetensors --seeds 0 --npz x.npz ";
  refused("generate " + points + "--schedule-file s.json --nfe 7", "it has 1, 2, 3");
  refused("generate " + points + "--nfe 2", "for --schedule-file");
  refused("generate " + points + "--schedule-file s.json --steps 3", "exclude each other");
  refused("generate " + points + "--schedule-file none.json", "does not exist");
  // Weights of another network, of one that differs in a single number too.
  std::shared_ptr<Model> other = random_model(kTinyPoints);
  {
    const at::NoGradGuard no_grad;
    other->parameters()[0].flatten()[0] += 1e-3;
  }
  save_snapshot(path("q.safetensors"), *other, kTinyPoints, {});
  const std::string another = "generate --network q.safetensors --seeds 0 --npz x.npz "
                              "--schedule-file s.json --nfe 2 ";
  refused(another, "made for another network (p.safetensors");
  EXPECT_EQ(run(another + "--force").code, 0);
  refused("boss report --network q.safetensors --schedule s.json", "another network");
  // The same weights in another file, with a score noted in it, are the same network.
  save_snapshot(path("same.safetensors"), *random_model(kTinyPoints), kTinyPoints,
                {{"scores", "{}"}});
  EXPECT_EQ(run("generate --network same.safetensors --seeds 0 --npz y.npz --schedule-file "
                "s.json").code, 0);
  save("d.safetensors", kTinyDenoiser);
  refused("generate --network d.safetensors --seeds 0 --outdir o --schedule-file s.json "
          "--force", "knots in time");
  // Budgets beyond the anchors, and files that are cut or wrong.
  refused("boss search --network p.safetensors --anchors 5 --nfe 6 --dest b.json",
          "allow 1 to 5");
  refused("boss search --network p.safetensors --nfe 2 --dest b.json --grid cosine",
          "no anchor grid");
  const std::string text = content(path("s.json"));
  write("cut.json", text.substr(0, text.size() / 2));
  refused("generate " + points + "--schedule-file cut.json", "cut.json");
  write("other.json", "{\"a\": 1}");
  refused("generate " + points + "--schedule-file other.json", "flowmap-schedules", 1);
  json wrong = schedules("s.json");
  std::swap(wrong["budgets"][1]["knots"][0], wrong["budgets"][1]["knots"][1]);
  write("wrong.json", wrong.dump());
  refused("generate " + points + "--schedule-file wrong.json", "rising times", 1);
  wrong = schedules("s.json");
  wrong["budgets"][2]["knots"].erase(1);
  write("short.json", wrong.dump());
  refused("generate " + points + "--schedule-file short.json", "4 knots for 3 steps", 1);
  refused("boss search --network p.safetensors --nfe 2 --dest s.json", "is there already");
  refused("boss serch", "did you mean 'search'");
  write("cut.safetensors",
        content(path("s.json.costs.safetensors")).substr(0, 500));
  refused("boss search --network p.safetensors --anchors 12 --nfe 2 --dest n.json --merge "
          "cut.safetensors", "cut.safetensors", 1);
}

// A network whose answers overflow: weights are finite, states are not.
TEST_F(Boss, TeacherWithNaNIsNamed) {
  std::shared_ptr<Model> model = random_model(kTinyPoints);
  {
    const at::NoGradGuard no_grad;
    for (at::Tensor& p : model->parameters()) p.fill_(1e30);
  }
  save_snapshot(path("broken.safetensors"), *model, kTinyPoints, {});
  const AppResult result =
      search("--network broken.safetensors --nfe 2 --num 4 --dest n.json");
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("broken.safetensors"));
  EXPECT_THAT(result.err, HasSubstr("not finite"));
  EXPECT_FALSE(fs::exists(path("n.json")));
}

}  // namespace
}  // namespace flowmap::testing
