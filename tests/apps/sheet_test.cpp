// flowmap sheet: what is in the picture, and what is refused.
#include "flowmap/formats/image.h"
#include "flowmap/formats/npy.h"
#include "tests/apps/app_fixture.h"

namespace flowmap::testing {
namespace {

class SheetTest : public AppTest {
 protected:
  // Two 4x4 pictures, all of gray 40 and all of gray 90.
  void write_pictures(const std::string& name) const {
    HostTensor images{DType::U8, {2, 4, 4, 1}, std::vector<std::byte>(32, std::byte{40})};
    for (std::size_t i = 16; i < 32; ++i) images.bytes[i] = std::byte{90};
    write_npz(path(name), {{"arr_0", images}});
  }
  static int pixels_of(const Image& image, std::uint8_t level) {
    int count = 0;
    for (std::size_t i = 0; i < image.pixels.size(); i += 3)
      count += image.pixels[i] == level && image.pixels[i + 1] == level &&
               image.pixels[i + 2] == level;
    return count;
  }
};

TEST_F(SheetTest, RowsShowTheirImagesEnlargedBesideTheirLabels) {
  write_pictures("two.npz");
  Image red{2, 2, 3, {}};
  for (int i = 0; i < 4; ++i) red.pixels.insert(red.pixels.end(), {200, 0, 0});
  write_png(path("red.png"), red);
  const AppResult result = run("sheet --dest sheet.png --columns 2 --scale 3 "
                               "--row 'label\\nsecond=two.npz' --row a=b=red.png");
  ASSERT_EQ(result.code, 0) << result.err;
  const Image sheet = read_image(path("sheet.png"));
  ASSERT_EQ(sheet.channels, 3);
  // Two lines of text of 20 are higher than the 12 of the images; margins of 12.
  EXPECT_EQ(sheet.height, 12 + 40 + 12 + 20 + 12);
  // The labels are blends of black, gray and white, so whole 12x12 blocks are images;
  // text may touch a level at its soft edges.
  EXPECT_GE(pixels_of(sheet, 40), 144);
  EXPECT_LT(pixels_of(sheet, 40), 160);
  EXPECT_GE(pixels_of(sheet, 90), 144);
  EXPECT_LT(pixels_of(sheet, 90), 160);
  const auto level = [&](int x, int y, int channel) {
    return static_cast<int>(sheet.pixels[(std::size_t(y) * sheet.width + x) * 3 + channel]);
  };
  // Against the right margin: the second picture of the first row, white below it.
  EXPECT_EQ(level(sheet.width - 13, 12, 0), 90);
  EXPECT_EQ(level(sheet.width - 13 - 12, 12, 0), 40);
  EXPECT_EQ(level(sheet.width - 13, 12 + 12, 0), 255);
  // A picture file is shown whole, where the rows begin.
  const int left = sheet.width - 12 - 24;
  EXPECT_EQ(level(left, 64, 0), 200);
  EXPECT_EQ(level(left + 5, 64 + 5, 1), 0);
  EXPECT_EQ(level(left + 6, 64, 0), 255);
  // Text stands left of the pictures.
  int dark = 0;
  for (int y = 12; y < 52; ++y)
    for (int x = 0; x < left; ++x) dark += level(x, y, 0) < 128;
  EXPECT_GT(dark, 30);
}

TEST_F(SheetTest, TakesAsManyImagesAsColumnsAndLinesHold) {
  write_pictures("two.npz");
  ASSERT_EQ(run("sheet --dest one.png --columns 1 --scale 1 --row x=two.npz").code, 0);
  ASSERT_EQ(
      run("sheet --dest both.png --columns 1 --lines 2 --scale 6 --row x=two.npz").code, 0);
  EXPECT_EQ(pixels_of(read_image(path("one.png")), 90), 0);
  EXPECT_GE(pixels_of(read_image(path("both.png")), 90), 24 * 24);
}

// Points in the plane become scatter plots, side by side where there are several.
TEST_F(SheetTest, DrawsPoints) {
  write_npz(path("origin.npz"),  // two points at (0, 0)
            {{"points", {DType::F32, {2, 2}, std::vector<std::byte>(16)}}});
  const auto drawn = [&](const std::string& row) {
    const AppResult result =
        run("sheet --dest points.png --overwrite --scale 1 --row " + row);
    EXPECT_EQ(result.code, 0) << result.err;
    return read_image(path("points.png"));
  };
  const Image alone = drawn("x=origin.npz"), twice = drawn("x=origin.npz,origin.npz");
  EXPECT_EQ(twice.width - alone.width, 96);
  EXPECT_EQ(twice.height, alone.height);
  const auto marks = [](const Image& image) {
    int64_t count = 0;
    for (std::size_t i = 0; i + 2 < image.pixels.size(); i += 3)
      count += image.pixels[i] == 31 && image.pixels[i + 1] == 119;
    return count;
  };
  EXPECT_EQ(marks(alone), 1);
  EXPECT_EQ(marks(twice), 2);
}

TEST_F(SheetTest, RefusesBadRowsByName) {
  write_pictures("two.npz");
  write_npz(path("points.npz"),
            {{"points", {DType::F32, {3, 3}, std::vector<std::byte>(36)}}});
  const auto refused = [&](const std::string& row, const std::string& word) {
    const AppResult result = run("sheet --dest s.png --row '" + row + "'");
    EXPECT_EQ(result.code, 2) << row;
    EXPECT_THAT(result.err, ::testing::HasSubstr(word));
    EXPECT_FALSE(std::filesystem::exists(path("s.png")));
  };
  write_npz(path("large.npz"),
            {{"arr_0", {DType::U8, {1, 64, 64, 1}, std::vector<std::byte>(4096)}}});
  refused("a=large.npz' --scale 32 --columns '1000",
          "--scale, --columns, --lines: a picture of 2048000x2048 pixels");
  refused("nothing", "--row: 'nothing' is not LABEL=SOURCE");
  refused("x=", "--row: 'x=' is not LABEL=SOURCE");
  refused("x=absent.npz", "--row: absent.npz");
  refused("x=points.npz", "--row: points.npz holds points of 3 dimensions");
  EXPECT_EQ(run("sheet --dest s.png --row x=two.npz --columns 0").code, 2);
  EXPECT_EQ(run("sheet --row x=two.npz").code, 2);
}

TEST_F(SheetTest, ReplacesNothingUnasked) {
  write_pictures("two.npz");
  std::ofstream(path("s.png")) << "mine";
  const AppResult kept = run("sheet --dest s.png --row x=two.npz");
  EXPECT_EQ(kept.code, 2);
  EXPECT_THAT(kept.err, ::testing::HasSubstr("--dest: s.png is there already; pass "
                                             "--overwrite"));
  EXPECT_EQ(content(path("s.png")), "mine");
  EXPECT_EQ(run("sheet --dest s.png --row x=two.npz --overwrite").code, 0);
  EXPECT_EQ(read_image(path("s.png")).channels, 3);
  const AppResult jpeg = run("sheet --dest s.jpg --row x=two.npz");
  EXPECT_EQ(jpeg.code, 2);
  EXPECT_THAT(jpeg.err, ::testing::HasSubstr("--dest: 's.jpg' does not end in .png"));
}

}  // namespace
}  // namespace flowmap::testing
