// Philox4x32 against Random123's known answers, and the toolkit's own layout on top of
// it.
#include "flowmap/base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "tests/support/reference.h"

namespace flowmap {
namespace {

using Key = std::array<std::uint32_t, 2>;

// Random123's kat_vectors for philox4x32, 7 and 10 rounds.
TEST(Philox, KnownAnswers) {
  constexpr std::uint32_t kOnes = 0xFFFFFFFFu;
  const PhiloxBlock pi{0x243F6A88u, 0x85A308D3u, 0x13198A2Eu, 0x03707344u};
  const Key pi_key{0xA4093822u, 0x299F31D0u};
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}, 7),
            (PhiloxBlock{0x5F6FB709u, 0x0D893F64u, 0x4F121F81u, 0x4F730A48u}));
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}, 7),
            (PhiloxBlock{1376247234u, 1159093849u, 1301210961u, 2354247266u}));
  EXPECT_EQ(philox4x32(pi, pi_key, 7),
            (PhiloxBlock{1308412602u, 420120560u, 3295896250u, 3065324586u}));
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxBlock{0x6627E8D5u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u}));
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (PhiloxBlock{0x408F276Du, 0x41C83B0Eu, 0xA20BC7C6u, 0x6D5451FDu}));
  EXPECT_EQ(philox4x32(pi, pi_key),
            (PhiloxBlock{0xD16CFE09u, 0x94FDCCEBu, 0x5001E420u, 0x24126EA1u}));
}

// FNV-1a's published answers and SplitMix64's finaliser.
TEST(Philox, StreamAndKey) {
  EXPECT_EQ(stream_id(""), 0xCBF29CE484222325ull);
  EXPECT_EQ(stream_id("a"), 0xAF63DC4C8601EC8Cull);
  EXPECT_EQ(stream_id("foobar"), 0x85944171F73967E8ull);
  EXPECT_EQ(mix64(1), 0x5692161D100B05E5ull);
  EXPECT_EQ(mix64(42), 0xA759EA27D4727622ull);
  const std::uint64_t key = mix64(42) ^ stream_id("noise");
  EXPECT_EQ(
      philox_key(42, stream_id("noise")),
      (Key{static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)}));
}

// Seed 42, stream "noise", index 2^32 + 5, by an independent program.
TEST(Philox, LayoutIsPinned) {
  const std::uint64_t stream = stream_id("noise"), index = (1ull << 32) + 5;
  std::vector<std::uint32_t> words(8);
  philox_words(42, stream, index, words);
  EXPECT_EQ(words, (std::vector<std::uint32_t>{3967164983u, 185032346u, 3544016259u,
                                               686167860u, 2407584665u, 2741346283u,
                                               2664169021u, 2716502085u}));
  std::vector<float> normals(8), uniforms(8);
  philox_normals(42, stream, index, normals);
  philox_uniforms(42, stream, index, uniforms);
  const double expected[] = {
      0.38396801686275833, 0.10655038557945028, 0.33298420695478126, 0.522960953234259,
      -0.6948015875733267, -0.8215172383575211, -0.6577995106584554, -0.7227747168877451};
  const double expected_uniforms[] = {
      0.9236775636672974, 0.04308116436004639, 0.8251555562019348, 0.15976089239120483,
      0.5605594515800476, 0.6382693648338318,  0.6203001737594604, 0.6324849128723145};
  for (int i = 0; i < 8; ++i) {
    EXPECT_FLOAT_EQ(normals[i], static_cast<float>(expected[i])) << i;
    EXPECT_EQ(uniforms[i], static_cast<float>(expected_uniforms[i])) << i;
  }
}

// Every length gives a prefix of every longer one.
TEST(Philox, LengthDoesNotMatter) {
  std::vector<float> longest(70);
  philox_normals(7, 9, 11, longest);
  std::vector<float> longest_uniforms(70);
  philox_uniforms(7, 9, 11, longest_uniforms);
  for (const std::size_t size : {0, 1, 2, 3, 4, 5, 31, 32, 33, 69}) {
    std::vector<float> shorter(size + 1, 99.0f), uniforms(size);
    philox_normals(7, 9, 11, std::span(shorter).first(size));
    philox_uniforms(7, 9, 11, uniforms);
    for (std::size_t i = 0; i < size; ++i) {
      EXPECT_EQ(shorter[i], longest[i]);
      EXPECT_EQ(uniforms[i], longest_uniforms[i]);
    }
    EXPECT_EQ(shorter[size], 99.0f) << "wrote past the end";
  }
}

