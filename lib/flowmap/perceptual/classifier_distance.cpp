#include "flowmap/perceptual/classifier_distance.h"

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/base/program_folder.h"
#include "flowmap/base/text.h"
#include "flowmap/train/snapshot.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;
constexpr const char* kClassifierFile = "fmnist64.safetensors";

fs::path find_classifier(const Config& options) {
  const fs::path given = options.path("path", "");
  FM_CHECK_USAGE(given.empty() || fs::is_regular_file(given), options.where("path"),
                 ": perceptual.path: ", given.string(), " does not exist");
  if (!given.empty()) return given;
  for (const fs::path& place : folders_of_program(fs::path("models") / kClassifierFile))
    if (fs::is_regular_file(place)) return place;
  throw UsageError(format("the perceptual distance `classifier` needs models/%s, which is "
                          "not beside the program; train one with `flowmap train --config "
                          "configs/fashion-mnist/classifier.json` and give the snapshot as "
                          "perceptual.path", kClassifierFile));
}

class ClassifierDistance final : public PerceptualDistance {
 public:
  explicit ClassifierDistance(const fs::path& path)
      : path_(path.string()), model_(load_snapshot(path).model) {
    const ModelInfo info = model_->info();
    FM_CHECK_USAGE(info.sample_shape.size() == 3, path_, ": is no classifier of images");
    const at::Tensor probe =
        at::zeros({1, info.sample_shape[0], info.sample_shape[1], info.sample_shape[2]});
    const at::NoGradGuard no_grad;
    FM_CHECK_USAGE(!features(probe).empty(), path_, ": this network hands out no features; "
                   "a classifier_cnn does (configs/fashion-mnist/classifier.json)");
  }

  std::string name() const override { return "classifier"; }

  at::Tensor operator()(const at::Tensor& a, const at::Tensor& b) override {
    const std::vector<int64_t> shape = model_->info().sample_shape;
    FM_CHECK_USAGE(a.sizes().slice(1) == at::IntArrayRef(shape), path_,
                   ": compares images of ", shape_text(shape),
                   " (channels, height, width), got ", shape_text(a.sizes().slice(1)));
    const at::Tensor like = model_->parameters()[0];
    const at::ScalarType type = a.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    if (like.device() != a.device() || like.scalar_type() != type)
      model_->to(a.device(), type);
    const auto of_a = features(a), of_b = features(b);
    at::Tensor total;
    for (const auto& [layer, map] : of_a) {
      const at::Tensor gap =
          unit_features(map.to(type)) - unit_features(of_b.at(layer).to(type));
      const at::Tensor term = gap.square().sum(1).flatten(1).mean(1);
      total = total.defined() ? total + term : term;
    }
    return total;
  }

 private:
  std::map<std::string, at::Tensor> features(const at::Tensor& images) {
    std::map<std::string, at::Tensor> taps;
    Context context;
    context.taps = &taps;
    const Dual none;
    model_->raw(images, none, none, Condition{}, context);
    for (auto& [name, map] : taps)
      if (map.dim() < 3) map = map.unsqueeze(2);  // [B, C, positions]
    return taps;
  }

  std::string path_;
  std::shared_ptr<Model> model_;
};

}  // namespace

std::shared_ptr<PerceptualDistance> make_classifier_distance(const Config& options) {
  return std::make_shared<ClassifierDistance>(find_classifier(options));
}

}  // namespace flowmap
