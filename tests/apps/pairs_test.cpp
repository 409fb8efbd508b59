// flowmap pairs: what it writes, that a kill leaves nothing wrong, and that verify notices
// what is.
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>

#include "flowmap/data/dataset.h"
#include "flowmap/pairs/pair_store.h"
#include "flowmap/tensor_io.h"
#include "tests/apps/app_fixture.h"
#include "tests/support/scratch.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class Pairs : public AppTest {
 protected:
  void refused(const std::string& arguments, int code, const std::string& what) const {
    const AppResult result = run("pairs " + arguments);
    EXPECT_EQ(result.code, code) << arguments << "\n" << result.err;
    EXPECT_THAT(result.err, AllOf(::testing::StartsWith("flowmap pairs: "), HasSubstr(what)))
        << arguments;
  }
  AppResult make(const std::string& arguments) const {
    const AppResult result = run("pairs " + arguments);
    EXPECT_EQ(result.code, 0) << arguments << "\n" << result.err;
    return result;
  }
  // Names and bytes of all but the note of sums.
  std::map<std::string, std::string> files(const std::string& folder) const {
    std::map<std::string, std::string> found;
    for (const auto& entry : fs::directory_iterator(path(folder)))
      if (entry.path().filename() != "checked.json")
        found[entry.path().filename().string()] = content(entry.path().string());
    return found;
  }
  // Shards alone; commands differ between folders.
  std::map<std::string, std::string> shards(const std::string& folder) const {
    auto found = files(folder);
    found.erase("pairs.json");
    return found;
  }
  // Sends `signal` when the second shard is there; the exit code as the shell has it.
  int stopped(const std::string& arguments, const std::string& dest,
              const std::string& signal) const {
    const std::string script =
        "cd '" + folder_.string() + "'; '" + std::getenv("FLOWMAP_BINARY") + "' pairs " +
        arguments + " --dest " + dest + " >stopped.txt 2>&1 & pid=$!; cd '" +
        folder_.string() + "'; while ! [ -f " + dest +
        "/pairs-000001.safetensors ] && kill -0 $pid; do sleep 0.01; done; sleep 0.08; kill -" +
        signal + " $pid; wait $pid";
    return WEXITSTATUS(std::system(script.c_str()));
  }
};

TEST_F(Pairs, AreWhatGenerateMakes) {
  save("m.st", kTinyConditional);
  const AppResult made =
      make("--network m.st --seeds 10-29 --steps 3 --solver heun --dest p --shard-size 8 "
           "--dtype-images f32");
  EXPECT_THAT(made.out, HasSubstr("20 pairs in p (3 shards)"));
  ASSERT_EQ(run("generate --network m.st --seeds 10-29 --steps 3 --solver heun --batch 8 "
                "--raw g.st --npz g.npz").code, 0);
  const PairStore store(path("p"));
  const at::Tensor rows = at::arange(20);
  const at::Tensor samples = load_tensors(path("g.st")).at("images");
  EXPECT_LT((store.images(rows) - samples).abs().max().item<float>(), 1e-5);
  const Draw draw = Draw::per_seed(store.seeds(rows));
  EXPECT_EQ(store.seeds(rows).front(), 10u);
  EXPECT_TRUE(store.noise(rows).equal(draw.normal("latents", {3, 4, 4})));
  EXPECT_TRUE(store.classes(rows).equal(draw.integer("class", {}, 3)));
  EXPECT_EQ(store.recipe().solver, "heun");
  EXPECT_EQ(store.recipe().times.size(), 4u);
  // One class for all, halves and bytes.
  make("--network m.st --num 5 --steps 1 --class 2 --dest c");
  const PairStore classes(path("c"));
  EXPECT_TRUE(classes.classes(at::arange(5)).eq(2).all().item<bool>());
  EXPECT_EQ(classes.recipe().images, DType::U8);  // pictures
  make("--network m.st --num 5 --steps 1 --class 2 --dest h --dtype-images f16");
  const PairStore halves(path("h"));
  EXPECT_TRUE(images_to_bytes(halves.images(at::arange(5)))
                  .to(at::kInt)
                  .sub(classes.images(at::arange(5)).to(at::kInt))
                  .abs()
                  .le(1)
                  .all()
                  .item<bool>());
}

