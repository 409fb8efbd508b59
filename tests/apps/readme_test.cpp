// The commands of README.md, run as they stand (training as a dry run), in a folder of
// the test's with configs/ and models/ linked in.
#include <algorithm>
#include <sstream>
#include <vector>

#include "tests/apps/app_fixture.h"
#include "tests/support/reference.h"

namespace flowmap::testing {
namespace {

using ::testing::HasSubstr;

// Lines of code blocks that begin with "flowmap ", continuation lines joined.
std::vector<std::string> readme_commands(const std::string& text) {
  std::vector<std::string> commands;
  std::istringstream lines(text);
  bool code = false, continues = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("```")) {
      code = !code;
      continue;
    }
    if (!code) continue;
    const bool more = line.ends_with("\\");
    if (more) line.pop_back();
    if (continues)
      commands.back() += line;
    else if (line.starts_with("flowmap "))
      commands.push_back(line.substr(8));
    continues = more && !commands.empty();
  }
  return commands;
}

TEST(ReadmeCommands, ContinuationsAreJoined) {
  const auto commands =
      readme_commands("flowmap no\n```\nflowmap a \\\n  --b\nls\nflowmap c\n```\n");
  EXPECT_EQ(commands, (std::vector<std::string>{"a   --b", "c"}));
}

class Readme : public AppTest {};

TEST_F(Readme, EveryCommandRuns) {
  FM_NEED_FILE("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz");
  const auto source = std::filesystem::absolute(source_folder());
  for (const char* name : {"configs", "models"})
    std::filesystem::create_directory_symlink(source / name, folder_ / name);
  const auto commands = readme_commands(content((source / "README.md").string()));
  ASSERT_GE(commands.size(), 5u);
  for (std::string command : commands) {
    if (command.starts_with("train")) command += " --dry-run";
    const AppResult result = run(command);
    EXPECT_EQ(result.code, 0) << command << "\n" << result.err;
  }
  EXPECT_TRUE(std::filesystem::exists(folder_ / "out/images/000063.png"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "out/grid.png"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "out/fashion-mnist.npz"));
}

}  // namespace
}  // namespace flowmap::testing
