#include "flowmap/base/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <functional>
#include <limits>
#include <sstream>

#include "tests/base/config_example.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();

// ---- getters --------------------------------------------------------------------------

TEST(ConfigGet, ReturnsValues) {
  const Config config = example();
  EXPECT_EQ(config.number("trainer.lr"), 1e-3);
  EXPECT_EQ(config.number("trainer.batch"), 64);
  EXPECT_EQ(config.integer("trainer.batch", {}, 1, 64), 64);
  EXPECT_TRUE(config.boolean("trainer.xflip"));
  EXPECT_EQ(config.string("trainer.name"), "Adam");
  EXPECT_THAT(config.numbers("trainer.ema"), ElementsAre(0.5, 1, 10));
  EXPECT_EQ(config.integer("stages.1.steps"), 2);
  const std::vector<std::string> known = {"Adam", "RAdam"};
  EXPECT_EQ(config.choice("trainer.name", known), "Adam");
  EXPECT_EQ(config.raw("stages"), R"([{"steps":4},{"steps":2}])");
  EXPECT_EQ(config.raw("nothing"), "null");
  EXPECT_EQ(config.where("trainer.ema"), "configs/a.json:7");
  EXPECT_EQ(config.where("trainer"), "configs/a.json:2");
  EXPECT_EQ(config.where("trainer.nothing"), "default");
}

TEST(ConfigGet, ReturnsDefaults) {
  const Config config;
  EXPECT_EQ(config.number("a", 0.5), 0.5);
  EXPECT_EQ(config.integer("b", -1, 0, 10), -1);  // "off" may lie outside the range
  EXPECT_FALSE(config.boolean("c", false));
  EXPECT_EQ(config.string("d.e", "x"), "x");
  const std::vector<std::string> known = {"euler"};
  EXPECT_EQ(config.choice("f", known, "none"), "none");
  EXPECT_EQ(config.count("g", 2, 1'500'000), 1'500'000);
  EXPECT_THAT(config.numbers("h", {{1, 2}}), ElementsAre(1, 2));
  EXPECT_THAT(config.integers("i", {{3}}), ElementsAre(3));
  EXPECT_THAT(config.strings("j", {{"k"}}), ElementsAre("k"));
  EXPECT_EQ(config.path("l", ""), "");
  // null counts as missing.
  EXPECT_EQ(example().integer("trainer.stop", 7), 7);
  EXPECT_FALSE(example().has("trainer.stop"));
  EXPECT_TRUE(example().has("trainer.lr"));
  EXPECT_FALSE(example().has("sampler.steps"));
}

TEST(ConfigGet, WholeNumbersMayBeWrittenAsDecimals) {
  const Config config = Config::from_text(
      R"({"a": 1e3, "b": 64.0, "c": 9007199254740993, "d": -9223372036854775808})", "x");
  EXPECT_EQ(config.integer("a"), 1000);
  EXPECT_EQ(config.integer("b"), 64);
  EXPECT_EQ(config.integer("c"), 9007199254740993);  // beyond a double
  EXPECT_EQ(config.integer("d"), std::numeric_limits<std::int64_t>::min());
}

TEST(ConfigGet, BooleansInOtherSpellings) {
  const Config config =
      Config::from_text(R"({"a": 1, "b": "off", "c": 2, "d": "x"})", "x");
  EXPECT_TRUE(config.boolean("a"));
  EXPECT_FALSE(config.boolean("b"));
  EXPECT_EQ(usage_message([&] { config.boolean("c"); }),
            "x:1: c = 2 is a number: expected true or false");
  EXPECT_EQ(usage_message([&] { config.boolean("d"); }),
            "x:1: d = \"x\" is a string: expected true or false");
}

