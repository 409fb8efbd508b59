#include "kernels/philox_normals.cu"  // as plain C++: kernels::emulated

#include "flowmap/base/rng.h"
#include "tests/kernels/kernel_test.h"
#include "tests/support/device_memory.h"

namespace {

using namespace flowmap;
using flowmap::testing::DeviceArray;
using flowmap::testing::HostArray;
using flowmap::testing::in_both_orders;
using flowmap::testing::ulp_distance;
using Words = std::vector<std::uint64_t>;

struct Case {
  std::int64_t rows;
  std::int64_t columns;
  std::size_t offset;  // of the output, in floats
};

const std::vector<Case> kCases = {
    {0, 8, 0},   {3, 0, 0},   {1, 1, 0},  {1, 2, 1},   {2, 3, 0},    {2, 4, 0},
    {5, 5, 3},   {1, 31, 0},  {7, 32, 1}, {31, 33, 2}, {127, 4, 0},  {128, 4, 1},
    {129, 4, 0}, {13, 47, 1}, {1, 509, 0}, {3, 1021, 1}, {2, 3072, 0}};

// Extremes first, so that one row already has them.
Words seeds_for(std::int64_t rows) {
  Words seeds{0, ~std::uint64_t{0}, 0xffffffffu, std::uint64_t{1} << 63, 1};
  for (std::uint64_t i = seeds.size(); i < static_cast<std::uint64_t>(rows); ++i) {
    seeds.push_back(i * 0x9e3779b97f4a7c15u);
  }
  seeds.resize(static_cast<std::size_t>(rows));
  return seeds;
}
Words indices_for(std::int64_t rows) {
  Words indices = seeds_for(rows);
  return {indices.rbegin(), indices.rend()};
}

constexpr std::uint64_t kStreamId = 0xfedcba9876543210u;

// Runs `entry(PhiloxRows, float*)` on host arrays of exact size.
template <typename Entry>
std::vector<float> on_host(const Case& c, Entry entry) {
  const HostArray<std::uint64_t> seeds(seeds_for(c.rows));
  const HostArray<std::uint64_t> indices(indices_for(c.rows));
  HostArray<float> output(
      std::vector<float>(static_cast<std::size_t>(c.rows * c.columns), -99.0f), c.offset);
  entry(kernels::PhiloxRows{c.rows, c.columns, seeds.data(), indices.data(), kStreamId},
        output.data());
  return output.values();
}

template <typename Entry>
std::vector<float> on_device(const Case& c, Entry entry) {
  const DeviceArray<std::uint64_t> seeds(seeds_for(c.rows));
  const DeviceArray<std::uint64_t> indices(indices_for(c.rows));
  DeviceArray<float> output(
      std::vector<float>(static_cast<std::size_t>(c.rows * c.columns), -99.0f), c.offset);
  entry(kernels::PhiloxRows{c.rows, c.columns, seeds.data(), indices.data(), kStreamId},
        output.data(), nullptr);
  return output.values();
}

// Both bit-equal, as float numbers cannot tell 0 from -0.
void expect_same_bits(const std::vector<float>& got, const std::vector<float>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(got[i]), std::bit_cast<std::uint32_t>(want[i]))
        << "position " << i << ": " << got[i] << " instead of " << want[i];
  }
}

template <typename Body>
void for_each_case(Body body) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(std::to_string(c.rows) + " rows of " + std::to_string(c.columns) +
                 ", offset " + std::to_string(c.offset));
    body(c);
  }
}

// Random123's kat_vectors: philox4x32 10, counter 0, key 0 -> 6627e8d5 e169c58d bc57ac4c
// 9b00dbd8. Seed 0 is a fixed point of mix64, so seed, stream and index 0 are that block.
// The normals were computed from these words in 60-digit arithmetic.
TEST(PhiloxReference, KnownAnswers) {
  const std::uint64_t zero = 0;
  const kernels::PhiloxRows rows{1, 4, &zero, &zero, 0};
  float values[4];
  kernels::reference::philox_uniforms(rows, values);
  EXPECT_EQ(values[0], 0x6627e8 * 0x1p-24f);
  EXPECT_EQ(values[1], 0xe169c5 * 0x1p-24f);
  EXPECT_EQ(values[2], 0xbc57ac * 0x1p-24f);
  EXPECT_EQ(values[3], 0x9b00db * 0x1p-24f);
  kernels::reference::philox_normals(rows, values);
  EXPECT_EQ(values[0], static_cast<float>(0.9911376799303858));
  EXPECT_EQ(values[1], static_cast<float>(-0.924662587665535));
  EXPECT_EQ(values[2], static_cast<float>(-0.6176089594591906));
  EXPECT_EQ(values[3], static_cast<float>(-0.4820685874871797));
}

