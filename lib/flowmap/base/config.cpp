// Config as a tree: files and includes, overrides, merging, what was read, writing. The
// typed getters are in config_get.cpp.
#include "flowmap/base/config.h"

#include <algorithm>
#include <utility>

#include "flowmap/base/config_tree.h"
#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/text.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;

// A file on the way from the first one to the one being read.
struct OpenConfig {
  fs::path canonical;
  std::string name;
};

ConfigNode::Pointer load_config_text(std::string_view text,
                                     std::shared_ptr<const ConfigSource> source,
                                     std::vector<OpenConfig>& open);

ConfigNode::Pointer load_config_file(const fs::path& path,
                                     std::vector<OpenConfig>& open) {
  std::string text;
  try {
    text = read_file(path);
  } catch (const Error& error) {
    throw UsageError(error.what());
  }
  std::error_code ignored;
  open.push_back({fs::weakly_canonical(path, ignored), path.string()});
  auto source = std::make_shared<ConfigSource>();
  source->name = path.string();
  source->folder = fs::absolute(path).parent_path();
  ConfigNode::Pointer root = load_config_text(text, std::move(source), open);
  open.pop_back();
  return root;
}

// `folder` is how the including file was named, so that messages name files alike.
ConfigNode::Pointer load_included_config(const ConfigNode& name, const fs::path& folder,
                                         std::vector<OpenConfig>& open) {
  if (name.kind != ConfigKind::string)
    fail_config_kind(name, "include", "the name of a file or a list of names");
  const fs::path path = (folder / name.text).lexically_normal();
  std::error_code ignored;
  const fs::path canonical = fs::weakly_canonical(path, ignored);
  const auto seen = std::find_if(
      open.begin(), open.end(),
      [&](const OpenConfig& file) { return file.canonical == canonical; });
  if (seen != open.end()) {
    std::string cycle;
    for (auto file = seen; file != open.end(); ++file) cycle += file->name + " -> ";
    throw UsageError(name.where() + ": include '" + name.text +
                     "' makes a cycle: " + cycle + path.string());
  }
  if (!fs::exists(path, ignored) || fs::is_directory(path, ignored))
    throw UsageError(name.where() + ": include '" + name.text + "': there is no file " +
                     path.string());
  return load_config_file(path, open);
}

ConfigNode::Pointer load_config_text(std::string_view text,
                                     std::shared_ptr<const ConfigSource> source,
                                     std::vector<OpenConfig>& open) {
  ConfigNode::Pointer root = parse_config_json(text, source);
  if (root->kind != ConfigKind::object)
    throw UsageError(root->where() +
                     ": expected an object { \"key\": value, ... }, got " +
                     config_value_text(*root));
  const auto include =
      std::find_if(root->members.begin(), root->members.end(),
                   [](const auto& member) { return member.first == "include"; });
  if (include == root->members.end()) return root;
  const ConfigNode::Pointer names = std::move(include->second);
  root->members.erase(include);
  const fs::path folder =
      open.empty() ? fs::path() : fs::path(open.back().name).parent_path();
  ConfigNode::Pointer merged;
  const auto add = [&](ConfigNode::Pointer upper) {
    if (merged) {
      merge_config_nodes(merged.get(), *upper);
    } else {
      merged = std::move(upper);
    }
  };
  if (names->kind == ConfigKind::list) {
    for (const ConfigNode::Pointer& name : names->items)
      add(load_included_config(*name, folder, open));
  } else {
    add(load_included_config(*names, folder, open));
  }
  add(std::move(root));
  return merged;
}

void mark_config_read(const ConfigNode& node) {
  node.read = true;
  for (const ConfigNode::Pointer& item : node.items) mark_config_read(*item);
  for (const auto& [name, value] : node.members) mark_config_read(*value);
}

// The first node below `node` that nobody read, with its key.
std::pair<std::string, const ConfigNode*> first_unread_config(const ConfigNode& node,
                                                              const std::string& key) {
  const auto look = [&](const std::string& name, const ConfigNode& value)
      -> std::pair<std::string, const ConfigNode*> {
    const std::string full = config_key(key, name);
    if (value.read) return {};
    if (!value.entered) return {full, &value};
    return first_unread_config(value, full);
  };
  for (const auto& [name, value] : node.members)
    if (auto found = look(name, *value); found.second) return found;
  for (std::size_t i = 0; i < node.items.size(); ++i)
    if (auto found = look(std::to_string(i), *node.items[i]); found.second) return found;
  return {};
}

std::pair<std::string, std::string> split_last_name(std::string_view key) {
  const std::size_t dot = key.rfind('.');
  if (dot == std::string_view::npos) return {"", std::string(key)};
  return {std::string(key.substr(0, dot)), std::string(key.substr(dot + 1))};
}

