#include "flowmap/base/text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <system_error>

#include "flowmap/base/error.h"

namespace flowmap {
namespace {

constexpr std::string_view kBlanks = " \t\r\n\f\v";
constexpr std::uint64_t kMaxListItems = std::uint64_t{1} << 26;

bool all_digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](char c) { return c >= '0' && c <= '9'; });
}

char lower_letter(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

// Digits only; the caller has looked at the characters.
std::int64_t digits_to_int(std::string_view digits, std::string_view what) {
  std::int64_t value = 0;
  const auto result =
      std::from_chars(digits.data(), digits.data() + digits.size(), value);
  FM_CHECK_USAGE(result.ec == std::errc(), what, ": '", digits,
                 "' is too large: at most 9223372036854775807");
  return value;
}

// Whole text as a float type; from_chars knows no leading '+'.
template <class Real>
std::errc read_real(std::string_view text, Real& value) {
  if (text.starts_with('+') && !text.substr(1).starts_with('-')) text.remove_prefix(1);
  if (text.empty()) return std::errc::invalid_argument;
  // A copy that ends in a zero: libstdc++ 12 looks for one in a long double.
  const std::string copy(text);
  const char* const end = copy.data() + copy.size();
  const auto result = std::from_chars(copy.data(), end, value);
  if (result.ec != std::errc()) return result.ec;
  return result.ptr == end ? std::errc() : std::errc::invalid_argument;
}

// Edit distance with insertion, deletion, substitution and transposition of neighbours
// (each 1; no substring is edited twice). Letter case costs nothing.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) above[j] = j;
  const auto same = [&](std::size_t i, std::size_t j) {
    return lower_letter(a[i - 1]) == lower_letter(b[j - 1]);
  };
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + !same(i, j)});
      if (i > 1 && j > 1 && same(i, j - 1) && same(i - 1, j))
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, above);
    std::swap(above, row);
  }
  return above[b.size()];
}

}  // namespace

std::vector<std::int64_t> parse_int_list(std::string_view text, std::string_view what) {
  constexpr std::string_view kForm = "expected whole numbers and ranges such as 1,2,5-10";
  FM_CHECK_USAGE(!trim(text).empty(), what, ": the list is empty; ", kForm);
  std::vector<std::int64_t> values;
  for (const std::string& part : split(text, ',')) {
    const std::string_view item = trim(part);
    const std::size_t dash = item.find('-');
    const std::string_view first = item.substr(0, dash);
    const std::string_view last =
        dash == std::string_view::npos ? first : item.substr(dash + 1);
    FM_CHECK_USAGE(all_digits(first) && all_digits(last), what, ": '", item,
                   "' is neither a number nor a range; ", kForm);
    const std::int64_t low = digits_to_int(first, what);
    const std::int64_t high = digits_to_int(last, what);
    FM_CHECK_USAGE(low <= high, what, ": the range '", item, "' runs backwards; write ",
                   high, "-", low);
    // At most 2^63 here and 2^26 before: no overflow in 64 bits without a sign.
    const std::uint64_t count = static_cast<std::uint64_t>(high - low) + 1;
    FM_CHECK_USAGE(values.size() + count <= kMaxListItems, what, ": ",
                   values.size() + count, " items; at most ", kMaxListItems,
                   " in one list");
    // At least doubling: a reserve for each of many ranges would copy them all each time.
    if (const std::size_t total = values.size() + count; total > values.capacity())
      values.reserve(std::max(total, 2 * values.capacity()));
    for (std::uint64_t i = 0; i < count; ++i)
      values.push_back(low + static_cast<std::int64_t>(i));
  }
  return values;
}

std::vector<double> parse_double_list(std::string_view text, std::string_view what) {
  FM_CHECK_USAGE(!trim(text).empty(), what,
                 ": the list is empty; expected numbers such as 0,0.5,1");
  std::vector<double> values;
  for (const std::string& part : split(text, ',')) {
    values.push_back(parse_double(part, what));
    FM_CHECK_USAGE(std::isfinite(values.back()), what, ": '", trim(part),
                   "' is not finite; expected finite numbers such as 0,0.5,1");
  }
  return values;
}

