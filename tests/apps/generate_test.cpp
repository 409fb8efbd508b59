// flowmap generate: what it writes, that an image is its seed's alone, and what it says to
// bad input.
#include <cmath>
#include <iostream>
#include <string>
#include <vector>

#include "flowmap/formats/zip.h"
#include "flowmap/formats/image.h"
#include "flowmap/formats/npy.h"
#include "flowmap/data/dataset.h"
#include "flowmap/tensor_io.h"
#include "tests/apps/app_fixture.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class Generate : public AppTest {
 protected:
  void refused(const std::string& arguments, int code, const std::string& what) const {
    const AppResult result = run("generate " + arguments);
    EXPECT_EQ(result.code, code) << arguments << "\n" << result.err;
    EXPECT_THAT(result.err, StartsWith("flowmap generate: ")) << arguments;
    EXPECT_THAT(result.err, HasSubstr(what)) << arguments;
    // One line.
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  }
  at::Tensor raw(const std::string& file) const {
    return load_tensors(path(file)).at("images");
  }
};

TEST_F(Generate, ImagesDependOnTheirSeedAlone) {
  save("m.safetensors", kTinyFlowMap);
  for (const char* batch : {"1", "7", "64"}) {
    const AppResult result =
        run("generate --network m.safetensors --seeds 0-19 --steps 2 --batch " +
            std::string(batch) + " --raw b" + batch + ".st");
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr("20 images in"));
    EXPECT_THAT(result.out, HasSubstr("2 network evaluations an image, 40 in all"));
  }
  const at::Tensor whole = raw("b64.st");
  EXPECT_EQ(whole.sizes(), (std::vector<int64_t>{20, 1, 8, 8}));
  EXPECT_GT(whole.std(0).min().item<float>(), 0.01);  // the seeds differ everywhere
  for (const char* file : {"b1.st", "b7.st"}) {
    EXPECT_LT((raw(file) - whole).abs().max().item<float>(), 1e-4);
    const at::Tensor levels = images_to_bytes(raw(file)).to(at::kInt) -
                              images_to_bytes(whole).to(at::kInt);
    EXPECT_LE(levels.abs().max().item<int>(), 1);
    // At most one byte in a hundred; how many says the log.
    const auto differ = levels.ne(0).sum().item<int64_t>();
    RecordProperty(std::string("bytes_that_differ_") + file, std::to_string(differ));
    std::cout << "--batch " << (file[1] == '1' ? 1 : 7) << " against 64: " << differ
              << " of " << levels.numel() << " bytes differ, floats by at most "
              << (raw(file) - whole).abs().max().item<float>() << "\n";
    EXPECT_LE(differ * 100, levels.numel());
  }
  // Order and company do not matter.
  ASSERT_EQ(run("generate --network m.safetensors --seeds 13,4 --steps 2 --raw c.st").code,
            0);
  EXPECT_LT((raw("c.st")[0] - whole[13]).abs().max().item<float>(), 1e-4);
  EXPECT_LT((raw("c.st")[1] - whole[4]).abs().max().item<float>(), 1e-4);
}

TEST_F(Generate, EqualRunsGiveEqualBytes) {
  save("m.safetensors", kTinyFlowMap);
  for (const char* name : {"a", "b"})
    ASSERT_EQ(run(std::string("generate --network m.safetensors --seeds 0-9 --grid ") +
                  name + ".png --npz " + name + ".npz --raw " + name + ".st").code, 0);
  for (const char* ending : {".png", ".npz", ".st"})
    EXPECT_EQ(content(path(std::string("a") + ending)),
              content(path(std::string("b") + ending)));
}

