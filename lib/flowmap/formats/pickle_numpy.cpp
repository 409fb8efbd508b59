// numpy's scalars and arrays in pickles.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "flowmap/base/error.h"
#include "flowmap/formats/pickle_text.h"
#include "flowmap/formats/torch_file.h"

namespace flowmap {
namespace {

bool is_numpy_call(const PickleValue& value, std::string_view folder,
                   std::string_view name) {
  const PickleValue* function = value.callable();
  if (!function || function->name() != name) return false;
  const std::string_view module = function->module();
  return (module.starts_with("numpy.core.") || module.starts_with("numpy._core.")) &&
         module.ends_with(folder);
}

struct NumpyDType {
  DType dtype = DType::F64;
  bool swap = false;
};

// numpy.dtype('f8', ...) with the state (3, '<', ...).
NumpyDType numpy_dtype(const PickleValue& value) {
  constexpr std::pair<std::string_view, DType> kNames[] = {
      {"f8", DType::F64}, {"f4", DType::F32}, {"f2", DType::F16},
      {"i8", DType::I64}, {"i4", DType::I32}, {"i2", DType::I16},
      {"i1", DType::I8},  {"u1", DType::U8},  {"b1", DType::BOOL}};
  if (!value.is_object_of("numpy", "dtype")) value.refuse("numpy dtype", "a numpy.dtype");
  std::string_view name = value.arg(0, "numpy dtype").as_text("numpy dtype");
  NumpyDType out;
  if (!name.empty() && std::string_view("<>|=").find(name[0]) != std::string_view::npos) {
    out.swap = name[0] == '>';
    name.remove_prefix(1);
  }
  const auto* found = std::find_if(std::begin(kNames), std::end(kNames),
                                   [&](const auto& each) { return each.first == name; });
  if (found == std::end(kNames))
    value.arg(0, "numpy dtype")
        .refuse("numpy dtype", "f8, f4, f2, i8, i4, i2, i1, u1 or b1");
  out.dtype = found->second;
  if (const PickleValue* state = value.state()) {
    const auto fields = state->as_sequence("state of a numpy dtype");
    if (fields.size() < 2) state->refuse("state of a numpy dtype", "a byte order");
    out.swap = fields[1]->as_text("byte order") == ">";
  }
  return out;
}

HostTensor numpy_tensor(const PickleValue& where, const NumpyDType& dtype,
                        std::vector<std::int64_t> shape,
                        std::span<const std::byte> bytes) {
  HostTensor out{dtype.dtype, std::move(shape), {bytes.begin(), bytes.end()}};
  std::int64_t expected = 0;
  try {
    expected = checked_byte_size(out.shape, out.dtype, "array");
  } catch (const Error& error) {
    throw DataError(where.path(), where.offset(), "the shape of a numpy array",
                    error.what());
  }
  if (static_cast<std::uint64_t>(expected) != bytes.size())
    throw DataError(where.path(), where.offset(),
                    std::to_string(expected) + " bytes for a numpy array of shape " +
                        shape_text(out.shape),
                    std::to_string(bytes.size()));
  const std::size_t width = dtype_size(out.dtype);
  if (dtype.swap && width > 1)
    for (std::size_t i = 0; i < out.bytes.size(); i += width)
      std::reverse(out.bytes.begin() + static_cast<std::ptrdiff_t>(i),
                   out.bytes.begin() + static_cast<std::ptrdiff_t>(i + width));
  if (out.dtype == DType::BOOL)
    for (const std::byte each : out.bytes)
      if (each > std::byte{1}) where.refuse("a numpy array of bool", "0 or 1 only");
  return out;
}

// Fortran's order to C's.
void numpy_transpose(HostTensor& tensor) {
  const std::size_t width = dtype_size(tensor.dtype), rank = tensor.shape.size();
  std::vector<std::byte> out(tensor.bytes.size());
  std::vector<std::size_t> steps(rank, 1), index(rank, 0);
  for (std::size_t d = 1; d < rank; ++d)
    steps[d] = steps[d - 1] * static_cast<std::size_t>(tensor.shape[d - 1]);
  std::size_t at = 0;
  for (std::size_t done = 0; done < out.size(); done += width) {
    std::memcpy(&out[done], &tensor.bytes[at * width], width);
    for (std::size_t d = rank; d-- > 0;) {
      at += steps[d];
      if (++index[d] < static_cast<std::size_t>(tensor.shape[d])) break;
      at -= steps[d] * index[d];
      index[d] = 0;
    }
  }
  tensor.bytes = std::move(out);
}

std::vector<std::int64_t> numpy_shape(const PickleValue& value) {
  if (value.is(PickleKind::integer)) return {value.as_int("numpy shape")};
  std::vector<std::int64_t> shape;
  for (const PickleValue* size : value.as_sequence("numpy shape")) {
    if (shape.size() == 64) value.refuse("numpy shape", "at most 64 dimensions");
    shape.push_back(size->as_int("numpy shape"));
  }
  return shape;
}

template <class T>
double numpy_value(const HostTensor& tensor) {
  T value;
  std::memcpy(&value, tensor.bytes.data(), sizeof value);
  return static_cast<double>(value);
}

double half_value(std::uint16_t bits) {
  const int exponent = bits >> 10 & 0x1F;
  const double mantissa = bits & 0x3FF;
  const double magnitude = exponent == 0    ? std::ldexp(mantissa, -24)
                           : exponent == 31 ? (mantissa == 0 ? HUGE_VAL : NAN)
                                            : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

}  // namespace

std::optional<double> pickled_numpy_number(const PickleValue& value) {
  if (!is_numpy_call(value, ".multiarray", "scalar")) return {};
  const NumpyDType dtype = numpy_dtype(value.arg(0, "numpy scalar"));
  const HostTensor tensor = numpy_tensor(
      value, dtype, {}, value.arg(1, "numpy scalar").as_bytes("numpy scalar"));
  switch (tensor.dtype) {
    case DType::F64:
      return numpy_value<double>(tensor);
    case DType::F32:
      return numpy_value<float>(tensor);
    case DType::F16:
      return half_value(static_cast<std::uint16_t>(numpy_value<std::uint16_t>(tensor)));
    case DType::I64:
      return numpy_value<std::int64_t>(tensor);
    case DType::I32:
      return numpy_value<std::int32_t>(tensor);
    case DType::I16:
      return numpy_value<std::int16_t>(tensor);
    case DType::I8:
      return numpy_value<std::int8_t>(tensor);
    default:
      return numpy_value<std::uint8_t>(tensor);
  }
}

std::optional<HostTensor> pickled_numpy_array(const PickleValue& value) {
  const PickleValue *shape = nullptr, *dtype = nullptr, *bytes = nullptr;
  bool fortran = false;
  if (is_numpy_call(value, ".multiarray", "_reconstruct")) {
    // (version, shape, dtype, is_fortran, bytes)
    if (!value.state()) value.refuse("numpy array", "a state");
    const auto state = value.state()->as_sequence("state of a numpy array");
    if (state.size() != 5) value.refuse("state of a numpy array", "five parts");
    shape = state[1], dtype = state[2], bytes = state[4];
    fortran = state[3]->as_bool("order of a numpy array");
  } else if (is_numpy_call(value, ".numeric", "_frombuffer")) {
    // (bytes, dtype, shape, order)
    bytes = &value.arg(0, "numpy array"), dtype = &value.arg(1, "numpy array");
    shape = &value.arg(2, "numpy array");
    fortran = value.arg(3, "numpy array").as_text("order of a numpy array") == "F";
  } else {
    return {};
  }
  HostTensor tensor = numpy_tensor(value, numpy_dtype(*dtype), numpy_shape(*shape),
                                   bytes->as_bytes("numpy array"));
  if (fortran && tensor.shape.size() > 1) numpy_transpose(tensor);
  return tensor;
}

}  // namespace flowmap
