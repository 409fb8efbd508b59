// Folders of PNG and JPEG files.
#include <algorithm>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/data/edm_labels.h"
#include "flowmap/data/picture_files.h"

namespace fs = std::filesystem;

namespace flowmap {
namespace {

class PictureFolder final : public EncodedPictures {
 public:
  explicit PictureFolder(fs::path folder) : folder_(std::move(folder)) {
    facts_.kind = "folder";
    list_files();
    const fs::path json = folder_ / "dataset.json";
    if (fs::is_regular_file(json)) {
      const MappedFile file(json);
      EdmLabels read = parse_edm_labels(
          file.bytes(), json.string(), files_.size(),
          [&](std::size_t k) { return files_[k].generic_string(); });
      labels_ = std::move(read.labels);
      facts_.missing = read.missing;
      facts_.first_missing = read.first_missing;
    }
    if (labels_.empty()) label_by_folder();
  }

  std::string name() const override {
    const fs::path path = fs::absolute(folder_).lexically_normal();
    return (path.has_filename() ? path : path.parent_path()).filename().string();
  }
  std::int64_t size() const override { return static_cast<std::int64_t>(files_.size()); }
  std::string entry_name(std::int64_t index) const override {
    return (folder_ / files_.at(static_cast<std::size_t>(index))).string();
  }
  std::optional<PictureLabel> label(std::int64_t index) const override {
    if (labels_.empty()) return {};
    return labels_.at(static_cast<std::size_t>(index));
  }
  PictureSourceFacts facts() const override { return facts_; }

 private:
  Image read_and_decode(std::int64_t index) const override {
    const MappedFile file(entry_name(index));
    return decode(file.bytes(), index);
  }

  void list_files() {
    std::vector<fs::path> others;
    std::error_code error;
    constexpr auto kOptions = fs::directory_options::follow_directory_symlink;
    fs::recursive_directory_iterator each(folder_, kOptions, error), end;
    for (; !error && each != end; each.increment(error)) {
      if (!each->is_regular_file(error)) {
        error.clear();  // a link to nothing is no file
        continue;
      }
      const fs::path name = each->path().lexically_relative(folder_);
      if (is_picture_name(name.filename().string()))
        files_.push_back(name);
      else if (name != "dataset.json")
        others.push_back(name);
    }
    FM_CHECK(!error, folder_.string(), ": cannot list: ", error.message());
    // Part by part ("a/z.png" before "a-b.png"), as Python's pathlib sorts.
    std::sort(files_.begin(), files_.end());
    facts_.ignored = static_cast<std::int64_t>(others.size());
    if (!others.empty())
      facts_.first_ignored =
          (folder_ / *std::min_element(others.begin(), others.end())).string();
  }

  // EDM: the folders at the top in sorted order are the classes, if there are several;
  // pictures beside them are one more, the first.
  void label_by_folder() {
    std::map<std::string, std::int64_t> classes;
    const auto top = [](const fs::path& file) {
      return file.has_parent_path() ? file.begin()->string() : std::string();
    };
    for (const fs::path& file : files_) classes.emplace(top(file), 0);
    if (classes.size() < 2) return;
    for (auto& [name, number] : classes) {
      number = static_cast<std::int64_t>(facts_.class_names.size());
      facts_.class_names.push_back(name.empty() ? "." : name);
    }
    for (const fs::path& file : files_) labels_.emplace_back(classes.at(top(file)));
  }

  fs::path folder_;
  std::vector<fs::path> files_;  // relative to the folder
  std::vector<PictureLabel> labels_;
  PictureSourceFacts facts_;
};

}  // namespace

std::shared_ptr<PictureSource> open_picture_folder(const fs::path& path) {
  if (!fs::is_directory(path)) return nullptr;
  return std::make_shared<PictureFolder>(path);
}

}  // namespace flowmap
