// Configuration: a tree of named values that says where each came from and notices what
// nobody read.
//
// A file is JSON with // and /* */ comments and trailing commas. "include": "other.json"
// (or a list; relative to the file) is merged below the file that includes it; cycles are
// refused. Overrides are dotted: `trainer.batch=64`, also spelled `--trainer.batch=64`; a
// lone dash before them is skipped. An override's value is read as JSON where it is JSON
// and as a string where it is not (data.name=cifar10).
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace flowmap {

struct ConfigNode;

// Copies and children share one tree (and its marks of what was read). Not for use from
// several threads at once. null counts as missing, so `trainer.ema=null` takes back what
// a file says.
class Config {
 public:
  // An empty object.
  Config();
  // Throws UsageError "FILE:LINE: what is wrong".
  static Config from_file(const std::filesystem::path& path);
  static Config from_text(std::string_view json, std::string name);

  // Sets "a.b.c" from text ("key=value"). `origin` names the source in errors
  // ("command line"). Missing objects on the way are made; a number, string or list in
  // the way is an error. An object given as the value replaces the old one whole.
  void set_override(std::string_view assignment, std::string_view origin);
  // The same from a key and JSON text; used by flags that are twins of keys.
  void set_json(std::string_view dotted_key, std::string_view json,
                std::string_view origin);
  // Values of `other` replace those here, object by object.
  void merge(const Config& other);

  // Whether the key has a value other than null; does not count as reading it.
  bool has(std::string_view key) const;
  // Each getter marks the key as read. Without a default a missing key is an error.
  // Ranges are closed. Mistyped and out-of-range values throw UsageError naming file,
  // line and key, what was accepted and what was found. A default may lie outside the
  // range ("off"); giving that very value is then allowed too. A number may be "inf"
  // only where its default is infinite; a NaN default stands for "not given".
  double number(std::string_view key, std::optional<double> fallback = {},
                double least = -std::numeric_limits<double>::infinity(),
                double most = std::numeric_limits<double>::infinity()) const;
  std::int64_t integer(
      std::string_view key, std::optional<std::int64_t> fallback = {},
      std::int64_t least = std::numeric_limits<std::int64_t>::min(),
      std::int64_t most = std::numeric_limits<std::int64_t>::max()) const;
  // true or false; 1/0, yes/no, on/off too.
  bool boolean(std::string_view key, std::optional<bool> fallback = {}) const;
  // From an override also what looks like a number or a boolean, as typed.
  std::string string(std::string_view key,
                     std::optional<std::string> fallback = {}) const;
  // One of `allowed`; otherwise an error with the nearest.
  std::string choice(std::string_view key, std::span<const std::string> allowed,
                     std::optional<std::string> fallback = {}) const;
  // A path: relative ones are taken from the folder of the file that holds the value
  // (from the working folder for overrides). "" stays "".
  std::string path(std::string_view key, std::optional<std::string> fallback = {}) const;
  // Images: a JSON number or text, as parse_count with the given bare unit as an int of
  // CountUnit (0 images, 1 kimg, 2 mimg).
  std::int64_t count(std::string_view key, int bare_unit,
                     std::optional<std::int64_t> fallback = {}) const;
  // Lists. One value alone is a list of one; text is read as parse_double_list and
  // parse_int_list read it, and for strings an override's text is split at commas.
  std::vector<double> numbers(std::string_view key,
                              std::optional<std::vector<double>> fallback = {}) const;
  std::vector<std::int64_t> integers(
      std::string_view key, std::optional<std::vector<std::int64_t>> fallback = {}) const;
  std::vector<std::string> strings(
      std::string_view key, std::optional<std::vector<std::string>> fallback = {}) const;
  // The object under `key` (empty if missing); reads through it count here.
  Config child(std::string_view key) const;
  // A list of objects ({} if missing).
  std::vector<Config> children(std::string_view key) const;
  // Names of the keys of this object, in the order they were given.
  std::vector<std::string> keys() const;
  // The raw JSON text of a value, marked as read ("null" if missing).
  std::string raw(std::string_view key) const;
  // Marks everything below this object as read.
  void ignore() const;

  // Throws UsageError for the first key below this object that no getter asked for,
  // with file, line and the nearest name that was asked for beside it.
  void check_all_read() const;

  // What the getters returned, defaults included, keys sorted: the resolved
  // configuration. Reading it back gives the same run. Paths are absolute.
  std::string resolved_json(int indent = 2) const;
  // The values as given, keys sorted.
  std::string json(int indent = 2) const;
  // "FILE:LINE", or the origin of an override, of the value under `key`; "default" if
  // missing.
  std::string where(std::string_view key) const;

 private:
  struct Tree;
  Config(std::shared_ptr<Tree> tree, std::string prefix);
  // The node under `key`, which counts as asked for; nullptr if missing.
  const ConfigNode* find(std::string_view key) const;
  // The same, marked as read; nullptr if missing or null.
  const ConfigNode* take(std::string_view key) const;
  [[noreturn]] void fail_missing(std::string_view key, std::string_view expected) const;
  // Keeps what a getter returned for resolved_json.
  void remember(std::string_view key, std::string json) const;
  void assign(std::string_view key, std::unique_ptr<ConfigNode> value);
  std::shared_ptr<Tree> tree_;
  std::string prefix_;  // dotted path of this object in the tree, "" at the root
};

}  // namespace flowmap
