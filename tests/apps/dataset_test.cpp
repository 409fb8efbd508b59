// flowmap dataset convert and inspect, as people who know EDM's dataset_tool.py call it.
#include <vector>

#include "flowmap/data/picture_source.h"
#include "flowmap/formats/image.h"
#include "tests/apps/app_fixture.h"
#include "tests/support/cifar_bytes.h"
#include "tests/support/reference.h"

namespace flowmap::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class DatasetTest : public AppTest {
 protected:
  void picture(const std::string& name, int width, int height, int channels) const {
    std::filesystem::create_directories(
        std::filesystem::path(path(name)).parent_path());
    Image image{width, height, channels, {}};
    for (int i = 0; i < width * height * channels; ++i)
      image.pixels.push_back(static_cast<std::uint8_t>(i * 5));
    write_png(path(name), image);
  }
  // What EDM's way of reading says of a zip: "COUNT WIDTH HEIGHT CHANNELS\nLABELS\n".
  std::string as_edm(const std::string& zip) const {
    const std::string command = "python3 '" +
                                (source_folder() / "tests/apps/edm_zip_check.py").string() +
                                "' '" + path(zip) + "' >'" + path("edm.txt") + "' 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0) << content(path("edm.txt"));
    return content(path("edm.txt"));
  }
  std::size_t files() const {
    std::size_t count = 0;
    for (const auto& each : std::filesystem::directory_iterator(folder_))
      count += each.path().extension() != ".txt";
    return count;
  }
};

TEST_F(DatasetTest, EdmsLineForCifar10) {
  put_file(path("cifar-10-python.tar.gz"), gzip_bytes(cifar10_python_tar()));
  const AppResult made = run(
      "dataset convert --source=cifar-10-python.tar.gz --dest=datasets/cifar10-32x32.zip");
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("10 pictures of 32x32 RGB with labels"));
  EXPECT_EQ(made.err, "");
  EXPECT_EQ(as_edm("datasets/cifar10-32x32.zip"),
            "10 32 32 3\n[0, 3, 6, 9, 2, 5, 8, 1, 4, 7]\n");
  const auto source = open_pictures(path("datasets/cifar10-32x32.zip"), "test");
  for (int k = 0; k < 10; ++k)
    EXPECT_EQ(source->read(k).pixels[3 * 33 + 1],
              static_cast<std::uint8_t>(cifar_picture(k)[1024 + 33]));

  // The same again: there already; replaced, the same bytes.
  const std::string first = content(path("datasets/cifar10-32x32.zip"));
  const std::string again =
      "dataset convert --source=cifar-10-python.tar.gz --dest=datasets/cifar10-32x32.zip";
  const AppResult kept = run(again);
  EXPECT_EQ(kept.code, 2);
  EXPECT_THAT(kept.err, HasSubstr("--overwrite"));
  ASSERT_EQ(run(again + " --overwrite --workers 3").code, 0);
  EXPECT_EQ(content(path("datasets/cifar10-32x32.zip")), first);
  ASSERT_EQ(run("dataset convert --source=cifar-10-python.tar.gz --dest=test.zip "
                "--split=test --max-images=2").code, 0);
  EXPECT_EQ(as_edm("test.zip"), "2 32 32 3\n[0, 3]\n");
}

TEST_F(DatasetTest, EdmsLineForPhotos) {
  picture("photos/cats/a.png", 40, 20, 3);
  picture("photos/dogs/b.png", 30, 50, 1);
  put_file(path("photos/notes.txt"), "x");
  const AppResult made = run("dataset convert --source=photos --dest=photos-16x16.zip "
                             "--resolution=16x16 --transform=center-crop");
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.err, HasSubstr("1 file passed over (neither"));
  EXPECT_EQ(as_edm("photos-16x16.zip"), "2 16 16 3\n[0, 1]\n");

  const AppResult mixed = run("dataset convert --source=photos --dest=m.zip");
  EXPECT_EQ(mixed.code, 2);
  EXPECT_THAT(mixed.err, HasSubstr("a.png is 40x20 RGB"));
  EXPECT_THAT(mixed.err, HasSubstr("b.png is 30x50 gray; pass --resolution=WxH"));
  // A folder; EDM's rule on sizes is said.
  const AppResult folder = run("dataset convert --source photos --dest out "
                               "--resolution 12,10 --gray rgb --resize-filter box");
  ASSERT_EQ(folder.code, 0) << folder.err;
  EXPECT_THAT(folder.err, HasSubstr("12x10: EDM's own programs take squares of a power"));
  EXPECT_EQ(read_image(path("out/00000/img00000001.png")).width, 12);
  const AppResult full = run("dataset convert --source photos --dest out --resolution 8x8 "
                             "--gray rgb");
  EXPECT_EQ(full.code, 2);
  EXPECT_THAT(full.err, HasSubstr("is not empty"));
  // center-crop-wide never enlarges.
  const AppResult wide = run("dataset convert --source photos --dest wide.zip "
                             "--transform=center-crop-wide --resolution=32x16");
  ASSERT_EQ(wide.code, 0) << wide.err;
  EXPECT_THAT(wide.err, HasSubstr("1 picture smaller than --resolution left out"));
  EXPECT_EQ(as_edm("wide.zip"), "1 32 32 3\n[0]\n");
}

