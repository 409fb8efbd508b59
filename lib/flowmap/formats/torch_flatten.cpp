// Names: dotted keys into nested values, and lists of tensors under them.
#include <algorithm>
#include <charconv>
#include <unordered_set>

#include "flowmap/formats/pickle_text.h"
#include "flowmap/base/text.h"
#include "flowmap/formats/torch_internal.h"

namespace flowmap {
namespace {

constexpr std::string_view kModuleParts[] = {"_modules", "_parameters", "_buffers"};

const PickleValue* torch_child(const PickleValue& value, std::string_view key) {
  if (const PickleValue* found = value.find(key)) return found;
  if (const PickleValue* state = pickled_module_state(value)) {
    for (const auto part : kModuleParts)
      if (const PickleValue* children = state->find(part))
        if (const PickleValue* found = children->find(key)) return found;
    return state->find(key);
  }
  if (value.is(PickleKind::object) && value.state()) return value.state()->find(key);
  if (!value.is(PickleKind::list) && !value.is(PickleKind::tuple)) return nullptr;
  std::size_t index = 0;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
  if (error != std::errc() || end != key.data() + key.size()) return nullptr;
  return index < value.elements().size() ? value.elements()[index] : nullptr;
}

// The longest way that was found, for the error; how many were tried.
struct TorchReached {
  const PickleValue* value;
  std::string_view rest;
  std::size_t visits = 0;
};

// The longest key first, so that a key with dots in it is found whole.
const PickleValue* torch_find(const PickleValue& value, std::string_view key,
                              TorchReached& reached) {
  if (key.size() < reached.rest.size()) {
    reached.value = &value;
    reached.rest = key;
  }
  for (std::size_t end = key.size(); end != std::string_view::npos && end > 0;
       end = key.rfind('.', end - 1)) {
    // Dotted keys inside each other can be made to part in exponentially many ways.
    constexpr std::size_t kMostVisits = 10000;
    if (++reached.visits > kMostVisits)
      value.refuse("a key with dots", "keys that read in fewer ways");
    const PickleValue* child = torch_child(value, key.substr(0, end));
    if (child) {
      if (end == key.size()) return child;
      if (const auto* found = torch_find(*child, key.substr(end + 1), reached))
        return found;
    }
  }
  return nullptr;
}

std::string stripped(std::string_view name) {
  constexpr std::string_view kModule = "module.", kCompiled = "_orig_mod.";
  for (bool again = true; again;) {
    again = false;
    for (const auto prefix : {kModule, kCompiled})
      if (name.size() > prefix.size() && name.starts_with(prefix)) {
        name.remove_prefix(prefix.size());
        again = true;
      }
  }
  std::string out(name);
  for (std::size_t at; (at = out.find("._orig_mod.")) != std::string::npos;)
    out.erase(at, kCompiled.size());
  return out;
}

class TorchWalk {
 public:
  TorchWalk(const TorchFile& file, const TorchFlattenOptions& options)
      : file_(file), options_(options) {}

  std::vector<TorchEntry> entries;

  void visit(const PickleValue& value, const std::string& name, int depth) {
    if (TorchFile::is_tensor(value)) return add(value, name);
    // A value may stand in many places: the walk is bounded, whatever the file says.
    constexpr std::size_t kMostVisits = std::size_t{1} << 20;
    constexpr int kMostDepth = 256;
    if (++visits_ > kMostVisits || depth > kMostDepth)
      value.refuse("tensors of a file", "fewer values on the way to the tensors");
    if (!open_.insert(&value).second) return;  // inside itself
    if (const PickleValue* state = pickled_module_state(value))
      visit_module(*state, name, depth);
    else
      visit_container(value, name, depth);
    open_.erase(&value);
  }

 private:
  static std::string joined(const std::string& name, std::string_view part) {
    return name.empty() ? std::string(part) : name + "." + std::string(part);
  }

  void visit_container(const PickleValue& value, const std::string& name, int depth) {
    for (const PickleItem& item : value.items()) {
      if (item.key->is(PickleKind::text))
        visit(*item.value, joined(name, item.key->as_text("key")), depth + 1);
      else if (item.key->is(PickleKind::integer))
        visit(*item.value, joined(name, std::to_string(item.key->as_int("key"))),
              depth + 1);
    }
    if (value.is(PickleKind::list) || value.is(PickleKind::tuple)) {
      std::size_t index = 0;
      for (const PickleValue* element : value.elements())
        visit(*element, joined(name, std::to_string(index++)), depth + 1);
    }
    // A plain object (Namespace, EasyDict of attributes). An OrderedDict's state is the
    // metadata of a state_dict, without tensors.
    if (value.is(PickleKind::object) && value.state() && !value.is_mapping())
      visit(*value.state(), name, depth + 1);
  }

