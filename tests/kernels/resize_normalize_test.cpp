#include "kernels/resize_normalize.cu"  // as plain C++: kernels::emulated

#include <algorithm>
#include <cmath>

#include "tests/kernels/kernel_test.h"
#include "tests/support/device_memory.h"

namespace {

using namespace flowmap;
using flowmap::testing::DeviceArray;
using flowmap::testing::HostArray;
using flowmap::testing::in_both_orders;
using flowmap::testing::scattered;
using kernels::ResizeNormalize;
using Bytes = std::vector<std::uint8_t>;
using Floats = std::vector<float>;

struct Case {
  std::int64_t batch;
  std::int64_t channels;
  bool channels_last;
  std::int64_t height, width, out_height, out_width;
  std::int64_t row_taps, column_taps;
  bool clip = true;
  std::size_t input_offset = 0;   // in bytes
  std::size_t output_offset = 0;  // in floats
  double shift = 128.0;
  double scale = 1.0 / 128;

  std::size_t inputs() const {
    return static_cast<std::size_t>(batch * channels * height * width);
  }
  std::size_t outputs() const {
    return static_cast<std::size_t>(batch * 3 * out_height * out_width);
  }
};

const std::vector<Case> kCases = {
    {0, 3, false, 4, 4, 4, 4, 1, 1},
    {1, 3, false, 4, 4, 0, 4, 1, 1},
    {1, 3, true, 4, 4, 4, 0, 1, 1},
    {1, 1, false, 1, 1, 1, 1, 1, 1},
    {1, 3, true, 1, 1, 7, 5, 1, 1},
    {2, 3, false, 5, 7, 31, 32, 4, 4, true, 1, 1},
    {2, 3, true, 5, 7, 33, 31, 4, 3, false, 3, 2},
    {3, 1, true, 8, 8, 32, 33, 2, 2, true, 5, 3},
    {1, 1, false, 31, 33, 13, 17, 9, 11, false},
    {2, 3, false, 32, 32, 65, 67, 4, 4, true, 7, 1, 127.5, 1 / 127.5},
    {1, 3, true, 64, 64, 64, 64, 1, 1},   // exactly 64 rows a tile of 32, twice
    {1, 3, true, 129, 70, 24, 24, 25, 13},  // rows in three parts
    {1, 1, false, 331, 37, 5, 3, 331, 37, true},
    {1, 3, false, 97, 19, 37, 41, 11, 5, false, 0, 0, 0.0, 1e30}};

// Windows that move along the input, of 1 to `taps` inputs, weights of both signs; with
// `scramble` they jump about.
struct Axis {
  std::vector<std::int32_t> first, count;
  std::vector<double> weights;
  double absolute = 0.0;  // the largest sum of |weights|

