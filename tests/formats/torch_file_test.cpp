// torch.save's files: what the writer makes, files made by hand, and hostile ones.
#include "flowmap/formats/torch_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include "flowmap/formats/zip.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

using namespace std::string_literals;
using testing::Bytes;
using testing::bytes_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::little;
using testing::values_of;

constexpr std::string_view kProtocol2 = "\x80\x02";

std::string u(std::string_view text) {
  return "X" + little(text.size(), 4) + std::string(text);
}
std::string number(std::int64_t value) {
  return "\x8A\x08" + little(static_cast<unsigned long long>(value), 8);
}
std::string numbers(const std::vector<std::int64_t>& values) {
  std::string text = "(";
  for (const auto value : values) text += number(value);
  return text + "t";
}

struct HandTensor {
  std::string type = "FloatStorage", key = "0";
  std::int64_t elements = 6, offset = 0;
  std::vector<std::int64_t> shape{2, 3}, strides{3, 1};
  std::string view;  // "" in a zip, "N" in a stream
};

std::string storage_call(const HandTensor& t) {
  return "(" + u("storage") + "ctorch\n" + t.type + "\n" + u(t.key) + u("cpu") +
         number(t.elements) + t.view + "tQ";
}
std::string tensor_call(const HandTensor& t) {
  return "ctorch._utils\n_rebuild_tensor_v2\n(" + storage_call(t) + number(t.offset) +
         numbers(t.shape) + numbers(t.strides) + "\x89" +
         "ccollections\nOrderedDict\n)RtR";
}
std::string dict_of(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string text = "}(";
  for (const auto& [key, value] : items) text += u(key) + value;
  return text + "u";
}

const std::vector<float> kSix{0, 1, 2, 3, 4, 5};

std::string text_of(const std::vector<float>& values) {
  return testing::to_text(bytes_of(values));
}

Bytes zip_of(const std::string& pickle,
             const std::vector<std::pair<std::string, std::string>>& storages,
             const std::string& order = "little", const std::string& name = "model") {
  const testing::ScratchFolder folder;
  ZipWriter zip(folder / "x");
  zip.add(name + "/data.pkl", std::string(kProtocol2) + pickle + ".");
  if (!order.empty()) zip.add(name + "/byteorder", order);
  for (const auto& [key, content] : storages) zip.add(name + "/data/" + key, content);
  zip.add(name + "/version", "3\n");
  zip.commit();
  return testing::file_bytes(folder / "x");
}

std::string stream_of(const std::string& pickle,
                      const std::vector<std::pair<std::string, std::string>>& storages,
                      std::uint64_t element_bytes = 4, bool little_endian = true) {
  std::string text = "\x80\x02\x8A\x0Al\xFC\x9C\x46\xF9 j\xA8P\x19."s +
                     "\x80\x02M\xE9\x03." + "\x80\x02" +
                     dict_of({{"little_endian", little_endian ? "\x88" : "\x89"}}) + "." +
                     std::string(kProtocol2) + pickle + "." + "\x80\x02](";
  for (const auto& [key, content] : storages) text += u(key);
  text += "e.";
  for (const auto& [key, content] : storages)
    text += little(content.size() / element_bytes, 8) + content;
  return text;
}

std::string refusal(const Bytes& bytes) {
  try {
    const TorchFile file(bytes, "test.pt");
    for (const auto& entry : file.flatten()) entry.tensor.read();
  } catch (const DataError& error) {
    EXPECT_THAT(error.path(), ::testing::StartsWith("test.pt"));
    return error.what();
  }
  ADD_FAILURE() << "was read";
  return "";
}
std::string refusal(const std::string& text) { return refusal(testing::to_bytes(text)); }

std::vector<std::string> names(const std::vector<TorchEntry>& entries) {
  std::vector<std::string> out;
  for (const auto& entry : entries) out.push_back(entry.name);
  return out;
}

