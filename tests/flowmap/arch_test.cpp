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

}  // namespace
}  // namespace flowmap