// The kernels' generator and the base's were written apart from each other.
TEST(PhiloxReference, EqualsBase) {
  for_each_case([](const Case& c) {
    const Words seeds = seeds_for(c.rows);
    const Words indices = indices_for(c.rows);
    const auto columns = static_cast<std::size_t>(c.columns);
    std::vector<float> normals(seeds.size() * columns);
    std::vector<float> uniforms(seeds.size() * columns);
    for (std::size_t row = 0; row < seeds.size(); ++row) {
      philox_normals(seeds[row], kStreamId, indices[row],
                     std::span(normals).subspan(row * columns, columns));
      philox_uniforms(seeds[row], kStreamId, indices[row],
                      std::span(uniforms).subspan(row * columns, columns));
    }
    expect_same_bits(on_host(c, kernels::reference::philox_normals), normals);
    expect_same_bits(on_host(c, kernels::reference::philox_uniforms), uniforms);
  });
}

// What an image gets does not depend on its place in the batch.
TEST(PhiloxReference, RowsDependOnTheirSeedAlone) {
  const Words seeds{11, 12, 13};
  const Words indices{0, 5, 9};
  std::vector<float> together(3 * 33);
  std::vector<float> alone(33);
  kernels::reference::philox_normals({3, 33, seeds.data(), indices.data(), kStreamId},
                                     together.data());
  kernels::reference::philox_normals({1, 33, &seeds[1], &indices[1], kStreamId},
                                     alone.data());
  expect_same_bits({together.begin() + 33, together.begin() + 66}, alone);
}

TEST(PhiloxEmulated, EqualsReference) {
  for_each_case([](const Case& c) {
    in_both_orders([&] {
      expect_same_bits(on_host(c,
                               [](const kernels::PhiloxRows& rows, float* output) {
                                 kernels::emulated::philox_normals_cuda(rows, output,
                                                                        nullptr);
                               }),
                       on_host(c, kernels::reference::philox_normals));
      expect_same_bits(on_host(c,
                               [](const kernels::PhiloxRows& rows, float* output) {
                                 kernels::emulated::philox_uniforms_cuda(rows, output,
                                                                         nullptr);
                               }),
                       on_host(c, kernels::reference::philox_uniforms));
    });
  });
}

TEST(PhiloxGpu, NormalsWithinOneUlp) {
  FM_NEED_GPU();
  std::size_t total = 0;
  std::size_t different = 0;
  for_each_case([&](const Case& c) {
    const auto got = on_device(c, kernels::philox_normals_cuda);
    const auto want = on_host(c, kernels::reference::philox_normals);
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_LE(ulp_distance(got[i], want[i]), 1) << "position " << i;
      different += got[i] != want[i];
    }
    total += got.size();
  });
  RecordProperty("values", std::to_string(total));
  RecordProperty("one_ulp_apart", std::to_string(different));
}

TEST(PhiloxGpu, UniformsEqualReference) {
  FM_NEED_GPU();
  for_each_case([](const Case& c) {
    expect_same_bits(on_device(c, kernels::philox_uniforms_cuda),
                     on_host(c, kernels::reference::philox_uniforms));
  });
}

TEST(PhiloxArguments, RefusesBadSizes) {
  const auto huge = std::int64_t{1} << 62;
  EXPECT_THROW(kernels::reference::philox_normals({-1, 4}, nullptr),
               std::invalid_argument);
  EXPECT_THROW(kernels::emulated::philox_normals_cuda({2, -4}, nullptr, nullptr),
               std::invalid_argument);
  EXPECT_THROW(kernels::emulated::philox_uniforms_cuda({huge, 4}, nullptr, nullptr),
               std::invalid_argument);
}

TEST(PhiloxArguments, BuildWithoutCudaSaysHowToGetIt) {
  if (kernels::cuda_compiled()) {
    GTEST_SKIP() << "this build has the CUDA kernels";
  }
  try {
    kernels::philox_normals_cuda({}, nullptr, nullptr);
    FAIL() << "no exception";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("-DFLOWMAP_CUDA=ON"), std::string::npos);
  }
}

}  // namespace