  // The order of state_dict(): parameters, buffers, children.
  void visit_module(const PickleValue& state, const std::string& name, int depth) {
    std::unordered_set<std::string_view> transient;
    if (const PickleValue* names = state.find("_non_persistent_buffers_set"))
      for (const PickleValue* each : names->elements())
        if (each->is(PickleKind::text)) transient.insert(each->as_text("buffer"));
    for (const std::string_view part : {"_parameters", "_buffers", "_modules"}) {
      const PickleValue* children = state.find(part);
      if (!children) continue;
      for (const PickleItem& item : children->items()) {
        if (!item.key->is(PickleKind::text)) continue;
        const std::string_view child = item.key->as_text("name");
        if (part == "_buffers" && transient.contains(child)) continue;
        visit(*item.value, joined(name, child), depth + 1);
      }
    }
  }

  void add(const PickleValue& value, const std::string& name) {
    constexpr std::size_t kMostName = 4096, kMostNames = std::size_t{1} << 28;
    std::string full = options_.strip_prefixes ? stripped(name) : name;
    if (full.empty()) {
      const std::size_t dot = options_.key.rfind('.');
      full = options_.key.empty()
                 ? "tensor"
                 : options_.key.substr(dot == std::string::npos ? 0 : dot + 1);
    }
    if (full.size() > kMostName || (names_bytes_ += full.size()) > kMostNames ||
        entries.size() >= kMostNames / 256)
      value.refuse("name of a tensor", "names of at most 4096 bytes");
    if (!names_.insert(full).second)
      throw DataError(value.path(), value.offset(), "every tensor name once",
                      pickle_quote(full) + " twice" +
                          (options_.strip_prefixes
                               ? " after 'module.' and '_orig_mod.' were taken off"
                               : ""));
    entries.push_back({std::move(full), file_.tensor(value)});
  }

  const TorchFile& file_;
  const TorchFlattenOptions& options_;
  std::size_t visits_ = 0, names_bytes_ = 0;
  std::unordered_set<const PickleValue*> open_;
  std::unordered_set<std::string> names_;
};

}  // namespace

const PickleValue* pickled_module_state(const PickleValue& value) {
  if (!value.is(PickleKind::object)) return nullptr;
  const PickleValue* state = value.state();
  if (value.is_object_of("torch_utils.persistence", "_reconstruct_persistent_obj")) {
    const auto args = value.args()->elements();
    return args.size() == 1 ? args[0]->find("state") : nullptr;
  }
  return state && state->find("_parameters") && state->find("_modules") ? state : nullptr;
}

const PickleValue* TorchFile::find(std::string_view key) const {
  if (key.empty()) return &root();
  TorchReached reached{&root(), key};
  return torch_find(root(), key, reached);
}

const PickleValue& TorchFile::at(std::string_view key) const {
  if (key.empty()) return root();
  TorchReached reached{&root(), key};
  if (const PickleValue* found = torch_find(root(), key, reached)) return *found;
  std::vector<std::string> keys;
  const PickleValue* holder = reached.value;
  if (const PickleValue* state = pickled_module_state(*holder))
    if (const PickleValue* children = state->find("_modules")) holder = children;
  for (const PickleItem& item : holder->items())
    if (item.key->is(PickleKind::text) && keys.size() < 100)
      keys.emplace_back(item.key->as_text("key").substr(0, 100));
  const std::string_view part = reached.rest.substr(0, reached.rest.find('.'));
  throw DataError(path(), {}, "a value at the key " + pickle_quote(key),
                  reached.value->describe() + " without " + pickle_quote(part) +
                      suggestion(part, keys));
}

std::vector<TorchEntry> TorchFile::flatten(const TorchFlattenOptions& options) const {
  return flatten(at(options.key), options);
}

std::vector<TorchEntry> TorchFile::flatten(const PickleValue& value,
                                           const TorchFlattenOptions& options) const {
  TorchWalk walk(*this, options);
  walk.visit(value, "", 0);
  return std::move(walk.entries);
}

}  // namespace flowmap
