// npz of samples as guided-diffusion writes them: arr_0 [N, H, W, C] or [N, H, W] of
// bytes, arr_1 [N] of classes.
#include <cstring>
#include <map>

#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/data/picture_files.h"
#include "flowmap/formats/npy.h"

namespace flowmap {
namespace {

std::vector<std::int64_t> npz_classes(const HostTensor& labels, std::int64_t count,
                                      const std::string& where) {
  if (labels.shape != std::vector<std::int64_t>{count})
    throw DataError(where, {}, "shape [" + std::to_string(count) + "], a class a picture",
                    shape_text(labels.shape));
  std::vector<std::int64_t> classes;
  for (std::int64_t k = 0; k < count; ++k) {
    std::int64_t value = 0;
    std::int32_t narrow = 0;
    const auto at = static_cast<std::size_t>(k);
    switch (labels.dtype) {
      case DType::U8:
        value = std::to_integer<std::int64_t>(labels.bytes[at]);
        break;
      case DType::I32:
        std::memcpy(&narrow, &labels.bytes[at * sizeof narrow], sizeof narrow);
        value = narrow;
        break;
      case DType::I64:
        std::memcpy(&value, &labels.bytes[at * sizeof value], sizeof value);
        break;
      default:
        throw DataError(where, {}, "classes as uint8, int32 or int64",
                        std::string(dtype_name(labels.dtype)));
    }
    if (value < 0 || value >= 1 << 20)
      throw DataError(where, {}, "classes from 0 to 2^20 - 1", std::to_string(value));
    classes.push_back(value);
  }
  return classes;
}

}  // namespace

std::shared_ptr<PictureSource> open_picture_npz(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path) ||
      !ends_with_ignoring_case(path.string(), ".npz"))
    return nullptr;
  std::map<std::string, HostTensor> arrays = read_npz(path);
  const auto found = arrays.find("arr_0");
  if (found == arrays.end()) {
    std::vector<std::string> names;
    for (const auto& each : arrays) names.push_back(each.first);
    throw DataError(path.string(), {}, "pictures: uint8 arr_0 [N, H, W, C]",
                    names.empty() ? "nothing" : "only " + join(names, ", "));
  }
  HostTensor& pictures = found->second;
  if (pictures.dtype == DType::U8 && pictures.shape.size() == 3)
    pictures.shape.push_back(1);
  const std::vector<std::int64_t>& shape = pictures.shape;
  const bool fits = pictures.dtype == DType::U8 && shape.size() == 4 &&
                    (shape[3] == 1 || shape[3] == 3 || shape[3] == 4) && shape[1] > 0 &&
                    shape[2] > 0 && shape[1] < 1 << 20 && shape[2] < 1 << 20;
  if (!fits)
    throw DataError(path.string() + ":arr_0", {},
                    "pictures: uint8 [N, H, W, C] with 1, 3 or 4 channels",
                    std::string(dtype_name(pictures.dtype)) + " " + shape_text(shape));
  PictureArray content;
  content.facts.kind = "npz";
  content.name = path.stem().string();
  content.path = path.string();
  content.count = shape[0];
  content.height = static_cast<int>(shape[1]);
  content.width = static_cast<int>(shape[2]);
  content.channels = static_cast<int>(shape[3]);
  content.bytes = std::move(pictures.bytes);
  if (const auto labels = arrays.find("arr_1"); labels != arrays.end())
    content.classes = npz_classes(labels->second, content.count, path.string() + ":arr_1");
  return array_pictures(std::move(content));
}

}  // namespace flowmap