TEST(TorchFile, RoundTripOfEveryDType) {
  const testing::ScratchFolder folder;
  Bytes content(48);
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = std::byte(i % 2);
  std::vector<TorchItem> items;
  std::vector<std::string> expected;
  for (const DType dtype : {DType::F64, DType::F32, DType::F16, DType::BF16, DType::I64,
                            DType::I32, DType::I16, DType::I8, DType::U8, DType::BOOL}) {
    const std::size_t width = dtype_size(dtype);
    expected.emplace_back(dtype_name(dtype));
    items.push_back(
        {expected.back(), dtype, {2, 3}, std::span(content).first(6 * width)});
  }
  items.push_back({"scalar", DType::F32, {}, std::span(content).first(4)});
  items.push_back({"empty", DType::F32, {3, 0}, {}});
  items.push_back({"tied", DType::F32, {3, 2}, std::span(content).first(24)});
  for (const auto* name : {"scalar", "empty", "tied"}) expected.emplace_back(name);
  write_torch_file(folder / "a.pt", items);
  write_torch_file(folder / "b.pt", items);
  EXPECT_EQ(testing::file_bytes(folder / "a.pt"), testing::file_bytes(folder / "b.pt"));

  const TorchFile file(folder / "a.pt");
  EXPECT_EQ(file.format(), TorchFileFormat::zip);
  const auto entries = file.flatten();
  EXPECT_EQ(names(entries), expected);
  for (std::size_t i = 0; i < items.size(); ++i) {
    const TorchTensor& tensor = entries[i].tensor;
    EXPECT_EQ(tensor.dtype, items[i].dtype);
    EXPECT_EQ(tensor.shape, items[i].shape);
    EXPECT_TRUE(tensor.contiguous());
    EXPECT_EQ(tensor.read().bytes, Bytes(items[i].bytes.begin(), items[i].bytes.end()));
    // Aligned as torch aligns it (maps begin at pages).
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.bytes().data()) % 64, 0u);
  }
  EXPECT_EQ(entries[1].tensor.storage, entries.back().tensor.storage) << "tied weights";
}

TEST(TorchFile, SectionsAndKeys) {
  const testing::ScratchFolder folder;
  const Bytes six = bytes_of(kSix);
  const TorchItem weight{"net.weight", DType::F32, {2, 3}, six};
  write_torch_file(folder / "x.pt",
                   std::vector<TorchSection>{
                       {"ema", {weight}}, {"model.net", {weight}}, {"none", {}}});
  const TorchFile file(folder / "x.pt");
  EXPECT_THAT(names(file.flatten()),
              ElementsAre("ema.net.weight", "model.net.net.weight"));
  EXPECT_THAT(names(file.flatten({.key = "ema"})), ElementsAre("net.weight"));
  EXPECT_THAT(names(file.flatten({.key = "model.net"})), ElementsAre("net.weight"));
  EXPECT_THAT(names(file.flatten({.key = "model.net.net.weight"})),
              ElementsAre("weight"));
  EXPECT_TRUE(file.flatten({.key = "none"}).empty());
  try {
    file.flatten({.key = "em.x"});
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("'em.x'"));
    EXPECT_THAT(error.what(), HasSubstr("did you mean 'ema'"));
  }
}

