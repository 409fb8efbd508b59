// Recursive-descent reader of JSON (RFC 8259) with // and /* */ comments and trailing
// commas. Own, because every key needs its line and a duplicate key is an error.
#include <algorithm>
#include <charconv>
#include <cstdint>

#include "flowmap/base/config_tree.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"

namespace flowmap {
namespace {

class ConfigParser {
 public:
  ConfigParser(std::string_view text, std::shared_ptr<const ConfigSource> source)
      : text_(text), source_(std::move(source)), lenient_(!source_->is_override) {}

  ConfigNode::Pointer parse_all() {
    if (text_.starts_with("\xEF\xBB\xBF")) at_ = 3;
    skip_blanks();
    ConfigNode::Pointer node = value(0);
    skip_blanks();
    if (at_ < text_.size()) fail("expected nothing more after the value, got " + here());
    return node;
  }

 private:
  [[noreturn]] void fail_at(int line, const std::string& what) const {
    const std::string place = lenient_ ? ":" + std::to_string(line) : "";
    throw UsageError(source_->name + place + ": " + what);
  }
  [[noreturn]] void fail(const std::string& what) const { fail_at(line_, what); }

  // What stands at the reading position, for messages.
  std::string here() const {
    if (at_ >= text_.size()) return "the end of the file";
    const auto byte = static_cast<unsigned char>(text_[at_]);
    if (byte == '\n') return "the end of the line";
    if (byte < 0x20 || byte == 0x7F) return format("byte 0x%02x", byte);
    std::size_t end = at_ + 1;
    while (end < text_.size() && (static_cast<unsigned char>(text_[end]) & 0xC0) == 0x80)
      ++end;
    return "'" + std::string(text_.substr(at_, end - at_)) + "'";
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void skip_blanks() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '\n') ++line_;
      if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
        ++at_;
      } else if (lenient_ && text_.substr(at_).starts_with("//")) {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if (lenient_ && text_.substr(at_).starts_with("/*")) {
        const std::size_t end = text_.find("*/", at_ + 2);
        if (end == std::string_view::npos) fail("the comment /* is never closed");
        for (; at_ < end + 2; ++at_)
          if (text_[at_] == '\n') ++line_;
      } else {
        return;
      }
    }
  }

  ConfigNode::Pointer value(int depth) {
    constexpr int kDeepest = 64;
    if (depth > kDeepest)
      fail("nested deeper than " + std::to_string(kDeepest) + " levels");
    auto node = std::make_unique<ConfigNode>();
    node->source = source_;
    node->line = lenient_ ? line_ : 0;
    const std::size_t begin = at_;
    const char c = peek();
    if (c == '{') {
      object(*node, depth);
    } else if (c == '[') {
      list(*node, depth);
    } else if (c == '"') {
      node->kind = ConfigKind::string;
      node->text = string();
    } else if (c == '-' || (c >= '0' && c <= '9')) {
      number(*node);
    } else if (word("true")) {
      node->kind = ConfigKind::boolean;
      node->boolean = true;
    } else if (word("false")) {
      node->kind = ConfigKind::boolean;
    } else if (!word("null")) {
      fail("expected a value, got " + here() +
           (c == '\'' ? "; strings stand in double quotes" : ""));
    }
    // A getter may want what was typed as a string (run.name=2024).
    if (node->kind == ConfigKind::boolean) node->text = text_.substr(begin, at_ - begin);
    return node;
  }

  bool word(std::string_view name) {
    if (!text_.substr(at_).starts_with(name)) return false;
    const char next = at_ + name.size() < text_.size() ? text_[at_ + name.size()] : ' ';
    if ((next >= 'a' && next <= 'z') || (next >= 'A' && next <= 'Z') || next == '_' ||
        (next >= '0' && next <= '9'))
      return false;
    at_ += name.size();
    return true;
  }

