// Data sets: facts about the real ones, the formats' rules, and hostile files.
#include "flowmap/data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <unistd.h>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/formats/image.h"
#include "flowmap/formats/zip.h"
#include "tests/support/reference.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::shared_ptr<Dataset> open_set(const std::string& json) {
  return make_dataset(Config::from_text(json, "test"));
}

std::string refusal(const std::string& json) {
  try {
    open_set(json);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

// Sum, mean and population deviation of bytes / 255 a channel, in float64.
struct ChannelFacts {
  at::Tensor mean, deviation;
};
ChannelFacts channel_facts(const Dataset& set) {
  const DatasetInfo info = set.info();
  at::Tensor sum = at::zeros({info.sample_shape[0]}, at::kDouble), square = sum.clone();
  for (int64_t first = 0; first < info.count; first += 5000) {
    const at::Tensor index = at::arange(first, std::min(first + 5000, info.count));
    const at::Tensor x = set.samples(index).to(at::kDouble) / 255;
    sum += x.sum({0, 2, 3});
    square += (x * x).sum({0, 2, 3});
  }
  const double n =
      static_cast<double>(info.count * info.sample_shape[1] * info.sample_shape[2]);
  return {sum / n, (square / n - (sum / n).pow(2)).sqrt()};
}

class DatasetFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              ("flowmap_dataset_" + std::to_string(getpid()) + "_" +
               ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string file(const std::string& name) const { return (folder_ / name).string(); }
  void write(const std::string& name, const std::string& bytes) const {
    write_file_atomic(folder_ / name, bytes);
  }
  // An EDM zip of `count` gray 2x2 pictures, picture k filled with k.
  void write_zip(const std::string& name, int count, const std::string& labels_json,
                 const std::string& broken = "") const {
    ZipWriter zip(folder_ / name);
    // Written backwards: the order of the archive is not the order of the set.
    for (int k = count - 1; k >= 0; --k) {
      Image image{2, 2, 1, std::vector<std::uint8_t>(4, static_cast<std::uint8_t>(k))};
      const std::string entry = "00000/img0000000" + std::to_string(k) + ".png";
      if (entry == broken)
        zip.add(entry, std::string_view("not a PNG at all"));
      else
        zip.add(entry, encode_png(image));
    }
    if (!labels_json.empty()) zip.add("dataset.json", labels_json);
    zip.commit();
  }
  std::string options(const std::string& name, const std::string& more = "") const {
    return "{\"path\": \"" + file(name) + "\"" + more + "}";
  }

  fs::path folder_;
};

std::string big_endian(std::uint32_t v) {
  return {static_cast<char>(v >> 24), static_cast<char>(v >> 16),
          static_cast<char>(v >> 8), static_cast<char>(v)};
}
std::string idx_images(std::uint32_t n, std::uint32_t h, std::uint32_t w) {
  std::string bytes("\0\0\x08\x03", 4);
  bytes += big_endian(n) + big_endian(h) + big_endian(w);
  for (std::uint32_t i = 0; i < n * h * w; ++i) bytes += static_cast<char>(i);
  return bytes;
}
std::string idx_labels(const std::vector<int>& labels) {
  std::string bytes("\0\0\x08\x01", 4);
  bytes += big_endian(static_cast<std::uint32_t>(labels.size()));
  for (const int label : labels) bytes += static_cast<char>(label);
  return bytes;
}

TEST(FashionMnist, FactsOfTheDebianPackage) {
  FM_NEED_FILE("/usr/share/datasets/fashion-mnist");
  const auto set = open_set(R"({"type": "fashion_mnist", "labels": true})");
  const DatasetInfo info = set->info();
  EXPECT_EQ(info.name, "fashion-mnist-28x28");
  EXPECT_EQ(info.count, 60000);
  EXPECT_EQ(info.label_dim, 10);
  EXPECT_EQ(info.sample_shape, (std::vector<int64_t>{1, 28, 28}));
  const ChannelFacts facts = channel_facts(*set);
  EXPECT_NEAR(facts.mean.item<double>(), .2860, 5e-5);
  EXPECT_NEAR(facts.deviation.item<double>(), .3530, 5e-5);
  const at::Tensor per_class = set->labels(at::arange(60000)).sum(0);
  EXPECT_TRUE(per_class.eq(6000).all().item<bool>());
  EXPECT_EQ(open_set(R"({"type": "fashion_mnist", "split": "test"})")->info().count, 10000);
}

TEST(EdmZip, FactsOfCifar10) {
  const fs::path path = flowmap::testing::data_folder() / "cifar10-32x32.zip";
  FM_NEED_FILE(path);
  const auto set = open_set("{\"path\": \"" + path.string() + "\", \"labels\": true}");
  const DatasetInfo info = set->info();
  EXPECT_EQ(info.name, "cifar10-32x32");
  EXPECT_EQ(info.count, 50000);
  EXPECT_EQ(info.sample_shape, (std::vector<int64_t>{3, 32, 32}));
  const at::Tensor first = set->labels(at::arange(5)).argmax(1);
  EXPECT_TRUE(first.equal(at::tensor({6, 9, 9, 4, 1}, at::kLong)));
  EXPECT_TRUE(set->labels(at::arange(50000)).sum(0).eq(5000).all().item<bool>());
  const ChannelFacts facts = channel_facts(*set);
  const double mean[] = {.49139968, .48215841, .44653091};
  const double deviation[] = {.24703223, .24348513, .26158784};
  for (int c = 0; c < 3; ++c) {
    EXPECT_NEAR(facts.mean[c].item<double>(), mean[c], 2e-8);
    EXPECT_NEAR(facts.deviation[c].item<double>(), deviation[c], 2e-8);
  }
}

TEST_F(DatasetFiles, IdxFolderAndFile) {
  fs::create_directories(folder_ / "tiny");
  write("tiny/train-images-idx3-ubyte", idx_images(3, 2, 4));
  write("tiny/train-labels-idx1-ubyte", idx_labels({2, 0, 1}));
  for (const std::string path : {"tiny", "tiny/train-images-idx3-ubyte"}) {
    const auto set = open_set(options(path, ", \"labels\": true"));
    EXPECT_EQ(set->info().name, "tiny-2x4");
    EXPECT_EQ(set->info().label_dim, 3);
    const at::Tensor index = at::tensor({2, 0}, at::kLong);
    EXPECT_TRUE(set->labels(index).argmax(1).equal(at::tensor({1, 2}, at::kLong)));
    EXPECT_EQ(set->samples(index)[0][0][1][3].item<int>(), 23);
  }
  EXPECT_THAT(refusal(options("tiny", ", \"split\": \"test\"")), HasSubstr("t10k-images"));
  EXPECT_FALSE(open_set(options("tiny"))->labels(at::arange(1)).defined());
}

TEST_F(DatasetFiles, HostileIdx) {
  fs::create_directories(folder_ / "bad");
  const std::string images = idx_images(3, 2, 4);
  write("bad/train-labels-idx1-ubyte", idx_labels({2, 0, 1}));
  for (const std::size_t n : {0, 3, 7, 15, 16, 39}) {
    write("bad/train-images-idx3-ubyte", images.substr(0, n));
    EXPECT_THAT(refusal(options("bad")), HasSubstr("train-images-idx3-ubyte")) << n;
  }
  write("bad/train-images-idx3-ubyte", idx_labels({1, 2, 3}));
  EXPECT_THAT(refusal(options("bad")), HasSubstr("3 dimensions"));
  write("bad/train-images-idx3-ubyte", images);
  write("bad/train-labels-idx1-ubyte", idx_labels({2, 0}));
  EXPECT_THAT(refusal(options("bad")), HasSubstr("expected 3 labels"));
  write("bad/train-images-idx3-ubyte", "PNG or so, not idx");
  EXPECT_THAT(refusal(options("bad")), HasSubstr("IDX"));
}

TEST_F(DatasetFiles, EdmZipOrderLabelsAndBytes) {
  write_zip("a.zip", 4, R"({"labels": [["00000/img00000002.png", 5],
    ["00000/img00000000.png", 0], ["00000/img00000001.png", 1],
    ["00000/img00000003.png", 3]]})");
  const auto set = open_set(options("a.zip", ", \"labels\": true"));
  EXPECT_EQ(set->info().label_dim, 6);
  EXPECT_EQ(set->info().sample_shape, (std::vector<int64_t>{1, 2, 2}));
  const at::Tensor all = at::arange(4);
  EXPECT_TRUE(set->samples(all).flatten(1).select(1, 0).equal(all.to(at::kByte)));
  EXPECT_TRUE(set->labels(all).argmax(1).equal(at::tensor({0, 1, 5, 3}, at::kLong)));
}

