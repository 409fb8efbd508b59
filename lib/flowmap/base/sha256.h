// SHA-256 (FIPS 180-4), to name files by their content.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace flowmap {

// 64 lower-case hexadecimal digits.
std::string sha256_hex(std::span<const std::byte> bytes);
// Of a whole file. Throws Error if it cannot be read.
std::string sha256_file(const std::filesystem::path& path);

}  // namespace flowmap
