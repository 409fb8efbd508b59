#include "flowmap/formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/text.h"

namespace flowmap {
namespace {

constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;
constexpr std::string_view kSafetensorsMetadata = "__metadata__";
constexpr DType kSafetensorsDTypes[] = {DType::F64, DType::F32, DType::F16, DType::BF16,
                                        DType::I64, DType::I32, DType::I16, DType::I8,
                                        DType::U8,  DType::BOOL};

std::optional<DType> dtype_from_safetensors(std::string_view name) {
  for (const DType dtype : kSafetensorsDTypes)
    if (dtype_name(dtype) == name) return dtype;
  return {};
}

// Names come from the file; an error line shows only so much of them.
std::string quote_tensor(std::string_view text) {
  if (text.size() > 200) return "'" + std::string(text.substr(0, 200)) + "...'";
  return "'" + std::string(text) + "'";
}

// SAX handler that accepts exactly
//   {"__metadata__": {string: string}, NAME: {"dtype": string, "shape": [unsigned...],
//    "data_offsets": [unsigned, unsigned]}, ...}
// without duplicate keys at any level. Memory stays proportional to the header.
class SafetensorsHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit SafetensorsHandler(const std::string& path) : path_(path) {}

  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;

  bool null() override { return refuse("null"); }
  bool boolean(bool) override { return refuse("true or false"); }
  bool number_integer(number_integer_t value) override {
    return refuse("the negative number " + std::to_string(value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return refuse("the number " + text.substr(0, 40));
  }
  bool binary(binary_t&) override { return refuse("binary"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::shape) {
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        return refuse("the size " + std::to_string(value));
      entry_.shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (place_ == Place::offsets) {
      if (offset_count_ == 0) entry_.begin = value;
      if (offset_count_ == 1) entry_.end = value;
      if (++offset_count_ > 2) return refuse("a third offset");
      return true;
    }
    return refuse("a number");
  }

  bool string(string_t& value) override {
    if (place_ == Place::metadata) {
      metadata[key_] = std::move(value);
      return true;
    }
    if (place_ == Place::entry && key_ == "dtype") {
      const auto dtype = dtype_from_safetensors(value);
      if (!dtype)
        throw DataError(path_, 8,
                        "dtype of " + quote_tensor(entry_.name) +
                            " to be one of F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL",
                        quote_tensor(value));
      entry_.dtype = *dtype;
      return true;
    }
    return refuse("a string");
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::start) {
      place_ = Place::root;
      return true;
    }
    if (place_ == Place::root) {
      keys_.clear();
      if (key_ == kSafetensorsMetadata) {
        place_ = Place::metadata;
      } else {
        place_ = Place::entry;
        entry_ = {};
        entry_.name = key_;
        offset_count_ = 0;
      }
      return true;
    }
    return refuse("an object");
  }

  bool key(string_t& value) override {
    auto& known = place_ == Place::root ? names_ : keys_;
    if (!known.insert(value).second)
      throw DataError(
          path_, 8, "every key once in the header",
          "the key " + quote_tensor(value) + " twice" +
              (place_ == Place::root ? "" : " in " + quote_tensor(place_name())));
    if (place_ == Place::entry && value != "dtype" && value != "shape" &&
        value != "data_offsets")
      return refuse("the key " + quote_tensor(value));
    key_ = std::move(value);
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::entry && key_ == "shape") {
      place_ = Place::shape;
      return true;
    }
    if (place_ == Place::entry && key_ == "data_offsets") {
      place_ = Place::offsets;
      return true;
    }
    return refuse("an array");
  }

  bool end_array() override {
    if (place_ == Place::offsets && offset_count_ != 2)
      return refuse(std::to_string(offset_count_) + " offsets");
    place_ = Place::entry;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::entry) {
      if (keys_.size() != 3)
        return refuse("only " + std::to_string(keys_.size()) + " of the three keys");
      entries.push_back(std::move(entry_));
    }
    place_ = place_ == Place::root ? Place::done : Place::root;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // The library's text reads "[json.exception...] parse error at line 1, column 5:
    // why".
    std::string why = error.what();
    if (const auto cut = why.find(": "); cut != std::string::npos) why.erase(0, cut + 2);
    throw DataError(path_, 8 + (position ? position - 1 : 0), "a JSON header",
                    why.substr(0, 300));
  }

