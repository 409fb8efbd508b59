// flowmap train: a run killed at any moment goes on to the byte, and what it says to bad
// settings.
#include <fcntl.h>

#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

#include "flowmap/tensor_io.h"
#include "flowmap/train/checkpoint.h"
#include "flowmap/train/run_folder.h"
#include "tests/apps/app_fixture.h"
#include "tests/support/scratch.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using namespace std::chrono_literals;

// 400 steps on points, a state every tenth; the decay of the average counts steps.
constexpr const char* kPointsRun = R"({
  "data": {"type": "checkerboard"},
  "network": {"type": "mlp", "width": 16, "depth": 2},
  "preconditioning": {"type": "flow"},
  "method": {"type": "flow_matching"},
  "trainer": {"duration": 0.04, "batch": 100, "optimizer": {"type": "radam"}, "tick": 1,
              "ema": [{"type": "constant", "decay": 0.9999, "warmup": true}],
              "snap": 0, "dump": 1, "threads": 1, "seed": 3},
})";

// A flow map of labelled 8x8 pictures with all that draws random numbers or keeps state:
// dropout, flips, micro-batches, two averages, the learned weight. Every state of this run
// falls into one kimg and so replaces the one before.
constexpr const char* kImagesRun = R"({
  "data": {"type": "idx", "path": "pictures", "labels": true},
  "network": {"type": "ddpmpp", "model_channels": 8, "channel_mult": [1],
              "num_blocks": 1, "attn_resolutions": [], "dropout": 0.2},
  "preconditioning": {"type": "flow", "two_times": true, "log_weight": true},
  "method": {"type": "lsd", "eta": 0.75},
  "trainer": {"duration": 480e-6, "batch": 8, "batch_gpu": 4, "xflip": true, "clip": 1,
              "lr": 1e-3, "lr_rampup": 40, "tick": 0.04, "snap": 0, "dump": 1,
              "ema": [{"images": 2000}, {"type": "power", "std": 0.1}],
              "threads": 1, "seed": 4},
})";

class Train : public AppTest {
 protected:
  void SetUp() override {
    AppTest::SetUp();
    put_file(path("points.json"), kPointsRun);
    put_file(path("images.json"), kImagesRun);
    fs::create_directories(path("pictures"));
    std::string pixels = big(0x803, 4) + big(24, 4) + big(8, 4) + big(8, 4);
    for (int i = 0; i < 24 * 64; ++i) pixels += static_cast<char>(i * i * 37 % 251);
    put_file(path("pictures/train-images-idx3-ubyte"), pixels);
    std::string labels = big(0x801, 4) + big(24, 4);
    for (int i = 0; i < 24; ++i) labels += static_cast<char>(i % 3);
    put_file(path("pictures/train-labels-idx1-ubyte"), labels);
  }

  void refused(const std::string& arguments, int code, const std::string& what) const {
    const AppResult result = run("train " + arguments);
    EXPECT_EQ(result.code, code) << arguments << "\n" << result.err;
    EXPECT_THAT(result.err, AllOf(StartsWith("flowmap train: "), HasSubstr(what)))
        << arguments;
  }
  void trained(const std::string& arguments) const {
    const AppResult result = run("train " + arguments);
    ASSERT_EQ(result.code, 0) << arguments << "\n" << result.err;
    EXPECT_EQ(result.err, "");
  }

  // Starts `flowmap train WORDS` and returns its process id.
  pid_t start(const std::vector<std::string>& words) const {
    std::vector<std::string> all = {std::getenv("FLOWMAP_BINARY"), "train"};
    all.insert(all.end(), words.begin(), words.end());
    const std::string out = path("background.txt"), where = folder_.string();
    const pid_t child = fork();
    if (child == 0) {
      std::vector<char*> argv;
      for (std::string& word : all) argv.push_back(word.data());
      argv.push_back(nullptr);
      const int fd = open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      dup2(fd, 1);
      dup2(fd, 2);
      if (chdir(where.c_str()) == 0) execv(argv[0], argv.data());
      _exit(127);
    }
    return child;
  }

  int64_t images_saved(const std::string& run) const {
    const auto state = latest_state(path(run));
    return state ? checkpoint_images(*state).value_or(-1) : -1;
  }

