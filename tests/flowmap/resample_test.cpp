#include "flowmap/resample.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/tensor_io.h"
#include "tests/support/reference.h"

namespace flowmap {
namespace {

std::filesystem::path metric_reference(const char* name) {
  return testing::reference_folder() / "metrics" / name;
}

Image image_of(const at::Tensor& picture) {
  const at::Tensor bytes = picture.contiguous();
  const auto* data = bytes.const_data_ptr<std::uint8_t>();
  return {static_cast<int>(bytes.size(1)), static_cast<int>(bytes.size(0)),
          static_cast<int>(bytes.size(2)), {data, data + bytes.numel()}};
}

// "picture/filter/HxW".
TEST(Resample, BytesAsPillowToTheLastBit) {
  FM_NEED_FILE(metric_reference("resize_pillow_u8.safetensors"));
  const auto pictures = load_tensors(metric_reference("resize_inputs.safetensors"));
  int cases = 0;
  for (const auto& [name, want] :
       load_tensors(metric_reference("resize_pillow_u8.safetensors"))) {
    const auto parts = split(name, '/');
    const Image got = resize_bytes(image_of(pictures.at(parts[0])),
                                   static_cast<int>(want.size(1)),
                                   static_cast<int>(want.size(0)),
                                   parse_resample_filter(parts[1], "filter"));
    EXPECT_EQ(got.pixels, image_of(want).pixels) << name;
    ++cases;
  }
  EXPECT_EQ(cases, 70);
}

TEST(Resample, FloatPlanesAsPillow) {
  FM_NEED_FILE(metric_reference("resize_small.safetensors"));
  const auto pictures = load_tensors(metric_reference("resize_inputs.safetensors"));
  int cases = 0;
  for (const auto& [name, want] :
       load_tensors(metric_reference("resize_small.safetensors"))) {
    const auto parts = split(name, '/');
    if (parts[1] != "clean") continue;
    const at::Tensor planes = pictures.at(parts[0]).to(at::kFloat).permute({2, 0, 1});
    const at::Tensor got = resize_planes(planes, want.size(0), want.size(1),
                                         ResampleFilter::bicubic);
    const double error =
        (got.clamp(0, 255) - want.permute({2, 0, 1})).abs().max().item<double>();
    EXPECT_LT(error, 255e-6) << name;
    ++cases;
  }
  EXPECT_EQ(cases, 22);
}

// Weights sum to one, so a flat picture stays flat at every size and with every filter.
TEST(Resample, FlatStaysFlat) {
  for (int filter = 0; filter < 5; ++filter)
    for (const auto& [from, to] : {std::pair{7, 3}, {3, 7}, {1, 5}, {300, 1}, {2, 2}}) {
      const auto kind = static_cast<ResampleFilter>(filter);
      const std::vector<std::uint8_t> bytes(static_cast<std::size_t>(3 * from * from), 211);
      const Image flat{from, from, 3, bytes};
      for (const std::uint8_t byte : resize_bytes(flat, to, to, kind).pixels)
        ASSERT_EQ(byte, 211);
      const at::Tensor planes =
          resize_planes(at::full({2, from, from}, 0.7f), to, to + 1, kind);
      EXPECT_EQ(planes.size(2), to + 1);
      EXPECT_LT((planes - 0.7f).abs().max().item<double>(), 1e-7);
    }
}

// What an alpha of zero hides does not bleed into what can be seen.
TEST(Resample, AlphaWeighsColours) {
  const Image hidden{2, 1, 4, {255, 0, 0, 0, 10, 20, 30, 255}};
  const Image one = resize_bytes(hidden, 1, 1, ResampleFilter::box);
  EXPECT_EQ(one.pixels, (std::vector<std::uint8_t>{9, 19, 29, 128}));
  const Image gray =
      resize_bytes({2, 1, 2, {255, 0, 10, 255}}, 1, 1, ResampleFilter::box);
  EXPECT_EQ(gray.pixels, (std::vector<std::uint8_t>{9, 128}));
}

// Planes are independent of each other and of the threads.
TEST(Resample, PlanesByThemselves) {
  const at::Tensor planes = at::arange(5 * 9 * 4, at::kFloat).sin().view({5, 9, 4});
  const at::Tensor all = resize_planes(planes, 6, 11, ResampleFilter::lanczos);
  for (int64_t i = 0; i < 5; ++i)
    EXPECT_TRUE(at::equal(all[i],
                          resize_planes(planes[i], 6, 11, ResampleFilter::lanczos)));
  const at::Tensor turned = planes.transpose(1, 2);
  const auto bicubic = ResampleFilter::bicubic;
  EXPECT_TRUE(at::equal(resize_planes(turned, 5, 5, bicubic),
                        resize_planes(turned.contiguous(), 5, 5, bicubic)));
}

TEST(Resample, Refusals) {
  EXPECT_THROW(parse_resample_filter("lanzcos", "--filter"), UsageError);
  EXPECT_THROW(resize_bytes({2, 1, 1, {0, 1}}, 0, 4, ResampleFilter::box), UsageError);
  EXPECT_THROW(resize_bytes({2, 1, 1, {0}}, 1, 1, ResampleFilter::box), UsageError);
  EXPECT_THROW(resample_weights(4, 0, ResampleFilter::box), UsageError);
}

}  // namespace
}  // namespace flowmap