 private:
  enum class Place { start, root, metadata, entry, shape, offsets, done };

  std::string place_name() const {
    return place_ == Place::metadata ? std::string(kSafetensorsMetadata) : entry_.name;
  }

  [[noreturn]] bool refuse(const std::string& got) const {
    switch (place_) {
      case Place::start:
      case Place::done: throw DataError(path_, 8, "a JSON object as header", got);
      case Place::root:
        throw DataError(path_, 8, "an object under " + quote_tensor(key_), got);
      case Place::metadata:
        throw DataError(path_, 8, "strings only in __metadata__",
                        got + " under " + quote_tensor(key_));
      default: break;
    }
    throw DataError(path_, 8,
                    "\"dtype\": a name, \"shape\": whole numbers, \"data_offsets\": two "
                    "whole numbers for " +
                        quote_tensor(entry_.name),
                    got);
  }

  const std::string& path_;
  Place place_ = Place::start;
  SafetensorsEntry entry_;
  std::string key_;
  int offset_count_ = 0;
  std::set<std::string> names_, keys_;  // seen at the root; seen in the current object
};

// Bytes of a shape. Sizes beside a zero must not overflow either: whoever computes
// strides from them would trip.
std::uint64_t entry_byte_size(const SafetensorsEntry& entry, const std::string& path) {
  std::vector<std::int64_t> sizes;
  for (const std::int64_t size : entry.shape)
    if (size != 0) sizes.push_back(size);
  try {
    const auto bytes = checked_byte_size(sizes, entry.dtype, entry.name);
    return sizes.size() == entry.shape.size() ? static_cast<std::uint64_t>(bytes) : 0;
  } catch (const Error&) {
    throw DataError(
        path, 8, "a shape below 2^63 bytes for " + quote_tensor(entry.name),
        shape_text(
            std::span(entry.shape).first(std::min<std::size_t>(entry.shape.size(), 16))));
  }
}

// What a file that is no safetensors is instead, as its first bytes tell; "" if unknown.
std::string foreign_format(std::span<const std::byte> bytes) {
  const std::string_view head(reinterpret_cast<const char*>(bytes.data()),
                              std::min<std::size_t>(bytes.size(), 256));
  if (head.starts_with("PK\x03\x04")) {
    // The name of its first file follows the 30 bytes of a local header.
    const std::string_view name = head.substr(std::min<std::size_t>(head.size(), 30));
    if (name.substr(0, 200).find("/data.pkl") != std::string_view::npos)
      return "a torch.save archive";
    return "a ZIP archive";
  }
  if (head.size() >= 2 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5)
    return "a Python pickle";
  return "";
}

// Called where the header cannot be one.
void refuse_foreign_format(const std::string& path, std::span<const std::byte> bytes) {
  if (const std::string other = foreign_format(bytes); !other.empty())
    throw DataError(path, {}, "a safetensors file", other);
}

}  // namespace

struct SafetensorsReader::Impl {
  std::optional<MappedFile> file;
  std::string path;
  std::span<const std::byte> buffer;  // after the header
  std::uint64_t buffer_offset = 0;
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::size_t, std::less<>> index;
  std::map<std::string, std::string> metadata;