TEST(TorchFile, WriterRefuses) {
  const testing::ScratchFolder folder;
  const Bytes six = bytes_of(kSix);
  const auto write = [&](std::vector<TorchItem> items) {
    write_torch_file(folder / "x.pt", std::move(items));
  };
  EXPECT_THROW(write({{"", DType::F32, {6}, six}}), Error);
  EXPECT_THROW(write({{"a", DType::F32, {5}, six}}), Error);
  EXPECT_THROW(write({{"a", DType::F32, {6}, six}, {"a", DType::F32, {6}, six}}), Error);
  EXPECT_THROW(write_torch_file(folder / "x.pt", std::vector<TorchSection>{{"", {}}}),
               Error);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(TorchFile, StridesOffsetsAndSharing) {
  HandTensor plain, turned, part, expanded;
  turned.shape = {3, 2}, turned.strides = {1, 3};
  part.offset = 4, part.shape = {2}, part.strides = {1};
  expanded.shape = {2, 2}, expanded.strides = {0, 5};
  const std::string pickle = dict_of({{"plain", tensor_call(plain)},
                                      {"turned", tensor_call(turned)},
                                      {"part", tensor_call(part)},
                                      {"expanded", tensor_call(expanded)}});
  const Bytes zip = zip_of(pickle, {{"0", text_of(kSix)}});
  for (auto* tensor : {&plain, &turned, &part, &expanded}) tensor->view = "N";
  const Bytes stream =
      testing::to_bytes(stream_of(dict_of({{"plain", tensor_call(plain)},
                                           {"turned", tensor_call(turned)},
                                           {"part", tensor_call(part)},
                                           {"expanded", tensor_call(expanded)}}),
                                  {{"0", text_of(kSix)}}));
  for (const Bytes& bytes : {zip, stream}) {
    const TorchFile file(bytes, "x.pt");
    const auto all = file.flatten();
    ASSERT_EQ(all.size(), 4u);
    EXPECT_EQ(values_of<float>(all[0].tensor.read().bytes), kSix);
    EXPECT_THAT(values_of<float>(all[1].tensor.read().bytes),
                ElementsAre(0, 3, 1, 4, 2, 5));
    EXPECT_THAT(values_of<float>(all[2].tensor.read().bytes), ElementsAre(4, 5));
    EXPECT_THAT(values_of<float>(all[3].tensor.read().bytes), ElementsAre(0, 5, 0, 5));
    EXPECT_TRUE(all[2].tensor.contiguous());
    EXPECT_FALSE(all[1].tensor.contiguous());
    EXPECT_THROW(all[1].tensor.bytes(), Error);
    for (const auto& entry : all) EXPECT_EQ(entry.tensor.storage, all[0].tensor.storage);
  }
  EXPECT_EQ(TorchFile(zip, "x").format(), TorchFileFormat::zip);
  EXPECT_EQ(TorchFile(stream, "x").format(), TorchFileFormat::legacy);
}

TEST(TorchFile, TensorsOutliveTheFile) {
  const testing::ScratchFolder folder;
  const Bytes six = bytes_of(kSix);
  write_torch_file(folder / "x.pt", std::vector<TorchItem>{{"a", DType::F32, {6}, six}});
  const auto entries = TorchFile(folder / "x.pt").flatten();
  EXPECT_EQ(values_of<float>(entries[0].tensor.bytes()), kSix);
}

// EDM's pickles: storages are streams of their own inside bytes.
TEST(TorchFile, NestedStreams) {
  HandTensor inner;
  inner.view = "N";
  const std::string blob = stream_of(storage_call(inner), {{"0", text_of(kSix)}});
  const std::string load =
      "ctorch.storage\n_load_from_bytes\nB" + little(blob.size(), 4) + blob + "\x85R";
  const std::string tensor =
      "ctorch._utils\n_rebuild_parameter\nctorch._utils\n"
      "_rebuild_tensor_v2\n(" +
      load + number(0) + numbers({3, 2}) + numbers({2, 1}) + "\x89)tR\x88)\x87R";
  const Bytes bytes = testing::to_bytes(dict_of({{"a", tensor}, {"b", load}}) + ".");
  const TorchFile file(bytes, "x.pkl");
  EXPECT_EQ(file.format(), TorchFileFormat::pickle);
  const auto entries = file.flatten();
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_TRUE(entries[0].tensor.is_parameter);
  EXPECT_EQ(values_of<float>(entries[0].tensor.read().bytes), kSix);
  EXPECT_THAT(file.tensor(file.root().at("b", "b")).shape, ElementsAre(6));
  // A whole tensor in the bytes.
  const std::string whole = stream_of(tensor_call(inner), {{"0", text_of(kSix)}});
  const Bytes other = testing::to_bytes("ctorch.storage\n_load_from_bytes\nB" +
                                        little(whole.size(), 4) + whole + "\x85R.");
  const TorchFile second(other, "x.pkl");
  EXPECT_THAT(second.tensor(second.root()).shape, ElementsAre(2, 3));
  // The offset of an error is that of the whole file.
  std::string broken = blob;
  broken[broken.size() - 25 - 7] = 7;  // 7 elements, where 6 are left
  const std::string head = "ctorch.storage\n_load_from_bytes\nB" + little(blob.size(), 4);
  const Bytes damaged = testing::to_bytes(head + broken + "\x85R.");
  const TorchFile third(damaged, "x.pkl");
  EXPECT_THROW(third.tensor(third.root()), DataError);
  // Files inside files without end.
  std::string matryoshka = load;
  for (int i = 0; i < 8; ++i) {
    const std::string around = matryoshka + ".";
    matryoshka = "ctorch.storage\n_load_from_bytes\nB" + little(around.size(), 4) +
                 around + "\x85R";
  }
  const Bytes deep = testing::to_bytes(matryoshka + ".");
  const TorchFile fourth(deep, "x.pkl");
  EXPECT_THROW(fourth.tensor(fourth.root()), DataError);
}

TEST(TorchFile, PrefixesAndModules) {
  const auto tensor = tensor_call({});
  const std::string pickle = dict_of({{"module.a", tensor},
                                      {"module._orig_mod.b", tensor},
                                      {"_orig_mod.module.c", tensor},
                                      {"d._orig_mod.e", tensor},
                                      {"f", "]" + tensor + "a" + "Na"},
                                      {"g", number(3)}});
  const Bytes bytes = zip_of(pickle, {{"0", text_of(kSix)}});
  const TorchFile file(bytes, "x");
  EXPECT_THAT(names(file.flatten({.strip_prefixes = true})),
              ElementsAre("a", "b", "c", "d.e", "f.0"));
  EXPECT_THAT(names(file.flatten()),
              ElementsAre("module.a", "module._orig_mod.b", "_orig_mod.module.c",
                          "d._orig_mod.e", "f.0"));
  EXPECT_THAT(names(file.flatten({.key = "f.0"})), ElementsAre("0"));
  EXPECT_THROW(file.at("f.1.x"), DataError);
  const Bytes clash =
      zip_of(dict_of({{"module.a", tensor}, {"a", tensor}}), {{"0", text_of(kSix)}});
  EXPECT_EQ(TorchFile(clash, "x").flatten().size(), 2u);
  EXPECT_THROW(TorchFile(clash, "x").flatten({.strip_prefixes = true}), DataError);
  // A pickled module has the names of its state_dict.
  const std::string child =
      "ctorch.nn.modules.linear\nLinear\n)\x81" +
      dict_of(
          {{"_parameters", dict_of({{"weight", tensor}, {"bias", "N"}})},
           {"_buffers", dict_of({{"kept", tensor}, {"gone", tensor}})},
           {"_non_persistent_buffers_set", "c__builtin__\nset\n]" + u("gone") + "a\x85R"},
           {"_modules", "}"}}) +
      "b";
  const std::string persistent =
      "ctorch_utils.persistence\n_reconstruct_persistent_obj\n" +
      dict_of({{"class_name", u("Net")},
               {"state", dict_of({{"_modules", dict_of({{"layer", child}})}})}}) +
      "\x85R";
  const Bytes module = zip_of(dict_of({{"ema", persistent}}), {{"0", text_of(kSix)}});
  const TorchFile network(module, "x");
  EXPECT_THAT(names(network.flatten({.key = "ema"})),
              ElementsAre("layer.weight", "layer.kept"));
  EXPECT_THAT(names(network.flatten({.key = "ema.layer"})),
              ElementsAre("weight", "kept"));
}

TEST(TorchFile, RefusesTensorsPastTheirStorage) {
  const auto refuse = [](const HandTensor& tensor, std::size_t elements = 6) {
    HandTensor in_stream = tensor;
    in_stream.view = "N";
    const std::string content(elements * 4, '\0');
    const std::string zip = refusal(zip_of(tensor_call(tensor), {{"0", content}}));
    const std::string stream =
        refusal(stream_of(tensor_call(in_stream), {{"0", content}}));
    EXPECT_FALSE(stream.empty());
    return zip;
  };
  HandTensor t;
  EXPECT_THAT(refuse(t, 5), HasSubstr("24 bytes in storage '0'"));
  t.offset = 1;
  EXPECT_THAT(refuse(t), HasSubstr("offset 1"));
  t.offset = -1;
  EXPECT_THAT(refuse(t), HasSubstr("not negative"));
  t.offset = INT64_MAX;
  EXPECT_THAT(refuse(t), HasSubstr("inside the 6 elements"));
  t = {};
  for (const auto& strides : std::vector<std::vector<std::int64_t>>{
           {4, 1}, {3, 2}, {INT64_MAX, 1}, {3, INT64_MAX / 2 + 1}}) {
    t.strides = strides;
    EXPECT_THAT(refuse(t), HasSubstr("inside the 6 elements"));
  }
  t.strides = {3, -1};
  EXPECT_THAT(refuse(t), HasSubstr("not negative"));
  t.strides = {1};
  EXPECT_THAT(refuse(t), HasSubstr("2 strides"));
  t = {};
  t.shape = {2, -3};
  EXPECT_THAT(refuse(t), HasSubstr("not negative"));
  t.shape = {INT64_MAX, INT64_MAX};
  EXPECT_THAT(refuse(t), HasSubstr("2^63"));
  t = {};
  t.elements = -6;
  EXPECT_THAT(refuse(t), HasSubstr("not negative"));
  t.elements = INT64_MAX;
  EXPECT_THAT(refuse(t), HasSubstr("2^63"));
  // One element, expanded to a terabyte.
  t = {};
  t.shape = {1 << 20, 1 << 20}, t.strides = {0, 0};
  EXPECT_THAT(refuse(t), HasSubstr("64 MiB"));
  t = {};
  t.type = "ComplexFloatStorage";
  EXPECT_THAT(refuse(t), HasSubstr("'torch.ComplexFloatStorage'"));
  // A stride beside a size of one is never taken.
  t = {};
  t.shape = {1, 6}, t.strides = {INT64_MAX, 1};
  const Bytes fine = zip_of(tensor_call(t), {{"0", text_of(kSix)}});
  EXPECT_EQ(values_of<float>(TorchFile(fine, "x").flatten()[0].tensor.read().bytes),
            kSix);
  t.shape = {1, 3}, t.strides = {INT64_MAX, 2};
  const Bytes apart = zip_of(tensor_call(t), {{"0", text_of(kSix)}});
  EXPECT_THAT(values_of<float>(TorchFile(apart, "x").flatten()[0].tensor.read().bytes),
              ElementsAre(0, 2, 4));
}

TEST(TorchFile, RefusesFalseArchives) {
  const std::string tensor = tensor_call({});
  EXPECT_THAT(refusal(zip_of(tensor, {})), HasSubstr("'model/data/0'"));
  EXPECT_THAT(refusal(zip_of(tensor, {{"0", text_of(kSix)}}, "big")), HasSubstr("'big'"));
  EXPECT_THAT(refusal(zip_of("cposix\nsystem\n", {})), HasSubstr("'posix.system'"));
  {
    const testing::ScratchFolder folder;
    ZipWriter zip(folder / "x");
    zip.add("dataset.json", "{}");
    zip.commit();
    EXPECT_THAT(refusal(testing::file_bytes(folder / "x")), HasSubstr("data.pkl"));
  }
  {
    const testing::ScratchFolder folder;
    ZipWriter zip(folder / "x");
    zip.add("a/data.pkl", "N.");
    zip.add("b/data.pkl", "N.");
    zip.commit();
    EXPECT_THAT(refusal(testing::file_bytes(folder / "x")), HasSubstr("one data.pkl"));
  }
  {
    const testing::ScratchFolder folder;
    ZipWriter zip(folder / "x");
    zip.add("a/data.pkl", "N.");
    zip.add("a/constants.pkl", "N.");
    zip.commit();
    EXPECT_THAT(refusal(testing::file_bytes(folder / "x")), HasSubstr("TorchScript"));
  }
  EXPECT_THAT(
      refusal(zip_of(dict_of({{"a", tensor}, {"a", tensor}}), {{"0", text_of(kSix)}})),
      HasSubstr("'a' twice"));
  HandTensor flag;
  flag.type = "BoolStorage";
  EXPECT_THAT(refusal(zip_of(tensor_call(flag), {{"0", "\0\1\2\0\1\0"s}})),
              HasSubstr("0 or 1"));
  EXPECT_THAT(refusal("cposix\nsystem\n."), HasSubstr("'posix.system'"));
  EXPECT_THAT(refusal(tensor + "."), HasSubstr("plain pickle"));
}

// A packed entry that claims gigabytes, and one that holds what it claims.
TEST(TorchFile, PackedEntriesAndBombs) {
  Bytes bytes = zip_of(tensor_call({}), {{"0", text_of(kSix)}});
  // Packed anew: the same 24 bytes with deflate's "stored" block.
  const std::string raw = text_of(kSix);
  const std::string packed = "\x01" + little(24, 2) + little(0xFFFF ^ 24, 2) + raw;
  const auto crc = crc32(0, reinterpret_cast<const Bytef*>(raw.data()), 24);
  const auto archive = [&](std::uint64_t claim) {
    const std::string pickle = std::string(kProtocol2) + tensor_call({}) + ".";
    const auto pickle_crc = crc32(0, reinterpret_cast<const Bytef*>(pickle.data()),
                                  static_cast<uInt>(pickle.size()));
    std::string file, directory;
    const auto entry = [&](const std::string& name, const std::string& content,
                           std::uint64_t size, std::uint64_t sum, unsigned method) {
      const std::string common = little(20, 2) + little(0, 2) + little(method, 2) +
                                 little(0, 2) + little(33, 2) + little(sum, 4) +
                                 little(content.size(), 4) + little(size, 4) +
                                 little(name.size(), 2) + little(0, 2);
      directory += little(0x02014B50, 4) + little(20, 2) + common + little(0, 10) +
                   little(file.size(), 4) + name;
      file += little(0x04034B50, 4) + common + name + content;
    };
    entry("m/data.pkl", pickle, pickle.size(), pickle_crc, 0);
    entry("m/data/0", packed, claim, crc, 8);
    return file + directory + little(0x06054B50, 4) + little(0, 4) + little(2, 2) +
           little(2, 2) + little(directory.size(), 4) + little(file.size(), 4) +
           little(0, 2);
  };
  const Bytes good = testing::to_bytes(archive(24));
  EXPECT_EQ(values_of<float>(TorchFile(good, "x").flatten()[0].tensor.read().bytes),
            kSix);
  EXPECT_THAT(refusal(archive(0xFFFFFFF0)), HasSubstr("1032"));
  refusal(archive(25));
}

TEST(TorchFile, RefusesFalseStreams) {
  HandTensor t;
  t.view = "N";
  const std::string tensor = tensor_call(t), six = text_of(kSix);
  EXPECT_THAT(refusal(stream_of(tensor, {})), HasSubstr("a storage '0' in the file"));
  EXPECT_THAT(refusal(stream_of(tensor, {{"1", six}})), HasSubstr("a key that is used"));
  EXPECT_THAT(refusal(stream_of(tensor, {{"0", six}, {"0", six}})),
              HasSubstr("every key once"));
  EXPECT_THAT(refusal(stream_of(tensor, {{"0", six}}, 4, false)),
              HasSubstr("little_endian"));
  // The view of a part of a storage, as very old files have it.
  t.view = "(" + u("v") + number(2) + number(3) + "t";
  t.shape = {3}, t.strides = {1};
  const Bytes part = testing::to_bytes(stream_of(tensor_call(t), {{"0", six}}));
  EXPECT_THAT(values_of<float>(TorchFile(part, "x").flatten()[0].tensor.read().bytes),
              ElementsAre(2, 3, 4));
  t.view = "(" + u("v") + number(4) + number(3) + "t";
  EXPECT_THAT(refusal(stream_of(tensor_call(t), {{"0", six}})),
              HasSubstr("a part of its 6"));
}

TEST(TorchFile, TruncatedOrChangedAnywhere) {
  HandTensor t;
  const Bytes zip = zip_of(dict_of({{"a", tensor_call(t)}}), {{"0", text_of(kSix)}});
  t.view = "N";
  const Bytes stream = testing::to_bytes(
      stream_of(dict_of({{"a", tensor_call(t)}}), {{"0", text_of(kSix)}}));
  for (const Bytes& whole : {zip, stream}) {
    EXPECT_EQ(TorchFile(whole, "x").flatten().size(), 1u);
    for (std::size_t length = 0; length < whole.size(); ++length)
      EXPECT_FALSE(refusal(Bytes(whole.begin(),
                                 whole.begin() + static_cast<std::ptrdiff_t>(length)))
                       .empty());
    for (std::size_t at = 0; at < whole.size(); ++at)
      for (const int value : {0, 1, 0x28, 0x7F, 0x80, 0xFF}) {
        Bytes changed = whole;
        changed[at] = static_cast<std::byte>(value);
        try {
          const TorchFile file(changed, "x");
          for (const auto& entry : file.flatten()) entry.tensor.read();
        } catch (const DataError&) {
        }
      }
  }
}

// Lists that hold each other, and lists that double: the walk ends.
TEST(TorchFile, CyclesAndDoublingEnd) {
  const Bytes cycle = zip_of("]q\1h\1a" + tensor_call({}) + "a", {{"0", text_of(kSix)}});
  const TorchFile file(cycle, "x");
  EXPECT_TRUE(file.cyclic());
  EXPECT_THAT(names(file.flatten()), ElementsAre("1"));
  std::string doubled = ")";
  for (int i = 0; i < 60; ++i) doubled += "2\x86";
  EXPECT_THAT(refusal(doubled + "."), HasSubstr("fewer values"));
}

// {"0": previous, "0.0": the one before}: the ways to read "0.0.0..." are as many as a
// Fibonacci number.
TEST(TorchFile, KeysThatReadInManyWaysEnd) {
  constexpr int kLevels = 24;
  std::string pickle = "}q\0000}q\1"s, key = "0";
  for (int i = 2; i < kLevels; ++i, key += ".0")
    pickle += "0" + dict_of({{"0", "h" + little(i - 1, 1)}, {"0.0", "h" + little(i - 2, 1)}}) +
              "q" + little(i, 1);
  const Bytes bytes = zip_of(pickle, {});
  const TorchFile file(bytes, "x");
  EXPECT_NE(file.find("0.0.0"), nullptr);
  EXPECT_EQ(file.find("1.0.0"), nullptr);
  try {
    file.find(key + ".x");
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("fewer ways"));
  }
}