TEST_F(DatasetFiles, EdmZipVectorsAndNull) {
  write_zip("v.zip", 2, R"({"labels": [["00000/img00000000.png", [0.5, -1]],
    ["00000/img00000001.png", [2, 3.25]]]})");
  const auto vectors = open_set(options("v.zip", ", \"labels\": true"));
  EXPECT_EQ(vectors->info().label_dim, 2);
  EXPECT_TRUE(vectors->labels(at::arange(2)).equal(at::tensor({.5f, -1.f, 2.f, 3.25f})
                                                        .view({2, 2})));
  write_zip("n.zip", 2, R"({"labels": null})");
  EXPECT_EQ(open_set(options("n.zip"))->info().label_dim, 0);
  EXPECT_THAT(refusal(options("n.zip", ", \"labels\": true")), HasSubstr("labels"));
  write_zip("x.zip", 2, "");
  EXPECT_EQ(open_set(options("x.zip"))->info().count, 2);
}

TEST_F(DatasetFiles, HostileZip) {
  write_zip("broken.zip", 4, "", "00000/img00000002.png");
  EXPECT_THAT(refusal(options("broken.zip")), HasSubstr("img00000002.png"));
  write_zip("short.zip", 3, R"({"labels": [["00000/img00000000.png", 1]]})");
  EXPECT_THAT(refusal(options("short.zip")), HasSubstr("none for 00000/img00000001.png"));
  write_zip("mixed.zip", 2, R"({"labels": [["00000/img00000000.png", 1],
    ["00000/img00000001.png", [1, 2]]]})");
  EXPECT_THAT(refusal(options("mixed.zip")), HasSubstr("one kind"));
  write_zip("negative.zip", 1, R"({"labels": [["00000/img00000000.png", -1]]})");
  EXPECT_THAT(refusal(options("negative.zip")), HasSubstr("-1 for"));
  write_zip("json.zip", 1, "[1, 2");
  EXPECT_THAT(refusal(options("json.zip")), HasSubstr("dataset.json"));
  write_zip("empty.zip", 0, R"({"labels": null})");
  EXPECT_THAT(refusal(options("empty.zip")), HasSubstr("PNG"));
  {
    ZipWriter zip(folder_ / "sizes.zip");
    zip.add("a.png", encode_png(Image{2, 2, 1, std::vector<std::uint8_t>(4)}));
    zip.add("b.png", encode_png(Image{3, 2, 1, std::vector<std::uint8_t>(6)}));
    zip.commit();
  }
  EXPECT_THAT(refusal(options("sizes.zip")), HasSubstr("b.png"));
  EXPECT_THAT(refusal(options("sizes.zip")), HasSubstr("2x2"));
}

