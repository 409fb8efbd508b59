// The three containers: finding the pickle and the storages.
#include <algorithm>
#include <limits>

#include "flowmap/formats/pickle_text.h"
#include "flowmap/formats/torch_internal.h"

namespace flowmap {
namespace {

// 0x1950a86a20f9469cfc6c, the first value of the older stream.
constexpr unsigned char kTorchMagic[] = {0x6C, 0xFC, 0x9C, 0x46, 0xF9,
                                         0x20, 0x6A, 0xA8, 0x50, 0x19};
constexpr std::string_view kTorchMagicDigits = "119547037146038801333356";
constexpr std::int64_t kTorchStreamVersion = 1001;
constexpr std::uint64_t kMaxPickleBytes = std::uint64_t{1} << 32;
constexpr std::uint64_t kMaxStorageBytes = std::uint64_t{1} << 40;

bool is_torch_magic(const PickleValue& value) {
  const auto bytes = value.big_integer_bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return text == std::string_view(reinterpret_cast<const char*>(kTorchMagic),
                                  sizeof kTorchMagic) ||
         text == kTorchMagicDigits;
}

bool is_zip(std::span<const std::byte> bytes) {
  return bytes.size() >= 4 && bytes[0] == std::byte{'P'} && bytes[1] == std::byte{'K'} &&
         ((bytes[2] == std::byte{3} && bytes[3] == std::byte{4}) ||
          (bytes[2] == std::byte{5} && bytes[3] == std::byte{6}));
}

std::string to_string(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

bool TorchFile::looks_like(std::span<const std::byte> begin) {
  return is_zip(begin) || (begin.size() >= 2 && begin[0] == std::byte{0x80} &&
                           begin[1] >= std::byte{2} && begin[1] <= std::byte{5});
}

PickleOptions TorchFile::weights_options() {
  PickleOptions options;
  options.allow = allow_weights_global;
  return options;
}

TorchFile::TorchFile(const std::filesystem::path& path, PickleOptions options)
    : impl_(std::make_shared<Impl>()) {
  impl_->backing = std::make_shared<TorchBacking>();
  impl_->backing->file.emplace(path);
  impl_->bytes = impl_->backing->file->bytes();
  impl_->path = path.string();
  impl_->options = std::move(options);
  impl_->open();
}

TorchFile::TorchFile(std::span<const std::byte> bytes, std::string name,
                     PickleOptions options)
    : impl_(std::make_shared<Impl>()) {
  impl_->backing = std::make_shared<TorchBacking>();
  impl_->bytes = bytes;
  impl_->path = std::move(name);
  impl_->options = std::move(options);
  impl_->open();
}

TorchFile::~TorchFile() = default;
TorchFile::TorchFile(TorchFile&&) noexcept = default;
TorchFile& TorchFile::operator=(TorchFile&&) noexcept = default;

TorchFileFormat TorchFile::format() const { return impl_->format; }
const std::string& TorchFile::path() const { return impl_->path; }
const PickleValue& TorchFile::root() const { return impl_->backing->pickle->root(); }
bool TorchFile::cyclic() const { return impl_->backing->pickle->cyclic(); }

void TorchFile::Impl::open() {
  if (is_zip(bytes)) return open_zip();
  Pickle first = pickle_at(0);
  if (is_torch_magic(first.root())) return open_legacy(first.size());
  format = TorchFileFormat::pickle;
  backing->pickle.emplace(std::move(first));
}

Pickle TorchFile::Impl::pickle_at(std::size_t at) const {
  PickleOptions here = options;
  here.base_offset += at;
  return Pickle(bytes.subspan(at), path, std::move(here));
}

void TorchFile::Impl::open_zip() {
  format = TorchFileFormat::zip;
  ZipReader& zip = backing->zip.emplace(bytes, path, kMaxStorageBytes);
  constexpr std::string_view kPickleName = "data.pkl";
  std::optional<std::size_t> found;
  bool script = false;
  for (std::size_t i = 0; i < zip.size(); ++i) {
    const std::string& name = zip.name(i);
    const std::size_t slash = name.find('/');
    const std::size_t begin = slash == std::string::npos ? 0 : slash + 1;
    const auto tail = std::string_view(name).substr(begin);
    script |= tail == "constants.pkl" || tail.starts_with("code/");
    if (tail != kPickleName) continue;
    if (found)
      throw DataError(path, {}, "one data.pkl in a torch.save archive",
                      pickle_quote(zip.name(*found)) + " and " + pickle_quote(name));
    found = i;
    folder = name.substr(0, begin);
  }
  if (!found)
    throw DataError(
        path, {}, "a torch.save archive with NAME/data.pkl",
        "a ZIP archive of " + std::to_string(zip.size()) + " entries without it");
  if (script && !(options.allow && options.allow("__torch__", "Module")))
    throw DataError(path, {},
                    "tensors saved by torch.save (in Python: torch.save("
                    "torch.jit.load(FILE).state_dict(), NEW))",
                    "a TorchScript archive, which is a program");
  if (zip.find(folder + "byteorder") >= 0) {
    const std::string order = to_string(zip.read(folder + "byteorder"));
    if (order != "little")
      throw DataError(path, {}, "byteorder 'little' (save it again on such a machine)",
                      pickle_quote(order));
  }
  if (zip.entry_bytes(*found) > kMaxPickleBytes)
    throw DataError(path, {}, "a data.pkl of at most 4 GiB",
                    std::to_string(zip.entry_bytes(*found)) + " bytes");
  // The pickle is small; its CRC is worth a look.
  backing->pickle_bytes = zip.read(*found);
  backing->pickle.emplace(backing->pickle_bytes, path + ":" + zip.name(*found), options);
}

// Magic number, version, system, the object, keys of the storages; then for each key its
// number of elements and its bytes.
void TorchFile::Impl::open_legacy(std::size_t at) {
  format = TorchFileFormat::legacy;
  const Pickle version = pickle_at(at);
  if (version.root().as_int("version of the torch.save stream") != kTorchStreamVersion)
    version.root().refuse("version of the torch.save stream", "1001");
  at += version.size();
  const Pickle system = pickle_at(at);
  if (!system.root().at("little_endian", "sys_info").as_bool("little_endian"))
    system.root().refuse("sys_info",
                         "little_endian True (save it again on such a "
                         "machine)");
  at += system.size();
  backing->pickle.emplace(pickle_at(at));
  at += backing->pickle->size();
  const Pickle keys = pickle_at(at);
  at += keys.size();

  std::map<std::string, TorchStorageId, std::less<>> wanted;
  for (const PickleValue* reference : backing->pickle->persistents()) {
    TorchStorageId id = torch_storage_id(*reference);
    std::string key = id.key;
    wanted.emplace(std::move(key), std::move(id));  // the first decides, as in torch
  }
  for (const PickleValue* name : keys.root().as_sequence("keys of the storages")) {
    const std::string key(name->as_text("key of a storage"));
    const auto id = wanted.find(key);
    if (id == wanted.end()) name->refuse("keys of the storages", "a key that is used");
    if (bytes.size() - at < 8)
      throw DataError(path, options.base_offset + at,
                      "8 bytes with the size of storage " + pickle_quote(key),
                      std::to_string(bytes.size() - at));
    std::uint64_t elements = 0;
    for (std::size_t i = 8; i-- > 0;)
      elements = elements << 8 | std::to_integer<std::uint64_t>(bytes[at + i]);
    at += 8;
    const std::uint64_t width = dtype_size(id->second.dtype);
    if (elements > (bytes.size() - at) / width)
      throw DataError(
          path, options.base_offset + at,
          std::to_string(elements) + " elements of storage " + pickle_quote(key),
          "the end of the file after " + std::to_string(bytes.size() - at) + " bytes");
    if (!legacy.emplace(key, bytes.subspan(at, elements * width)).second)
      name->refuse("keys of the storages", "every key once");
    at += elements * width;
  }
}

std::shared_ptr<const TorchStorage> TorchFile::Impl::zip_storage(
    const std::string& key) const {
  const ZipReader& zip = *backing->zip;
  const std::string name = folder + "data/" + key;
  const std::int64_t index = zip.find(name);
  if (index < 0) {
    throw DataError(path, {}, "a storage " + pickle_quote(name),
                    std::to_string(zip.size()) + " entries without it");
  }
  const auto entry = static_cast<std::size_t>(index);
  if (const auto view = zip.view(entry))
    return std::make_shared<TorchStorage>(key, *view, backing);
  const auto content = std::make_shared<std::vector<std::byte>>(zip.read(entry));
  return std::make_shared<TorchStorage>(key, *content, content);
}

std::shared_ptr<TorchFile::Impl> TorchFile::Impl::open_nested(
    const PickleValue& value) const {
  constexpr int kMostNesting = 4;
  if (nesting >= kMostNesting)
    value.refuse("torch.storage._load_from_bytes",
                 "at most " + std::to_string(kMostNesting) + " files inside each other");
  const auto blob = value.arg(0, "bytes of a storage").as_bytes("bytes of a storage");
  auto inner = std::make_shared<Impl>();
  inner->backing = std::make_shared<TorchBacking>();
  inner->backing->outer = backing;
  inner->bytes = blob;
  inner->path = path;
  inner->options = options;
  // Most blobs lie in the file itself; then errors say where.
  const std::less<> before;
  if (!before(blob.data(), bytes.data()) &&
      before(blob.data(), bytes.data() + bytes.size()))
    inner->options.base_offset += static_cast<std::uint64_t>(blob.data() - bytes.data());
  else
    inner->path += ":bytes";
  inner->nesting = nesting + 1;
  inner->open();
  return inner;
}

}  // namespace flowmap
