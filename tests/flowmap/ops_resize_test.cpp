#include "flowmap/ops_resize.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/tensor_io.h"
#include "tests/support/reference.h"

namespace flowmap {
namespace {

using ops::PixelRange;
using ops::ResizeTable;

ResizeTable table_of(const std::string& mode, int64_t inputs, int64_t outputs) {
  if (mode == "clean") return ops::pillow_table(inputs, outputs, ResampleFilter::bicubic);
  if (mode == "legacy_tensorflow") return ops::tensorflow_bilinear_table(inputs, outputs);
  return ops::pytorch_bilinear_table(inputs, outputs);
}

// uint8 [H, W, C] -> float32 [height, width, 3], read interleaved where the picture is.
at::Tensor resize_as(const at::Tensor& picture, const std::string& mode, int64_t height,
                     int64_t width, PixelRange range) {
  const at::Tensor in = picture.permute({2, 0, 1}).unsqueeze(0);
  return ops::resize_normalize(in, table_of(mode, in.size(2), height),
                               table_of(mode, in.size(3), width), range)[0]
      .permute({1, 2, 0});
}

double most_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

std::filesystem::path metrics_file(const char* name) {
  return testing::reference_folder() / "metrics" / name;
}

TEST(OpsResize, MatchesTheToolsWhole) {
  FM_NEED_FILE(metrics_file("resize_small.safetensors"));
  const auto pictures = load_tensors(metrics_file("resize_inputs.safetensors"));
  std::set<std::string> modes;
  for (const auto& [name, want] : load_tensors(metrics_file("resize_small.safetensors"))) {
    SCOPED_TRACE(name);
    const auto slash = name.find('/');
    const std::string mode = name.substr(slash + 1, name.rfind('/') - slash - 1);
    const at::Tensor got = resize_as(pictures.at(name.substr(0, slash)), mode, want.size(0),
                                     want.size(1), {mode == "clean", 0, 1});
    EXPECT_LE(most_difference(got, want), 1e-4);
    modes.insert(mode);
  }
  EXPECT_EQ(modes.size(), 3u);
}

TEST(OpsResize, MatchesTheToolsAt299) {
  FM_NEED_FILE(metrics_file("resize_299_parts.safetensors"));
  const auto pictures = load_tensors(metrics_file("resize_inputs.safetensors"));
  int compared = 0;
  for (const auto& [name, want] :
       load_tensors(metrics_file("resize_299_parts.safetensors"))) {
    const auto slash = name.find('/'), last = name.rfind('/');
    const std::string mode = name.substr(slash + 1, last - slash - 1);
    const std::string part = name.substr(last + 1);
    if (part != "corners" && part != "centre") continue;
    SCOPED_TRACE(name);
    const bool network = mode == "pytorch_fid_input";
    const PixelRange range{mode == "clean", network ? 127.5 : 0.0,
                           network ? 1 / 127.5 : 1.0};
    const at::Tensor got =
        resize_as(pictures.at(name.substr(0, slash)), mode, 299, 299, range);
    at::Tensor piece = got.slice(0, 137, 161).slice(1, 137, 161);
    if (part == "corners") {
      const at::Tensor top = got.slice(0, 0, 12), bottom = got.slice(0, 287, 299);
      piece = at::stack({top.slice(1, 0, 12), top.slice(1, 287, 299),
                         bottom.slice(1, 0, 12), bottom.slice(1, 287, 299)});
    }
    EXPECT_LE(most_difference(piece, want), network ? 1e-4 / 127.5 : 1e-4);
    ++compared;
  }
  EXPECT_GT(compared, 100);
}

// All filters, against Pillow's float channels (resample_test.cpp holds those to Pillow).
TEST(OpsResize, PillowFiltersAreThoseOfResample) {
  const at::Tensor in = at::arange(3 * 31 * 47).mul_(157).remainder_(256).to(at::kByte);
  const at::Tensor picture = in.view({1, 3, 31, 47});
  for (const char* name : {"box", "bilinear", "hamming", "bicubic", "lanczos"}) {
    const auto filter = parse_resample_filter(name, "filter");
    for (const auto& [height, width] : {std::pair{64, 90}, {13, 11}, {31, 20}, {70, 47}}) {
      SCOPED_TRACE(std::string(name) + " to " + std::to_string(height) + " x " +
                   std::to_string(width));
      const at::Tensor got =
          ops::resize_normalize(picture, ops::pillow_table(31, height, filter),
                                ops::pillow_table(47, width, filter));
      EXPECT_LE(most_difference(got, resize_planes(picture.to(at::kFloat), height, width,
                                                   filter)),
                1e-4);
    }
  }
}

// Layout, batch and threads change no bit; strides that are neither are copied.
TEST(OpsResize, EveryLayoutGivesTheSameBits) {
  const at::Tensor planar = at::arange(3 * 3 * 37 * 41).mul_(91).remainder_(256).to(at::kByte)
                                .view({3, 3, 37, 41});
  const ResizeTable rows = table_of("clean", 37, 299), columns = table_of("clean", 41, 19);
  const PixelRange range{true, 128, 1.0 / 128};
  const at::Tensor want = ops::resize_normalize(planar, rows, columns, range);
  ASSERT_EQ(want.sizes(), (std::vector<int64_t>{3, 3, 299, 19}));
  const at::Tensor interleaved = planar.contiguous(at::MemoryFormat::ChannelsLast);
  EXPECT_TRUE(at::equal(ops::resize_normalize(interleaved, rows, columns, range), want));
  const at::Tensor every_other = at::cat({planar, planar}, 3).slice(3, 0, 41);
  EXPECT_TRUE(at::equal(ops::resize_normalize(every_other, rows, columns, range), want));
  EXPECT_TRUE(at::equal(
      ops::resize_normalize(planar.slice(0, 1, 2), rows, columns, range)[0], want[1]));
  const at::Tensor gray = planar.slice(1, 1, 2);
  const at::Tensor three = ops::resize_normalize(gray, rows, columns, range);
  for (int64_t c = 0; c < 3; ++c)
    EXPECT_TRUE(at::equal(three.select(1, c), want.select(1, 1)));
  EXPECT_EQ(ops::resize_normalize(planar.slice(0, 0, 0), rows, columns).size(0), 0);
}

TEST(OpsResize, EqualSizesCopy) {
  const at::Tensor in = at::arange(256).to(at::kByte).view({1, 1, 16, 16});
  for (const char* mode : {"clean", "legacy_tensorflow", "legacy_pytorch"}) {
    const ResizeTable same = table_of(mode, 16, 16);
    EXPECT_TRUE(at::equal(ops::resize_normalize(in, same, same)[0][2],
                          in[0][0].to(at::kFloat)))
        << mode;
  }
}

TEST(OpsResize, RefusesWhatDoesNotFit) {
  const at::Tensor in = at::zeros({1, 3, 8, 9}, at::kByte);
  const ResizeTable rows = table_of("clean", 8, 4), columns = table_of("clean", 9, 4);
  EXPECT_THROW(ops::resize_normalize(in.to(at::kFloat), rows, columns), UsageError);
  EXPECT_THROW(ops::resize_normalize(in[0], rows, columns), UsageError);
  EXPECT_THROW(ops::resize_normalize(in.slice(1, 0, 2), rows, columns), UsageError);
  EXPECT_THROW(ops::resize_normalize(in, columns, rows), UsageError);
  ResizeTable outside = rows;
  outside.first = rows.first + 1;
  EXPECT_THROW(ops::resize_normalize(in, outside, columns), UsageError);
  outside = rows;
  outside.weights = rows.weights.to(at::kFloat);
  EXPECT_THROW(ops::resize_normalize(in, outside, columns), UsageError);
  EXPECT_THROW(table_of("clean", 0, 4), UsageError);
  EXPECT_THROW(table_of("legacy_pytorch", 4, 0), UsageError);
}

}  // namespace
}  // namespace flowmap
