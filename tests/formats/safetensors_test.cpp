// safetensors: round trips to the bit, and every rule of the format broken once.
#include "flowmap/formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "flowmap/base/error.h"
#include "tests/support/reference.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

using testing::Bytes;
using ::testing::HasSubstr;

Bytes with_header(const std::string& header, std::size_t data_bytes) {
  return testing::to_bytes(testing::little(header.size(), 8) + header +
                           std::string(data_bytes, '\x01'));
}

// The message of the DataError that reading `header` must throw.
std::string refusal(const std::string& header, std::size_t data_bytes = 0) {
  const Bytes bytes = with_header(header, data_bytes);
  try {
    const SafetensorsReader reader(bytes, "test.safetensors");
  } catch (const DataError& error) {
    EXPECT_EQ(error.path(), "test.safetensors");
    return error.what();
  }
  ADD_FAILURE() << "was read: " << header;
  return "";
}

std::string tensor(const std::string& name, const std::string& dtype,
                   const std::string& shape, const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape +
         "],\"data_offsets\":[" + offsets + "]}";
}

TEST(Safetensors, RoundTripToTheBit) {
  const testing::ScratchFolder folder;
  const Bytes f32 =
      testing::bytes_of<std::uint32_t>({0x7FC00001u, 0x80000000u, 1u, 2u, 3u, 4u});
  const Bytes f64 = testing::bytes_of<double>({1.5, -0.0});
  const Bytes half = testing::bytes_of<std::uint16_t>({1, 2, 3});
  const Bytes i64 = testing::bytes_of<std::int64_t>({-5});
  const Bytes i32 = testing::bytes_of<std::int32_t>({7}),
              i16 = testing::bytes_of<std::int16_t>({-7});
  const Bytes one = testing::to_bytes("\x01"), empty;
  const std::vector<SafetensorsItem> items = {
      {"b.weight", DType::F32, {2, 3}, f32},
      {"a \"quoted\" \xC3\xA9", DType::F64, {2}, f64},
      {"half", DType::F16, {3}, half},
      {"brain", DType::BF16, {3, 1}, half},
      {"i64", DType::I64, {}, i64},
      {"i32", DType::I32, {1}, i32},
      {"i16", DType::I16, {1}, i16},
      {"i8", DType::I8, {1}, one},
      {"u8", DType::U8, {1, 1, 1}, one},
      {"bool", DType::BOOL, {1}, one},
      {"empty", DType::F32, {0, 4}, empty}};
  const std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                       {"config", "{\"a\":\n1}"}};
  write_safetensors(folder / "x.safetensors", items, metadata);
  const SafetensorsReader reader(folder / "x.safetensors");
  EXPECT_EQ(reader.metadata(), metadata);
  ASSERT_EQ(reader.entries().size(), items.size());
  for (const auto& item : items) {
    const HostTensor read = reader.read(item.name);
    EXPECT_EQ(read.dtype, item.dtype) << item.name;
    EXPECT_EQ(read.shape, item.shape) << item.name;
    EXPECT_EQ(read.bytes, Bytes(item.bytes.begin(), item.bytes.end())) << item.name;
  }
  EXPECT_EQ(reader.find("nothing"), nullptr);
  // Falling element size, then name; the data aligned to 8.
  std::vector<std::string> order;
  for (const auto& entry : reader.entries()) order.push_back(entry.name);
  EXPECT_THAT(order,
              ::testing::ElementsAre("a \"quoted\" \xC3\xA9", "i64", "b.weight", "empty",
                                     "i32", "brain", "half", "i16", "bool", "i8", "u8"));
  const Bytes file = testing::file_bytes(folder / "x.safetensors");
  EXPECT_EQ(testing::values_of<std::uint64_t>(file)[0] % 8, 0u);
  // Another order of the same content gives the same bytes.
  write_safetensors(folder / "y.safetensors", {items.rbegin(), items.rend()}, metadata);
  EXPECT_EQ(testing::file_bytes(folder / "y.safetensors"), file);
}

TEST(Safetensors, BytesOfASmallFile) {
  const testing::ScratchFolder folder;
  const Bytes data = testing::bytes_of<std::int16_t>({1, -2});
  write_safetensors(folder / "x", {{"w", DType::I16, {2}, data}}, {{"k", "v"}});
  const std::string header =
      "{\"__metadata__\":{\"k\":\"v\"},\"w\":{\"dtype\":\"I16\",\"shape\":[2],"
      "\"data_offsets\":[0,4]}} ";
  ASSERT_EQ(header.size() % 8, 0u);
  EXPECT_EQ(
      testing::to_text(testing::file_bytes(folder / "x")),
      testing::little(header.size(), 8) + header + std::string("\x01\x00\xFE\xFF", 4));
}

TEST(Safetensors, MovesKeepTheMap) {
  const testing::ScratchFolder folder;
  const Bytes data = testing::bytes_of<float>({1, 2});
  write_safetensors(folder / "x", {{"w", DType::F32, {2}, data}}, {});
  SafetensorsReader first(folder / "x");
  const SafetensorsReader second = std::move(first);
  EXPECT_EQ(second.read("w").bytes, data);
  EXPECT_EQ(second.path(), (folder / "x").string());
}

