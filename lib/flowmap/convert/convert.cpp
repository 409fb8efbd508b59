#include "flowmap/convert/convert.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/convert/dataset_writer.h"
#include "flowmap/data/ordered_parallel.h"

namespace flowmap {
namespace {

// What a worker makes of one picture.
struct ConvertedPicture {
  std::optional<std::vector<std::byte>> png;
  int width = 0, height = 0, channels = 0;
  bool alpha = false;
  std::string broken;  // the error's message
};

ConvertedPicture convert_picture(const PictureSource& source, std::int64_t index,
                                 const ConvertOptions& options) {
  ConvertedPicture out;
  std::optional<Image> image;
  try {
    image = source.read(index);
  } catch (const UsageError&) {
    throw;
  } catch (const Error& error) {
    if (!options.skip_bad) throw;
    out.broken = error.what();
    return out;
  }
  out.alpha = image->channels == 4;
  image = transform_picture(*std::move(image), options.transform);
  if (!image) return out;
  out.width = image->width;
  out.height = image->height;
  out.channels = image->channels;
  out.png = encode_png(*image, {}, options.compression);
  return out;
}

const char* convert_colours(int channels) { return channels == 1 ? "gray" : "RGB"; }

// Of a picture unlike the first: what helps.
[[noreturn]] void refuse_mixture(const ConvertReport& first, const std::string& first_name,
                                 const ConvertedPicture& other, const std::string& name) {
  const bool sizes = first.width != other.width || first.height != other.height;
  throw UsageError(format(
      "%s is %dx%d %s and %s is %dx%d %s; %s", first_name.c_str(), first.width,
      first.height, convert_colours(first.channels), name.c_str(), other.width,
      other.height, convert_colours(other.channels),
      sizes ? "pass --resolution=WxH, and --transform=center-crop to keep proportions"
            : "pass --gray=rgb"));
}

}  // namespace

ConvertReport convert_pictures(
    const PictureSource& source, const ConvertOptions& options,
    const std::function<void(std::int64_t, std::int64_t)>& progress) {
  check_transform(options.transform);
  FM_CHECK_USAGE(options.max_images >= 0 && options.workers >= 0, "--max-images, ",
                 "--workers: numbers below zero");
  FM_CHECK_USAGE(options.compression >= 0 && options.compression <= 9,
                 "--compression: takes 0 to 9");
  ConvertReport report;
  const PictureSourceFacts facts = source.facts();
  if (facts.missing > 0 && !options.skip_bad)
    throw DataError(facts.first_missing, {},
                    "every picture that dataset.json names (--skip-bad goes on without)",
                    "no such file; " + std::to_string(facts.missing) + " are missing");
  const std::int64_t count =
      options.max_images > 0 ? std::min(options.max_images, source.size()) : source.size();

  DatasetWriter writer(options.dest);
  std::string first_name;
  ordered_parallel(
      count, options.workers,
      [&](std::int64_t k) { return convert_picture(source, k, options); },
      [&](std::int64_t k, const ConvertedPicture& picture) {
        if (interrupted())
          throw Interrupted("stopped at picture " + std::to_string(k) + " of " +
                            std::to_string(count) + "; nothing was written");
        if (!picture.broken.empty()) {
          if (report.broken++ == 0) report.first_broken = picture.broken;
        } else if (!picture.png) {
          ++report.too_small;
        } else {
          if (report.written == 0) {
            report.width = picture.width;
            report.height = picture.height;
            report.channels = picture.channels;
            first_name = source.entry_name(k);
          }
          if (picture.width != report.width || picture.height != report.height ||
              picture.channels != report.channels)
            refuse_mixture(report, first_name, picture, source.entry_name(k));
          report.alpha += picture.alpha;
          ++report.written;
          const std::optional<PictureLabel> label = source.label(k);
          report.labelled = label.has_value();
          writer.add(k, *picture.png, label);
        }
        if (progress) progress(k + 1, count);
      });
  if (report.written == 0)
    throw DataError(source.entry_name(0), {}, "a picture that can be written",
                    std::to_string(report.broken) + " broken and " +
                        std::to_string(report.too_small) +
                        " smaller than --resolution");
  writer.commit();
  return report;
}

}  // namespace flowmap
