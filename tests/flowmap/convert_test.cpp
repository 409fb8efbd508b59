// Transforms to the last bit of EDM's and EDM2's tools, and the data sets written.
#include "flowmap/convert/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/convert/dataset_writer.h"
#include "flowmap/convert/picture_statistics.h"
#include "flowmap/data/ordered_parallel.h"
#include "flowmap/formats/zip.h"
#include "tests/support/reference.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;
using namespace testing;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(PictureTransforms, EveryReferenceCaseExactly) {
  const fs::path folder = reference_folder() / "metrics" / "convert";
  FM_NEED_FILE(folder / "convert.json");
  const auto cases = nlohmann::json::parse(to_text(file_bytes(folder / "convert.json")));
  std::size_t compared = 0;
  for (const auto& each : cases) {
    SCOPED_TRACE(each.dump());
    TransformOptions options;
    options.transform = parse_picture_transform(each["transform"], "transform");
    options.width = each["width"];
    options.height = each["height"];
    options.gray_to_rgb = each["tool"] == "edm2";
    check_transform(options);
    const std::string input = each["input"];
    const auto made = transform_picture(read_image(folder / (input + ".png")), options);
    ++compared;
    ASSERT_EQ(made.has_value(), !each["output"].is_null());
    if (!made) continue;
    const auto& shape = each["shape"];
    EXPECT_EQ(made->height, shape[0].get<int>());
    EXPECT_EQ(made->width, shape[1].get<int>());
    EXPECT_EQ(made->channels, shape.size() == 3 ? 3 : 1);
    Image expected = read_image(folder / each["output"].get<std::string>());
    if (expected.channels == 1 && made->channels == 3)
      expected = *transform_picture(expected, {.gray_to_rgb = true});
    EXPECT_EQ(made->pixels, expected.pixels);
  }
  EXPECT_GE(compared, 20u);
}

TEST(PictureTransforms, AlphaIsDroppedAndPadsAreBlack) {
  const Image rgba{1, 1, 4, {10, 20, 30, 0}};
  EXPECT_THAT(transform_picture(rgba, {})->pixels, ElementsAre(10, 20, 30));
  const auto padded = transform_picture(Image{1, 1, 1, {9}}, {.pad = 1});
  EXPECT_EQ(padded->width, 3);
  EXPECT_THAT(padded->pixels, ElementsAre(0, 0, 0, 0, 9, 0, 0, 0, 0));
}

TEST(PictureTransforms, RefusalsNameTheFlags) {
  const auto refusal = [](TransformOptions options) -> std::string {
    try {
      check_transform(options);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refusal({}), "accepted");
  EXPECT_THAT(refusal({.transform = PictureTransform::center_crop}),
              HasSubstr("--resolution=WxH"));
  EXPECT_THAT(refusal({.width = 4}), HasSubstr("--resolution"));
  EXPECT_THAT(refusal({.transform = PictureTransform::center_crop_wide, .width = 4,
                       .height = 5}),
              HasSubstr("higher than wide"));
  EXPECT_THAT(refusal({.transform = PictureTransform::center_crop_dhariwal, .width = 4,
                       .height = 5}),
              HasSubstr("not square"));
  try {
    parse_picture_transform("center-corp", "--transform");
    ADD_FAILURE();
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("did you mean 'center-crop'"));
  }
}

TEST(OrderedParallel, OrderBoundAndFailures) {
  for (const int workers : {1, 2, 7}) {
    std::vector<std::int64_t> taken;
    std::atomic<std::int64_t> ahead{0}, done{0};
    ordered_parallel(
        500, workers,
        [&](std::int64_t k) {
          const std::int64_t lead = k - done;
          for (std::int64_t seen = ahead; lead > seen;)
            if (ahead.compare_exchange_weak(seen, lead)) break;
          return k * k;
        },
        [&](std::int64_t k, std::int64_t square) {
          EXPECT_EQ(square, k * k);
          taken.push_back(k);
          done = k + 1;
        });
    ASSERT_EQ(taken.size(), 500u);
    EXPECT_TRUE(std::is_sorted(taken.begin(), taken.end()));
    EXPECT_LE(ahead, 8 * workers);
    // The first failure in order, though a later one may come sooner.
    std::int64_t last = -1;
    try {
      ordered_parallel(
          100, workers,
          [&](std::int64_t k) {
            if (k == 41 || k == 43) throw DataError(std::to_string(k), {}, "a", "b");
            return k;
          },
          [&](std::int64_t k, std::int64_t) { last = k; });
      ADD_FAILURE();
    } catch (const DataError& error) {
      EXPECT_EQ(error.path(), "41");
    }
    EXPECT_EQ(last, 40);
    EXPECT_THROW(ordered_parallel(
                     100, workers, [](std::int64_t k) { return k; },
                     [](std::int64_t k, std::int64_t) { FM_CHECK(k < 5, "stop"); }),
                 Error);
  }
  ordered_parallel(
      0, 0, [](std::int64_t k) { return k; },
      [](std::int64_t, std::int64_t) { ADD_FAILURE(); });
}

