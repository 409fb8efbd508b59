// CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as their author packs them: tarballs of Python
// pickles (read as data, nothing is run) or of binary records, or the unpacked folders.
// https://www.cs.toronto.edu/~kriz/cifar.html
#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/text.h"
#include "flowmap/data/picture_files.h"
#include "flowmap/formats/pickle.h"
#include "flowmap/formats/tar.h"
#include "flowmap/formats/torch_file.h"

namespace fs = std::filesystem;

namespace flowmap {
namespace {

constexpr std::int64_t kCifarBytes = 3 * 32 * 32;
// The largest real member is CIFAR-100's training file, 155 MB.
constexpr std::uint64_t kMaxCifarFile = std::uint64_t{1} << 30;

struct CifarPart {
  std::vector<std::byte> bytes;  // [n, 3, 32, 32]
  std::vector<std::int64_t> classes;
};

// What the names of the files say.
struct CifarMember {
  int classes = 0;  // 10 or 100; 0: no file of CIFAR
  bool binary = false;
  bool names = false;  // of the classes
  bool test = false;
  int part = 0;
};

CifarMember cifar_member(const std::string& path) {
  std::string name = fs::path(path).filename().string();
  CifarMember member;
  if (name == "batches.meta" || name == "batches.meta.txt")
    return {10, name.ends_with(".txt"), true};
  if (name == "meta" || name == "fine_label_names.txt")
    return {100, name.ends_with(".txt"), true};
  if (name.ends_with(".bin")) {
    member.binary = true;
    name.resize(name.size() - 4);
  }
  if (name == "train" || name == "test") member.classes = 100;
  if (name == "test_batch") member.classes = 10;
  member.test = name.starts_with("test");
  constexpr std::string_view kBatch = "data_batch_";
  if (name.size() == kBatch.size() + 1 && name.starts_with(kBatch) &&
      name.back() >= '1' && name.back() <= '5') {
    member.classes = 10;
    member.part = name.back() - '0';
  }
  return member;
}

// Arrays and containers: all that these pickles hold.
bool allow_cifar_global(std::string_view module, std::string_view name) {
  if (module == "numpy") return name == "ndarray" || name == "dtype";
  if (module == "_codecs") return name == "encode";
  return (module == "numpy.core.multiarray" || module == "numpy._core.multiarray") &&
         name == "_reconstruct";
}

// By a key that is text (Python 2) or bytes (repacked by Python 3).
const PickleValue* find_cifar_key(const PickleValue& dict, std::string_view key) {
  for (const PickleItem& item : dict.items()) {
    if (!item.key->is(PickleKind::text) && !item.key->is(PickleKind::bytes)) continue;
    const std::span<const std::byte> bytes = item.key->as_bytes("key");
    if (std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()) == key)
      return item.value;
  }
  return nullptr;
}

const PickleValue& cifar_key(const Pickle& pickle, std::string_view key) {
  const PickleValue* found = find_cifar_key(pickle.root(), key);
  if (!found)
    throw DataError(pickle.path(), {}, "a dict with \"" + std::string(key) + "\"",
                    pickle.root().describe());
  return *found;
}

void check_cifar_class(std::int64_t value, int classes, const std::string& where) {
  if (value < 0 || value >= classes)
    throw DataError(where, {}, "classes from 0 to " + std::to_string(classes - 1),
                    std::to_string(value));
}

CifarPart read_cifar_pickle(std::span<const std::byte> file, const std::string& where,
                            int classes) {
  const Pickle pickle(file, where, {.allow = allow_cifar_global});
  std::optional<HostTensor> data = pickled_numpy_array(cifar_key(pickle, "data"));
  if (!data || data->dtype != DType::U8 || data->shape.size() != 2 ||
      data->shape[1] != kCifarBytes)
    throw DataError(where, {}, "\"data\": a numpy array uint8 [N, 3072]",
                    data ? std::string(dtype_name(data->dtype)) + " " +
                               shape_text(data->shape)
                         : "something else");
  CifarPart part;
  const PickleValue& labels = cifar_key(pickle, classes == 10 ? "labels" : "fine_labels");
  for (const PickleValue* label : labels.as_sequence("labels")) {
    part.classes.push_back(label->as_int("label"));
    check_cifar_class(part.classes.back(), classes, where);
  }
  if (static_cast<std::int64_t>(part.classes.size()) != data->shape[0])
    throw DataError(where, {}, std::to_string(data->shape[0]) + " labels",
                    std::to_string(part.classes.size()));
  part.bytes = std::move(data->bytes);
  return part;
}

// Records of one class byte (CIFAR-100: the coarse one, then the fine one) and 3072 bytes.
CifarPart read_cifar_records(std::span<const std::byte> file, const std::string& where,
                             int classes) {
  const std::size_t head = classes == 10 ? 1 : 2, record = head + kCifarBytes;
  if (file.size() % record != 0)
    throw DataError(where, {}, "whole records of " + std::to_string(record) + " bytes",
                    std::to_string(file.size()) + " bytes");
  CifarPart part;
  part.bytes.reserve(file.size());
  for (std::size_t at = 0; at < file.size(); at += record) {
    part.classes.push_back(std::to_integer<std::int64_t>(file[at + head - 1]));
    check_cifar_class(part.classes.back(), classes, where);
    const auto picture = file.subspan(at + head, kCifarBytes);
    part.bytes.insert(part.bytes.end(), picture.begin(), picture.end());
  }
  return part;
}

std::vector<std::string> read_cifar_names(std::span<const std::byte> file,
                                          const std::string& where,
                                          const CifarMember& member) {
  std::vector<std::string> names;
  if (member.binary) {
    const std::string text(reinterpret_cast<const char*>(file.data()), file.size());
    for (const std::string& line : split(text, '\n'))
      if (!trim(line).empty()) names.emplace_back(trim(line));
  } else {
    const Pickle pickle(file, where, {.allow = allow_cifar_global});
    const PickleValue& list =
        cifar_key(pickle, member.classes == 10 ? "label_names" : "fine_label_names");
    for (const PickleValue* name : list.as_sequence("names of classes"))
      names.emplace_back(reinterpret_cast<const char*>(name->as_bytes("name").data()),
                         name->as_bytes("name").size());
  }
  return names;
}

// Takes what belongs to the split out of the members as they come, in any order.
class CifarReader {
 public:
  CifarReader(fs::path path, const std::string& split)
      : path_(std::move(path)), test_(split == "test") {}