TEST_F(DatasetTest, BrokenPicturesInTheMiddle) {
  for (const char* name : {"set/1.png", "set/2.png", "set/3.png"}) picture(name, 8, 8, 3);
  ASSERT_EQ(run("dataset convert --source set --dest whole.zip").code, 0);
  std::string bytes = content(path("whole.zip"));
  const std::size_t second = bytes.find("img00000001.png") + 100;
  bytes[second] = static_cast<char>(bytes[second] ^ 1);
  put_file(path("bad.zip"), bytes);
  const std::size_t before = files();
  const AppResult refused = run("dataset convert --source bad.zip --dest new.zip");
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, HasSubstr("bad.zip: expected entry "
                                      "'00000/img00000001.png' without damage"));
  EXPECT_EQ(files(), before);
  const AppResult skipped = run("dataset convert --source bad.zip --dest new.zip --skip-bad");
  ASSERT_EQ(skipped.code, 0) << skipped.err;
  EXPECT_THAT(skipped.err, HasSubstr("1 broken picture passed over, the first: "));
  EXPECT_EQ(as_edm("new.zip"), "2 8 8 3\nnull\n");
  const AppResult facts = run("dataset inspect bad.zip");
  EXPECT_EQ(facts.code, 1);
  EXPECT_THAT(facts.out, HasSubstr("pictures    2"));
  EXPECT_THAT(facts.err, HasSubstr("1 broken one, the first: "));
}

TEST_F(DatasetTest, InspectSaysWhatIsThere) {
  put_file(path("c.tar.gz"), gzip_bytes(cifar10_python_tar()));
  const AppResult facts = run("dataset inspect c.tar.gz --sheet sheet.png --num 4");
  ASSERT_EQ(facts.code, 0) << facts.err;
  EXPECT_THAT(facts.out, HasSubstr("c.tar.gz (CIFAR-10 in Python's format)"));
  EXPECT_THAT(facts.out, HasSubstr("pictures    10\n"));
  EXPECT_THAT(facts.out, HasSubstr("size        32x32 RGB\n"));
  EXPECT_THAT(facts.out, HasSubstr("classes     10, with 1 to 1 pictures each\n"));
  EXPECT_THAT(facts.out, HasSubstr("9    1  truck\n"));
  EXPECT_THAT(facts.out, HasSubstr("first       0 3 6 9 2\n"));
  EXPECT_THAT(facts.out, HasSubstr("duplicates  0\n"));
  EXPECT_EQ(read_image(path("sheet.png")).width, 2 * 64);
  picture("one/1.png", 2, 2, 1);
  const AppResult one = run("dataset inspect one");
  EXPECT_EQ(one.code, 0) << one.err;
  // Of 0, 5, 10, 15: 7.5 and the root of 31.25, over 255.
  EXPECT_THAT(one.out, HasSubstr("mean        0.02941176 "));
  EXPECT_THAT(one.out, HasSubstr("deviation   0.02192224 "));
  EXPECT_THAT(one.out, HasSubstr("labels      none"));
}

TEST_F(DatasetTest, RefusalsNameTheFlag) {
  picture("one/1.png", 2, 2, 1);
  const auto refused = [&](const std::string& words, const std::string& said) {
    const AppResult result = run("dataset " + words);
    EXPECT_EQ(result.code, 2) << words << result.err;
    EXPECT_THAT(result.err, HasSubstr(said));
  };
  const std::string both = "convert --source one --dest a.zip ";
  refused("convrt", "did you mean 'convert'");
  refused("convert --dest a.zip", "--source");
  refused("convert --source absent --dest a.zip", "--source: absent does not exist");
  refused(both + "--transform=crop", "--transform: unknown transform 'crop'");
  refused(both + "--transform=center-crop", "--resolution=WxH");
  refused(both + "--resolution=64", "--resolution: '64' is not WIDTHxHEIGHT");
  refused(both + "--resolution=0x4", "--resolution");
  refused(both + "--resolution=4x4 --resize-filter=lanzcos", "--resize-filter");
  refused(both + "--gray=yes", "--gray");
  refused(both + "--split=valid", "--split");
  refused(both + "--max-images=0", "--max-images");
  refused("inspect one --sheet a.jpg", "--sheet");
  EXPECT_FALSE(std::filesystem::exists(path("a.zip")));
  EXPECT_EQ(run("dataset --help").code, 0);
}

}  // namespace
}  // namespace flowmap::testing