// A dotted key without empty names, or an error.
void check_config_key(std::string_view key, std::string_view given,
                      std::string_view origin) {
  const std::vector<std::string> names = split(key, '.');
  for (const std::string& name : names)
    FM_CHECK_USAGE(!name.empty() && name.find_first_of(" \t\n\"") == std::string::npos,
                   origin, ": '", given,
                   "' does not start with a key such as trainer.batch");
}

}  // namespace

Config::Config() : tree_(std::make_shared<Tree>()) {
  tree_->root = std::make_unique<ConfigNode>();
  tree_->root->kind = ConfigKind::object;
}

Config::Config(std::shared_ptr<Tree> tree, std::string prefix)
    : tree_(std::move(tree)), prefix_(std::move(prefix)) {}

Config Config::from_file(const fs::path& path) {
  Config config;
  std::vector<OpenConfig> open;
  config.tree_->root = load_config_file(path, open);
  return config;
}

Config Config::from_text(std::string_view json, std::string name) {
  Config config;
  auto source = std::make_shared<ConfigSource>();
  source->name = std::move(name);
  std::vector<OpenConfig> open;
  config.tree_->root = load_config_text(json, std::move(source), open);
  return config;
}

void Config::set_override(std::string_view assignment, std::string_view origin) {
  std::string_view text = trim(assignment);
  for (int dash = 0; dash < 2 && text.starts_with('-'); ++dash) text.remove_prefix(1);
  if (text.empty() && !trim(assignment).empty()) return;  // a lone dash
  const std::size_t equals = text.find('=');
  FM_CHECK_USAGE(equals != std::string_view::npos, origin, ": '", assignment,
                 "' is no setting; write key=value, such as trainer.batch=64");
  const std::string_view key = trim(text.substr(0, equals));
  check_config_key(key, assignment, origin);
  const std::string_view given = text.substr(equals + 1);
  auto source = std::make_shared<ConfigSource>();
  source->name = origin;
  source->is_override = true;
  ConfigNode::Pointer value;
  try {
    value = parse_config_json(given, source);
  } catch (const UsageError&) {
    value = std::make_unique<ConfigNode>();
    value->kind = ConfigKind::string;
    value->text = given;
    value->source = source;
  }
  assign(key, std::move(value));
}

void Config::set_json(std::string_view dotted_key, std::string_view json,
                      std::string_view origin) {
  check_config_key(dotted_key, dotted_key, origin);
  auto source = std::make_shared<ConfigSource>();
  source->name = std::string(origin) + ": " + std::string(dotted_key);
  source->is_override = true;
  ConfigNode::Pointer value = parse_config_json(json, source);
  source->name = origin;
  assign(dotted_key, std::move(value));
}

void Config::assign(std::string_view key, ConfigNode::Pointer value) {
  const std::string full = config_key(prefix_, key);
  std::erase_if(tree_->returned, [&](const auto& entry) {
    return entry.first == full || entry.first.starts_with(full + ".");
  });
  set_config_node(tree_->root.get(), full, std::move(value), false);
}

void Config::merge(const Config& other) {
  const ConfigNode* const theirs =
      find_config_node(other.tree_->root.get(), other.prefix_, false);
  if (!theirs || theirs->kind == ConfigKind::null) return;
  const ConfigNode::Pointer upper = theirs->clone();  // the trees may be one
  ConfigNode* ours = find_config_node(tree_->root.get(), prefix_, false);
  if (!ours || ours->kind == ConfigKind::null) {
    assign("", upper->clone());
    return;
  }
  std::erase_if(tree_->returned, [&](const auto& entry) {
    return prefix_.empty() || entry.first.starts_with(prefix_ + ".");
  });
  merge_config_nodes(ours, *upper);
}

const ConfigNode* Config::find(std::string_view key) const {
  const std::string full = config_key(prefix_, key);
  for (std::size_t end = 0; end != std::string::npos;) {
    end = full.find('.', end + 1);
    tree_->asked.insert(full.substr(0, end));
  }
  return find_config_node(tree_->root.get(), full, true);
}

const ConfigNode* Config::take(std::string_view key) const {
  const ConfigNode* const node = find(key);
  if (!node) return nullptr;
  mark_config_read(*node);
  return node->kind == ConfigKind::null ? nullptr : node;
}

void Config::remember(std::string_view key, std::string json) const {
  tree_->returned.insert_or_assign(config_key(prefix_, key), std::move(json));
}

