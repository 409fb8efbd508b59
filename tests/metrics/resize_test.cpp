#include "metrics/resize.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/tensor_io.h"
#include "tests/support/reference.h"

namespace flowmap::metrics {
namespace {

constexpr ResizeMode kModes[] = {ResizeMode::clean, ResizeMode::legacy_tensorflow,
                                 ResizeMode::legacy_pytorch, ResizeMode::edm};

std::filesystem::path metric_reference(const char* name) {
  return testing::reference_folder() / "metrics" / name;
}

std::map<std::string, at::Tensor> inputs() {
  return load_tensors(metric_reference("resize_inputs.safetensors"));
}

// HWC -> HWC, as the reference has it.
at::Tensor resized(const at::Tensor& picture, ResizeMode mode, int64_t height,
                   int64_t width, PixelScale scale = PixelScale::bytes) {
  return resize_pictures(picture.permute({2, 0, 1}).unsqueeze(0), mode, height, width,
                         scale)
      .squeeze(0)
      .permute({1, 2, 0});
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

TEST(Resize, AsTheToolsSmall) {
  FM_NEED_FILE(metric_reference("resize_small.safetensors"));
  const auto pictures = inputs();
  int cases = 0;
  for (const auto& [name, want] :
       load_tensors(metric_reference("resize_small.safetensors"))) {
    const auto parts = split(name, '/');
    const at::Tensor got = resized(pictures.at(parts[0]), parse_resize_mode(parts[1], ""),
                                   want.size(0), want.size(1));
    EXPECT_LT(largest_difference(got, want), 1e-4) << name;
    ++cases;
  }
  EXPECT_EQ(cases, 66);
}

at::Tensor part_of(const at::Tensor& picture, const std::string& part) {
  using at::indexing::Slice;
  if (part == "centre") return picture.index({Slice(137, 161), Slice(137, 161)});
  if (part == "row_mean") return picture.to(at::kDouble).mean(1).to(at::kFloat);
  if (part == "col_mean") return picture.to(at::kDouble).mean(0).to(at::kFloat);
  const Slice first(0, 12), last(-12, at::indexing::None);
  return at::stack({picture.index({first, first}), picture.index({first, last}),
                    picture.index({last, first}), picture.index({last, last})});
}

TEST(Resize, AsTheToolsAt299) {
  FM_NEED_FILE(metric_reference("resize_299_parts.safetensors"));
  const auto pictures = inputs();
  int cases = 0;
  for (const auto& [name, want] :
       load_tensors(metric_reference("resize_299_parts.safetensors"))) {
    const auto parts = split(name, '/');
    const bool network = parts[1] == "pytorch_fid_input";
    const at::Tensor got =
        resized(pictures.at(parts[0]),
                network ? ResizeMode::legacy_pytorch : parse_resize_mode(parts[1], ""),
                299, 299, network ? PixelScale::network : PixelScale::bytes);
    EXPECT_LT(largest_difference(part_of(got, parts[2]), want), network ? 1e-6 : 1e-4)
        << name;
    ++cases;
  }
  EXPECT_EQ(cases, 224);
}

TEST(Resize, WholePictureClean) {
  FM_NEED_FILE(metric_reference("resize_299_full.safetensors"));
  const at::Tensor got =
      resized(inputs().at("text_gray"), ResizeMode::clean, 299, 299);
  const auto want = load_tensors(metric_reference("resize_299_full.safetensors"));
  EXPECT_LT(largest_difference(got, want.at("text_gray/clean")), 1e-4);
}

at::Tensor pattern(int64_t count, int64_t channels, int64_t height, int64_t width) {
  return at::arange(count * channels * height * width)
      .mul(2654435761)
      .remainder(251)
      .to(at::kByte)
      .view({count, channels, height, width});
}

// The grid inside NVIDIA's network retraces TensorFlow's positions up to float32.
TEST(Resize, EdmRetracesTensorFlow) {
  for (const auto& [height, width] : {std::pair{32, 32}, {17, 45}, {400, 320}, {1, 2}}) {
    const at::Tensor pictures = pattern(2, 3, height, width);
    const at::Tensor edm =
        resize_pictures(pictures, ResizeMode::edm, 299, 299, PixelScale::bytes);
    const at::Tensor tf = resize_pictures(pictures, ResizeMode::legacy_tensorflow, 299,
                                          299, PixelScale::bytes);
    EXPECT_LT(largest_difference(edm, tf), 0.03) << height << "x" << width;
  }
}

TEST(Resize, PicturesByThemselvesOnAnyLayout) {
  const at::Tensor pictures = pattern(5, 3, 20, 31);
  const at::Tensor other_layout = pictures.contiguous(at::MemoryFormat::ChannelsLast);
  for (const ResizeMode mode : kModes) {
    const at::Tensor all = resize_pictures(pictures, mode, 24, 40, PixelScale::network);
    EXPECT_TRUE(at::allclose(
        all, resize_pictures(other_layout, mode, 24, 40, PixelScale::network), 0, 1e-6));
    for (int64_t i = 0; i < 5; ++i)
      EXPECT_TRUE(at::equal(all[i],
                            resize_pictures(pictures.narrow(0, i, 1), mode, 24, 40,
                                            PixelScale::network)[0]))
          << resize_mode_name(mode);
  }
}

TEST(Resize, SameSizeIsLeftAlone) {
  const at::Tensor pictures = pattern(1, 3, 30, 30);
  for (const ResizeMode mode : kModes)
    EXPECT_LT(largest_difference(
                  resize_pictures(pictures, mode, 30, 30, PixelScale::bytes), pictures),
              mode == ResizeMode::edm ? 1e-2 : 1e-12)
        << resize_mode_name(mode);
}

TEST(Resize, ScaleOfTheNetwork) {
  const at::Tensor ends = at::tensor({0, 255}, at::kByte).view({1, 1, 1, 2});
  for (const ResizeMode mode : kModes) {
    const bool pytorch = mode == ResizeMode::legacy_pytorch;
    const at::Tensor out = resize_pictures(ends, mode, 1, 2, PixelScale::network);
    EXPECT_NEAR(out[0][0][0][0].item<double>(), -1, 1e-6);
    EXPECT_NEAR(out[0][0][0][1].item<double>(), pytorch ? 1 : 127.0 / 128, 1e-6);
  }
}

TEST(Resize, Refusals) {
  EXPECT_THROW(parse_resize_mode("claen", "--mode"), UsageError);
  EXPECT_THROW(resize_pictures(at::zeros({1, 3, 4, 4}), ResizeMode::clean, 4, 4,
                               PixelScale::bytes),
               UsageError);
  EXPECT_THROW(resize_pictures(pattern(1, 3, 4, 4), ResizeMode::clean, 0, 4,
                               PixelScale::bytes),
               UsageError);
}

}  // namespace
}  // namespace flowmap::metrics