TEST(ConfigGet, CountsImages) {
  const Config config = Config::from_text(
      R"({"a": 200, "b": "128Ki", "c": 0.5, "d": -1, "e": "-1", "f": true, "g": "x"})",
      "x");
  EXPECT_EQ(config.count("a", 2), 200'000'000);
  EXPECT_EQ(config.count("a", 1), 200'000);
  EXPECT_EQ(config.count("a", 0), 200);
  EXPECT_EQ(config.count("b", 2), 131072);
  EXPECT_EQ(config.count("c", 1), 500);
  EXPECT_EQ(config.count("d", 2, -1), -1);  // the default itself
  const std::string form =
      "; expected a number, alone or with Ki, Mi or Gi, such as 128Ki";
  EXPECT_EQ(usage_message([&] { config.count("e", 2); }),
            "x:1: e: '-1' is negative" + form);
  EXPECT_EQ(usage_message([&] { config.count("f", 2); }),
            "x:1: f = true is a boolean: expected a number of images such as 200, 0.5 or "
            "\"128Ki\"");
  EXPECT_EQ(usage_message([&] { config.count("g", 2); }),
            "x:1: g: 'x' is no count" + form);
}

TEST(ConfigGet, ListsFromOneValueOrText) {
  const Config config = Config::from_text(
      R"({"a": 2, "b": "0,0.5", "c": "1,5-7", "d": "x,y", "e": "", "f": [1, "x"],
          "g": true, "h": [0.5], "i": [1]})",
      "x");
  EXPECT_THAT(config.numbers("a"), ElementsAre(2));
  EXPECT_THAT(config.numbers("b"), ElementsAre(0, 0.5));
  EXPECT_THAT(config.integers("a"), ElementsAre(2));
  EXPECT_THAT(config.integers("c"), ElementsAre(1, 5, 6, 7));
  EXPECT_THAT(config.strings("d"), ElementsAre("x,y"));
  EXPECT_THAT(config.strings("e"), IsEmpty());
  EXPECT_EQ(usage_message([&] { config.numbers("f"); }),
            "x:1: f.1 = \"x\" is a string: expected a number");
  EXPECT_EQ(usage_message([&] { config.numbers("g"); }),
            "x:2: g = true is a boolean: expected a list of numbers");
  EXPECT_EQ(usage_message([&] { config.numbers("d"); }),
            "x:1: d: 'x' is no number; expected one such as 0.5 or 1e-3");
  EXPECT_EQ(usage_message([&] { config.integers("g"); }),
            "x:2: g = true is a boolean: expected a list of whole numbers");
  EXPECT_EQ(usage_message([&] { config.integers("h"); }),
            "x:2: h.0 = 0.5 is not whole: expected a whole number");
  EXPECT_EQ(usage_message([&] { config.strings("g"); }),
            "x:2: g = true is a boolean: expected a list of strings");
  EXPECT_EQ(usage_message([&] { config.strings("i"); }),
            "x:2: i.0 = 1 is a number: expected a string");
}

TEST(ConfigGet, TypeErrorsSayWhatWasExpectedAndFound) {
  const Config config = example();
  const std::pair<std::function<void()>, std::string> cases[] = {
      {[&] { config.number("trainer.name"); },
       "9: trainer.name = \"Adam\" is a string: expected a number"},
      {[&] { config.number("trainer.xflip", 0.0, 0, 1); },
       "8: trainer.xflip = true is a boolean: expected a number in [0, 1]"},
      {[&] { config.integer("trainer.ema"); },
       "7: trainer.ema = [0.5,1,10] is a list: expected a whole number"},
      {[&] { config.integer("trainer.lr"); },
       "3: trainer.lr = 1e-3 is not whole: expected a whole number"},
      {[&] { config.boolean("trainer"); },
       "2: trainer = "
       "{\"batch\":64,\"ema\":[0.5,1,10],\"lr\":1e-3,\"name\":\"Adam\",\"stop\":... "
       "is an object: expected true or false"},
      {[&] { config.string("trainer.batch"); },
       "4: trainer.batch = 64 is a number: expected a string"},
      {[&] { config.path("trainer.batch"); },
       "4: trainer.batch = 64 is a number: expected a string"},
      {[&] { config.child("trainer.batch"); },
       "4: trainer.batch = 64 is a number: expected an object"},
      {[&] { config.number("trainer.batch.size", 1); },
       "4: trainer.batch = 64 is a number: expected an object"},
      {[&] { config.children("trainer"); },
       "2: trainer = "
       "{\"batch\":64,\"ema\":[0.5,1,10],\"lr\":1e-3,\"name\":\"Adam\",\"stop\":... "
       "is an object: expected a list of objects"},
      {[&] { config.children("trainer.ema"); },
       "7: trainer.ema.0 = 0.5 is a number: expected an object"},
  };
  for (const auto& [action, message] : cases)
    EXPECT_EQ(usage_message(action), "configs/a.json:" + message);
}

