#include <algorithm>
#include <array>

#include "flowmap/formats/pickle.h"

namespace flowmap {
namespace {

struct AllowedGlobal {
  std::string_view module, name;
};

// Nothing here is called; the list keeps out what no file of weights has a use for.
constexpr AllowedGlobal kWeightsGlobals[] = {
    {"collections", "OrderedDict"},
    {"collections", "defaultdict"},
    {"_codecs", "encode"},
    {"argparse", "Namespace"},
    {"dnnlib", "EasyDict"},
    {"dnnlib.util", "EasyDict"},
    {"torch_utils.persistence", "_reconstruct_persistent_obj"},
    {"numpy", "dtype"},
    {"numpy", "ndarray"},
    {"numpy.core.multiarray", "scalar"},
    {"numpy.core.multiarray", "_reconstruct"},
    {"numpy._core.multiarray", "scalar"},
    {"numpy._core.multiarray", "_reconstruct"},
    {"numpy.core.numeric", "_frombuffer"},
    {"numpy._core.numeric", "_frombuffer"},
    {"torch", "Size"},
    {"torch", "Tensor"},
    {"torch", "device"},
    {"torch._utils", "_rebuild_tensor"},
    {"torch._utils", "_rebuild_tensor_v2"},
    {"torch._utils", "_rebuild_tensor_v3"},
    {"torch._utils", "_rebuild_parameter"},
    {"torch._utils", "_rebuild_parameter_with_state"},
    {"torch._tensor", "_rebuild_from_type_v2"},
    {"torch.nn.parameter", "Parameter"},
    {"torch.nn.parameter", "Buffer"},
    {"torch.storage", "_load_from_bytes"},
    {"torch.storage", "UntypedStorage"},
    {"torch.storage", "TypedStorage"},
    {"torch.storage", "_UntypedStorage"},
    {"torch.storage", "_TypedStorage"},
};

constexpr std::string_view kBuiltins[] = {
    "bool", "bytearray", "bytes",  "complex", "dict",  "float", "frozenset", "int",
    "list", "long",      "object", "set",     "slice", "str",   "tuple"};

constexpr std::string_view kTorchDTypes[] = {
    "float64",   "float32",       "float16",     "bfloat16",        "int64",
    "int32",     "int16",         "int8",        "uint8",           "bool",
    "uint16",    "uint32",        "uint64",      "complex64",       "complex128",
    "complex32", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"};

constexpr std::string_view kNumpyScalars[] = {
    "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool_"};

template <std::size_t N>
bool among(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// A name without dots: no way from an allowed module to another.
bool is_identifier(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '_';
  });
}

}  // namespace

bool allow_weights_global(std::string_view module, std::string_view name) {
  if (!is_identifier(name)) return false;
  for (const AllowedGlobal& allowed : kWeightsGlobals)
    if (allowed.module == module && allowed.name == name) return true;
  if (module == "builtins" || module == "__builtin__") return among(kBuiltins, name);
  if (module == "copyreg" || module == "copy_reg") return name == "_reconstructor";
  if (module == "torch" || module == "torch.cuda")
    return name.ends_with("Storage") || among(kTorchDTypes, name);
  if (module == "numpy") return among(kNumpyScalars, name);
  return module.starts_with("torch.nn.modules.");
}

}  // namespace flowmap