TEST_F(Generate, FilesAndTexts) {
  save("m.safetensors", kTinyConditional);
  const AppResult result =
      run("generate --network=m.safetensors --outdir=out --seeds=998-1001 --subdirs "
          "--class=2,0,1,2 --steps=3 --solver=heun --npz=s.npz --grid=g.png --raw=r.st");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("6 network evaluations an image"));
  EXPECT_TRUE(fs::exists(path("out/000000/000998.png")));
  EXPECT_TRUE(fs::exists(path("out/001000/001001.png")));
  const std::string png = content(path("out/001000/001000.png"));
  const auto texts = read_png_texts(std::as_bytes(std::span(png)), "png");
  EXPECT_EQ(texts.at("seed"), "1000");
  EXPECT_EQ(texts.at("class"), "1");
  EXPECT_EQ(texts.at("steps"), "3");
  EXPECT_EQ(texts.at("network"), "m.safetensors");
  const auto arrays = read_npz(path("s.npz"));
  const HostTensor& images = arrays.at("arr_0");
  EXPECT_EQ(images.dtype, DType::U8);
  EXPECT_EQ(images.shape, (std::vector<int64_t>{4, 4, 4, 3}));
  const at::Tensor labels = to_tensor(arrays.at("arr_1"));
  EXPECT_TRUE(labels.equal(at::tensor({2, 0, 1, 2}, at::kLong)));
  // The same picture in the three files: PNG, npz row, bytes of the floats.
  const Image picture = read_image(path("out/001000/001000.png"));
  const at::Tensor rows = to_tensor(images)[2].contiguous();
  EXPECT_EQ(std::memcmp(picture.pixels.data(), rows.data_ptr(), 48), 0);
  EXPECT_TRUE(images_to_bytes(raw("r.st"))[2].permute({1, 2, 0}).equal(rows));
  const Image grid = read_image(path("g.png"));
  EXPECT_EQ(grid.height, 4);
  EXPECT_EQ(grid.width % 4, 0);
}

TEST_F(Generate, GridHasEightColumns) {
  save("m.safetensors", kTinyDenoiser);
  ASSERT_EQ(run("generate --network m.safetensors --seeds 0-9 --steps 2 --grid g.png").code,
            0);
  const Image grid = read_image(path("g.png"));
  EXPECT_EQ(grid.width, 32);
  EXPECT_EQ(grid.height, 8);
}

TEST_F(Generate, ClassOfASeedIsFixedAndChangeable) {
  save("m.safetensors", kTinyConditional);
  const std::string base = "generate --network m.safetensors --steps 1 --seeds ";
  ASSERT_EQ(run(base + "0-29 --npz a.npz").code, 0);
  ASSERT_EQ(run(base + "10-19 --batch 3 --npz b.npz").code, 0);
  const at::Tensor a = to_tensor(read_npz(path("a.npz")).at("arr_1"));
  const at::Tensor b = to_tensor(read_npz(path("b.npz")).at("arr_1"));
  EXPECT_TRUE(a.slice(0, 10, 20).equal(b));
  EXPECT_EQ(at::bincount(a, {}, 3).gt(0).sum().item<int64_t>(), 3);  // all three occur
  // Latents are the seed's whatever the class; the image is not.
  ASSERT_EQ(run(base + "0-2 --class 0 --raw c0.st").code, 0);
  ASSERT_EQ(run(base + "0-2 --class 1 --raw c1.st").code, 0);
  EXPECT_GT((raw("c0.st") - raw("c1.st")).abs().max().item<float>(), 1e-3);
}

TEST_F(Generate, LatentsFromFilesEqualTheSeeds) {
  save("m.safetensors", kTinyFlowMap);
  const at::Tensor latents = Draw::per_seed({3, 5}).normal("latents", {1, 8, 8});
  save_tensors(path("z.safetensors"), {{"latents", latents}});
  write_npz(path("z.npz"), {{"latents", to_host(latents)}});
  const std::string base = "generate --network m.safetensors --steps 2 ";
  ASSERT_EQ(run(base + "--seeds 3,5 --raw s.st").code, 0);
  ASSERT_EQ(run(base + "--latents z.safetensors --raw a.st").code, 0);
  ASSERT_EQ(run(base + "--latents z.npz --raw b.st").code, 0);
  EXPECT_TRUE(raw("a.st").equal(raw("s.st")));
  EXPECT_TRUE(raw("b.st").equal(raw("s.st")));
  refused("--network m.safetensors --latents z.npz --seeds 1 --raw c.st", 2, "exclude");
  save_tensors(path("w.safetensors"), {{"latents", at::zeros({2, 1, 4, 4})}});
  refused("--network m.safetensors --latents w.safetensors --raw c.st", 2, "[1, 8, 8]");
  refused("--network m.safetensors --latents m.safetensors --raw c.st", 1, "latents");
}