class Conversion : public ::testing::Test {
 protected:
  // Gray pictures, the k-th of level k, labelled 2k.
  void write_set(const std::string& name, int count, int width = 8, int height = 8,
                 bool labels = true) const {
    DatasetWriter writer(folder_ / name);
    for (int k = 0; k < count; ++k) {
      Image image{width, height, 1, {}};
      image.pixels.assign(static_cast<std::size_t>(width) * height,
                          static_cast<std::uint8_t>(k));
      image.pixels[1] = 77;
      writer.add(k, encode_png(image),
                 labels ? std::optional<PictureLabel>(std::int64_t{2 * k}) : std::nullopt);
    }
    writer.commit();
  }
  ConvertReport convert(const std::string& from, const std::string& to,
                        ConvertOptions options = {}) const {
    options.dest = folder_ / to;
    return convert_pictures(*open(from), options);
  }
  std::shared_ptr<PictureSource> open(const std::string& name) const {
    return open_pictures(folder_ / name, "--source");
  }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()));
  }
  std::string refusal(const std::string& from, ConvertOptions options = {}) const {
    const std::size_t before = files();
    try {
      convert(from, "refused.zip", options);
    } catch (const Error& error) {
      EXPECT_EQ(files(), before) << "something was left behind";
      return error.what();
    }
    return "accepted";
  }

  ScratchFolder folder_;
};

TEST_F(Conversion, SamePixelsSameLabelsSameBytes) {
  write_set("a.zip", 40);
  for (const int workers : {1, 2, 5}) {
    const ConvertReport report = convert("a.zip", std::to_string(workers) + ".zip",
                                         {.workers = workers});
    EXPECT_EQ(report.written, 40);
    EXPECT_TRUE(report.labelled);
    EXPECT_EQ(file_bytes(folder_ / (std::to_string(workers) + ".zip")),
              file_bytes(folder_ / "1.zip"));
  }
  const auto source = open("a.zip"), made = open("2.zip");
  ASSERT_EQ(made->size(), 40);
  for (std::int64_t k = 0; k < 40; ++k) {
    EXPECT_EQ(made->read(k).pixels, source->read(k).pixels);
    EXPECT_EQ(made->label(k), source->label(k));
  }
  EXPECT_THAT(made->entry_name(39), HasSubstr(":00000/img00000039.png"));
  // Stored, so that a reader needs no inflating: zip and PNG alike.
  const ZipReader zip(folder_ / "2.zip");
  for (std::size_t i = 0; i < zip.size(); ++i) EXPECT_TRUE(zip.view(i));
  EXPECT_EQ(zip.name(zip.size() - 1), "dataset.json");
  EXPECT_EQ(zip.entry_bytes(0), 57u + 8 * 9 + 11);
  const ConvertReport small = convert("a.zip", "9.zip", {.compression = 9});
  EXPECT_LT(fs::file_size(folder_ / "9.zip"), fs::file_size(folder_ / "2.zip"));
  EXPECT_EQ(open("9.zip")->read(3).pixels, source->read(3).pixels);
}

