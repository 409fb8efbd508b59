#include <charconv>
#include <cstring>

#include "flowmap/formats/pickle_machine.h"
#include "flowmap/base/text.h"

namespace flowmap {

// Opcodes that push a value of their own. Whether it was one.
bool PickleMachine::step_value(unsigned char opcode) {
  switch (opcode) {
    case 'N':
      push(make(Kind::none));
      return true;
    case 0x88:
      push(make_boolean(true));
      return true;
    case 0x89:
      push(make_boolean(false));
      return true;
    case 'I':
      push(make_decimal(line("an integer"), false));
      return true;
    case 'L':
      push(make_decimal(line("an integer"), true));
      return true;
    case 'J':
      push(make_integer(static_cast<std::int32_t>(number(4, "an integer"))));
      return true;
    case 'K':
      push(make_integer(static_cast<std::int64_t>(number(1, "an integer"))));
      return true;
    case 'M':
      push(make_integer(static_cast<std::int64_t>(number(2, "an integer"))));
      return true;
    case 0x8A:
      push(make_long(take(number(1, "a size"), "an integer")));
      return true;
    case 0x8B:
      push(make_long(take(signed_size("an integer"), "an integer")));
      return true;
    case 'F': {
      const std::string_view text = line("a float");
      double value = 0;
      const auto [end, error] =
          std::from_chars(text.data(), text.data() + text.size(), value);
      if (error != std::errc() || end != text.data() + text.size())
        fail("a float", pickle_quote(text));
      push(make_real(value));
      return true;
    }
    case 'G': {
      const std::string_view text = take(8, "a float");
      std::uint64_t bits = 0;  // the most significant byte comes first
      for (const char c : text) bits = bits << 8 | static_cast<unsigned char>(c);
      double value;
      std::memcpy(&value, &bits, sizeof value);
      push(make_real(value));
      return true;
    }
    case 'S': {
      const std::string_view text = line("a string");
      auto decoded = decode_string_literal(text);
      if (!decoded) fail("a string in quotes", pickle_quote(text));
      push(make_old_text(keep(*std::move(decoded))));
      return true;
    }
    case 'T':
      push(make_old_text(take(signed_size("a string"), "a string")));
      return true;
    case 'U':
      push(make_old_text(take(number(1, "a size"), "a string")));
      return true;
    case 'V': {
      auto decoded = decode_raw_unicode(line("text"));
      if (!decoded) fail("text with \\uXXXX escapes", "a broken escape");
      push(make_text(Kind::text, keep(*std::move(decoded))));
      return true;
    }
    case 'X':
      push(make_utf8(take(number(4, "a size"), "text")));
      return true;
    case 0x8C:
      push(make_utf8(take(number(1, "a size"), "text")));
      return true;
    case 0x8D:
      push(make_utf8(take(number(8, "a size"), "text")));
      return true;
    case 'B':
      push(make_text(Kind::bytes, take(number(4, "a size"), "bytes")));
      return true;
    case 'C':
      push(make_text(Kind::bytes, take(number(1, "a size"), "bytes")));
      return true;
    case 0x8E:
    case 0x96:
      push(make_text(Kind::bytes, take(number(8, "a size"), "bytes")));
      return true;
    case ')':
      push(make(Kind::tuple));
      return true;
    case ']':
      push(make(Kind::list));
      return true;
    case '}':
      push(make(Kind::dict));
      return true;
    case 0x8F:
      push(make(Kind::set));
      return true;
    default:
      return false;
  }
}

// The stack itself and the memo. Whether it was one of those.
bool PickleMachine::step_memo(unsigned char opcode) {
  const auto decimal = [this] {
    const PickleValue* index = make_decimal(line("a memo index"), true);
    if (index->kind_ != Kind::integer || index->integer_ < 0)
      fail("a memo index", index->describe());
    return static_cast<std::uint64_t>(index->integer_);
  };
  switch (opcode) {
    case '(':
      marks_.push_back(stack_.size());
      return true;
    case '0':
      if (stack_.size() > floor())
        stack_.pop_back();
      else
        pop_mark();
      return true;
    case '1':
      stack_.resize(pop_mark());
      return true;
    case '2':
      push(top());
      return true;
    case 'p':
      put(decimal());
      return true;
    case 'q':
      put(number(1, "a memo index"));
      return true;
    case 'r':
      put(number(4, "a memo index"));
      return true;
    case 0x94:
      put(memo_entries_);
      return true;
    case 'g':
      push(get(decimal()));
      return true;
    case 'h':
      push(get(number(1, "a memo index")));
      return true;
    case 'j':
      push(get(number(4, "a memo index")));
      return true;
    case 0x80:
      if (const auto protocol = number(1, "a protocol"); protocol > 5)
        fail("a pickle protocol from 0 to 5", std::to_string(protocol));
      return true;
    case 0x95:
      if (const auto size = number(8, "a frame's size"); size > size_ - at_)
        fail("a frame inside the pickle", std::to_string(size) + " bytes where " +
                                              std::to_string(size_ - at_) + " are left");
      return true;
    default:
      return false;
  }
}

void PickleMachine::step(unsigned char opcode) {
  if (step_value(opcode) || step_memo(opcode)) return;
  switch (opcode) {
    case 't':
      push(make_sequence(Kind::tuple, pop_mark()));
      return;
    case 'l':
      push(make_sequence(Kind::list, pop_mark()));
      return;
    case 0x91:
      push(make_sequence(Kind::frozenset, pop_mark()));
      return;
    case 0x85:
    case 0x86:
    case 0x87: {
      const std::size_t count = opcode - 0x84u;
      need(count);
      push(make_sequence(Kind::tuple, stack_.size() - count));
      return;
    }
    case 'd': {
      const std::size_t from = pop_mark();
      PickleValue* dict = make(Kind::dict);
      set_items(dict, from);
      push(dict);
      return;
    }
    case 'a':
      need(2);
      append(stack_[stack_.size() - 2], stack_.size() - 1, false);
      return;
    case 'e':
    case 0x90: {
      const std::size_t from = pop_mark();
      if (from <= floor()) fail("a list or a set under the MARK", "nothing");
      append(stack_[from - 1], from, opcode == 0x90);
      return;
    }
    case 's':
      need(3);
      set_items(stack_[stack_.size() - 3], stack_.size() - 2);
      return;
    case 'u': {
      const std::size_t from = pop_mark();
      if (from <= floor()) fail("a dict under the MARK", "nothing");
      set_items(stack_[from - 1], from);
      return;
    }
    default:
      step_call(opcode);
  }
}

// Names, calls and references: only values are made of them.
void PickleMachine::step_call(unsigned char opcode) {
  switch (opcode) {
    case 'c': {
      const std::string_view module = line("a module name");
      push(make_global(module, line("a global's name")));
      return;
    }
    case 0x93: {
      need(2);
      const PickleValue* name = pop();
      const PickleValue* module = pop();
      push(make_global(module->as_text("a module name"),
                       name->as_text("a global's name")));
      return;
    }
    case 'R':
    case 0x81: {
      need(2);
      PickleValue* args = pop();
      PickleValue* callable = pop();
      push(make_object(callable, args));
      return;
    }
    case 0x92: {
      need(3);
      PickleValue* kwargs = pop();
      PickleValue* args = pop();
      PickleValue* callable = pop();
      push(make_object(callable, args, kwargs));
      return;
    }
    case 'i': {
      const std::string_view module = line("a module name");
      PickleValue* callable = make_global(module, line("a global's name"));
      push(make_object(callable, make_sequence(Kind::tuple, pop_mark())));
      return;
    }
    case 'o': {
      const std::size_t from = pop_mark();
      if (from == stack_.size()) fail("a class above the MARK", "nothing");
      PickleValue* callable = stack_[from];
      PickleValue* args = make_sequence(Kind::tuple, from + 1);
      stack_.resize(from);
      push(make_object(callable, args));
      return;
    }
    case 'b':
      build();
      return;
    case 'P':
    case 'Q': {
      PickleValue* id = opcode == 'Q' ? pop() : make_utf8(line("a persistent id"));
      // Old streams of torch.save put the source of a class beside its name.
      if (const auto fields = id->elements();
          fields.size() == 4 && fields[0]->is(Kind::text) &&
          fields[0]->as_text("") == "module" && fields[1]->is(Kind::global)) {
        push(const_cast<PickleValue*>(fields[1]));
        return;
      }
      PickleValue* reference = make(Kind::persistent);
      parts(*reference).elements = {id};
      out_.persistents.push_back(reference);
      push(reference);
      return;
    }
    case 0x82:
    case 0x83:
    case 0x84:
      fail("no names from Python's extension registry", "an EXT opcode");
    case 0x97:
    case 0x98:
      fail("all data inside the pickle", "an out-of-band buffer");
    default:
      fail("a pickle opcode", format("byte 0x%02X", opcode));
  }
}

}  // namespace flowmap
