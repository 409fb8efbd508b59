// configs/arch: one file for every published configuration, with its size.
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "flowmap/base/config.h"
#include "flowmap/base/file.h"
#include "flowmap/nn/init.h"
#include "flowmap/preconditioning.h"
#include "tests/support/reference.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;

fs::path arch_folder() { return testing::source_folder() / "configs" / "arch"; }

int64_t parameters_of(const fs::path& path) {
  const Config config = Config::from_file(path);
  const ShapesOnly shapes;
  const auto model = build_model(config);
  config.check_all_read();
  return parameter_count(*model);
}

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::replace(text.begin(), text.end(), '/', '-');
  return text;
}

TEST(Architectures, HaveTheirPublishedSizes) {
  const fs::path table = testing::reference_folder() / "networks/parameter_counts.json";
  FM_NEED_FILE(table);
  const auto root = nlohmann::json::parse(read_file(table));
  int checked = 0;
  for (const auto& [group, content] : root.items()) {
    if (!content.is_object() || !content.contains("configurations")) continue;
    for (const auto& [name, row] : content["configurations"].items()) {
      const fs::path path =
          arch_folder() / lower_case(group) / (lower_case(name) + ".json");
      ASSERT_TRUE(fs::exists(path)) << path;
      EXPECT_EQ(parameters_of(path), row["trainable"].get<int64_t>()) << path;
      ++checked;
    }
  }
  EXPECT_GT(checked, 60);
}

// The comment on top says the count; here without any reference.
TEST(Architectures, SayTheirSizes) {
  int checked = 0;
  for (const auto& entry : fs::recursive_directory_iterator(arch_folder())) {
    if (entry.path().extension() != ".json") continue;
    std::string text = read_file(entry.path());
    for (std::size_t at; (at = text.find("\n//")) != std::string::npos;)
      text.replace(at, 3, "");
    std::string digits = std::to_string(parameters_of(entry.path()));
    for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > 0; at -= 3)
      digits.insert(static_cast<std::size_t>(at), ",");
    EXPECT_NE(text.find(" " + digits + " parameters"), std::string::npos)
        << entry.path() << " has " << digits;
    ++checked;
  }
  EXPECT_GT(checked, 60);
}

struct SlimFlowRow {
  const char* file;
  int64_t side, parameters;
  double gigamacs;          // of everything, at `side`
  // What the paper counts, which leaves out the 1x1 projections and products of attention:
  // `attentions` blocks of `channels` at 16x16 and one at the lowest resolution `low`.
  double paper_gigamacs = 0;
  double attentions = 0, channels = 0, low = 0;
};

// The table of SlimFlow's networks (Zhu et al. 2024, arXiv 2407.12718), to all its digits.
TEST(Architectures, SlimFlowCountsOfMultiplyAdds) {
  const SlimFlowRow rows[] = {
      {"cifar10-27.9m", 32, 27'906'179, 6.90, 6.57, 3, 256, 8},
      {"cifar10-15.7m", 32, 15'707'235, 3.90, 3.70, 3, 192, 8},
      {"cifar10-7.0m", 32, 6'989'891, 1.75, 1.65, 3, 128, 8},
      {"cifar10-3.4m", 32, 3'437'123, 0.74, 0.71, 2, 64, 8},
      {"cifar10-teacher", 32, 61'804'419, 10.85, 10.34, 5, 256, 4},
      {"cifar10-27.9m", 64, 27'906'179, 26.69},
      {"cifar10-15.7m", 64, 15'707'235, 15.04},
      {"cifar10-7.0m", 64, 6'989'891, 6.71},
      {"cifar10-3.4m", 64, 3'536'195, 2.92},
      {"imagenet64-80.7m", 64, 80'685'315, 33.9},
      {"imagenet64-44.7m", 64, 44'685'827, 30.9}};
  for (const SlimFlowRow& row : rows) {
    SCOPED_TRACE(std::string(row.file) + " " + std::to_string(row.side));
    Config config =
        Config::from_file(arch_folder() / "slimflow" / (std::string(row.file) + ".json"));
    const std::string side = std::to_string(row.side);
    config.set_json("sample_shape", "[3, " + side + ", " + side + "]", "test");
    const ShapesOnly shapes;
    const auto model = build_model(config);
    EXPECT_EQ(parameter_count(*model), row.parameters);
    const double macs = model->multiply_adds() / 1e9;
    EXPECT_NEAR(macs, row.gigamacs, row.gigamacs > 30 ? 0.05 : 0.007);
    if (row.paper_gigamacs == 0) continue;
    const auto attention = [](double width, double places) {
      return 4 * width * width * places + 2 * places * places * width;
    };
    // The middle one is as wide as the last level, twice the base except where all is 256.
    const double lowest = row.attentions == 2 ? 2 * row.channels : row.channels;
    EXPECT_NEAR(macs - (row.attentions * attention(row.channels, 256) +
                        attention(lowest, row.low * row.low)) / 1e9,
                row.paper_gigamacs, 0.006);
  }
}

}  // namespace
}  // namespace flowmap
