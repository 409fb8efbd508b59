#include "flowmap/base/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "flowmap/base/error.h"

namespace flowmap {
namespace {

using ::testing::ElementsAre;

// The message of the UsageError that `action` throws, or what went wrong instead.
std::string usage_message(const std::function<void()>& action) {
  try {
    action();
  } catch (const UsageError& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another exception: ") + error.what();
  }
  return "nothing was thrown";
}

TEST(Text, ParsesSeedLists) {
  using List = std::vector<std::int64_t>;
  const std::pair<const char*, List> cases[] = {
      {"0", {0}},
      {"1,2,5-10", {1, 2, 5, 6, 7, 8, 9, 10}},
      {"3,1,2,1", {3, 1, 2, 1}},
      {"5-5", {5}},
      {" 1 , 2 ", {1, 2}},
      {"007", {7}},
      {"9223372036854775806-9223372036854775807",
       {9223372036854775806, 9223372036854775807}},
  };
  for (const auto& [text, expected] : cases)
    EXPECT_EQ(parse_int_list(text, "--seeds"), expected) << text;
}

TEST(Text, RefusesBadSeedListsByName) {
  const std::string form = "; expected whole numbers and ranges such as 1,2,5-10";
  const std::string neither = "' is neither a number nor a range" + form;
  const std::pair<const char*, std::string> cases[] = {
      {"", "--seeds: the list is empty" + form},
      {"  ", "--seeds: the list is empty" + form},
      {"5-1", "--seeds: the range '5-1' runs backwards; write 1-5"},
      {"1,,2", "--seeds: '" + neither},
      {"1,", "--seeds: '" + neither},
      {"-3", "--seeds: '-3" + neither},
      {"+3", "--seeds: '+3" + neither},
      {"1-", "--seeds: '1-" + neither},
      {"1-2-3", "--seeds: '1-2-3" + neither},
      {"1.5", "--seeds: '1.5" + neither},
      {"seven", "--seeds: 'seven" + neither},
      {"1 2", "--seeds: '1 2" + neither},
      {"9223372036854775808",
       "--seeds: '9223372036854775808' is too large: at most 9223372036854775807"},
      {"0-2000000000", "--seeds: 2000000001 items; at most 67108864 in one list"},
      {"1-67108865", "--seeds: 67108865 items; at most 67108864 in one list"},
      {"0-9223372036854775807",
       "--seeds: 9223372036854775808 items; at most 67108864 in one list"},
      {"0-9,1-67108855", "--seeds: 67108865 items; at most 67108864 in one list"},
  };
  for (const auto& [text, message] : cases)
    EXPECT_EQ(usage_message([&] { parse_int_list(text, "--seeds"); }), message) << text;
}

TEST(Text, TakesTheLongestSeedList) {
  const auto seeds = parse_int_list("0-9,11-67108864", "--seeds");
  ASSERT_EQ(seeds.size(), std::size_t{1} << 26);
  EXPECT_EQ(seeds.back(), 67108864);
}

TEST(Text, ParsesNumberLists) {
  EXPECT_THAT(parse_double_list("0,0.5, 1e-3,-2,+4", "--t"),
              ElementsAre(0, 0.5, 1e-3, -2, 4));
  EXPECT_EQ(usage_message([] { parse_double_list("", "--t"); }),
            "--t: the list is empty; expected numbers such as 0,0.5,1");
  EXPECT_EQ(usage_message([] { parse_double_list("0,inf", "--t"); }),
            "--t: 'inf' is not finite; expected finite numbers such as 0,0.5,1");
  EXPECT_EQ(usage_message([] { parse_double_list("0,,1", "--t"); }),
            "--t: '' is no number; expected one such as 0.5 or 1e-3");
}

TEST(Text, ParsesCounts) {
  struct Case {
    const char* text;
    CountUnit unit;
    std::int64_t images;
  };
  const Case cases[] = {
      {"128Ki", CountUnit::mimg, 131072},
      {"200Mi", CountUnit::images, 209715200},
      {"1Gi", CountUnit::kimg, 1073741824},
      {"0.5Ki", CountUnit::kimg, 512},
      {"7", CountUnit::images, 7},
      {"50", CountUnit::kimg, 50000},
      {"200", CountUnit::mimg, 200000000},
      {"0.5", CountUnit::mimg, 500000},
      {"10e-1", CountUnit::mimg, 1000000},
      {"0.1", CountUnit::kimg, 100},
      {"0.0000016", CountUnit::mimg, 2},
      {"0", CountUnit::mimg, 0},
      {" 3 ", CountUnit::images, 3},
      // More digits than a double has.
      {"9007199254740993", CountUnit::images, 9007199254740993},
      {"9007199254.740993", CountUnit::mimg, 9007199254740993},
      {"4611686018427387904", CountUnit::images, std::int64_t{1} << 62},
  };
  for (const Case& c : cases)
    EXPECT_EQ(parse_count(c.text, c.unit, "--duration"), c.images) << c.text;
}

TEST(Text, RefusesBadCountsByName) {
  const std::string form =
      "; expected a number, alone or with Ki, Mi or Gi, such as 128Ki";
  for (const std::string text : {"", "Ki", "12K", "12KI", "12 Kib", "ten", "nan", "1,5",
                                 "0x10", "1Ti", "--2", "+-2"})
    EXPECT_EQ(usage_message([&] { parse_count(text, CountUnit::mimg, "--duration"); }),
              "--duration: '" + text + "' is no count" + form);
  for (const std::string text : {"-1", "-0.5Mi", "-inf"})
    EXPECT_EQ(usage_message([&] { parse_count(text, CountUnit::mimg, "--duration"); }),
              "--duration: '" + text + "' is negative" + form);
  for (const std::string text : {"4611686018427387905", "5000000000Gi", "1e5000", "inf"})
    EXPECT_EQ(usage_message([&] { parse_count(text, CountUnit::images, "--duration"); }),
              "--duration: '" + text +
                  "' is too large or too small; at most 2^62 images can be counted");
}

TEST(Text, ParsesSingleNumbers) {
  EXPECT_EQ(parse_double("0.1", "--lr"), 0.1);
  EXPECT_EQ(parse_double(" -1e3 ", "--lr"), -1000);
  EXPECT_EQ(parse_double("inf", "--lr"), std::numeric_limits<double>::infinity());
  for (const std::string text : {"", "x", "1x", "1 2", "nan", "++1", "+-1"})
    EXPECT_EQ(usage_message([&] { parse_double(text, "--lr"); }),
              "--lr: '" + text + "' is no number; expected one such as 0.5 or 1e-3");
  EXPECT_EQ(usage_message([] { parse_double("1e999", "--lr"); }),
            "--lr: '1e999' does not fit a double");

  EXPECT_EQ(parse_int("-64", "--batch"), -64);
  EXPECT_EQ(parse_int("+64", "--batch"), 64);
  EXPECT_EQ(parse_int("-9223372036854775808", "--batch"),
            std::numeric_limits<std::int64_t>::min());
  for (const std::string text : {"", "1.0", "1e3", "-", "+-1", "0x10"})
    EXPECT_EQ(usage_message([&] { parse_int(text, "--batch"); }),
              "--batch: '" + text + "' is no whole number; expected one such as 64");
  EXPECT_EQ(usage_message([] { parse_int("9223372036854775808", "--batch"); }),
            "--batch: '9223372036854775808' does not fit a 64-bit integer");
}

TEST(Text, ParsesBooleans) {
  for (const char* yes : {"1", "true", "YES", "On", " True "})
    EXPECT_TRUE(parse_bool(yes, "--xflip")) << yes;
  for (const char* no : {"0", "FALSE", "no", "off"})
    EXPECT_FALSE(parse_bool(no, "--xflip")) << no;
  EXPECT_EQ(
      usage_message([] { parse_bool("maybe", "--xflip"); }),
      "--xflip: 'maybe' is neither true nor false; expected 1/0, true/false, yes/no "
      "or on/off");
}

TEST(Text, FindsTheNearestName) {
  const std::vector<std::string> names = {"euler", "heun", "multistep", "rk45", "lr"};
  EXPECT_EQ(nearest_name("eluer", names), "euler");  // one transposition
  EXPECT_EQ(nearest_name("EULER", names), "euler");
  EXPECT_EQ(nearest_name("hen", names), "heun");
  EXPECT_EQ(nearest_name("multi_stpe", names), "multistep");  // 3 of 10 letters
  EXPECT_EQ(nearest_name("mlt_stp", names), "");              // 3 of 7
  EXPECT_EQ(nearest_name("xy", names), "");                   // nothing in common
  EXPECT_EQ(nearest_name("", names), "");
  EXPECT_EQ(nearest_name("heun", {}), "");
  EXPECT_EQ(suggestion("huen", names), "; did you mean 'heun'?");
  EXPECT_EQ(suggestion("dpm-solver", names),
            "; known: euler, heun, multistep, rk45, lr");
  EXPECT_EQ(suggestion("heun", {}), "");
}

TEST(Text, PrefersTheSmallestDistance) {
  const std::vector<std::string> names = {"batches", "batch"};
  EXPECT_EQ(nearest_name("bacth", names), "batch");
  // A transposition is one edit, so this is nearer than two substitutions.
  const std::vector<std::string> pair = {"bxxch", "bacth"};
  EXPECT_EQ(nearest_name("batch", pair), "bacth");
}

TEST(Text, SplitsJoinsTrims) {
  EXPECT_THAT(split("a,b,,c", ','), ElementsAre("a", "b", "", "c"));
  EXPECT_THAT(split("", ','), ElementsAre(""));
  EXPECT_THAT(split(",", ','), ElementsAre("", ""));
  EXPECT_EQ(join(split("a.b.c", '.'), "::"), "a::b::c");
  EXPECT_EQ(join({}, ", "), "");
  EXPECT_EQ(trim(" \t a b\r\n"), "a b");
  EXPECT_EQ(trim(" \n"), "");
  EXPECT_EQ(to_lower("AbC-\xC3\x84"), "abc-\xC3\x84");
  EXPECT_TRUE(ends_with_ignoring_case("IMG.JPEG", ".jpeg"));
  EXPECT_FALSE(ends_with_ignoring_case("g", ".jpeg"));
  EXPECT_FALSE(ends_with_ignoring_case("a.png", ".jpg"));
}

TEST(Text, Formats) {
  EXPECT_EQ(format("%s %05.2f", "loss", 1.5), "loss 01.50");
  EXPECT_EQ(format("%s", ""), "");
  const std::string wide(5000, 'x');
  EXPECT_EQ(format("<%s>", wide.c_str()), "<" + wide + ">");
}

// The table is EDM's dnnlib.util.format_time.
TEST(Text, FormatsDurations) {
  const std::pair<double, const char*> cases[] = {
      {0, "0s"},
      {45, "45s"},
      {59.4, "59s"},
      {59.6, "1m 00s"},
      {725, "12m 05s"},
      {3599, "59m 59s"},
      {3600, "1h 00m 00s"},
      {10931, "3h 02m 11s"},
      {86399, "23h 59m 59s"},
      {86400 + 3 * 3600 + 4 * 60 + 59, "1d 03h 04m"},
      {100.0 * 86400, "100d 00h 00m"},
      {-5, "0s"},
      {std::nan(""), "unknown"},
      {std::numeric_limits<double>::infinity(), "unknown"},
  };
  for (const auto& [seconds, text] : cases)
    EXPECT_EQ(format_duration(seconds), text) << seconds;
}

}  // namespace
}  // namespace flowmap
