#include "kernels/group_norm_silu.cu"  // as plain C++: kernels::emulated

#include <cmath>
#include <limits>

#include "tests/kernels/kernel_test.h"
#include "tests/support/device_memory.h"

namespace {

using namespace flowmap;
using flowmap::testing::DeviceArray;
using flowmap::testing::HostArray;
using flowmap::testing::in_both_orders;
using flowmap::testing::scattered;
using kernels::GroupNorm;
using Floats = std::vector<float>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Scale and shift: none, the halves of one [B, 2C] tensor, or two [B, C] tensors.
enum Modulation { kNone, kHalves, kTwo };
enum class Values { plain, far_from_zero, tiny, huge, constant, outlier, nan, infinite };

struct Case {
  std::int64_t batch;
  std::int64_t channels;
  std::int64_t spatial;
  std::int64_t groups;
  bool affine = true;  // weight and bias
  Modulation modulation = kHalves;
  bool silu = true;
  std::size_t input_offset = 0;  // in floats
  std::size_t output_offset = 0;
  Values values = Values::plain;

  // Where scale[row, channel] stands in the tensor; shift is shift_start() behind it.
  std::int64_t scale_at(std::int64_t row, std::int64_t channel) const {
    return row * (modulation == kHalves ? 2 * channels : channels) + channel;
  }
  std::int64_t shift_start() const {
    return modulation == kHalves ? channels : batch * channels;
  }
};

const std::vector<Case> kCases = {
    {0, 8, 16, 4},
    {2, 8, 0, 4},
    {1, 1, 1, 1},
    {2, 4, 1, 4},
    {1, 3, 31, 1, true, kNone},
    {3, 2, 32, 2, false, kTwo},
    {1, 33, 33, 11, true, kHalves, false},
    {3, 6, 49, 3, false, kNone, true, 1, 1},
    {2, 8, 16, 2},  // aligned: four at a time; then the same, misaligned
    {2, 8, 16, 2, true, kHalves, true, 1, 1},
    {2, 8, 16, 2, true, kHalves, true, 2, 0},
    {2, 8, 16, 2, true, kTwo, true, 0, 3},
    {2, 8, 16, 2, true, kTwo, true, 4, 4},  // aligned again
    {1, 4, 256, 1},                         // exactly 256 vectors; then one round more
    {1, 4, 260, 1},
    {1, 1, 1021, 1, true, kHalves, true, 3, 3},
    {1, 7, 293, 1},
    {2, 64, 64, 16},
    {1, 12, 20, 4, true, kHalves, false, 0, 0, Values::far_from_zero},
    {1, 12, 21, 4, true, kHalves, true, 0, 0, Values::far_from_zero},
    {1, 8, 36, 2, true, kHalves, true, 0, 0, Values::tiny},
    {1, 8, 36, 2, true, kHalves, true, 0, 0, Values::huge},
    {1, 8, 36, 2, true, kHalves, true, 0, 0, Values::constant},
    {1, 4, 1024, 1, true, kHalves, true, 0, 0, Values::outlier},
    {1, 8, 36, 2, true, kHalves, true, 0, 0, Values::nan},
    {1, 8, 35, 2, true, kHalves, true, 1, 1, Values::infinite}};

std::string name_of(const Case& c) {
  return "batch " + std::to_string(c.batch) + ", channels " + std::to_string(c.channels) +
         ", spatial " + std::to_string(c.spatial) + ", groups " +
         std::to_string(c.groups) + ", offsets " + std::to_string(c.input_offset) + " " +
         std::to_string(c.output_offset) + ", values " +
         std::to_string(static_cast<int>(c.values));
}

// The tensors of a case, in host memory.
struct Tensors {
  Floats input, weight, bias, modulation;
};

Tensors tensors_for(const Case& c) {
  const auto count = static_cast<std::size_t>(c.batch * c.channels * c.spatial);
  const auto channels = static_cast<std::size_t>(c.channels);
  Tensors t{scattered(count, -2.0f, 3.0f), {}, {}, {}};
  for (std::size_t i = 0; i < count; ++i) {
    float& x = t.input[i];
    switch (c.values) {
      case Values::plain: break;
      case Values::far_from_zero: x += 1e6f; break;
      case Values::tiny: x *= 1e-30f; break;
      case Values::huge: x *= 1e38f; break;
      case Values::constant: x = 0.1f; break;
      case Values::outlier: x = i == 0 ? 1e4f : x * 1e-3f; break;
      case Values::nan: x = i == 5 ? kNan : x; break;  // in the first group only
      case Values::infinite: x = i + 1 == count ? -kInfinity : x; break;
    }
  }
  if (c.affine) {
    t.weight = scattered(channels, -1.5f, 1.5f);
    t.bias = scattered(channels + 1, -4.0f, 1.0f);
    t.bias.resize(channels);
  }
  if (c.modulation != kNone) {
    t.modulation = scattered(static_cast<std::size_t>(c.batch) * 2 * channels, -2, 2);
  }
  return t;
}

// The case with pointers from arrays of either kind.
template <typename Array>
GroupNorm norm_of(const Case& c, const Array& weight, const Array& bias,
                  const Array& modulation) {
  GroupNorm norm;
  norm.batch = c.batch;
  norm.channels = c.channels;
  norm.spatial = c.spatial;
  norm.groups = c.groups;
  norm.silu = c.silu;
  if (c.affine) {
    norm.weight = weight.data();
    norm.bias = bias.data();
  }
  if (c.modulation != kNone) {
    norm.scale = modulation.data();
    norm.shift = modulation.data() + c.shift_start();
    norm.modulation_stride = c.modulation == kHalves ? 2 * c.channels : 0;
  }
  return norm;
}

template <template <typename> typename Array, typename Entry>
Floats run(const Case& c, Entry entry, bool in_place = false) {
  const Tensors t = tensors_for(c);
  const Array<float> weight(t.weight), bias(t.bias), modulation(t.modulation);
  Array<float> input(t.input, c.input_offset);
  Array<float> output(Floats(t.input.size(), -99.0f), c.output_offset);
  float* to = in_place ? input.data() : output.data();
  entry(input.data(), norm_of(c, weight, bias, modulation), to);
  return in_place ? input.values() : output.values();
}

void reference_entry(const float* input, const GroupNorm& norm, float* output) {
  kernels::reference::group_norm_silu(input, norm, output);
}
void emulated_entry(const float* input, const GroupNorm& norm, float* output) {
  kernels::emulated::group_norm_silu_cuda(input, norm, output, nullptr);
}
void gpu_entry(const float* input, const GroupNorm& norm, float* output) {
  kernels::group_norm_silu_cuda(input, norm, output, nullptr);
}

// The bound of api.h, with p and the statistics computed here.
void expect_within_bound(const Case& c, const Floats& got) {
  const Floats want = run<HostArray>(c, reference_entry);
  Case before = c;
  before.silu = false;
  const Floats p = run<HostArray>(before, reference_entry);
  const Tensors t = tensors_for(c);
  ASSERT_EQ(got.size(), want.size());
  const std::int64_t size = c.channels / c.groups * c.spatial;
  for (std::int64_t start = 0; start < static_cast<std::int64_t>(got.size());
       start += size) {
    double mean = 0.0, squares = 0.0;
    for (std::int64_t i = 0; i < size; ++i) {
      mean += t.input[static_cast<std::size_t>(start + i)] / static_cast<double>(size);
    }
    for (std::int64_t i = 0; i < size; ++i) {
      const double d = t.input[static_cast<std::size_t>(start + i)] - mean;
      squares += d * d / static_cast<double>(size);
    }
    const double ratio = std::abs(mean) / std::sqrt(squares + 1e-5);
    for (std::int64_t i = 0; i < size; ++i) {
      const auto at = static_cast<std::size_t>(start + i);
      const std::int64_t channel = (start + i) / c.spatial % c.channels;
      const std::int64_t row = (start + i) / c.spatial / c.channels;
      double gain = c.affine ? t.weight[static_cast<std::size_t>(channel)] : 1.0;
      if (c.modulation != kNone) {
        gain *= 1.0 + t.modulation[static_cast<std::size_t>(c.scale_at(row, channel))];
      }
      if (std::isnan(want[at])) {
        ASSERT_TRUE(std::isnan(got[at])) << "at " << at << ": " << got[at];
        continue;
      }
      const double relative = c.silu ? (8.0 + std::abs(p[at])) * 0x1p-24 : 0x1p-23;
      const double bound = relative * std::abs(want[at]) +
                           0x1p-40 * std::abs(gain) * (1.0 + ratio) + 1e-36;
      ASSERT_LE(std::abs(static_cast<double>(got[at]) - want[at]), bound)
          << "at " << at << ": " << got[at] << " instead of " << want[at];
    }
  }
}

TEST(GroupNormSiluReference, KnownAnswers) {
  // One group of 1, 2, 3, 4: mean 2.5, variance 1.25; epsilon 1.25 makes the deviation
  // sqrt(2.5), so xhat = -1.5, -0.5, 0.5, 1.5 over it.
  const Floats input{1, 2, 3, 4};
  const Floats weight{2, 1}, bias{0, 10}, scale{0.5f, -1}, shift{1, -3};
  Floats output(4);
  GroupNorm norm{.batch = 1, .channels = 2, .spatial = 2, .groups = 1, .epsilon = 1.25};
  norm.silu = false;
  kernels::reference::group_norm_silu(input.data(), norm, output.data());
  EXPECT_FLOAT_EQ(output[0], -0.9486832980505138f);
  EXPECT_FLOAT_EQ(output[3], 0.9486832980505138f);

  norm.weight = weight.data();
  norm.bias = bias.data();
  norm.scale = scale.data();
  norm.shift = shift.data();
  kernels::reference::group_norm_silu(input.data(), norm, output.data());
  EXPECT_FLOAT_EQ(output[0], -1.8460498941515414f);  // -0.94868 * 2 * 1.5 + 1
  EXPECT_FLOAT_EQ(output[1], 0.05131670194948618f);  // -0.31623 * 2 * 1.5 + 1
  EXPECT_FLOAT_EQ(output[2], -3.0f);                 // scale -1 leaves the shift
  EXPECT_FLOAT_EQ(output[3], -3.0f);

  norm.silu = true;
  kernels::reference::group_norm_silu(input.data(), norm, output.data());
  EXPECT_FLOAT_EQ(output[2], -0.14227761953270035f);  // -3 / (1 + e^3)
}

TEST(GroupNormSiluReference, GroupsAndImagesAreSeparate) {
  const Floats input{0, 2, 10, 30, 5, 5, -1, 1};  // 2 images, 2 channels, 2 groups
  Floats output(8);
  kernels::reference::group_norm_silu(
      input.data(),
      {.batch = 2, .channels = 2, .spatial = 2, .groups = 2, .epsilon = 0, .silu = false},
      output.data());
  // The constant group is 0 / 0 with epsilon 0, and stays alone with it.
  EXPECT_TRUE(std::isnan(output[4]) && std::isnan(output[5]));
  output[4] = output[5] = 0;
  EXPECT_EQ(output, (Floats{-1, 1, -1, 1, 0, 0, -1, 1}));
}

TEST(GroupNormSiluEmulated, WithinBoundOfReference) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(name_of(c));
    in_both_orders([&] { expect_within_bound(c, run<HostArray>(c, emulated_entry)); });
  }
}

