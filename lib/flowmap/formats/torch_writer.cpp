// torch.save's zip, written.
#include <map>
#include <set>
#include <tuple>

#include "flowmap/base/error.h"
#include "flowmap/formats/torch_internal.h"

namespace flowmap {
namespace {

constexpr std::size_t kTorchAlignment = 64;

// Writes the few opcodes of protocol 2 that a dict of tensors takes.
class PickleText {
 public:
  void raw(std::string_view text) { out_ += text; }
  void global(std::string_view module, std::string_view name) {
    ((out_ += 'c') += module) += '\n';
    (out_ += name) += '\n';
  }
  void text(std::string_view text) {
    out_ += 'X';
    little(text.size(), 4);
    out_ += text;
  }
  void integer(std::int64_t value) {
    if (value >= 0 && value < 256) {
      out_ += 'K';
      little(static_cast<std::uint64_t>(value), 1);
    } else if (value >= -0x80000000LL && value <= 0x7FFFFFFFLL) {
      out_ += 'J';
      little(static_cast<std::uint64_t>(value), 4);
    } else {
      out_ += "\x8A\x08";
      little(static_cast<std::uint64_t>(value), 8);
    }
  }
  void integers(const std::vector<std::int64_t>& values) {
    out_ += '(';
    for (const std::int64_t value : values) integer(value);
    out_ += 't';
  }
  void ordered_dict() {
    global("collections", "OrderedDict");
    out_ += ")R";
  }
  const std::string& str() const { return out_; }

 private:
  void little(std::uint64_t value, int width) {
    for (int i = 0; i < width; ++i) out_ += static_cast<char>(value >> (8 * i) & 0xFF);
  }
  std::string out_;
};

class TorchArchive {
 public:
  // An OrderedDict of the items, on the stack of the pickle.
  void section(const std::string& where, const std::vector<TorchItem>& items) {
    pickle.ordered_dict();
    if (items.empty()) return;
    std::set<std::string_view> names;
    pickle.raw("(");
    for (const TorchItem& item : items) {
      FM_CHECK(!item.name.empty(), where, ": a tensor needs a name");
      FM_CHECK(names.insert(item.name).second, where, ": two tensors are called '",
               item.name, "'");
      const std::int64_t size =
          checked_byte_size(item.shape, item.dtype, where + ": " + item.name);
      FM_CHECK(static_cast<std::uint64_t>(size) == item.bytes.size(), where, ": '",
               item.name, "' of shape ", shape_text(item.shape), " needs ", size,
               " bytes, got ", item.bytes.size());
      pickle.text(item.name);
      tensor(item);
    }
    pickle.raw("u");
  }

  PickleText pickle;
  std::vector<std::span<const std::byte>> storages;

 private:
  void tensor(const TorchItem& item) {
    const auto elements =
        static_cast<std::int64_t>(item.bytes.size() / dtype_size(item.dtype));
    pickle.global("torch._utils", "_rebuild_tensor_v2");
    pickle.raw("((");
    pickle.text("storage");
    pickle.global("torch", torch_storage_name(item.dtype));
    pickle.text(std::to_string(storage(item)));
    pickle.text("cpu");
    pickle.integer(elements);
    pickle.raw("tQ");
    pickle.integer(0);  // offset
    pickle.integers(item.shape);
    std::vector<std::int64_t> strides(item.shape.size());
    std::int64_t stride = 1;
    for (std::size_t i = strides.size(); i-- > 0;) {
      strides[i] = stride;
      // As torch has it for tensors without elements.
      if (item.shape[i] > 1 && elements > 0) stride *= item.shape[i];
    }
    pickle.integers(strides);
    pickle.raw("\x89");  // requires no gradient
    pickle.ordered_dict();
    pickle.raw("tR");
  }

  // Its number; tied weights stay tied.
  std::size_t storage(const TorchItem& item) {
    if (!item.bytes.empty()) {
      const auto [known, fresh] = known_.emplace(
          std::tuple(item.bytes.data(), item.bytes.size(), item.dtype), storages.size());
      if (!fresh) return known->second;
    }
    storages.push_back(item.bytes);
    return storages.size() - 1;
  }

  std::map<std::tuple<const std::byte*, std::size_t, DType>, std::size_t> known_;
};

void write_torch_archive(const std::filesystem::path& path, const TorchArchive& content) {
  ZipWriter zip(path);
  const std::string folder = "archive/";
  const auto add = [&](const std::string& name, auto bytes) {
    zip.add(folder + name, bytes, kTorchAlignment);
  };
  add("data.pkl", std::string_view(content.pickle.str()));
  add(".format_version", std::string_view("1"));
  add(".storage_alignment", std::string_view("64"));
  add("byteorder", std::string_view("little"));
  for (std::size_t i = 0; i < content.storages.size(); ++i)
    add("data/" + std::to_string(i), content.storages[i]);
  add("version", std::string_view("3\n"));
  zip.commit();
}

}  // namespace

void write_torch_file(const std::filesystem::path& path, std::vector<TorchItem> items) {
  TorchArchive archive;
  archive.pickle.raw("\x80\x02");
  archive.section(path.string(), items);
  archive.pickle.raw(".");
  write_torch_archive(path, archive);
}

void write_torch_file(const std::filesystem::path& path,
                      std::vector<TorchSection> sections) {
  TorchArchive archive;
  archive.pickle.raw("\x80\x02}");
  std::set<std::string_view> keys;
  if (!sections.empty()) archive.pickle.raw("(");
  for (const TorchSection& section : sections) {
    FM_CHECK(!section.key.empty() && keys.insert(section.key).second, path.string(),
             ": the sections of a checkpoint need names, each once; got '", section.key,
             "'");
    archive.pickle.text(section.key);
    archive.section(path.string() + ": " + section.key, section.items);
  }
  if (!sections.empty()) archive.pickle.raw("u");
  archive.pickle.raw(".");
  write_torch_archive(path, archive);
}

}  // namespace flowmap