TEST_F(Generate, PointsGoToNpzAndRaw) {
  save("m.safetensors", kTinyPoints);
  const AppResult result =
      run("generate --network m.safetensors --seeds 0-99 --npz p.npz --raw p.st");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("100 points"));
  const at::Tensor points = to_tensor(read_npz(path("p.npz")).at("points"));
  EXPECT_EQ(points.sizes(), (std::vector<int64_t>{100, 2}));
  EXPECT_EQ(points.scalar_type(), at::kFloat);
  EXPECT_TRUE(points.equal(load_tensors(path("p.st")).at("points")));
  refused("--network m.safetensors --outdir out", 2, "--npz or --raw");
  refused("--network m.safetensors --grid g.png", 2, "--npz or --raw");
}

// Four channels are no picture; clipped to bytes they could not be decoded.
TEST_F(Generate, LatentsStayFloats) {
  save("m.safetensors", R"({"network": {"type": "mlp", "width": 16, "depth": 2},
    "preconditioning": {"type": "flow"}, "sample_shape": [4, 4, 4], "label_dim": 3})");
  const std::string base = "generate --network m.safetensors --seeds 0-9 --steps 2 ";
  const AppResult result = run(base + "--npz l.npz --raw l.st");
  ASSERT_EQ(result.code, 0) << result.err;
  const auto arrays = read_npz(path("l.npz"));
  EXPECT_EQ(arrays.size(), 2u);
  EXPECT_TRUE(arrays.contains("labels"));
  const at::Tensor samples = to_tensor(arrays.at("samples"));
  EXPECT_EQ(samples.sizes(), (std::vector<int64_t>{10, 4, 4, 4}));
  EXPECT_EQ(samples.scalar_type(), at::kFloat);
  EXPECT_TRUE(samples.equal(raw("l.st")));
  EXPECT_GT(samples.abs().max().item<float>(), 1);  // beyond what bytes hold
  ASSERT_EQ(run(base + "--npz d.npz --dtype float64").code, 0);
  EXPECT_EQ(to_tensor(read_npz(path("d.npz")).at("samples")).scalar_type(), at::kFloat);
  refused("--network m.safetensors --outdir out", 2, "--npz or --raw");
  refused("--network m.safetensors --grid g.png", 2, "--npz or --raw");
}

TEST_F(Generate, DefaultsOfTheSnapshotAreFollowed) {
  save("m.safetensors", kTinyFlowMap,
       {{"method", R"({"default_sampler": "heun", "default_steps": 5})"}});
  const std::string base = "generate --network m.safetensors --seeds 0 --raw ";
  EXPECT_THAT(run(base + "a.st").out, HasSubstr("10 network evaluations"));
  EXPECT_THAT(run(base + "b.st --solver flow_map").out, HasSubstr("5 network"));
  EXPECT_THAT(run(base + "c.st --t_steps 0,0.3,1").out, HasSubstr("4 network"));
  save("d.safetensors", kTinyDenoiser);
  EXPECT_THAT(run("generate --network d.safetensors --seeds 0 --raw d.st").out,
              HasSubstr("35 network evaluations"));
  EXPECT_THAT(run("generate --network d.safetensors --seeds 0 --raw e.st --solver euler "
                  "--sigma_steps 10,2,0").out,
              HasSubstr("2 network evaluations"));
}

