// ZIP: what the writer makes, what libzip reads, and what must be refused.
#include "flowmap/formats/zip.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <thread>

#include "flowmap/base/error.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

using testing::big;
using testing::Bytes;
using ::testing::HasSubstr;
using testing::little;

struct HandMade {
  std::string name, packed;
  std::uint64_t size = 0;  // claimed, unpacked
  std::uint32_t crc = 0;
  int method = 0;
};

std::uint32_t crc_of(const std::string& text) {
  return static_cast<std::uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(text.data()),
                                          static_cast<uInt>(text.size())));
}

std::string deflated(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY);
  std::string out(text.size() + 100, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// An archive from the parts of its records, so that any of them may lie.
// zip64_local: sizes in the local header as numpy writes them, in a ZIP64 extra field.
std::string archive(const std::vector<HandMade>& entries, bool zip64_local = false,
                    long long claimed_entries = -1) {
  std::string file, directory;
  for (const auto& e : entries) {
    const std::size_t at = file.size();
    const std::string common = little(20, 2) + little(0, 2) +
                               little(static_cast<unsigned>(e.method), 2) + little(0, 2) +
                               little(33, 2) + little(e.crc, 4);
    file += little(0x04034B50, 4) + common;
    if (zip64_local)
      file += little(0xFFFFFFFF, 4) + little(0xFFFFFFFF, 4) + little(e.name.size(), 2) +
              little(20, 2) + e.name + little(1, 2) + little(16, 2) + little(e.size, 8) +
              little(e.packed.size(), 8);
    else
      file += little(e.packed.size(), 4) + little(e.size, 4) + little(e.name.size(), 2) +
              little(0, 2) + e.name;
    file += e.packed;
    directory += little(0x02014B50, 4) + little(20, 2) + common +
                 little(e.packed.size(), 4) + little(e.size, 4) +
                 little(e.name.size(), 2) + little(0, 12) + little(at, 4) + e.name;
  }
  const std::size_t start = file.size();
  const auto count = static_cast<unsigned long long>(
      claimed_entries < 0 ? static_cast<long long>(entries.size()) : claimed_entries);
  return file + directory + little(0x06054B50, 4) + little(0, 4) + little(count, 2) +
         little(count, 2) + little(directory.size(), 4) + little(start, 4) + little(0, 2);
}

// The message of the DataError that opening or reading all entries must throw.
std::string refusal(const std::string& file, std::uint64_t most = 1 << 20) {
  const Bytes bytes = testing::to_bytes(file);
  try {
    const ZipReader reader(bytes, "test.zip", most);
    for (std::size_t i = 0; i < reader.size(); ++i) reader.read(i);
  } catch (const DataError& error) {
    EXPECT_EQ(error.path(), "test.zip");
    return error.what();
  }
  ADD_FAILURE() << "was read";
  return "";
}

TEST(Zip, RoundTrip) {
  const testing::ScratchFolder folder;
  const Bytes all = [] {
    Bytes bytes(70000);
    for (std::size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<std::byte>(i * 7);
    return bytes;
  }();
  for (const char* name : {"a.zip", "b.zip"}) {
    ZipWriter writer(folder / name);
    writer.add("00000/img00000000.png", all);
    writer.add("dataset.json", "{\"labels\":null}");
    writer.add(
        "gr\xC3\xB6\xC3\x9F"
        "e",
        "x");
    writer.add("empty", "");
    EXPECT_FALSE(std::filesystem::exists(folder / name)) << "there before commit()";
    writer.commit();
  }
  EXPECT_EQ(testing::file_bytes(folder / "a.zip"), testing::file_bytes(folder / "b.zip"));
  const ZipReader reader(folder / "a.zip");
  ASSERT_EQ(reader.size(), 4u);
  EXPECT_EQ(reader.name(0), "00000/img00000000.png");
  EXPECT_EQ(reader.entry_bytes(0), all.size());
  EXPECT_EQ(reader.read(0), all);
  EXPECT_EQ(testing::to_text(reader.read("dataset.json")), "{\"labels\":null}");
  EXPECT_EQ(reader.find("gr\xC3\xB6\xC3\x9F"
                        "e"),
            2);
  EXPECT_EQ(reader.find("grosse"), -1);
  EXPECT_TRUE(reader.read("empty").empty());
  EXPECT_THROW(reader.read("nothing"), DataError);
  EXPECT_THROW(reader.read(4), Error);
  EXPECT_THROW(reader.name(4), Error);
}

// Signature, flags, method, and the date 1980-01-01 00:00:00 stand where they must.
TEST(Zip, WriterBytes) {
  const testing::ScratchFolder folder;
  ZipWriter writer(folder / "x.zip");
  writer.add("n", "hello");
  writer.commit();
  const std::string crc = little(crc_of("hello"), 4);
  const std::string common = little(20, 2) + little(0, 2) + little(0, 2) + little(0, 2) +
                             little(33, 2) + crc + little(5, 4) + little(5, 4) +
                             little(1, 2) + little(0, 2);
  const std::string local = little(0x04034B50, 4) + common + "nhello";
  const std::string central = little(0x02014B50, 4) + little(0x032D, 2) + common +
                              little(0, 6) + little(0x81A40000, 4) + little(0, 4) + "n";
  const std::string end = little(0x06054B50, 4) + little(0, 4) + little(1, 2) +
                          little(1, 2) + little(central.size(), 4) +
                          little(local.size(), 4) + little(0, 2);
  EXPECT_EQ(testing::to_text(testing::file_bytes(folder / "x.zip")),
            local + central + end);
}

TEST(Zip, AlignedContentAndViews) {
  const testing::ScratchFolder folder;
  ZipWriter writer(folder / "x.zip");
  for (const char* name : {"a", "bc", "a longer name than these"})
    writer.add(name, std::string("content of ") + name, 64);
  writer.add("plain", "text");
  EXPECT_THROW(writer.add("more", "text", 8192), Error);
  writer.commit();
  const Bytes bytes = testing::file_bytes(folder / "x.zip");
  const ZipReader reader(bytes, "x.zip");
  for (std::size_t i = 0; i < reader.size(); ++i) {
    const auto view = reader.view(i);
    ASSERT_TRUE(view);
    EXPECT_EQ(testing::to_text(*view), testing::to_text(reader.read(i)));
    ASSERT_GE(view->data(), bytes.data());
    ASSERT_LE(view->data() + view->size(), bytes.data() + bytes.size());
    if (i < 3) {
      EXPECT_EQ((view->data() - bytes.data()) % 64, 0) << reader.name(i);
    }
  }
  EXPECT_THROW(reader.view(9), Error);
  // Packed entries have no view; stored ones with ZIP64 headers do.
  const std::string text(5000, 'z');
  for (const bool zip64 : {false, true}) {
    const Bytes mixed =
        testing::to_bytes(archive({{"d", deflated(text), text.size(), crc_of(text), 8},
                                   {"s", "plain", 5, crc_of("plain"), 0}},
                                  zip64));
    const ZipReader both(mixed, "x");
    EXPECT_FALSE(both.view(0));
    ASSERT_TRUE(both.view(1));
    EXPECT_EQ(testing::to_text(*both.view(1)), "plain");
  }
}

TEST(Zip, AnEmptyArchive) {
  const testing::ScratchFolder folder;
  ZipWriter(folder / "x.zip").commit();
  EXPECT_EQ(ZipReader(folder / "x.zip").size(), 0u);
}

TEST(Zip, ManyEntriesNeedZip64) {
  const testing::ScratchFolder folder;
  constexpr int kCount = 66000;
  ZipWriter writer(folder / "x.zip");
  for (int i = 0; i < kCount; ++i) writer.add(std::to_string(i), std::to_string(i));
  writer.commit();
  const ZipReader reader(folder / "x.zip");
  ASSERT_EQ(reader.size(), static_cast<std::size_t>(kCount));
  EXPECT_EQ(testing::to_text(reader.read("65999")), "65999");
  EXPECT_EQ(testing::to_text(reader.read("0")), "0");
}

// Writes 8.6 GB; run with --gtest_also_run_disabled_tests.
TEST(Zip, DISABLED_LargeEntriesNeedZip64) {
  const testing::ScratchFolder folder;
  const Bytes large((std::size_t{1} << 32) + 1, std::byte{1});
  {
    ZipWriter writer(folder / "x.zip");
    writer.add("large", large);
    writer.add("far", "away");
    writer.add("far and large", large);
    writer.commit();
  }
  const ZipReader reader(folder / "x.zip");
  EXPECT_EQ(testing::to_text(reader.read("far")), "away");
  EXPECT_EQ(reader.entry_bytes(0), large.size());
  EXPECT_TRUE(reader.read("large") == large);
  EXPECT_TRUE(reader.read("far and large") == large);
}

TEST(Zip, WriterLeavesNoTraceWithoutCommit) {
  const testing::ScratchFolder folder;
  { ZipWriter(folder / "x.zip").add("a", "b"); }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Zip, WriterRefusesNames) {
  const testing::ScratchFolder folder;
  ZipWriter writer(folder / "x.zip");
  writer.add("a", "1");
  EXPECT_THROW(writer.add("a", "2"), Error);
  EXPECT_THROW(writer.add("", "2"), Error);
  EXPECT_THROW(writer.add(std::string(65536, 'x'), "2"), Error);
}

TEST(Zip, ReadsDeflatedAndZip64Headers) {
  const std::string text(5000, 'z');
  const std::string packed = deflated(text);
  for (const bool zip64 : {false, true}) {
    const Bytes bytes =
        testing::to_bytes(archive({{"d", packed, text.size(), crc_of(text), 8},
                                   {"s", "plain", 5, crc_of("plain"), 0}},
                                  zip64));
    const ZipReader reader(bytes, "x");
    EXPECT_EQ(testing::to_text(reader.read("d")), text);
    EXPECT_EQ(testing::to_text(reader.read("s")), "plain");
  }
}

TEST(Zip, RefusesDuplicateNames) {
  EXPECT_THAT(refusal(archive({{"a", "1", 1, crc_of("1")}, {"a", "2", 1, crc_of("2")}})),
              HasSubstr("'a' twice"));
}

TEST(Zip, RefusesWrongCrc) {
  EXPECT_THAT(refusal(archive({{"a", "123", 3, crc_of("124")}})), HasSubstr("'a'"));
  const std::string text(300, 'q');
  EXPECT_THAT(refusal(archive({{"a", deflated(text), 300, 5, 8}})), HasSubstr("'a'"));
  EXPECT_THAT(refusal(archive({{"a", "", 0, 5}})), HasSubstr("'a'"));
}

TEST(Zip, RefusesFalseSizes) {
  const std::string text(300, 'q');
  for (const std::uint64_t size : {0, 1, 299, 301, 2000})
    refusal(archive({{"a", deflated(text), size, crc_of(text), 8}}));
  refusal(archive({{"a", "123", 2, crc_of("123")}}));
  refusal(archive({{"a", "123", 4, crc_of("123")}}));
  // A bomb's claims: refused before memory is taken.
  EXPECT_THAT(
      refusal(archive({{"a", deflated(text), 0xFFFFFFF0, crc_of(text), 8}}), 1u << 31),
      HasSubstr("at most 2147483648"));
  EXPECT_THAT(
      refusal(archive({{"a", deflated(text), 0xFFFFFFF0, crc_of(text), 8}}), ~0ull),
      HasSubstr("1032"));
}

TEST(Zip, RefusesEntriesBeyondTheLimit) {
  const std::string text(100000, 'q');
  const std::string file =
      archive({{"bomb", deflated(text), text.size(), crc_of(text), 8}});
  EXPECT_THAT(refusal(file, 99999), HasSubstr("at most 99999 bytes in entry 'bomb'"));
  const Bytes bytes = testing::to_bytes(file);
  EXPECT_EQ(ZipReader(bytes, "x", 100000).read(0).size(), 100000u);
}

TEST(Zip, RefusesOtherMethodsAndFalseCounts) {
  EXPECT_THAT(refusal(archive({{"a", "123", 3, crc_of("123"), 12}})),
              HasSubstr("method 12"));
  refusal(archive({{"a", "123", 3, crc_of("123")}}, false, 2));
  refusal(archive({{"a", "123", 3, crc_of("123")}}, false, 65535));
  refusal("");
  refusal("PK");
  refusal(std::string(100, 'x'));
}

// A ZIP64 end record that claims 2^40 entries: memory must not be taken for them.
TEST(Zip, RefusesHugeEntryCounts) {
  for (const unsigned long long count : {1ull << 40, 1ull << 31, ~0ull}) {
    const std::string end64 = little(0x06064B50, 4) + little(44, 8) + little(45, 2) +
                              little(45, 2) + little(0, 8) + little(count, 8) +
                              little(count, 8) + little(0, 8) + little(0, 8);
    const std::string locator =
        little(0x07064B50, 4) + little(0, 4) + little(0, 8) + little(1, 4);
    EXPECT_THAT(refusal(end64 + locator + little(0x06054B50, 4) + little(0, 4) +
                        little(0xFFFF, 2) + little(0xFFFF, 2) + little(0xFFFFFFFF, 4) +
                        little(0xFFFFFFFF, 4) + little(0, 2)),
                HasSubstr("a count of"));
  }
}

TEST(Zip, SeveralThreadsMayRead) {
  const testing::ScratchFolder folder;
  {
    ZipWriter writer(folder / "x.zip");
    for (int i = 0; i < 200; ++i)
      writer.add(std::to_string(i), std::string(1000 + i, 'a'));
    writer.commit();
  }
  const ZipReader reader(folder / "x.zip");
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i)
        wrong[t] += reader.read(i).size() != static_cast<std::size_t>(1000 + i);
    });
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(wrong, ::testing::Each(0));
}

}  // namespace
}  // namespace flowmap
