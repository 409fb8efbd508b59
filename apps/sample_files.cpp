#include "apps/sample_files.h"

#include <ATen/ATen.h>

#include <utility>

#include "apps/run_options.h"
#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/formats/image.h"
#include "flowmap/formats/npy.h"
#include "flowmap/base/text.h"
#include "flowmap/data/dataset.h"
#include "flowmap/tensor_io.h"

namespace flowmap::apps {
namespace {

// bytes uint8 [H, W, C]
Image picture_from_rows(const at::Tensor& bytes) {
  const at::Tensor rows = bytes.contiguous();
  Image image;
  image.height = static_cast<int>(rows.size(0));
  image.width = static_cast<int>(rows.size(1));
  image.channels = static_cast<int>(rows.size(2));
  const auto* data = rows.const_data_ptr<std::uint8_t>();
  image.pixels.assign(data, data + rows.numel());
  return image;
}

}  // namespace

std::filesystem::path SampleFiles::image_path(std::int64_t number) const {
  std::filesystem::path folder = outdir;
  if (subdirs)
    folder /= format("%06lld", static_cast<long long>(number - number % 1000));
  return folder / format("%06lld.png", static_cast<long long>(number));
}

SampleWriter::SampleWriter(SampleFiles files, std::vector<std::int64_t> sample_shape,
                           std::vector<std::int64_t> numbers,
                           std::map<std::string, std::string> texts)
    : files_(std::move(files)),
      sample_shape_(std::move(sample_shape)),
      numbers_(std::move(numbers)),
      texts_(std::move(texts)) {
  for (const auto& [flag, value] :
       {std::pair{"--outdir", files_.outdir}, {"--grid", files_.grid}})
    if (!value.empty() && !is_picture())
      throw UsageError(std::string(flag) + ": samples of shape " +
                       shape_text(sample_shape_) +
                       " have no pictures; use --npz or --raw");
  if (!files_.outdir.empty()) make_directories(files_.outdir);
  if (!files_.grid.empty()) prepare_output(files_.grid, files_.overwrite, "--grid");
  if (!files_.npz.empty()) prepare_output(files_.npz, files_.overwrite, "--npz");
  if (!files_.raw.empty()) prepare_output(files_.raw, files_.overwrite, "--raw");
}

void SampleWriter::add(const samplers::GeneratedBatch& batch) {
  const at::Tensor finite = batch.samples.isfinite().flatten(1).all(1);
  if (!finite.all().item<bool>()) {
    const auto row = finite.logical_not().nonzero()[0][0].item<int64_t>() + batch.first;
    throw Error(format("sample %lld is not finite: the network gives NaN or infinity; try "
                       "--dtype float32 or float64, or another snapshot",
                       static_cast<long long>(numbers_[static_cast<std::size_t>(row)])));
  }
  if (!files_.raw.empty() || !is_picture()) floats_.push_back(batch.samples);
  if (batch.classes.defined() && !files_.npz.empty()) classes_.push_back(batch.classes);
  if (!is_picture()) return;
  // [b, H, W, C]
  const at::Tensor bytes = images_to_bytes(batch.samples).permute({0, 2, 3, 1}).contiguous();
  if (!files_.grid.empty() || !files_.npz.empty()) bytes_.push_back(bytes);
  if (!files_.outdir.empty()) write_pictures(bytes, batch);
}

void SampleWriter::write_pictures(const at::Tensor& bytes,
                                  const samplers::GeneratedBatch& batch) {
  for (int64_t i = 0; i < bytes.size(0); ++i) {
    const std::int64_t number = numbers_[static_cast<std::size_t>(batch.first + i)];
    const std::filesystem::path path = files_.image_path(number);
    if (!files_.overwrite && std::filesystem::is_regular_file(path)) {
      ++kept_;
      continue;
    }
    if (files_.subdirs) make_directories(path.parent_path());
    std::map<std::string, std::string> texts = texts_;
    texts["seed"] = std::to_string(number);
    if (batch.classes.defined())
      texts["class"] = std::to_string(batch.classes[i].item<int64_t>());
    write_png(path, picture_from_rows(bytes[i]), texts);
    ++written_;
  }
}

void SampleWriter::finish() {
  if (!files_.grid.empty()) {
    std::vector<Image> images;
    for (const at::Tensor& batch : bytes_)
      for (int64_t i = 0; i < batch.size(0); ++i)
        images.push_back(picture_from_rows(batch[i]));
    write_png(files_.grid, make_grid(images, files_.grid_columns), texts_);
  }
  if (!files_.npz.empty()) {
    // guided-diffusion's keys for images.
    std::map<std::string, HostTensor> arrays;
    if (is_picture())
      arrays["arr_0"] = to_host(at::cat(bytes_));
    else if (is_image())
      arrays["samples"] = to_host(at::cat(floats_).to(at::kFloat));
    else
      arrays["points"] = to_host(at::cat(floats_));
    if (!classes_.empty())
      arrays[is_picture() ? "arr_1" : "labels"] = to_host(at::cat(classes_));
    write_npz(files_.npz, arrays);
  }
  if (!files_.raw.empty())
    save_tensors(files_.raw, {{is_image() ? "images" : "points", at::cat(floats_)}},
                 texts_);
}

}  // namespace flowmap::apps
