#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/api.h"
#include "tests/kernels/kernel_test.h"

namespace {

using namespace flowmap;
using flowmap::testing::HostArray;
using flowmap::testing::scattered;
using Doubles = std::vector<double>;

struct Case {
  std::int64_t count, dimensions;
  std::size_t offset = 0;
};

const std::vector<Case> kCases = {{0, 5},     {5, 0},        {1, 1},      {3, 16},
                                  {31, 32},   {33, 31, 1},   {2, 33},     {256, 97, 1},
                                  {257, 96},  {13, 101},     {600, 17, 1}, {7, 293}};

Doubles doubles(std::size_t count, float low, float high) {
  const std::vector<float> values = scattered(count, low, high);
  return {values.begin(), values.end()};
}

Doubles rows_for(const Case& c) {
  return doubles(static_cast<std::size_t>(c.count * c.dimensions), -2.0f, 3.0f);
}

Doubles start_for(const Case& c) {
  const auto d = static_cast<std::size_t>(c.dimensions);
  Doubles start = doubles(d * d, -1.0f, 1.0f);
  for (std::size_t i = 0; i < d; ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      start[i * d + j] = start[j * d + i];
    }
  }
  return start;
}

// By the CPU entries, the columns split at multiples of `step`, last part first.
Doubles scatter_cpu(const Case& c, std::int64_t step, const Doubles& rows) {
  const HostArray<double> input(rows, c.offset);
  HostArray<double> output(start_for(c), c.offset);
  for (std::int64_t at = (c.dimensions - 1) / step * step; at >= 0; at -= step) {
    kernels::add_scatter_cpu(input.data(), c.count, c.dimensions, at,
                             std::min(c.dimensions, at + step), output.data());
  }
  kernels::mirror_scatter_cpu(c.dimensions, output.data());
  return output.values();
}

TEST(ScatterReference, KnownAnswer) {
  const Doubles rows{1, 2, 3, -4};
  Doubles scatter{100, 200, 300, 400};
  kernels::reference::add_scatter(rows.data(), 2, 2, scatter.data());
  EXPECT_EQ(scatter, (Doubles{110, 190, 290, 420}));
}

TEST(ScatterCpu, EqualsReference) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(std::to_string(c.count) + " rows of " + std::to_string(c.dimensions));
    const auto d = static_cast<std::size_t>(c.dimensions);
    const Doubles rows = rows_for(c);
    Doubles want = start_for(c);
    kernels::reference::add_scatter(rows.data(), c.count, c.dimensions, want.data());
    const Doubles got = scatter_cpu(c, 1 << 20, rows);
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < d; ++i) {
      for (std::size_t j = 0; j < d; ++j) {
        double size = 1.0;
        for (std::size_t r = 0; r < static_cast<std::size_t>(c.count); ++r) {
          size += std::fabs(rows[r * d + i] * rows[r * d + j]);
        }
        ASSERT_LE(std::fabs(got[i * d + j] - want[i * d + j]),
                  2 * static_cast<double>(c.count + 2) * 0x1p-53 * size)
            << i << ", " << j;
        ASSERT_EQ(got[i * d + j], got[j * d + i]);
      }
    }
    EXPECT_EQ(scatter_cpu(c, 16, rows), got);
    EXPECT_EQ(scatter_cpu(c, 80, rows), got);
  }
}

TEST(ScatterCpu, NotFiniteStaysInItsColumn) {
  const Case c{9, 40};
  Doubles rows = rows_for(c);
  rows[3 * 40 + 21] = std::numeric_limits<double>::quiet_NaN();
  const Doubles got = scatter_cpu(c, 1 << 20, rows);
  for (std::size_t i = 0; i < 40; ++i) {
    for (std::size_t j = 0; j < 40; ++j) {
      EXPECT_EQ(std::isnan(got[i * 40 + j]), i == 21 || j == 21) << i << ", " << j;
    }
  }
}

TEST(ScatterArguments, RefusesBadSizes) {
  const std::int64_t huge = std::int64_t{1} << 40;
  EXPECT_THROW(kernels::add_scatter_cpu(nullptr, 1, huge, 0, 16, nullptr),
               std::invalid_argument);
  EXPECT_THROW(kernels::add_scatter_cpu(nullptr, -1, 4, 0, 4, nullptr),
               std::invalid_argument);
  EXPECT_THROW(kernels::add_scatter_cpu(nullptr, 1, 40, 8, 16, nullptr),
               std::invalid_argument);
  EXPECT_THROW(kernels::add_scatter_cpu(nullptr, 1, 40, 0, 41, nullptr),
               std::invalid_argument);
  EXPECT_THROW(kernels::mirror_scatter_cpu(-1, nullptr), std::invalid_argument);
}

}  // namespace