TEST_F(DatasetFiles, MaxImagesIsAFixedSubsetInOrder) {
  write_zip("a.zip", 9, "");
  const auto few = open_set(options("a.zip", ", \"max_images\": 4"));
  EXPECT_EQ(few->info().count, 4);
  const at::Tensor picked = few->samples(at::arange(4)).flatten(1).select(1, 0).to(at::kLong);
  EXPECT_TRUE((picked.slice(0, 1) > picked.slice(0, 0, 3)).all().item<bool>());
  EXPECT_TRUE(open_set(options("a.zip", ", \"max_images\": 4"))
                  ->samples(at::arange(4)).equal(few->samples(at::arange(4))));
  EXPECT_EQ(open_set(options("a.zip", ", \"max_images\": 100"))->info().count, 9);
}

TEST_F(DatasetFiles, UnknownThingsAreNamed) {
  EXPECT_THAT(refusal(R"({"type": "moon"})"), HasSubstr("did you mean 'moons'"));
  EXPECT_THAT(refusal("{}"), HasSubstr("data.path"));
  EXPECT_THAT(refusal(options("nothing.zip")), HasSubstr("does not exist"));
  write("note.txt", "hello");
  EXPECT_THAT(refusal(options("note.txt")), HasSubstr("note.txt"));
  EXPECT_THAT(refusal(R"({"type": "fashion_mnist", "path": "/nowhere"})"),
              HasSubstr("dataset-fashion-mnist"));
}

