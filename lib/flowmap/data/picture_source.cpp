#include "flowmap/data/picture_source.h"

#include <cstring>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/data/picture_files.h"

namespace flowmap {
namespace {

// A PNG whose header says 16 bits a sample.
bool is_deep_png(std::span<const std::byte> bytes) {
  return bytes.size() > 24 && std::memcmp(bytes.data(), "\x89PNG", 4) == 0 &&
         bytes[24] == std::byte{16};
}

class ArrayPictures final : public PictureSource {
 public:
  explicit ArrayPictures(PictureArray content) : content_(std::move(content)) {
    const PictureArray& c = content_;
    picture_bytes_ = static_cast<std::size_t>(c.width) * c.height * c.channels;
    FM_CHECK(c.bytes.size() == picture_bytes_ * static_cast<std::size_t>(c.count),
             c.path, ": ", c.bytes.size(), " bytes for ", c.count, " pictures");
  }
  std::string name() const override { return content_.name; }
  std::int64_t size() const override { return content_.count; }
  std::string entry_name(std::int64_t index) const override {
    return content_.path + "[" + std::to_string(index) + "]";
  }
  PictureSourceFacts facts() const override { return content_.facts; }
  std::optional<PictureLabel> label(std::int64_t index) const override {
    if (content_.classes.empty()) return {};
    return content_.classes.at(static_cast<std::size_t>(index));
  }
  Image read(std::int64_t index) const override {
    FM_CHECK(index >= 0 && index < content_.count, content_.path, ": picture ", index,
             " of ", content_.count);
    Image image{content_.width, content_.height, content_.channels, {}};
    image.pixels.resize(picture_bytes_);
    const std::byte* from =
        content_.bytes.data() + picture_bytes_ * static_cast<std::size_t>(index);
    if (!content_.planes || content_.channels == 1) {
      std::memcpy(image.pixels.data(), from, picture_bytes_);
      return image;
    }
    const auto channels = static_cast<std::size_t>(content_.channels);
    const std::size_t plane = picture_bytes_ / channels;
    for (std::size_t c = 0; c < channels; ++c)
      for (std::size_t p = 0; p < plane; ++p)
        image.pixels[p * channels + c] = std::to_integer<std::uint8_t>(*from++);
    return image;
  }

 private:
  PictureArray content_;
  std::size_t picture_bytes_ = 0;
};

}  // namespace

bool is_picture_name(std::string_view name) {
  for (const char* ending : {".png", ".jpg", ".jpeg"})
    if (ends_with_ignoring_case(name, ending)) return true;
  return false;
}

Image EncodedPictures::read(std::int64_t index) const {
  FM_CHECK(index >= 0 && index < size(), name(), ": picture ", index, " of ", size());
  return read_and_decode(index);
}

Image EncodedPictures::decode(std::span<const std::byte> bytes, std::int64_t index) const {
  Image image = decode_image(bytes, entry_name(index));
  if (is_deep_png(bytes) && !warned_.exchange(true))
    log_warning(entry_name(index) +
                " has 16 bits a channel; of it and the others like it the upper 8 are "
                "taken");
  return image;
}

std::shared_ptr<PictureSource> array_pictures(PictureArray content) {
  return std::make_shared<ArrayPictures>(std::move(content));
}

std::shared_ptr<PictureSource> open_pictures(const std::filesystem::path& path,
                                             std::string_view flag,
                                             const std::string& split) {
  const std::string what(flag);
  FM_CHECK_USAGE(split == "train" || split == "test", "split: '", split,
                 "' is neither train nor test");
  std::error_code ignored;
  FM_CHECK_USAGE(!path.empty() && std::filesystem::exists(path, ignored), what, ": ",
                 path.string(), " does not exist");
  std::shared_ptr<PictureSource> source = open_cifar(path, flag, split);
  if (!source) source = open_idx_pictures(path, flag, split);
  if (!source) source = open_picture_npz(path);
  if (!source) source = open_picture_zip(path);
  if (!source) source = open_picture_folder(path);
  FM_CHECK_USAGE(source, what, ": cannot tell what ", path.string(),
                 " is; known: a folder of PNG or JPEG, a .zip of them, a CIFAR-10 or "
                 "CIFAR-100 tarball (.tar.gz), IDX files (MNIST), an .npz with arr_0");
  if (source->size() == 0) {
    const PictureSourceFacts facts = source->facts();
    const std::string others =
        facts.ignored == 0 ? "nothing else either"
                           : std::to_string(facts.ignored) + " other files, the first " +
                                 facts.first_ignored;
    throw UsageError(what + ": " + path.string() +
                     " holds no PNG or JPEG pictures; " + others);
  }
  return source;
}

}  // namespace flowmap
