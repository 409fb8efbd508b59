#include "apps/image_source.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "apps/decode_ahead.h"
#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/data/picture_source.h"
#include "flowmap/formats/image.h"
#include "flowmap/formats/npy.h"
#include "flowmap/formats/zip.h"
#include "flowmap/tensor_io.h"
#include "metrics/stats_file.h"

namespace flowmap::apps {
namespace {

namespace fs = std::filesystem;
using metrics::SampleGroup;
constexpr std::size_t kBrokenNamed = 5;
constexpr int64_t kFewestPoints = 1 << 16;  // they cost nothing, so portions are large

std::string size_text(int64_t height, int64_t width) {
  return std::to_string(height) + "x" + std::to_string(width);
}

// uint8 [1, C, H, W] with 1 or 3 channels.
at::Tensor picture_tensor(const Image& image) {
  const int64_t c = image.channels;
  at::Tensor pixels = at::empty({1, image.height, image.width, c}, at::kByte);
  std::memcpy(pixels.data_ptr<std::uint8_t>(), image.pixels.data(), image.pixels.size());
  if (c == 4) pixels = pixels.narrow(3, 0, 3);
  return pixels.permute({0, 3, 1, 2}).contiguous();
}

class PictureSamples final : public SampleSource {
 public:
  explicit PictureSamples(std::shared_ptr<PictureSource> pictures)
      : pictures_(std::move(pictures)) {
    info_.name = pictures_->name();
    info_.count = pictures_->size();
    // The first that can be read; the rest is told of when it is reached.
    for (int64_t i = 0; i < info_.count && info_.sample_shape.empty(); ++i) {
      try {
        info_.sample_shape = picture_tensor(pictures_->read(i)).sizes().slice(1).vec();
      } catch (const DataError&) {
        if (i + 1 == info_.count) throw;
      }
    }
  }
  DatasetInfo info() const override { return info_; }

  StreamReport stream(const std::vector<int64_t>& rows, int64_t batch, bool skip_bad,
                      const DeliverPortion& deliver) const override {
    StreamReport report;
    DecodeAhead decoded(rows, [this](int64_t row) { return pictures_->read(row); },
                        decoding_threads(), static_cast<std::size_t>(2 * batch));
    std::vector<at::Tensor> portion;
    while (auto item = decoded.next()) {
      if (item->image) {
        portion.push_back(picture_tensor(*item->image));
        report.rows.push_back(item->row);
      } else {
        ++report.broken_count;
        if (report.broken.size() < kBrokenNamed) report.broken.push_back(item->error);
      }
      if (report.broken_count > 0 && !skip_bad)
        portion.clear();
      else if (static_cast<int64_t>(portion.size()) >= batch)
        hand_over(portion, report, deliver);
    }
    hand_over(portion, report, deliver);
    return report;
  }

 private:
  static void hand_over(std::vector<at::Tensor>& portion, StreamReport& report,
                        const DeliverPortion& deliver) {
    if (portion.empty()) return;
    std::map<std::vector<int64_t>, std::vector<int64_t>> places;
    for (std::size_t i = 0; i < portion.size(); ++i)
      places[portion[i].sizes().vec()].push_back(static_cast<int64_t>(i));
    std::vector<SampleGroup> groups;
    for (auto& [shape, group] : places) {
      report.resolutions.insert(size_text(shape[2], shape[3]));
      std::vector<at::Tensor> parts;
      for (const int64_t place : group)
        parts.push_back(portion[static_cast<std::size_t>(place)]);
      groups.push_back({at::cat(parts), std::move(group)});
    }
    report.delivered += static_cast<int64_t>(portion.size());
    portion.clear();
    deliver(groups);
  }

