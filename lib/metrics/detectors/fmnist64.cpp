// 64 features of a small classifier of 28x28 gray pictures (models/fmnist64.safetensors;
// configs/fashion-mnist/classifier.json). The distance over them is called fd_fmnist64
// after the detector, never FID.
#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <vector>

#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/base/program_folder.h"
#include "flowmap/base/sha256.h"
#include "flowmap/base/text.h"
#include "flowmap/data/dataset.h"
#include "flowmap/train/snapshot.h"
#include "metrics/detectors/inception_weights.h"
#include "metrics/detectors/weights_file.h"
#include "metrics/entries.h"

namespace flowmap::metrics {
namespace {

namespace fs = std::filesystem;
constexpr const char* kDetectorFile = "fmnist64.safetensors";

std::string refuse_for_fmnist64(const fs::path& file) {
  return holds_inception(file) ? "it is the 2015 Inception, of detector inception" : "";
}

fs::path find_detector_file(const std::string& given) {
  WeightsSearch search;
  search.detector = "fmnist64";
  search.given = given;
  search.places = folders_of_program(fs::path("models") / kDetectorFile);
  search.remedy =
      "train them with `flowmap train --config configs/fashion-mnist/classifier.json` "
      "and pass the snapshot as --detector FILE or FLOWMAP_DETECTOR.";
  search.refuses = refuse_for_fmnist64;
  return find_weights_file(search);
}

class Fmnist64Detector final : public Detector {
 public:
  explicit Fmnist64Detector(const fs::path& path)
      : path_(path.string()),
        checksum_(sha256_file(path)),
        snapshot_(load_snapshot(path)) {
    const auto shape = snapshot_.model->info().sample_shape;
    FM_CHECK_USAGE(shape.size() == 3, path_, ": a detector takes images, this snapshot ",
                   "takes samples of shape ", shape_text(shape));
    sample_shape_ = shape;
    const at::Tensor probe = at::zeros({1, shape[0], shape[1], shape[2]}, at::kFloat);
    dimensions_ = run(probe).size(1);
  }

  std::string name() const override {
    return dimensions_ == 64 ? "fmnist64" : "classifier" + std::to_string(dimensions_);
  }
  std::string checksum() const override { return checksum_; }
  std::vector<FeatureLayer> layers() const override {
    return {{"features", dimensions_}};
  }

  std::vector<at::Tensor> features(const at::Tensor& samples,
                                   std::span<const std::string> layers) override {
    FM_CHECK_USAGE(samples.dim() == 4 && samples.scalar_type() == at::kByte,
                   "detector ", name(), ": expected images, got ",
                   samples.dim() == 2 ? "points; take --metrics kl48" : "another shape");
    at::Tensor images = samples;
    if (images.size(1) == 3 && sample_shape_[0] == 1) images = gray(images);
    FM_CHECK_USAGE(images.sizes().slice(1) == at::IntArrayRef(sample_shape_),
                   "detector ", name(), ": takes images of ", shape_text(sample_shape_),
                   " (channels, height, width), got ",
                   shape_text(images.sizes().slice(1)));
    return std::vector<at::Tensor>(layers.size(), run(samples_to_float(images)));
  }

 private:
  at::Tensor run(const at::Tensor& x) {
    const at::NoGradGuard no_grad;
    std::map<std::string, at::Tensor> taps;
    Context context;
    context.taps = &taps;
    const Dual none;
    snapshot_.model->raw(x, none, none, Condition{}, context);
    const auto found = taps.find("features");
    FM_CHECK_USAGE(found != taps.end(), path_, ": this snapshot is no detector: its "
                   "network hands out no features (a classifier_cnn does)");
    return found->second.to(at::kFloat).clone();
  }

  // Pictures saved as RGB whose channels agree are gray; colour would be a guess.
  at::Tensor gray(const at::Tensor& images) const {
    const at::Tensor first = images.narrow(1, 0, 1);
    FM_CHECK_USAGE((images == first).all().item<bool>(), "detector ", name(), ": takes "
                   "gray pictures; these are coloured (their channels differ)");
    return first;
  }

  std::string path_, checksum_;
  Snapshot snapshot_;
  std::vector<int64_t> sample_shape_;
  int64_t dimensions_ = 0;
};

}  // namespace

std::shared_ptr<Detector> make_fmnist64(const Config& options) {
  return std::make_shared<Fmnist64Detector>(
      find_detector_file(options.string("path", "")));
}

}  // namespace flowmap::metrics
