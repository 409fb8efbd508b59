// Text as pickles hold it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace flowmap {

// Text from a file in quotes, as much as an error line shows of it.
std::string pickle_quote(std::string_view text);

// Well-formed UTF-8: no overlong forms, no surrogates, at most U+10FFFF.
bool is_utf8(std::string_view text);

// Argument of STRING: a Python literal in quotes with escapes. nullopt where malformed.
std::optional<std::string> decode_string_literal(std::string_view line);

// Argument of UNICODE: Latin-1 with \uXXXX and \UXXXXXXXX. nullopt where malformed.
std::optional<std::string> decode_raw_unicode(std::string_view line);

// UTF-8 to Latin-1; nullopt for a character beyond U+00FF.
std::optional<std::string> latin1_from_utf8(std::string_view text);

}  // namespace flowmap