TEST_F(Generate, PrecisionsAgree) {
  save("m.safetensors", kTinyFlowMap);
  const std::string base = "generate --network m.safetensors --seeds 0-3 --steps 2 --raw ";
  ASSERT_EQ(run(base + "f.st").code, 0);
  ASSERT_EQ(run(base + "d.st --dtype float64").code, 0);
  ASSERT_EQ(run(base + "h.st --dtype bf16").code, 0);
  const at::Tensor exact = raw("d.st");
  EXPECT_EQ(exact.scalar_type(), at::kDouble);
  EXPECT_LT((raw("f.st") - exact).abs().max().item<double>(), 1e-4);
  const double reduced = (raw("h.st") - exact).abs().max().item<double>();
  EXPECT_GT(reduced, 1e-4);  // it did run in bf16
  EXPECT_LT(reduced, 0.3);
}

TEST_F(Generate, ExistingFilesAreKept) {
  save("m.safetensors", kTinyFlowMap);
  const std::string base = "generate --network m.safetensors --seeds 0-3 --outdir out ";
  ASSERT_EQ(run(base).code, 0);
  std::ofstream(path("out/000002.png")) << "mine";
  fs::remove(path("out/000001.png"));
  const AppResult again = run(base);
  EXPECT_EQ(again.code, 0);
  EXPECT_THAT(again.out, HasSubstr("kept 3 pictures"));
  EXPECT_THAT(again.out, HasSubstr("1 images in"));
  EXPECT_EQ(content(path("out/000002.png")), "mine");
  EXPECT_TRUE(fs::exists(path("out/000001.png")));
  // With more outputs all are computed, and the pictures are still kept.
  EXPECT_EQ(run(base + "--npz a.npz").code, 0);
  EXPECT_EQ(content(path("out/000002.png")), "mine");
  EXPECT_EQ(to_tensor(read_npz(path("a.npz")).at("arr_0")).size(0), 4);
  refused("--network m.safetensors --seeds 0 --npz a.npz", 2, "--overwrite");
  EXPECT_EQ(run(base + "--npz a.npz --overwrite").code, 0);
  EXPECT_NE(content(path("out/000002.png")), "mine");
  // A folder is no picture, and in the way of one.
  fs::remove(path("out/000003.png"));
  fs::create_directories(path("out/000003.png/inside"));
  refused("--network m.safetensors --seeds 0-3 --outdir out", 1, "000003.png");
  EXPECT_TRUE(fs::exists(path("out/000003.png/inside")));
}

// Stopped by a signal once the first picture is there. A shell's background jobs ignore
// SIGINT, so it is SIGTERM, which the program takes alike.
TEST_F(Generate, InterruptedRunsExitWith130AndContinue) {
  save("m.safetensors", kTinyFlowMap);
  const auto stopped = [&](const std::string& outputs) {
    const std::string script =
        "cd '" + folder_.string() + "'; rm -rf out; "
        "\"$FLOWMAP_BINARY\" generate --network m.safetensors --seeds 0-199999 --batch 1 "
        "--steps 1 --outdir out " + outputs + " >said 2>err & pid=$!; for i in $(seq 600); "
        "do [ -e '" + path("out/000000.png") + "' ] && break; sleep 0.05; done; "
        "kill -TERM $pid; wait $pid";
    const int status = std::system(script.c_str());
    EXPECT_EQ(WEXITSTATUS(status), 130) << content(path("err"));
    return content(path("err"));
  };
  const std::string pictures = stopped("");
  EXPECT_THAT(pictures, StartsWith("flowmap generate: interrupted after "));
  EXPECT_THAT(pictures, HasSubstr("pictures finished so far are in out; the same command "
                                  "continues"));
  EXPECT_TRUE(fs::exists(path("out/000000.png")));
  const AppResult rest = run("generate --network m.safetensors --seeds 0-1 --outdir out");
  EXPECT_EQ(rest.code, 0);
  EXPECT_THAT(rest.out, HasSubstr("were there"));
  const std::string more = stopped("--npz a.npz --grid g.png");
  EXPECT_THAT(more, HasSubstr("nothing of --grid, --npz was written"));
  EXPECT_THAT(more, HasSubstr("makes all samples anew"));
  EXPECT_FALSE(fs::exists(path("a.npz")) || fs::exists(path("g.png")));
}

