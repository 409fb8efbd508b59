// The reader of JSON with comments, and files with includes.
#include "flowmap/base/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "tests/base/config_example.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;

std::string parse_message(std::string_view text) {
  return usage_message([&] { Config::from_text(text, "a.json"); });
}

class ConfigFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "flowmap-config-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string put(const fs::path& name, std::string_view text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  fs::path folder_;
};

// ---- the reader -----------------------------------------------------------------------

TEST(ConfigParse, ReadsJsonWithCommentsAndTrailingCommas) {
  EXPECT_EQ(example().json(-1),
            R"({"stages":[{"steps":4},{"steps":2}],"trainer":{"batch":64,)"
            R"("ema":[0.5,1,10],"lr":1e-3,"name":"Adam","stop":null,"xflip":true}})");
  EXPECT_EQ(Config::from_text("\xEF\xBB\xBF{}", "a.json").json(), "{}");
  EXPECT_EQ(Config::from_text("{} // end", "a.json").json(), "{}");
  EXPECT_EQ(Config::from_text("{\r\n\"a\": -0.5e+2\r\n}", "a.json").number("a"), -50);
}

TEST(ConfigParse, ReadsEscapesAndUtf8) {
  const Config config = Config::from_text(
      R"({"a": "\"\\\/\b\f\n\r\t", "b": "\u0041\u00e9\u20ac\ud83d\ude00", "c": "é€😀"})",
      "a.json");
  EXPECT_EQ(config.string("a"), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(config.string("b"), "Aé€😀");
  EXPECT_EQ(config.string("c"), "é€😀");
  // Written so that it reads back.
  const Config again = Config::from_text(config.json(), "b.json");
  EXPECT_EQ(again.string("a"), config.string("a"));
  EXPECT_EQ(again.string("b"), config.string("b"));
}

TEST(ConfigParse, ErrorsSayFileLineAndWhat) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "1: expected a value, got the end of the file"},
      {"[1]", "1: expected an object { \"key\": value, ... }, got [1]"},
      {"{\n\"a\": }", "2: expected a value, got '}'"},
      {"{\"a\": 'x'}", "1: expected a value, got '''; strings stand in double quotes"},
      {"{\"a\": truely}", "1: expected a value, got 't'"},
      {"{\"a\": .5}", "1: expected a value, got '.'"},
      {"{\"a\": é}", "1: expected a value, got 'é'"},
      {"{\"a\": \x01}", "1: expected a value, got byte 0x01"},
      {"{\"a\": 1.}", "1: a number lacks a digit before '}'"},
      {"{\"a\": -\n}", "1: a number lacks a digit before the end of the line"},
      {"{\"a\": 1e}", "1: a number lacks a digit before '}'"},
      {"{\"a\": 007}", "1: a number starts with a needless 0"},
      {"{\"a\": 1e999}", "1: the number 1e999 does not fit a double"},
      {"{a: 1}", "1: expected a key in double quotes or '}', got 'a'"},
      {"{,}", "1: expected a key in double quotes or '}', got ','"},
      {"{\"a\" 1}", "1: expected ':' after key 'a', got '1'"},
      {"{\"a\": 1\n \"b\": 2}", "2: expected ',' or '}', got '\"'"},
      {"{\"a\": [1 2]}", "1: expected ',' or ']', got '2'"},
      {"{\n\"a\": 1", "2: the end comes before the '{' of line 1 is closed"},
      {"{\n\"a\": [1,\n", "3: the end comes before the '[' of line 2 is closed"},
      {"{\n\"a\": 1,\n\n\"a\": 2}", "4: duplicate key 'a' (first on line 2)"},
      {"{\n\"\": 1}", "2: a key is empty"},
      {"{\"a.b\": 1}", "1: key 'a.b' holds a dot; write nested objects instead"},
      {"{} {}", "1: expected nothing more after the value, got '{'"},
      {"{\n/* ", "2: the comment /* is never closed"},
      {"{\"a\": \"x\n\"}", "1: a string is not closed on its line"},
      {"{\"a\": \"x", "1: a string is not closed on its line"},
      {"{\"a\": \"\t\"}",
       "1: a string holds byte 0x09; write it as an escape such as \\t"},
      {"{\"a\": \"\\x\"}", "1: unknown escape \\ before 'x'"},
      {"{\"a\": \"\\u12g4\"}", "1: \\u wants four hexadecimal digits"},
      {"{\"a\": \"\\u12", "1: \\u wants four hexadecimal digits"},
      {"{\"a\": \"\\u0000\"}", "1: \\u0000 cannot stand in a string here"},
      {"{\"a\": \"\\ud800\"}", "1: \\u escape: half of a surrogate pair"},
      {"{\"a\": \"\\ud800\\u0041\"}", "1: \\u escape: half of a surrogate pair"},
      {"{\"a\": \"\\udc00\"}", "1: \\u escape: half of a surrogate pair"},
      {"{\"a\": \"\xFF\"}", "1: byte 0xff of a string is no UTF-8"},
      {"{\"a\": \"\xC3\"}", "1: byte 0xc3 of a string is no UTF-8"},
      {"{\"a\": \"\xC0\x80\"}", "1: byte 0xc0 of a string is no UTF-8"},
      {"{\"a\": \"\xE0\x80\x80\"}", "1: byte 0xe0 of a string is no UTF-8"},
      {"{\"a\": \"\xED\xA0\x80\"}", "1: byte 0xed of a string is no UTF-8"},
      {"{\"a\": \"\xF0\x80\x80\x80\"}", "1: byte 0xf0 of a string is no UTF-8"},
      {"{\"a\": \"\xF4\x90\x80\x80\"}", "1: byte 0xf4 of a string is no UTF-8"},
  };
  for (const auto& [text, message] : cases)
    EXPECT_EQ(parse_message(text), "a.json:" + message) << text;
}