TEST(Safetensors, ReadsWhatTheFormatAllows) {
  for (const std::string& header : {std::string("{}"), std::string("{}      "),
                                    std::string("{ \"__metadata__\" : {} }"),
                                    "{" + tensor("w", "U8", "0", "0,0") + "}",
                                    "{" + tensor("", "U8", "0,5", "0,0") + "}"}) {
    const Bytes bytes = with_header(header, 0);
    EXPECT_NO_THROW(SafetensorsReader(bytes, "x")) << header;
  }
  // Zero-element tensors may lie between others.
  const Bytes bytes = with_header("{" + tensor("b", "U8", "2", "1,3") + "," +
                                      tensor("z", "F64", "0", "1,1") + "," +
                                      tensor("a", "U8", "", "0,1") + "}",
                                  3);
  const SafetensorsReader reader(bytes, "x");
  EXPECT_EQ(reader.entries()[1].name, "z");
  EXPECT_EQ(reader.data(reader.entries()[2]).size(), 2u);
}

TEST(Safetensors, MissingTensorNamesTheNearest) {
  const Bytes bytes =
      with_header("{" + tensor("model.weight", "U8", "1", "0,1") + "}", 1);
  const SafetensorsReader reader(bytes, "x.safetensors");
  try {
    reader.read("model.weigth");
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("x.safetensors"));
    EXPECT_THAT(error.what(), HasSubstr("'model.weigth'"));
    EXPECT_THAT(error.what(), HasSubstr("'model.weight'"));
  }
}

