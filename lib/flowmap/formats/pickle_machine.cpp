#include "flowmap/formats/pickle_machine.h"

#include <algorithm>
#include <charconv>
#include <unordered_set>

namespace flowmap {

PickleValue* PickleMachine::make_long(std::string_view text) {
  // Bytes that only repeat the sign say nothing.
  std::string_view significant = text;
  while (significant.size() > 8) {
    const auto last = static_cast<unsigned char>(significant.back());
    const bool below = significant[significant.size() - 2] & 0x80;
    if (last != (below ? 0xFF : 0x00)) break;
    significant.remove_suffix(1);
  }
  if (significant.size() > 8) return make_text(Kind::big_integer, text);
  std::uint64_t value = 0;
  if (!significant.empty() && (significant.back() & 0x80)) value = ~std::uint64_t{0};
  for (std::size_t i = significant.size(); i-- > 0;)
    value = value << 8 | static_cast<unsigned char>(significant[i]);
  return make_integer(static_cast<std::int64_t>(value));
}

PickleValue* PickleMachine::make_decimal(std::string_view text, bool is_long) {
  if (is_long && text.ends_with('L')) text.remove_suffix(1);
  if (!is_long && (text == "00" || text == "01")) return make_boolean(text == "01");
  std::int64_t value = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value);
  if (end != text.data() + text.size() ||
      (error != std::errc() && error != std::errc::result_out_of_range))
    fail("a decimal integer", pickle_quote(text));
  if (error == std::errc::result_out_of_range) return make_text(Kind::big_integer, text);
  return make_integer(value);
}

PickleValue* PickleMachine::make_global(std::string_view module, std::string_view name) {
  if (!is_utf8(module) || !is_utf8(name) || !options_.allow ||
      !options_.allow(module, name))
    fail(
        "only names that a file of weights needs (nothing in a pickle is ever run; "
        "load the file in Python, if you trust it, and save its tensors alone: "
        "torch.save(model.state_dict(), FILE))",
        "the global " + pickle_quote(std::string(module.substr(0, 100)) + "." +
                                     std::string(name.substr(0, 100))));
  PickleValue* module_text = make_text(Kind::text, module);
  PickleValue* name_text = make_text(Kind::text, name);
  PickleValue* global = make(Kind::global);
  parts(*global).elements = {module_text, name_text};
  return global;
}

PickleValue* PickleMachine::make_object(PickleValue* callable, PickleValue* args,
                                        PickleValue* kwargs) {
  if (callable->kind_ != Kind::global)
    fail("a global to be called", callable->describe());
  if (args->kind_ != Kind::tuple) fail("a tuple of arguments", args->describe());
  if (kwargs && kwargs->kind_ != Kind::dict)
    fail("a dict of keyword arguments", kwargs->describe());
  PickleValue* object = make(Kind::object);
  PickleValue::Parts& made = parts(*object);
  made.callable = callable;
  made.args = args;
  made.kwargs = kwargs;
  return evaluate(object);
}

// Two calls are plain values: bytes as protocol 2 writes them, and an OrderedDict made of
// a list of pairs.
PickleValue* PickleMachine::evaluate(PickleValue* object) {
  const auto args = object->parts_->args->elements();
  if (object->is_object_of("_codecs", "encode")) {
    if (args.size() != 2 || args[0]->kind_ != Kind::text ||
        args[1]->kind_ != Kind::text ||
        (args[1]->as_text("encoding") != "latin1" &&
         args[1]->as_text("encoding") != "latin-1"))
      fail("_codecs.encode(text, 'latin1')", "other arguments");
    // Before the copy is made: the text may be shared and large.
    if (args[0]->size_ > 2 * size_ - kept_)
      fail("no more decoded text than the pickle has bytes", "more");
    auto bytes = latin1_from_utf8({args[0]->data_, args[0]->size_});
    if (!bytes) fail("text of characters up to U+00FF", "others");
    return make_text(Kind::bytes, keep(*std::move(bytes)));
  }
  if (object->is_object_of("collections", "OrderedDict") && args.size() == 1) {
    const auto pairs = args[0]->elements();
    charge(pairs.size());
    for (const PickleValue* pair : pairs) {
      const auto two = pair->elements();
      if (two.size() != 2) fail("an OrderedDict of pairs", pair->describe());
      parts(*object).items.push_back({two[0], two[1]});
    }
  }
  return object;
}

void PickleMachine::append(PickleValue* to, std::size_t from, bool set) {
  const bool fits =
      to->kind_ == Kind::object || to->kind_ == (set ? Kind::set : Kind::list);
  if (!fits) fail(set ? "a set to add to" : "a list to append to", to->describe());
  if (from < stack_.size()) {
    auto& elements = parts(*to).elements;
    elements.insert(elements.end(), stack_.begin() + static_cast<std::ptrdiff_t>(from),
                    stack_.end());
  }
  stack_.resize(from);
}