void Config::fail_missing(std::string_view key, std::string_view expected) const {
  const std::string full = config_key(prefix_, key);
  // The innermost object around the key that exists says which file to mend.
  ConfigNode* const root = tree_->root.get();
  const std::string parent = split_last_name(full).first;
  const ConfigNode* around = nullptr;
  for (std::string at = parent; !around; at = split_last_name(at).first)
    around = find_config_node(root, at, false);
  const std::string place =
      around == root && root->source ? root->source->name : around->where();
  // A key that nobody asked for and that looks like this one is probably meant.
  std::string hint;
  std::vector<std::string> unasked;
  const ConfigNode* const siblings = find_config_node(root, parent, false);
  if (siblings)
    for (const auto& [name, value] : siblings->members)
      if (!tree_->asked.contains(config_key(parent, name))) unasked.push_back(name);
  if (const std::string near = nearest_name(split_last_name(full).second, unasked);
      !near.empty())
    hint = "; is '" + config_key(parent, near) + "' (" + siblings->member(near)->where() +
           ") meant to be it?";
  throw UsageError(place + ": missing key '" + full + "': expected " +
                   std::string(expected) + hint);
}

bool Config::has(std::string_view key) const {
  const ConfigNode* const node = find(key);
  return node && node->kind != ConfigKind::null;
}

Config Config::child(std::string_view key) const {
  const ConfigNode* const node = find(key);
  if (node) {
    node->entered = true;
    if (node->kind != ConfigKind::object && node->kind != ConfigKind::null)
      fail_config_kind(*node, config_key(prefix_, key), "an object");
  }
  return Config(tree_, config_key(prefix_, key));
}

std::vector<Config> Config::children(std::string_view key) const {
  const ConfigNode* const list = find(key);
  const std::string full = config_key(prefix_, key);
  std::vector<Config> found;
  if (!list) return found;
  list->entered = true;
  if (list->kind == ConfigKind::null) return found;
  if (list->kind != ConfigKind::list) fail_config_kind(*list, full, "a list of objects");
  for (std::size_t i = 0; i < list->items.size(); ++i)
    found.push_back(child(config_key(key, std::to_string(i))));
  return found;
}

std::vector<std::string> Config::keys() const {
  std::vector<std::string> names;
  const ConfigNode* const node = find_config_node(tree_->root.get(), prefix_, true);
  if (!node) return names;
  for (const auto& [name, value] : node->members) names.push_back(name);
  return names;
}

std::string Config::raw(std::string_view key) const {
  const ConfigNode* const node = take(key);
  return node ? write_config_json(*node, -1) : "null";
}

void Config::ignore() const {
  if (const ConfigNode* const node = find_config_node(tree_->root.get(), prefix_, true))
    mark_config_read(*node);
}

void Config::check_all_read() const {
  const ConfigNode* const node = find_config_node(tree_->root.get(), prefix_, false);
  if (!node || node->read) return;
  const auto [key, unread] = first_unread_config(*node, prefix_);
  if (!unread) return;
  if (tree_->asked.contains(key))  // by has()
    throw UsageError(unread->where() + ": unused key '" + key +
                     "': nothing in this run reads it");
  const auto [parent, last] = split_last_name(key);
  // Names that were asked for beside it, then the same name asked for elsewhere.
  std::vector<std::string> beside;
  std::string elsewhere;
  for (const std::string& asked : tree_->asked) {
    const auto [asked_parent, asked_last] = split_last_name(asked);
    if (asked_parent == parent) beside.push_back(asked_last);
    if (asked_last == last && elsewhere.empty()) elsewhere = asked;
  }
  std::string hint;
  if (const std::string near = nearest_name(last, beside); !near.empty()) {
    hint = "; did you mean '" + config_key(parent, near) + "'?";
  } else if (!elsewhere.empty()) {
    hint = "; did you mean '" + elsewhere + "'?";
  } else if (!beside.empty()) {
    hint = "; known here: " + join(beside, ", ");
  }
  throw UsageError(unread->where() + ": unknown key '" + key + "'" + hint);
}

std::string Config::resolved_json(int indent) const {
  const ConfigNode::Pointer whole = tree_->root->clone();
  const auto source = std::make_shared<const ConfigSource>(
      ConfigSource{.name = "default", .folder = {}, .is_override = true});
  for (const auto& [key, json] : tree_->returned)
    set_config_node(whole.get(), key, parse_config_json(json, source), true);
  const ConfigNode* const node = find_config_node(whole.get(), prefix_, false);
  return node && node->kind != ConfigKind::null ? write_config_json(*node, indent) : "{}";
}

std::string Config::json(int indent) const {
  const ConfigNode* const node = find_config_node(tree_->root.get(), prefix_, false);
  return node && node->kind != ConfigKind::null ? write_config_json(*node, indent) : "{}";
}

std::string Config::where(std::string_view key) const {
  const ConfigNode* const node =
      find_config_node(tree_->root.get(), config_key(prefix_, key), false);
  return node ? node->where() : "default";
}

}  // namespace flowmap
