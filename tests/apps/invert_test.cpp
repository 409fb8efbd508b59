// flowmap invert: latents that generate reads and that give the images back.
#include <cmath>
#include <string>

#include "flowmap/formats/npy.h"
#include "flowmap/tensor_io.h"
#include "tests/apps/app_fixture.h"
#include "tests/support/reference.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Invert : public AppTest {
 protected:
  void refused(const std::string& arguments, const std::string& what) const {
    const AppResult result = run("invert " + arguments);
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr(what)) << arguments;
  }
  at::Tensor bytes(const std::string& file) const {
    return to_tensor(read_npz(path(file)).at("arr_0")).to(at::kDouble);
  }
  // Decibels of bytes, over all pictures.
  static double psnr(const at::Tensor& a, const at::Tensor& b) {
    return 10 * std::log10(255 * 255 / (a - b).square().mean().item<double>());
  }
};

// Samples of the shipped teacher, inverted and generated again with 32 steps of Heun each.
TEST_F(Invert, ImagesOfTheTeacherComeBack) {
  const fs::path teacher =
      fs::absolute(source_folder()) / "models/fashion-mnist-teacher.safetensors";
  FM_NEED_FILE(teacher);
  const std::string network = "--network " + teacher.string() + " --class 1,5,8 ";
  const std::string solver = "--solver heun --steps 32 ";
  ASSERT_EQ(run("generate " + network + solver + "--seeds 0-2 --npz a.npz").code, 0);
  const AppResult result =
      run("invert " + network + solver + "--images a.npz --dest z.npz");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("3 latents of deviation"));
  EXPECT_THAT(result.out, HasSubstr("64 network evaluations an image"));
  ASSERT_EQ(run("generate " + network + solver + "--latents z.npz --npz b.npz").code, 0);
  const double decibels = psnr(bytes("b.npz"), bytes("a.npz"));
  RecordProperty("psnr", std::to_string(decibels));
  std::printf("round trip: %.1f dB\n", decibels);
  EXPECT_GT(decibels, 50);
  // Unit normals, nearly; and it is the latents that carry the pictures.
  const at::Tensor latents = to_tensor(read_npz(path("z.npz")).at("latents"));
  EXPECT_EQ(latents.sizes(), (std::vector<int64_t>{3, 1, 28, 28}));
  EXPECT_NEAR(latents.std().item<double>(), 1, 0.2);
  ASSERT_EQ(run("generate " + network + solver + "--seeds 7-9 --npz c.npz").code, 0);
  EXPECT_LT(psnr(bytes("c.npz"), bytes("a.npz")), 20);
}

TEST_F(Invert, DenoisersAndPoints) {
  save("d.safetensors", kTinyDenoiser);
  ASSERT_EQ(run("generate --network d.safetensors --seeds 0-2 --steps 9 --outdir a").code,
            0);
  const AppResult images =
      run("invert --network d.safetensors --images a --dest z.npz --steps 40 --batch 2");
  ASSERT_EQ(images.code, 0) << images.err;
  EXPECT_THAT(images.out, HasSubstr("78 network evaluations an image"));
  EXPECT_EQ(to_tensor(read_npz(path("z.npz")).at("latents")).size(0), 3);
  save("p.safetensors", kTinyPoints);
  ASSERT_EQ(run("generate --network p.safetensors --seeds 0-19 --solver heun --steps 40 "
                "--npz p.npz").code, 0);
  ASSERT_EQ(run("invert --network p.safetensors --images p.npz --dest y.npz --steps 40")
                .code, 0);
  const at::Tensor latents = Draw::per_seed([] {
    std::vector<std::uint64_t> seeds;
    for (std::uint64_t s = 0; s < 20; ++s) seeds.push_back(s);
    return seeds;
  }()).normal("latents", {2});
  const at::Tensor found = to_tensor(read_npz(path("y.npz")).at("latents"));
  EXPECT_LT((found - latents).abs().max().item<float>(), 1e-2);
}

TEST_F(Invert, BadInputs) {
  save("m.safetensors", kTinyFlowMap);
  save("c.safetensors", kTinyConditional);
  ASSERT_EQ(run("generate --network m.safetensors --seeds 0-1 --npz m.npz").code, 0);
  ASSERT_EQ(run("generate --network c.safetensors --seeds 0-1 --npz c.npz").code, 0);
  const std::string m = "--network m.safetensors --dest z.npz ";
  refused(m + "--images none", "--images: none does not exist");
  refused(m + "--images c.npz", "does not fit the network's [1, 8, 8]");
  refused(m + "--images m.npz --class 1", "without classes");
  refused(m + "--images m.npz --solver rk45", "does not run backwards");
  refused(m + "--images m.npz --guidance 2", "no classes");
  refused("--network m.safetensors --images m.npz --dest z.st", "does not end in .npz");
  const std::string c = "--network c.safetensors --images c.npz --dest z.npz ";
  refused(c, "--class: the network has 3 classes");
  refused(c + "--class 3", "0 to 2");
  refused(c + "--class 1,2,0", "3 classes for 2 images");
  EXPECT_FALSE(fs::exists(path("z.npz")));
  ASSERT_EQ(run("invert " + c + "--class 1,2 --steps 2").code, 0);
  refused(c + "--class 1,2 --steps 2", "--overwrite");
}

}  // namespace
}  // namespace flowmap::testing
