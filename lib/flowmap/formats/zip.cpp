#include "flowmap/formats/zip.h"

#include <zip.h>
#include <zlib.h>

#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/formats/zip_directory.h"

namespace flowmap {
namespace {

// Deflate never packs better than 1032 to 1 (258 bytes from two bits), so a larger claim
// is a lie and is refused before memory is taken for it.
constexpr std::uint64_t kDeflateRatio = 1032, kDeflateSlack = 64;
// Central directory record without name, extra field and comment.
constexpr std::uint64_t kCentralRecordBytes = 46;

std::uint64_t zip_number(std::span<const std::byte> bytes, std::size_t at, int width) {
  std::uint64_t value = 0;
  for (int i = width - 1; i >= 0; --i)
    value = value << 8 | std::to_integer<std::uint64_t>(bytes[at + i]);
  return value;
}

// libzip reserves memory for as many entries as the end record claims. Every end record
// that it could pick (ordinary and ZIP64) must therefore claim no more than can be there.
void check_entry_counts(std::span<const std::byte> bytes, const std::string& path) {
  constexpr std::size_t kTail = 22 + 65535 + 20 + 56;
  const std::size_t from = bytes.size() > kTail ? bytes.size() - kTail : 0;
  const auto refuse = [&](std::size_t at, std::uint64_t count) {
    throw DataError(path, at,
                    "at most " + std::to_string(bytes.size() / kCentralRecordBytes) +
                        " entries in " + std::to_string(bytes.size()) + " bytes",
                    "a count of " + std::to_string(count));
  };
  const auto check_zip64 = [&](std::uint64_t at) {
    if (bytes.size() < 56 || at > bytes.size() - 56) return;
    if (zip_number(bytes, at, 4) != 0x06064B50) return;
    for (const int field : {24, 32})
      if (const auto count = zip_number(bytes, at + field, 8);
          count > bytes.size() / kCentralRecordBytes)
        refuse(at + field, count);
  };
  for (std::size_t at = from; at + 20 <= bytes.size(); ++at) {
    if (bytes[at] != std::byte{'P'} || bytes[at + 1] != std::byte{'K'}) continue;
    const auto signature = zip_number(bytes, at, 4);
    if (signature == 0x06064B50) check_zip64(at);
    if (signature == 0x07064B50) check_zip64(zip_number(bytes, at + 8, 8));
  }
}

std::string zip_quote(std::string_view name) {
  if (name.size() > 200) return "'" + std::string(name.substr(0, 200)) + "...'";
  return "'" + std::string(name) + "'";
}

}  // namespace

struct ZipReader::Impl {
  struct Discard {
    void operator()(zip_t* opened) const { zip_discard(opened); }
  };
  struct Close {
    void operator()(zip_file_t* opened) const { zip_fclose(opened); }
  };

  std::optional<MappedFile> file;
  std::string path;
  std::span<const std::byte> bytes;
  std::uint64_t max_entry_bytes = 0;
  std::unique_ptr<zip_t, Discard> archive;
  std::mutex mutex;  // libzip keeps one read position an archive
  std::vector<std::string> names;
  std::vector<std::uint64_t> sizes;
  std::map<std::string, std::size_t, std::less<>> index;
  std::once_flag locate_once;
  std::optional<std::vector<ZipLocation>> locations;  // for view()

  void open() {
    // libzip takes nothing at all for an archive without entries.
    if (bytes.size() < 22)
      throw DataError(path, 0, "a ZIP archive",
                      std::to_string(bytes.size()) + " bytes, which cannot hold one");
    check_entry_counts(bytes, path);
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t* source =
        zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error);
    if (source) {
      archive.reset(zip_open_from_source(source, ZIP_RDONLY, &error));
      if (!archive) zip_source_free(source);
    }
    const std::string why = zip_error_strerror(&error);
    zip_error_fini(&error);
    if (!archive) throw DataError(path, {}, "a ZIP archive", why);
    const auto count = static_cast<std::uint64_t>(zip_get_num_entries(archive.get(), 0));
    for (std::uint64_t i = 0; i < count; ++i) {
      const zip_stat_t stat = entry_stat(i);
      names.emplace_back(stat.name);
      sizes.push_back(stat.size);
      if (!index.emplace(names.back(), i).second)
        throw DataError(path, {}, "every entry name once",
                        zip_quote(names.back()) + " twice");
    }
  }

  zip_stat_t entry_stat(std::uint64_t entry) const {
    constexpr zip_uint64_t kNeeded = ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE |
                                     ZIP_STAT_COMP_METHOD | ZIP_STAT_CRC;
    zip_stat_t stat;
    zip_stat_init(&stat);
    if (zip_stat_index(archive.get(), entry, 0, &stat) != 0)
      throw DataError(path, {}, "a directory record for entry " + std::to_string(entry),
                      zip_strerror(archive.get()));
    if ((stat.valid & kNeeded) != kNeeded || !stat.name)
      throw DataError(path, {},
                      "name, sizes, method and CRC of entry " + std::to_string(entry),
                      "an incomplete directory record");
    return stat;
  }

