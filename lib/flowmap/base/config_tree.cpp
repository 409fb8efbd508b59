#include "flowmap/base/config_tree.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"

namespace flowmap {
namespace {

// The item of `list` that `name` numbers, or nullptr.
ConfigNode* config_list_item(const ConfigNode& list, std::string_view name) {
  std::size_t position = 0;
  const auto result =
      std::from_chars(name.data(), name.data() + name.size(), position);
  if (result.ec != std::errc() || result.ptr != name.data() + name.size()) return nullptr;
  return position < list.items.size() ? list.items[position].get() : nullptr;
}

void write_config_value(const ConfigNode& node, int indent, int level, std::string& out) {
  const auto new_line = [&](int depth) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<std::size_t>(indent * depth), ' ');
  };
  switch (node.kind) {
    case ConfigKind::null: out += "null"; return;
    case ConfigKind::boolean: out += node.boolean ? "true" : "false"; return;
    case ConfigKind::number: out += node.text; return;
    case ConfigKind::string: out += config_json_string(node.text); return;
    case ConfigKind::list: {
      // Lists of plain values stay on one line.
      const bool plain = std::none_of(
          node.items.begin(), node.items.end(), [](const ConfigNode::Pointer& item) {
            return item->kind == ConfigKind::list || item->kind == ConfigKind::object;
          });
      out += '[';
      for (std::size_t i = 0; i < node.items.size(); ++i) {
        if (i > 0) out += plain && indent >= 0 ? ", " : ",";
        if (!plain) new_line(level + 1);
        write_config_value(*node.items[i], indent, level + 1, out);
      }
      if (!plain) new_line(level);
      out += ']';
      return;
    }
    case ConfigKind::object: {
      std::vector<std::pair<std::string_view, const ConfigNode*>> sorted;
      for (const auto& [name, value] : node.members)
        sorted.emplace_back(name, value.get());
      std::sort(sorted.begin(), sorted.end());
      out += '{';
      for (std::size_t i = 0; i < sorted.size(); ++i) {
        if (i > 0) out += ',';
        new_line(level + 1);
        out += config_json_string(sorted[i].first) + (indent < 0 ? ":" : ": ");
        write_config_value(*sorted[i].second, indent, level + 1, out);
      }
      if (!sorted.empty()) new_line(level);
      out += '}';
      return;
    }
  }
}

std::string_view config_kind_name(ConfigKind kind) {
  switch (kind) {
    case ConfigKind::null: return "null";
    case ConfigKind::boolean: return "a boolean";
    case ConfigKind::number: return "a number";
    case ConfigKind::string: return "a string";
    case ConfigKind::list: return "a list";
    case ConfigKind::object: return "an object";
  }
  return "?";
}

}  // namespace

ConfigNode* ConfigNode::member(std::string_view name) const {
  for (const auto& [key, value] : members)
    if (key == name) return value.get();
  return nullptr;
}

std::string ConfigNode::where() const {
  if (!source) return "configuration";
  return line > 0 ? source->name + ":" + std::to_string(line) : source->name;
}

ConfigNode::Pointer ConfigNode::clone() const {
  auto copy = std::make_unique<ConfigNode>();
  copy->kind = kind;
  copy->boolean = boolean;
  copy->number = number;
  copy->text = text;
  copy->source = source;
  copy->line = line;
  for (const Pointer& item : items) copy->items.push_back(item->clone());
  for (const auto& [name, value] : members)
    copy->members.emplace_back(name, value->clone());
  return copy;
}

std::string config_key(std::string_view prefix, std::string_view key) {
  std::string joined(prefix);
  if (!prefix.empty() && !key.empty()) joined += '.';
  return joined.append(key);
}

ConfigNode* find_config_node(ConfigNode* root, std::string_view key, bool enter) {
  ConfigNode* node = root;
  if (key.empty()) return node;
  std::string walked;
  for (const std::string& name : split(key, '.')) {
    if (enter) {
      node->entered = true;
      if (node->kind != ConfigKind::object && node->kind != ConfigKind::list &&
          node->kind != ConfigKind::null)
        fail_config_kind(*node, walked, "an object");
      walked = config_key(walked, name);
    }
    node = node->kind == ConfigKind::list ? config_list_item(*node, name)
                                          : node->member(name);
    if (!node) return nullptr;
  }
  return node;
}

void set_config_node(ConfigNode* root, std::string_view key, ConfigNode::Pointer value,
                     bool through_lists) {
  ConfigNode* node = root;
  std::string walked;
  const std::vector<std::string> names = split(key, '.');
  for (std::size_t i = 0;; ++i) {
    if (node->kind == ConfigKind::null) node->kind = ConfigKind::object;
    ConfigNode* const item = through_lists && node->kind == ConfigKind::list
                                 ? config_list_item(*node, names[i])
                                 : nullptr;
    FM_CHECK_USAGE(node->kind == ConfigKind::object || item, value->where(),
                   ": cannot set '", key, "': ", node->where(), " makes '", walked, "' ",
                   config_kind_name(node->kind), ", not an object",
                   node->kind == ConfigKind::list ? "; replace the whole list" : "");
    walked = config_key(walked, names[i]);
    ConfigNode* next = item ? item : node->member(names[i]);
    if (i + 1 == names.size()) {
      if (next) {
        *next = std::move(*value);
      } else {
        node->members.emplace_back(names[i], std::move(value));
      }
      return;
    }
    if (!next) {
      auto made = std::make_unique<ConfigNode>();
      made->kind = ConfigKind::object;
      made->source = value->source;
      made->line = value->line;
      next = made.get();
      node->members.emplace_back(names[i], std::move(made));
    }
    node = next;
  }
}

void merge_config_nodes(ConfigNode* lower, const ConfigNode& upper) {
  if (lower->kind != ConfigKind::object || upper.kind != ConfigKind::object) {
    *lower = std::move(*upper.clone());
    return;
  }
  // Errors about the object as such (a missing key) point into the upper file.
  lower->source = upper.source;
  lower->line = upper.line;
  for (const auto& [name, value] : upper.members) {
    if (ConfigNode* const old = lower->member(name)) {
      merge_config_nodes(old, *value);
    } else {
      lower->members.emplace_back(name, value->clone());
    }
  }
}

std::string write_config_json(const ConfigNode& node, int indent) {
  std::string out;
  write_config_value(node, indent, 0, out);
  return out;
}

std::string config_json_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\t': out += "\\t"; break;
      case '\r': out += "\\r"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += format("\\u%04x", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  return out + '"';
}

std::string config_json_number(double value) {
  if (std::isinf(value)) return value < 0 ? "\"-inf\"" : "\"inf\"";
  char buffer[32];
  // The shortest text that reads back as the same double.
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, value);
  return std::string(buffer, result.ptr);
}

std::string config_value_text(const ConfigNode& node) {
  std::string text = write_config_json(node, -1);
  constexpr std::size_t kLongest = 60;
  if (text.size() > kLongest) {
    std::size_t end = kLongest;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    text = text.substr(0, end) + "...";
  }
  return text;
}

void fail_config_value(const ConfigNode& node, std::string_view key,
                       std::string_view problem, std::string_view expected) {
  throw UsageError(detail::concat(node.where(), ": ", key, " = ", config_value_text(node),
                                  " ", problem, ": expected ", expected));
}

void fail_config_kind(const ConfigNode& node, std::string_view key,
                      std::string_view expected) {
  fail_config_value(node, key, detail::concat("is ", config_kind_name(node.kind)),
                    expected);
}

}  // namespace flowmap
