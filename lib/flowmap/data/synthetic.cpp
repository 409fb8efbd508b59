// Endless point sets in the plane, inside [-1, 1]^2. A point is a function of its index
// alone (Philox, stream "data/NAME"), so that training draws need no state.
#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>

#include "flowmap/base/error.h"
#include "flowmap/base/rng.h"
#include "flowmap/data/in_memory.h"

namespace flowmap {
namespace {

constexpr double kPi = std::numbers::pi;

struct PlanePoint {
  double x = 0, y = 0;
  int64_t mode = 0;  // which square, blob, moon or arm: the class
};

// What a set is made from: four uniforms in [0, 1) and two unit normals (|n| < 6.77, so
// that the noise below keeps the points inside the square).
struct PlaneNoise {
  std::array<float, 4> u{};
  std::array<float, 2> n{};
};

using PlaneRule = PlanePoint (*)(const PlaneNoise&);

// 4 x 4 squares of side 1/2; square (i, j) is filled where i + j is even.
PlanePoint checkerboard_point(const PlaneNoise& noise) {
  const auto square = static_cast<int64_t>(noise.u[0] * 8);
  const int64_t j = square / 2, i = 2 * (square % 2) + j % 2;
  return {-1 + 0.5 * (static_cast<double>(i) + noise.u[1]),
          -1 + 0.5 * (static_cast<double>(j) + noise.u[2]), square};
}

// Standard deviation 0.035 around eight points of the circle of radius 0.75.
PlanePoint eight_gaussians_point(const PlaneNoise& noise) {
  const auto k = static_cast<int64_t>(noise.u[0] * 8);
  const double angle = 2 * kPi * static_cast<double>(k) / 8;
  return {0.75 * std::cos(angle) + 0.035 * noise.n[0],
          0.75 * std::sin(angle) + 0.035 * noise.n[1], k};
}

// Two interleaved half circles of radius 0.55 with noise of 0.025.
PlanePoint moons_point(const PlaneNoise& noise) {
  const int64_t k = noise.u[0] < 0.5f ? 0 : 1;
  const double angle = kPi * noise.u[1];
  const double x = k ? 1 - std::cos(angle) : std::cos(angle);
  const double y = k ? 0.5 - std::sin(angle) : std::sin(angle);
  return {0.55 * (x - 0.5) + 0.025 * noise.n[0], 0.55 * (y - 0.25) + 0.025 * noise.n[1],
          k};
}

// Two arms of one and a half turns, radius up to 0.85, with noise of 0.02.
PlanePoint spirals_point(const PlaneNoise& noise) {
  const int64_t k = noise.u[0] < 0.5f ? 0 : 1;
  const double reach = std::sqrt(static_cast<double>(noise.u[1]));
  const double angle = 3 * kPi * reach, radius = (k ? -0.85 : 0.85) * reach;
  return {radius * std::cos(angle) + 0.02 * noise.n[0],
          radius * std::sin(angle) + 0.02 * noise.n[1], k};
}

class PlaneDataset : public Dataset {
 public:
  PlaneDataset(std::string name, PlaneRule rule, int64_t modes, const Config& options)
      : name_(std::move(name)),
        rule_(rule),
        modes_(modes),
        use_labels_(options.boolean("labels", false)),
        count_(options.integer("max_images", 0, 0, kEndless)) {
    if (count_ == 0) count_ = kEndless;
  }

  DatasetInfo info() const override {
    DatasetInfo info;
    info.name = name_;
    info.sample_shape = {2};
    info.label_dim = use_labels_ ? modes_ : 0;
    info.count = count_;
    info.images = false;
    return info;
  }

  at::Tensor samples(const at::Tensor& index) const override {
    const at::Tensor points = at::empty({index.numel(), 2}, at::kFloat);
    auto out = points.accessor<float, 2>();
    for (int64_t i = 0; i < index.numel(); ++i) {
      const PlanePoint point = point_at(index, i);
      out[i][0] = static_cast<float>(point.x);
      out[i][1] = static_cast<float>(point.y);
    }
    return points;
  }

  at::Tensor labels(const at::Tensor& index) const override {
    if (!use_labels_) return {};
    const at::Tensor labels = at::zeros({index.numel(), modes_}, at::kFloat);
    auto out = labels.accessor<float, 2>();
    for (int64_t i = 0; i < index.numel(); ++i) out[i][point_at(index, i).mode] = 1;
    return labels;
  }

 private:
  static constexpr int64_t kEndless = int64_t{1} << 40;

  PlanePoint point_at(const at::Tensor& index, int64_t row) const {
    const int64_t k = index.accessor<int64_t, 1>()[row];
    FM_CHECK(k >= 0 && k < count_, name_, ": sample ", k, " of ", count_);
    PlaneNoise noise;
    const auto key = static_cast<std::uint64_t>(k);
    philox_uniforms(0, uniform_stream_, key, noise.u);
    philox_normals(0, normal_stream_, key, noise.n);
    return rule_(noise);
  }

  std::string name_;
  PlaneRule rule_;
  int64_t modes_;
  bool use_labels_;
  int64_t count_;
  std::uint64_t uniform_stream_ = stream_id("data/" + name_ + "/uniform");
  std::uint64_t normal_stream_ = stream_id("data/" + name_ + "/normal");
};

}  // namespace

std::shared_ptr<Dataset> make_checkerboard(const Config& options) {
  return std::make_shared<PlaneDataset>("checkerboard", &checkerboard_point, 8, options);
}
std::shared_ptr<Dataset> make_eight_gaussians(const Config& options) {
  return std::make_shared<PlaneDataset>("eight-gaussians", &eight_gaussians_point, 8,
                                        options);
}
std::shared_ptr<Dataset> make_moons(const Config& options) {
  return std::make_shared<PlaneDataset>("moons", &moons_point, 2, options);
}
std::shared_ptr<Dataset> make_spirals(const Config& options) {
  return std::make_shared<PlaneDataset>("spirals", &spirals_point, 2, options);
}

}  // namespace flowmap