TEST(ConfigParse, DepthIsLimited) {
  const auto nested = [](int depth) {
    return "{\"a\": " + std::string(static_cast<std::size_t>(depth), '[') +
           std::string(static_cast<std::size_t>(depth), ']') + "}";
  };
  EXPECT_EQ(parse_message(nested(64)), "nothing was thrown");
  EXPECT_EQ(parse_message(nested(65)), "a.json:1: nested deeper than 64 levels");
  EXPECT_EQ(parse_message("{\"a\": " + std::string(1'000'000, '[')),
            "a.json:1: nested deeper than 64 levels");
}

// Each prefix is an error and never a crash (the last byte is the newline).
TEST(ConfigParse, EveryTruncationIsAnError) {
  const std::string text = kExample;
  for (std::size_t length = 0; length + 1 < text.size(); ++length)
    EXPECT_THAT(parse_message(text.substr(0, length)), ::testing::StartsWith("a.json:"))
        << length;
}

// ---- files ----------------------------------------------------------------------------

TEST_F(ConfigFiles, IncludesAreMergedBelow) {
  put("base.json", R"({"trainer": {"lr": 1, "batch": 2}, "seed": 1})");
  put("sub/data.json",
      "{\"include\": \"../more.json\",\n\"data\": {\"path\": \"x.zip\"}}");
  put("more.json", R"({"seed": 2, "data": {"path": "wrong", "extra": true}})");
  const std::string path = put(
      "a.json",
      "{\n\"include\": [\"base.json\", \"sub/data.json\"],\n\"trainer\": {\"lr\": 3}}");
  const Config config = Config::from_file(path);
  EXPECT_EQ(config.json(-1),
            R"({"data":{"extra":true,"path":"x.zip"},"seed":2,)"
            R"("trainer":{"batch":2,"lr":3}})");
  EXPECT_EQ(config.where("trainer.lr"), path + ":3");
  EXPECT_EQ(config.where("trainer.batch"), (folder_ / "base.json").string() + ":1");
  EXPECT_EQ(config.where("data.path"), (folder_ / "sub" / "data.json").string() + ":2");
  // Relative to the file that holds the value.
  EXPECT_EQ(config.path("data.path"), (folder_ / "sub" / "x.zip").string());
}

TEST_F(ConfigFiles, PathsAreTakenFromTheFolderOfTheirFile) {
  const std::string file =
      put("sub/a.json", R"({"a": "x", "b": "../y/", "c": "/abs/./z", "d": ""})");
  Config config = Config::from_file(file);
  config.set_override("e=rel", "command line");
  EXPECT_EQ(config.path("a"), (folder_ / "sub" / "x").string());
  EXPECT_EQ(config.path("b"), (folder_ / "y" / "").string());
  EXPECT_EQ(config.path("c"), "/abs/z");
  EXPECT_EQ(config.path("d"), "");
  EXPECT_EQ(config.path("e"), (fs::current_path() / "rel").string());
  EXPECT_EQ(config.path("f", "default"), (fs::current_path() / "default").string());
}

TEST_F(ConfigFiles, DiamondsAreAllowedCyclesAreNot) {
  put("root.json", "{\"x\": 1}");
  put("l.json", "{\"include\": \"root.json\"}");
  put("r.json", "{\"include\": \"root.json\"}");
  const std::string diamond = put("d.json", "{\"include\": [\"l.json\", \"r.json\"]}");
  EXPECT_EQ(Config::from_file(diamond).integer("x"), 1);

  const std::string a = put("a.json", "{\n\"include\": \"b.json\"}");
  const std::string b = put("b.json", "{\"include\":\n\"./a.json\"}");
  EXPECT_EQ(usage_message([&] { Config::from_file(a); }),
            b + ":1: include './a.json' makes a cycle: " + a + " -> " + b + " -> " + a);
  const std::string self = put("self.json", "{\"include\": \"self.json\"}");
  EXPECT_EQ(usage_message([&] { Config::from_file(self); }),
            self + ":1: include 'self.json' makes a cycle: " + self + " -> " + self);
}

TEST_F(ConfigFiles, ErrorsNameTheFiles) {
  const std::string missing = (folder_ / "missing.json").string();
  EXPECT_EQ(usage_message([&] { Config::from_file(missing); }),
            missing + ": cannot read: No such file or directory");
  const std::string a = put("a.json", "{\n\n\"include\": [\"missing.json\"]}");
  EXPECT_EQ(usage_message([&] { Config::from_file(a); }),
            a + ":3: include 'missing.json': there is no file " + missing);
  const std::string b = put("b.json", "{\"include\": 5}");
  EXPECT_EQ(usage_message([&] { Config::from_file(b); }),
            b + ":1: include = 5 is a number: expected the name of a file or a list of "
                "names");
  const std::string broken = put("broken.json", "{\n\"a\": }");
  const std::string c = put("c.json", "{\"include\": \"broken.json\"}");
  EXPECT_EQ(usage_message([&] { Config::from_file(c); }),
            broken + ":2: expected a value, got '}'");
}

}  // namespace
}  // namespace flowmap
