// flowmap fid calc | ref | gen | features, and pytorch-fid's `fid A B`.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/cli.h"
#include "apps/fid_flags.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"

namespace flowmap::apps {
namespace {

struct FidWord {
  const char* name;
  const char* summary;
  int (*run)(std::span<const std::string> words);
};
constexpr FidWord kFidWords[] = {
    {"calc", "distance of samples from a reference", fid_calc},
    {"ref", "statistics of a data set, for --ref", fid_ref},
    {"gen", "the same of a network's samples, which are written nowhere", fid_gen},
    {"features", "features of samples as npz", fid_features},
};

// Of pytorch-fid's command, whose first words are paths or its own flags.
bool is_pair(std::span<const std::string> words) {
  for (const std::string& word : words) {
    const std::string name = word.substr(0, word.find('='));
    for (const char* flag : {"--dims", "--batch-size", "--save-stats", "--num-workers"})
      if (name == flag) return true;
  }
  const auto first = std::find_if(words.begin(), words.end(), [](const std::string& word) {
    return !word.starts_with("-");
  });
  return first != words.end() && (first->find_first_of("/.") != std::string::npos ||
                                  std::filesystem::exists(*first));
}

}  // namespace

int run_fid(std::span<const std::string> words) {
  for (const FidWord& word : kFidWords)
    if (!words.empty() && words[0] == word.name) return word.run(words.subspan(1));
  if (!words.empty() && !words[0].starts_with("-h") && words[0] != "--help" &&
      std::none_of(words.begin(), words.end(), [](const std::string& each) {
        return std::any_of(std::begin(kFidWords), std::end(kFidWords),
                           [&](const FidWord& word) { return each == word.name; });
      }) && is_pair(words))
    return fid_pair(words);
  // What is left is help, or a mistake.
  std::vector<std::string> names;
  std::string text = "Scores samples.\n\n";
  for (const FidWord& word : kFidWords) {
    names.emplace_back(word.name);
    text += format("  %-10s %s\n", word.name, word.summary);
  }
  text += format("  %-10s %s\n\n", "A B", "two folders, zips or statistics, as pytorch-fid "
                 "does (flowmap fid A B --help)");
  text += "Example:\n"
          "  flowmap fid ref --data /usr/share/datasets/fashion-mnist --dest "
          "fid-refs/fashion-mnist.npz\n"
          "  flowmap fid calc --images fid-tmp --ref fid-refs/fashion-mnist.npz --num 10000";
  if (!words.empty() && (words[0] == "--help" || words[0] == "-h")) {
    std::printf("%s\n", text.c_str());
    return 0;
  }
  FM_CHECK_USAGE(!words.empty(), "one of these is missing: ", join(names, ", "),
                 "; see flowmap fid --help");
  const std::string& word = words[0];
  FM_CHECK_USAGE(word.starts_with("-"), "unknown word '", word, "'",
                 suggestion(word, names));
  throw UsageError("'" + word.substr(0, word.find('=')) + "' goes after one of " +
                   join(names, ", ") + "; see flowmap fid --help");
}

}  // namespace flowmap::apps