  // Refuses sizes that cannot be true before anything is allocated.
  void check_claim(const zip_stat_t& stat) const {
    const std::string what = zip_quote(stat.name);
    if (stat.size > max_entry_bytes)
      throw DataError(
          path, {},
          "at most " + std::to_string(max_entry_bytes) + " bytes in entry " + what,
          std::to_string(stat.size));
    if (stat.comp_size > bytes.size())
      throw DataError(path, {}, "entry " + what + " inside the file",
                      std::to_string(stat.comp_size) + " packed bytes in a file of " +
                          std::to_string(bytes.size()));
    if (stat.comp_method == ZIP_CM_STORE) {
      if (stat.size != stat.comp_size)
        throw DataError(
            path, {}, "equal sizes of the stored entry " + what,
            std::to_string(stat.size) + " and " + std::to_string(stat.comp_size));
    } else if (stat.comp_method == ZIP_CM_DEFLATE) {
      if (stat.size > stat.comp_size * kDeflateRatio + kDeflateSlack)
        throw DataError(
            path, {}, "at most 1032 bytes of " + what + " a packed byte",
            std::to_string(stat.size) + " from " + std::to_string(stat.comp_size));
    } else {
      throw DataError(path, {}, "entry " + what + " stored or deflated",
                      "compression method " + std::to_string(stat.comp_method));
    }
  }

  std::vector<std::byte> read(std::size_t entry) {
    const std::scoped_lock lock(mutex);
    const zip_stat_t stat = entry_stat(entry);
    check_claim(stat);
    const std::string what = "entry " + zip_quote(stat.name);
    const std::unique_ptr<zip_file_t, Close> in(zip_fopen_index(archive.get(), entry, 0));
    if (!in) throw DataError(path, {}, "to open " + what, zip_strerror(archive.get()));
    std::vector<std::byte> content(stat.size);
    std::uint64_t got = 0;
    const auto take = [&](void* to, std::uint64_t room) {
      const zip_int64_t n = zip_fread(in.get(), to, room);
      if (n < 0)
        throw DataError(path, {}, what + " without damage",
                        zip_error_strerror(zip_file_get_error(in.get())));
      return static_cast<std::uint64_t>(n);
    };
    while (got < content.size()) {
      const auto n = take(content.data() + got, content.size() - got);
      if (n == 0)
        throw DataError(path, {}, std::to_string(stat.size) + " bytes in " + what,
                        std::to_string(got));
      got += n;
    }
    // The CRC and the end are checked by libzip when it meets the end of the entry.
    std::byte more{};
    if (take(&more, 1) != 0)
      throw DataError(path, {}, std::to_string(stat.size) + " bytes in " + what, "more");
    // libzip leaves stored entries of which nothing was read unchecked.
    uLong crc = crc32(0, nullptr, 0);
    crc = crc32_z(crc, reinterpret_cast<const Bytef*>(content.data()), content.size());
    if (crc != stat.crc)
      throw DataError(path, {}, "CRC " + std::to_string(stat.crc) + " of " + what,
                      std::to_string(crc));
    return content;
  }
};

ZipReader::ZipReader(const std::filesystem::path& path, std::uint64_t max_entry_bytes)
    : impl_(std::make_unique<Impl>()) {
  impl_->path = path.string();
  impl_->max_entry_bytes = max_entry_bytes;
  impl_->file.emplace(path);
  impl_->bytes = impl_->file->bytes();
  impl_->open();
}

ZipReader::ZipReader(std::span<const std::byte> bytes, std::string name,
                     std::uint64_t max_entry_bytes)
    : impl_(std::make_unique<Impl>()) {
  impl_->path = std::move(name);
  impl_->max_entry_bytes = max_entry_bytes;
  impl_->bytes = bytes;
  impl_->open();
}

ZipReader::~ZipReader() = default;
ZipReader::ZipReader(ZipReader&&) noexcept = default;
ZipReader& ZipReader::operator=(ZipReader&&) noexcept = default;

std::size_t ZipReader::size() const { return impl_->names.size(); }
const std::string& ZipReader::path() const { return impl_->path; }

const std::string& ZipReader::name(std::size_t index) const {
  FM_CHECK(index < size(), path(), ": no entry ", index, " among ", size());
  return impl_->names[index];
}

std::uint64_t ZipReader::entry_bytes(std::size_t index) const {
  FM_CHECK(index < size(), path(), ": no entry ", index, " among ", size());
  return impl_->sizes[index];
}

std::int64_t ZipReader::find(std::string_view name) const {
  const auto found = impl_->index.find(name);
  return found == impl_->index.end() ? -1 : static_cast<std::int64_t>(found->second);
}

std::optional<std::span<const std::byte>> ZipReader::view(std::size_t index) const {
  FM_CHECK(index < size(), path(), ": no entry ", index, " among ", size());
  std::call_once(impl_->locate_once,
                 [this] { impl_->locations = zip_directory(impl_->bytes); });
  // Both readings of the directory must agree.
  const auto& locations = impl_->locations;
  if (!locations || locations->size() != size()) return {};
  const ZipLocation& entry = (*locations)[index];
  if (entry.name != impl_->names[index] || entry.size != impl_->sizes[index]) return {};
  return zip_stored_content(impl_->bytes, entry);
}

std::vector<std::byte> ZipReader::read(std::size_t index) const {
  FM_CHECK(index < size(), path(), ": no entry ", index, " among ", size());
  return impl_->read(index);
}

std::vector<std::byte> ZipReader::read(std::string_view name) const {
  const std::int64_t index = find(name);
  if (index < 0)
    throw DataError(path(), {}, "an entry " + zip_quote(name),
                    std::to_string(size()) + " entries without it");
  return impl_->read(static_cast<std::size_t>(index));
}

}  // namespace flowmap
