#include "kernels/image_to_uint8.cu"  // as plain C++: kernels::emulated

#include <limits>

#include "tests/kernels/kernel_test.h"
#include "tests/support/device_memory.h"

namespace {

using namespace flowmap;
using flowmap::testing::DeviceArray;
using flowmap::testing::HostArray;
using flowmap::testing::in_both_orders;
using flowmap::testing::scattered;
using Bytes = std::vector<std::uint8_t>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Case {
  std::int64_t batch;
  std::int64_t channels;
  std::int64_t spatial;
  std::size_t input_offset;   // in floats
  std::size_t output_offset;  // in bytes

  std::size_t count() const {
    return static_cast<std::size_t>(batch * channels * spatial);
  }
};

const std::vector<Case> kCases = {
    {0, 3, 16, 0, 0}, {2, 0, 16, 0, 0},  {2, 3, 0, 0, 0},    {1, 1, 1, 1, 1},
    {1, 3, 31, 0, 3}, {2, 3, 32, 1, 0},  {3, 1, 33, 0, 1},   {1, 4, 255, 2, 1},
    {1, 3, 256, 0, 0}, {1, 3, 257, 3, 7}, {5, 2, 127, 1, 5}, {13, 3, 49, 0, 0},
    {2, 3, 1024, 0, 0}};

// Inside and outside the range, with what has no byte.
std::vector<float> input_for(const Case& c) {
  std::vector<float> input = scattered(c.count(), -1.3f, 1.3f);
  for (std::size_t i = 0; i < input.size(); i += 7) {
    const float special[] = {kNan, kInfinity, -kInfinity, 1.0f, -1.0f, 3.4e38f, -0.0f};
    input[i] = special[i / 7 % 7];
  }
  return input;
}

Bytes reference_bytes(const Case& c) {
  const HostArray<float> input(input_for(c), c.input_offset);
  HostArray<std::uint8_t> output(Bytes(c.count(), 77), c.output_offset);
  kernels::reference::image_to_uint8(input.data(), c.batch, c.channels, c.spatial,
                                     output.data());
  return output.values();
}

std::string name_of(const Case& c) {
  return std::to_string(c.batch) + " x " + std::to_string(c.channels) + " x " +
         std::to_string(c.spatial);
}

TEST(ImageToUint8Reference, KnownAnswers) {
  const std::vector<std::pair<float, int>> known = {
      {-1.0f, 0},    {0.0f, 128},     {-0.0f, 128},  {1.0f, 255},     {0.5f, 191},
      {-0.5f, 64},   {-1.01f, 0},     {1.01f, 255},  {kInfinity, 255}, {-kInfinity, 0},
      {kNan, 0},     {0.9960f, 254},  {0.9961f, 255}, {-0.9961f, 0},  {-0.9960f, 1},
      {3.4e38f, 255}, {-3.4e38f, 0},  {1e-45f, 128}};
  for (const auto& [value, byte] : known) {
    std::uint8_t got = 77;
    kernels::reference::image_to_uint8(&value, 1, 1, 1, &got);
    EXPECT_EQ(got, byte) << "from " << value;
  }
}

// EDM reads a byte b as b / 127.5 - 1; the way back gives the byte.
TEST(ImageToUint8Reference, BytesSurviveTheRoundTrip) {
  for (int byte = 0; byte < 256; ++byte) {
    const float value = static_cast<float>(byte) / 127.5f - 1.0f;
    std::uint8_t got = 77;
    kernels::reference::image_to_uint8(&value, 1, 1, 1, &got);
    EXPECT_EQ(got, byte);
  }
}

// Next to each step between two levels, where one fused rounding gives another byte than
// float arithmetic in two steps, which is what LibTorch does.
TEST(ImageToUint8Reference, RoundsTwice) {
  int fused_differs = 0;
  for (int level = 1; level < 256; ++level) {
    const float value = (static_cast<float>(level) - 128.0f) / 127.5f;
    for (int step = -3; step <= 3; ++step) {
      float near = value;
      for (int i = 0; i < std::abs(step); ++i) {
        near = std::nextafter(near, step < 0 ? -kInfinity : kInfinity);
      }
      const volatile float product = near * 127.5f;
      const volatile float sum = product + 128.0f;
      std::uint8_t got = 77;
      kernels::reference::image_to_uint8(&near, 1, 1, 1, &got);
      ASSERT_EQ(got, static_cast<int>(sum)) << "from " << near;
      fused_differs += static_cast<int>(std::fma(near, 127.5f, 128.0f)) != got;
    }
  }
  EXPECT_GT(fused_differs, 0) << "the inputs cannot tell the two roundings apart";
}

TEST(ImageToUint8Reference, InterleavesChannels) {
  // Two images of 2 channels and 3 pixels; bytes 0, 1, 2, ... in planar order.
  std::vector<float> input(12);
  for (int i = 0; i < 12; ++i) {
    input[static_cast<std::size_t>(i)] = static_cast<float>(i) / 127.5f - 1.0f;
  }
  Bytes output(12);
  kernels::reference::image_to_uint8(input.data(), 2, 2, 3, output.data());
  EXPECT_EQ(output, (Bytes{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11}));
}

TEST(ImageToUint8Emulated, EqualsReference) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(name_of(c));
    in_both_orders([&] {
      const HostArray<float> input(input_for(c), c.input_offset);
      HostArray<std::uint8_t> output(Bytes(c.count(), 77), c.output_offset);
      kernels::emulated::image_to_uint8_cuda(input.data(), c.batch, c.channels, c.spatial,
                                             output.data(), nullptr);
      EXPECT_EQ(output.values(), reference_bytes(c));
    });
  }
}

TEST(ImageToUint8Gpu, EqualsReference) {
  FM_NEED_GPU();
  for (const Case& c : kCases) {
    SCOPED_TRACE(name_of(c));
    const DeviceArray<float> input(input_for(c), c.input_offset);
    DeviceArray<std::uint8_t> output(Bytes(c.count(), 77), c.output_offset);
    kernels::image_to_uint8_cuda(input.data(), c.batch, c.channels, c.spatial,
                                 output.data(), nullptr);
    EXPECT_EQ(output.values(), reference_bytes(c));
  }
}

TEST(ImageToUint8Arguments, RefusesBadSizes) {
  EXPECT_THROW(kernels::reference::image_to_uint8(nullptr, -1, 3, 4, nullptr),
               std::invalid_argument);
  const auto huge = std::int64_t{1} << 40;
  EXPECT_THROW(
      kernels::emulated::image_to_uint8_cuda(nullptr, huge, 3, huge, nullptr, nullptr),
      std::invalid_argument);
}

}  // namespace
