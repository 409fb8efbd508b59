// Distances of real pictures through the whole chain (resize, network, distance) against
// the tools. The pair of Fashion-MNIST runs always; FLOWMAP_E2E=all runs the whole table
// of 16 pairs (12,000 pictures, ten minutes on one core) and prints it in Markdown.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flowmap/base/sha256.h"
#include "flowmap/formats/idx.h"
#include "flowmap/formats/image.h"
#include "flowmap/formats/zip.h"
#include "flowmap/tensor_io.h"
#include "metrics/frechet.h"
#include "metrics/kid.h"
#include "metrics/metric.h"
#include "tests/support/reference.h"

namespace flowmap::metrics {
namespace {

namespace fs = std::filesystem;
using testing::data_folder;
using testing::reference_folder;

const fs::path kFashion = "/usr/share/datasets/fashion-mnist";

// The first `count` pictures of a zip in the order of their names, uint8 [N, H, W, C].
at::Tensor pictures_of_zip(const fs::path& path, std::size_t count) {
  const ZipReader zip(path);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < zip.size(); ++i)
    if (zip.name(i).ends_with(".png")) names.push_back(zip.name(i));
  std::sort(names.begin(), names.end());
  names.resize(std::min(count, names.size()));
  std::vector<at::Tensor> pictures;
  for (const std::string& name : names) {
    const std::vector<std::byte> bytes = zip.read(name);
    const Image image = decode_image(bytes, name);
    at::Tensor picture =
        at::empty({image.height, image.width, image.channels}, at::kByte);
    std::copy(image.pixels.begin(), image.pixels.end(),
              picture.mutable_data_ptr<std::uint8_t>());
    pictures.push_back(picture);
  }
  return at::stack(pictures);
}

at::Tensor fashion(const char* split) {
  const at::Tensor gray =
      to_tensor(read_idx(kFashion / (std::string(split) + "-images-idx3-ubyte.gz")));
  return gray.narrow(0, 0, 300).unsqueeze(3).repeat({1, 1, 1, 3});
}

// (sum_ij w_i w_j p_ij + 2^31) >> 32, edges mirrored with the edge pixel repeated.
at::Tensor blurred(const at::Tensor& pictures, const std::vector<int64_t>& weights) {
  at::Tensor x = pictures.to(at::kLong);
  const auto reach = static_cast<int64_t>(weights.size() / 2);
  for (const int64_t dim : {1, 2}) {
    const int64_t size = x.size(dim);
    at::Tensor sum = at::zeros_like(x);
    for (int64_t k = -reach; k <= reach; ++k) {
      at::Tensor from = at::arange(size) + k;
      from = at::where(from < 0, -1 - from, from);
      from = at::where(from >= size, 2 * size - 1 - from, from);
      sum += x.index_select(dim, from) * weights[static_cast<std::size_t>(k + reach)];
    }
    x = sum;
  }
  return at::bitwise_right_shift(x + (int64_t{1} << 31), 32).to(at::kByte);
}

// clip(p + table[draw >> 52]), draw = the splitmix64 stream of `seed`.
at::Tensor noisy(const at::Tensor& pictures, const std::vector<int>& table,
                 std::uint64_t seed) {
  at::Tensor out = pictures.clone();
  auto* bytes = out.mutable_data_ptr<std::uint8_t>();
  std::uint64_t state = seed;
  for (int64_t i = 0; i < out.numel(); ++i) {
    state += 0x9E3779B97F4A7C15;
    std::uint64_t z = state;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    z ^= z >> 31;
    bytes[i] = static_cast<std::uint8_t>(std::clamp(bytes[i] + table[z >> 52], 0, 255));
  }
  return out;
}

class InceptionEndToEnd : public ::testing::Test {
 protected:
  // Features of 64, 192 and 768 numbers, made once for each set and mode.
  const std::vector<at::Tensor>& features(const std::string& set,
                                          const std::string& mode) {
    const auto found = features_.find(mode + "/" + set);
    if (found != features_.end()) return found->second;
    Config options;
    options.set_override("path=" + weights().string(), "test");
    options.set_override("mode=" + mode, "test");
    const auto detector = make_detector("inception", options);
    const at::Tensor& nhwc = pictures(set);
    const int64_t count = mode == "legacy_pytorch" ? nhwc.size(0)
                                                   : std::min<int64_t>(500, nhwc.size(0));
    const auto start = std::chrono::steady_clock::now();
    auto rows =
        detector->features(nhwc.narrow(0, 0, count).permute({0, 3, 1, 2}), kLayers);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    std::printf("%s %s: %lld pictures, %.1f a second\n", mode.c_str(), set.c_str(),
                static_cast<long long>(count),
                static_cast<double>(count) / spent.count());
    return features_[mode + "/" + set] = std::move(rows);
  }