  bool wants(const std::string& name) {
    const CifarMember member = cifar_member(name);
    if (member.classes == 0) return false;
    if (classes_ == 0 && !member.names) {
      classes_ = member.classes;
      binary_ = member.binary;
    }
    return member.names || member.test == test_;
  }
  void add(const std::string& name, std::span<const std::byte> file) {
    const CifarMember member = cifar_member(name);
    const std::string where = path_.string() + ":" + name;
    if (member.names) {
      names_[member.classes] = read_cifar_names(file, where, member);
      return;
    }
    if (member.classes != classes_ || member.binary != binary_)
      throw DataError(where, {}, "files of one of CIFAR's sets", "two sets side by side");
    CifarPart part = member.binary ? read_cifar_records(file, where, classes_)
                                   : read_cifar_pickle(file, where, classes_);
    if (!parts_.emplace(member.part, std::move(part)).second)
      throw DataError(where, {}, "each file of CIFAR once", "a second one");
  }
  bool is_cifar() const { return classes_ != 0; }

  std::shared_ptr<PictureSource> finish() {
    const std::string ending = binary_ ? ".bin" : "";
    if (classes_ == 10 && !test_) {
      for (int part = 1; part <= 5; ++part)
        if (!parts_.contains(part))
          throw DataError(path_.string(), {}, "data_batch_1 to data_batch_5",
                          "no data_batch_" + std::to_string(part) + ending);
    } else if (parts_.empty()) {
      const std::string file = classes_ == 10 ? "test_batch" : test_ ? "test" : "train";
      throw DataError(path_.string(), {}, file + ending, "none");
    }
    PictureArray content;
    content.name = "cifar" + std::to_string(classes_) + (test_ ? "-test" : "") + "-32x32";
    content.path = path_.string();
    content.width = content.height = 32;
    content.channels = 3;
    content.planes = true;
    content.facts.kind = "CIFAR-" + std::to_string(classes_) +
                         (binary_ ? " in binary records" : " in Python's format");
    content.facts.class_names = std::move(names_[classes_]);
    for (auto& each : parts_) {
      CifarPart& part = each.second;
      content.bytes.insert(content.bytes.end(), part.bytes.begin(), part.bytes.end());
      content.classes.insert(content.classes.end(), part.classes.begin(),
                             part.classes.end());
      part = {};
    }
    content.count = static_cast<std::int64_t>(content.classes.size());
    return array_pictures(std::move(content));
  }

 private:
  fs::path path_;
  bool test_, binary_ = false;
  int classes_ = 0;
  std::map<int, CifarPart> parts_;
  std::map<int, std::vector<std::string>> names_;
};

bool is_tar(const fs::path& path) {
  for (const char* ending : {".tar", ".tar.gz", ".tgz"})
    if (ends_with_ignoring_case(path.string(), ending)) return true;
  return false;
}

// "train" and "test" alone are names that many folders have; CIFAR-100's stand beside
// "meta".
bool is_cifar_folder(const fs::path& folder) {
  for (const char* file : {"data_batch_1", "data_batch_1.bin", "test_batch",
                           "test_batch.bin", "fine_label_names.txt", "meta"})
    if (fs::is_regular_file(folder / file)) return true;
  return false;
}

}  // namespace

std::shared_ptr<PictureSource> open_cifar(const fs::path& path, std::string_view flag,
                                          const std::string& split) {
  CifarReader reader(path, split);
  if (fs::is_directory(path)) {
    if (!is_cifar_folder(path)) return nullptr;
    std::vector<fs::path> files;
    for (const auto& each : fs::directory_iterator(path))
      if (each.is_regular_file()) files.push_back(each.path());
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files)
      if (reader.wants(file.filename().string()))
        reader.add(file.filename().string(), MappedFile(file).bytes());
    return reader.is_cifar() ? reader.finish() : nullptr;
  }
  if (!is_tar(path)) return nullptr;
  TarReader tar(path);
  std::string first;
  while (const std::optional<TarEntry> entry = tar.next()) {
    if (first.empty()) first = entry->name;
    if (reader.wants(entry->name)) reader.add(entry->name, tar.read(kMaxCifarFile));
  }
  FM_CHECK_USAGE(reader.is_cifar(), flag, ": ", path.string(),
                 " is not one of CIFAR's tarballs (",
                 first.empty() ? "it is empty" : "it begins with " + first,
                 "); unpack it and give the folder of pictures");
  return reader.finish();
}

}  // namespace flowmap
