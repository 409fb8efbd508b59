// Tar archives: what tar programs write, and every way of being broken.
#include "flowmap/formats/tar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "tests/support/scratch.h"
#include "tests/support/tar_bytes.h"

namespace flowmap {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::gzip_bytes;
using testing::tar_end;
using testing::tar_header;
using testing::tar_member;

// "name=content" of every entry.
std::vector<std::string> listing(const std::string& bytes) {
  const testing::Bytes kept = testing::to_bytes(bytes);
  TarReader tar(kept, "a.tar");
  std::vector<std::string> out;
  while (const auto entry = tar.next()) {
    const testing::Bytes content = tar.read();
    EXPECT_EQ(content.size(), entry->bytes);
    out.push_back(entry->name + "=" + testing::to_text(content));
  }
  EXPECT_FALSE(tar.next());
  return out;
}

std::string refusal(const std::string& bytes) {
  try {
    listing(bytes);
  } catch (const DataError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Tar, ReadsPlainAndGzipped) {
  const std::string long_content(1000, 'x');
  const std::string bytes = tar_header("d/", 0, '5') + tar_member("d/a", "hello") +
                            tar_member("empty", "") + tar_member("b", long_content) +
                            tar_end();
  const auto expected = ElementsAre("d/a=hello", "empty=", "b=" + long_content);
  EXPECT_THAT(listing(bytes), expected);
  EXPECT_THAT(listing(gzip_bytes(bytes)), expected);
  // Two gzip members are one stream.
  EXPECT_THAT(listing(gzip_bytes(bytes.substr(0, 700)) + gzip_bytes(bytes.substr(700))),
              expected);
}

TEST(Tar, ContentMayBePassedOver) {
  const testing::Bytes bytes = testing::to_bytes(
      tar_member("a", std::string(600, 'a')) + tar_member("b", "bb") + tar_end());
  TarReader tar(bytes, "a.tar");
  EXPECT_EQ(tar.next()->name, "a");
  EXPECT_EQ(tar.next()->name, "b");
  EXPECT_EQ(testing::to_text(tar.read()), "bb");
}

TEST(Tar, LongNames) {
  const std::string name(150, 'n');
  // ustar's prefix, pax, GNU.
  EXPECT_THAT(listing(tar_header("tail", 2, '0', "some/where") + "hi" +
                      std::string(510, '\0') + tar_end()),
              ElementsAre("some/where/tail=hi"));
  const std::string record = "160 path=" + name + "\n";
  ASSERT_EQ(record.size(), 160u);
  EXPECT_THAT(listing(tar_member("pax", record, 'x') + tar_member("short", "1") +
                      tar_member("next", "2") + tar_end()),
              ElementsAre(name + "=1", "next=2"));
  EXPECT_THAT(listing(tar_member("././@LongLink", name + '\0', 'L') +
                      tar_member("short", "1") + tar_end()),
              ElementsAre(name + "=1"));
  // A size in a pax record wins over the header's.
  EXPECT_THAT(listing(tar_member("pax", "9 size=3\n", 'x') + tar_header("s", 0, '0') +
                      "abc" + std::string(509, '\0') + tar_end()),
              ElementsAre("s=abc"));
}

TEST(Tar, NumbersInBase256) {
  std::string header = tar_header("s", 0, '0');
  header.replace(124, 12, "\x80" + std::string(10, '\0') + "\x05");
  EXPECT_THAT(listing(testing::with_tar_sum(header) + "12345" + std::string(507, '\0') +
                      tar_end()),
              ElementsAre("s=12345"));
}

TEST(Tar, HostileArchivesAreNamed) {
  const std::string good = tar_member("a", std::string(700, 'a')) + tar_end();
  for (const std::size_t size : {0, 1, 511, 600, 1200, 1535, 1536})
    EXPECT_THAT(refusal(good.substr(0, size)), HasSubstr("the end of the")) << size;
  const std::string packed = gzip_bytes(good);
  for (const std::size_t size : {std::size_t{2}, packed.size() / 2, packed.size() - 1})
    EXPECT_THAT(refusal(packed.substr(0, size)), HasSubstr("gzip data")) << size;
  std::string damaged = packed;
  damaged[damaged.size() - 5] ^= 1;
  EXPECT_THAT(refusal(damaged), HasSubstr("incorrect data check"));
  EXPECT_THAT(refusal(packed + "garbage"), HasSubstr("7 more bytes"));
  std::string sum = good;
  sum[0] = 'b';
  EXPECT_THAT(refusal(sum), HasSubstr("wrong sum"));
  std::string size = tar_header("a", 0, '0');
  size.replace(124, 11, "00000000zzz");
  EXPECT_THAT(refusal(testing::with_tar_sum(size)), HasSubstr("a size in the header"));
  // Claims 8 GiB less one byte: refused before memory is taken for it.
  size.replace(124, 11, "77777777777");
  EXPECT_THAT(refusal(testing::with_tar_sum(size)), HasSubstr("at most"));
  size.replace(124, 11, "37777777777");
  EXPECT_THAT(refusal(testing::with_tar_sum(size) + "abc"), HasSubstr("more bytes"));
  EXPECT_THAT(refusal(tar_member("h", "sparse", 'S') + tar_end()), HasSubstr("sparse"));
  for (const char* record : {"6 a=\n", "99 path=x\n", "path=x\n", "9 pathxx\n", "7 a=bc"})
    EXPECT_THAT(refusal(tar_member("p", record, 'x') + tar_end()), HasSubstr("pax"))
        << record;
  EXPECT_THAT(refusal("no tar at all" + std::string(600, 'x')), HasSubstr("header of a tar"));
}

}  // namespace
}  // namespace flowmap