  // Waits for a state newer than `images`, then a random while, then sends the signal.
  // Returns what waitpid says.
  int interrupt(pid_t child, const std::string& run, int64_t images, int signal) const {
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    while (images_saved(run) <= images && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(1ms);
    EXPECT_GT(images_saved(run), images) << content(path("background.txt"));
    const auto pause = std::random_device{}() % 30'000;
    RecordProperty("pause_microseconds", static_cast<int>(pause));
    std::this_thread::sleep_for(std::chrono::microseconds(pause));
    kill(child, signal);
    int status = 0;
    waitpid(child, &status, 0);
    return status;
  }

  // Every file of the two runs whose name starts so, byte for byte.
  void expect_same(const std::string& a, const std::string& b,
                   const std::string& prefix) const {
    std::set<std::string> names, others;
    for (const auto& entry : fs::recursive_directory_iterator(path(a)))
      names.insert(fs::relative(entry.path(), path(a)));
    for (const auto& entry : fs::recursive_directory_iterator(path(b)))
      others.insert(fs::relative(entry.path(), path(b)));
    int compared = 0;
    for (const std::string& name : names) {
      if (!name.starts_with(prefix) || !name.ends_with(".safetensors")) continue;
      EXPECT_TRUE(others.contains(name)) << name;
      EXPECT_TRUE(content(path(a + "/" + name)) == content(path(b + "/" + name))) << name;
      ++compared;
    }
    EXPECT_GT(compared, 0) << prefix;
  }

  // Killed, resumed, interrupted by Ctrl-C, resumed by the command that was printed: as
  // if nothing had happened.
  void goes_on_to_the_byte(const std::string& config) const {
    trained("--config " + config + " --outdir whole --nosubdir");
    const pid_t killed = start({"--config", config, "--outdir", "parts", "--nosubdir"});
    const int died = interrupt(killed, "parts", 0, SIGKILL);
    ASSERT_TRUE(WIFSIGNALED(died)) << "finished before it was killed";
    const int64_t saved = images_saved("parts");

    const pid_t again = start({"--resume", "parts"});
    const int stopped = interrupt(again, "parts", saved, SIGINT);
    const std::string said = content(path("background.txt"));
    ASSERT_TRUE(WIFEXITED(stopped)) << said;
    ASSERT_EQ(WEXITSTATUS(stopped), 130) << said;
    EXPECT_THAT(said, HasSubstr("continuing from training-state-"));
    const std::string command = "flowmap train --resume ";
    const auto at = said.find(command);
    ASSERT_NE(at, std::string::npos) << said;
    const std::string rest = said.substr(at + command.size());
    EXPECT_GT(images_saved("parts"), saved);

    trained("--resume " + rest.substr(0, rest.find('\n')));
    expect_same("whole", "parts", "network-snapshot-");
    // Weights, moments and averages of the last state.
    expect_same("whole", "parts",
                latest_state(path("whole"))->filename().string() + "/");
    EXPECT_EQ(images_saved("whole"), images_saved("parts"));
  }
};

TEST_F(Train, PointsGoOnToTheByte) { goes_on_to_the_byte("points.json"); }

TEST_F(Train, ImagesGoOnToTheByte) {
  goes_on_to_the_byte("images.json");
  // One file an average, and they differ.
  const std::string a = content(path("whole/network-snapshot-000000-h2k.safetensors"));
  EXPECT_GT(a.size(), 1000u);
  EXPECT_NE(a, content(path("whole/network-snapshot-000000-0.100.safetensors")));
}

TEST_F(Train, RunFolderHoldsWhatItShould) {
  trained("--config points.json --outdir runs --desc mine - trainer.duration=0.004 "
          "trainer.snap=2");
  const std::string run = "runs/00000-checkerboard-uncond-mlp-flow_matching-batch100-"
                          "fp32-mine";
  ASSERT_TRUE(fs::is_directory(path(run)));
  for (const char* name : {"reals.png", "curves.png", "000000.png", "000002.png",
                           "000004.png"})
    EXPECT_THAT(content(path(run + "/" + name)), StartsWith("\x89PNG")) << name;
  for (const char* name : {"network-snapshot-000000.safetensors",
                           "network-snapshot-000002.safetensors",
                           "network-snapshot-000004.safetensors"})
    EXPECT_TRUE(fs::exists(path(run + "/" + name))) << name;
  EXPECT_FALSE(fs::exists(path(run + "/network-snapshot-000001.safetensors")));
  // keep = 2
  EXPECT_FALSE(fs::exists(path(run + "/training-state-000002")));
  EXPECT_TRUE(fs::exists(path(run + "/training-state-000003")));
  EXPECT_TRUE(fs::exists(path(run + "/training-state-000004")));
  EXPECT_THAT(content(path(run + "/log.txt")),
              AllOf(HasSubstr("run folder: "), HasSubstr("kimg 4.0"),
                    HasSubstr("finished: ")));

  std::istringstream lines(content(path(run + "/stats.jsonl")));
  std::vector<json> stats;
  for (std::string line; std::getline(lines, line);) stats.push_back(json::parse(line));
  ASSERT_EQ(stats.size(), 5u);  // at 0, 1, 2, 3 and 4 kimg
  EXPECT_EQ(stats[3]["Progress/kimg"]["mean"], 3);
  EXPECT_EQ(stats[3]["Loss/loss"]["num"], 1000);
  EXPECT_EQ(stats[3]["Health/nan_steps"]["num"], 10);
  EXPECT_EQ(stats[3]["Health/nan_steps"]["mean"], 0);
  for (const char* key : {"Progress/tick", "Progress/lr", "Timing/total_sec",
                          "Timing/sec_per_tick", "Timing/sec_per_kimg",
                          "Timing/maintenance_sec", "Throughput/img_per_sec",
                          "Resources/cpu_mem_gb", "Health/grad_norm", "timestamp"})
    EXPECT_TRUE(stats[3].contains(key)) << key;

  // The resolved configuration runs by itself and gives the same run.
  fs::copy_file(path(run + "/training_options.json"), path("again.json"));
  trained("--config again.json --outdir runs");
  const std::string other =
      "runs/00001-checkerboard-uncond-mlp-flow_matching-batch100-fp32";
  expect_same(run, other, "network-snapshot-");
}

TEST_F(Train, GradientsThatAreNotFiniteAreCountedAndStopTheRun) {
  // The residual starts below 1, so w falls; at this rate exp(-w) leaves float32 in the
  // first step.
  const AppResult result = run(
      "train --config points.json --outdir bad --nosubdir - method.type=lsd method.eta=0 "
      "preconditioning.two_times=true preconditioning.log_weight=true trainer.lr=10 "
      "trainer.optimizer.type=adam trainer.max_bad_steps=4 trainer.tick=0.1");
  EXPECT_EQ(result.code, 1) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr("not finite in 4 steps"),
                                HasSubstr("trainer.max_bad_steps")));
  const auto counted = [&] {
    int bad = 0;
    std::istringstream lines(content(path("bad/stats.jsonl")));
    for (std::string line; std::getline(lines, line);) {
      const json stats = json::parse(line);
      bad += stats.contains("Health/nan_steps") && stats["Health/nan_steps"]["mean"] == 1;
    }
    return bad;
  };
  EXPECT_EQ(counted(), 4);
  // What is on the disk is sound.
  const auto state = latest_state(path("bad"));
  ASSERT_TRUE(state);
  const Checkpoint checkpoint = load_checkpoint(*state);
  EXPECT_EQ(checkpoint.bad_steps, 3);
  for (const auto& [part, tensors] : checkpoint.parts)
    for (const auto& [name, tensor] : tensors)
      EXPECT_TRUE(tensor.isfinite().all().item<bool>()) << part << " " << name;
  // And the count goes on where it was.
  refused("--resume bad", 1, "not finite in 4 steps");
  EXPECT_EQ(counted(), 5);
}

