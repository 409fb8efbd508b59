// Zips of PNG and JPEG files, EDM's data sets above all.
#include <algorithm>
#include <utility>

#include "flowmap/base/text.h"
#include "flowmap/data/edm_labels.h"
#include "flowmap/data/picture_files.h"
#include "flowmap/formats/zip.h"

namespace flowmap {
namespace {

// One entry of a 64-megapixel picture is beyond any data set this is for.
constexpr std::uint64_t kMaxPictureBytes = std::uint64_t{1} << 28;

class PictureZip final : public EncodedPictures {
 public:
  explicit PictureZip(const std::filesystem::path& path)
      : zip_(path, kMaxPictureBytes), name_(path.stem().string()) {
    facts_.kind = "zip";
    for (std::size_t i = 0; i < zip_.size(); ++i) {
      const std::string& entry = zip_.name(i);
      if (is_picture_name(entry)) {
        entries_.push_back(i);
      } else if (!entry.ends_with('/') && entry != "dataset.json") {
        if (facts_.ignored++ == 0) facts_.first_ignored = zip_.path() + ":" + entry;
      }
    }
    std::sort(entries_.begin(), entries_.end(), [&](std::size_t a, std::size_t b) {
      return zip_.name(a) < zip_.name(b);
    });
    const std::int64_t json = zip_.find("dataset.json");
    if (json < 0) return;
    EdmLabels read = parse_edm_labels(
        zip_.read(static_cast<std::size_t>(json)), zip_.path() + ":dataset.json",
        entries_.size(), [&](std::size_t k) { return zip_.name(entries_[k]); });
    labels_ = std::move(read.labels);
    facts_.missing = read.missing;
    facts_.first_missing = read.first_missing;
  }

  std::string name() const override { return name_; }
  std::int64_t size() const override { return static_cast<std::int64_t>(entries_.size()); }
  std::string entry_name(std::int64_t index) const override {
    return zip_.path() + ":" + zip_.name(entries_.at(static_cast<std::size_t>(index)));
  }
  std::optional<PictureLabel> label(std::int64_t index) const override {
    if (labels_.empty()) return {};
    return labels_.at(static_cast<std::size_t>(index));
  }
  PictureSourceFacts facts() const override { return facts_; }

 private:
  Image read_and_decode(std::int64_t index) const override {
    return decode(zip_.read(entries_[static_cast<std::size_t>(index)]), index);
  }

  ZipReader zip_;
  std::string name_;
  std::vector<std::size_t> entries_;
  std::vector<PictureLabel> labels_;
  PictureSourceFacts facts_;
};

}  // namespace

std::shared_ptr<PictureSource> open_picture_zip(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path) ||
      !ends_with_ignoring_case(path.string(), ".zip"))
    return nullptr;
  return std::make_shared<PictureZip>(path);
}

}  // namespace flowmap