TEST(ConfigGet, RangeErrorsSayTheRange) {
  const Config config = Config::from_text(
      "{\n\"trainer\": {\n\"lr\": -1,\n\"batch\": 0,\n\"big\": 1e30, \"huge\": "
      "9223372036854775808}}",
      "configs/a.json");
  const std::pair<std::function<void()>, std::string> cases[] = {
      {[&] { config.number("trainer.lr", {}, 0); },
       "3: trainer.lr = -1 is out of range: expected a number in [0, inf)"},
      {[&] { config.number("trainer.lr", 0.5, 0, 1); },
       "3: trainer.lr = -1 is out of range: expected a number in [0, 1]"},
      {[&] { config.number("trainer.batch", {}, -kInf, -0.5); },
       "4: trainer.batch = 0 is out of range: expected a number in (-inf, -0.5]"},
      {[&] { config.integer("trainer.batch", 8, 1); },
       "4: trainer.batch = 0 is out of range: expected a whole number in [1, inf)"},
      {[&] { config.integer("trainer.batch", {}, 1, 64); },
       "4: trainer.batch = 0 is out of range: expected a whole number in [1, 64]"},
      {[&] { config.integer("trainer.big", {}, kMin, 5); },
       "5: trainer.big = 1e30 is out of range: expected a whole number in (-inf, 5]"},
      {[&] { config.integer("trainer.huge"); },
       "5: trainer.huge = 9223372036854775808 is out of range: expected a whole number"},
  };
  for (const auto& [action, message] : cases)
    EXPECT_EQ(usage_message(action), "configs/a.json:" + message);
  EXPECT_EQ(config.number("trainer.lr", {}, -1, -1), -1);  // ranges are closed
  EXPECT_EQ(config.number("trainer.lr", -1, 0, 1), -1);    // the default may be given
  EXPECT_EQ(config.integer("trainer.lr", -1, 0, 1), -1);
}

TEST(ConfigGet, InfinityOnlyWhereItIsTheDefault) {
  const Config config = Config::from_text(R"({"s_max": "inf", "lo": "-Infinity"})", "x");
  EXPECT_EQ(config.number("s_max", kInf, 0), kInf);
  EXPECT_EQ(config.number("lo", -kInf), -kInf);
  EXPECT_EQ(usage_message([&] { config.number("s_max", 1.0, 0); }),
            "x:1: s_max = \"inf\" is not finite: expected a number in [0, inf)");
}

TEST(ConfigGet, ChoiceErrorsNameTheNearest) {
  const Config config = Config::from_text("{\n\"a\": \"hune\", \"b\": \"dpm++\"}", "x");
  const std::vector<std::string> known = {"euler", "heun"};
  EXPECT_EQ(usage_message([&] { config.choice("a", known); }),
            "x:2: a = \"hune\" is unknown: expected one of euler, heun; did you mean "
            "'heun'?");
  EXPECT_EQ(usage_message([&] { config.choice("b", known, "euler"); }),
            "x:2: b = \"dpm++\" is unknown: expected one of euler, heun");
  EXPECT_EQ(usage_message([&] { config.choice("c", known); }),
            "x: missing key 'c': expected one of euler, heun");
}

TEST(ConfigGet, MissingKeysSayWhereAndWhatIsNear) {
  const Config config =
      Config::from_text("{\n\"trainer\": {\n\n\"bacth\": 64, \"lr\": 1}}", "a.json");
  config.number("trainer.lr");
  EXPECT_EQ(
      usage_message([&] { config.integer("trainer.batch", {}, 1); }),
      "a.json:2: missing key 'trainer.batch': expected a whole number in [1, inf); is "
      "'trainer.bacth' (a.json:4) meant to be it?");
  EXPECT_EQ(usage_message([&] { config.child("trainer").string("name"); }),
            "a.json:2: missing key 'trainer.name': expected a string");
  EXPECT_EQ(usage_message([&] { config.number("sampler.churn.s_min"); }),
            "a.json: missing key 'sampler.churn.s_min': expected a number");
  EXPECT_EQ(usage_message([] { Config().path("out"); }),
            "configuration: missing key 'out': expected a path");
  const Config empty;
  EXPECT_EQ(usage_message([&] { empty.boolean("a"); }),
            "configuration: missing key 'a': expected true or false");
  EXPECT_EQ(
      usage_message([&] { empty.count("a", 0); }),
      "configuration: missing key 'a': expected a number of images such as 200, 0.5 "
      "or \"128Ki\"");
  EXPECT_EQ(usage_message([&] { empty.numbers("a"); }),
            "configuration: missing key 'a': expected a list of numbers");
  EXPECT_EQ(usage_message([&] { empty.integers("a"); }),
            "configuration: missing key 'a': expected a list of whole numbers");
  EXPECT_EQ(usage_message([&] { empty.strings("a"); }),
            "configuration: missing key 'a': expected a list of strings");
}

