// EDM's data-set format: a stored ZIP of PNGs and dataset.json with
// {"labels": [["00000/img00000000.png", 6], ...]} or null; whole numbers are classes,
// lists are label vectors.
#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/formats/image.h"
#include "flowmap/base/text.h"
#include "flowmap/formats/zip.h"
#include "flowmap/data/in_memory.h"

namespace flowmap {
namespace {

// One entry of a 64-megapixel picture is beyond any data set this is for.
constexpr std::uint64_t kMaxEntryBytes = std::uint64_t{1} << 28;
constexpr int64_t kMaxZipClasses = 1 << 20;

// Entries of pictures in sorted order, as EDM numbers them.
std::vector<std::size_t> picture_entries(const ZipReader& zip) {
  std::vector<std::size_t> entries;
  for (std::size_t i = 0; i < zip.size(); ++i)
    for (const char* ending : {".png", ".jpg", ".jpeg"})
      if (ends_with_ignoring_case(zip.name(i), ending)) {
        entries.push_back(i);
        break;
      }
  std::sort(entries.begin(), entries.end(), [&](std::size_t a, std::size_t b) {
    return zip.name(a) < zip.name(b);
  });
  return entries;
}

// HWC bytes of one decoded picture into plane order at `out`.
void planes_from_rows(const Image& image, std::uint8_t* out) {
  const std::size_t pixels = static_cast<std::size_t>(image.width) * image.height;
  for (int c = 0; c < image.channels; ++c)
    for (std::size_t p = 0; p < pixels; ++p)
      *out++ = image.pixels[p * static_cast<std::size_t>(image.channels) + c];
}

// Reads in chunks on this thread (an archive is no shared thing) and decodes each chunk
// on all processors. The first failure in entry order is the one reported.
at::Tensor decode_pictures(const ZipReader& zip, const std::vector<std::size_t>& entries) {
  const auto entry_name = [&](std::size_t k) {
    return zip.path() + ":" + zip.name(entries[k]);
  };
  const Image first = decode_image(zip.read(entries[0]), entry_name(0));
  if (first.channels != 1 && first.channels != 3)
    throw DataError(entry_name(0), {}, "a gray or RGB picture",
                    std::to_string(first.channels) + " channels");
  const std::size_t image_bytes = first.pixels.size();
  at::Tensor images =
      at::empty({static_cast<int64_t>(entries.size()), first.channels, first.height,
                 first.width}, at::kByte);
  std::uint8_t* const out = images.data_ptr<std::uint8_t>();

  const auto decode_into = [&](std::size_t k, const std::vector<std::byte>& bytes) {
    const Image image = decode_image(bytes, entry_name(k));
    if (image.width != first.width || image.height != first.height ||
        image.channels != first.channels)
      throw DataError(entry_name(k), {},
                      format("%dx%d with %d channels as the first picture", first.width,
                             first.height, first.channels),
                      format("%dx%d with %d", image.width, image.height, image.channels));
    planes_from_rows(image, out + k * image_bytes);
  };

  constexpr std::size_t kChunk = 2048;
  const std::size_t workers = std::clamp(std::thread::hardware_concurrency(), 1u, 16u);
  for (std::size_t begin = 0; begin < entries.size(); begin += kChunk) {
    const std::size_t count = std::min(kChunk, entries.size() - begin);
    std::vector<std::vector<std::byte>> bytes(count);
    for (std::size_t k = 0; k < count; ++k) bytes[k] = zip.read(entries[begin + k]);
    std::vector<std::exception_ptr> failures(count);
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
      for (std::size_t k; (k = next++) < count;) try {
          decode_into(begin + k, bytes[k]);
        } catch (...) {
          failures[k] = std::current_exception();
        }
    };
    std::vector<std::thread> threads;
    for (std::size_t w = 1; w < workers; ++w) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& failure : failures)
      if (failure) std::rethrow_exception(failure);
  }
  return images;
}

