// Where the reference numbers and the real data are, and how a test skips without them.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace flowmap::testing {

namespace detail {
inline std::filesystem::path folder(const char* variable, const char* fallback) {
  if (const char* given = std::getenv(variable)) return given;
  const char* source = std::getenv("FLOWMAP_SOURCE_DIR");
  return std::filesystem::path(source ? source : ".") / ".." / "shared" / fallback;
}
}  // namespace detail

// FLOWMAP_REFERENCE, by default ../shared/reference beside the source root.
inline std::filesystem::path reference_folder() {
  return detail::folder("FLOWMAP_REFERENCE", "reference");
}
// FLOWMAP_DATA, by default ../shared/data beside the source root.
inline std::filesystem::path data_folder() {
  return detail::folder("FLOWMAP_DATA", "data");
}
inline bool references_required() {
  const char* value = std::getenv("FLOWMAP_REQUIRE_REFERENCE");
  return value && std::string(value) == "1";
}
inline std::filesystem::path source_folder() {
  const char* source = std::getenv("FLOWMAP_SOURCE_DIR");
  return source ? source : ".";
}

}  // namespace flowmap::testing

// Skips the test (fails it where references are required) unless the file is there.
#define FM_NEED_FILE(path)                                                  \
  do {                                                                      \
    if (!std::filesystem::exists(path)) {                                   \
      if (::flowmap::testing::references_required())                        \
        FAIL() << "required reference is missing: " << (path);              \
      GTEST_SKIP() << "no reference file " << (path);                       \
    }                                                                       \
  } while (false)
