#include "flowmap/base/sha256.h"

#include <gtest/gtest.h>

#include <span>
#include <string>

#include "flowmap/base/file.h"

namespace flowmap {
namespace {

std::string hash_of(const std::string& text) {
  return sha256_hex(std::as_bytes(std::span(text.data(), text.size())));
}

// FIPS 180-4 examples (NIST), and the lengths around the padding's edge.
TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(hash_of(""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hash_of("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hash_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(hash_of(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PaddingEdges) {
  EXPECT_EQ(hash_of(std::string(55, 'a')),
            "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
  EXPECT_EQ(hash_of(std::string(64, 'a')),
            "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
}

TEST(Sha256, File) {
  const auto path = std::filesystem::temp_directory_path() / "flowmap_sha256_test.bin";
  write_file_atomic(path, std::string_view("abc"));
  EXPECT_EQ(sha256_file(path), hash_of("abc"));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace flowmap
