#include "flowmap/base/error.h"

#include <utility>

namespace flowmap {
namespace {
std::string data_message(const std::string& path, std::optional<std::uint64_t> offset,
                         const std::string& expected, const std::string& got) {
  std::string message = path + ": ";
  if (offset) message += "at byte " + std::to_string(*offset) + ": ";
  return message + "expected " + expected + ", got " + got;
}
}  // namespace

DataError::DataError(std::string path, std::optional<std::uint64_t> offset,
                     std::string expected, std::string got)
    : Error(data_message(path, offset, expected, got)),
      path_(std::move(path)),
      expected_(std::move(expected)),
      got_(std::move(got)),
      offset_(offset) {}

namespace detail {
void fail_check(const char* file, int line, const char* condition,
                const std::string& message) {
  // The source position helps a developer; a user reads the message in front of it.
  std::string_view name(file);
  if (const auto slash = name.rfind('/'); slash != std::string_view::npos)
    name.remove_prefix(slash + 1);
  throw Error(concat(message.empty() ? condition : message.c_str(), " [", name, ":", line,
                     "]"));
}
}  // namespace detail
}  // namespace flowmap
