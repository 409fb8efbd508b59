#include "flowmap/convert/picture_statistics.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/convert/transform.h"
#include "flowmap/data/ordered_parallel.h"

namespace flowmap {
namespace {

// Sums over the pixels of one picture: at most 2^28 of them, squares below 2^16.
struct PictureSums {
  std::array<int, 3> shape{};
  std::array<std::uint64_t, 3> sum{}, squares{};
  std::uint64_t hash = 0;
  std::string broken;
};

PictureSums sums_of(const Image& image) {
  PictureSums sums;
  sums.shape = {image.width, image.height, image.channels};
  const auto channels = static_cast<std::size_t>(image.channels);
  for (std::size_t c = 0; c < std::min<std::size_t>(channels, 3); ++c) {
    std::uint64_t sum = 0, squares = 0;
    for (std::size_t i = c; i < image.pixels.size(); i += channels) {
      const std::uint64_t v = image.pixels[i];
      sum += v;
      squares += v * v;
    }
    sums.sum[c] = sum;
    sums.squares[c] = squares;
  }
  const std::string_view pixels(reinterpret_cast<const char*>(image.pixels.data()),
                                image.pixels.size());
  sums.hash = std::hash<std::string_view>()(pixels) * 31 +
              static_cast<std::uint64_t>(image.width) * 4 + channels;
  return sums;
}

// 128 bits: 2^28 pixels of 2^16 in each of 2^40 pictures.
__extension__ using WideSum = unsigned __int128;

class ChannelSums {
 public:
  void add(const PictureSums& picture) {
    const bool gray = picture.shape[2] == 1;
    all_gray_ &= gray;
    pixels_ += static_cast<std::uint64_t>(picture.shape[0]) * picture.shape[1];
    for (std::size_t c = 0; c < 3; ++c) {
      sum_[c] += picture.sum[gray ? 0 : c];
      squares_[c] += picture.squares[gray ? 0 : c];
    }
  }
  void finish(PictureStatistics& out) const {
    if (pixels_ == 0) return;
    const auto n = static_cast<long double>(pixels_);
    for (std::size_t c = 0; c < (all_gray_ ? 1u : 3u); ++c) {
      const long double mean = static_cast<long double>(sum_[c]) / n;
      const long double variance = static_cast<long double>(squares_[c]) / n - mean * mean;
      out.mean.push_back(static_cast<double>(mean / 255));
      out.deviation.push_back(
          static_cast<double>(std::sqrt(std::max(variance, 0.0L)) / 255));
    }
  }

 private:
  std::array<WideSum, 3> sum_{}, squares_{};
  std::uint64_t pixels_ = 0;
  bool all_gray_ = true;
};

}  // namespace

PictureStatistics picture_statistics(
    const PictureSource& source, int workers,
    const std::function<void(std::int64_t, std::int64_t)>& progress) {
  PictureStatistics out;
  ChannelSums sums;
  std::unordered_set<std::uint64_t> seen;
  ordered_parallel(
      source.size(), workers,
      [&](std::int64_t k) {
        try {
          return sums_of(source.read(k));
        } catch (const Error& error) {
          PictureSums broken;
          broken.broken = error.what();
          return broken;
        }
      },
      [&](std::int64_t k, const PictureSums& picture) {
        if (interrupted()) throw Interrupted("stopped; nothing was written");
        if (const std::optional<PictureLabel> label = source.label(k)) {
          if (const auto* number = std::get_if<std::int64_t>(&*label))
            ++out.classes[*number];
          else
            out.label_width = std::get<std::vector<float>>(*label).size();
        }
        if (progress) progress(k + 1, source.size());
        if (!picture.broken.empty()) {
          if (out.broken++ == 0) out.first_broken = picture.broken;
          return;
        }
        ++out.count;
        ++out.shapes[picture.shape];
        out.duplicates += !seen.insert(picture.hash).second;
        sums.add(picture);
      });
  sums.finish(out);
  return out;
}

Image picture_overview(const PictureSource& source, std::int64_t count) {
  constexpr int kWidestTile = 256, kNarrowestTile = 64;
  count = std::clamp<std::int64_t>(count, 1, source.size());
  std::vector<Image> pictures;
  bool gray = true;
  for (std::int64_t k = 0; k < count; ++k) {
    try {
      pictures.push_back(source.read(k * source.size() / count));
      gray &= pictures.back().channels == 1;
    } catch (const DataError&) {
      continue;  // counted and named by the statistics
    }
  }
  if (pictures.empty())
    throw DataError(source.entry_name(0), {}, "pictures that can be read", "none");
  TransformOptions tile;
  tile.gray_to_rgb = !gray;
  const Image& first = pictures.front();
  const double scale = std::min(1.0, double{kWidestTile} / first.width);
  tile.width = std::max(1, static_cast<int>(std::lround(first.width * scale)));
  tile.height = std::max(1, static_cast<int>(std::lround(first.height * scale)));
  for (Image& picture : pictures) picture = *transform_picture(std::move(picture), tile);
  const int columns =
      static_cast<int>(std::ceil(std::sqrt(static_cast<double>(pictures.size()))));
  const int factor = std::max(1, kNarrowestTile / tile.width);
  return enlarge(make_grid(pictures, columns), factor);
}

}  // namespace flowmap