  Axis(std::int64_t inputs, std::int64_t outputs, std::int64_t taps, bool scramble) {
    const Floats values = scattered(static_cast<std::size_t>(taps * outputs), -0.3f, 1.0f);
    weights.assign(static_cast<std::size_t>(taps * outputs), std::nan(""));
    for (std::int64_t i = 0; i < outputs; ++i) {
      const std::int64_t size = std::min(inputs, i % 3 == 0 ? taps : 1 + i * 5 % taps);
      const std::int64_t place = scramble ? (i * 7 + 3) % outputs : i;
      const std::int64_t from =
          outputs == 1 ? 0 : place * (inputs - size) / (outputs - 1);
      first.push_back(static_cast<std::int32_t>(from));
      count.push_back(static_cast<std::int32_t>(size));
      double sum = 0.0;
      for (std::int64_t k = 0; k < size; ++k) {
        const auto at = static_cast<std::size_t>(k * outputs + i);
        weights[at] = 1.7 * values[at] / static_cast<double>(size);  // the rest stays NaN
        sum += std::fabs(weights[at]);
      }
      absolute = std::max(absolute, sum);
    }
  }
};

// Rows and columns of a case.
struct Axes {
  Axis rows, columns;
  Axes(const Case& c, bool scramble)
      : rows(c.height, c.out_height, c.row_taps, scramble),
        columns(c.width, c.out_width, c.column_taps, scramble) {}
};

template <template <typename> typename Array>
struct AxisArrays {
  Array<std::int32_t> first, count;
  Array<double> weights;
  explicit AxisArrays(const Axis& axis)
      : first(axis.first), count(axis.count), weights(axis.weights) {}
  kernels::FilterAxis view(std::int64_t inputs, std::int64_t outputs,
                           std::int64_t taps) const {
    return {inputs, outputs, taps, first.data(), count.data(), weights.data()};
  }
};

Bytes input_for(const Case& c) {
  const Floats values = scattered(c.inputs(), 0.0f, 255.99f);
  Bytes bytes(values.begin(), values.end());
  for (std::size_t i = 0; i < bytes.size(); i += 5) {
    bytes[i] = i % 2 ? 255 : 0;
  }
  return bytes;
}

// What `entry(input, resize, output)` writes.
template <template <typename> typename Array, typename Entry>
Floats run(const Case& c, Entry entry, bool scramble = false) {
  const Axes axes(c, scramble);
  const AxisArrays<Array> rows(axes.rows), columns(axes.columns);
  const Array<std::uint8_t> input(input_for(c), c.input_offset);
  Array<float> output(Floats(c.outputs(), -77.0f), c.output_offset);
  ResizeNormalize resize;
  resize.batch = c.batch;
  resize.channels = c.channels;
  resize.channels_last = c.channels_last;
  resize.rows = rows.view(c.height, c.out_height, c.row_taps);
  resize.columns = columns.view(c.width, c.out_width, c.column_taps);
  resize.clip = c.clip;
  resize.shift = c.shift;
  resize.scale = c.scale;
  entry(input.data(), resize, output.data());
  return output.values();
}

Floats expected(const Case& c, bool scramble = false) {
  return run<HostArray>(c, kernels::reference::resize_normalize, scramble);
}

void expect_within_bound(const Case& c, const Floats& got, const Floats& want) {
  const Axes axes(c, false);
  const double width = axes.rows.absolute * axes.columns.absolute;
  const double bound = 0x1p-22 * (255 * width + std::fabs(c.shift)) * c.scale;
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_LE(std::fabs(static_cast<double>(got[i]) - static_cast<double>(want[i])),
              bound)
        << "at " << i << ": " << got[i] << " instead of " << want[i];
  }
}

std::string name_of(const Case& c) {
  return std::to_string(c.batch) + " x " + std::to_string(c.channels) + " x " +
         std::to_string(c.height) + " x " + std::to_string(c.width) +
         (c.channels_last ? " interleaved" : " planar") + " to " +
         std::to_string(c.out_height) + " x " + std::to_string(c.out_width);
}

TEST(ResizeNormalizeReference, KnownAnswers) {
  // Two rows of three pixels, two channels too many for gray: mean of the columns 0 and 2,
  // and twice the second row minus the first.
  const std::vector<std::int32_t> first{0}, three{3}, two{2};
  const std::vector<double> across{0.5, 0.0, 0.5}, down{-1.0, 2.0};
  const Bytes gray{10, 77, 20, 100, 88, 50};
  ResizeNormalize resize;
  resize.batch = 1;
  resize.channels = 1;
  resize.rows = {2, 1, 2, first.data(), two.data(), down.data()};
  resize.columns = {3, 1, 3, first.data(), three.data(), across.data()};
  resize.shift = 35.0;
  resize.scale = 0.5;
  Floats output(3, -1.0f);
  kernels::reference::resize_normalize(gray.data(), resize, output.data());
  EXPECT_EQ(output, Floats(3, 50.0f));  // (2 * 75 - 15 - 35) / 2

  // The same pixels as three channels of one column: 2 * second row - first row, clipped.
  resize.channels = 3;
  resize.channels_last = true;
  resize.clip = true;
  const std::vector<std::int32_t> one{1};
  const std::vector<double> whole{1.0};
  resize.columns = {1, 1, 1, first.data(), one.data(), whole.data()};
  kernels::reference::resize_normalize(gray.data(), resize, output.data());
  EXPECT_EQ(output, (Floats{77.5f, 32.0f, 22.5f}));  // 190, 99, 80
  const Bytes steep{0, 200, 0, 255, 0, 10};
  kernels::reference::resize_normalize(steep.data(), resize, output.data());
  EXPECT_EQ(output, (Floats{110.0f, -17.5f, -7.5f}));  // 255, 0, 20
}

TEST(ResizeNormalizeCpu, EqualsReference) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(name_of(c));
    const auto whole = [&](const std::uint8_t* input, const ResizeNormalize& resize,
                           float* output) {
      kernels::resize_normalize_cpu(input, resize, 0, c.batch * c.out_height, output);
    };
    expect_within_bound(c, run<HostArray>(c, whole), expected(c));
    expect_within_bound(c, run<HostArray>(c, whole, true), expected(c, true));
  }
}

