#include "apps/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <opencv2/core/version.hpp>
#include <string>
#include <vector>

#include "apps/build_facts.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"

namespace flowmap::apps {

std::vector<std::string> flag_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
  }
  for (const CLI::App* chosen : app.get_subcommands())
    for (const std::string& name : flag_names(*chosen)) names.push_back(name);
  return names;
}

namespace {

// remaining() holds what no option took; the first dashed word is the culprit.
UsageError unknown_argument(const CLI::App& app) {
  const std::vector<std::string> extras = app.remaining(/*recurse=*/true);
  const auto word = std::find_if(extras.begin(), extras.end(), [](const std::string& w) {
    return w.starts_with("-");
  });
  if (word == extras.end())
    return UsageError("unexpected argument '" + extras.front() + "'");
  const std::string name = word->substr(0, word->find('='));
  return UsageError("unknown option '" + name + "'" + suggestion(name, flag_names(app)));
}

}  // namespace

bool parse_arguments(CLI::App& app, std::span<const std::string> arguments) {
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.help().c_str(), stdout);
    return false;
  } catch (const CLI::ExtrasError&) {
    throw unknown_argument(app);
  } catch (const CLI::ParseError& error) {
    // A misspelt required option is missing too; the spelling is the better hint.
    if (!app.remaining(/*recurse=*/true).empty()) throw unknown_argument(app);
    throw UsageError(error.what());
  }
  return true;
}

std::string version_text() {
  std::string text = format("flowmap %s (commit %s)\n", kVersion, kCommit);
  text += format("compiler  %s, %s, C++20\n", kCompiler, kBuildType);
  text += format("LibTorch  %s\n", kLibTorchVersion);
  text += format("OpenCV    %s\n", CV_VERSION);
  text += kCudaVersion[0] ? format("CUDA      %s", kCudaVersion)
                          : std::string("CUDA      not in this build");
  return text;
}

}  // namespace flowmap::apps
