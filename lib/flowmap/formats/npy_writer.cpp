#include <cstring>
#include <string_view>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/formats/npy.h"
#include "flowmap/formats/zip.h"

namespace flowmap {
namespace {

std::string_view npy_descr(DType dtype) {
  switch (dtype) {
    case DType::F64: return "<f8";
    case DType::F32: return "<f4";
    case DType::F16: return "<f2";
    case DType::I64: return "<i8";
    case DType::I32: return "<i4";
    case DType::I16: return "<i2";
    case DType::I8: return "|i1";
    case DType::U8: return "|u1";
    case DType::BOOL: return "|b1";
    case DType::BF16: break;
  }
  throw Error("numpy has no BF16; convert the tensor to F32 before writing .npy");
}

std::vector<std::byte> npy_bytes(std::string_view descr,
                                 std::span<const std::int64_t> shape,
                                 std::span<const std::byte> data) {
  std::string header = "{'descr': '";
  header += descr;
  header += "', 'fortran_order': False, 'shape': (";
  for (std::size_t i = 0; i < shape.size(); ++i)
    header += (i ? ", " : "") + std::to_string(shape[i]);
  header += shape.size() == 1 ? ",), }" : "), }";
  // numpy leaves room for the first dimension to grow to 21 digits, then pads so that the
  // data begin at a multiple of 64, by 1 to 64 spaces.
  if (!shape.empty()) header.append(21 - std::to_string(shape[0]).size(), ' ');
  const std::size_t before = 10;  // signature, version, length;
  header.append(64 - (before + header.size() + 1) % 64, ' ');
  header += '\n';
  FM_CHECK(header.size() <= 0xFFFF, "npy: a header of ", header.size(),
           " bytes is over version 1.0's 65535");
  std::string prefix("\x93NUMPY");
  prefix += '\x01';
  prefix += '\0';
  prefix += static_cast<char>(header.size() & 0xFF);
  prefix += static_cast<char>(header.size() >> 8);
  prefix += header;
  std::vector<std::byte> out(prefix.size() + data.size());
  std::memcpy(out.data(), prefix.data(), prefix.size());
  if (!data.empty()) std::memcpy(out.data() + prefix.size(), data.data(), data.size());
  return out;
}

}  // namespace

std::vector<std::byte> format_npy(const HostTensor& tensor) {
  const auto needed = checked_byte_size(tensor.shape, tensor.dtype, "npy");
  FM_CHECK(static_cast<std::uint64_t>(needed) == tensor.bytes.size(), "npy: shape ",
           shape_text(tensor.shape), " needs ", needed, " bytes, got ",
           tensor.bytes.size());
  return npy_bytes(npy_descr(tensor.dtype), tensor.shape, tensor.bytes);
}

std::vector<std::byte> format_npy_text(const std::string& text) {
  std::vector<std::uint32_t> points;
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const int length = lead < 0x80   ? 1
                       : lead < 0xC2 ? 0
                       : lead < 0xE0 ? 2
                       : lead < 0xF0 ? 3
                       : lead < 0xF5 ? 4
                                     : 0;
    FM_CHECK(length && i + length <= text.size(), "npy: a text must be UTF-8; byte ", i,
             " is not");
    std::uint32_t point = length == 1 ? lead : lead & (0x7F >> length);
    for (int k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      FM_CHECK((next & 0xC0) == 0x80, "npy: a text must be UTF-8; byte ", i + k,
               " is not");
      point = point << 6 | (next & 0x3F);
    }
    const bool overlong =
        (length == 3 && point < 0x800) || (length == 4 && point < 0x10000);
    FM_CHECK(!overlong && point <= 0x10FFFF && (point < 0xD800 || point >= 0xE000),
             "npy: a text must be UTF-8; byte ", i, " is not");
    points.push_back(point);
    i += static_cast<std::size_t>(length);
  }
  // numpy writes the empty text as <U1 with one zero.
  if (points.empty()) points.push_back(0);
  return npy_bytes("<U" + std::to_string(points.size()), {},
                   std::as_bytes(std::span(points)));
}

void write_npy(const std::filesystem::path& path, const HostTensor& tensor) {
  write_file_atomic(path, std::span<const std::byte>(format_npy(tensor)));
}

void write_npz(const std::filesystem::path& path,
               const std::map<std::string, HostTensor>& arrays,
               const std::map<std::string, std::string>& texts) {
  ZipWriter archive(path);
  for (const auto& [name, tensor] : arrays)
    archive.add(name + ".npy", format_npy(tensor));
  for (const auto& [name, text] : texts)
    archive.add(name + ".npy", format_npy_text(text));
  archive.commit();
}

}  // namespace flowmap