TEST_F(Generate, SolverOptionsReachTheSolver) {
  save("d.safetensors", kTinyDenoiser);
  save("m.safetensors", kTinyFlowMap);
  const std::string d = "generate --network d.safetensors --seeds 0-3 --steps 6 --raw ";
  ASSERT_EQ(run(d + "plain.st").code, 0);
  // Two spellings of one thing, each from the same seeds.
  ASSERT_EQ(run(d + "a.st --S_churn 3 --S_min 0.1 --S_max 40 --S_noise 1.01").code, 0);
  ASSERT_EQ(run(d + "b.st --solver-options churn=3,S_min=0.1 --solver-options S_max=40 "
                    "--S-noise=1.01 --batch 1").code, 0);
  EXPECT_LT((raw("a.st") - raw("b.st")).abs().max().item<float>(), 1e-4);
  EXPECT_GT((raw("a.st") - raw("plain.st")).abs().max().item<float>(), 1e-3);
  // The ablations: a grid, a variable, a scale.
  for (const char* flags : {"--disc vp", "--schedule vp", "--scaling vp", "--alpha 0.5",
                            "--disc iddpm --M 500 --C_2 0.01"}) {
    const AppResult result = run(d + "c.st --overwrite " + flags);
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr("11 network evaluations an image")) << flags;
    EXPECT_GT((raw("c.st") - raw("plain.st")).abs().max().item<float>(), 1e-6) << flags;
  }
  ASSERT_EQ(run(d + "same.st --schedule linear --scaling none --disc edm").code, 0);
  EXPECT_TRUE(raw("same.st").equal(raw("plain.st")));
  // Flow maps: noise between the jumps, one number or one a step.
  const std::string m = "generate --network m.safetensors --seeds 0-3 --steps 2 --raw ";
  ASSERT_EQ(run(m + "j0.st").code, 0);
  ASSERT_EQ(run(m + "j1.st --churn 0.7").code, 0);
  ASSERT_EQ(run(m + "j2.st --solver-options churn=0.7,1").code, 0);
  EXPECT_GT((raw("j1.st") - raw("j0.st")).abs().max().item<float>(), 1e-3);
  EXPECT_TRUE(raw("j2.st").equal(raw("j1.st")));  // nothing follows the last jump
  const std::string bad = "--network m.safetensors --raw x.st ";
  refused(bad + "--S_churn 1", 2, "--solver flow_map: --S_churn: unknown key 'S_churn'");
  refused(bad + "--churn 2", 2, "between 0 (none) and 1");
  refused(bad + "--churn ''", 2, "--churn");
  refused(bad + "--solver heun --solver-options alpa=1", 2, "did you mean 'alpha'");
  refused(bad + "--solver-options order", 2, "KEY=VALUE");
  refused(bad + "--solver heun --schedule vp", 2, "for denoisers");
  refused(bad + "--disc vp", 2, "--disc: for denoisers");
  refused("--network d.safetensors --raw x.st --disc cosine", 2, "unknown discretization");
  refused("--network d.safetensors --raw x.st --schedule cosine", 2, "schedule");
}