TEST_F(Pairs, AKilledRunGoesOnToTheByte) {
  save("m.st", kTinyFlowMap);
  const std::string base =
      "--network m.st --num 36 --steps 64 --solver euler --batch 1 --shard-size 4";
  make(base + " --dest whole");
  EXPECT_EQ(stopped(base, "killed", "KILL"), 128 + 9);
  auto left = shards("killed");
  ASSERT_GE(left.size(), 2u);
  ASSERT_LT(left.size(), 9u) << "it was over before it was killed";
  // What is there is whole.
  for (const auto& [file, bytes] : left)
    if (file.ends_with(".safetensors")) { EXPECT_EQ(bytes, shards("whole").at(file)) << file; }
  const AppResult more = make(base + " --dest killed");
  EXPECT_THAT(more.out, HasSubstr("of them there already"));
  EXPECT_EQ(files("killed"), files("whole"));

  EXPECT_EQ(stopped(base, "interrupted", "INT"), 130);
  EXPECT_THAT(content(path("stopped.txt")),
              AllOf(HasSubstr("interrupted after"), HasSubstr("of 36 pairs"),
                    HasSubstr("the same command makes the rest")));
  ASSERT_LT(shards("interrupted").size(), 9u);
  EXPECT_EQ(run("pairs verify interrupted --network m.st").code, 1);  // not complete
  make(base + " --dest interrupted");
  EXPECT_EQ(files("interrupted"), files("whole"));
  // Nothing left to do, and a lost shard comes back alone.
  EXPECT_THAT(make(base + " --dest whole").out, HasSubstr("36 of them there already"));
  fs::remove(path("whole/pairs-000003.safetensors"));
  EXPECT_THAT(make(base + " --dest whole").out, HasSubstr("32 of them there already"));
  EXPECT_EQ(files("whole"), files("killed"));
}

TEST_F(Pairs, MergedMachinesEqualOneRun) {
  save("m.st", kTinyPoints);
  const std::string base = "--network m.st --steps 2 --shard-size 16 --batch 1";
  make(base + " --seeds 0-99 --dest whole");
  make(base + " --seeds 37-99 --dest b");
  make(base + " --seeds 0-36 --dest a");
  EXPECT_THAT(make("merge --dest m b a").out, HasSubstr("100 pairs, seeds 0-99"));
  EXPECT_EQ(shards("m"), shards("whole"));
  make(base + " --seeds 99-120 --dest c");
  refused("merge --dest n a c b", 2, "seed 99 is in");
  make(base + " --solver euler --seeds 200-220 --dest d");
  refused("merge --dest n a d", 2, "solver");
  EXPECT_EQ(make("merge --dest one a").out.find("error"), std::string::npos);
}