TEST(GroupNormSiluEmulated, InPlace) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(name_of(c));
    in_both_orders(
        [&] { expect_within_bound(c, run<HostArray>(c, emulated_entry, true)); });
  }
}

TEST(GroupNormSiluGpu, WithinBoundOfReference) {
  FM_NEED_GPU();
  for (const Case& c : kCases) {
    SCOPED_TRACE(name_of(c));
    expect_within_bound(c, run<DeviceArray>(c, gpu_entry));
    expect_within_bound(c, run<DeviceArray>(c, gpu_entry, true));
  }
}

TEST(GroupNormSiluArguments, RefusesBadSizes) {
  const auto refused = [](const GroupNorm& norm) {
    EXPECT_THROW(kernels::reference::group_norm_silu(nullptr, norm, nullptr),
                 std::invalid_argument);
    EXPECT_THROW(
        kernels::emulated::group_norm_silu_cuda(nullptr, norm, nullptr, nullptr),
        std::invalid_argument);
  };
  refused({.batch = 1, .channels = 6, .spatial = 4, .groups = 4});
  refused({.batch = 1, .channels = 6, .spatial = 4, .groups = 0});
  refused({.batch = -1, .channels = 6, .spatial = 4, .groups = 2});
  refused({.batch = 1, .channels = 2, .spatial = std::int64_t{1} << 31, .groups = 2});
  refused({.batch = 1, .channels = 6, .spatial = 4, .groups = 2, .modulation_stride = 5});
}

}  // namespace