TEST(Safetensors, RefusesBadHeaders) {
  EXPECT_THAT(refusal(""), HasSubstr("empty header"));
  EXPECT_THAT(refusal(" {}"), HasSubstr("begins with '{'"));
  EXPECT_THAT(refusal("[]"), HasSubstr("begins with '{'"));
  EXPECT_THAT(refusal("{}x"), HasSubstr("at byte 10"));
  EXPECT_THAT(refusal("{}{}"), HasSubstr("JSON"));
  EXPECT_THAT(refusal("{\"a\":1}"), HasSubstr("an object under 'a'"));
  EXPECT_THAT(refusal(std::string("{}\0\0", 4)), HasSubstr("a zero byte"));
  EXPECT_THAT(refusal("{//c\n}"), HasSubstr("JSON"));
  EXPECT_THAT(refusal("{" + tensor("a", "U8", "1", "0,1") + ",}", 1), HasSubstr("JSON"));
  EXPECT_THAT(refusal("{\"\xFF\":{}}"), HasSubstr("JSON"));
  EXPECT_THAT(refusal("{" + tensor("a", "F8_E4M3", "1", "0,1") + "}", 1),
              HasSubstr("'F8_E4M3'"));
  EXPECT_THAT(refusal("{" + tensor("a", "f32", "1", "0,4") + "}", 4), HasSubstr("'f32'"));
  EXPECT_THAT(refusal("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1),
              HasSubstr("only 2 of the three keys"));
}

TEST(Safetensors, RefusesBadEntries) {
  const std::string rest = "\"shape\":[1],\"data_offsets\":[0,1]}}";
  EXPECT_THAT(refusal("{\"a\":{\"dtype\":1," + rest, 1), HasSubstr("a number"));
  EXPECT_THAT(refusal("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"," + rest, 1),
              HasSubstr("'dtype' twice"));
  EXPECT_THAT(refusal("{\"a\":{\"dtype\":\"U8\",\"more\":1," + rest, 1),
              HasSubstr("'more'"));
  EXPECT_THAT(refusal("{\"a\":{\"dtype\":\"U8\",\"more\":{}," + rest, 1),
              HasSubstr("'more'"));
  for (const char* shape : {"-1", "1.0", "1e0", "\"1\"", "null", "true", "[1]", "{}",
                            "-0", "9223372036854775808", "18446744073709551616"})
    refusal("{" + tensor("a", "U8", shape, "0,1") + "}", 1);
  for (const char* offsets :
       {"-1,1", "0", "", "0,1,1", "0,1.0", "0,\"1\"", "0,null", "0,18446744073709551616"})
    refusal("{" + tensor("a", "U8", "1", offsets) + "}", 1);
}

TEST(Safetensors, RefusesDuplicates) {
  EXPECT_THAT(refusal("{" + tensor("a", "U8", "1", "0,1") + "," +
                          tensor("a", "U8", "1", "1,2") + "}",
                      2),
              HasSubstr("'a' twice"));
  EXPECT_THAT(refusal("{\"__metadata__\":{},\"__metadata__\":{}}"), HasSubstr("twice"));
  EXPECT_THAT(refusal("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}"),
              HasSubstr("'k' twice"));
  EXPECT_THAT(refusal("{\"__metadata__\":{\"k\":1}}"), HasSubstr("strings only"));
  EXPECT_THAT(refusal("{\"__metadata__\":{\"k\":null}}"), HasSubstr("strings only"));
  EXPECT_THAT(refusal("{\"__metadata__\":[]}"), HasSubstr("an array"));
  EXPECT_THAT(refusal("{\"__metadata__\":\"x\"}"), HasSubstr("a string"));
}

TEST(Safetensors, RefusesBadLayouts) {
  // A hole at the front, between, behind; an overlap; past the end; backwards.
  EXPECT_THAT(refusal("{" + tensor("a", "U8", "1", "1,2") + "}", 2), HasSubstr("a hole"));
  EXPECT_THAT(refusal("{" + tensor("a", "U8", "1", "0,1") + "," +
                          tensor("b", "U8", "1", "2,3") + "}",
                      3),
              HasSubstr("a hole"));
  EXPECT_THAT(refusal("{" + tensor("a", "U8", "1", "0,1") + "}", 2),
              HasSubstr("belong to no tensor"));
  EXPECT_THAT(refusal("{}", 1), HasSubstr("belong to no tensor"));
  EXPECT_THAT(refusal("{" + tensor("a", "U8", "2", "0,2") + "," +
                          tensor("b", "U8", "2", "1,3") + "}",
                      3),
              HasSubstr("an overlap"));
  EXPECT_THAT(refusal("{" + tensor("a", "U8", "2", "0,2") + "," +
                          tensor("b", "U8", "2", "0,2") + "}",
                      2),
              HasSubstr("an overlap"));
  EXPECT_THAT(refusal("{" + tensor("a", "U8", "2", "0,2") + "}", 1), HasSubstr("inside"));
  EXPECT_THAT(refusal("{" + tensor("a", "U8", "0", "1,0") + "}", 1), HasSubstr("inside"));
  EXPECT_THAT(refusal("{" + tensor("a", "F32", "1", "0,3") + "}", 3),
              HasSubstr("4 bytes"));
  EXPECT_THAT(refusal("{" + tensor("a", "F32", "2", "0,4") + "}", 4),
              HasSubstr("8 bytes"));
  // Products that wrap round to the right size, also beside a zero.
  EXPECT_THAT(refusal("{" + tensor("a", "U8", "4294967296,4294967296", "0,0") + "}"),
              HasSubstr("2^63"));
  EXPECT_THAT(refusal("{" + tensor("a", "F64", "2305843009213693952", "0,0") + "}"),
              HasSubstr("2^63"));
  EXPECT_THAT(refusal("{" + tensor("a", "U8", "0,4294967296,4294967296", "0,0") + "}"),
              HasSubstr("2^63"));
}

TEST(Safetensors, RefusesBadLengths) {
  for (const unsigned long long length :
       {3ull, 100'000'001ull, 1ull << 63, ~0ull, ~0ull - 7}) {
    const Bytes bytes = testing::to_bytes(testing::little(length, 8) + "{}");
    EXPECT_THROW(SafetensorsReader(bytes, "x"), DataError) << length;
  }
}

TEST(Safetensors, DeepNestingIsRefused) {
  refusal(std::string(1'000'000, '{'));
  refusal("{\"a\":" + std::string(1'000'000, '['));
}

TEST(Safetensors, RefusesTruthValuesBeyondOne) {
  const Bytes bytes = testing::to_bytes(
      testing::little(("{" + tensor("a", "BOOL", "2", "0,2") + "}").size(), 8) + "{" +
      tensor("a", "BOOL", "2", "0,2") + "}" + "\x01\x02");
  const SafetensorsReader reader(bytes, "x");
  EXPECT_THROW(reader.read("a"), DataError);
}

TEST(Safetensors, WriterChecksItsItems) {
  const testing::ScratchFolder folder;
  const Bytes data(4);
  const auto path = folder / "x";
  EXPECT_THROW(write_safetensors(path, {{"a", DType::F32, {2}, data}}, {}), Error);
  EXPECT_THROW(write_safetensors(path, {{"a", DType::F32, {-1}, data}}, {}), Error);
  EXPECT_THROW(write_safetensors(path, {{"__metadata__", DType::F32, {1}, data}}, {}),
               Error);
  EXPECT_THROW(write_safetensors(
                   path, {{"a", DType::F32, {1}, data}, {"a", DType::U8, {4}, data}}, {}),
               Error);
  EXPECT_THROW(write_safetensors(path, {{"\xFF", DType::F32, {1}, data}}, {}), Error);
  EXPECT_THROW(write_safetensors(path, {}, {{"k", "\xC3"}}), Error);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

// Files of the reference folder, written by other programs.
TEST(Safetensors, Reference) {
  const auto folder = testing::reference_folder();
  FM_NEED_FILE(folder / "methods" / "training.safetensors");
  int files = 0;
  for (const auto& item : std::filesystem::recursive_directory_iterator(folder)) {
    if (item.path().extension() != ".safetensors") continue;
    const SafetensorsReader reader(item.path());
    std::uint64_t total = 0;
    for (const auto& entry : reader.entries())
      total += reader.read(entry.name).bytes.size();
    EXPECT_GT(total, 0u) << item.path();
    ++files;
  }
  EXPECT_GT(files, 20);
}

}  // namespace
}  // namespace flowmap