TEST_F(Generate, GuidanceByClassAndByAnotherNetwork) {
  save("c.safetensors", kTinyConditional);
  save("d.safetensors", kTinyDenoiser);
  const std::string base =
      "generate --network c.safetensors --seeds 0-3 --class 1 --steps 3 --raw ";
  ASSERT_EQ(run(base + "plain.st").code, 0);
  const AppResult one = run(base + "one.st --guidance 1");
  ASSERT_EQ(one.code, 0) << one.err;
  EXPECT_THAT(one.out, HasSubstr("3 network evaluations an image"));
  EXPECT_TRUE(raw("one.st").equal(raw("plain.st")));
  const AppResult guided = run(base + "g.st --guidance 2.5");
  ASSERT_EQ(guided.code, 0) << guided.err;
  EXPECT_THAT(guided.out, HasSubstr("6 network evaluations an image, 24 in all"));
  EXPECT_GT((raw("g.st") - raw("plain.st")).abs().max().item<float>(), 1e-3);
  // A guide that is the network itself changes nothing.
  ASSERT_EQ(run(base + "self.st --guidance 2.5 --gnet c.safetensors").code, 0);
  EXPECT_LT((raw("self.st") - raw("plain.st")).abs().max().item<float>(), 1e-4);
  const std::string bad = "--network c.safetensors --raw x.st ";
  refused(bad + "--gnet c.safetensors", 2, "by --guidance");
  refused(bad + "--guidance 2 --gnet d.safetensors", 2, "cannot guide");
  refused(bad + "--guidance 2 --gnet none.st", 2, "--gnet: none.st does not exist");
  refused("--network d.safetensors --raw x.st --guidance 2", 2, "no classes");
  EXPECT_FALSE(fs::exists(path("x.st")));
}

// A network that takes the scale is asked once a step.
TEST_F(Generate, GuidanceAsAnInput) {
  save("g.safetensors", R"({"network": {"type": "mlp", "width": 16, "depth": 2},
    "preconditioning": {"type": "flow", "two_times": true, "guidance_input": true},
    "sample_shape": [3, 4, 4], "label_dim": 3})");
  const std::string base =
      "generate --network g.safetensors --seeds 0-3 --class 1 --steps 2 --raw ";
  ASSERT_EQ(run(base + "plain.st").code, 0);
  const AppResult result = run(base + "g.st --guidance 3");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("2 network evaluations an image"));
  EXPECT_GT((raw("g.st") - raw("plain.st")).abs().max().item<float>(), 1e-4);
}

TEST_F(Generate, InterpolationRunsThroughTheSeeds) {
  save("c.safetensors", kTinyConditional);
  const std::string base = "generate --network c.safetensors --seeds 5,2,9 --steps 2 ";
  ASSERT_EQ(run(base + "--raw seeds.st --npz seeds.npz").code, 0);
  const AppResult result =
      run(base + "--interpolate 4 --raw path.st --npz path.npz --outdir out");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("9 images"));
  const at::Tensor path_images = raw("path.st"), seeds = raw("seeds.st");
  for (const int64_t i : {0, 1, 2})
    EXPECT_LT((path_images[4 * i] - seeds[i]).abs().max().item<float>(), 1e-4) << i;
  EXPECT_TRUE(fs::exists(path("out/000008.png")));
  // The class is that of the nearer seed.
  const at::Tensor ends = to_tensor(read_npz(path("seeds.npz")).at("arr_1"));
  const at::Tensor classes = to_tensor(read_npz(path("path.npz")).at("arr_1"));
  const at::Tensor nearer = at::tensor({0, 0, 1, 1, 1, 1, 2, 2, 2}, at::kLong);
  EXPECT_TRUE(classes.equal(ends.index_select(0, nearer)));
  refused("--network c.safetensors --seeds 5 --interpolate 4 --raw x.st", 2, "two seeds");
}