TEST(Philox, SeedStreamAndIndexAllMatter) {
  const auto first = [](std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
    std::uint32_t word = 0;
    philox_words(seed, stream, index, {&word, 1});
    return word;
  };
  const auto base = first(1, 2, 3);
  EXPECT_NE(base, first(2, 2, 3));
  EXPECT_NE(base, first(1ull << 32 | 1, 2, 3));
  EXPECT_NE(base, first(1, 2ull << 32, 3));
  EXPECT_NE(base, first(1, 2, 4));
  EXPECT_NE(base, first(1, 2, 3ull << 32));
}

TEST(Philox, EndsOfTheWordRange) {
  EXPECT_EQ(uniform_from_word(0), 0.0f);
  EXPECT_EQ(uniform_from_word(0xFFFFFFFFu), 1.0f - 0x1p-24f);
  for (const std::uint32_t w1 : {0u, 1u, 0x7FFFFFFFu, 0x80000000u, 0xFFFFFFFFu})
    for (const std::uint32_t w2 : {0u, 1u, 0x40000000u, 0x80000000u, 0xFFFFFFFFu})
      for (const float value : normals_from_words(w1, w2)) {
        EXPECT_TRUE(std::isfinite(value)) << w1 << " " << w2;
        EXPECT_LT(std::abs(value), 6.77f);
      }
  // sqrt(2 * 33 ln 2), the largest radius.
  EXPECT_NEAR(normals_from_words(0, 0)[0], std::sqrt(66.0 * std::log(2.0)), 1e-6);
}

TEST(Philox, MomentsOfNormalsAndUniforms) {
  constexpr std::size_t kCount = 1 << 20;
  std::vector<float> values(kCount);
  philox_normals(1234, stream_id("moments"), 0, values);
  double sums[5] = {};
  for (const double v : values)
    for (int p = 1; p < 5; ++p) sums[p] += std::pow(v, p) / kCount;
  // Five standard errors: sqrt(Var(x^p) / n), Var = 1, 2, 15, 96.
  const double expected[] = {0, 0, 1, 0, 3}, variance[] = {0, 1, 2, 15, 96};
  for (int p = 1; p < 5; ++p)
    EXPECT_NEAR(sums[p], expected[p], 5 * std::sqrt(variance[p] / kCount))
        << "moment " << p;
  philox_uniforms(1234, stream_id("moments"), 0, values);
  double mean = 0, square = 0;
  for (const double v : values) mean += v / kCount, square += v * v / kCount;
  EXPECT_NEAR(mean, 0.5, 5 * std::sqrt(1.0 / 12 / kCount));
  EXPECT_NEAR(square, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / kCount));
}

// All blocks of the reference file, its normals in the convention "radius first".
TEST(Philox, Reference) {
  const auto path = testing::reference_folder() / "methods" / "philox.json";
  FM_NEED_FILE(path);
  std::ifstream in(path);
  const auto file = nlohmann::json::parse(in);
  ASSERT_FALSE(file["blocks"].empty());
  for (const auto& item : file["known_answers"])
    EXPECT_EQ(philox4x32(item["counter"].get<PhiloxBlock>(), item["key"].get<Key>(),
                         item["rounds"].get<int>()),
              item["output"].get<PhiloxBlock>());
  const auto check_normals = [](const PhiloxBlock& w,
                                const std::vector<double>& expected) {
    const auto a = normals_from_words(w[0], w[1]), b = normals_from_words(w[2], w[3]);
    const float got[] = {a[0], a[1], b[0], b[1]};
    for (int i = 0; i < 4; ++i) {
      const float want = static_cast<float>(expected[i]);
      EXPECT_LE(std::abs(got[i] - want),
                std::nextafter(std::abs(want), 100.0f) - std::abs(want))
          << "more than 1 ulp from " << want;
    }
  };
  for (const auto& item : file["blocks"]) {
    const auto words =
        philox4x32(item["counter"].get<PhiloxBlock>(), item["key"].get<Key>());
    EXPECT_EQ(words, item["output"].get<PhiloxBlock>());
    check_normals(words, item["radius_first"].get<std::vector<double>>());
  }
  for (const auto& item : file["consecutive"])
    EXPECT_EQ(philox4x32(item["counter"].get<PhiloxBlock>(), item["key"].get<Key>()),
              item["output"].get<PhiloxBlock>());
  const auto& stream = file["stream"];
  PhiloxBlock all{};
  const auto normals = stream["first_normals"].get<std::vector<double>>();
  for (std::uint32_t i = 0; i < 4096; ++i) {
    const auto words = philox4x32({i, 0, 0, 0}, stream["key"].get<Key>());
    for (int j = 0; j < 4; ++j) all[j] ^= words[j];
    if (4 * i + 4 <= normals.size())
      check_normals(words, {normals.begin() + 4 * i, normals.begin() + 4 * i + 4});
  }
  EXPECT_EQ(all, stream["xor"].get<PhiloxBlock>());
}

}  // namespace
}  // namespace flowmap