TEST_F(Pairs, VerifyNoticesWhatIsWrong) {
  save("m.st", kTinyFlowMap);
  save("other.st", kTinyFlowMap, {{"note", "the same weights in another file"}});
  for (const char* dtype : {"u8", "f16", "f32"}) {
    make(std::string("--network m.st --num 40 --steps 2 --shard-size 16 --dtype-images ") +
         dtype + " --dest " + dtype);
    const AppResult good =
        run(std::string("pairs verify ") + dtype + " --network m.st --num 33 --batch 7");
    EXPECT_EQ(good.code, 0) << good.err;
    EXPECT_THAT(good.out, AllOf(HasSubstr("33 of 40 pairs made again"), HasSubstr("noise: mean")));
  }
  refused("verify f32 --network other.st", 2, "is not the network that made these pairs");
  // A folder in order whose samples another teacher made.
  const PairStore store(path("f32"));
  PairManifest manifest = store.manifest();
  PairWriter writer(path("wrong"), manifest, {{0, 40}});
  at::Tensor images = store.images(at::arange(40)).clone();
  images[17][0][3][3] += 0.25;
  for (std::size_t i = 0; i < 3; ++i)
    writer.write(i, images.slice(0, 16 * static_cast<int64_t>(i),
                                 std::min<int64_t>(16 * static_cast<int64_t>(i) + 16, 40)),
                 {}, {});
  refused("verify wrong --network m.st --num 40", 1, "the sample of seed 17 is off by 0.25");
  EXPECT_EQ(run("pairs verify wrong --network m.st --num 40 --tolerance 0.3").code, 0);
  // Cut, altered, gone.
  const std::string shard = path("f32/pairs-000001.safetensors");
  std::string bytes = content(shard);
  bytes[bytes.size() - 2] ^= 1;
  put_file(shard, bytes);
  refused("verify f32 --network m.st", 1, "pairs-000001.safetensors");
  refused("verify f32 --network m.st", 1, "was altered");
  put_file(shard, bytes.substr(0, 100));
  refused("verify f32 --network m.st", 1, "is cut: 100 bytes");
  fs::remove(shard);
  refused("verify f32 --network m.st", 1, "--seeds 0-39 --shard-size 16 --dest 'f32'");
  const AppResult inspected = run("pairs inspect f32");
  EXPECT_THAT(inspected.out, AllOf(HasSubstr("2 of 3 whole"), HasSubstr("is missing"),
                                   HasSubstr("seeds 0-39"), HasSubstr("m.st")));
  // The command that the error names.
  make("--network m.st --num 40 --steps 2 --shard-size 16 --dtype-images f32 --dest f32");
  EXPECT_EQ(run("pairs verify f32 --network m.st").code, 0);
}

TEST_F(Pairs, FlipsPicturesAndGuidance) {
  save("m.st", kTinyConditional);
  make("--network m.st --num 12 --steps 2 --guidance 2 --dest p --dtype-images f32");
  const AppResult result = run("pairs verify p --network m.st --flip");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("horizontal flip:"), HasSubstr("vertical flip:")));
  EXPECT_EQ(PairStore(path("p")).recipe().guidance, 2);
  make("--network m.st --num 12 --steps 2 --dest q --dtype-images f32");
  EXPECT_GT((PairStore(path("p")).images(at::arange(12)) -
             PairStore(path("q")).images(at::arange(12))).abs().max().item<float>(), 1e-3);
  refused("merge --dest r p q", 2, "guidance");
  ASSERT_EQ(run("pairs inspect p --picture p.png").code, 0);
  EXPECT_TRUE(fs::exists(path("p.png")));
  refused("inspect p --picture p.png", 2, "--overwrite");
}

TEST_F(Pairs, ImagesWithInvertedNoise) {
  save("m.st", kTinyDenoiser);
  fs::create_directories(path("pictures"));
  std::string pixels = big(0x803, 4) + big(9, 4) + big(4, 4) + big(4, 4);
  for (int i = 0; i < 9 * 16; ++i) pixels += static_cast<char>(i * i * 37 % 251);
  put_file(path("pictures/train-images-idx3-ubyte"), pixels);
  make("--network m.st --images pictures --steps 32 --shard-size 4 --dest p");
  const PairStore store(path("p"));
  ASSERT_EQ(store.count(), 9);
  EXPECT_TRUE(store.recipe().stored_noise);
  EXPECT_EQ(store.images(at::arange(9)).flatten()[7].item<int>(), 7 * 7 * 37 % 251);
  ASSERT_EQ(run("invert --network m.st --images pictures --steps 32 --dest z.npz").code, 0);
  // The noise leads back to the images.
  save_tensors(path("z.st"), {{"latents", store.noise(at::arange(9))}});
  ASSERT_EQ(run("generate --network m.st --latents z.st --solver heun --steps 32 --raw g.st")
                .code, 0);
  const at::Tensor back = load_tensors(path("g.st")).at("images");
  EXPECT_LT((back - samples_to_float(store.images(at::arange(9)))).abs().max().item<float>(),
            0.05);
  EXPECT_EQ(run("pairs verify p --network m.st").code, 0);
  refused("--network m.st --images pictures --num 10 --dest q", 2, "holds 9 images");
}

