// What `flowmap fid` does with pictures that are not as they should be.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "flowmap/formats/npy.h"
#include "flowmap/formats/zip.h"
#include "flowmap/tensor_io.h"
#include "metrics/stats_file.h"
#include "tests/apps/fid_fixture.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class FidInput : public JsonFidTest<nlohmann::json> {
 protected:
  void SetUp() override {
    FidTest::SetUp();
    write_pictures("b-idx3-ubyte", 50);
  }
  // A zip of 100 pictures, some of them cut in the middle.
  void write_zip(const std::string& name, std::initializer_list<int> broken) const {
    ZipWriter zip(path(name));
    for (int i = 0; i < 100; ++i) {
      std::vector<std::byte> png = encode_png(picture(i, 3));
      for (const int bad : broken)
        if (bad == i) png.resize(png.size() / 2);
      zip.add("00000/img" + std::to_string(100 + i) + ".png", png);
    }
    zip.add("readme.txt", std::string_view("no picture"));
    zip.commit();
  }
};

TEST_F(FidInput, BrokenPicturesAreNamedAndCounted) {
  FM_NEED_FILE(detector());
  write_zip("whole.zip", {});
  write_zip("bad.zip", {41, 77});
  write_pictures("a-idx3-ubyte", 3);
  // The zip holds what the IDX file does.
  const std::string ref = " --ref b-idx3-ubyte --num 100";
  const auto whole = scored("--images whole.zip" + ref);
  EXPECT_EQ(whole["results"]["fd_fmnist64_100"],
            scored("--images a-idx3-ubyte" + ref)["results"]["fd_fmnist64_100"]);
  refused("calc --images bad.zip" + ref, 1, "2 of 100 pictures are broken: ");
  refused("calc --images bad.zip" + ref, 1, "img141.png");
  refused("calc --images bad.zip" + ref, 1, "img177.png");
  refused("calc --images bad.zip" + ref, 1, "--skip-bad");
  const AppResult skipped = run("fid calc --images bad.zip --skip-bad --json" + ref);
  ASSERT_EQ(skipped.code, 0) << skipped.err;
  EXPECT_THAT(skipped.err, AllOf(HasSubstr("left out 2 broken pictures, 98 remain"),
                                 HasSubstr("img141.png")));
  const auto report = nlohmann::json::parse(skipped.out);
  EXPECT_EQ(report["num_images"], 98);
  EXPECT_TRUE(report["results"].contains("fd_fmnist64_98"));
  // Broken ones in the reference too.
  refused("calc --images b-idx3-ubyte --num 100 --ref bad.zip", 1, "2 of 100 pictures");
  // The first as well.
  write_zip("first.zip", {0});
  EXPECT_EQ(run("fid calc --images first.zip --skip-bad" + ref).code, 0);
  refused("calc --images first.zip" + ref, 1, "1 of 100 pictures is broken");
}

TEST_F(FidInput, FoldersOfAllSorts) {
  FM_NEED_FILE(detector());
  write_pictures("a-idx3-ubyte", 3);
  fs::create_directories(path("many/deep"));
  for (int i = 0; i < 100; ++i) {
    // Gray, RGB, gray with alpha and RGBA of the same pictures; alpha is dropped.
    const int channels = i % 3 == 0 ? 1 : i % 3 == 1 ? 3 : 4;
    write_png(path("many/" + std::string(i % 2 ? "deep/" : "") + std::to_string(1000 + i) +
                   ".png"),
              picture(i, 3, 28, channels));
  }
  put_file(path("many/notes.txt"), "no picture");
  put_file(path("many/deep/.DS_Store"), "no picture");
  const std::string ref = " --ref b-idx3-ubyte --num 100";
  const auto folder = scored("--images many" + ref);
  const auto idx = scored("--images a-idx3-ubyte" + ref);
  // Another order of rows rounds otherwise.
  const double wanted = idx["results"]["fd_fmnist64_100"];
  EXPECT_NEAR(folder["results"]["fd_fmnist64_100"].get<double>(), wanted, 1e-6 * wanted);
  fs::create_directories(path("empty"));
  refused("calc --images empty" + ref, 2, "--images: ");
  put_file(path("empty/notes.txt"), "no picture");
  refused("calc --images empty" + ref, 2, "empty");
  // A picture of another size: this detector resizes nothing.
  write_png(path("many/deep/9999.png"), picture(0, 3, 32));
  refused("calc --images many --ref b-idx3-ubyte --num 101", 2,
          "takes images of [1, 28, 28]");
  // Pictures of two sizes and no --num that fits: the count is said first.
  refused("calc --images many --ref b-idx3-ubyte --num 102", 2, "--num asks for 102");
}

std::string png_chunk(const std::string& type, const std::string& data) {
  const std::string body = type + data;
  std::uint32_t crc = 0xFFFFFFFF;
  for (const char c : body) {
    crc ^= static_cast<std::uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
  }
  return big(data.size(), 4) + body + big(~crc & 0xFFFFFFFFu, 4);
}

