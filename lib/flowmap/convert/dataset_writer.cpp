#include "flowmap/convert/dataset_writer.h"

#include <unistd.h>

#include <system_error>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/text.h"
#include "flowmap/data/edm_labels.h"
#include "flowmap/formats/zip.h"

namespace fs = std::filesystem;

namespace flowmap {
namespace {

void write_plain_file(const fs::path& path, std::span<const std::byte> bytes) {
  // The folder as a whole appears at once; its files need no rename of their own.
  std::FILE* file = std::fopen(path.c_str(), "wb");
  const bool good = file && std::fwrite(bytes.data(), 1, bytes.size(), file) ==
                                bytes.size();
  const int reason = errno;
  const bool closed = file && std::fclose(file) == 0;
  FM_CHECK(good && closed, path.string(), ": cannot write: ",
           std::generic_category().message(reason ? reason : errno));
}

}  // namespace

struct DatasetWriter::Impl {
  explicit Impl(fs::path to) : dest(std::move(to)) {
    if (ends_with_ignoring_case(dest.string(), ".zip")) {
      FM_CHECK_USAGE(!fs::is_directory(dest), "--dest: ", dest.string(), " is a folder");
      zip.emplace(dest);
      return;
    }
    // "sets/a/" means "sets/a".
    if (!dest.has_filename()) dest = dest.parent_path();
    dest = fs::absolute(dest).lexically_normal();
    if (fs::exists(dest)) {
      FM_CHECK_USAGE(fs::is_directory(dest), "--dest: ", dest.string(),
                     " is a file; a folder or a name that ends in .zip is expected");
      FM_CHECK_USAGE(fs::is_empty(dest), "--dest: the folder ", dest.string(),
                     " is not empty; give another one, or a .zip");
    }
    partial = dest.string() + ".partial-" + std::to_string(::getpid());
    make_directories(partial);
  }
  ~Impl() {
    std::error_code ignored;
    if (!partial.empty() && !done) fs::remove_all(partial, ignored);
  }

  void put(const std::string& name, std::span<const std::byte> bytes) {
    if (zip) {
      zip->add(name, bytes);
      return;
    }
    const fs::path path = partial / name;
    if (path.parent_path() != made) {
      made = path.parent_path();
      make_directories(made);
    }
    write_plain_file(path, bytes);
  }

  fs::path dest, partial, made;
  std::optional<ZipWriter> zip;
  std::vector<std::string> names;
  std::vector<PictureLabel> labels;
  std::int64_t count = 0;
  bool done = false;
};

DatasetWriter::DatasetWriter(const fs::path& dest)
    : impl_(std::make_unique<Impl>(dest)) {}
DatasetWriter::~DatasetWriter() = default;

void DatasetWriter::add(std::int64_t number, std::span<const std::byte> png,
                        const std::optional<PictureLabel>& label) {
  const std::string digits = format("%08lld", static_cast<long long>(number));
  const std::string name = digits.substr(0, 5) + "/img" + digits + ".png";
  impl_->put(name, png);
  ++impl_->count;
  if (!label) return;
  impl_->names.push_back(name);
  impl_->labels.push_back(*label);
}

void DatasetWriter::commit() {
  Impl& to = *impl_;
  const bool whole = static_cast<std::int64_t>(to.labels.size()) == to.count;
  const std::string json = whole ? format_edm_labels(to.names, to.labels)
                                 : format_edm_labels({}, {});
  to.put("dataset.json", std::as_bytes(std::span(json)));
  if (to.zip) {
    to.zip->commit();
    return;
  }
  std::error_code error;
  fs::rename(to.partial, to.dest, error);
  FM_CHECK(!error, to.dest.string(), ": cannot be put in place: ", error.message());
  to.done = true;
}

}  // namespace flowmap
