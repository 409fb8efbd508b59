#include "flowmap/formats/pickle_text.h"

#include <cstdint>

namespace flowmap {
namespace {

int pickle_hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// `digits` hex digits from `at`; nullopt where they are not there.
std::optional<std::uint32_t> pickle_hex(std::string_view text, std::size_t at,
                                        std::size_t digits) {
  if (text.size() < digits || at > text.size() - digits) return {};
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < digits; ++i) {
    const int digit = pickle_hex_digit(text[at + i]);
    if (digit < 0) return {};
    value = value << 4 | static_cast<std::uint32_t>(digit);
  }
  return value;
}

void put_utf8(std::string& to, std::uint32_t code) {
  if (code < 0x80) {
    to += static_cast<char>(code);
  } else if (code < 0x800) {
    to += static_cast<char>(0xC0 | code >> 6);
    to += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    to += static_cast<char>(0xE0 | code >> 12);
    to += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    to += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    to += static_cast<char>(0xF0 | code >> 18);
    to += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    to += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    to += static_cast<char>(0x80 | (code & 0x3F));
  }
}

}  // namespace

std::string pickle_quote(std::string_view text) {
  constexpr std::size_t kMost = 100;
  std::string out = "'";
  for (const char c : text.substr(0, kMost))
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  if (text.size() > kMost) {  // not cut in the middle of a UTF-8 sequence
    while (out.size() > 1 && (out.back() & 0xC0) == 0x80) out.pop_back();
    if (out.size() > 1 && (out.back() & 0x80)) out.pop_back();
    out += "...";
  }
  return out + "'";
}

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i++]);
    if (lead < 0x80) continue;
    int more;
    std::uint32_t code, least;
    if (lead >= 0xC2 && lead < 0xE0) {
      more = 1, code = lead & 0x1Fu, least = 0x80;
    } else if (lead >= 0xE0 && lead < 0xF0) {
      more = 2, code = lead & 0x0Fu, least = 0x800;
    } else if (lead >= 0xF0 && lead < 0xF5) {
      more = 3, code = lead & 0x07u, least = 0x10000;
    } else {
      return false;
    }
    for (; more > 0; --more) {
      if (i == text.size()) return false;
      const auto next = static_cast<unsigned char>(text[i++]);
      if ((next & 0xC0) != 0x80) return false;
      code = code << 6 | (next & 0x3Fu);
    }
    if (code < least || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
      return false;
  }
  return true;
}

std::optional<std::string> decode_string_literal(std::string_view line) {
  if (line.size() < 2 || line.front() != line.back() ||
      (line.front() != '\'' && line.front() != '"'))
    return {};
  line = line.substr(1, line.size() - 2);
  std::string out;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] != '\\') {
      out += line[i];
      continue;
    }
    if (++i == line.size()) return {};
    constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
    if (const auto found = kFrom.find(line[i]); found != std::string_view::npos) {
      out += kTo[found];
    } else if (line[i] == 'x') {
      const auto code = pickle_hex(line, i + 1, 2);
      if (!code) return {};
      out += static_cast<char>(*code);
      i += 2;
    } else if (line[i] >= '0' && line[i] <= '7') {
      unsigned code = 0;
      std::size_t digits = 0;
      for (; digits < 3 && i + digits < line.size() && line[i + digits] >= '0' &&
             line[i + digits] <= '7';
           ++digits)
        code = code * 8 + static_cast<unsigned>(line[i + digits] - '0');
      out += static_cast<char>(code & 0xFF);
      i += digits - 1;
    } else {
      return {};
    }
  }
  return out;
}

std::optional<std::string> decode_raw_unicode(std::string_view line) {
  std::string out;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const bool escape = line[i] == '\\' && i + 1 < line.size() &&
                        (line[i + 1] == 'u' || line[i + 1] == 'U');
    if (!escape) {
      put_utf8(out, static_cast<unsigned char>(line[i]));
      continue;
    }
    const std::size_t digits = line[i + 1] == 'u' ? 4 : 8;
    const auto code = pickle_hex(line, i + 2, digits);
    if (!code || *code > 0x10FFFF || (*code >= 0xD800 && *code < 0xE000)) return {};
    put_utf8(out, *code);
    i += 1 + digits;
  }
  return out;
}

std::optional<std::string> latin1_from_utf8(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x80) {
      out += text[i];
    } else if ((lead == 0xC2 || lead == 0xC3) && i + 1 < text.size()) {
      out += static_cast<char>((lead & 0x03) << 6 | (text[++i] & 0x3F));
    } else {
      return {};
    }
  }
  return out;
}

}  // namespace flowmap