TEST_F(Generate, BadInputs) {
  save("m.safetensors", kTinyFlowMap);
  save("c.safetensors", kTinyConditional);
  const std::string m = "--network m.safetensors ";
  refused(m + "--seeds 5-1 --raw x.st", 2, "--seeds");
  refused(m + "--seeds 0-2000000000 --raw x.st", 2, "--seeds: 2000000001 items; at most");
  refused(m + "--steps 0 --raw x.st", 2, "--steps: at least 1, not 0");
  refused(m + "--steps 1048577 --raw x.st", 2, "--steps: at most 1048576, not 1048577");
  refused(m + "--steps '' --raw x.st", 2, "--steps: a whole number, not ''");
  refused(m + "--batch 0 --raw x.st", 2, "--batch: at least 1, not 0");
  refused(m + "--batch abc --raw x.st", 2, "--batch: a whole number, not 'abc'");
  refused(m + "--batch 99999999999999999999 --raw x.st", 2, "--batch: at most 92233720368");
  refused(m + "--batch 1 --batch 2 --raw x.st", 2, "--batch given twice");
  refused(m + "--raw x.st --overwrite=abc", 2, "--overwrite: takes no value");
  refused(m + "--raw x.st --batch", 2, "--batch: a value is missing");
  refused(m + "--raw x.st --qqqqqqqq", 2,
          "unknown option '--qqqqqqqq'; see flowmap generate --help");
  refused(m + "--raw x.st --t_steps ''", 2, "--t_steps: the list is empty; expected numbers");
  refused(m + "--raw x.st --sigma_steps ''", 2, "--sigma_steps: the list is empty");
  refused(m + "--raw x.st --class ''", 2, "--class: the list is empty; expected whole");
  refused(m + "--raw x.st --seeds ''", 2, "--seeds: the list is empty");
  refused(m + "--raw x.st --sigma_min -1", 2, "--sigma_min: a finite number above 0, not -1");
  refused(m + "--raw x.st --sigma_max low", 2, "--sigma_max: a number above 0, not 'low'");
  refused(m + "--raw x.st --rho 0", 2, "--rho: a finite number above 0, not 0");
  refused(m + "--raw ''", 2, "--raw: a name is expected");
  refused(m + "--grid x.jpg", 2, "--grid: 'x.jpg' does not end in .png");
  refused(m, 2, "nothing to write");
  refused("--raw x.st", 2, "--network");
  refused("--netwrok m.safetensors --raw x.st", 2, "did you mean '--network'");
  refused("--network none.safetensors --raw x.st", 2,
          "--network: none.safetensors does not exist");
  refused("--network '' --raw x.st", 2, "--network: the name of a file is expected");
  refused("--network . --raw x.st", 1, "a folder with neither");
  refused(m + "--latents none.npz --raw x.st", 2, "--latents: none.npz does not exist");
  refused(m + "--raw x.st --solver huen", 2, "heun");
  refused(m + "--raw x.st --sovler heun", 2, "'--solver'");
  refused(m + "--raw x.st --dtype f16", 2, "--dtype");
  refused(m + "--raw x.st --device tpu", 2, "--device");
  refused(m + "--raw x.st --class 1", 2, "--class");
  refused(m + "--raw x.st --t_steps 0,2", 2, "--t_steps");
  refused("--network c.safetensors --raw x.st --class 3", 2, "0 to 2");
  refused("--network c.safetensors --seeds 0-3 --raw x.st --class 1,2", 2, "2 classes for 4");
  refused("--network c.safetensors --raw x.st --solver flow_map", 2, "two times");
  refused("--network c.safetensors --raw x.st --sigma_max 80", 2, "denoisers");
  EXPECT_FALSE(fs::exists(path("x.st")));
}

