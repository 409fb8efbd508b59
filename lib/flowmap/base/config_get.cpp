// The typed getters of Config.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>
#include <utility>

#include "flowmap/base/config.h"
#include "flowmap/base/config_tree.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"

namespace flowmap {
namespace {

constexpr std::int64_t kIntLeast = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kIntMost = std::numeric_limits<std::int64_t>::max();

// "a number in [0, inf)"
std::string expected_number(double least, double most) {
  if (std::isinf(least) && std::isinf(most)) return "a number";
  return "a number in " +
         (std::isinf(least) ? "(-inf" : "[" + config_json_number(least)) + ", " +
         (std::isinf(most) ? "inf)" : config_json_number(most) + "]");
}

std::string expected_integer(std::int64_t least, std::int64_t most) {
  if (least == kIntLeast && most == kIntMost) return "a whole number";
  return "a whole number in " +
         (least == kIntLeast ? "(-inf" : "[" + std::to_string(least)) + ", " +
         (most == kIntMost ? "inf)" : std::to_string(most) + "]");
}

// The whole number of a number node; complains in terms of `expected`.
std::int64_t integer_of_config(const ConfigNode& node, std::string_view key,
                               std::string_view expected) {
  if (node.kind != ConfigKind::number) fail_config_kind(node, key, expected);
  std::int64_t value = 0;
  const char* const end = node.text.data() + node.text.size();
  const auto result = std::from_chars(node.text.data(), end, value);
  if (result.ec == std::errc() && result.ptr == end) return value;
  // 1e3 and 64.0 are whole as well.
  if (node.number != std::floor(node.number))
    fail_config_value(node, key, "is not whole", expected);
  if (std::abs(node.number) >= 0x1p63)
    fail_config_value(node, key, "is out of range", expected);
  return static_cast<std::int64_t>(node.number);
}

// Text of an override that a string getter may take though JSON reads it as something
// else.
bool is_typed_text(const ConfigNode& node) {
  return node.source && node.source->is_override &&
         (node.kind == ConfigKind::number || node.kind == ConfigKind::boolean);
}

// `images` in the bare unit, exactly: 1500000 as Mimg is 1.500000.
std::string count_in_unit(std::int64_t images, CountUnit unit) {
  const int places = unit == CountUnit::images ? 0 : unit == CountUnit::kimg ? 3 : 6;
  std::string digits = std::to_string(images);
  if (places == 0 || images < 0) return digits;
  if (digits.size() <= static_cast<std::size_t>(places))
    digits.insert(0, static_cast<std::size_t>(places) + 1 - digits.size(), '0');
  digits.insert(digits.size() - static_cast<std::size_t>(places), ".");
  digits.erase(digits.find_last_not_of('0') + 1);
  if (digits.back() == '.') digits.pop_back();
  return digits;
}

template <class Item, class Write>
std::string config_list_json(const std::vector<Item>& items, Write write) {
  std::string json = "[";
  for (const Item& item : items) json += (json.size() > 1 ? "," : "") + write(item);
  return json + "]";
}

std::string config_item_key(const std::string& key, std::size_t position) {
  return config_key(key, std::to_string(position));
}

}  // namespace

double Config::number(std::string_view key, std::optional<double> fallback, double least,
                      double most) const {
  const std::string full = config_key(prefix_, key);
  const ConfigNode* const node = take(key);
  if (!node) {
    if (!fallback) fail_missing(key, expected_number(least, most));
    if (!std::isnan(*fallback)) remember(key, config_json_number(*fallback));
    return *fallback;
  }
  double value = node->number;
  if (node->kind == ConfigKind::string) {
    const std::string word = to_lower(trim(node->text));
    const bool infinite = word == "inf" || word == "-inf" || word == "infinity" ||
                          word == "-infinity" || word == "+inf";
    if (!infinite) fail_config_kind(*node, full, expected_number(least, most));
    value = word[0] == '-' ? -std::numeric_limits<double>::infinity()
                           : std::numeric_limits<double>::infinity();
    if (!fallback || !std::isinf(*fallback))
      fail_config_value(*node, full, "is not finite", expected_number(least, most));
  } else if (node->kind != ConfigKind::number) {
    fail_config_kind(*node, full, expected_number(least, most));
  }
  const bool is_default = fallback && value == *fallback;
  if (!is_default && !(value >= least && value <= most))
    fail_config_value(*node, full, "is out of range", expected_number(least, most));
  return value;
}

std::int64_t Config::integer(std::string_view key, std::optional<std::int64_t> fallback,
                             std::int64_t least, std::int64_t most) const {
  const std::string full = config_key(prefix_, key);
  const ConfigNode* const node = take(key);
  const std::string expected = expected_integer(least, most);
  if (!node) {
    if (!fallback) fail_missing(key, expected);
    remember(key, std::to_string(*fallback));
    return *fallback;
  }
  const std::int64_t value = integer_of_config(*node, full, expected);
  if (value != fallback && (value < least || value > most))
    fail_config_value(*node, full, "is out of range", expected);
  return value;
}

bool Config::boolean(std::string_view key, std::optional<bool> fallback) const {
  const std::string full = config_key(prefix_, key);
  const ConfigNode* const node = take(key);
  if (!node) {
    if (!fallback) fail_missing(key, "true or false");
    remember(key, *fallback ? "true" : "false");
    return *fallback;
  }
  if (node->kind == ConfigKind::boolean) return node->boolean;
  if (node->kind != ConfigKind::number && node->kind != ConfigKind::string)
    fail_config_kind(*node, full, "true or false");
  bool value = false;
  try {
    value = parse_bool(node->text, full);
  } catch (const UsageError&) {
    fail_config_kind(*node, full, "true or false");
  }
  remember(key, value ? "true" : "false");
  return value;
}

std::string Config::string(std::string_view key,
                           std::optional<std::string> fallback) const {
  const ConfigNode* const node = take(key);
  if (!node) {
    if (!fallback) fail_missing(key, "a string");
    remember(key, config_json_string(*fallback));
    return *fallback;
  }
  if (is_typed_text(*node)) {
    remember(key, config_json_string(node->text));
  } else if (node->kind != ConfigKind::string) {
    fail_config_kind(*node, config_key(prefix_, key), "a string");
  }
  return node->text;
}

std::string Config::choice(std::string_view key, std::span<const std::string> allowed,
                           std::optional<std::string> fallback) const {
  const auto expected = [&] { return "one of " + join(allowed, ", "); };
  const ConfigNode* const node = take(key);
  if (!node && !fallback) fail_missing(key, expected());
  const std::string value = string(key, fallback);
  if (!node || value == fallback ||
      std::find(allowed.begin(), allowed.end(), value) != allowed.end())
    return value;
  const std::string near = nearest_name(value, allowed);
  fail_config_value(*node, config_key(prefix_, key), "is unknown",
                    expected() + (near.empty() ? "" : "; did you mean '" + near + "'?"));
}

std::string Config::path(std::string_view key,
                         std::optional<std::string> fallback) const {
  const ConfigNode* const node = take(key);
  if (!node && !fallback) fail_missing(key, "a path");
  const std::string value = string(key, std::move(fallback));
  if (value.empty()) return value;
  std::filesystem::path full = value;
  if (node && node->source) full = node->source->folder / full;
  std::string absolute = std::filesystem::absolute(full).lexically_normal().string();
  remember(key, config_json_string(absolute));
  return absolute;
}

std::int64_t Config::count(std::string_view key, int bare_unit,
                           std::optional<std::int64_t> fallback) const {
  FM_CHECK(bare_unit >= 0 && bare_unit <= 2, "unit ", bare_unit, " is no CountUnit");
  const auto unit = static_cast<CountUnit>(bare_unit);
  constexpr std::string_view kExpected =
      "a number of images such as 200, 0.5 or \"128Ki\"";
  const std::string full = config_key(prefix_, key);
  const ConfigNode* const node = take(key);
  if (!node) {
    if (!fallback) fail_missing(key, kExpected);
    remember(key, count_in_unit(*fallback, unit));
    return *fallback;
  }
  if (node->kind != ConfigKind::number && node->kind != ConfigKind::string)
    fail_config_kind(*node, full, kExpected);
  // A default that counts nothing ("never" as -1) may be given as well.
  if (fallback && *fallback < 0 && node->text == std::to_string(*fallback))
    return *fallback;
  return parse_count(node->text, unit, node->where() + ": " + full);
}

std::vector<double> Config::numbers(std::string_view key,
                                    std::optional<std::vector<double>> fallback) const {
  constexpr std::string_view kExpected = "a list of numbers";
  const std::string full = config_key(prefix_, key);
  const ConfigNode* const node = take(key);
  std::vector<double> values;
  if (!node) {
    if (!fallback) fail_missing(key, kExpected);
    values = std::move(*fallback);
  } else if (node->kind == ConfigKind::list) {
    for (std::size_t i = 0; i < node->items.size(); ++i) {
      const ConfigNode& item = *node->items[i];
      if (item.kind != ConfigKind::number)
        fail_config_kind(item, config_item_key(full, i), "a number");
      values.push_back(item.number);
    }
    return values;
  } else if (node->kind == ConfigKind::number) {
    values = {node->number};
  } else if (node->kind == ConfigKind::string) {
    values = parse_double_list(node->text, node->where() + ": " + full);
  } else {
    fail_config_kind(*node, full, kExpected);
  }
  if (std::all_of(values.begin(), values.end(),
                  [](double x) { return std::isfinite(x); }))
    remember(key, config_list_json(values, config_json_number));
  return values;
}

std::vector<std::int64_t> Config::integers(
    std::string_view key, std::optional<std::vector<std::int64_t>> fallback) const {
  constexpr std::string_view kExpected = "a list of whole numbers";
  const std::string full = config_key(prefix_, key);
  const ConfigNode* const node = take(key);
  std::vector<std::int64_t> values;
  if (!node) {
    if (!fallback) fail_missing(key, kExpected);
    values = std::move(*fallback);
  } else if (node->kind == ConfigKind::list) {
    for (std::size_t i = 0; i < node->items.size(); ++i)
      values.push_back(
          integer_of_config(*node->items[i], config_item_key(full, i), "a whole number"));
    return values;
  } else if (node->kind == ConfigKind::number) {
    values = {integer_of_config(*node, full, kExpected)};
  } else if (node->kind == ConfigKind::string) {
    values = parse_int_list(node->text, node->where() + ": " + full);
  } else {
    fail_config_kind(*node, full, kExpected);
  }
  remember(key,
           config_list_json(values, [](std::int64_t x) { return std::to_string(x); }));
  return values;
}

std::vector<std::string> Config::strings(
    std::string_view key, std::optional<std::vector<std::string>> fallback) const {
  constexpr std::string_view kExpected = "a list of strings";
  const std::string full = config_key(prefix_, key);
  const ConfigNode* const node = take(key);
  std::vector<std::string> values;
  if (!node) {
    if (!fallback) fail_missing(key, kExpected);
    values = std::move(*fallback);
  } else if (node->kind == ConfigKind::list) {
    for (std::size_t i = 0; i < node->items.size(); ++i) {
      const ConfigNode& item = *node->items[i];
      if (item.kind != ConfigKind::string)
        fail_config_kind(item, config_item_key(full, i), "a string");
      values.push_back(item.text);
    }
    return values;
  } else if (node->kind == ConfigKind::string || is_typed_text(*node)) {
    const bool split_it = node->source && node->source->is_override;
    if (!node->text.empty())
      values = split_it ? split(node->text, ',') : std::vector<std::string>{node->text};
  } else {
    fail_config_kind(*node, full, kExpected);
  }
  remember(key, config_list_json(
                    values, [](const std::string& x) { return config_json_string(x); }));
  return values;
}

}  // namespace flowmap
