// Python's pickle, protocols 0 to 5, read as data: the opcodes build a tree of values and
// nothing is ever imported or run. What a pickle would call (REDUCE, BUILD, NEWOBJ, ...)
// becomes a value that says so, and only names that the caller allows may stand there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flowmap/base/error.h"

namespace flowmap {

enum class PickleKind : std::uint8_t {
  none,
  boolean,
  integer,      // fits 64 bits
  big_integer,  // does not
  real,
  text,  // UTF-8; a Python 2 str that is UTF-8 is text as well
  bytes,
  list,
  tuple,
  dict,
  set,
  frozenset,
  global,      // a name: module and name
  object,      // what calling a global would have made
  persistent,  // a reference out of the pickle (torch: a storage)
};

// "a list", "text", ... for messages.
std::string_view pickle_kind_name(PickleKind kind);

class PickleValue;
struct PickleItem {
  const PickleValue* key;
  const PickleValue* value;
};

// One value; lives in its Pickle and is not changed after it was read. Values may be
// shared, and may contain themselves (Pickle::cyclic). Every as_... and at() throws
// DataError with path and offset; `what` says what the value is for ("label_dim").
class PickleValue {
 public:
  PickleKind kind() const { return kind_; }
  bool is(PickleKind kind) const { return kind_ == kind; }
  bool is_none() const { return kind_ == PickleKind::none; }
  // Byte in the file (with PickleOptions::base_offset) of the opcode that made it.
  std::uint64_t offset() const;
  const std::string& path() const;

  bool as_bool(std::string_view what) const;
  // Not of a bool.
  std::int64_t as_int(std::string_view what) const;
  // Of an integer as well.
  double as_double(std::string_view what) const;
  // Views into the source; valid while the Pickle and its bytes live.
  std::string_view as_text(std::string_view what) const;
  // Of bytes and of text (Python 2 wrote both alike).
  std::span<const std::byte> as_bytes(std::string_view what) const;
  // Two's complement, least significant first, or decimal digits in protocol 0.
  std::span<const std::byte> big_integer_bytes() const;

  // Of a list, tuple, set or frozenset; of an object what was appended to it, or the
  // argument of set(...), frozenset(...), list(...), tuple(...). Else empty.
  std::span<const PickleValue* const> elements() const;
  // Same for a list or a tuple only. Throws DataError for another kind.
  std::span<const PickleValue* const> as_sequence(std::string_view what) const;
  // Of a dict, in order; of an object the items set on it (OrderedDict, EasyDict). Each
  // text or integer key stands once. Else empty.
  std::span<const PickleItem> items() const;
  // A dict, or an object that has or may have items (OrderedDict, a class of its own).
  bool is_mapping() const;
  // By a text key; nullptr where there is none.
  const PickleValue* find(std::string_view key) const;
  // Throws DataError naming the key and the nearest one.
  const PickleValue& at(std::string_view key, std::string_view what) const;

  // A global's two names; empty for other kinds.
  std::string_view module() const;
  std::string_view name() const;
  bool is_global(std::string_view module, std::string_view name) const;
  // An object: the global that would have been called, its arguments (a tuple), keyword
  // arguments (or nullptr) and what BUILD gave it (or nullptr).
  bool is_object_of(std::string_view module, std::string_view name) const;
  const PickleValue* callable() const;
  const PickleValue* args() const;
  const PickleValue* kwargs() const;
  const PickleValue* state() const;
  // The argument; throws DataError where there are fewer.
  const PickleValue& arg(std::size_t index, std::string_view what) const;
  // Of a persistent reference: its id. Throws DataError for another kind.
  const PickleValue& persistent_id(std::string_view what) const;

  // "the integer 5", "an object of collections.OrderedDict", ...: for messages.
  std::string describe() const;
  // Throws DataError: expected `expected` (as `what`), got describe().
  [[noreturn]] void refuse(std::string_view what, std::string_view expected) const;

 private:
  friend class Pickle;
  friend class PickleMachine;
  struct Source {
    std::string path;
    std::uint64_t base_offset = 0;
  };
  struct Parts {
    std::vector<const PickleValue*> elements;
    std::vector<PickleItem> items;
    const PickleValue* callable = nullptr;
    const PickleValue* args = nullptr;
    const PickleValue* kwargs = nullptr;
    const PickleValue* state = nullptr;
  };

  const PickleValue* child(std::size_t index) const;
  std::size_t children() const;

  PickleKind kind_ = PickleKind::none;
  std::uint8_t visit_ = 0;   // of the check at the end: 0 new, 1 open, 2 done
  std::uint32_t depth_ = 0;  // longest way down
  union {
    std::int64_t integer_ = 0;
    double real_;
    std::size_t size_;
  };
  const char* data_ = nullptr;
  std::unique_ptr<Parts> parts_;
  std::uint64_t offset_ = 0;  // without base_offset
  const Source* source_ = nullptr;
};

struct PickleOptions {
  // Whether the global module.name may stand in the pickle; without one, none may.
  std::function<bool(std::string_view module, std::string_view name)> allow;
  // Added to the offsets in errors, for a pickle inside a file.
  std::uint64_t base_offset = 0;
  // Limits of what is built, whatever the size of the file.
  std::size_t max_values = std::size_t{1} << 22;
  std::size_t max_depth = 1000;
};

// A pickle that was read to its STOP. Movable; values keep their addresses.
class Pickle {
 public:
  // Of bytes that the caller keeps (text and bytes are views into them); `name` stands
  // for the path in errors. What follows the STOP is left alone. Throws DataError (path,
  // offset, expected, got): truncation, unknown opcodes, missing MARK or STOP, sizes past
  // the end, memo entries that are not there, text that is not UTF-8, a key twice in a
  // dict, deeper nesting or more values than the limits, and a global that is not
  // allowed, which it names.
  Pickle(std::span<const std::byte> bytes, std::string name, PickleOptions options);
  // Maps the file.
  Pickle(const std::filesystem::path& path, PickleOptions options);
  ~Pickle();
  Pickle(Pickle&&) noexcept;
  Pickle& operator=(Pickle&&) noexcept;

  const PickleValue& root() const;
  // Bytes up to and including STOP.
  std::size_t size() const;
  // Whether a value contains itself. Where not, a walk that recurses ends, and is at most
  // PickleOptions::max_depth deep.
  bool cyclic() const;
  // Every persistent reference, in the order of the file.
  std::span<const PickleValue* const> persistents() const;
  const std::string& path() const;

 private:
  struct Impl;
  friend class PickleMachine;
  std::unique_ptr<Impl> impl_;
};

// The names that files of weights need: containers, numbers, numpy arrays, torch's
// tensors and modules, EDM's persistent classes and EasyDict, argparse.Namespace.
bool allow_weights_global(std::string_view module, std::string_view name);

}  // namespace flowmap