TEST_F(Conversion, FoldersAppearWhole) {
  write_set("set", 3);
  EXPECT_TRUE(fs::exists(folder_ / "set/00000/img00000002.png"));
  EXPECT_EQ(to_text(file_bytes(folder_ / "set/dataset.json")),
            R"({"labels": [["00000/img00000000.png", 0], ["00000/img00000001.png", 2], )"
            R"(["00000/img00000002.png", 4]]})");
  EXPECT_EQ(files(), 1u);
  {
    DatasetWriter writer(folder_ / "left");
    writer.add(0, encode_png(Image{1, 1, 1, {1}}), {});
    EXPECT_EQ(files(), 2u);
    EXPECT_FALSE(fs::exists(folder_ / "left"));
  }
  EXPECT_EQ(files(), 1u);
  fs::create_directories(folder_ / "empty");
  convert("set", "empty/");
  EXPECT_EQ(open("empty")->size(), 3);
  EXPECT_THROW(convert("set", "empty"), UsageError);
}

TEST_F(Conversion, NumbersAreThoseOfTheSource) {
  write_set("a.zip", 4, 8, 8, false);
  {
    ZipWriter zip(folder_ / "b.zip");
    const ZipReader from(folder_ / "a.zip");
    for (std::size_t i = 0; i < from.size(); ++i) {
      Bytes bytes = from.read(i);
      if (i == 1) bytes[bytes.size() - 20] ^= std::byte{1};
      zip.add(from.name(i), bytes);
    }
    zip.commit();
  }
  EXPECT_THAT(refusal("b.zip"), HasSubstr("b.zip:00000/img00000001.png"));
  const ConvertReport report = convert("b.zip", "c.zip", {.skip_bad = true, .workers = 3});
  EXPECT_EQ(report.written, 3);
  EXPECT_EQ(report.broken, 1);
  EXPECT_THAT(report.first_broken, HasSubstr("img00000001.png"));
  EXPECT_FALSE(report.labelled);
  const auto made = open("c.zip");
  EXPECT_THAT(made->entry_name(1), HasSubstr("img00000002.png"));
  EXPECT_FALSE(made->label(0));
  EXPECT_EQ(convert("a.zip", "d.zip", {.max_images = 2}).written, 2);
}

TEST_F(Conversion, MixturesAreRefusedByName) {
  fs::create_directories(folder_ / "mix");
  write_png(folder_ / "mix/1.png", Image{2, 1, 1, {1, 2}});
  write_png(folder_ / "mix/2.png", Image{1, 1, 1, {3}});
  const std::string sizes = refusal("mix");
  EXPECT_THAT(sizes, HasSubstr("1.png is 2x1 gray"));
  EXPECT_THAT(sizes, HasSubstr("2.png is 1x1 gray; pass --resolution"));
  EXPECT_EQ(convert("mix", "sized.zip", {.transform = {.width = 2, .height = 2}}).written, 2);
  write_png(folder_ / "mix/2.png", Image{2, 1, 4, {3, 3, 3, 9, 4, 4, 4, 9}});
  EXPECT_THAT(refusal("mix"), HasSubstr("2x1 RGB; pass --gray=rgb"));
  const ConvertReport report =
      convert("mix", "rgb.zip", {.transform = {.gray_to_rgb = true}});
  EXPECT_EQ(report.channels, 3);
  EXPECT_EQ(report.alpha, 1);
}

TEST_F(Conversion, MissingPicturesAndNothingToWrite) {
  write_set("a", 2);
  fs::remove(folder_ / "a/00000/img00000001.png");
  EXPECT_THAT(refusal("a"), HasSubstr("00000/img00000001.png"));
  EXPECT_EQ(convert("a", "b.zip", {.skip_bad = true}).written, 1);
  // center-crop-wide leaves out what is smaller.
  EXPECT_THAT(refusal("b.zip", {.transform = {.transform = PictureTransform::center_crop_wide,
                                              .width = 64, .height = 32}}),
              HasSubstr("1 smaller than --resolution"));
}

TEST_F(Conversion, AnInterruptLeavesNothing) {
  write_set("a.zip", 30);
  install_interrupt_handler();
  std::raise(SIGINT);
  EXPECT_THAT(refusal("a.zip"), HasSubstr("nothing was written"));
  clear_interrupt();
}