class PlaneSets : public ::testing::TestWithParam<const char*> {};

TEST_P(PlaneSets, PointsDependOnTheIndexAndStayInTheSquare) {
  const std::string json = std::string("{\"type\": \"") + GetParam() + "\", \"labels\": true}";
  const auto set = open_set(json);
  EXPECT_FALSE(set->info().images);
  EXPECT_EQ(set->info().count, int64_t{1} << 40);
  const at::Tensor all = set->samples(at::arange(20000));
  EXPECT_EQ(all.scalar_type(), at::kFloat);
  EXPECT_LE(all.abs().max().item<double>(), 1.0);
  EXPECT_GT(all.abs().max().item<double>(), 0.7);
  const at::Tensor some = at::tensor({19999, 5, 77}, at::kLong);
  EXPECT_TRUE(set->samples(some).equal(all.index_select(0, some)));
  // Every mode has its share.
  const at::Tensor share = set->labels(at::arange(20000)).mean(0);
  EXPECT_LT((share * share.numel() - 1).abs().max().item<double>(), 0.1);
  EXPECT_NE(set->samples(at::tensor({(int64_t{1} << 40) - 1}))[0][0].item<float>(), 0);
}
INSTANTIATE_TEST_SUITE_P(All, PlaneSets,
                         ::testing::Values("checkerboard", "eight_gaussians", "moons",
                                           "spirals"));

TEST(Checkerboard, FillsTheEvenSquaresUniformly) {
  const auto set = open_set(R"({"type": "checkerboard"})");
  const at::Tensor points = set->samples(at::arange(40000)).to(at::kDouble);
  const at::Tensor cell = ((points + 1) / 0.5).floor().clamp(0, 3).to(at::kLong);
  EXPECT_TRUE(cell.sum(1).remainder(2).eq(0).all().item<bool>());
  // The deviation of a uniform square of side 2, 1/sqrt(3).
  EXPECT_NEAR(points.pow(2).mean().sqrt().item<double>(), 1 / std::sqrt(3.0), 0.005);
}

TEST(ConvertBytes, EdmRule) {
  const at::Tensor x = at::tensor({-2.0, -1.0, -0.999, 0.0, 0.00392, 0.5, 1.0, 3.0});
  // (x * 127.5 + 128) truncated: -1 -> 0.5 -> 0, 0 -> 128, 0.5 -> 191.75 -> 191.
  EXPECT_TRUE(images_to_bytes(x).equal(
      at::tensor({0, 0, 0, 128, 128, 191, 255, 255}, at::kByte)));
  const at::Tensor levels = at::arange(256).to(at::kByte);
  const at::Tensor floats = samples_to_float(levels);
  EXPECT_EQ(floats[0].item<float>(), -1.0f);
  EXPECT_EQ(floats[255].item<float>(), 1.0f);
  EXPECT_TRUE(images_to_bytes(floats).equal(levels));
  const at::Tensor points = at::rand({3, 2});
  EXPECT_TRUE(samples_to_float(points).equal(points));
}

}  // namespace
}  // namespace flowmap
