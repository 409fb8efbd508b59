// Augmentation of images: against direct indexing, functions with closed forms, and what
// its labels say.
#include "flowmap/data/augment.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"

namespace flowmap {
namespace {

constexpr double kPi = std::numbers::pi;

AugmentParameters nothing(int64_t rows) {
  const at::Tensor zero = at::zeros({rows});
  return {zero, zero, zero, zero, zero, zero, zero, zero};
}
at::Tensor fill(double value, int64_t rows = 1) { return at::full({rows}, value); }

at::Tensor noise_images(std::vector<int64_t> shape) {
  return Draw(3, 0, shape[0]).normal("x", at::IntArrayRef(shape).slice(1));
}
double most(const at::Tensor& a) { return a.abs().max().item<double>(); }

// A smooth picture as a function of the place relative to the centre, in pixels.
double smooth(double x, double y) {
  return 0.5 * std::cos(0.21 * x + 0.13 * y + 0.4) + 0.4 * std::sin(0.17 * y - 0.09 * x);
}
at::Tensor smooth_image(int64_t height, int64_t width) {
  at::Tensor image = at::empty({1, 1, height, width});
  const double middle_x = (static_cast<double>(width) - 1) / 2;
  const double middle_y = (static_cast<double>(height) - 1) / 2;
  for (int64_t i = 0; i < height; ++i)
    for (int64_t j = 0; j < width; ++j)
      image[0][0][i][j] =
          smooth(static_cast<double>(j) - middle_x, static_cast<double>(i) - middle_y);
  return image;
}

TEST(Augment, NothingChangesNoBit) {
  const at::Tensor x = noise_images({4, 3, 8, 8});
  EXPECT_TRUE(at::equal(augment_images(x, nothing(4)), x));
  EXPECT_EQ(most(nothing(4).labels()), 0);
  EXPECT_EQ(nothing(4).labels().sizes(), (std::vector<int64_t>{4, kAugmentLabels}));
}

TEST(Augment, FlipsAreExact) {
  const at::Tensor x = noise_images({4, 2, 6, 5});
  AugmentParameters p = nothing(4);
  p.xflip = at::tensor({0.f, 1.f, 0.f, 1.f});
  p.yflip = at::tensor({0.f, 0.f, 1.f, 1.f});
  const at::Tensor out = augment_images(x, p);
  EXPECT_TRUE(at::equal(out[0], x[0]));
  EXPECT_TRUE(at::equal(out[1], x[1].flip({2})));
  EXPECT_TRUE(at::equal(out[2], x[2].flip({1})));
  EXPECT_TRUE(at::equal(out[3], x[3].flip({1, 2})));
  EXPECT_TRUE(at::equal(p.labels().select(1, 0), p.xflip));
  EXPECT_TRUE(at::equal(p.labels().select(1, 1), p.yflip));
}

// Whole pixels, to the right and down, mirrored at the edges without repeating them.
TEST(Augment, WholePixelShiftsAreIndexing) {
  const int64_t height = 12, width = 16;
  const at::Tensor x = noise_images({1, 3, height, width});
  for (const auto& [right, down] : std::vector<std::pair<int, int>>{
           {1, 0}, {0, 1}, {-3, 2}, {7, -5}, {9, -7}}) {
    AugmentParameters p = nothing(1);
    p.xshift = fill(right / (0.125 * static_cast<double>(width)));
    p.yshift = fill(down / (0.125 * static_cast<double>(height)));
    const auto source = [](int64_t size, int64_t shift) {
      std::vector<int64_t> index;
      for (int64_t i = 0; i < size; ++i) {
        int64_t from = std::abs(i - shift);
        if (from > size - 1) from = 2 * (size - 1) - from;
        index.push_back(from);
      }
      return at::tensor(index, at::kLong);
    };
    const at::Tensor expected =
        x.index_select(2, source(height, down)).index_select(3, source(width, right));
    EXPECT_LT(most(augment_images(x, p) - expected), 2e-5) << right << " " << down;
  }
}

TEST(Augment, FullTurnIsTheImage) {
  const at::Tensor x = noise_images({2, 3, 9, 9});
  AugmentParameters p = nothing(2);
  p.rotation = fill(2 * kPi, 2);
  const at::Tensor out = augment_images(x, p);
  EXPECT_FALSE(at::equal(out, x));  // it went through the filters
  EXPECT_LT(most(out - x), 2e-5);
}

// Quarter turns meet the fine grid; what is left is the wavelet's asymmetry.
TEST(Augment, QuarterTurns) {
  const at::Tensor x = smooth_image(16, 16);
  for (int64_t quarter = 1; quarter <= 3; ++quarter) {
    AugmentParameters p = nothing(1);
    p.rotation = fill(0.5 * kPi * static_cast<double>(quarter));
    const at::Tensor out = augment_images(x, p), expected = at::rot90(x, quarter, {2, 3});
    EXPECT_LT(most(out - expected), 0.03) << quarter;
    EXPECT_GT(most(out - at::rot90(x, quarter + 1, {2, 3})), 0.3);
  }
}

// Whatever is drawn: the place of each pixel undone step by step, the last step first.
TEST(Augment, MovesPixelsAsSaid) {
  struct Case { double zoom, rotation, stretch, angle, xshift, yshift; };
  const int64_t height = 20, width = 28;
  const at::Tensor x = smooth_image(height, width);
  double worst = 0;
  int inside = 0;
  for (const Case& c : {Case{2, 0, 0, 0, 0, 0}, {-1.5, 0, 0, 0, 0, 0}, {0, 0.6, 0, 0, 0, 0},
                        {0, 0, 2, 0, 0, 0}, {0, 0, 1.5, 0.7, 0, 0}, {0, 0, 0, 0, .4, -.3},
                        {1, -2.3, -1, 2.1, 0.35, 0.5}}) {
    AugmentParameters p = nothing(1);
    p.zoom = fill(c.zoom), p.rotation = fill(c.rotation);
    p.stretch = fill(c.stretch), p.stretch_angle = fill(c.angle);
    p.xshift = fill(c.xshift), p.yshift = fill(c.yshift);
    const at::Tensor out = augment_images(x, p);
    const double size = std::exp2(0.2 * c.zoom), along = std::exp2(0.2 * c.stretch);
    for (int64_t i = 0; i < height; ++i)
      for (int64_t j = 0; j < width; ++j) {
        double u = static_cast<double>(j) - 13.5 - 0.125 * c.xshift * width;
        double v = static_cast<double>(i) - 9.5 - 0.125 * c.yshift * height;
        // Turning by a counter-clockwise, in pictures whose y points down.
        const auto turn = [&](double a) {
          const double old = u;
          u = std::cos(a) * u + std::sin(a) * v;
          v = std::cos(a) * v - std::sin(a) * old;
        };
        turn(-c.angle);
        u /= along, v *= along;
        turn(c.angle);
        turn(-c.rotation);
        u /= size, v /= size;
        if (std::abs(u) > 8 || std::abs(v) > 4) continue;  // away from the mirror
        ++inside;
        worst = std::max(worst, std::abs(out[0][0][i][j].item<double>() - smooth(u, v)));
      }
  }
  EXPECT_GT(inside, 800);
  RecordProperty("worst", std::to_string(worst));
  EXPECT_LT(worst, 0.03);  // the wavelet is off its centre by a twentieth of a pixel
}

TEST(Augment, LabelsSayWhatWasDone) {
  AugmentParameters p = nothing(1);
  p.zoom = fill(0.5), p.rotation = fill(1.2), p.stretch = fill(-0.7);
  p.stretch_angle = fill(2.5), p.xshift = fill(0.3), p.yshift = fill(-0.4);
  const std::array<double, 9> expected = {
      0, 0, 0.5, std::cos(1.2) - 1, std::sin(1.2), -0.7 * std::cos(2.5),
      -0.7 * std::sin(2.5), 0.3, -0.4};
  for (int64_t i = 0; i < 9; ++i)
    EXPECT_NEAR(p.labels()[0][i].item<double>(), expected[static_cast<std::size_t>(i)],
                1e-6) << i;
}

// Labels of one transform are zero where it was not drawn; where all are, the image is as
// it was, bit for bit.
TEST(Augment, IsDrawnWithItsProbability) {
  const int64_t rows = 4000;
  const double probability = 0.12;
  const Draw draw(5, 100, rows);
  const at::Tensor x = draw.normal("x", {1, 4, 4});
  const auto [images, labels] = augment(x, probability, draw);
  ASSERT_EQ(labels.sizes(), (std::vector<int64_t>{rows, kAugmentLabels}));
  const auto share = [&](int64_t column) {
    return labels.select(1, column).ne(0).to(at::kDouble).mean().item<double>();
  };
  const auto expect_share = [&](int64_t column, double expected) {
    const double error = std::sqrt(expected * (1 - expected) / static_cast<double>(rows));
    EXPECT_NEAR(share(column), expected, 4 * error) << column;
  };
  expect_share(0, 0.5);
  expect_share(1, probability / 2);
  for (const int64_t column : {2, 3, 4, 5, 7, 8}) expect_share(column, probability);
  expect_share(6, probability / 2);  // the others are stretched along the axes
  const at::Tensor untouched = labels.ne(0).sum(1).eq(0);
  const double expected =
      0.5 * (1 - probability / 2) * std::pow(1 - probability, 4);
  EXPECT_NEAR(untouched.to(at::kDouble).mean().item<double>(), expected, 0.03);
  EXPECT_TRUE(at::equal(images.index({untouched}), x.index({untouched})));
  const at::Tensor moved = labels.narrow(1, 2, 7).ne(0).sum(1).ne(0);
  EXPECT_GT((images - x).abs().amax({1, 2, 3}).index({moved}).min().item<double>(), 1e-6);
  // Unit normals, and angles all around.
  const at::Tensor zoom = labels.select(1, 2).index({labels.select(1, 2).ne(0)});
  EXPECT_NEAR(zoom.square().mean().item<double>(), 1, 0.25);
  EXPECT_LT(labels.select(1, 3).min().item<double>(), -1.95);
}

TEST(Augment, ProbabilityOneAndTheOtherStreams) {
  const Draw draw(6, 0, 64);
  EXPECT_EQ(draw_augmentation(1, draw).labels().narrow(1, 2, 3).eq(0).sum().item<int64_t>(),
            0);
  // The same transforms at a lower probability: fewer, not others.
  const AugmentParameters all = draw_augmentation(1, draw);
  const AugmentParameters some = draw_augmentation(0.3, draw);
  const at::Tensor done = some.rotation.ne(0);
  EXPECT_GT(done.sum().item<int64_t>(), 5);
  EXPECT_TRUE(at::equal(some.rotation.index({done}), all.rotation.index({done})));
}

TEST(Augment, DoesNotDependOnMicroBatches) {
  const auto rows_of = [](int64_t first, int64_t rows) {
    const Draw draw(7, static_cast<uint64_t>(first), rows);
    return augment(draw.normal("x", {3, 8, 8}), 0.5, draw);
  };
  const Augmented whole = rows_of(0, 96);
  for (const int64_t rows : {8, 32}) {
    for (int64_t first = 0; first < 96; first += rows) {
      const Augmented part = rows_of(first, rows);
      EXPECT_TRUE(at::equal(part.labels, whole.labels.narrow(0, first, rows)));
      EXPECT_LT(most(part.images - whole.images.narrow(0, first, rows)), 1e-5);
    }
  }
}

TEST(Augment, TakesImagesOnly) {
  EXPECT_THROW(augment_images(at::zeros({2, 3}), nothing(2)), Error);
  EXPECT_THROW(augment_images(at::zeros({2, 1, 4, 4}), nothing(3)), Error);
  EXPECT_EQ(augment_images(at::zeros({0, 1, 4, 4}), nothing(0)).size(0), 0);
}

}  // namespace
}  // namespace flowmap