TEST(ConfigGet, ChildrenShareTheTree) {
  const Config config = example();
  const Config trainer = config.child("trainer");
  EXPECT_EQ(trainer.number("lr"), 1e-3);
  EXPECT_EQ(trainer.where("lr"), "configs/a.json:3");
  EXPECT_THAT(trainer.keys(),
              ElementsAre("lr", "batch", "ema", "xflip", "name", "stop"));
  EXPECT_EQ(trainer.json(-1).substr(0, 12), R"({"batch":64,)");
  const std::vector<Config> stages = config.children("stages");
  ASSERT_EQ(stages.size(), 2u);
  EXPECT_EQ(stages[0].integer("steps"), 4);
  EXPECT_EQ(stages[1].integer("steps"), 2);
  EXPECT_THAT(config.children("none"), IsEmpty());
  EXPECT_THAT(config.child("none").keys(), IsEmpty());
  EXPECT_EQ(config.child("none").integer("x", 3), 3);
}

// ---- overrides ------------------------------------------------------------------------

TEST(ConfigOverride, SetsDottedKeys) {
  Config config = example();
  config.set_override("trainer.batch=128", "command line");
  config.set_override("--trainer.lr=2e-4", "command line");
  config.set_override("-trainer.xflip=false", "command line");
  config.set_override("-", "command line");
  config.set_override("--", "command line");
  config.set_override("sampler.churn.s_max=inf", "command line");
  config.set_override("data.name=cifar10", "command line");
  config.set_override("data.empty=", "command line");
  config.set_override("data.expr=a=b", "command line");
  config.set_override("trainer.ema={\"half_life\": [1, 2]}", "command line");
  EXPECT_EQ(config.integer("trainer.batch"), 128);
  EXPECT_EQ(config.number("trainer.lr"), 2e-4);
  EXPECT_FALSE(config.boolean("trainer.xflip"));
  EXPECT_EQ(config.number("sampler.churn.s_max", kInf), kInf);
  EXPECT_EQ(config.string("data.name"), "cifar10");
  EXPECT_EQ(config.string("data.empty"), "");
  EXPECT_EQ(config.string("data.expr"), "a=b");
  EXPECT_THAT(config.numbers("trainer.ema.half_life"), ElementsAre(1, 2));
  EXPECT_EQ(config.where("trainer.batch"), "command line");
  EXPECT_EQ(config.where("trainer.name"), "configs/a.json:9");
}

TEST(ConfigOverride, StringsKeepWhatWasTyped) {
  Config config;
  for (const char* text : {"a=2024", "b=1e5", "c=true", "d=007", "e=//x", "f=\"quoted\""})
    config.set_override(text, "command line");
  EXPECT_EQ(config.string("a"), "2024");
  EXPECT_EQ(config.string("b"), "1e5");
  EXPECT_EQ(config.string("c"), "true");
  EXPECT_EQ(config.string("d"), "007");
  EXPECT_EQ(config.string("e"), "//x");
  EXPECT_EQ(config.string("f"), "quoted");
  config.set_override("g=x,y", "command line");
  config.set_override("h=5", "command line");
  EXPECT_THAT(config.strings("g"), ElementsAre("x", "y"));
  EXPECT_THAT(config.strings("h"), ElementsAre("5"));
}

TEST(ConfigOverride, NullTakesBack) {
  Config config = example();
  config.set_override("trainer.batch=null", "command line");
  EXPECT_EQ(config.integer("trainer.batch", 8), 8);
  config.set_override("trainer.stop.at=5", "command line");  // an object instead of null
  EXPECT_EQ(config.integer("trainer.stop.at"), 5);
}