void PickleMachine::set_items(PickleValue* to, std::size_t from) {
  if (to->kind_ != Kind::dict && to->kind_ != Kind::object)
    fail("a dict to set items of", to->describe());
  if ((stack_.size() - from) % 2 != 0) fail("keys and values in pairs", "a key alone");
  for (std::size_t i = from; i < stack_.size(); i += 2)
    parts(*to).items.push_back({stack_[i], stack_[i + 1]});
  stack_.resize(from);
}

void PickleMachine::build() {
  PickleValue* state = pop();
  PickleValue* object = top();
  if (object->kind_ != Kind::object) fail("an object to build", object->describe());
  if (object->parts_->state) fail("one BUILD an object", "two");
  object->parts_->state = state;
}

void PickleMachine::put(std::uint64_t index) {
  PickleValue* value = top();
  // A pickle numbers its entries one by one, so no index reaches its size.
  if (index > size_)
    fail("a memo index up to " + std::to_string(size_), std::to_string(index));
  if (index >= memo_.size()) memo_.resize(index + 1);
  if (!memo_[index]) ++memo_entries_;
  memo_[index] = value;
}

PickleValue* PickleMachine::get(std::uint64_t index) const {
  if (index >= memo_.size() || !memo_[index])
    fail("a memo entry " + std::to_string(index), "none");
  return memo_[index];
}

void PickleMachine::run() {
  while (true) {
    opcode_at_ = at_;
    if (at_ == size_) fail("STOP at the end of the pickle", "the end of the data");
    const auto opcode = static_cast<unsigned char>(data_[at_++]);
    if (opcode == '.') break;
    step(opcode);
  }
  if (stack_.size() != 1 || !marks_.empty())
    fail("one value at STOP", std::to_string(stack_.size()) + " and " +
                                  std::to_string(marks_.size()) + " marks");
  out_.root = stack_.back();
  out_.used = at_;
  check_tree();
}

void PickleMachine::check_keys(const PickleValue& value) const {
  if (!value.parts_ || value.parts_->items.size() < 2) return;
  std::unordered_set<std::string_view> texts;
  std::unordered_set<std::int64_t> integers;
  for (const PickleItem& item : value.parts_->items) {
    const bool fresh = item.key->kind_ == Kind::text
                           ? texts.emplace(item.key->data_, item.key->size_).second
                       : item.key->kind_ == Kind::integer
                           ? integers.insert(item.key->integer_).second
                           : true;
    if (!fresh)
      fail_at(value.offset_, "every key of a dict once", item.key->describe() + " twice");
  }
}

// Walks what the root reaches: depth, cycles, keys. Without recursion.
void PickleMachine::check_tree() {
  struct Frame {
    PickleValue* value;
    std::size_t next;
  };
  // The machine made every value, so that casting const away is fine.
  std::vector<Frame> open;
  const auto enter = [&](const PickleValue* value) {
    auto* mutable_value = const_cast<PickleValue*>(value);
    mutable_value->visit_ = 1;
    mutable_value->depth_ = 1;
    check_keys(*value);
    open.push_back({mutable_value, 0});
  };
  enter(out_.root);
  while (!open.empty()) {
    Frame& frame = open.back();
    PickleValue* value = frame.value;
    if (frame.next < value->children()) {
      const PickleValue* child = value->child(frame.next++);
      if (!child) continue;
      if (child->visit_ == 0)
        enter(child);
      else if (child->visit_ == 1)
        out_.cyclic = true;
      else
        value->depth_ = std::max(value->depth_, child->depth_ + 1);
      continue;
    }
    if (value->depth_ > options_.max_depth)
      fail_at(value->offset_,
              "at most " + std::to_string(options_.max_depth) + " levels of nesting",
              "more");
    value->visit_ = 2;
    open.pop_back();
    if (!open.empty())
      open.back().value->depth_ = std::max(open.back().value->depth_, value->depth_ + 1);
  }
}

Pickle::Pickle(std::span<const std::byte> bytes, std::string name, PickleOptions options)
    : impl_(std::make_unique<Impl>()) {
  impl_->source = {std::move(name), options.base_offset};
  PickleMachine(bytes, options, *impl_).run();
}

Pickle::Pickle(const std::filesystem::path& path, PickleOptions options)
    : impl_(std::make_unique<Impl>()) {
  impl_->file.emplace(path);
  impl_->source = {path.string(), options.base_offset};
  PickleMachine(impl_->file->bytes(), options, *impl_).run();
}

Pickle::~Pickle() = default;
Pickle::Pickle(Pickle&&) noexcept = default;
Pickle& Pickle::operator=(Pickle&&) noexcept = default;

const PickleValue& Pickle::root() const { return *impl_->root; }
std::size_t Pickle::size() const { return impl_->used; }
bool Pickle::cyclic() const { return impl_->cyclic; }
std::span<const PickleValue* const> Pickle::persistents() const {
  return impl_->persistents;
}
const std::string& Pickle::path() const { return impl_->source.path; }

}  // namespace flowmap