std::int64_t parse_count(std::string_view text, CountUnit bare, std::string_view what) {
  constexpr std::string_view kForm =
      "expected a number, alone or with Ki, Mi or Gi, such as 128Ki";
  std::string_view number = trim(text);
  long double scale = bare == CountUnit::images ? 1
                      : bare == CountUnit::kimg ? 1e3L
                                                : 1e6L;
  if (number.size() >= 2 && number.back() == 'i') {
    const char letter = number[number.size() - 2];
    if (letter == 'K' || letter == 'M' || letter == 'G') {
      scale = letter == 'K' ? 0x1p10L : letter == 'M' ? 0x1p20L : 0x1p30L;
      number = trim(number.substr(0, number.size() - 2));
    }
  }
  // long double: its 64-bit mantissa keeps every count up to 2^62 exact.
  long double value = 0;
  const std::errc error = read_real(number, value);
  FM_CHECK_USAGE(error != std::errc::invalid_argument && !std::isnan(value), what, ": '",
                 trim(text), "' is no count; ", kForm);
  FM_CHECK_USAGE(!number.starts_with('-') || value == 0, what, ": '", trim(text),
                 "' is negative; ", kForm);
  value *= scale;
  FM_CHECK_USAGE(error == std::errc() && value <= 0x1p62L, what, ": '", trim(text),
                 "' is too large or too small; at most 2^62 images can be counted");
  return static_cast<std::int64_t>(std::llround(value));
}

double parse_double(std::string_view text, std::string_view what) {
  const std::string_view number = trim(text);
  double value = 0;
  const std::errc error = read_real(number, value);
  FM_CHECK_USAGE(error != std::errc::result_out_of_range, what, ": '", number,
                 "' does not fit a double");
  FM_CHECK_USAGE(error == std::errc() && !std::isnan(value), what, ": '", number,
                 "' is no number; expected one such as 0.5 or 1e-3");
  return value;
}

std::int64_t parse_int(std::string_view text, std::string_view what) {
  const std::string_view number = trim(text);
  std::string_view digits = number;
  if (digits.starts_with('+') || digits.starts_with('-')) digits.remove_prefix(1);
  FM_CHECK_USAGE(all_digits(digits), what, ": '", number,
                 "' is no whole number; expected one such as 64");
  std::int64_t value = 0;
  const char* const begin = number.data() + number.starts_with('+');
  const auto result = std::from_chars(begin, number.data() + number.size(), value);
  FM_CHECK_USAGE(result.ec == std::errc(), what, ": '", number,
                 "' does not fit a 64-bit integer");
  return value;
}

bool parse_bool(std::string_view text, std::string_view what) {
  const std::string word = to_lower(trim(text));
  for (const char* yes : {"1", "true", "yes", "on"})
    if (word == yes) return true;
  for (const char* no : {"0", "false", "no", "off"})
    if (word == no) return false;
  throw UsageError(
      detail::concat(what, ": '", trim(text),
                     "' is neither true nor false; expected 1/0, true/false, "
                     "yes/no or on/off"));
}

std::string nearest_name(std::string_view name, std::span<const std::string> candidates) {
  const std::size_t limit = std::max<std::size_t>(2, name.size() / 3);
  const std::string* best = nullptr;
  std::size_t best_distance = limit + 1;
  for (const std::string& candidate : candidates) {
    const std::size_t distance = edit_distance(name, candidate);
    // A name of which nothing is left is not near ("lr" and "xy").
    if (distance < best_distance && distance < std::max(name.size(), candidate.size())) {
      best = &candidate;
      best_distance = distance;
    }
  }
  return best ? *best : std::string();
}

std::string suggestion(std::string_view name, std::span<const std::string> candidates) {
  if (candidates.empty()) return "";
  const std::string near = nearest_name(name, candidates);
  if (!near.empty()) return "; did you mean '" + near + "'?";
  return "; known: " + join(candidates, ", ");
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (;;) {
    const std::size_t end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::string join(std::span<const std::string> parts, std::string_view separator) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) text += separator;
    text += parts[i];
  }
  return text;
}

std::string_view trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

std::string to_lower(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), lower_letter);
  return lower;
}

bool ends_with_ignoring_case(std::string_view text, std::string_view ending) {
  return text.size() >= ending.size() &&
         to_lower(text.substr(text.size() - ending.size())) == to_lower(ending);
}

std::string format(const char* pattern, ...) {
  std::va_list arguments, again;
  va_start(arguments, pattern);
  va_copy(again, arguments);
  const int length = std::vsnprintf(nullptr, 0, pattern, arguments);
  va_end(arguments);
  std::string text(static_cast<std::size_t>(std::max(length, 0)), '\0');
  if (length > 0) std::vsnprintf(text.data(), text.size() + 1, pattern, again);
  va_end(again);
  return text;
}

std::string format_duration(double seconds) {
  // An estimate of the time left may be infinite or not a number yet.
  if (!std::isfinite(seconds) || seconds > 1e15) return "unknown";
  const long long s = std::max(0LL, std::llrint(seconds));
  const long long minute = 60, hour = 60 * minute, day = 24 * hour;
  if (s < minute) return format("%llds", s);
  if (s < hour) return format("%lldm %02llds", s / minute, s % minute);
  if (s < day)
    return format("%lldh %02lldm %02llds", s / hour, s / minute % 60, s % minute);
  return format("%lldd %02lldh %02lldm", s / day, s / hour % 24, s / minute % 60);
}

}  // namespace flowmap