  void number(ConfigNode& node) {
    const std::size_t begin = at_;
    const auto digits = [&] {
      const std::size_t first = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      if (at_ == first) fail("a number lacks a digit before " + here());
    };
    take('-');
    if (take('0')) {
      if (peek() >= '0' && peek() <= '9') fail("a number starts with a needless 0");
    } else {
      digits();
    }
    if (take('.')) digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      digits();
    }
    node.kind = ConfigKind::number;
    node.text = text_.substr(begin, at_ - begin);
    const char* const end = node.text.data() + node.text.size();
    if (std::from_chars(node.text.data(), end, node.number).ec != std::errc())
      fail("the number " + node.text + " does not fit a double");
  }

  void list(ConfigNode& node, int depth) {
    node.kind = ConfigKind::list;
    const int first_line = line_;
    ++at_;
    skip_blanks();
    while (!take(']')) {
      if (at_ >= text_.size()) unclosed('[', first_line);
      node.items.push_back(value(depth + 1));
      separator(']', '[', first_line);
    }
  }

  void object(ConfigNode& node, int depth) {
    node.kind = ConfigKind::object;
    const int first_line = line_;
    ++at_;
    skip_blanks();
    while (!take('}')) {
      if (at_ >= text_.size()) unclosed('{', first_line);
      if (peek() != '"') fail("expected a key in double quotes or '}', got " + here());
      const int key_line = line_;
      std::string key = string();
      if (const ConfigNode* const twin = node.member(key))
        fail_at(
            key_line,
            "duplicate key '" + key + "'" +
                (lenient_ ? " (first on line " + std::to_string(twin->line) + ")" : ""));
      if (key.empty()) fail_at(key_line, "a key is empty");
      if (key.find('.') != std::string::npos)
        fail_at(key_line, "key '" + key + "' holds a dot; write nested objects instead");
      skip_blanks();
      if (!take(':')) fail("expected ':' after key '" + key + "', got " + here());
      skip_blanks();
      ConfigNode::Pointer child = value(depth + 1);
      if (lenient_) child->line = key_line;
      node.members.emplace_back(std::move(key), std::move(child));
      separator('}', '{', first_line);
    }
  }

  // A comma, or the closing bracket (left for the caller).
  void separator(char closing, char opening, int first_line) {
    skip_blanks();
    if (at_ >= text_.size()) unclosed(opening, first_line);
    if (take(',')) {
      skip_blanks();
      if (!lenient_ && peek() == closing) fail("expected a value after ','");
    } else if (peek() != closing) {
      fail(std::string("expected ',' or '") + closing + "', got " + here());
    }
  }

  [[noreturn]] void unclosed(char opening, int first_line) const {
    fail(std::string("the end comes before the '") + opening + "' " +
         (lenient_ ? "of line " + std::to_string(first_line) + " " : "") + "is closed");
  }

  std::string string() {
    ++at_;
    std::string out;
    for (;;) {
      if (at_ >= text_.size() || text_[at_] == '\n')
        fail("a string is not closed on its line");
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return out;
      }
      if (static_cast<unsigned char>(c) < 0x20)
        fail("a string holds " + here() + "; write it as an escape such as \\t");
      if (c == '\\') {
        ++at_;
        escape(out);
      } else {
        const std::size_t length = utf8_length();
        out.append(text_.substr(at_, length));
        at_ += length;
      }
    }
  }

  void escape(std::string& out) {
    const char c = peek();
    constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    if (const std::size_t known = kNames.find(c); c && known != std::string_view::npos) {
      out += kValues[known];
      ++at_;
      return;
    }
    if (!take('u')) fail("unknown escape \\ before " + here());
    std::uint32_t code = hex4();
    if (code >= 0xD800 && code < 0xDC00) {
      if (!take('\\') || !take('u')) fail("\\u escape: half of a surrogate pair");
      const std::uint32_t low = hex4();
      if (low < 0xDC00 || low > 0xDFFF) fail("\\u escape: half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
      fail("\\u escape: half of a surrogate pair");
    } else if (code == 0) {
      fail("\\u0000 cannot stand in a string here");
    }
    const auto put = [&](std::uint32_t byte) { out += static_cast<char>(byte); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xC0 | code >> 6);
      put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      put(0xE0 | code >> 12);
      put(0x80 | (code >> 6 & 0x3F));
      put(0x80 | (code & 0x3F));
    } else {
      put(0xF0 | code >> 18);
      put(0x80 | (code >> 12 & 0x3F));
      put(0x80 | (code >> 6 & 0x3F));
      put(0x80 | (code & 0x3F));
    }
  }

  std::uint32_t hex4() {
    std::uint32_t code = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const auto result =
        std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (digits.size() < 4 || result.ptr != digits.data() + 4)
      fail("\\u wants four hexadecimal digits");
    at_ += 4;
    return code;
  }

  // Length of the UTF-8 character here; overlong forms, surrogates and cut ones fail.
  std::size_t utf8_length() const {
    const auto byte = [&](std::size_t i) -> std::uint32_t {
      return at_ + i < text_.size() ? static_cast<unsigned char>(text_[at_ + i]) : 0u;
    };
    const auto more = [&](std::size_t count) {
      for (std::size_t i = 1; i <= count; ++i)
        if ((byte(i) & 0xC0) != 0x80) return false;
      return true;
    };
    const std::uint32_t first = byte(0), second = byte(1);
    if (first < 0x80) return 1;
    if (first >= 0xC2 && first < 0xE0 && more(1)) return 2;
    if (first >= 0xE0 && first < 0xF0 && more(2) && !(first == 0xE0 && second < 0xA0) &&
        !(first == 0xED && second >= 0xA0))
      return 3;
    if (first >= 0xF0 && first < 0xF5 && more(3) && !(first == 0xF0 && second < 0x90) &&
        !(first == 0xF4 && second >= 0x90))
      return 4;
    fail(format("byte 0x%02x of a string is no UTF-8", first));
  }

  std::string_view text_;
  std::shared_ptr<const ConfigSource> source_;
  bool lenient_;
  std::size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

ConfigNode::Pointer parse_config_json(std::string_view text,
                                      std::shared_ptr<const ConfigSource> source) {
  return ConfigParser(text, std::move(source)).parse_all();
}

}  // namespace flowmap