void read_zip_labels(const ZipReader& zip, const std::vector<std::size_t>& entries,
                     InMemoryImages& content) {
  using nlohmann::json;
  const std::int64_t entry = zip.find("dataset.json");
  if (entry < 0) return;
  const std::string where = zip.path() + ":dataset.json";
  const std::vector<std::byte> bytes = zip.read(static_cast<std::size_t>(entry));
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  const json root = json::parse(text, text + bytes.size(), nullptr, false);
  if (root.is_discarded() || !root.is_object())
    throw DataError(where, {}, "a JSON object", "something else");
  const auto found = root.find("labels");
  if (found == root.end() || found->is_null()) return;
  if (!found->is_array())
    throw DataError(where, {}, "\"labels\": a list or null", found->type_name());

  std::unordered_map<std::string, const json*> by_name;
  for (const json& item : *found) {
    if (!item.is_array() || item.size() != 2 || !item[0].is_string())
      throw DataError(where, {}, "pairs [\"entry name\", label]",
                      item.dump(-1, ' ', true).substr(0, 60));
    by_name[item[0].get_ref<const std::string&>()] = &item[1];
  }
  if (by_name.empty() && !entries.empty())
    throw DataError(where, {}, "a label for every picture", "an empty list");

  std::vector<int64_t> classes;
  std::vector<float> vectors;
  std::size_t width = 0;
  for (const std::size_t picture : entries) {
    const std::string& name = zip.name(picture);
    const auto label = by_name.find(name);
    if (label == by_name.end())
      throw DataError(where, {}, "a label for every picture", "none for " + name);
    const json& value = *label->second;
    if (value.is_number_integer()) {
      const auto number = value.get<int64_t>();
      if (number < 0 || number >= kMaxZipClasses)
        throw DataError(where, {}, "classes from 0 to 2^20 - 1",
                        std::to_string(number) + " for " + name);
      classes.push_back(number);
    } else if (value.is_array() && !value.empty()) {
      if (width == 0) width = value.size();
      if (value.size() != width)
        throw DataError(where, {}, std::to_string(width) + " numbers a label",
                        std::to_string(value.size()) + " for " + name);
      for (const json& number : value) {
        if (!number.is_number())
          throw DataError(where, {}, "numbers in the label of " + name,
                          number.type_name());
        vectors.push_back(number.get<float>());
      }
    } else {
      throw DataError(where, {}, "a whole number or a list of numbers",
                      std::string(value.type_name()) + " for " + name);
    }
    if (!classes.empty() && !vectors.empty())
      throw DataError(where, {}, "labels of one kind",
                      "numbers and lists, first at " + name);
  }
  if (!vectors.empty()) {
    content.vectors = at::tensor(vectors, at::kFloat)
                          .view({-1, static_cast<int64_t>(width)});
  } else {
    content.classes = at::tensor(classes, at::kLong);
    content.class_count = *std::max_element(classes.begin(), classes.end()) + 1;
  }
}

}  // namespace

std::shared_ptr<Dataset> make_edm_zip(const Config& options) {
  const std::filesystem::path path = options.path("path");
  const bool use_labels = options.boolean("labels", false);
  const int64_t max_images = options.integer("max_images", 0, 0);
  if (!std::filesystem::exists(path))
    throw UsageError("data.path: " + path.string() + " does not exist");
  const ZipReader zip(path, kMaxEntryBytes);
  const std::vector<std::size_t> entries = picture_entries(zip);
  if (entries.empty())
    throw DataError(path.string(), {}, "PNG or JPEG entries", "none");
  InMemoryImages content;
  content.source = path.string();
  content.name = path.stem().string();
  content.images = decode_pictures(zip, entries);
  read_zip_labels(zip, entries, content);
  return in_memory_dataset(std::move(content), use_labels, max_images);
}

}  // namespace flowmap
