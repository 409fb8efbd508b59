// What TorchFile's parts share; private to torch_*.cpp.
#pragma once

#include <map>
#include <mutex>
#include <unordered_map>

#include "flowmap/base/file.h"
#include "flowmap/formats/torch_file.h"
#include "flowmap/formats/zip.h"

namespace flowmap {

// What storages point into; they keep it alive.
struct TorchBacking {
  std::optional<MappedFile> file;
  std::shared_ptr<const void> outer;  // of a file inside a pickle
  std::optional<ZipReader> zip;
  std::vector<std::byte> pickle_bytes;  // where data.pkl is packed
  std::optional<Pickle> pickle;
};

struct TorchStorageRef {
  std::shared_ptr<const TorchStorage> storage;
  DType dtype = DType::U8;
};

// ('storage', type, key, location, numel[, view]) of a persistent reference.
struct TorchStorageId {
  DType dtype = DType::U8;
  std::string key;
  std::uint64_t elements = 0;
  const PickleValue* view = nullptr;  // (key, offset, elements), or nullptr
  std::uint64_t bytes() const { return elements * dtype_size(dtype); }
};
// Throws DataError.
TorchStorageId torch_storage_id(const PickleValue& reference);
// torch's dtype by its own name ("float32"); nullopt where DType has none.
std::optional<DType> torch_dtype(std::string_view name);
std::optional<DType> torch_storage_dtype(std::string_view name);
// "FloatStorage", ...
std::string_view torch_storage_name(DType dtype);

struct TorchFile::Impl {
  std::shared_ptr<TorchBacking> backing;
  std::span<const std::byte> bytes;
  std::string path;
  TorchFileFormat format = TorchFileFormat::zip;
  PickleOptions options;
  int nesting = 0;     // of files inside files
  std::string folder;  // of a zip: "archive/"
  std::map<std::string, std::span<const std::byte>, std::less<>> legacy;
  mutable std::mutex mutex;  // of the two caches
  mutable std::map<std::string, std::shared_ptr<const TorchStorage>, std::less<>> cache;
  mutable std::unordered_map<const PickleValue*, TorchStorageRef> nested;

  void open();
  void open_zip();
  void open_legacy(std::size_t at);
  // The pickle at byte `at` of the file.
  Pickle pickle_at(std::size_t at) const;
  std::shared_ptr<const TorchStorage> zip_storage(const std::string& key) const;
  TorchStorageRef storage(const PickleValue& value) const;
  // The file inside torch.storage._load_from_bytes(bytes).
  std::shared_ptr<Impl> open_nested(const PickleValue& value) const;
  TorchTensor tensor(const PickleValue& value, int depth) const;
  TorchTensor rebuild(const PickleValue& value, const PickleValue& function,
                      std::span<const PickleValue* const> args, int depth) const;
};

// An object of one of the functions in torch's modules that make tensors; nullptr if
// none.
const PickleValue* torch_rebuild_function(const PickleValue& value);

}  // namespace flowmap
