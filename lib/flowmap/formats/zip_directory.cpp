#include "flowmap/formats/zip_directory.h"

namespace flowmap {
namespace {

constexpr std::uint64_t kEndRecord = 22, kCentralHeader = 46, kLocalHeader = 30;
constexpr std::uint64_t kInZip64 = 0xFFFFFFFFu;

// Little-endian numbers with a range check: false once a read went past the end.
class ZipFields {
 public:
  ZipFields(std::span<const std::byte> bytes, std::uint64_t at) : bytes_(bytes), at_(at) {
    good_ = at <= bytes.size();
  }
  std::uint64_t number(std::uint64_t width) {
    std::uint64_t value = 0;
    const auto from = take(width);
    for (std::size_t i = from.size(); i-- > 0;)
      value = value << 8 | std::to_integer<std::uint64_t>(from[i]);
    return value;
  }
  std::span<const std::byte> take(std::uint64_t count) {
    if (!good_ || count > bytes_.size() - at_) {
      good_ = false;
      return {};
    }
    const auto from = bytes_.subspan(at_, count);
    at_ += count;
    return from;
  }
  bool good() const { return good_; }
  std::uint64_t at() const { return at_; }

 private:
  std::span<const std::byte> bytes_;
  std::uint64_t at_;
  bool good_;
};

struct ZipDirectoryPlace {
  std::uint64_t entries = 0, size = 0, start = 0;
};

std::optional<ZipDirectoryPlace> zip_place64(std::span<const std::byte> bytes,
                                             std::uint64_t end_record) {
  if (end_record < 20) return {};
  ZipFields locator(bytes, end_record - 20);
  if (locator.number(4) != 0x07064B50 || locator.number(4) != 0) return {};
  ZipFields end(bytes, locator.number(8));
  if (end.number(4) != 0x06064B50) return {};
  end.take(8 + 2 + 2 + 4 + 4);
  ZipDirectoryPlace place;
  place.entries = end.number(8);
  if (end.number(8) != place.entries) return {};
  place.size = end.number(8);
  place.start = end.number(8);
  if (!end.good()) return {};
  return place;
}

std::optional<ZipDirectoryPlace> zip_place(std::span<const std::byte> bytes) {
  // An archive comment may follow; its length must reach the end of the file.
  for (std::uint64_t comment = 0; comment <= 65535; ++comment) {
    if (bytes.size() < kEndRecord + comment) return {};
    const std::uint64_t at = bytes.size() - kEndRecord - comment;
    ZipFields end(bytes, at);
    if (end.number(4) != 0x06054B50) continue;
    if (end.number(2) != 0 || end.number(2) != 0) return {};
    ZipDirectoryPlace place;
    place.entries = end.number(2);
    if (end.number(2) != place.entries) return {};
    place.size = end.number(4);
    place.start = end.number(4);
    if (end.number(2) != comment) return {};
    if (place.entries == 0xFFFF || place.size == kInZip64 || place.start == kInZip64)
      return zip_place64(bytes, at);
    return place;
  }
  return {};
}

// Replaces what the header says is in the ZIP64 extra field.
bool zip_extend(ZipLocation& entry, std::span<const std::byte> extra) {
  ZipFields fields(extra, 0);
  while (fields.good() && fields.at() < extra.size()) {
    const auto id = fields.number(2);
    const auto content = fields.take(fields.number(2));
    if (!fields.good() || id != 0x0001) continue;
    ZipFields wide(content, 0);
    if (entry.size == kInZip64) entry.size = wide.number(8);
    if (entry.packed == kInZip64) entry.packed = wide.number(8);
    if (entry.header == kInZip64) entry.header = wide.number(8);
    return wide.good();
  }
  return fields.good();
}

std::string_view zip_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

std::optional<std::vector<ZipLocation>> zip_directory(std::span<const std::byte> bytes) {
  const auto place = zip_place(bytes);
  if (!place || place->start > bytes.size() ||
      place->size > bytes.size() - place->start ||
      place->entries > place->size / kCentralHeader)
    return {};
  std::vector<ZipLocation> entries;
  ZipFields fields(bytes.subspan(place->start, place->size), 0);
  for (std::uint64_t i = 0; i < place->entries; ++i) {
    ZipLocation entry;
    if (fields.number(4) != 0x02014B50) return {};
    fields.take(4);
    entry.flags = static_cast<std::uint16_t>(fields.number(2));
    entry.method = static_cast<std::uint16_t>(fields.number(2));
    fields.take(4 + 4);  // time, CRC
    entry.packed = fields.number(4);
    entry.size = fields.number(4);
    const auto name = fields.number(2), extra = fields.number(2),
               comment = fields.number(2);
    fields.take(2 + 2 + 4);
    entry.header = fields.number(4);
    entry.name = zip_text(fields.take(name));
    if (!zip_extend(entry, fields.take(extra))) return {};
    fields.take(comment);
    if (!fields.good()) return {};
    entries.push_back(entry);
  }
  return entries;
}

std::optional<std::span<const std::byte>> zip_stored_content(
    std::span<const std::byte> bytes, const ZipLocation& entry) {
  constexpr std::uint16_t kEncrypted = 1;
  if (entry.method != 0 || (entry.flags & kEncrypted) || entry.packed != entry.size)
    return {};
  ZipFields local(bytes, entry.header);
  if (local.number(4) != 0x04034B50) return {};
  local.take(kLocalHeader - 4 - 4);
  const auto name = local.number(2), extra = local.number(2);
  if (zip_text(local.take(name)) != entry.name) return {};
  local.take(extra);
  const auto content = local.take(entry.size);
  if (!local.good()) return {};
  return content;
}

}  // namespace flowmap