  std::shared_ptr<PictureSource> pictures_;
  DatasetInfo info_;
};

class DatasetSamples final : public SampleSource {
 public:
  explicit DatasetSamples(std::shared_ptr<const Dataset> data) : data_(std::move(data)) {}
  DatasetInfo info() const override { return data_->info(); }
  StreamReport stream(const std::vector<int64_t>& rows, int64_t batch, bool,
                      const DeliverPortion& deliver) const override {
    const DatasetInfo info = data_->info();
    if (!info.images) batch = std::max(batch, kFewestPoints);
    const at::Tensor index = at::tensor(rows, at::kLong);
    StreamReport report;
    report.rows = rows;
    if (info.images) report.resolutions.insert(resolution_text(info));
    for (int64_t begin = 0; begin < index.size(0); begin += batch) {
      const int64_t size = std::min(batch, index.size(0) - begin);
      SampleGroup group{data_->samples(index.narrow(0, begin, size)), {}};
      group.places.resize(static_cast<std::size_t>(size));
      std::iota(group.places.begin(), group.places.end(), 0);
      report.delivered += size;
      deliver({&group, 1});
    }
    return report;
  }

 private:
  std::shared_ptr<const Dataset> data_;
};

// Samples held as one tensor.
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

// Pictures of one size as a data set.
class PictureDataset final : public Dataset {
 public:
  PictureDataset(std::shared_ptr<SampleSource> source, std::string path)
      : source_(std::move(source)), path_(std::move(path)), info_(source_->info()) {}
  DatasetInfo info() const override { return info_; }
  at::Tensor labels(const at::Tensor&) const override { return {}; }
  at::Tensor samples(const at::Tensor& index) const override {
    const at::Tensor rows = index.contiguous();
    const int64_t* first = rows.const_data_ptr<int64_t>();
    std::vector<at::Tensor> parts;
    const StreamReport report = source_->stream(
        {first, first + rows.numel()}, 256, false,
        [&](std::span<const SampleGroup> groups) {
          for (const SampleGroup& group : groups) {
            const auto shape = group.samples.sizes().slice(1);
            if (shape != at::IntArrayRef(info_.sample_shape))
              throw DataError(path_, {}, "pictures of one size, " +
                              shape_text(info_.sample_shape) + " as the first",
                              shape_text(shape) + " (channels, height, width)");
            parts.push_back(group.samples);
          }
        });
    if (report.broken_count > 0) throw Error(report.broken[0]);
    return at::cat(parts);
  }

 private:
  std::shared_ptr<SampleSource> source_;
  std::string path_;
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

// What is held as one array; nullptr for pictures one by one.
std::shared_ptr<Dataset> open_array(const fs::path& path, std::string_view flag) {
  FM_CHECK_USAGE(!path.empty() && fs::exists(path), flag, ": ", path.string(),
                 " does not exist");
  const std::string name = path.string();
  if (fs::is_directory(path)) return nullptr;
  if (ends_with_ignoring_case(name, ".npz")) {
    const ZipReader zip(path);
    FM_CHECK_USAGE(zip.find("arr_0.npy") >= 0 || !metrics::is_statistics_file(path), flag,
                   ": ", name, " holds statistics of features, not samples; pass it as "
                   "--ref");
    return from_named(path, read_npz(path), {"points", "arr_0"}, to_tensor);
  }
  if (ends_with_ignoring_case(name, ".npy"))
    return from_array(path, to_tensor(read_npy(path)));
  if (ends_with_ignoring_case(name, ".safetensors"))
    return from_named(path, load_tensors(path), {"points", "images"},
                      [](const at::Tensor& tensor) { return tensor; });
  FM_CHECK_USAGE(!ends_with_ignoring_case(name, ".pkl"), flag, ": ", name,
                 " is a pickle, not samples; EDM2's statistics are passed as --ref");
  return nullptr;
}

}  // namespace

std::shared_ptr<SampleSource> source_of(std::shared_ptr<const Dataset> data) {
  return std::make_shared<DatasetSamples>(std::move(data));
}

std::shared_ptr<SampleSource> open_source(const fs::path& path, std::string_view flag,
                                          const std::string& split) {
  if (auto array = open_array(path, flag)) return source_of(std::move(array));
  return std::make_shared<PictureSamples>(open_pictures(path, flag, split));
}

std::shared_ptr<Dataset> open_samples(const fs::path& path, std::string_view flag) {
  if (auto array = open_array(path, flag)) return array;
  return std::make_shared<PictureDataset>(open_source(path, flag), path.string());
}

std::string resolution_text(const DatasetInfo& info) {
  if (!info.images || info.sample_shape.size() != 3) return "";
  return size_text(info.sample_shape[1], info.sample_shape[2]);
}

}  // namespace flowmap::apps
