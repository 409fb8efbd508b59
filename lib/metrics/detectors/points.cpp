// Points are their own features.
#include <ATen/ATen.h>

#include "flowmap/base/error.h"
#include "metrics/entries.h"

namespace flowmap::metrics {
namespace {

class PointsDetector final : public Detector {
 public:
  explicit PointsDetector(int64_t dimensions) : dimensions_(dimensions) {}
  std::string name() const override { return "points"; }
  std::string checksum() const override { return ""; }
  std::vector<FeatureLayer> layers() const override { return {{"points", dimensions_}}; }
  std::vector<at::Tensor> features(const at::Tensor& samples,
                                   std::span<const std::string> layers) override {
    FM_CHECK_USAGE(samples.dim() == 2 && samples.is_floating_point(),
                   "detector points: expected float points [N, d], got ",
                   samples.dim() == 4 ? "images" : "another shape",
                   "; for images take --detector fmnist64 or a snapshot");
    FM_CHECK_USAGE(samples.size(1) == dimensions_, "detector points: expected ",
                   dimensions_, " coordinates a point, got ", samples.size(1));
    return std::vector<at::Tensor>(layers.size(), samples.to(at::kFloat));
  }

 private:
  int64_t dimensions_;
};

}  // namespace

std::shared_ptr<Detector> make_points(const Config& options) {
  return std::make_shared<PointsDetector>(options.integer("dimensions", 2, 1, 1 << 20));
}

}  // namespace flowmap::metrics
