#include <ATen/ATen.h>

#include <algorithm>

#include "apps/fid_flags.h"
#include "apps/picture.h"
#include "apps/run_options.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/formats/image.h"
#include "flowmap/resample.h"
#include "metrics/memorisation.h"

namespace flowmap::apps {
namespace {

constexpr int64_t kPairs = 32;
constexpr int kPairsInARow = 4;
constexpr int kLeastSide = 64;

Image row_picture(const SampleSource& source, int64_t row) {
  Image picture;
  source.stream({row}, 1, false, [&](std::span<const metrics::SampleGroup> groups) {
    at::Tensor samples = groups.front().samples;
    if (samples.size(1) == 1) samples = samples.expand({-1, 3, -1, -1});
    picture = to_images(samples.contiguous()).front();
  });
  return picture;
}

}  // namespace

void check_nearest(const FidFlags& flags) {
  if (flags.nearest.empty()) return;
  require_ending(flags.nearest, ".png", "--nearest");
  bool asked = false;
  for (const std::string& part : split(flags.score.metrics, ','))
    asked = asked || trim(part) == "memorisation";
  FM_CHECK_USAGE(asked, "--nearest: goes with --metrics memorisation");
  FM_CHECK_USAGE(!metrics::is_statistics_file(flags.ref), "--nearest: ", flags.ref,
                 " holds no pictures; pass the training set as --ref");
}

void draw_nearest(const std::string& png, const Scoring& scoring,
                  const SampleSource& samples, const BlockScores& block) {
  FM_CHECK_USAGE(samples.info().images, "--nearest: points have no picture");
  std::string layer;
  for (const auto& asked : scoring.scorer().asked())
    if (asked.name == "memorisation") layer = asked.layer;
  const Gathered& reference = scoring.reference_features();
  const auto pairs =
      metrics::closest_pairs(reference.features.at(layer).features,
                             block.samples.features.at(layer).features, kPairs);
  std::vector<Image> pictures;
  for (const metrics::ClosePair& pair : pairs) {
    const auto at = [](const Rows& rows, int64_t i) {
      return rows.at(static_cast<std::size_t>(i));
    };
    pictures.push_back(row_picture(samples, at(block.samples.rows, pair.generated)));
    pictures.push_back(
        row_picture(*scoring.reference().samples, at(reference.rows, pair.reference)));
  }
  // Of the first picture's size, whatever the sizes of the others.
  const int width = pictures.front().width, height = pictures.front().height;
  const int factor = std::max(1, kLeastSide / std::max(width, height));
  for (Image& picture : pictures) {
    if (picture.width != width || picture.height != height)
      picture = resize_bytes(picture, width, height, ResampleFilter::bicubic);
    if (factor > 1) picture = enlarge(picture, factor);
  }
  write_png(png, make_grid(pictures, 2 * kPairsInARow));
}

}  // namespace flowmap::apps