// The split of the rows among threads changes no bit, and a part writes only its rows.
TEST(ResizeNormalizeCpu, AnySplitGivesTheSameBits) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(name_of(c));
    const std::int64_t rows = c.batch * c.out_height;
    const auto split = [&](std::int64_t step) {
      return run<HostArray>(c, [&](const std::uint8_t* input, const ResizeNormalize& resize,
                                   float* output) {
        for (std::int64_t row = 0; row < rows; row += step) {
          kernels::resize_normalize_cpu(input, resize, row, std::min(rows, row + step),
                                        output);
        }
      });
    };
    EXPECT_EQ(split(7), split(1000000));
  }
  const Case& c = kCases[5];
  const Floats part = run<HostArray>(
      c, [](const std::uint8_t* input, const ResizeNormalize& resize, float* output) {
        kernels::resize_normalize_cpu(input, resize, 3, 5, output);
      });
  EXPECT_EQ(std::count(part.begin(), part.end(), -77.0f),
            static_cast<std::int64_t>(c.outputs()) - 2 * 3 * c.out_width);
}

TEST(ResizeNormalizeEmulated, EqualsReference) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(name_of(c));
    for (const bool scramble : {false, true}) {
      const Floats want = expected(c, scramble);
      in_both_orders([&] {
        const auto entry = [](const std::uint8_t* input, const ResizeNormalize& resize,
                              float* output) {
          kernels::emulated::resize_normalize_cuda(input, resize, output, nullptr);
        };
        expect_within_bound(c, run<HostArray>(c, entry, scramble), want);
      });
    }
  }
}

TEST(ResizeNormalizeGpu, EqualsReference) {
  FM_NEED_GPU();
  for (const Case& c : kCases) {
    SCOPED_TRACE(name_of(c));
    const auto entry = [](const std::uint8_t* input, const ResizeNormalize& resize,
                          float* output) {
      kernels::resize_normalize_cuda(input, resize, output, nullptr);
    };
    expect_within_bound(c, run<DeviceArray>(c, entry), expected(c));
  }
}

TEST(ResizeNormalizeArguments, RefusesBadSizesAndWindows) {
  const Case good{1, 3, false, 5, 7, 6, 8, 3, 3};
  const auto refuses = [&](auto change) {
    int refused = 0;
    run<HostArray>(good, [&](const std::uint8_t* input, const ResizeNormalize& resize,
                             float* output) {
      ResizeNormalize bad = resize;
      std::vector<std::int32_t> first(resize.rows.first, resize.rows.first + 6);
      std::vector<std::int32_t> count(resize.rows.count, resize.rows.count + 6);
      bad.rows.first = first.data();
      bad.rows.count = count.data();
      change(bad, first, count);
      try {
        kernels::reference::resize_normalize(input, bad, output);
      } catch (const std::invalid_argument&) {
        ++refused;
      }
      try {
        kernels::resize_normalize_cpu(input, bad, 0, 6, output);
      } catch (const std::invalid_argument&) {
        ++refused;
      }
    });
    return refused == 2;
  };
  using Ints = std::vector<std::int32_t>;
  EXPECT_FALSE(refuses([](ResizeNormalize&, Ints&, Ints&) {}));
  EXPECT_TRUE(refuses([](ResizeNormalize& r, Ints&, Ints&) { r.channels = 2; }));
  EXPECT_TRUE(refuses([](ResizeNormalize& r, Ints&, Ints&) { r.batch = -1; }));
  EXPECT_TRUE(refuses([](ResizeNormalize& r, Ints&, Ints&) { r.rows.taps = 9; }));
  EXPECT_TRUE(refuses([](ResizeNormalize&, Ints& first, Ints&) { first[2] = -1; }));
  EXPECT_TRUE(refuses([](ResizeNormalize&, Ints&, Ints& count) { count[2] = 0; }));
  EXPECT_TRUE(refuses([](ResizeNormalize&, Ints&, Ints& count) { count[2] = 4; }));
  EXPECT_TRUE(refuses([](ResizeNormalize&, Ints& first, Ints& count) {
    first[5] = 4;
    count[5] = 2;
  }));
  ResizeNormalize huge;
  huge.batch = std::int64_t{1} << 40;
  huge.rows.inputs = huge.columns.inputs = std::int64_t{1} << 40;
  EXPECT_THROW(kernels::emulated::resize_normalize_cuda(nullptr, huge, nullptr, nullptr),
               std::invalid_argument);
  EXPECT_THROW(kernels::resize_normalize_cpu(nullptr, {}, 0, 1, nullptr),
               std::invalid_argument);
}

}  // namespace