TEST(ConfigOverride, ErrorsNameTheOrigin) {
  Config config = example();
  const auto message = [&](std::string_view text) {
    return usage_message([&] { config.set_override(text, "command line"); });
  };
  EXPECT_EQ(message("trainer.batch"),
            "command line: 'trainer.batch' is no setting; write key=value, such as "
            "trainer.batch=64");
  EXPECT_EQ(message(""),
            "command line: '' is no setting; write key=value, such as trainer.batch=64");
  for (const std::string text : {"=5", "a..b=5", ".a=5", "a.=5", "a b=5"})
    EXPECT_EQ(message(text), "command line: '" + text +
                                 "' does not start with a key such as trainer.batch");
  EXPECT_EQ(message("trainer.lr.start=1"),
            "command line: cannot set 'trainer.lr.start': configs/a.json:3 makes "
            "'trainer.lr' a number, not an object");
  EXPECT_EQ(message("trainer.name.x=1"),
            "command line: cannot set 'trainer.name.x': configs/a.json:9 makes "
            "'trainer.name' a string, not an object");
  EXPECT_EQ(
      message("stages.0.steps=1"),
      "command line: cannot set 'stages.0.steps': configs/a.json:12 makes 'stages' a "
      "list, not an object; replace the whole list");
  EXPECT_EQ(message("trainer.lr=fast"), "nothing was thrown");
  EXPECT_EQ(usage_message([&] { config.number("trainer.lr"); }),
            "command line: trainer.lr = \"fast\" is a string: expected a number");
}

TEST(ConfigOverride, SetJsonIsStrict) {
  Config config;
  config.set_json("trainer.lr", "0.5", "--lr");
  EXPECT_EQ(config.number("trainer.lr"), 0.5);
  EXPECT_EQ(config.where("trainer.lr"), "--lr");
  EXPECT_EQ(usage_message([&] { config.set_json("trainer.lr", "fast", "--lr"); }),
            "--lr: trainer.lr: expected a value, got 'f'");
  EXPECT_EQ(usage_message([&] { config.set_json("a", "[1,]", "--lr"); }),
            "--lr: a: expected a value after ','");
  EXPECT_EQ(usage_message([&] { config.set_json("a", "{\"b\":1,\"b\":2}", "--lr"); }),
            "--lr: a: duplicate key 'b'");
  EXPECT_EQ(usage_message([&] { config.set_json("a", "[1", "--lr"); }),
            "--lr: a: the end comes before the '[' is closed");
  EXPECT_EQ(usage_message([&] { config.set_json("", "1", "--lr"); }),
            "--lr: '' does not start with a key such as trainer.batch");
}

TEST(ConfigOverride, OnAChildIsRelative) {
  Config config = example();
  Config trainer = config.child("trainer");
  trainer.set_override("batch=2", "command line");
  EXPECT_EQ(config.integer("trainer.batch"), 2);
}

TEST(ConfigMerge, OtherWinsObjectByObject) {
  Config config = example();
  const Config other = Config::from_text(
      R"({"trainer": {"batch": 2, "new": {"x": 1}}, "stages": [1], "b": 3})", "b.json");
  config.merge(other);
  EXPECT_EQ(config.json(-1),
            R"({"b":3,"stages":[1],"trainer":{"batch":2,"ema":[0.5,1,10],"lr":1e-3,)"
            R"("name":"Adam","new":{"x":1},"stop":null,"xflip":true}})");
  EXPECT_EQ(config.where("trainer.batch"), "b.json:1");
  EXPECT_EQ(config.where("trainer.lr"), "configs/a.json:3");
  EXPECT_EQ(usage_message([&] { config.number("trainer.decay"); }),
            "b.json:1: missing key 'trainer.decay': expected a number");
  // Under a prefix, from a part of a tree, from itself.
  Config made;
  made.child("student").merge(other.child("trainer"));
  EXPECT_EQ(made.json(-1), R"({"student":{"batch":2,"new":{"x":1}}})");
  made.merge(made);
  EXPECT_EQ(made.json(-1), R"({"student":{"batch":2,"new":{"x":1}}})");
  made.merge(Config::from_text("{}", "c.json").child("none"));
  EXPECT_EQ(made.integer("student.batch"), 2);
  // What is merged has not been read here.
  EXPECT_EQ(usage_message([&] { made.check_all_read(); }),
            "b.json:1: unknown key 'student.new'; known here: batch");
}

