// open_pictures(): every kind of source, in its order, with its labels, and broken.
#include "flowmap/data/picture_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/data/dataset.h"
#include "flowmap/data/edm_labels.h"
#include "flowmap/formats/npy.h"
#include "flowmap/formats/zip.h"
#include "tests/support/cifar_bytes.h"
#include "tests/support/reference.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;
using namespace testing;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Image flat(int width, int height, int channels, int level) {
  return {width, height, channels,
          std::vector<std::uint8_t>(static_cast<std::size_t>(width) * height * channels,
                                    static_cast<std::uint8_t>(level))};
}

class PictureSources : public ::testing::Test {
 protected:
  void picture(const std::string& name, int level, int channels = 1) const {
    fs::create_directories((folder_ / name).parent_path());
    write_png(folder_ / name, flat(2, 2, channels, level));
  }
  std::shared_ptr<PictureSource> open(const std::string& name,
                                      const std::string& split = "train") const {
    return open_pictures(folder_ / name, "--source", split);
  }
  std::string refusal(const std::string& name, const std::string& split = "train") const {
    try {
      open(name, split);
    } catch (const UsageError& error) {
      return std::string("usage: ") + error.what();
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }
  static std::vector<int> levels(const PictureSource& source) {
    std::vector<int> out;
    for (std::int64_t k = 0; k < source.size(); ++k)
      out.push_back(source.read(k).pixels.at(0));
    return out;
  }
  static std::vector<std::int64_t> classes(const PictureSource& source) {
    std::vector<std::int64_t> out;
    for (std::int64_t k = 0; k < source.size(); ++k)
      out.push_back(std::get<std::int64_t>(source.label(k).value()));
    return out;
  }

  ScratchFolder folder_;
};

TEST_F(PictureSources, FolderInTheOrderOfItsPaths) {
  picture("set/b/2.png", 3);
  picture("set/b/10.png", 2);
  picture("set/b-c/1.PNG", 4);
  picture("set/a.png", 1);
  put_file(folder_ / "set/b/notes.txt", "x");
  put_file(folder_ / "set/README", "x");
  const auto source = open("set");
  EXPECT_EQ(source->name(), "set");
  // Part by part: the folder "b" comes before "b-c", as '/' ends a name.
  EXPECT_THAT(levels(*source), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(source->entry_name(1), HasSubstr("set/b/10.png"));
  const PictureSourceFacts facts = source->facts();
  EXPECT_EQ(facts.kind, "folder");
  EXPECT_EQ(facts.ignored, 2);
  EXPECT_THAT(facts.first_ignored, HasSubstr("set/README"));
  // Without dataset.json the folders at the top are the classes, as in EDM's tool.
  EXPECT_THAT(classes(*source), ElementsAre(0, 1, 1, 2));
  EXPECT_THAT(facts.class_names, ElementsAre(".", "b", "b-c"));
}

TEST_F(PictureSources, FolderOfOneFolderHasNoClasses) {
  picture("set/only/1.png", 1);
  picture("set/only/deep/2.png", 2);
  EXPECT_FALSE(open("set")->label(0));
}

TEST_F(PictureSources, FolderWithLabels) {
  picture("set/x/1.png", 1);
  picture("set/y/2.png", 2);
  put_file(folder_ / "set/dataset.json",
           R"({"labels": [["y/2.png", 7], ["x/1.png", 5], ["y/3.png", 1]]})");
  const auto source = open("set");
  EXPECT_THAT(classes(*source), ElementsAre(5, 7));
  EXPECT_EQ(source->facts().missing, 1);
  EXPECT_EQ(source->facts().first_missing, "y/3.png");
  EXPECT_EQ(source->facts().ignored, 0);
  put_file(folder_ / "set/dataset.json", R"({"labels": [["y/2.png", 7]]})");
  EXPECT_THAT(refusal("set"), HasSubstr("none for x/1.png"));
}

TEST_F(PictureSources, ZipInTheOrderOfItsNames) {
  {
    ZipWriter zip(folder_ / "a.zip");
    zip.add("b.png", encode_png(flat(2, 2, 1, 2)));
    zip.add("a.jpeg.png", encode_png(flat(3, 2, 3, 1)));
    zip.add("notes.md", std::string_view("x"));
    zip.add("dataset.json", std::string_view(
        R"({"labels": [["b.png", [0.5, 2]], ["a.jpeg.png", [1, -3]]]})"));
    zip.commit();
  }
  const auto source = open("a.zip");
  EXPECT_EQ(source->name(), "a");
  EXPECT_THAT(levels(*source), ElementsAre(1, 2));
  EXPECT_EQ(source->read(0).width, 3);
  EXPECT_THAT(std::get<std::vector<float>>(*source->label(1)), ElementsAre(.5f, 2.f));
  EXPECT_EQ(source->facts().ignored, 1);
  EXPECT_THAT(source->entry_name(1), HasSubstr("a.zip:b.png"));
}

TEST_F(PictureSources, OneBrokenPictureLeavesTheOthers) {
  picture("set/1.png", 1);
  put_file(folder_ / "set/2.png", "no picture");
  picture("set/3.png", 3);
  const auto source = open("set");
  EXPECT_THROW(source->read(1), DataError);
  EXPECT_EQ(source->read(2).pixels[0], 3);
  EXPECT_THROW(source->read(3), Error);
  EXPECT_THROW(source->read(-1), Error);
}

TEST_F(PictureSources, ThreadsReadAtOnce) {
  {
    ZipWriter zip(folder_ / "a.zip");
    for (int k = 0; k < 100; ++k)
      zip.add(std::to_string(100 + k) + ".png", encode_png(flat(4, 4, 3, k)));
    zip.commit();
  }
  const auto source = open("a.zip");
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (int k = 0; k < 100; ++k) wrong[t] += source->read(k).pixels[5] != k;
    });
  for (std::thread& each : threads) each.join();
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

void expect_cifar(const PictureSource& source, int first, int count, int of = 10) {
  ASSERT_EQ(source.size(), count);
  for (int k = 0; k < count; ++k) {
    const Image image = source.read(k);
    ASSERT_EQ(image.width, 32);
    ASSERT_EQ(image.channels, 3);
    const std::string planes = cifar_picture(first + k);
    for (int c = 0; c < 3; ++c)
      for (int p = 0; p < 1024; ++p)
        ASSERT_EQ(image.pixels[static_cast<std::size_t>(p) * 3 + c],
                  static_cast<std::uint8_t>(planes[static_cast<std::size_t>(c) * 1024 + p]))
            << k << " " << c << " " << p;
    EXPECT_EQ(source.label(k), PictureLabel(std::int64_t{(first + k) * 3 % of}));
  }
}

TEST_F(PictureSources, Cifar10Python) {
  const std::string tar = cifar10_python_tar();
  put_file(folder_ / "cifar-10-python.tar.gz", gzip_bytes(tar));
  put_file(folder_ / "plain.tar", tar);
  for (const char* name : {"cifar-10-python.tar.gz", "plain.tar"}) {
    const auto train = open(name);
    expect_cifar(*train, 0, 10);
    EXPECT_EQ(train->name(), "cifar10-32x32");
    EXPECT_THAT(train->entry_name(7), HasSubstr(std::string(name) + "[7]"));
    EXPECT_EQ(train->facts().class_names.at(9), "truck");
    expect_cifar(*open(name, "test"), 100, 3);
  }
  // Unpacked, and as training data.
  fs::create_directories(folder_ / "unpacked");
  for (int part = 1; part <= 5; ++part)
    put_file(folder_ / ("unpacked/data_batch_" + std::to_string(part)),
             cifar10_batch(2 * (part - 1), 2));
  expect_cifar(*open("unpacked"), 0, 10);
  const auto set = make_dataset(Config::from_text(
      "{\"labels\": true, \"path\": \"" + (folder_ / "plain.tar").string() + "\"}", "t"));
  EXPECT_EQ(set->info().label_dim, 10);
  EXPECT_EQ(set->info().sample_shape, (std::vector<int64_t>{3, 32, 32}));
  EXPECT_EQ(set->samples(at::tensor({4}, at::kLong))[0][2][31][31].item<int>(),
            static_cast<std::uint8_t>(cifar_picture(4).back()));
}

TEST_F(PictureSources, Cifar10Binary) {
  std::string tar;
  for (int part = 1; part <= 5; ++part) {
    std::string records;
    for (const int k : {2 * part - 2, 2 * part - 1})
      records += static_cast<char>(k * 3 % 10) + cifar_picture(k);
    tar += tar_member("cifar-10-batches-bin/data_batch_" + std::to_string(part) + ".bin",
                      records);
  }
  tar += tar_member("cifar-10-batches-bin/batches.meta.txt", "airplane\nautomobile\n\n");
  put_file(folder_ / "cifar-10-binary.tar.gz", gzip_bytes(tar + tar_end()));
  const auto source = open("cifar-10-binary.tar.gz");
  expect_cifar(*source, 0, 10);
  EXPECT_THAT(source->facts().class_names, ElementsAre("airplane", "automobile"));
  EXPECT_THAT(refusal("cifar-10-binary.tar.gz", "test"), HasSubstr("test_batch.bin"));
}

TEST_F(PictureSources, Cifar100) {
  const auto python = [](int first, int count) {
    return py2_dict({{"fine_labels", py2_ints(cifar_classes(first, count, 100))},
                     {"coarse_labels", py2_ints({1, 1, 1, 1})},
                     {"data", py2_array(static_cast<unsigned>(count),
                                        cifar_pictures(first, count))}});
  };
  put_file(folder_ / "python.tgz",
           gzip_bytes(tar_member("cifar-100-python/meta",
                                 py2_dict({{"fine_label_names",
                                            py2_list({py2_str("apple")})}})) +
                      tar_member("cifar-100-python/test", python(50, 2)) +
                      tar_member("cifar-100-python/train", python(40, 4)) + tar_end()));
  expect_cifar(*open("python.tgz"), 40, 4, 100);
  expect_cifar(*open("python.tgz", "test"), 50, 2, 100);
  EXPECT_THAT(open("python.tgz")->facts().class_names, ElementsAre("apple"));
  // A coarse class, a fine one, the picture.
  const std::string record = "\x05" + std::string(1, static_cast<char>(40 * 3 % 100));
  put_file(folder_ / "binary.tar",
           tar_member("cifar-100-binary/train.bin", record + cifar_picture(40)) +
               tar_end());
  expect_cifar(*open("binary.tar"), 40, 1, 100);
}

TEST_F(PictureSources, HostileCifar) {
  const auto with = [&](const std::string& batch) {
    std::string tar;
    for (int part = 1; part <= 5; ++part)
      tar += tar_member("data_batch_" + std::to_string(part),
                        part == 3 ? batch : cifar10_batch(0, 1));
    put_file(folder_ / "bad.tar", tar + tar_end());
    return refusal("bad.tar");
  };
  EXPECT_EQ(with(cifar10_batch(0, 1)), "accepted");
  const std::string pixels = cifar_picture(0);
  EXPECT_THAT(with(py2_dict({{"labels", py2_ints({1})}})), HasSubstr("\"data\""));
  EXPECT_THAT(with(py2_dict({{"labels", py2_ints({1, 2})}, {"data", py2_array(1, pixels)}})),
              HasSubstr("expected 1 labels, got 2"));
  EXPECT_THAT(with(py2_dict({{"labels", py2_ints({10})}, {"data", py2_array(1, pixels)}})),
              HasSubstr("classes from 0 to 9"));
  EXPECT_THAT(with(py2_dict({{"labels", py2_ints({1})},
                             {"data", py2_array(1, pixels.substr(1), 3071)}})),
              HasSubstr("uint8 [N, 3072]"));
  EXPECT_THAT(with(py2_dict({{"labels", py2_ints({1})}, {"data", py2_array(9, pixels)}})),
              HasSubstr("27648 bytes"));
  // What would run a command is refused by name, and is not run.
  const std::string trace = (folder_ / "ran").string();
  EXPECT_THAT(with("cos\nsystem\n(S'touch " + trace + "'\ntR."), HasSubstr("os.system"));
  EXPECT_FALSE(fs::exists(trace));
  EXPECT_THAT(with("\x80\2}(U"), HasSubstr("bad.tar:data_batch_3"));

  put_file(folder_ / "four.tar", tar_member("data_batch_1", cifar10_batch(0, 1)) + tar_end());
  EXPECT_THAT(refusal("four.tar"), HasSubstr("no data_batch_2"));
  put_file(folder_ / "cut.bin.tar", tar_member("data_batch_1.bin", pixels) + tar_end());
  EXPECT_THAT(refusal("cut.bin.tar"), HasSubstr("whole records of 3073"));
  put_file(folder_ / "other.tar", tar_member("photos/1.png", "x") + tar_end());
  EXPECT_THAT(refusal("other.tar"), HasSubstr("begins with photos/1.png"));
}

TEST_F(PictureSources, Npz) {
  const auto bytes = [](std::size_t size) {
    Bytes out(size);
    for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<std::byte>(i);
    return out;
  };
  write_npz(folder_ / "s.npz", {{"arr_0", {DType::U8, {2, 2, 3, 3}, bytes(36)}},
                                {"arr_1", {DType::I64, {2}, bytes_of<std::int64_t>({4, 0})}}});
  const auto source = open("s.npz");
  ASSERT_EQ(source->size(), 2);
  const Image image = source->read(1);
  EXPECT_EQ(image.width, 3);
  EXPECT_EQ(image.height, 2);
  EXPECT_EQ(image.pixels[4], 22);
  EXPECT_THAT(classes(*source), ElementsAre(4, 0));
  write_npz(folder_ / "gray.npz", {{"arr_0", {DType::U8, {3, 2, 2}, bytes(12)}}});
  EXPECT_EQ(open("gray.npz")->read(2).channels, 1);
  EXPECT_FALSE(open("gray.npz")->label(0));
  write_npz(folder_ / "f.npz", {{"arr_0", {DType::F32, {1, 1, 1, 1}, bytes(4)}}});
  EXPECT_THAT(refusal("f.npz"), HasSubstr("F32 [1, 1, 1, 1]"));
  write_npz(folder_ / "mu.npz", {{"mu", {DType::F32, {1}, bytes(4)}}});
  EXPECT_THAT(refusal("mu.npz"), HasSubstr("only mu"));
}

TEST_F(PictureSources, Idx) {
  std::string images("\0\0\x08\x03", 4), labels("\0\0\x08\x01", 4);
  images += big(3, 4) + big(2, 4) + big(2, 4);
  for (char i = 0; i < 12; ++i) images += i;
  labels += big(3, 4) + "\x07\x01\x02";
  fs::create_directories(folder_ / "mnist");
  put_file(folder_ / "mnist/train-images-idx3-ubyte.gz", gzip_bytes(images));
  put_file(folder_ / "mnist/train-labels-idx1-ubyte", labels);
  for (const char* name : {"mnist", "mnist/train-images-idx3-ubyte.gz"}) {
    const auto source = open(name);
    EXPECT_EQ(source->name(), "mnist");
    EXPECT_THAT(levels(*source), ElementsAre(0, 4, 8));
    EXPECT_THAT(classes(*source), ElementsAre(7, 1, 2));
  }
  EXPECT_THAT(refusal("mnist", "test"), HasSubstr("t10k-images"));
  put_file(folder_ / "mnist/train-labels-idx1-ubyte", labels.substr(0, 10) + "xx");
  EXPECT_THAT(refusal("mnist"), HasSubstr("labels-idx1"));
}

TEST_F(PictureSources, UnknownThingsAreNamed) {
  fs::create_directories(folder_ / "empty");
  EXPECT_THAT(refusal("empty"), HasSubstr("usage: --source: "));
  EXPECT_THAT(refusal("empty"), HasSubstr("holds no PNG or JPEG pictures"));
  fs::create_directories(folder_ / "texts");
  put_file(folder_ / "texts/a.txt", "x");
  EXPECT_THAT(refusal("texts"), HasSubstr("1 other files, the first"));
  EXPECT_THAT(refusal("absent"), HasSubstr("does not exist"));
  put_file(folder_ / "note.txt", "hello");
  EXPECT_THAT(refusal("note.txt"), HasSubstr("cannot tell what"));
  put_file(folder_ / "no.zip", "hello");
  EXPECT_THAT(refusal("no.zip"), HasSubstr("no.zip"));
  EXPECT_THROW(open("empty", "validation"), UsageError);
}

TEST_F(PictureSources, SixteenBitsAreOneWarning) {
  // gray 1x1, 16 bits: the row 0, 0xAB, 0xCD.
  const Image small = flat(1, 1, 1, 0);
  Bytes png = encode_png(small, {}, 0);
  std::string bytes = to_text(png);
  const auto chunk = [](std::string body) {
    const auto crc = crc32(0, reinterpret_cast<const Bytef*>(body.data()),
                           static_cast<uInt>(body.size()));
    return big(body.size() - 4, 4) + body + big(crc, 4);
  };
  std::string row("\0\xAB\xCD", 3), packed(64, '\0');
  uLongf size = packed.size();
  ASSERT_EQ(compress(reinterpret_cast<Bytef*>(packed.data()), &size,
                     reinterpret_cast<const Bytef*>(row.data()), row.size()), Z_OK);
  packed.resize(size);
  const std::string deep = bytes.substr(0, 8) +
                           chunk("IHDR" + big(1, 4) + big(1, 4) + "\x10"s + "\0\0\0\0"s) +
                           chunk("IDAT" + packed) + chunk("IEND");
  fs::create_directories(folder_ / "deep");
  put_file(folder_ / "deep/1.png", deep);
  put_file(folder_ / "deep/2.png", deep);
  const auto source = open("deep");
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(source->read(0).pixels[0], 0xAB);
  EXPECT_EQ(source->read(1).pixels[0], 0xAB);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, HasSubstr("1.png has 16 bits"));
  EXPECT_EQ(said.find("2.png"), std::string::npos);
}

