#include "kernels/pairwise.cu"  // as plain C++: kernels::emulated

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
using kernels::RowPairs;
using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Counts = std::vector<std::int64_t>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::int64_t kSkipNone = std::numeric_limits<std::int64_t>::min();

enum class Values { plain, far_from_zero, equal, not_finite };

struct Case {
  std::int64_t x_rows, y_rows, dimensions;
  std::size_t offset = 0;  // in floats, of both
  Values values = Values::plain;

  std::size_t pairs() const { return static_cast<std::size_t>(x_rows * y_rows); }
};

const std::vector<Case> kCases = {
    {0, 5, 3},        {5, 0, 3},        {0, 0, 1},
    {1, 1, 1},        {1, 33, 31},      {31, 1, 33, 1},
    {6, 16, 32},      {7, 17, 5, 3},    {64, 64, 16},
    {65, 67, 17, 1},  {13, 131, 64},    {97, 29, 7, 2},
    {3, 2, 521},      {5, 300, 257, 1}, {9, 11, 64, 0, Values::far_from_zero},
    {37, 41, 3, 0, Values::equal},      {19, 23, 8, 1, Values::not_finite}};

// Rows of y: the same numbers for both where they shall be equal.
Floats rows_for(const Case& c, bool of_x) {
  const std::int64_t rows = of_x ? c.x_rows : c.y_rows;
  Floats values =
      scattered(static_cast<std::size_t>(rows * c.dimensions), of_x ? -1.0f : -2.0f, 2.5f);
  for (std::size_t i = 0; i < values.size(); ++i) {
    switch (c.values) {
      case Values::plain: break;
      case Values::far_from_zero: values[i] = values[i] * 1e-3f + 1e4f; break;
      // A few small integers: many equal rows and equal distances.
      case Values::equal: values[i] = std::floor(values[i]); break;
      case Values::not_finite:
        if (i == 20) values[i] = kNan;
        if (i == 100) values[i] = of_x ? kInfinity : -kInfinity;
        break;
    }
  }
  return values;
}

// What `fill(pairs, output)` writes into `count` values of T.
template <template <typename> typename Array, typename T, typename Fill>
std::vector<T> run(const Case& c, std::size_t count, Fill fill) {
  const Array<float> x(rows_for(c, true), c.offset);
  const Array<float> y(rows_for(c, false), c.offset);
  Array<T> output(std::vector<T>(count, T(-77)), c.offset);
  fill(RowPairs{c.x_rows, c.y_rows, c.dimensions, x.data(), y.data()}, output.data());
  return output.values();
}

template <template <typename> typename Array, typename Entry>
Doubles distances(const Case& c, Entry entry) {
  return run<Array, double>(c, c.pairs(), entry);
}

Doubles reference_distances(const Case& c) {
  return distances<HostArray>(c, kernels::reference::squared_distances);
}

void expect_distances(const Case& c, const Doubles& got) {
  const Doubles want = reference_distances(c);
  ASSERT_EQ(got.size(), want.size());
  const double bound = 2 * static_cast<double>(c.dimensions) * 0x1p-53;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::isfinite(want[i])) {
      ASSERT_LE(std::fabs(got[i] - want[i]), bound * want[i]) << "pair " << i;
    } else {
      ASSERT_TRUE(got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i])));
    }
  }
}

// Radii that some distances equal: those of the entry's own distances along a diagonal.
template <template <typename> typename Array, typename Distances, typename Within>
void expect_counts(const Case& c, Distances distances_entry, Within within_entry) {
  const Doubles squares = distances<Array>(c, distances_entry);
  for (const bool of_x : {true, false}) {
    const std::int64_t count = of_x ? c.x_rows : c.y_rows;
    Doubles radii(static_cast<std::size_t>(count), 1.0);
    for (std::int64_t i = 0; c.pairs() > 0 && i < count; ++i) {
      const std::int64_t row = of_x ? i : i % c.x_rows;
      const std::int64_t column = of_x ? (i * 3 + 1) % c.y_rows : i;
      radii[static_cast<std::size_t>(i)] =
          squares[static_cast<std::size_t>(row * c.y_rows + column)];
    }
    for (const bool inclusive : {true, false}) {
      Counts want(static_cast<std::size_t>(c.x_rows), 0);
      for (std::int64_t i = 0; i < c.x_rows; ++i) {
        for (std::int64_t j = 0; j < c.y_rows; ++j) {
          const double square = squares[static_cast<std::size_t>(i * c.y_rows + j)];
          const double radius = radii[static_cast<std::size_t>(of_x ? i : j)];
          want[static_cast<std::size_t>(i)] +=
              inclusive ? square <= radius : square < radius;
        }
      }
      const Array<double> given(radii);
      const Counts got = run<Array, std::int64_t>(
          c, static_cast<std::size_t>(c.x_rows),
          [&](const RowPairs& pairs, std::int64_t* output) {
            within_entry(pairs, of_x ? given.data() : nullptr,
                         of_x ? nullptr : given.data(), inclusive, output);
          });
      // An entry launched on no pairs may leave the output alone only without rows.
      EXPECT_EQ(got, want) << (of_x ? "radii of x" : "radii of y");
    }
  }
}

