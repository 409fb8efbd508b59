// Pictures of any source into an EDM data set.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "flowmap/convert/transform.h"
#include "flowmap/data/picture_source.h"

namespace flowmap {

struct ConvertOptions {
  std::filesystem::path dest;  // a .zip or a folder (convert/dataset_writer.h)
  TransformOptions transform;
  std::int64_t max_images = 0;  // the first so many of the source; 0: all
  bool skip_bad = false;        // pass over broken pictures rather than stop
  int workers = 0;              // threads; 0: as many as processors
  int compression = 0;          // of the PNGs, 0 (stored, as EDM's) to 9
};

struct ConvertReport {
  std::int64_t written = 0;
  std::int64_t too_small = 0;  // left out by center-crop-wide
  std::int64_t broken = 0;     // passed over
  std::int64_t alpha = 0;      // lost an alpha channel
  std::string first_broken;    // the message of its error
  int width = 0, height = 0, channels = 0;
  bool labelled = false;
};

// Pictures keep the number of their place in the source, so that what is left out leaves
// gaps (EDM). `progress` is called now and then with how many are through, and of how
// many. Throws UsageError (options; pictures of several sizes or kinds, which names both
// and the flags that help), DataError (a broken picture; files that dataset.json names
// and that are not there), Interrupted. Then nothing is written.
ConvertReport convert_pictures(
    const PictureSource& source, const ConvertOptions& options,
    const std::function<void(std::int64_t, std::int64_t)>& progress = {});

}  // namespace flowmap