  void parse(std::span<const std::byte> bytes) {
    if (bytes.size() < 8)
      throw DataError(path, 0, "8 bytes of header length",
                      std::to_string(bytes.size()) + " bytes in all");
    std::uint64_t length = 0;
    for (int i = 7; i >= 0; --i)
      length = length << 8 | std::to_integer<std::uint64_t>(bytes[i]);
    if (length > bytes.size() - 8 || length == 0 || bytes[8] != std::byte{'{'})
      refuse_foreign_format(path, bytes);
    if (length > kMaxSafetensorsHeader)
      throw DataError(path, 0, "a header length of at most 100000000",
                      std::to_string(length));
    if (length > bytes.size() - 8)
      throw DataError(
          path, 0,
          "a header inside the file of " + std::to_string(bytes.size()) + " bytes",
          "a header length of " + std::to_string(length));
    const char* const header = reinterpret_cast<const char*>(bytes.data()) + 8;
    if (length == 0 || header[0] != '{')
      throw DataError(path, 8, "a JSON header that begins with '{'",
                      length ? "byte " + std::to_string(int(std::uint8_t(header[0])))
                             : "an empty header");
    // The JSON library takes a zero byte for the end of its input.
    if (const void* zero = std::memchr(header, 0, length))
      throw DataError(path, 8 + (static_cast<const char*>(zero) - header),
                      "JSON in the header", "a zero byte");
    SafetensorsHandler handler(path);
    nlohmann::json::sax_parse(header, header + length, &handler);
    entries = std::move(handler.entries);
    metadata = std::move(handler.metadata);
    buffer_offset = 8 + length;
    buffer = bytes.subspan(buffer_offset);
    check_layout();
  }

  void check_layout() {
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
      return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    std::uint64_t reached = 0;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const auto& entry = entries[i];
      const auto range =
          "[" + std::to_string(entry.begin) + ", " + std::to_string(entry.end) + ")";
      if (entry.end < entry.begin || entry.end > buffer.size())
        throw DataError(path, buffer_offset,
                        "offsets of " + quote_tensor(entry.name) +
                            " inside the buffer of " + std::to_string(buffer.size()) +
                            " bytes",
                        range);
      const std::uint64_t needed = entry_byte_size(entry, path);
      if (entry.end - entry.begin != needed)
        throw DataError(path, buffer_offset + entry.begin,
                        std::to_string(needed) + " bytes for " +
                            quote_tensor(entry.name) + " (" +
                            std::string(dtype_name(entry.dtype)) + " " +
                            shape_text(entry.shape) + ")",
                        std::to_string(entry.end - entry.begin) + " bytes");
      if (entry.begin != reached)
        throw DataError(path, buffer_offset + std::min(entry.begin, reached),
                        "tensors without " +
                            std::string(entry.begin < reached ? "an overlap" : "a hole"),
                        quote_tensor(entry.name) + " at " + range +
                            " after one that ends at " + std::to_string(reached));
      reached = entry.end;
      index.emplace(entry.name, i);
    }
    if (reached != buffer.size())
      throw DataError(
          path, buffer_offset + reached, "the end of the file",
          std::to_string(buffer.size() - reached) + " bytes that belong to no tensor");
  }
};

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path)
    : impl_(std::make_unique<Impl>()) {
  impl_->path = path.string();
  impl_->file.emplace(path);
  impl_->parse(impl_->file->bytes());
}

SafetensorsReader::SafetensorsReader(std::span<const std::byte> bytes, std::string name)
    : impl_(std::make_unique<Impl>()) {
  impl_->path = std::move(name);
  impl_->parse(bytes);
}

SafetensorsReader::~SafetensorsReader() = default;
SafetensorsReader::SafetensorsReader(SafetensorsReader&&) noexcept = default;
SafetensorsReader& SafetensorsReader::operator=(SafetensorsReader&&) noexcept = default;

const std::vector<SafetensorsEntry>& SafetensorsReader::entries() const {
  return impl_->entries;
}

const std::map<std::string, std::string>& SafetensorsReader::metadata() const {
  return impl_->metadata;
}

const SafetensorsEntry* SafetensorsReader::find(std::string_view name) const {
  const auto found = impl_->index.find(name);
  return found == impl_->index.end() ? nullptr : &impl_->entries[found->second];
}

std::span<const std::byte> SafetensorsReader::data(const SafetensorsEntry& entry) const {
  FM_CHECK(entry.begin <= entry.end && entry.end <= impl_->buffer.size(), impl_->path,
           ": the entry ", quote_tensor(entry.name), " is not of this file");
  return impl_->buffer.subspan(entry.begin, entry.end - entry.begin);
}

