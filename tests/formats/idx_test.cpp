// IDX files, plain and gzip: content, and every way of being broken.
#include "flowmap/formats/idx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstring>
#include <string>
#include <vector>

#include "flowmap/base/error.h"

namespace flowmap {
namespace {

using ::testing::HasSubstr;

std::vector<std::byte> bytes_of(const std::vector<int>& values) {
  std::vector<std::byte> bytes;
  for (const int v : values) bytes.push_back(static_cast<std::byte>(v));
  return bytes;
}

// Two 2x3 pictures.
std::vector<std::byte> small_idx() {
  return bytes_of({0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3,  //
                   1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255});
}

std::vector<std::byte> gzipped(const std::vector<std::byte>& plain) {
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::vector<std::byte> out(deflateBound(&stream, plain.size()) + 32);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(plain.data()));
  stream.avail_in = static_cast<uInt>(plain.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string refusal(const std::vector<std::byte>& bytes) {
  try {
    parse_idx(bytes, "f");
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("f: "));
    return error.what();
  }
  return "accepted";
}

TEST(Idx, ReadsPlainAndGzip) {
  for (const auto& bytes : {small_idx(), gzipped(small_idx())}) {
    const HostTensor tensor = parse_idx(bytes, "f");
    EXPECT_EQ(tensor.dtype, DType::U8);
    EXPECT_EQ(tensor.shape, (std::vector<std::int64_t>{2, 2, 3}));
    ASSERT_EQ(tensor.bytes.size(), 12u);
    EXPECT_EQ(tensor.bytes[0], std::byte{1});
    EXPECT_EQ(tensor.bytes[11], std::byte{255});
  }
}

TEST(Idx, LargeGzipIsWhole) {
  std::vector<std::byte> plain = bytes_of({0, 0, 8, 1, 0, 1, 0, 0});
  for (unsigned i = 0; i < 65536; ++i) plain.push_back(static_cast<std::byte>(i * i >> 3));
  const HostTensor tensor = parse_idx(gzipped(plain), "f");
  EXPECT_EQ(std::memcmp(tensor.bytes.data(), plain.data() + 8, 65536), 0);
}

TEST(Idx, EveryTruncationIsRefused) {
  for (const auto& whole : {small_idx(), gzipped(small_idx())})
    for (std::size_t n = 0; n < whole.size(); ++n)
      EXPECT_NE(refusal({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n)}),
                "accepted")
          << n;
}

TEST(Idx, EveryFlippedGzipByteIsRefusedOrHarmless) {
  const auto whole = gzipped(small_idx());
  const HostTensor right = parse_idx(whole, "f");
  for (std::size_t i = 0; i < whole.size(); ++i) {
    auto broken = whole;
    broken[i] ^= std::byte{0x41};
    try {
      // Header fields that say nothing about the content may change.
      EXPECT_EQ(parse_idx(broken, "f").bytes, right.bytes) << i;
      EXPECT_LT(i, 10u);
    } catch (const DataError&) {
    }
  }
}

TEST(Idx, SaysWhatIsWrong) {
  auto wrong = small_idx();
  wrong[0] = std::byte{1};
  EXPECT_THAT(refusal(wrong), HasSubstr("at byte 0"));
  wrong = small_idx();
  wrong[2] = std::byte{0x0d};
  EXPECT_THAT(refusal(wrong), HasSubstr("0x0d"));
  wrong = small_idx();
  wrong[3] = std::byte{9};
  EXPECT_THAT(refusal(wrong), HasSubstr("dimensions"));
  wrong = small_idx();
  wrong.push_back(std::byte{0});
  EXPECT_THAT(refusal(wrong), HasSubstr("more bytes after the end"));
  EXPECT_THAT(refusal(gzipped(wrong)), HasSubstr("more bytes after the end"));
  auto trailing = gzipped(small_idx());
  trailing.push_back(std::byte{7});
  EXPECT_THAT(refusal(trailing), HasSubstr("1 more bytes"));
}

TEST(Idx, SizesThatLieCostNoMemory) {
  auto lie = small_idx();
  for (const std::size_t i : {4, 8, 12}) lie[i] = std::byte{0xff};
  EXPECT_THAT(refusal(lie), HasSubstr("16 GiB"));
  EXPECT_THAT(refusal(gzipped(lie)), HasSubstr("16 GiB"));
  lie = small_idx();
  lie[5] = std::byte{0x10};  // 2^20 pictures, 6 MB, and 12 bytes are there
  EXPECT_THAT(refusal(lie), HasSubstr("got 12 bytes"));
  EXPECT_THAT(refusal(gzipped(lie)), HasSubstr("got 12 bytes"));
  // A bomb: the header promises 12 bytes, 16 MB follow.
  auto bomb = small_idx();
  bomb.resize(16 << 20);
  EXPECT_THAT(refusal(gzipped(bomb)), HasSubstr("more bytes after the end"));
}

}  // namespace
}  // namespace flowmap