TEST_F(Train, WrongSettingsAreNamed) {
  const std::string points = "--config points.json --outdir runs - ";
  refused(points + "trainer.batchs=64", 2, "batch");
  refused(points + "network.width=0", 2, "network.width");
  refused(points + "trainer.batch_gpu=7", 2, "trainer.batch_gpu");
  refused(points + "method.type=lsd", 2, "two_times");
  refused(points + "trainer.precision=fp8", 2, "trainer.precision");
  refused(points + "data.type=checkers", 2, "checkerboard");
  refused("--config missing.json --outdir runs", 2, "missing.json");
  refused("--config points.json", 2, "--outdir");
  refused("--config points.json --nosubdir", 2, "--outdir");
  refused("--config points.json --outdir runs --bathc 3", 2, "--bathc");
  fs::create_directories(path("empty"));
  refused("--resume empty", 2, "no complete training-state");
  refused("--resume nowhere", 2, "nowhere");
  EXPECT_FALSE(fs::exists(path("runs")));
}

TEST_F(Train, ContinuingRefusesAnotherNetwork) {
  trained("--config points.json --outdir run --nosubdir - trainer.duration=0.002");
  const std::string before = content(path("run/training_options.json"));
  const std::string changes[] = {"network.width=32", "preconditioning.sigma_data=0.5",
                                 "trainer.batch=50", "trainer.seed=9",
                                 "trainer.optimizer.type=adam", "data.type=moons"};
  for (const std::string& change : changes)
    refused("--resume run - trainer.duration=0.004 " + change, 2, "cannot continue");
  EXPECT_EQ(content(path("run/training_options.json")), before);
  // The rate and the length may change; the log says so.
  const AppResult result =
      run("train --resume run - trainer.lr=2e-3 trainer.duration=0.004");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("continuing from training-state-000002"),
                                HasSubstr("changed since the run began: trainer.lr")));
}

