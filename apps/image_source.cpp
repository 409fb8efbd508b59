#include "apps/image_source.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/formats/image.h"
#include "flowmap/formats/npy.h"
#include "flowmap/base/text.h"
#include "flowmap/tensor_io.h"

namespace flowmap::apps {
namespace {

namespace fs = std::filesystem;

bool is_picture(const fs::path& path) {
  for (const char* ending : {".png", ".jpg", ".jpeg"})
    if (ends_with_ignoring_case(path.string(), ending)) return true;
  return false;
}

class FolderOfPictures final : public Dataset {
 public:
  FolderOfPictures(const fs::path& folder, std::vector<fs::path> files)
      : files_(std::move(files)), first_(read_image(files_[0])) {
    info_.name = folder.filename().string();
    info_.sample_shape = {first_.channels, first_.height, first_.width};
    info_.count = static_cast<int64_t>(files_.size());
  }
  DatasetInfo info() const override { return info_; }
  at::Tensor labels(const at::Tensor&) const override { return {}; }
  at::Tensor samples(const at::Tensor& index) const override {
    at::Tensor rows = at::empty({index.size(0), first_.height, first_.width,
                                 first_.channels}, at::kByte);
    auto* out = rows.data_ptr<std::uint8_t>();
    for (int64_t i = 0; i < index.size(0); ++i) {
      const auto row = static_cast<std::size_t>(index[i].item<int64_t>());
      const fs::path& file = files_.at(row);
      const Image image = read_image(file);
      if (image.width != first_.width || image.height != first_.height ||
          image.channels != first_.channels)
        throw DataError(file.string(), {},
                        format("%dx%d with %d channels as in %s", first_.width,
                               first_.height, first_.channels, files_[0].c_str()),
                        format("%dx%d with %d", image.width, image.height,
                               image.channels));
      std::memcpy(out, image.pixels.data(), image.pixels.size());
      out += image.pixels.size();
    }
    return rows.permute({0, 3, 1, 2}).contiguous();
  }

 private:
  std::vector<fs::path> files_;
  Image first_;
  DatasetInfo info_;
};

class SampleArray final : public Dataset {
 public:
  SampleArray(const fs::path& path, at::Tensor samples) : samples_(std::move(samples)) {
    info_.name = path.stem().string();
    info_.sample_shape = samples_.sizes().slice(1).vec();
    info_.count = samples_.size(0);
    info_.images = samples_.dim() == 4;
  }
  DatasetInfo info() const override { return info_; }
  at::Tensor labels(const at::Tensor&) const override { return {}; }
  at::Tensor samples(const at::Tensor& index) const override {
    return samples_.index_select(0, index);
  }

 private:
  at::Tensor samples_;
  DatasetInfo info_;
};

// [N, d] floats; [N, H, W, C] bytes (channels last) or [N, C, H, W] floats.
std::shared_ptr<Dataset> from_array(const fs::path& path, at::Tensor array) {
  if (array.dim() == 2 && array.is_floating_point())
    array = array.to(at::kFloat);
  else if (array.dim() == 4 && array.scalar_type() == at::kByte)
    array = array.permute({0, 3, 1, 2}).contiguous();
  else if (array.dim() == 4 && array.is_floating_point())
    array = images_to_bytes(array.to(at::kFloat));
  else
    throw DataError(path.string(), {},
                    "uint8 images [N, H, W, C] or float points [N, d]",
                    std::string(dtype_name(file_dtype(array.scalar_type()))) + " " +
                        shape_text(array.sizes()));
  return std::make_shared<SampleArray>(path, array);
}

template <class Map, class Convert>
std::shared_ptr<Dataset> from_named(const fs::path& path, const Map& arrays,
                                    std::initializer_list<const char*> keys,
                                    Convert convert) {
  for (const char* key : keys)
    if (const auto found = arrays.find(key); found != arrays.end())
      return from_array(path, convert(found->second));
  std::vector<std::string> names;
  for (const auto& item : arrays) names.push_back(item.first);
  const std::vector<std::string> wanted(keys.begin(), keys.end());
  throw DataError(path.string(), {}, "an array " + join(wanted, " or "),
                  names.empty() ? "no arrays" : "only " + join(names, ", "));
}

}  // namespace

std::shared_ptr<Dataset> open_samples(const fs::path& path, std::string_view flag) {
  FM_CHECK_USAGE(!path.empty() && fs::exists(path), flag, ": ", path.string(),
                 " does not exist");
  const std::string name = path.string();
  if (fs::is_directory(path)) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(path))
      if (entry.is_regular_file() && is_picture(entry.path()))
        files.push_back(entry.path());
    if (!files.empty()) {
      std::sort(files.begin(), files.end());
      return std::make_shared<FolderOfPictures>(path, std::move(files));
    }
  } else if (ends_with_ignoring_case(name, ".npz")) {
    return from_named(path, read_npz(path), {"points", "arr_0"}, to_tensor);
  } else if (ends_with_ignoring_case(name, ".npy")) {
    return from_array(path, to_tensor(read_npy(path)));
  } else if (ends_with_ignoring_case(name, ".safetensors")) {
    return from_named(path, load_tensors(path), {"points", "images"},
                      [](const at::Tensor& tensor) { return tensor; });
  }
  Config options;
  options.set_override("path=" + fs::absolute(path).string(), flag);
  options.set_json("labels", "false", flag);
  try {
    return make_dataset(options);
  } catch (const UsageError& error) {
    throw UsageError(std::string(flag) + ": " + name + ": neither PNG/JPEG pictures, an "
                     "EDM zip, an npz of samples nor IDX files (" + error.what() + ")");
  }
}

std::string resolution_text(const DatasetInfo& info) {
  if (!info.images || info.sample_shape.size() != 3) return "";
  return std::to_string(info.sample_shape[1]) + "x" +
         std::to_string(info.sample_shape[2]);
}

}  // namespace flowmap::apps