TEST_F(Pairs, BadInput) {
  save("m.st", kTinyPoints);
  refused("--network m.st --dest p", 2, "give --num or --seeds");
  refused("--network m.st --num 4 --seeds 0-3 --dest p", 2, "exclude each other");
  refused("--network m.st --seeds 3,2 --dest p", 2, "--seeds: 2 after 3");
  refused("--network m.st --num 4", 2, "--dest is missing");
  refused("--num 4 --dest p", 2, "--network is required");
  refused("--network m.st --num 4 --dest p --dtype-images u8", 2, "are no pictures");
  refused("--network m.st --num 4 --dest p --class 1", 2, "without classes");
  refused("verfy p", 2, "did you mean 'verify'");
  refused("verify p --network m.st", 2, "no pairs there");
  EXPECT_FALSE(fs::exists(path("p")));
  make("--network m.st --num 4 --steps 2 --dest p");
  refused("--network m.st --num 5 --steps 2 --dest p", 2, "is for seeds 0-3, not 0-4");
  refused("--network m.st --num 4 --steps 3 --dest p", 2, "holds other pairs");
}

TEST_F(Pairs, ANetworkOfNaNLeavesNoShard) {
  auto model = random_model(kTinyPoints);
  // Load refuses weights that are not finite; too large ones overflow on the way.
  const at::NoGradGuard no_grad;
  for (at::Tensor& p : model->parameters()) p.mul_(1e30);
  save_snapshot(path("m.st"), *model, kTinyPoints, {});
  refused("--network m.st --seeds 7-9 --steps 2 --dest p", 1, "of seed 7 is not finite");
  EXPECT_TRUE(shards("p").empty());
}

TEST_F(Pairs, TrainOnThemAndGoOnToTheByte) {
  save("m.st", kTinyFlowMap);
  make("--network m.st --num 40 --steps 2 --shard-size 16 --dtype-images f32 --dest p");
  put_file(path("run.json"), R"({
    "data": {"path": "p", "flip": true},
    "network": {"type": "mlp", "width": 16, "depth": 2},
    "preconditioning": {"type": "flow"},
    "method": {"type": "flow_matching"},
    "trainer": {"duration": 160e-6, "batch": 8, "batch_gpu": 4, "lr": 1e-3, "tick": 0.04,
                "snap": 0, "dump": 1, "ema": [{"images": 2000}], "threads": 1, "seed": 4}
  })");
  ASSERT_EQ(run("train --config run.json --outdir whole --nosubdir").code, 0);
  ASSERT_EQ(run("train --config run.json --outdir parts --nosubdir --duration 80e-6").code, 0);
  ASSERT_EQ(run("train --config run.json --outdir parts --nosubdir").code, 0);
  const std::string snapshot = "/network-snapshot-000000.safetensors";
  EXPECT_EQ(content(path("whole" + snapshot)), content(path("parts" + snapshot)));
  EXPECT_THAT(content(path("whole/log.txt")), HasSubstr("pairs-m-8x8, 40 samples"));
  ASSERT_EQ(run("train --config run.json --outdir plain --nosubdir - data.flip=false").code,
            0);
  EXPECT_NE(content(path("whole" + snapshot)), content(path("plain" + snapshot)));
}

}  // namespace
}  // namespace flowmap::testing
