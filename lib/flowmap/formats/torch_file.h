// Tensors in Python's model files, without Python: torch.save's zip archives, its older
// stream, and plain pickles whose tensors are such streams (EDM's snapshots). Files are
// mapped; a tensor is copied when it is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flowmap/base/dtype.h"
#include "flowmap/formats/pickle.h"

namespace flowmap {

// The bytes under one or more tensors. Keeps the file mapped.
class TorchStorage {
 public:
  TorchStorage(std::string key, std::span<const std::byte> bytes,
               std::shared_ptr<const void> keeps)
      : key_(std::move(key)), bytes_(bytes), keeps_(std::move(keeps)) {}
  const std::string& key() const { return key_; }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::string key_;
  std::span<const std::byte> bytes_;
  std::shared_ptr<const void> keeps_;
};

// A view of a storage, checked against its size when it was made: no element lies
// outside. Outlives its TorchFile (where that read memory, the caller keeps the memory).
struct TorchTensor {
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape, strides;  // strides and offset in elements
  std::int64_t offset = 0;
  bool is_parameter = false;
  std::shared_ptr<const TorchStorage> storage;  // equal for tensors that share memory
  std::string path;                             // for errors

  std::int64_t numel() const;
  // Row-major without gaps.
  bool contiguous() const;
  // Of a contiguous tensor: its bytes in the file, not copied. Throws Error otherwise.
  std::span<const std::byte> bytes() const;
  // A row-major copy. Throws DataError for a BOOL that is neither 0 nor 1, and where an
  // expanded tensor (stride 0) would grow beyond its storage and 64 MiB.
  HostTensor read() const;
};

struct TorchEntry {
  std::string name;
  TorchTensor tensor;
};

struct TorchFlattenOptions {
  // Where to begin, "" for the root: dict keys and list indexes joined by dots ("ema",
  // "model.net", "state_dict", "0"); a key that contains dots itself may stand whole.
  std::string key;
  // Takes "module." and "_orig_mod." off the front of names, and the component
  // "_orig_mod" out of their middle (DistributedDataParallel, torch.compile).
  bool strip_prefixes = false;
};

enum class TorchFileFormat { zip, legacy, pickle };

// Opens all three formats by their content.
class TorchFile {
 public:
  // The pickle may name what `allow` accepts (PickleOptions::allow). Throws DataError as
  // Pickle and ZipReader do, and for a storage that is missing or too short, a big-endian
  // file, and a TorchScript archive; that is read where `allow` accepts its own classes
  // (module "__torch__"), as tensors: its program is never looked at.
  explicit TorchFile(const std::filesystem::path& path,
                     PickleOptions options = weights_options());
  // Memory that the caller keeps; `name` stands for the path.
  TorchFile(std::span<const std::byte> bytes, std::string name,
            PickleOptions options = weights_options());
  ~TorchFile();
  TorchFile(TorchFile&&) noexcept;
  TorchFile& operator=(TorchFile&&) noexcept;

  static PickleOptions weights_options();
  // A guess from the first bytes of a file (16 suffice): zip, or a pickle of protocol 2
  // to
  // 5. A zip may still be an npz or a data set: find "data.pkl" in it.
  static bool looks_like(std::span<const std::byte> begin);

  TorchFileFormat format() const;
  const std::string& path() const;
  // Valid while the TorchFile lives.
  const PickleValue& root() const;
  bool cyclic() const;

  // Whether the value is a call of torch's that makes a tensor
  // (torch._utils._rebuild_tensor_v2, _rebuild_parameter, ...).
  static bool is_tensor(const PickleValue& value);
  // Also of a storage alone, and of torch.storage._load_from_bytes(bytes), a file inside
  // the file, whose root is a tensor or a storage. Throws DataError: not a tensor, a
  // dtype that DType has not (complex, float8, uint16), sizes that overflow or do not fit
  // the storage, negative strides.
  TorchTensor tensor(const PickleValue& value) const;

  // The value at a dotted key (TorchFlattenOptions::key). Throws DataError naming the
  // part that is not there and what is.
  const PickleValue& at(std::string_view key) const;
  // Same; nullptr where it is not there. Both throw DataError for a file made so that a
  // key reads in too many ways.
  const PickleValue* find(std::string_view key) const;
  // All tensors under a key, in the order of the file, named by the path to them with
  // dots. Modules (torch.nn, EDM's persistent classes) have the names of their
  // state_dict. A tensor alone is called by the last part of the key, or "tensor". What
  // is no tensor is passed over. Throws DataError for two tensors of one name.
  std::vector<TorchEntry> flatten(const TorchFlattenOptions& options = {}) const;
  // Same, of a value of this file; options.key only names a tensor alone.
  std::vector<TorchEntry> flatten(const PickleValue& value,
                                  const TorchFlattenOptions& options = {}) const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// A module's __dict__, where the value is one: of a pickled torch.nn.Module its state, of
// torch_utils.persistence._reconstruct_persistent_obj(meta) meta["state"]; else nullptr.
const PickleValue* pickled_module_state(const PickleValue& value);

// numpy in pickles. A scalar (numpy.core.multiarray.scalar) as a number; nullopt where
// the value is none. Throws DataError for a dtype that is no number.
std::optional<double> pickled_numpy_number(const PickleValue& value);
// An array (numpy.core.multiarray._reconstruct with its state, or _frombuffer) of float16
// to float64, int8 to int64, uint8 or bool, row-major; nullopt where the value is none.
// Throws DataError for other dtypes and sizes that do not fit.
std::optional<HostTensor> pickled_numpy_array(const PickleValue& value);

// A tensor to be written, its bytes (row-major) owned by the caller. Items whose bytes,
// and dtype, are the same memory share one storage in the file.
struct TorchItem {
  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};
struct TorchSection {
  std::string key;
  std::vector<TorchItem> items;
};

// torch.save's zip of an OrderedDict of tensors, which torch.load(weights_only=True)
// reads, also with mmap=True. Equal content gives equal bytes; atomic. Throws Error on an
// empty or repeated name and on bytes that do not fit the shape.
void write_torch_file(const std::filesystem::path& path, std::vector<TorchItem> items);
// {key: OrderedDict of tensors, ...}, as trainers write checkpoints ({"ema": ...}).
void write_torch_file(const std::filesystem::path& path,
                      std::vector<TorchSection> sections);

}  // namespace flowmap