// ---- what nobody read -----------------------------------------------------------------

TEST(ConfigUnread, NamesTheKeyAndTheNearest) {
  const Config config = Config::from_text(
      "{\n\"trainer\": {\n\"lr\": 1,\n\"bacth\": 64}}", "configs/a.json");
  config.number("trainer.lr");
  config.integer("trainer.batch", 8);
  EXPECT_EQ(
      usage_message([&] { config.check_all_read(); }),
      "configs/a.json:4: unknown key 'trainer.bacth'; did you mean 'trainer.batch'?");
  EXPECT_EQ(
      usage_message([&] { config.child("trainer").check_all_read(); }),
      "configs/a.json:4: unknown key 'trainer.bacth'; did you mean 'trainer.batch'?");
  config.child("trainer").ignore();
  EXPECT_EQ(usage_message([&] { config.check_all_read(); }), "nothing was thrown");
}

TEST(ConfigUnread, LooksElsewhereThenListsWhatIsKnown) {
  const auto message = [](std::string_view text) {
    const Config config = Config::from_text(text, "a.json");
    config.integer("trainer.batch", 8);
    config.number("trainer.lr", 1);
    config.string("out", "");
    return usage_message([&] { config.check_all_read(); });
  };
  EXPECT_EQ(message("{\"batch\": 4}"),
            "a.json:1: unknown key 'batch'; did you mean 'trainer.batch'?");
  EXPECT_EQ(message("{\"seeds\": 4}"), "a.json:1: unknown key 'seeds'; known here: out, "
                                       "trainer");
  EXPECT_EQ(message("{\"trianer\": {\"batch\": 4}}"),
            "a.json:1: unknown key 'trianer'; did you mean 'trainer'?");
  EXPECT_EQ(message("{\"trainer\": {\"typo\": null}}"),
            "a.json:1: unknown key 'trainer.typo'; known here: batch, lr");
  EXPECT_EQ(message("{\"trainer\": {\"batch\": 4}, \"out\": \"x\"}"),
            "nothing was thrown");
  EXPECT_EQ(message("{\"trainer\": {}}"), "nothing was thrown");
  const Config nothing_asked = Config::from_text("{\"a\": 1}", "a.json");
  EXPECT_EQ(usage_message([&] { nothing_asked.check_all_read(); }),
            "a.json:1: unknown key 'a'");
}

TEST(ConfigUnread, OverridesAndListsCount) {
  Config config = example();
  config.child("trainer").ignore();
  for (const Config& stage : config.children("stages")) stage.integer("steps");
  EXPECT_EQ(usage_message([&] { config.check_all_read(); }), "nothing was thrown");
  config.set_override("trainer.bacth=1", "command line");
  config.integer("trainer.batch");
  // The object was ignored as a whole, before the override came.
  EXPECT_EQ(usage_message([&] { config.check_all_read(); }), "nothing was thrown");
  config.set_override("sampler.stpes=1", "command line");
  config.integer("sampler.steps", 4);
  EXPECT_EQ(usage_message([&] { config.check_all_read(); }),
            "command line: unknown key 'sampler.stpes'; did you mean 'sampler.steps'?");
  const Config stages =
      Config::from_text("{\"stages\": [{\"a\": 1},\n{\"a\": 1, \"b\": 2}]}", "a.json");
  for (const Config& stage : stages.children("stages")) stage.integer("a");
  EXPECT_EQ(usage_message([&] { stages.check_all_read(); }),
            "a.json:2: unknown key 'stages.1.b'; known here: a");
}

TEST(ConfigUnread, AskingWhetherAKeyIsThereIsNotReading) {
  const Config config = Config::from_text("{\"a\": {\"b\": 1}}", "a.json");
  EXPECT_TRUE(config.has("a.b"));
  EXPECT_EQ(usage_message([&] { config.check_all_read(); }),
            "a.json:1: unused key 'a.b': nothing in this run reads it");
}

// ---- writing --------------------------------------------------------------------------