  const at::Tensor& pictures(const std::string& set) {
    const auto found = pictures_.find(set);
    if (found != pictures_.end()) return found->second;
    at::Tensor made;
    if (set == "train") made = pictures_of_zip(data_folder() / "cifar10-32x32.zip", 2000);
    if (set == "test")
      made = pictures_of_zip(data_folder() / "cifar10-test-32x32.zip", 2000);
    if (set == "jpeg")
      made = pictures_of_zip(reference_folder() / "metrics/e2e_jpeg75_500.zip", 500);
    if (set == "fashion_train") made = fashion("train");
    if (set == "fashion_test") made = fashion("t10k");
    if (set == "blur")
      made = blurred(pictures("test"),
                     reference()["blur"]["weights_65536"].get<std::vector<int64_t>>());
    if (set == "noise")
      made = noisy(pictures("test"),
                   reference()["noise"]["table"].get<std::vector<int>>(),
                   reference()["noise"]["seed"].get<std::uint64_t>());
    made = made.contiguous();
    const auto* bytes = static_cast<const std::byte*>(made.const_data_ptr());
    EXPECT_EQ(sha256_hex({bytes, made.nbytes()}),
              reference()["sha256_of_uint8_NHWC"][set].get<std::string>())
        << set;
    return pictures_[set] = made;
  }

  void check(const nlohmann::json& pair) {
    const std::string a = pair["a"], b = pair["b"], mode = pair["mode"];
    const auto count = pair["images_each"].get<int64_t>();
    for (std::size_t i = 0; i < kLayers.size(); ++i) {
      const auto& want = pair["fid" + kLayers[i]];
      const at::Tensor first = features(a, mode)[i].narrow(0, 0, count);
      const at::Tensor second = features(b, mode)[i].narrow(0, 0, count);
      FeatureSet sets[2];
      for (FeatureSet& set : sets) set.keep_features = true;
      sets[0].add(first);
      sets[1].add(second);
      const double distance = frechet_distance(sets[1], sets[0]);
      const double expected = want["reference"].get<double>();
      EXPECT_NEAR(distance, expected, 1e-5 * expected) << a << " " << b << " " << mode;
      const double kid = kernel_distance(second, first).value;
      const double kid_expected = want["kid_unbiased_all_pairs"].get<double>();
      EXPECT_NEAR(kid, kid_expected, 1e-5 * want["kid_biased_all_pairs"].get<double>());
      std::printf("| %s, %s | %s | %lld | fid%s | %.8f | %.8f | %.8f | %.1e |\n",
                  a.c_str(), b.c_str(), mode.c_str(), static_cast<long long>(count),
                  kLayers[i].c_str(), want["pytorch-fid"].get<double>(), expected, distance,
                  distance / expected - 1);
      std::printf("| | | | kid%s | | %.8f | %.8f | %.1e |\n", kLayers[i].c_str(),
                  kid_expected, kid, kid - kid_expected);
      std::fflush(stdout);
    }
  }

  static fs::path weights() {
    return data_folder() / "inception/fid_inception_2015_to_mixed8_f32.safetensors";
  }
  static fs::path reference_path() { return reference_folder() / "metrics/e2e.json"; }
  static const nlohmann::json& reference() {
    static const nlohmann::json json = [] {
      std::ifstream in(reference_path());
      return nlohmann::json::parse(in);
    }();
    return json;
  }
  const std::vector<std::string> kLayers{"64", "192", "768"};

 private:
  std::map<std::string, at::Tensor> pictures_;
  std::map<std::string, std::vector<at::Tensor>> features_;
};

TEST_F(InceptionEndToEnd, DistancesAsTheTools) {
  FM_NEED_FILE(weights());
  FM_NEED_FILE(reference_path());
  FM_NEED_FILE(kFashion / "train-images-idx3-ubyte.gz");
  const char* wanted = std::getenv("FLOWMAP_E2E");
  const bool all = wanted && std::string(wanted) == "all";
  if (all) {
    FM_NEED_FILE(data_folder() / "cifar10-32x32.zip");
    FM_NEED_FILE(data_folder() / "cifar10-test-32x32.zip");
  }
  std::printf("| pair | mode | pictures each | metric | pytorch-fid | float64 reference "
              "| ours | difference |\n|---|---|---:|---|---:|---:|---:|---:|\n");
  int pairs = 0;
  for (const auto& pair : reference()["pairs"])
    if (all || pair["a"] == "fashion_test") {
      check(pair);
      ++pairs;
    }
  EXPECT_EQ(pairs, all ? 16 : 1);
}

}  // namespace
}  // namespace flowmap::metrics