TEST_F(Conversion, StatisticsAreExact) {
  fs::create_directories(folder_ / "s/x");
  fs::create_directories(folder_ / "s/y");
  write_png(folder_ / "s/x/1.png", Image{2, 1, 1, {0, 255}});
  write_png(folder_ / "s/x/2.png", Image{1, 1, 1, {51}});
  write_png(folder_ / "s/y/3.png", Image{2, 1, 1, {0, 255}});
  PictureStatistics facts = picture_statistics(*open("s"), 2);
  EXPECT_EQ(facts.count, 3);
  EXPECT_EQ(facts.duplicates, 1);
  EXPECT_EQ(facts.shapes, (std::map<std::array<int, 3>, std::int64_t>{{{1, 1, 1}, 1},
                                                                      {{2, 1, 1}, 2}}));
  EXPECT_EQ(facts.classes, (std::map<std::int64_t, std::int64_t>{{0, 2}, {1, 1}}));
  ASSERT_EQ(facts.mean.size(), 1u);
  EXPECT_DOUBLE_EQ(facts.mean[0], 2.2 / 5);
  EXPECT_DOUBLE_EQ(facts.deviation[0], std::sqrt(2.04 / 5 - .44 * .44));
  // Gray counts in each channel; alpha does not count.
  write_png(folder_ / "s/y/4.png", Image{1, 1, 4, {51, 0, 255, 7}});
  put_file(folder_ / "s/y/5.png", "broken");
  facts = picture_statistics(*open("s"), 1);
  ASSERT_EQ(facts.mean.size(), 3u);
  EXPECT_DOUBLE_EQ(facts.mean[0], 2.4 / 6);
  EXPECT_DOUBLE_EQ(facts.mean[1], 2.2 / 6);
  EXPECT_DOUBLE_EQ(facts.mean[2], 3.2 / 6);
  EXPECT_EQ(facts.broken, 1);
  EXPECT_THAT(facts.first_broken, HasSubstr("5.png"));
}

TEST_F(Conversion, OverviewShowsSpreadSamples) {
  write_set("a.zip", 90, 32, 16);
  const Image sheet = picture_overview(*open("a.zip"), 9);
  // Nine tiles in three rows, twice as large.
  EXPECT_EQ(sheet.width, 3 * 64);
  EXPECT_EQ(sheet.height, 3 * 32);
  EXPECT_EQ(sheet.channels, 1);
  EXPECT_EQ(sheet.pixels[static_cast<std::size_t>(sheet.width) * 40 + 70], 40);
  EXPECT_EQ(picture_overview(*open("a.zip"), 1000).width, 10 * 64);
}

// The first of CIFAR-10: no transform, so the same pixels.
TEST_F(Conversion, Cifar10KeepsItsPixels) {
  const fs::path path = data_folder() / "cifar10-32x32.zip";
  FM_NEED_FILE(path);
  const auto source = open_pictures(path, "--source");
  convert_pictures(*source, {.dest = folder_ / "c.zip", .max_images = 500, .workers = 2});
  const auto made = open("c.zip");
  ASSERT_EQ(made->size(), 500);
  for (std::int64_t k = 0; k < 500; ++k) {
    ASSERT_EQ(made->read(k).pixels, source->read(k).pixels) << k;
    ASSERT_EQ(made->label(k), source->label(k)) << k;
  }
}

TEST(DatasetFacts, Cifar10) {
  const fs::path path = data_folder() / "cifar10-32x32.zip";
  FM_NEED_FILE(path);
  const PictureStatistics facts = picture_statistics(*open_pictures(path, "--source"));
  EXPECT_EQ(facts.count, 50000);
  const double mean[] = {.49139968, .48215841, .44653091};
  const double deviation[] = {.24703223, .24348513, .26158784};
  for (std::size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(facts.mean[c], mean[c], 5e-9);
    EXPECT_NEAR(facts.deviation[c], deviation[c], 5e-9);
  }
  EXPECT_EQ(facts.classes.size(), 10u);
  for (const auto& each : facts.classes) EXPECT_EQ(each.second, 5000);
}

TEST(DatasetFacts, FashionMnist) {
  const fs::path path = "/usr/share/datasets/fashion-mnist";
  FM_NEED_FILE(path);
  const PictureStatistics facts = picture_statistics(*open_pictures(path, "--source"));
  EXPECT_EQ(facts.count, 60000);
  ASSERT_EQ(facts.mean.size(), 1u);
  EXPECT_NEAR(facts.mean[0], .2860, 5e-5);
  EXPECT_NEAR(facts.deviation[0], .3530, 5e-5);
  for (const auto& each : facts.classes) EXPECT_EQ(each.second, 6000);
}

}  // namespace
}  // namespace flowmap
