#include "apps/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <opencv2/core/version.hpp>
#include <string>
#include <string_view>
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

std::string flag_hint(const std::string& name, const CLI::App& app) {
  std::vector<std::string> names = flag_names(app);
  // "-h" is near every "--x".
  std::erase_if(names, [&](const std::string& known) {
    return known.starts_with("--") != name.starts_with("--");
  });
  const std::string near = nearest_name(name, names);
  if (near == name && !near.empty())
    return "; '" + name + "' goes after '" +
           app.get_subcommands().front()->get_name() + "'";
  if (!near.empty()) return "; did you mean '" + near + "'?";
  const CLI::App* last = &app;
  std::string verb = app.get_name();
  while (!last->get_subcommands().empty()) {
    last = last->get_subcommands().front();
    verb += " " + last->get_name();
  }
  return "; see " + verb + " --help";
}

FlagCheck whole_number(std::int64_t least, std::int64_t most) {
  return [least, most](const std::string& text) -> std::string {
    std::string_view number = trim(text);
    if (number.starts_with('+')) number.remove_prefix(1);
    const bool negative = number.starts_with('-');
    const std::string_view digits = number.substr(negative);
    if (digits.empty() || digits.find_first_not_of("0123456789") != digits.npos)
      return "a whole number, not '" + text + "'";
    std::int64_t value = 0;
    // All are digits, so what fails is too long for 64 bits.
    const bool fits = std::from_chars(number.data(), number.data() + number.size(), value)
                          .ec == std::errc();
    if (fits ? value < least : negative)
      return format("at least %lld, not %s", static_cast<long long>(least), text.c_str());
    if (!fits || value > most)
      return format("at most %lld, not %s", static_cast<long long>(most), text.c_str());
    return "";
  };
}

FlagCheck positive_number() {
  return [](const std::string& text) -> std::string {
    const std::string number(trim(text));
    char* end = nullptr;
    const double value = std::strtod(number.c_str(), &end);
    if (number.empty() || *end != '\0' || std::isnan(value))
      return "a number above 0, not '" + text + "'";
    if (!(value > 0) || std::isinf(value))
      return "a finite number above 0, not " + number;
    return "";
  };
}

FlagCheck not_empty() {
  return [](const std::string& text) {
    return std::string(text.empty() ? "a name is expected, not an empty text" : "");
  };
}

void under_flag(const std::string& flag, const std::function<void()>& action) {
  try {
    action();
  } catch (const UsageError& error) {
    throw UsageError(flag + ": " + error.what());
  }
}

namespace {

// The words that may follow, where a word of a verb's own (fid calc) is still missing.
std::vector<std::string> missing_words(const CLI::App& app) {
  std::vector<std::string> names;
  if (app.get_subcommands().empty())
    for (const CLI::App* known : app.get_subcommands([](const CLI::App*) { return true; }))
      names.push_back(known->get_name());
  return names;
}

// remaining() holds what no option took; the first dashed word is the culprit.
UsageError unknown_argument(const CLI::App& app) {
  const std::vector<std::string> extras = app.remaining(/*recurse=*/true);
  const std::vector<std::string> words = missing_words(app);
  if (!words.empty() && !extras.front().starts_with("-"))
    return UsageError("unknown word '" + extras.front() + "'" +
                      suggestion(extras.front(), words));
  const auto word = std::find_if(extras.begin(), extras.end(), [](const std::string& w) {
    return w.starts_with("-");
  });
  if (word == extras.end())
    return UsageError("unexpected argument '" + extras.front() + "'; see " +
                      app.get_name() + " --help");
  const std::string name = word->substr(0, word->find('='));
  return UsageError("unknown option '" + name + "'" + flag_hint(name, app));
}

// An option given more often than it takes values, or nullptr.
const CLI::Option* repeated_option(const CLI::App& app) {
  for (const CLI::Option* option : app.get_options())
    if (option->get_multi_option_policy() == CLI::MultiOptionPolicy::Throw &&
        static_cast<int>(option->count()) > option->get_items_expected_max())
      return option;
  for (const CLI::App* chosen : app.get_subcommands())
    if (const CLI::Option* option = repeated_option(*chosen)) return option;
  return nullptr;
}

// CLI11's own texts in this program's words.
UsageError parse_problem(const CLI::App& app, const CLI::ParseError& error) {
  const std::string text = error.what();
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error)) {
    if (const CLI::Option* option = repeated_option(app))
      return UsageError(option->get_name() + " given " +
                        (option->count() == 2 ? std::string("twice")
                                              : format("%zu times", option->count())));
    if (text.ends_with(" missing"))
      return UsageError(text.substr(0, text.find(':')) + ": a value is missing");
  }
  // Numbers have checks of their own, so that this is a flag.
  if (constexpr std::string_view kLead = "Could not convert: "; text.starts_with(kLead))
    return UsageError(text.substr(kLead.size(), text.find(" = ") - kLead.size()) +
                      ": takes no value, or true or false");
  if (const auto words = missing_words(app);
      !words.empty() && dynamic_cast<const CLI::RequiredError*>(&error))
    return UsageError("one of these is missing: " + join(words, ", ") + "; see " +
                      app.get_name() + " --help");
  return UsageError(text);
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
  } catch (const CLI::RequiredError& error) {
    // A misspelt required option is missing too; the spelling is the better hint.
    if (!app.remaining(/*recurse=*/true).empty()) throw unknown_argument(app);
    throw parse_problem(app, error);
  } catch (const CLI::ParseError& error) {
    throw parse_problem(app, error);
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
