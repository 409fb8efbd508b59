// What the verbs share: the table of verbs, argument parsing, and messages.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace flowmap::apps {

// A verb of the one binary; apps/registry.cpp lists them.
struct Verb {
  const char* name;
  const char* summary;
  // Runs the verb on the words after its name; returns the exit code. Throws
  // flowmap::UsageError (exit 2) or any other exception (exit 1): main catches.
  int (*run)(std::span<const std::string> arguments);
};
const std::vector<Verb>& verbs();

// Parses with CLI11. `--help` prints and returns false; errors become UsageError with the
// flag and what it takes, or the nearest flag. Flags take `--a=b` and `--a b`.
bool parse_arguments(CLI::App& app, std::span<const std::string> arguments);

// "--name" and "-n" of every option, for hints.
std::vector<std::string> flag_names(const CLI::App& app);
// "; did you mean '--steps'?", or "; see flowmap VERB --help" where no flag is near.
std::string flag_hint(const std::string& name, const CLI::App& app);

// Checks for CLI11 options: they return "" or what is accepted, "at least 1, not 0".
using FlagCheck = std::function<std::string(const std::string&)>;
FlagCheck whole_number(std::int64_t least,
                       std::int64_t most = std::numeric_limits<std::int64_t>::max());
// Finite and above 0.
FlagCheck positive_number();
// For names of files: any text but "".
FlagCheck not_empty();

// Runs `action`; a UsageError out of it gets "FLAG: " in front.
void under_flag(const std::string& flag, const std::function<void()>& action);

// Version and build facts, several lines.
std::string version_text();

int run_train(std::span<const std::string> arguments);
int run_boss(std::span<const std::string> arguments);
int run_generate(std::span<const std::string> arguments);
int run_invert(std::span<const std::string> arguments);
int run_convert(std::span<const std::string> arguments);
int run_evaluate(std::span<const std::string> arguments);
int run_inspect(std::span<const std::string> arguments);
int run_dataset(std::span<const std::string> arguments);
int run_fid(std::span<const std::string> arguments);
int run_doctor(std::span<const std::string> arguments);
int run_sheet(std::span<const std::string> arguments);
int run_pairs(std::span<const std::string> arguments);
int run_reconstruct_phema(std::span<const std::string> arguments);

}  // namespace flowmap::apps
