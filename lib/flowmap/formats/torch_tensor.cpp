// Storages and tensors from the values of the pickle.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "flowmap/formats/pickle_text.h"
#include "flowmap/formats/torch_internal.h"

namespace flowmap {
namespace {

struct TorchTypeName {
  DType dtype;
  std::string_view name, storage;
};
constexpr TorchTypeName kTorchTypes[] = {
    {DType::F64, "float64", "DoubleStorage"},
    {DType::F32, "float32", "FloatStorage"},
    {DType::F16, "float16", "HalfStorage"},
    {DType::BF16, "bfloat16", "BFloat16Storage"},
    {DType::I64, "int64", "LongStorage"},
    {DType::I32, "int32", "IntStorage"},
    {DType::I16, "int16", "ShortStorage"},
    {DType::I8, "int8", "CharStorage"},
    {DType::U8, "uint8", "ByteStorage"},
    {DType::BOOL, "bool", "BoolStorage"},
};

constexpr std::string_view kTorchTypesText =
    "float64, float32, float16, bfloat16, int64, int32, int16, int8, uint8 or bool";

std::int64_t torch_count(const PickleValue& value, std::string_view what) {
  const std::int64_t count = value.as_int(what);
  if (count < 0) value.refuse(what, "a number that is not negative");
  return count;
}

std::vector<std::int64_t> torch_counts(const PickleValue& value, std::string_view what) {
  constexpr std::size_t kMostDimensions = 64;
  const PickleValue* list = &value;
  if (list->is_object_of("torch", "Size")) list = &list->arg(0, what);
  const auto elements = list->as_sequence(what);
  if (elements.size() > kMostDimensions)
    value.refuse(what, "at most " + std::to_string(kMostDimensions) + " dimensions");
  std::vector<std::int64_t> counts;
  for (const PickleValue* element : elements)
    counts.push_back(torch_count(*element, what));
  return counts;
}

// Whether the last element lies in the storage, without overflow.
bool torch_fits(const TorchTensor& tensor, std::uint64_t storage_elements) {
  for (const std::int64_t size : tensor.shape)
    if (size == 0) return true;
  std::int64_t last = tensor.offset;
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    std::int64_t reach;
    if (__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) ||
        __builtin_add_overflow(last, reach, &last))
      return false;
  }
  return static_cast<std::uint64_t>(last) < storage_elements;
}

}  // namespace

std::optional<DType> torch_dtype(std::string_view name) {
  for (const auto& type : kTorchTypes)
    if (type.name == name) return type.dtype;
  return {};
}

std::optional<DType> torch_storage_dtype(std::string_view name) {
  if (name == "UntypedStorage" || name == "_UntypedStorage") return DType::U8;
  for (const auto& type : kTorchTypes)
    if (type.storage == name) return type.dtype;
  return {};
}

std::string_view torch_storage_name(DType dtype) {
  for (const auto& type : kTorchTypes)
    if (type.dtype == dtype) return type.storage;
  return "?";
}

TorchStorageId torch_storage_id(const PickleValue& reference) {
  const PickleValue& whole = reference.persistent_id("reference to a storage");
  const auto fields = whole.as_sequence("reference to a storage");
  if (fields.size() < 5 || fields.size() > 6 ||
      fields[0]->as_text("reference to a storage") != "storage")
    whole.refuse("reference to a storage",
                 "('storage', type, key, location, elements[, view])");
  if (!fields[1]->is(PickleKind::global))
    fields[1]->refuse("type of a storage", "a storage type");
  const auto dtype = torch_storage_dtype(fields[1]->name());
  if (!dtype)
    fields[1]->refuse("type of a storage",
                      "a storage of " + std::string(kTorchTypesText));
  TorchStorageId id;
  id.dtype = *dtype;
  id.key = fields[2]->as_text("key of a storage");
  const std::int64_t elements = torch_count(*fields[4], "elements of a storage");
  if (elements > std::numeric_limits<std::int64_t>::max() / 8)
    fields[4]->refuse("elements of a storage", "a size in bytes below 2^63");
  id.elements = static_cast<std::uint64_t>(elements);
  if (fields.size() == 6 && !fields[5]->is_none()) id.view = fields[5];
  return id;
}

