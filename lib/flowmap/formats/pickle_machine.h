// The machine behind Pickle; private to pickle_*.cpp.
#pragma once

#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flowmap/base/file.h"
#include "flowmap/formats/pickle.h"
#include "flowmap/formats/pickle_text.h"

namespace flowmap {

struct Pickle::Impl {
  std::optional<MappedFile> file;
  PickleValue::Source source;
  std::deque<PickleValue> values;  // addresses stay; nothing is freed recursively
  std::deque<std::string> texts;   // that do not stand in the source as they are
  std::vector<const PickleValue*> persistents;
  const PickleValue* root = nullptr;
  std::size_t used = 0;
  bool cyclic = false;
};

// The stack machine of pickle: a stack, the marks in it, and the memo.
class PickleMachine {
 public:
  PickleMachine(std::span<const std::byte> bytes, const PickleOptions& options,
                Pickle::Impl& out)
      : data_(reinterpret_cast<const char*>(bytes.data())),
        size_(bytes.size()),
        options_(options),
        out_(out) {}

  void run();

 private:
  using Kind = PickleKind;

  [[noreturn]] void fail(std::string expected, std::string got) const {
    fail_at(opcode_at_, std::move(expected), std::move(got));
  }
  [[noreturn]] void fail_at(std::size_t at, std::string expected, std::string got) const {
    throw DataError(out_.source.path, out_.source.base_offset + at, std::move(expected),
                    std::move(got));
  }

  // Reading the source.
  std::string_view take(std::uint64_t count, std::string_view what) {
    if (count > size_ - at_)
      fail_at(at_, std::to_string(count) + " bytes of " + std::string(what),
              "the end of the pickle after " + std::to_string(size_ - at_));
    const std::string_view text(data_ + at_, count);
    at_ += count;
    return text;
  }
  std::uint64_t number(int width, std::string_view what) {
    const std::string_view text = take(static_cast<std::uint64_t>(width), what);
    std::uint64_t value = 0;
    for (int i = width - 1; i >= 0; --i)
      value = value << 8 | static_cast<unsigned char>(text[static_cast<std::size_t>(i)]);
    return value;
  }
  // A size of four signed bytes, as the older opcodes have it.
  std::uint64_t signed_size(std::string_view what) {
    const auto size = static_cast<std::int32_t>(number(4, "a size"));
    if (size < 0)
      fail("a size of " + std::string(what) + " that is not negative",
           std::to_string(size));
    return static_cast<std::uint64_t>(size);
  }
  std::string_view line(std::string_view what) {
    const void* end = at_ < size_ ? std::memchr(data_ + at_, '\n', size_ - at_) : nullptr;
    if (!end) fail_at(at_, "a line with " + std::string(what), "no end of line");
    const std::string_view text(
        data_ + at_,
        static_cast<std::size_t>(static_cast<const char*>(end) - data_) - at_);
    at_ += text.size() + 1;
    return text;
  }

  // Making values.
  void charge(std::size_t count) {
    charged_ += count;
    if (charged_ > options_.max_values)
      fail("at most " + std::to_string(options_.max_values) + " values in a pickle",
           "more");
  }
  PickleValue* make(Kind kind) {
    charge(1);
    PickleValue& value = out_.values.emplace_back();
    value.kind_ = kind;
    value.offset_ = opcode_at_;
    value.source_ = &out_.source;
    return &value;
  }
  PickleValue* make_text(Kind kind, std::string_view text) {
    PickleValue* value = make(kind);
    value->data_ = text.data();
    value->size_ = text.size();
    return value;
  }
  // Text of a source that may be bytes of Python 2: text where it is UTF-8.
  PickleValue* make_old_text(std::string_view text) {
    return make_text(is_utf8(text) ? Kind::text : Kind::bytes, text);
  }
  PickleValue* make_utf8(std::string_view text) {
    if (!is_utf8(text)) fail("text in UTF-8", "other bytes");
    return make_text(Kind::text, text);
  }
  // Keeps decoded text; all of it together may not be larger than the source.
  std::string_view keep(std::string text) {
    kept_ += text.size();
    if (kept_ > size_ * 2) fail("no more decoded text than the pickle has bytes", "more");
    return out_.texts.emplace_back(std::move(text));
  }
  PickleValue* make_integer(std::int64_t integer) {
    PickleValue* value = make(Kind::integer);
    value->integer_ = integer;
    return value;
  }
  PickleValue* make_boolean(bool boolean) {
    PickleValue* value = make(Kind::boolean);
    value->integer_ = boolean;
    return value;
  }
  PickleValue* make_real(double real) {
    PickleValue* value = make(Kind::real);
    value->real_ = real;
    return value;
  }
  PickleValue* make_long(std::string_view text);
  PickleValue* make_decimal(std::string_view text, bool is_long);
  static PickleValue::Parts& parts(PickleValue& value) {
    if (!value.parts_) value.parts_ = std::make_unique<PickleValue::Parts>();
    return *value.parts_;
  }
  PickleValue* make_sequence(Kind kind, std::size_t from) {
    PickleValue* value = make(kind);
    if (from < stack_.size())
      parts(*value).elements.assign(stack_.begin() + static_cast<std::ptrdiff_t>(from),
                                    stack_.end());
    stack_.resize(from);
    return value;
  }
  PickleValue* make_global(std::string_view module, std::string_view name);
  PickleValue* make_object(PickleValue* callable, PickleValue* args,
                           PickleValue* kwargs = nullptr);
  PickleValue* evaluate(PickleValue* object);

  // The stack.
  void push(PickleValue* value) { stack_.push_back(value); }
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  void need(std::size_t count) const {
    if (stack_.size() - floor() < count)
      fail(std::to_string(count) + " values on the stack",
           std::to_string(stack_.size() - floor()));
  }
  PickleValue* pop() {
    need(1);
    PickleValue* value = stack_.back();
    stack_.pop_back();
    return value;
  }
  PickleValue* top() const {
    need(1);
    return stack_.back();
  }
  // Where the values above the last mark begin; the mark goes.
  std::size_t pop_mark() {
    if (marks_.empty()) fail("a MARK on the stack", "none");
    const std::size_t from = marks_.back();
    marks_.pop_back();
    return from;
  }

  void append(PickleValue* to, std::size_t from, bool set);
  void set_items(PickleValue* to, std::size_t from);
  void build();
  void put(std::uint64_t index);
  PickleValue* get(std::uint64_t index) const;
  void step(unsigned char opcode);
  bool step_value(unsigned char opcode);
  bool step_memo(unsigned char opcode);
  void step_call(unsigned char opcode);
  void check_tree();
  void check_keys(const PickleValue& value) const;

  const char* data_;
  std::size_t size_, at_ = 0, opcode_at_ = 0;
  const PickleOptions& options_;
  Pickle::Impl& out_;
  std::vector<PickleValue*> stack_, memo_;
  std::vector<std::size_t> marks_;
  std::size_t memo_entries_ = 0, charged_ = 0, kept_ = 0;
};

}  // namespace flowmap