HostTensor SafetensorsReader::read(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (!entry) {
    std::vector<std::string> names;
    for (const auto& known : impl_->entries) names.push_back(known.name);
    const std::string nearest = nearest_name(name, names);
    throw DataError(
        impl_->path, {}, "a tensor " + quote_tensor(name),
        std::to_string(names.size()) + " tensors without it" +
            (nearest.empty() ? "" : "; the nearest is " + quote_tensor(nearest)));
  }
  const auto bytes = data(*entry);
  if (entry->dtype == DType::BOOL)
    for (std::size_t i = 0; i < bytes.size(); ++i)
      if (std::to_integer<int>(bytes[i]) > 1)
        throw DataError(impl_->path, impl_->buffer_offset + entry->begin + i,
                        "0 or 1 in the BOOL tensor " + quote_tensor(name),
                        std::to_string(std::to_integer<int>(bytes[i])));
  return {entry->dtype, entry->shape, {bytes.begin(), bytes.end()}};
}

const std::string& SafetensorsReader::path() const { return impl_->path; }

namespace {

std::string safetensors_json(const std::string& text, const std::string& path) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw Error(path + ": names and metadata must be UTF-8, but " + quote_tensor(text) +
                " is not");
  }
}

std::string safetensors_header(const std::string& path,
                               const std::vector<SafetensorsItem>& items,
                               const std::map<std::string, std::string>& metadata) {
  std::string header = "{";
  const auto separate = [&] {
    if (header.back() != '{') header += ',';
  };
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      separate();
      header += safetensors_json(key, path) + ":" + safetensors_json(value, path);
    }
    header += "}";
  }
  std::uint64_t offset = 0;
  for (const auto& item : items) {
    separate();
    header += safetensors_json(item.name, path) + ":{\"dtype\":\"";
    header += dtype_name(item.dtype);
    header += "\",\"shape\":[";
    for (std::size_t i = 0; i < item.shape.size(); ++i)
      header += (i ? "," : "") + std::to_string(item.shape[i]);
    header += "],\"data_offsets\":[" + std::to_string(offset) + ",";
    offset += item.bytes.size();
    header += std::to_string(offset) + "]}";
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  FM_CHECK(header.size() <= kMaxSafetensorsHeader, path, ": a header of ", header.size(),
           " bytes is over the format's 100000000; shorten the metadata");
  return header;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path,
                       std::vector<SafetensorsItem> items,
                       const std::map<std::string, std::string>& metadata) {
  std::sort(items.begin(), items.end(), [](const auto& a, const auto& b) {
    const auto size_a = dtype_size(a.dtype), size_b = dtype_size(b.dtype);
    return size_a != size_b ? size_a > size_b : a.name < b.name;
  });
  std::set<std::string_view> names;
  for (const auto& item : items) {
    FM_CHECK(item.name != kSafetensorsMetadata, path.string(),
             ": a tensor cannot be called __metadata__");
    FM_CHECK(names.insert(item.name).second, path.string(), ": two tensors are called ",
             quote_tensor(item.name));
    const auto needed = checked_byte_size(item.shape, item.dtype, item.name);
    FM_CHECK(static_cast<std::uint64_t>(needed) == item.bytes.size(), path.string(), ": ",
             quote_tensor(item.name), " of shape ", shape_text(item.shape), " needs ",
             needed, " bytes, got ", item.bytes.size());
  }
  const std::string header = safetensors_header(path.string(), items, metadata);
  std::byte length[8];
  for (int i = 0; i < 8; ++i)
    length[i] = static_cast<std::byte>(std::uint64_t{header.size()} >> (8 * i));
  AtomicFile file(path);
  file.write(length);
  file.write(header);
  for (const auto& item : items)
    if (!item.bytes.empty()) file.write(item.bytes);
  file.commit();
}

}  // namespace flowmap