TorchStorageRef TorchFile::Impl::storage(const PickleValue& value) const {
  if (value.is_object_of("torch.storage", "_load_from_bytes")) {
    {
      const std::scoped_lock lock(mutex);
      if (const auto known = nested.find(&value); known != nested.end())
        return known->second;
    }
    const auto inner = open_nested(value);
    const TorchStorageRef found = inner->storage(inner->backing->pickle->root());
    const std::scoped_lock lock(mutex);
    return nested.emplace(&value, found).first->second;
  }
  if (value.is(PickleKind::object) && value.callable()->name() == "TypedStorage") {
    // TypedStorage(wrap_storage=..., dtype=...) is never pickled by itself.
    value.refuse("a storage", "a reference to a storage");
  }
  if (format == TorchFileFormat::pickle)
    value.refuse("a storage", "torch.storage._load_from_bytes(...) in a plain pickle");
  const TorchStorageId id = torch_storage_id(value);
  std::shared_ptr<const TorchStorage> found;
  {
    const std::scoped_lock lock(mutex);
    if (const auto known = cache.find(id.key); known != cache.end())
      found = known->second;
  }
  if (!found) {
    if (format == TorchFileFormat::zip) {
      // Nothing is packed into no bytes: some writers leave such entries out.
      found = id.elements == 0 && backing->zip->find(folder + "data/" + id.key) < 0
                  ? std::make_shared<TorchStorage>(id.key, std::span<const std::byte>(),
                                                   nullptr)
                  : zip_storage(id.key);
    } else {
      const auto entry = legacy.find(id.key);
      if (entry == legacy.end())
        value.refuse("storages after the pickle",
                     "a storage " + pickle_quote(id.key) + " in the file");
      found = std::make_shared<TorchStorage>(id.key, entry->second, backing);
    }
    const std::scoped_lock lock(mutex);
    found = cache.emplace(id.key, found).first->second;
  }
  if (id.bytes() > found->bytes().size())
    throw DataError(
        value.path(), value.offset(),
        std::to_string(id.bytes()) + " bytes in storage " + pickle_quote(id.key),
        std::to_string(found->bytes().size()));
  if (!id.view) return {found, id.dtype};
  // (key, offset, elements) of a part, as files before PyTorch 0.4 have it.
  const auto view = id.view->as_sequence("view of a storage");
  if (view.size() != 3) id.view->refuse("view of a storage", "(key, offset, elements)");
  const auto width = static_cast<std::uint64_t>(dtype_size(id.dtype));
  const auto offset =
      static_cast<std::uint64_t>(torch_count(*view[1], "offset of a view"));
  const auto count = static_cast<std::uint64_t>(torch_count(*view[2], "size of a view"));
  const std::uint64_t all = found->bytes().size() / width;
  if (offset > all || count > all - offset)
    id.view->refuse("view of a storage",
                    "a part of its " + std::to_string(all) + " elements");
  return {std::make_shared<TorchStorage>(
              std::string(view[0]->as_text("key of a view")),
              found->bytes().subspan(offset * width, count * width), found),
          id.dtype};
}

const PickleValue* torch_rebuild_function(const PickleValue& value) {
  const PickleValue* function = value.callable();
  if (!function) return nullptr;
  const std::string_view module = function->module(), name = function->name();
  const bool known = (module == "torch._utils" &&
                      (name == "_rebuild_tensor" || name == "_rebuild_tensor_v2" ||
                       name == "_rebuild_tensor_v3" || name == "_rebuild_parameter" ||
                       name == "_rebuild_parameter_with_state")) ||
                     (module == "torch._tensor" && name == "_rebuild_from_type_v2");
  return known ? function : nullptr;
}

bool TorchFile::is_tensor(const PickleValue& value) {
  return torch_rebuild_function(value) != nullptr;
}

TorchTensor TorchFile::tensor(const PickleValue& value) const {
  return impl_->tensor(value, 0);
}

TorchTensor TorchFile::Impl::tensor(const PickleValue& value, int depth) const {
  constexpr int kMostWraps = 8;  // a parameter of a tensor subclass of a tensor is three
  if (depth > kMostWraps) value.refuse("a tensor", "fewer calls around a tensor");
  if (const PickleValue* function = torch_rebuild_function(value))
    return rebuild(value, *function, value.args()->elements(), depth);
  if (value.is_object_of("torch.storage", "_load_from_bytes")) {
    const auto inner = open_nested(value);
    const PickleValue& root = inner->backing->pickle->root();
    if (!root.is(PickleKind::persistent)) return inner->tensor(root, depth + 1);
  } else if (!value.is(PickleKind::persistent)) {
    value.refuse("a tensor", "a call of torch._utils._rebuild_tensor_v2 or alike");
  }
  const TorchStorageRef ref = storage(value);
  TorchTensor made;
  made.dtype = ref.dtype;
  made.storage = ref.storage;
  made.shape = {
      static_cast<std::int64_t>(ref.storage->bytes().size() / dtype_size(ref.dtype))};
  made.strides = {1};
  made.path = path;
  return made;
}