TEST_F(Train, NosubdirContinuesWhatIsThere) {
  const std::string base = "--config points.json --nosubdir --outdir ";
  trained(base + "whole - trainer.duration=0.004");
  trained(base + "parts - trainer.duration=0.002");
  const AppResult result = run("train " + base + "parts - trainer.duration=0.004");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("continuing from training-state-000002"));
  expect_same("whole", "parts", "network-snapshot-000004");
  // Nothing is left to do: it says so and changes nothing.
  const std::string snapshot = content(path("parts/network-snapshot-000004.safetensors"));
  trained(base + "parts - trainer.duration=0.004");
  EXPECT_EQ(content(path("parts/network-snapshot-000004.safetensors")), snapshot);
}

TEST_F(Train, TransferSaysWhatItTook) {
  save("one.safetensors", R"({"network": {"type": "mlp", "width": 16, "depth": 2},
    "preconditioning": {"type": "flow"}, "sample_shape": [2], "label_dim": 0})");
  const std::string points = "--config points.json --transfer one.safetensors --nosubdir "
                             "--outdir ";
  const AppResult result = run("train " + points + "run - trainer.duration=0.002");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("transfer: 6 of 6 tensors of "),
                                HasSubstr("one.safetensors copied (of the model's 6)")));
  // Weights of a run that goes on are its own.
  const AppResult again = run("train --resume run - trainer.duration=0.003");
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.out, Not(HasSubstr("transfer: ")));
  refused(points + "wide - network.width=24", 2, "network.width is 16 there, 24 here");
  refused(points + "key - transfer_options.key=emma", 2, "transfer_options");
  EXPECT_FALSE(fs::exists(path("wide")));
}

TEST_F(Train, DryRunWritesNothing) {
  std::set<fs::path> before;
  for (const auto& entry : fs::recursive_directory_iterator(folder_))
    before.insert(entry.path());
  const AppResult result = run("train --config images.json --outdir runs --dry-run");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("parameters"), HasSubstr("GFLOP an image"),
                                HasSubstr("memory:"), HasSubstr("\"jvp_dtype\"")));
  for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
    const std::string name = entry.path().filename();
    EXPECT_TRUE(before.contains(entry.path()) || name == "stdout.txt" ||
                name == "stderr.txt")
        << entry.path();
  }
}

// EDM's flags are twins of keys: the resolved configuration is the same.
TEST_F(Train, EdmFlagsEqualKeys) {
  const AppResult flags = run(
      "train -n --data pictures --cond 1 --arch ddpmpp --precond edm --batch 4 "
      "--batch-gpu 2 --duration 0.5 --lr 2e-3 --dropout 0.1 --cbase 8 --cres 1,1 "
      "--ema 0.25 --xflip 1 --augment 0.15 --tick 3 --snap 7 --dump 9 --seed 5 --threads 1 "
      "--precision bf16 --device cpu --workers 2 --bench 1 --cache 1");
  ASSERT_EQ(flags.code, 0) << flags.err;
  put_file(path("keys.json"), R"({
    "data": {"type": "auto", "path": "pictures", "labels": true},
    "network": {"type": "ddpmpp", "model_channels": 8, "channel_mult": [1, 1],
                "dropout": 0.1},
    "preconditioning": {"type": "edm"}, "method": {"type": "edm"},
    "trainer": {"batch": 4, "batch_gpu": 2, "duration": 0.5, "lr": 2e-3,
                "lr_rampup": 10000000, "ema": [{"type": "halflife", "images": 250000}],
                "xflip": true, "augment": 0.15, "tick": 3, "snap": 7, "dump": 9,
                "seed": 5, "threads": 1,
                "precision": "bf16", "device": "cpu"}})");
  const AppResult keys = run("train -n --config keys.json");
  ASSERT_EQ(keys.code, 0) << keys.err;
  // The configuration ends where the summary begins.
  const auto options = [](const std::string& out) {
    return json::parse(out.substr(0, out.find("\ndata:")));
  };
  EXPECT_EQ(json::diff(options(flags.out), options(keys.out)), json::array());
  EXPECT_EQ(options(flags.out)["trainer"]["batch_gpu"], 2);
  // Suffixes of counts, and flags on top of a file.
  const AppResult suffixes = run(
      "train -n --config points.json --duration 3Ki --batch 50 - trainer.tick=2Ki");
  ASSERT_EQ(suffixes.code, 0) << suffixes.err;
  EXPECT_THAT(suffixes.out, AllOf(HasSubstr("batch 50 in"), HasSubstr("0.003 Mimg"),
                                  Not(HasSubstr("\"batch\": 100"))));
}

}  // namespace
}  // namespace flowmap::testing
