// Errors and checks. Nothing in lib/ calls exit: apps/main.cpp has the only catch.
#pragma once

#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace flowmap {

// A failure while doing what was asked. Exit code 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The user asked for something that cannot be: a flag, a key, a value. The message
// names it and says what would be accepted. Exit code 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

// The user stopped it (Ctrl-C). The message says what was kept. Exit code 130.
class Interrupted : public Error {
 public:
  using Error::Error;
};

// A file does not hold what its format promises. Exit code 1.
class DataError : public Error {
 public:
  // Message: "PATH: at byte OFFSET: expected EXPECTED, got GOT" (offset left out if none).
  DataError(std::string path, std::optional<std::uint64_t> offset, std::string expected,
            std::string got);

  const std::string& path() const { return path_; }
  std::optional<std::uint64_t> offset() const { return offset_; }
  const std::string& expected() const { return expected_; }
  const std::string& got() const { return got_; }

 private:
  std::string path_, expected_, got_;
  std::optional<std::uint64_t> offset_;
};

namespace detail {
template <class... Args>
std::string concat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return std::move(out).str();
}
[[noreturn]] void fail_check(const char* file, int line, const char* condition,
                             const std::string& message);
}  // namespace detail

}  // namespace flowmap

// FM_CHECK(condition, message parts...): throws Error when the condition is false. For
// what the program or its data may get wrong; the parts are streamed together.
#define FM_CHECK(condition, ...)                                              \
  do {                                                                        \
    if (!(condition)) [[unlikely]]                                            \
      ::flowmap::detail::fail_check(__FILE__, __LINE__, #condition,           \
                                    ::flowmap::detail::concat(__VA_ARGS__));  \
  } while (false)

// FM_CHECK_USAGE(condition, message parts...): throws UsageError (exit code 2).
#define FM_CHECK_USAGE(condition, ...)                                        \
  do {                                                                        \
    if (!(condition)) [[unlikely]]                                            \
      throw ::flowmap::UsageError(::flowmap::detail::concat(__VA_ARGS__));    \
  } while (false)
