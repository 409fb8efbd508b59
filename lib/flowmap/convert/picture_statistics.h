// What `flowmap dataset inspect` says of a source of pictures.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "flowmap/data/picture_source.h"

namespace flowmap {

struct PictureStatistics {
  std::int64_t count = 0;   // readable
  std::int64_t broken = 0;
  std::string first_broken;  // the message of its error
  std::map<std::array<int, 3>, std::int64_t> shapes;  // {width, height, channels}
  std::map<std::int64_t, std::int64_t> classes;       // pictures of each
  std::size_t label_width = 0;                        // of label vectors; 0: none
  // Pictures equal to an earlier one, by a 64-bit hash of size and pixels.
  std::int64_t duplicates = 0;
  // Per channel over all pixels / 255, population deviation: exact integer sums, float64
  // at the end. 1 channel where all are gray; 3 otherwise, gray counted in each and alpha
  // left out.
  std::vector<double> mean, deviation;
};

// Reads every picture once, on `workers` threads (0: as many as processors). Throws
// Interrupted.
PictureStatistics picture_statistics(
    const PictureSource& source, int workers = 0,
    const std::function<void(std::int64_t, std::int64_t)>& progress = {});

// `count` pictures evenly spread over the source, broken ones left out, each enlarged by a
// whole factor or resized to one tile (of the first's shape, at most 256 pixels wide), in
// a grid with about as many columns as rows. Gray where all are. Throws DataError where
// none can be read.
Image picture_overview(const PictureSource& source, std::int64_t count);

}  // namespace flowmap
