#include <algorithm>
#include <utility>

#include "flowmap/formats/pickle.h"
#include "flowmap/formats/pickle_text.h"
#include "flowmap/base/text.h"

namespace flowmap {
namespace {

bool is_builtin_container(const PickleValue& global) {
  const std::string_view module = global.module(), name = global.name();
  return (module == "builtins" || module == "__builtin__") &&
         (name == "set" || name == "frozenset" || name == "list" || name == "tuple");
}

}  // namespace

std::string_view pickle_kind_name(PickleKind kind) {
  switch (kind) {
    case PickleKind::none:
      return "None";
    case PickleKind::boolean:
      return "a bool";
    case PickleKind::integer:
      return "an integer";
    case PickleKind::big_integer:
      return "an integer beyond 64 bits";
    case PickleKind::real:
      return "a float";
    case PickleKind::text:
      return "text";
    case PickleKind::bytes:
      return "bytes";
    case PickleKind::list:
      return "a list";
    case PickleKind::tuple:
      return "a tuple";
    case PickleKind::dict:
      return "a dict";
    case PickleKind::set:
      return "a set";
    case PickleKind::frozenset:
      return "a frozenset";
    case PickleKind::global:
      return "a global";
    case PickleKind::object:
      return "an object";
    case PickleKind::persistent:
      return "a persistent reference";
  }
  return "?";
}

std::uint64_t PickleValue::offset() const {
  return offset_ + (source_ ? source_->base_offset : 0);
}

const std::string& PickleValue::path() const { return source_->path; }

std::string PickleValue::describe() const {
  switch (kind_) {
    case PickleKind::boolean:
      return integer_ ? "True" : "False";
    case PickleKind::integer:
      return "the integer " + std::to_string(integer_);
    case PickleKind::real:
      return "the float " + format("%.17g", real_);
    case PickleKind::text:
      return "the text " + pickle_quote({data_, size_});
    case PickleKind::global:
      return "the global " +
             pickle_quote(std::string(module()) + "." + std::string(name()));
    case PickleKind::object:
      return "an object of " + pickle_quote(std::string(callable()->module()) + "." +
                                            std::string(callable()->name()));
    default:
      return std::string(pickle_kind_name(kind_));
  }
}

void PickleValue::refuse(std::string_view what, std::string_view expected) const {
  throw DataError(path(), offset(),
                  std::string(expected) + " (" + std::string(what) + ")", describe());
}

bool PickleValue::as_bool(std::string_view what) const {
  if (kind_ != PickleKind::boolean) refuse(what, "a bool");
  return integer_ != 0;
}

std::int64_t PickleValue::as_int(std::string_view what) const {
  if (kind_ != PickleKind::integer) refuse(what, "an integer");
  return integer_;
}

double PickleValue::as_double(std::string_view what) const {
  if (kind_ == PickleKind::integer) return static_cast<double>(integer_);
  if (kind_ != PickleKind::real) refuse(what, "a number");
  return real_;
}

std::string_view PickleValue::as_text(std::string_view what) const {
  if (kind_ != PickleKind::text) refuse(what, "text");
  return {data_, size_};
}

std::span<const std::byte> PickleValue::as_bytes(std::string_view what) const {
  if (kind_ != PickleKind::text && kind_ != PickleKind::bytes) refuse(what, "bytes");
  return std::as_bytes(std::span(data_, size_));
}

std::span<const std::byte> PickleValue::big_integer_bytes() const {
  if (kind_ != PickleKind::big_integer) return {};
  return std::as_bytes(std::span(data_, size_));
}

std::span<const PickleValue* const> PickleValue::elements() const {
  if (!parts_ || kind_ == PickleKind::global || kind_ == PickleKind::persistent)
    return {};
  if (kind_ == PickleKind::object && parts_->elements.empty() &&
      is_builtin_container(*parts_->callable)) {
    const auto given = parts_->args->elements();
    // One level only: set(set(...)) is nothing that Python writes.
    if (given.size() == 1 && given[0]->kind_ != PickleKind::object)
      return given[0]->elements();
  }
  return parts_->elements;
}

std::span<const PickleValue* const> PickleValue::as_sequence(
    std::string_view what) const {
  if (kind_ != PickleKind::list && kind_ != PickleKind::tuple)
    refuse(what, "a list or a tuple");
  return elements();
}

std::span<const PickleItem> PickleValue::items() const {
  if (!parts_) return {};
  return parts_->items;
}

bool PickleValue::is_mapping() const {
  if (kind_ == PickleKind::dict) return true;
  if (kind_ != PickleKind::object) return false;
  return !parts_->items.empty() || is_object_of("collections", "OrderedDict") ||
         parts_->callable->name() == "EasyDict";
}

const PickleValue* PickleValue::find(std::string_view key) const {
  for (const PickleItem& item : items())
    if (item.key->kind_ == PickleKind::text &&
        std::string_view(item.key->data_, item.key->size_) == key)
      return item.value;
  return nullptr;
}

const PickleValue& PickleValue::at(std::string_view key, std::string_view what) const {
  if (const PickleValue* found = find(key)) return *found;
  if (!is_mapping()) refuse(what, "a dict with the key " + pickle_quote(key));
  std::vector<std::string> keys;
  for (const PickleItem& item : items())
    if (item.key->kind_ == PickleKind::text && keys.size() < 1000)
      keys.emplace_back(item.key->data_, std::min<std::size_t>(item.key->size_, 100));
  throw DataError(path(), offset(),
                  "the key " + pickle_quote(key) + " (" + std::string(what) + ")",
                  "a dict of " + std::to_string(items().size()) + " keys without it" +
                      suggestion(key, keys));
}

std::string_view PickleValue::module() const {
  if (kind_ != PickleKind::global) return {};
  const PickleValue& text = *parts_->elements[0];
  return {text.data_, text.size_};
}

std::string_view PickleValue::name() const {
  if (kind_ != PickleKind::global) return {};
  const PickleValue& text = *parts_->elements[1];
  return {text.data_, text.size_};
}

bool PickleValue::is_global(std::string_view module_name,
                            std::string_view global_name) const {
  return kind_ == PickleKind::global && module() == module_name && name() == global_name;
}

bool PickleValue::is_object_of(std::string_view module_name,
                               std::string_view global_name) const {
  return kind_ == PickleKind::object &&
         parts_->callable->is_global(module_name, global_name);
}

const PickleValue* PickleValue::callable() const {
  return kind_ == PickleKind::object ? parts_->callable : nullptr;
}
const PickleValue* PickleValue::args() const {
  return kind_ == PickleKind::object ? parts_->args : nullptr;
}
const PickleValue* PickleValue::kwargs() const {
  return kind_ == PickleKind::object ? parts_->kwargs : nullptr;
}
const PickleValue* PickleValue::state() const {
  return kind_ == PickleKind::object ? parts_->state : nullptr;
}

const PickleValue& PickleValue::arg(std::size_t index, std::string_view what) const {
  if (kind_ != PickleKind::object) refuse(what, "an object");
  const auto given = parts_->args->elements();
  if (index >= given.size())
    throw DataError(path(), offset(),
                    "at least " + std::to_string(index + 1) + " arguments (" +
                        std::string(what) + ")",
                    std::to_string(given.size()) + " in " + describe());
  return *given[index];
}

const PickleValue& PickleValue::persistent_id(std::string_view what) const {
  if (kind_ != PickleKind::persistent) refuse(what, "a persistent reference");
  return *parts_->elements[0];
}

std::size_t PickleValue::children() const {
  return parts_ ? parts_->elements.size() + 2 * parts_->items.size() + 4 : 0;
}

const PickleValue* PickleValue::child(std::size_t index) const {
  if (index < parts_->elements.size()) return parts_->elements[index];
  index -= parts_->elements.size();
  if (index < 2 * parts_->items.size()) {
    const PickleItem& item = parts_->items[index / 2];
    return index % 2 ? item.value : item.key;
  }
  const PickleValue* const others[] = {parts_->callable, parts_->args, parts_->kwargs,
                                       parts_->state};
  return others[index - 2 * parts_->items.size()];
}

}  // namespace flowmap