template <template <typename> typename Array, typename Entry>
void expect_sums(const Case& c, Entry entry) {
  const double d = static_cast<double>(c.dimensions);
  for (const std::int64_t skip : {kSkipNone, std::int64_t{0}, std::int64_t{3}}) {
    const auto with = [&](auto fn) {
      return [=](const RowPairs& pairs, double* output) { fn(pairs, skip, output); };
    };
    const auto rows = static_cast<std::size_t>(c.x_rows);
    const Doubles got = run<Array, double>(c, rows, with(entry));
    const Doubles want =
        run<HostArray, double>(c, rows, with(kernels::reference::polynomial_sums));
    const Floats x = rows_for(c, true), y = rows_for(c, false);
    for (std::int64_t i = 0; i < c.x_rows; ++i) {
      const double expected = want[static_cast<std::size_t>(i)];
      const double given = got[static_cast<std::size_t>(i)];
      if (!std::isfinite(expected)) {
        EXPECT_TRUE(given == expected || (std::isnan(given) && std::isnan(expected)));
        continue;
      }
      double size = 0.0;
      for (std::int64_t j = 0; j < c.y_rows; ++j) {
        double dot = 0.0;
        for (std::int64_t k = 0; k < c.dimensions; ++k) {
          dot += std::fabs(static_cast<double>(x[static_cast<std::size_t>(
                               i * c.dimensions + k)]) *
                           y[static_cast<std::size_t>(j * c.dimensions + k)]);
        }
        size += std::pow(dot / d + 1, 3);
      }
      // Both sides may be off by the bound; three roundings of a cube's sum each.
      const double bound = 3 * 2 * (d + static_cast<double>(c.y_rows) + 4) * 0x1p-53;
      EXPECT_LE(std::fabs(given - expected), bound * size) << "row " << i;
    }
  }
}

std::string name_of(const Case& c) {
  return std::to_string(c.x_rows) + " and " + std::to_string(c.y_rows) + " rows of " +
         std::to_string(c.dimensions) + ", values " +
         std::to_string(static_cast<int>(c.values));
}

void emulated_distances(const RowPairs& pairs, double* output) {
  kernels::emulated::squared_distances_cuda(pairs, output, nullptr);
}
void emulated_within(const RowPairs& pairs, const double* x_radii, const double* y_radii,
                     bool inclusive, std::int64_t* output) {
  kernels::emulated::count_within_cuda(pairs, x_radii, y_radii, inclusive, output,
                                       nullptr);
}
void emulated_sums(const RowPairs& pairs, std::int64_t skip, double* output) {
  kernels::emulated::polynomial_sums_cuda(pairs, skip, output, nullptr);
}
void gpu_distances(const RowPairs& pairs, double* output) {
  kernels::squared_distances_cuda(pairs, output, nullptr);
}
void gpu_within(const RowPairs& pairs, const double* x_radii, const double* y_radii,
                bool inclusive, std::int64_t* output) {
  kernels::count_within_cuda(pairs, x_radii, y_radii, inclusive, output, nullptr);
}
void gpu_sums(const RowPairs& pairs, std::int64_t skip, double* output) {
  kernels::polynomial_sums_cuda(pairs, skip, output, nullptr);
}

TEST(PairwiseReference, KnownAnswers) {
  const Floats x{1, 2, 3, -1, 0, 1}, y{1, 0, 3, 4, 4, -1};
  const RowPairs pairs{2, 2, 3, x.data(), y.data()};
  Doubles squares(4);
  kernels::reference::squared_distances(pairs, squares.data());
  EXPECT_EQ(squares, (Doubles{4, 29, 8, 45}));
  const Doubles radii{29, 8};
  Counts counts(2);
  kernels::reference::count_within(pairs, radii.data(), nullptr, true, counts.data());
  EXPECT_EQ(counts, (Counts{2, 1}));
  kernels::reference::count_within(pairs, radii.data(), nullptr, false, counts.data());
  EXPECT_EQ(counts, (Counts{1, 0}));
  kernels::reference::count_within(pairs, nullptr, radii.data(), true, counts.data());
  EXPECT_EQ(counts, (Counts{1, 1}));
  // Products 10, 9; 2, -5: (10/3 + 1)^3 and so on.
  const auto cube = [](double v) { return v * v * v; };
  Doubles sums(2);
  kernels::reference::polynomial_sums(pairs, kSkipNone, sums.data());
  EXPECT_NEAR(sums[0], cube(13.0 / 3) + 64, 1e-12);
  EXPECT_NEAR(sums[1], cube(5.0 / 3) + cube(-2.0 / 3), 1e-12);
  kernels::reference::polynomial_sums(pairs, 0, sums.data());
  EXPECT_EQ(sums[0], 64);
  kernels::reference::polynomial_sums(pairs, -1, sums.data());
  EXPECT_NEAR(sums[1], cube(-2.0 / 3), 1e-12);
}

