// flowmap generate: what it writes, that an image is its seed's alone, and what it says to
// bad input.
#include <cmath>
#include <string>
#include <vector>

#include "flowmap/base/image.h"
#include "flowmap/base/npy.h"
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
    // At most one byte in a hundred.
    EXPECT_LE(levels.ne(0).sum().item<int64_t>() * 100, levels.numel());
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
}

TEST_F(Generate, BadInputs) {
  save("m.safetensors", kTinyFlowMap);
  save("c.safetensors", kTinyConditional);
  const std::string m = "--network m.safetensors ";
  refused(m + "--seeds 5-1 --raw x.st", 2, "--seeds");
  refused(m + "--steps 0 --raw x.st", 2, "--steps");
  refused(m + "--batch 0 --raw x.st", 2, "--batch");
  refused(m, 2, "nothing to write");
  refused("--raw x.st", 2, "--network");
  refused("--netwrok m.safetensors --raw x.st", 2, "did you mean '--network'");
  refused("--network none.safetensors --raw x.st", 1, "none.safetensors");
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
  refused("--network p.safetensors --raw x.st", 1, "snapshot");
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