TEST(ConfigWrite, IndentsAndSorts) {
  EXPECT_EQ(
      Config::from_text(R"({"b": [{"x": 1}], "a": {"d": [1, 2], "c": {}}})", "x").json(),
      "{\n"
      "  \"a\": {\n"
      "    \"c\": {},\n"
      "    \"d\": [1, 2]\n"
      "  },\n"
      "  \"b\": [\n"
      "    {\n"
      "      \"x\": 1\n"
      "    }\n"
      "  ]\n"
      "}");
}

// Reads everything the way a program would, and says what it got.
std::string read_everything(const Config& config) {
  std::ostringstream out;
  const std::vector<std::string> known = {"euler", "heun"};
  out.precision(17);
  out << config.number("trainer.lr", 0.1) << ' '
      << config.number("sampler.s_max", kInf, 0) << ' '
      << config.number("sampler.off", -1, 0) << ' '
      << std::isnan(config.number("unset", std::nan(""))) << ' '
      << config.integer("trainer.batch", 7) << ' '
      << config.boolean("trainer.xflip", true) << ' '
      << config.string("run.name", "x\n\"y\"") << ' '
      << config.choice("sampler.name", known, "heun") << ' ' << config.path("out", "runs")
      << ' ' << config.path("data", "") << ' ' << config.count("duration", 2, 1'234'567)
      << ' ' << config.count("tick", 1, 50'000) << ' ' << config.count("never", 2, -1)
      << ' ' << config.count("tiny", 2, 5) << ' ' << config.count("images", 0, 12) << ' ';
  for (const double x : config.numbers("t", {{0.1, 1e300}})) out << x << ',';
  for (const std::int64_t x : config.integers("seeds", {{1, 2}})) out << x << ',';
  for (const std::string& x : config.strings("metrics", {{"fid", "kid"}}))
    out << x << ',';
  for (const Config& stage : config.children("stages"))
    out << stage.integer("steps") << '/' << stage.number("scale", 0.25) << ',';
  return out.str();
}

TEST(ConfigWrite, ResolvedReadsBackAsTheSameRun) {
  Config given = example();
  for (const char* text : {"run.name=2024", "t=0,0.5", "seeds=3,5-7", "metrics=a,b",
                           "trainer.xflip=0", "duration=128Ki", "out=x/../y",
                           "sampler.name=euler", "extra.kept=1"})
    given.set_override(text, "command line");
  for (const Config& config : {Config(), given}) {
    const std::string first = read_everything(config);
    const std::string resolved = config.resolved_json();
    const Config again = Config::from_text(resolved, "resolved.json");
    EXPECT_EQ(read_everything(again), first);
    EXPECT_EQ(again.resolved_json(), resolved);
  }
  const Config again = Config::from_text(given.resolved_json(), "resolved.json");
  EXPECT_EQ(again.integer("extra.kept"), 1);  // given though nobody read it
  EXPECT_EQ(again.path("out"), (fs::current_path() / "y").string());
  EXPECT_EQ(again.number("stages.0.scale"), 0.25);
}

TEST(ConfigWrite, ResolvedShowsDefaults) {
  const Config config = Config::from_text("{\"b\": {\"c\": 1.50}}", "x");
  config.integer("b.steps", 4);
  config.number("b.c");
  config.count("duration", 2, 1'500'000);
  config.number("s_max", kInf);
  EXPECT_EQ(config.resolved_json(-1),
            R"({"b":{"c":1.50,"steps":4},"duration":1.5,"s_max":"inf"})");
  EXPECT_EQ(config.child("b").resolved_json(-1), R"({"c":1.50,"steps":4})");
  EXPECT_EQ(config.child("none").resolved_json(-1), "{}");
  EXPECT_EQ(config.json(-1), R"({"b":{"c":1.50}})");
}

TEST(ConfigWrite, AnOverrideDropsWhatWasReturnedBefore) {
  Config config;
  config.integer("a.b", 1);
  config.set_override("a=5", "command line");
  EXPECT_EQ(config.resolved_json(-1), R"({"a":5})");
  config.merge(Config::from_text("{\"a\": {\"c\": 1}}", "x"));
  EXPECT_EQ(config.resolved_json(-1), R"({"a":{"c":1}})");
  config.set_override("flag=yes", "command line");
  EXPECT_TRUE(config.boolean("flag"));
  config.set_override("flag=false", "command line");
  EXPECT_EQ(config.resolved_json(-1), R"({"a":{"c":1},"flag":false})");
}

}  // namespace
}  // namespace flowmap
