// Small text conversions that several verbs share.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace flowmap {

// EDM's seed lists: "1,2,5-10" -> {1,2,5,...,10}; order kept, duplicates kept.
// `what` names the flag in errors ("--seeds"). Throws UsageError on empty input, on
// "5-1" (says the range runs backwards), on signs, letters, and on more than 2^26 items.
std::vector<std::int64_t> parse_int_list(std::string_view text, std::string_view what);

// Comma-separated numbers: "0,0.5,1". Throws UsageError; non-finite values are refused.
std::vector<double> parse_double_list(std::string_view text, std::string_view what);

// What a bare number counts: images, thousands (EDM's --tick), or millions (--duration).
enum class CountUnit { images, kimg, mimg };
// "128Ki" "200Mi" "1Gi" are images by powers of 1024 (EDM2); a bare number ("200", "0.5",
// "10e-1") is scaled by the unit. Result in images, rounded to nearest.
// Throws UsageError if negative, malformed, or beyond 2^62.
std::int64_t parse_count(std::string_view text, CountUnit bare, std::string_view what);

// One number, whole text consumed (blanks around it are allowed). Throws UsageError
// naming `what`. "inf" and "-inf" are numbers here, "nan" is not.
double parse_double(std::string_view text, std::string_view what);
std::int64_t parse_int(std::string_view text, std::string_view what);
// 1/0, true/false, yes/no, on/off in any case.
bool parse_bool(std::string_view text, std::string_view what);

// The candidate with the least edit distance (Damerau-Levenshtein, letter case is free;
// the first of equals), or "" if none is within max(2, a third of the name's length).
std::string nearest_name(std::string_view name, std::span<const std::string> candidates);
// "; did you mean 'X'?" or "; known: a, b, c" when nothing is near; "" without
// candidates.
std::string suggestion(std::string_view name, std::span<const std::string> candidates);

// n separators make n + 1 parts; "" makes one empty part.
std::vector<std::string> split(std::string_view text, char separator);
std::string join(std::span<const std::string> parts, std::string_view separator);
std::string_view trim(std::string_view text);
std::string to_lower(std::string_view text);
bool ends_with_ignoring_case(std::string_view text, std::string_view ending);
// printf into a string.
[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...);
// EDM's duration text: "45s", "12m 05s", "3h 02m 11s", "1d 03h 04m"; negative counts as
// zero, and what is not finite is "unknown".
std::string format_duration(double seconds);

}  // namespace flowmap
