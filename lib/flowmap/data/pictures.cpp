// Training on whatever open_pictures() reads.
#include <ATen/ATen.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/data/in_memory.h"
#include "flowmap/data/ordered_parallel.h"
#include "flowmap/data/picture_source.h"

namespace flowmap {
namespace {

// HWC bytes of one decoded picture into plane order at `out`.
void planes_from_rows(const Image& image, std::uint8_t* out) {
  const std::size_t pixels = static_cast<std::size_t>(image.width) * image.height;
  for (int c = 0; c < image.channels; ++c)
    for (std::size_t p = 0; p < pixels; ++p)
      *out++ = image.pixels[p * static_cast<std::size_t>(image.channels) + c];
}

// uint8 [N, C, H, W], decoded on all processors.
at::Tensor decode_pictures(const PictureSource& source) {
  const Image first = source.read(0);
  if (first.channels != 1 && first.channels != 3)
    throw DataError(source.entry_name(0), {}, "a gray or RGB picture",
                    std::to_string(first.channels) +
                        " channels; `flowmap dataset convert` takes alpha off");
  const std::size_t image_bytes = first.pixels.size();
  at::Tensor images =
      at::empty({source.size(), first.channels, first.height, first.width}, at::kByte);
  std::uint8_t* const out = images.data_ptr<std::uint8_t>();
  ordered_parallel(
      source.size(), 0, [&](std::int64_t k) { return source.read(k); },
      [&](std::int64_t k, const Image& image) {
        if (image.width != first.width || image.height != first.height ||
            image.channels != first.channels)
          throw DataError(source.entry_name(k), {},
                          format("%dx%d with %d channels as the first picture",
                                 first.width, first.height, first.channels),
                          format("%dx%d with %d; `flowmap dataset convert` makes sizes "
                                 "agree",
                                 image.width, image.height, image.channels));
        planes_from_rows(image, out + static_cast<std::size_t>(k) * image_bytes);
      });
  return images;
}

void copy_labels(const PictureSource& source, InMemoryImages& content) {
  std::vector<int64_t> classes;
  std::vector<float> vectors;
  for (std::int64_t k = 0; k < source.size(); ++k) {
    const std::optional<PictureLabel> label = source.label(k);
    if (!label) return;
    if (const auto* number = std::get_if<std::int64_t>(&*label)) {
      classes.push_back(*number);
    } else {
      const auto& numbers = std::get<std::vector<float>>(*label);
      vectors.insert(vectors.end(), numbers.begin(), numbers.end());
    }
  }
  if (!vectors.empty()) {
    content.vectors = at::tensor(vectors, at::kFloat).view({source.size(), -1});
  } else {
    content.classes = at::tensor(classes, at::kLong);
    content.class_count =
        std::max(*std::max_element(classes.begin(), classes.end()) + 1,
                 static_cast<int64_t>(source.facts().class_names.size()));
  }
}

}  // namespace

std::shared_ptr<Dataset> make_pictures(const Config& options) {
  const std::vector<std::string> splits{"train", "test"};
  const std::string split = options.choice("split", splits, "train");
  const bool use_labels = options.boolean("labels", false);
  const int64_t max_images = options.integer("max_images", 0, 0);
  const std::filesystem::path path = options.path("path");
  const std::shared_ptr<PictureSource> source = open_pictures(path, "data.path", split);
  const PictureSourceFacts facts = source->facts();
  if (facts.missing > 0)
    throw DataError(path.string(), {}, "every picture that dataset.json names",
                    std::to_string(facts.missing) + " missing, the first " +
                        facts.first_missing);
  InMemoryImages content;
  content.source = path.string();
  content.name = source->name();
  content.images = decode_pictures(*source);
  copy_labels(*source, content);
  return in_memory_dataset(std::move(content), use_labels, max_images);
}

}  // namespace flowmap