TEST(EdmLabelsText, ReadsBackWhatItWrites) {
  const std::vector<std::string> names{"a\"b.png", "c.png"};
  const auto round = [&](const std::vector<PictureLabel>& labels) {
    const std::string text = format_edm_labels(names, labels);
    const auto read = parse_edm_labels(to_bytes(text), "t", 2,
                                       [&](std::size_t k) { return names[k]; });
    EXPECT_EQ(read.labels, labels) << text;
    return text;
  };
  EXPECT_EQ(round({std::int64_t{6}, std::int64_t{0}}),
            R"({"labels": [["a\"b.png", 6], ["c.png", 0]]})");
  round({std::vector<float>{.1f, 1e-30f}, std::vector<float>{-3, 3.4e38f}});
  EXPECT_EQ(round({}), R"({"labels": null})");
}

// CIFAR-10 as the shared file holds it.
TEST(Cifar10Zip, FirstLabels) {
  const fs::path path = data_folder() / "cifar10-32x32.zip";
  FM_NEED_FILE(path);
  const auto source = open_pictures(path, "--source");
  ASSERT_EQ(source->size(), 50000);
  std::vector<std::int64_t> first;
  for (int k = 0; k < 5; ++k) first.push_back(std::get<std::int64_t>(*source->label(k)));
  EXPECT_THAT(first, ElementsAre(6, 9, 9, 4, 1));
}

}  // namespace
}  // namespace flowmap
