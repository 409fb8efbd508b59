// The inside of Config: nodes that remember where they come from, the reader of JSON with
// comments that makes them, and the writer. Private to config*.cpp.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flowmap/base/config.h"

namespace flowmap {

// A file, or whoever gave an override.
struct ConfigSource {
  std::string name;
  std::filesystem::path folder;  // relative paths start here; "" is the working folder
  bool is_override = false;
};

enum class ConfigKind { null, boolean, number, string, list, object };

struct ConfigNode {
  using Pointer = std::unique_ptr<ConfigNode>;

  ConfigKind kind = ConfigKind::null;
  bool boolean = false;
  double number = 0;
  // A string's value, a number's literal; for overrides of other kinds what was typed.
  std::string text;
  std::vector<Pointer> items;                            // of a list
  std::vector<std::pair<std::string, Pointer>> members;  // of an object, as written

  std::shared_ptr<const ConfigSource> source;
  int line = 0;  // of the key (of the value in a list); 0 for overrides

  // Marks of reading, set through const access. `entered`: something inside was asked
  // for. `read`: the whole value was taken.
  mutable bool entered = false, read = false;

  ConfigNode* member(std::string_view name) const;
  std::string where() const;  // "FILE:LINE" or the origin of the override
  Pointer clone() const;      // without the marks
};

struct Config::Tree {
  ConfigNode::Pointer root;
  std::set<std::string, std::less<>> asked;  // dotted keys, with all their parents
  // Dotted key -> JSON text of values that getters returned and the nodes do not say:
  // defaults, absolute paths, readings of an override's text.
  mutable std::map<std::string, std::string, std::less<>> returned;
};

// "a.b" + "c" -> "a.b.c"; an empty part adds nothing.
std::string config_key(std::string_view prefix, std::string_view key);

// Reads one JSON value that is the whole text. Strict JSON for overrides, with comments
// and trailing commas for files. Throws UsageError "NAME:LINE: what" ("NAME: what" for
// overrides).
ConfigNode::Pointer parse_config_json(std::string_view text,
                                      std::shared_ptr<const ConfigSource> source);

// Walks dotted names and list positions; nullptr if the way ends. `enter` marks what is
// on the way and throws UsageError if that is neither object, list nor null.
ConfigNode* find_config_node(ConfigNode* root, std::string_view key, bool enter);
// Puts `value` under the key, makes the missing objects and replaces nulls. Throws
// UsageError if something else is in the way. List positions that exist are walked
// through only if `through_lists`.
void set_config_node(ConfigNode* root, std::string_view key, ConfigNode::Pointer value,
                     bool through_lists);
// `upper` wins, object by object.
void merge_config_nodes(ConfigNode* lower, const ConfigNode& upper);

// Keys sorted; indent < 0 writes one line.
std::string write_config_json(const ConfigNode& node, int indent);
// A JSON string literal; a JSON number, or "inf" / "-inf" in quotes (the getters read
// them back).
std::string config_json_string(std::string_view text);
std::string config_json_number(double value);
// A value for messages: one line, shortened.
std::string config_value_text(const ConfigNode& node);
// UsageError "FILE:LINE: KEY = VALUE PROBLEM: expected EXPECTED", and the same with the
// value's kind as the problem ("is a string").
[[noreturn]] void fail_config_value(const ConfigNode& node, std::string_view key,
                                    std::string_view problem, std::string_view expected);
[[noreturn]] void fail_config_kind(const ConfigNode& node, std::string_view key,
                                   std::string_view expected);

}  // namespace flowmap