TorchTensor TorchFile::Impl::rebuild(const PickleValue& value,
                                     const PickleValue& function,
                                     std::span<const PickleValue* const> args,
                                     int depth) const {
  const std::string_view name = function.name();
  const auto arg = [&](std::size_t index) -> const PickleValue& {
    if (index >= args.size())
      value.refuse(name, "at least " + std::to_string(index + 1) + " arguments");
    return *args[index];
  };
  if (name == "_rebuild_from_type_v2") {
    if (!arg(0).is(PickleKind::global) || arg(0).name() == name)
      arg(0).refuse(name, "a function that makes a tensor");
    TorchTensor made =
        rebuild(value, arg(0), arg(2).as_sequence("arguments of a tensor"), depth + 1);
    made.is_parameter |= arg(1).name() == "Parameter";
    return made;
  }
  if (name == "_rebuild_parameter" || name == "_rebuild_parameter_with_state") {
    TorchTensor made = tensor(arg(0), depth + 1);
    made.is_parameter = true;
    return made;
  }
  if (!name.starts_with("_rebuild_tensor"))
    function.refuse("a tensor", "a function that makes a tensor");
  const TorchStorageRef ref = storage(arg(0));
  TorchTensor made;
  made.dtype = ref.dtype;
  made.storage = ref.storage;
  made.path = path;
  made.offset = torch_count(arg(1), "offset of a tensor");
  made.shape = torch_counts(arg(2), "shape of a tensor");
  made.strides = torch_counts(arg(3), "strides of a tensor");
  if (name == "_rebuild_tensor_v3") {
    const auto dtype = torch_dtype(arg(6).name());
    if (!dtype) arg(6).refuse("dtype of a tensor", kTorchTypesText);
    made.dtype = *dtype;
  }
  if (made.strides.size() != made.shape.size())
    arg(3).refuse("strides of a tensor",
                  std::to_string(made.shape.size()) + " strides, one a dimension");
  try {
    checked_byte_size(made.shape, made.dtype, "tensor");
  } catch (const DataError&) {
    throw;
  } catch (const Error& error) {
    throw DataError(value.path(), value.offset(), "a shape of less than 2^63 bytes",
                    error.what());
  }
  const std::uint64_t elements = ref.storage->bytes().size() / dtype_size(made.dtype);
  if (!torch_fits(made, elements))
    throw DataError(value.path(), value.offset(),
                    "a tensor inside the " + std::to_string(elements) +
                        " elements of storage " + pickle_quote(ref.storage->key()),
                    "shape " + shape_text(made.shape) + ", strides " +
                        shape_text(made.strides) + ", offset " +
                        std::to_string(made.offset));
  return made;
}

std::int64_t TorchTensor::numel() const {
  return checked_byte_size(shape, DType::U8, "tensor");
}

bool TorchTensor::contiguous() const {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return true;
  std::int64_t expected = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

std::span<const std::byte> TorchTensor::bytes() const {
  FM_CHECK(contiguous(), path, ": a tensor of shape ", shape_text(shape), " and strides ",
           shape_text(strides), " has no bytes in one piece; read() copies it");
  const std::size_t width = dtype_size(dtype);
  const auto count = static_cast<std::size_t>(numel());
  if (count == 0) return {};
  return storage->bytes().subspan(static_cast<std::size_t>(offset) * width,
                                  count * width);
}

HostTensor TorchTensor::read() const {
  constexpr std::uint64_t kMostExpanded = std::uint64_t{1} << 26;
  const std::size_t width = dtype_size(dtype);
  const auto total = static_cast<std::uint64_t>(checked_byte_size(shape, dtype, path));
  if (total > storage->bytes().size() && total > kMostExpanded)
    throw DataError(path, {}, "a tensor no larger than its storage and 64 MiB",
                    "shape " + shape_text(shape) + " over " +
                        std::to_string(storage->bytes().size()) + " bytes");
  HostTensor out{dtype, shape, {}};
  if (contiguous()) {
    const auto from = bytes();
    out.bytes.assign(from.begin(), from.end());
  } else {
    out.bytes.resize(total);
    const std::byte* from = storage->bytes().data();
    std::byte* to = out.bytes.data();
    std::vector<std::int64_t> index(shape.size(), 0), steps = strides;
    for (std::size_t d = 0; d < shape.size(); ++d)
      if (shape[d] == 1) steps[d] = 0;  // unchecked: it never leads anywhere
    std::int64_t at = offset;
    for (std::uint64_t done = 0; done < total; done += width) {
      std::memcpy(to + done, from + static_cast<std::size_t>(at) * width, width);
      for (std::size_t d = shape.size(); d-- > 0;) {
        at += steps[d];
        if (++index[d] < shape[d]) break;
        at -= steps[d] * shape[d];
        index[d] = 0;
      }
    }
  }
  if (dtype == DType::BOOL)
    for (const std::byte value : out.bytes)
      if (value > std::byte{1})
        throw DataError(path, {}, "0 or 1 in a bool tensor",
                        std::to_string(std::to_integer<int>(value)));
  return out;
}

}  // namespace flowmap