TEST(TorchFile, NumpyValues) {
  const std::string dtype = "cnumpy\ndtype\n(" + u("f8") + "\x89\x88tR(K\x03" + u("<") +
                            "NNNJ\xFF\xFF\xFF\xFFJ\xFF\xFF\xFF\xFFK\0tb"s;
  const std::string pi = testing::to_text(bytes_of(std::vector<double>{3.25}));
  const auto parse = [](const std::string& text) {
    auto bytes = std::make_shared<Bytes>(testing::to_bytes(text));
    return std::pair(bytes, TorchFile(*bytes, "x.pkl"));
  };
  for (const char* module : {"numpy.core.multiarray", "numpy._core.multiarray"}) {
    const auto [bytes, file] =
        parse("c"s + module + "\nscalar\n" + dtype + "C\x08" + pi + "\x86R.");
    EXPECT_EQ(pickled_numpy_number(file.root()), 3.25);
    EXPECT_FALSE(pickled_numpy_array(file.root()));
  }
  const std::string six =
      testing::to_text(bytes_of(std::vector<double>{0, 1, 2, 3, 4, 5}));
  for (const bool fortran : {false, true}) {
    const auto [bytes, file] =
        parse("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85"s +
              "C\x01" + "btR(K\x01K\x02K\x03\x86" + dtype + (fortran ? "\x88" : "\x89") +
              "C\x30" + six + "tb.");
    const auto array = pickled_numpy_array(file.root());
    ASSERT_TRUE(array);
    EXPECT_THAT(array->shape, ElementsAre(2, 3));
    if (fortran)
      EXPECT_THAT(values_of<double>(array->bytes), ElementsAre(0, 2, 4, 1, 3, 5));
    else
      EXPECT_THAT(values_of<double>(array->bytes), ElementsAre(0, 1, 2, 3, 4, 5));
  }
  const auto [bytes, file] =
      parse("cnumpy.core.multiarray\nscalar\n" + dtype + "C\x04" + "abcd" + "\x86R.");
  EXPECT_THROW(pickled_numpy_number(file.root()), DataError);
}

}  // namespace
}  // namespace flowmap