// A gray PNG of 16 bits whose upper bytes are `image`; one stored block of deflate.
std::string deep_png(const Image& image) {
  std::string rows;
  for (int y = 0; y < image.height; ++y) {
    rows += '\0';
    for (int x = 0; x < image.width; ++x) {
      rows += static_cast<char>(image.pixels[static_cast<std::size_t>(y * image.width + x)]);
      rows += static_cast<char>(x * 9);
    }
  }
  unsigned low = 1, high = 0;  // Adler-32
  for (const char c : rows) {
    low = (low + static_cast<std::uint8_t>(c)) % 65521;
    high = (high + low) % 65521;
  }
  const std::string size = big(static_cast<unsigned>(image.width), 4) +
                           big(static_cast<unsigned>(image.height), 4);
  const std::string packed = std::string("\x78\x01\x01", 3) + little(rows.size(), 2) +
                             little(~rows.size() & 0xFFFF, 2) + rows + big(high, 2) +
                             big(low, 2);
  return "\x89PNG\r\n\x1a\n" + png_chunk("IHDR", size + std::string("\x10\0\0\0\0", 5)) +
         png_chunk("IDAT", packed) + png_chunk("IEND", "");
}

TEST_F(FidInput, SixteenBitsAreTakenAsEight) {
  FM_NEED_FILE(detector());
  fs::create_directories(path("deep"));
  fs::create_directories(path("flat"));
  for (int i = 0; i < 20; ++i) {
    const std::string name = "/" + std::to_string(100 + i) + ".png";
    put_file(path("deep" + name), deep_png(picture(i, 3)));
    write_png(path("flat" + name), picture(i, 3));
  }
  const std::string ref = " --ref b-idx3-ubyte --num 20";
  EXPECT_EQ(scored("--images deep" + ref)["results"],
            scored("--images flat" + ref)["results"]);
  // Said once, not for each.
  const std::string said = run("fid calc --images deep" + ref).err;
  EXPECT_THAT(said, HasSubstr("16 bits"));
  EXPECT_EQ(said.find("16 bits"), said.rfind("16 bits")) << said;
  write_npz(path("deep.npz"), {{"arr_0", to_host(at::zeros({4, 28, 28, 1}, at::kShort))}});
  refused("calc --images deep.npz --ref b-idx3-ubyte --num 4", 1, "uint8 images");
}

TEST_F(FidInput, StatisticsAreNoSamplesAndSamplesNoStatistics) {
  FM_NEED_FILE(detector());
  ASSERT_EQ(run("fid ref --data b-idx3-ubyte --dest b.npz").code, 0);
  refused("calc --images b.npz --ref b-idx3-ubyte --num 4", 2,
          "--images: b.npz holds statistics of features, not samples; pass it as --ref");
  put_file(path("x.pkl"), "]. ");
  refused("calc --images x.pkl --ref b-idx3-ubyte --num 4", 2, "--images: x.pkl is a pickle");
  refused("calc --images b-idx3-ubyte --num 4 --ref x.pkl", 1, "EDM2's statistics");
  // Points against pictures.
  write_npz(path("p.npz"), {{"points", to_host(at::rand({9, 2}))}});
  refused("calc --images b-idx3-ubyte --num 4 --ref p.npz", 2,
          "--ref: p.npz holds points, --images images");
}

// Mixed sizes go through the Inception, each resized on its own.
TEST_F(FidInput, MixedSizesThroughTheInception) {
  const fs::path inception =
      data_folder() / "inception" / "fid_inception_2015_to_mixed8_f32.safetensors";
  FM_NEED_FILE(inception);
  fs::create_directories(path("mixed"));
  for (int i = 0; i < 6; ++i)
    write_png(path("mixed/" + std::to_string(i) + ".png"),
              picture(i, 3, i % 2 ? 32 : 20 + i, i % 2 ? 3 : 1));
  const std::string with = " --num 6 --batch 4 --detector '" + inception.string() + "'";
  const AppResult result =
      run("fid calc --images mixed --ref mixed --metrics fid64,fid192,fd192" + with);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("pictures of 4 different sizes"));
  EXPECT_THAT(result.out, AllOf(HasSubstr("fid64_6: "), HasSubstr("fid192_6: "),
                                HasSubstr("fd_inception_192_6: "),
                                HasSubstr("mode edm, detector inception sha256 ")));
  // The features come in the order of the pictures, whatever the groups.
  ASSERT_EQ(run("fid features --images mixed --dest f.npz --layer 64" + with).code, 0);
  const at::Tensor all = to_tensor(read_npz(path("f.npz")).at("features"));
  for (int i = 0; i < 6; ++i) {
    const std::string name = std::to_string(i);
    fs::create_directories(path("one" + name));
    for (const char* copy : {"a", "b"})
      fs::copy_file(path("mixed/" + name + ".png"),
                    path("one" + name + "/" + copy + ".png"));
    ASSERT_EQ(run("fid features --layer 64 --images one" + name + " --dest g" + name +
                  ".npz --detector '" + inception.string() + "'").code, 0);
    const at::Tensor one = to_tensor(read_npz(path("g" + name + ".npz")).at("features"));
    EXPECT_LT((one[0] - all[i]).abs().max().item<double>(), 1e-4) << i;
  }
  // No 2048 in this file: the whole file is named, and what there is.
  const AppResult whole = run("fid calc --images mixed --ref mixed" + with);
  EXPECT_EQ(whole.code, 2);
  EXPECT_THAT(whole.err, AllOf(HasSubstr("--metrics: metric fid: detector inception gives "
                                         "no layer 2048, only 768, 192, 64"),
                               HasSubstr("pt_inception-2015-12-05"),
                               HasSubstr("take --metrics fid768")));
  EXPECT_THAT(whole.out, Not(HasSubstr("fid")));
}

}  // namespace
}  // namespace flowmap::testing