TEST_F(Generate, BadOutputs) {
  save("m.safetensors", kTinyFlowMap);
  std::ofstream(path("file")) << "x";
  const std::string m = "--network m.safetensors --seeds 0-1 ";
  refused(m + "--outdir file/out", 1, "file");
  refused(m + "--raw file/x.st", 1, "file");
  refused(m + "--raw /dev/full", 1, "/dev/full");
  // A write cut short leaves nothing behind.
  const AppResult cut = run("generate " + m + "--raw ok.st");
  ASSERT_EQ(cut.code, 0);
  const std::string limited = "sh -c 'ulimit -f 1; exec \"$FLOWMAP_BINARY\" generate "
                              "--network m.safetensors --seeds 0-63 --raw cut.st' 2>err";
  const int status = std::system(("cd '" + folder_.string() + "' && " + limited).c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_THAT(content(path("err")), HasSubstr("cut.st"));
  EXPECT_FALSE(fs::exists(path("cut.st")));
  // Neither under the name nor beside it.
  for (const auto& entry : fs::directory_iterator(folder_))
    EXPECT_THAT(entry.path().filename().string(), ::testing::Not(HasSubstr("cut.st")));
}

TEST_F(Generate, BrokenSnapshots) {
  save("m.safetensors", kTinyFlowMap);
  const std::string whole = content(path("m.safetensors"));
  for (const std::size_t n : {std::size_t{0}, std::size_t{7}, std::size_t{100},
                              whole.size() / 2, whole.size() - 1}) {
    std::ofstream(path("t.safetensors"), std::ios::binary) << whole.substr(0, n);
    refused("--network t.safetensors --raw x.st", 1, "t.safetensors");
  }
  // Weights of another architecture under this specification.
  const auto other = random_model(R"({"network": {"type": "mlp", "width": 8},
    "preconditioning": {"type": "flow"}, "sample_shape": [1, 8, 8]})");
  save_snapshot(path("w.safetensors"), *other, kTinyFlowMap, {});
  refused("--network w.safetensors --raw x.st", 1, "missing: ");
  const auto bad = random_model(kTinyFlowMap);
  {
    const at::NoGradGuard no_grad;
    bad->parameters()[3].flatten()[0].fill_(std::nan(""));
  }
  save_snapshot(path("n.safetensors"), *bad, kTinyFlowMap, {});
  refused("--network n.safetensors --raw x.st", 1, "not finite");
  refused("--network n.safetensors --raw x.st", 1, bad->named_parameters()[3].key());
  save_tensors(path("p.safetensors"), {{"a", at::zeros({2})}});
  refused("--network p.safetensors --raw x.st", 1, "a known program");
}

TEST_F(Generate, OtherFormatsAreCalledByTheirNames) {
  const auto put = [&](const std::string& name, const std::string& bytes) {
    std::ofstream(path(name), std::ios::binary) << bytes;
  };
  // A pickle of {"k": 1}, a cut archive, and a ZIP of pictures.
  put("net.pkl", std::string("\x80\x04\x95\x0a\0\0\0\0\0\0\0}\x94\x8c\x01k\x94K\x01s.", 21));
  put("net.pt", std::string("PK\x03\x04") + std::string(26, '\0') + "archive/data.pkl");
  ZipWriter zip(path("net.zip"));
  zip.add("00000/img.png", std::string_view("no picture"));
  zip.commit();
  refused("--network net.pkl --raw x.st", 1, "net.pkl: expected tensors, got none");
  refused("--network net.pt --raw x.st", 1, "net.pt: expected a ZIP archive");
  refused("--network net.zip --raw x.st", 1, "a torch.save archive with NAME/data.pkl");
  // Tensors of a training state are no snapshot.
  fs::create_directories(path("training-state-000001"));
  save_tensors(path("training-state-000001/ema_0.safetensors"), {{"a", at::zeros({2})}});
  refused("--network training-state-000001/ema_0.safetensors --raw x.st", 1,
          "take network-snapshot-*.safetensors of the run");
}

TEST_F(Generate, HelpVersionAndUnknownVerbs) {
  EXPECT_THAT(run("generate --help").out, HasSubstr("Example: flowmap generate"));
  EXPECT_EQ(run("generate --help").code, 0);
  EXPECT_THAT(run("--help").out, HasSubstr("evaluate"));
  EXPECT_EQ(run("--help").code, 0);
  EXPECT_EQ(run("").code, 2);
  EXPECT_THAT(run("--version").out, HasSubstr("LibTorch  2."));
  EXPECT_THAT(run("--version").out, HasSubstr("OpenCV    4."));
  const AppResult wrong = run("genrate");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("did you mean 'generate'"));
  const AppResult doctor = run("doctor");
  EXPECT_EQ(doctor.code, 0);
  for (const char* what : {"commit", "LibTorch", "CUDA", "OpenCV", "threads", "MPI", "NCCL",
                           "data sets"})
    EXPECT_THAT(doctor.out, HasSubstr(what));
  EXPECT_EQ(run("doctor >/dev/full; exit").code, 1);
}

}  // namespace
}  // namespace flowmap::testing