TEST(PairwiseCpu, EqualsReference) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(name_of(c));
    expect_distances(c, distances<HostArray>(c, kernels::squared_distances_cpu));
    expect_counts<HostArray>(c, kernels::squared_distances_cpu, kernels::count_within_cpu);
    expect_sums<HostArray>(c, kernels::polynomial_sums_cpu);
  }
}

TEST(PairwiseEmulated, EqualsReference) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(name_of(c));
    in_both_orders([&] {
      expect_distances(c, distances<HostArray>(c, emulated_distances));
      if (c.dimensions > 100) return;  // the rest adds minutes and no index
      expect_counts<HostArray>(c, emulated_distances, emulated_within);
      expect_sums<HostArray>(c, emulated_sums);
    });
  }
}

TEST(PairwiseGpu, EqualsReference) {
  FM_NEED_GPU();
  for (const Case& c : kCases) {
    SCOPED_TRACE(name_of(c));
    expect_distances(c, distances<DeviceArray>(c, gpu_distances));
    expect_counts<DeviceArray>(c, gpu_distances, gpu_within);
    expect_sums<DeviceArray>(c, gpu_sums);
  }
}

// One row is put at every place of a set, on either side: always the same bits.
template <template <typename> typename Array, typename Entry>
void expect_same_bits_everywhere(Entry entry) {
  constexpr std::int64_t kRows = 70, kDimensions = 37;
  Floats rows = scattered(kRows * kDimensions, -3.0f, 3.0f);
  const Floats probe = scattered(kDimensions, -1.0f, 7.0f);
  Floats copies;
  for (std::int64_t i = 0; i < kRows; ++i) {
    copies.insert(copies.end(), probe.begin(), probe.end());
  }
  const auto between = [&](const Floats& a, const Floats& b) {
    const Array<float> x(a, 1), y(b);
    const auto x_rows = static_cast<std::int64_t>(a.size()) / kDimensions;
    const auto y_rows = static_cast<std::int64_t>(b.size()) / kDimensions;
    Array<double> output(Doubles(static_cast<std::size_t>(x_rows * y_rows)));
    entry(RowPairs{x_rows, y_rows, kDimensions, x.data(), y.data()}, output.data());
    return output.values();
  };
  const Doubles alone = between(probe, rows);
  const Doubles left = between(copies, rows);
  const Doubles right = between(rows, copies);
  for (std::size_t i = 0; i < kRows; ++i) {
    for (std::size_t j = 0; j < kRows; ++j) {
      ASSERT_EQ(left[i * kRows + j], alone[j]) << i << ", " << j;
      ASSERT_EQ(right[j * kRows + i], alone[j]) << i << ", " << j;
    }
  }
}

TEST(PairwiseCpu, APairHasTheSameBitsEverywhere) {
  expect_same_bits_everywhere<HostArray>(kernels::squared_distances_cpu);
}

TEST(PairwiseEmulated, APairHasTheSameBitsEverywhere) {
  expect_same_bits_everywhere<HostArray>(emulated_distances);
}

TEST(PairwiseGpu, APairHasTheSameBitsEverywhere) {
  FM_NEED_GPU();
  expect_same_bits_everywhere<DeviceArray>(gpu_distances);
}

TEST(PairwiseArguments, RefusesBadSizes) {
  const RowPairs none{2, 2, 0, nullptr, nullptr};
  const RowPairs negative{-1, 2, 3, nullptr, nullptr};
  const RowPairs huge{std::int64_t{1} << 40, std::int64_t{1} << 40, 3, nullptr, nullptr};
  for (const RowPairs& pairs : {none, negative, huge}) {
    EXPECT_THROW(kernels::reference::squared_distances(pairs, nullptr),
                 std::invalid_argument);
    EXPECT_THROW(kernels::squared_distances_cpu(pairs, nullptr), std::invalid_argument);
    EXPECT_THROW(emulated_distances(pairs, nullptr), std::invalid_argument);
    EXPECT_THROW(emulated_sums(pairs, 0, nullptr), std::invalid_argument);
  }
  const float row = 1.0f;
  const double radius = 1.0;
  std::int64_t count = 0;
  const RowPairs one{1, 1, 1, &row, &row};
  EXPECT_THROW(kernels::count_within_cpu(one, nullptr, nullptr, true, &count),
               std::invalid_argument);
  EXPECT_THROW(emulated_within(one, &radius, &radius, true, &count),
               std::invalid_argument);
}

}  // namespace
