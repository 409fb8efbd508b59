// numpy's .npy and .npz. Reads versions 1, 2, 3, C and Fortran order, both byte orders,
// f2 f4 f8, i1..i8, u1, bool, and <U strings; object arrays (pickles) are refused.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "flowmap/base/dtype.h"

namespace flowmap {

// Result is row-major and little-endian whatever the file had. `name` stands for the
// path in errors. U strings come back as U8 bytes of UTF-8 with shape [length] (scalars
// only). u2..u8 are widened to I32/I64 where they fit and refused where they do not.
// Throws DataError; bytes behind the array are an error too.
HostTensor parse_npy(std::span<const std::byte> bytes, const std::string& name);
// Version 1.0, C order, header padded to 64 bytes as numpy writes it.
std::vector<std::byte> format_npy(const HostTensor& tensor);
// A 0-d <U array.
std::vector<std::byte> format_npy_text(const std::string& text);

HostTensor read_npy(const std::filesystem::path& path);
void write_npy(const std::filesystem::path& path, const HostTensor& tensor);

// Names come without ".npy"; entries that do not end so are passed over. Reading all of
// an npz: a map by name. Throws DataError naming FILE:ENTRY.
std::map<std::string, HostTensor> read_npz(const std::filesystem::path& path);
// Stored, version 1.0, in the order of the map; texts become 0-d <U arrays. Atomic.
void write_npz(const std::filesystem::path& path,
               const std::map<std::string, HostTensor>& arrays,
               const std::map<std::string, std::string>& texts = {});

}  // namespace flowmap
