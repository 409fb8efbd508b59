// The pickle machine: every opcode, what it refuses, and what hostile input may cost.
#include "flowmap/formats/pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/reference.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

using namespace std::string_literals;
using testing::Bytes;
using ::testing::HasSubstr;
using testing::little;

PickleOptions weights() {
  PickleOptions options;
  options.allow = allow_weights_global;
  return options;
}

// A pickle with the bytes it points into.
struct Held {
  explicit Held(const std::string& text, PickleOptions options = weights())
      : bytes(std::make_unique<Bytes>(testing::to_bytes(text))),
        pickle(*bytes, "test.pkl", std::move(options)) {}
  const PickleValue* operator->() const { return &pickle.root(); }
  const PickleValue& operator*() const { return pickle.root(); }
  std::unique_ptr<Bytes> bytes;
  Pickle pickle;
};

std::string refusal(const std::string& text, PickleOptions options = weights()) {
  try {
    const Held held(text, std::move(options));
  } catch (const DataError& error) {
    EXPECT_EQ(error.path(), "test.pkl");
    EXPECT_TRUE(error.offset().has_value()) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "was read";
  return "";
}

std::string ordered_dict() { return "ccollections\nOrderedDict\n"; }

TEST(Pickle, NoneAndBooleans) {
  EXPECT_TRUE(Held("N.")->is_none());
  EXPECT_TRUE(Held("\x88.")->as_bool("x"));
  EXPECT_FALSE(Held("\x89.")->as_bool("x"));
  EXPECT_TRUE(Held("I01\n.")->as_bool("x"));
  EXPECT_FALSE(Held("I00\n.")->as_bool("x"));
  EXPECT_THROW(Held("K\x01.")->as_bool("x"), DataError);
}

TEST(Pickle, Integers) {
  EXPECT_EQ(Held("I-7\n.")->as_int("x"), -7);
  EXPECT_EQ(Held("L12L\n.")->as_int("x"), 12);
  EXPECT_EQ(Held("L-9223372036854775808L\n.")->as_int("x"), INT64_MIN);
  EXPECT_EQ(Held("J\xFE\xFF\xFF\xFF.")->as_int("x"), -2);
  EXPECT_EQ(Held("K\xFF.")->as_int("x"), 255);
  EXPECT_EQ(Held("M\x01\x02.")->as_int("x"), 513);
  EXPECT_EQ(Held("\x8A\0."s)->as_int("x"), 0);
  EXPECT_EQ(Held("\x8A\x01\xFF.")->as_int("x"), -1);
  EXPECT_EQ(Held("\x8A\x02\xFF\0."s)->as_int("x"), 255);
  EXPECT_EQ(Held("\x8A\x09\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F\0."s)->as_int("x"), INT64_MAX);
  EXPECT_EQ(Held("\x8B\x02\0\0\0\x01\x02."s)->as_int("x"), 513);
  // Beyond 64 bits: kept, but no integer.
  for (const std::string& big :
       {"\x8A\x09\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0."s, "L9223372036854775808L\n."s}) {
    const Held held(big);
    EXPECT_TRUE(held->is(PickleKind::big_integer));
    EXPECT_THROW(held->as_int("x"), DataError);
  }
  EXPECT_EQ(
      Held("\x8A\x09\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0."s)->big_integer_bytes().size(),
      9u);
  refusal("Ix\n.");
  refusal("I\n.");
  refusal("I 1\n.");
  EXPECT_THAT(refusal("\x8B\xFF\xFF\xFF\xFF."), HasSubstr("not negative"));
}

TEST(Pickle, Floats) {
  EXPECT_EQ(Held("F1.5\n.")->as_double("x"), 1.5);
  EXPECT_EQ(Held("F-inf\n.")->as_double("x"), -INFINITY);
  EXPECT_EQ(Held("G\x3F\xF8\0\0\0\0\0\0."s)->as_double("x"), 1.5);
  EXPECT_EQ(Held("K\x03.")->as_double("x"), 3.0);
  EXPECT_THROW(Held("N.")->as_double("x"), DataError);
  refusal("F1.5x\n.");
}

TEST(Pickle, Text) {
  for (const std::string& text :
       {"X\x03\0\0\0abc."s, "\x8C\x03"s + "abc."s, "\x8D"s + little(3, 8) + "abc.",
        "T\x03\0\0\0abc."s, "U\x03"s + "abc."s, "S'abc'\n."s, "S\"abc\"\n."s, "Vabc\n."s})
    EXPECT_EQ(Held(text)->as_text("x"), "abc") << text;
  EXPECT_EQ(Held("S'\\'\\\\\\n\\x41\\102'\n.")->as_text("x"), "'\\\nAB");
  EXPECT_EQ(Held("V\\u00e9\\U0001F600\xE9\n.")->as_text("x"),
            "\xC3\xA9\xF0\x9F\x98\x80\xC3\xA9");
  // Python 2 wrote bytes and text alike.
  EXPECT_TRUE(Held("U\x02\xFF\xFE.")->is(PickleKind::bytes));
  EXPECT_EQ(Held("U\x02"s + "ab."s)->as_bytes("x").size(), 2u);
  refusal("X\x02\0\0\0\xFF\xFE."s);      // not UTF-8
  refusal("X\x02\0\0\0\xC0\x80."s);      // overlong
  refusal("X\x03\0\0\0\xED\xA0\x80."s);  // a surrogate
  refusal("S'abc\n.");
  refusal("S'\\q'\n.");
  refusal("S'\\x4'\n.");
  refusal("V\\u12\n.");
  refusal("V\\ud800\n.");
  EXPECT_THAT(refusal("T\xFF\xFF\xFF\xFF"s + "abc."), HasSubstr("not negative"));
}

TEST(Pickle, BytesInEveryForm) {
  for (const std::string& text :
       {"B\x03\0\0\0a\xFF"s + "c."s, "C\x03"s + "a\xFF" + "c."s,
        "\x8E"s + little(3, 8) + "a\xFF" + "c.", "\x96"s + little(3, 8) + "a\xFF" + "c.",
        "c_codecs\nencode\n(X\x04\0\0\0a\xC3\xBF"s + "cX\x06\0\0\0latin1tR."s})
    EXPECT_EQ(testing::to_text(Held(text)->as_bytes("x")),
              "a\xFF"
              "c")
        << text;
  refusal("c_codecs\nencode\n(X\x03\0\0\0\xE2\x82\xACX\x06\0\0\0latin1tR."s);
  refusal("c_codecs\nencode\n(X\x01\0\0\0aX\x05\0\0\0utf-8tR."s);
}

TEST(Pickle, Sequences) {
  for (const char* text : {"(K\x01K\x02t.", "K\x01K\x02\x86.", "(K\x01K\x02l.",
                           "](K\x01K\x02"
                           "e.",
                           "]K\x01"
                           "aK\x02"
                           "a.",
                           "\x8F(K\x01K\x02\x90.", "(K\x01K\x02\x91."}) {
    const Held held(text);
    ASSERT_EQ(held->elements().size(), 2u) << text;
    EXPECT_EQ(held->elements()[0]->as_int("x"), 1);
    EXPECT_EQ(held->elements()[1]->as_int("x"), 2);
  }
  EXPECT_EQ(Held(").")->elements().size(), 0u);
  EXPECT_EQ(Held("N\x85.")->elements().size(), 1u);
  EXPECT_EQ(Held("NNN\x87.")->elements().size(), 3u);
  EXPECT_TRUE(Held("(t.")->is(PickleKind::tuple));
  EXPECT_TRUE(Held("(\x91.")->is(PickleKind::frozenset));
  EXPECT_THROW(Held("(\x91.")->as_sequence("x"), DataError);
  // set([1, 2]) as protocol 2 has it.
  EXPECT_EQ(Held("c__builtin__\nset\n](K\x01K\x02"
                 "e\x85R.")
                ->elements()
                .size(),
            2u);
  refusal(
      ")K\x01"
      "a.");
  refusal(
      ")(K\x01"
      "e.");
  refusal("](K\x01\x90.");
  refusal(
      "(K\x01"
      "e.");
}

TEST(Pickle, Dicts) {
  for (const char* text : {"(U\x01"
                           "aK\x01U\x01"
                           "bK\x02"
                           "d.",
                           "}(U\x01"
                           "aK\x01U\x01"
                           "bK\x02u.",
                           "}U\x01"
                           "aK\x01sU\x01"
                           "bK\x02s."}) {
    const Held held(text);
    ASSERT_EQ(held->items().size(), 2u);
    EXPECT_EQ(held->at("b", "x").as_int("x"), 2);
    EXPECT_EQ(held->find("c"), nullptr);
    try {
      held->at("c", "the weights");
      FAIL();
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr("'c' (the weights)"));
      EXPECT_THAT(error.what(), HasSubstr("2 keys"));
    }
  }
  EXPECT_THROW(Held("N.")->at("a", "x"), DataError);
  refusal(
      "}(U\x01"
      "au.");
  refusal(
      "](U\x01"
      "aK\x01u.");
  EXPECT_THAT(refusal("}(U\x01"
                      "aK\x01U\x01"
                      "aK\x02u."),
              HasSubstr("'a' twice"));
  EXPECT_THAT(refusal("}(K\x05K\x01K\x05K\x02u."), HasSubstr("integer 5 twice"));
}

TEST(Pickle, StackOpcodes) {
  EXPECT_EQ(Held("K\x01K\x02"
                 "0.")
                ->as_int("x"),
            1);                                 // POP
  EXPECT_EQ(Held("K\x01(0.")->as_int("x"), 1);  // POP of a mark
  EXPECT_EQ(Held("K\x01(K\x02K\x03"
                 "1.")
                ->as_int("x"),
            1);                 // POP_MARK
  const Held twice("]2\x86.");  // DUP
  EXPECT_EQ(twice->elements()[0], twice->elements()[1]);
  EXPECT_TRUE(Held("\x80\x05\x95"s + little(2, 8) + "N.")->is_none());
  EXPECT_THAT(refusal("\x80\x06N."), HasSubstr("protocol from 0 to 5"));
  EXPECT_THAT(refusal("\x95"s + little(3, 8) + "N."), HasSubstr("frame"));
}

TEST(Pickle, MemoKeepsSharing) {
  for (const char* text : {"]p0\ng0\n\x86.", "]q\x05h\x05\x86.", "]\x94h\0\x86."}) {
    const Held held(std::string(text, text[1] == '\x94' ? 6 : std::strlen(text)));
    EXPECT_EQ(held->elements()[0], held->elements()[1]);
  }
  const Held wide("]r\x02\0\0\0j\x02\0\0\0\x86."s);
  EXPECT_EQ(wide->elements()[0], wide->elements()[1]);
  EXPECT_THAT(refusal("h\x01."), HasSubstr("memo entry 1"));
  EXPECT_THAT(refusal("j\xFF\xFF\xFF\xFF."), HasSubstr("memo entry"));
  EXPECT_THAT(refusal("Nr\xFF\xFF\xFF\xFF."), HasSubstr("memo index"));
  refusal("Np-1\n.");
  refusal("Npx\n.");
  refusal("q\x01N.");  // nothing to remember
}

TEST(Pickle, CyclesAreSeen) {
  const Held list(
      "]q\0h\0"
      "a."s);
  EXPECT_TRUE(list.pickle.cyclic());
  EXPECT_EQ(list->elements()[0], &*list);
  const Held dict("}q\0U\x01"s + "ah\0s."s);
  EXPECT_TRUE(dict.pickle.cyclic());
  EXPECT_FALSE(Held("]q\0h\0\x86."s).pickle.cyclic());  // shared, not inside itself
  // A tuple inside its own list.
  EXPECT_TRUE(Held("]q\0h\0\x85q\x01"
                   "a."s)
                  .pickle.cyclic());
}

TEST(Pickle, GlobalsAndCalls) {
  const Held global(ordered_dict() + ".");
  EXPECT_TRUE(global->is_global("collections", "OrderedDict"));
  EXPECT_EQ(Held("\x8C\x05numpy\x8C\x05"
                 "dtype\x93.")
                ->name(),
            "dtype");
  // REDUCE, items, appended elements, BUILD.
  const Held reduced(ordered_dict() +
                     ")R(U\x01"
                     "aK\x01u}U\x01sK\x02sb.");
  EXPECT_TRUE(reduced->is_object_of("collections", "OrderedDict"));
  EXPECT_TRUE(reduced->is_mapping());
  EXPECT_EQ(reduced->at("a", "x").as_int("x"), 1);
  ASSERT_NE(reduced->state(), nullptr);
  EXPECT_EQ(reduced->state()->at("s", "x").as_int("x"), 2);
  EXPECT_EQ(Held("cnumpy\nndarray\n)R(NNe.")->elements().size(), 2u);
  // Python 2's OrderedDict([[key, value]]).
  EXPECT_EQ(Held(ordered_dict() + "]]U\x01"
                                  "aaK\x07"
                                  "aa\x85R.")
                ->at("a", "x")
                .as_int("x"),
            7);
  refusal(ordered_dict() + "]Na\x85R.");
  // NEWOBJ, NEWOBJ_EX, INST, OBJ.
  const Held made(
      "cdnnlib\nEasyDict\n)\x81U\x01"
      "aK\x01s.");
  EXPECT_TRUE(made->is_object_of("dnnlib", "EasyDict"));
  EXPECT_EQ(made->at("a", "x").as_int("x"), 1);
  const Held keyed(
      "cdnnlib\nEasyDict\nK\x01\x85}U\x01"
      "bK\x02s\x92.");
  EXPECT_EQ(keyed->arg(0, "x").as_int("x"), 1);
  EXPECT_THROW(keyed->arg(1, "x"), DataError);
  EXPECT_EQ(keyed->kwargs()->at("b", "x").as_int("x"), 2);
  EXPECT_EQ(Held("(K\x01K\x02idnnlib\nEasyDict\n.")->arg(1, "x").as_int("x"), 2);
  EXPECT_EQ(Held("(cdnnlib\nEasyDict\nK\x01K\x02o.")->arg(1, "x").as_int("x"), 2);
  refusal("N)R.");                        // None is not called
  refusal("cdnnlib\nEasyDict\n]R.");      // a list of arguments
  refusal("cdnnlib\nEasyDict\n))\x92.");  // keywords in a tuple
  refusal("]}b.");                        // BUILD of a list
  refusal("cdnnlib\nEasyDict\n)R}b}b.");  // twice
  refusal("(o.");
  refusal("NN\x93.");
}

TEST(Pickle, PersistentReferences) {
  const Held held("U\x01kQ.");
  EXPECT_EQ(held->persistent_id("x").as_text("x"), "k");
  EXPECT_EQ(held.pickle.persistents().size(), 1u);
  EXPECT_EQ(Held("Pkey\n.")->persistent_id("x").as_text("x"), "key");
  EXPECT_THROW(Held("N.")->persistent_id("x"), DataError);
  // A class whose source an old stream of torch.save put beside it.
  EXPECT_TRUE(Held("(U\x06modulectorch.nn.modules.linear\nLinear\nNNtQ)\x81.")
                  ->is_object_of("torch.nn.modules.linear", "Linear"));
}

// Nothing is imported or run, and what is asked for is named.
TEST(Pickle, RefusesForeignGlobalsByName) {
  for (const auto& [text, name] : std::vector<std::pair<std::string, std::string>>{
           {"cos\nsystem\n(S'true'\ntR.", "'os.system'"},
           {"cposix\nsystem\n(S'true'\ntR.", "'posix.system'"},
           {"\x80\x04\x8C\x05posix\x8C\x06system\x93.", "'posix.system'"},
           {"c__builtin__\neval\n.", "'__builtin__.eval'"},
           {"\x8C\x08"
            "builtins\x8C\x04"
            "eval\x93.",
            "'builtins.eval'"},
           {"\x8C\x08"
            "builtins\x8C\x07getattr\x93.",
            "'builtins.getattr'"},
           {"(S'true'\nios\nsystem\n.", "'os.system'"},
           {"(cos\nsystem\nS'true'\no.", "'os.system'"},
           {"cos\nsystem\n)\x81.", "'os.system'"},
           {"ctorch\nhub.load\n.", "'torch.hub.load'"},
           {"ctorch.nn.modules.os\nsys.exit\n.", "'torch.nn.modules.os.sys.exit'"},
           {"ctorch.storage\nos.system\n.", "'torch.storage.os.system'"}}) {
    const std::string message = refusal(text);
    EXPECT_THAT(message, HasSubstr("the global " + name));
    EXPECT_THAT(message, HasSubstr("torch.save(model.state_dict(), FILE)"));
  }
  // Without a list nothing may stand there.
  refusal(ordered_dict() + ".", {});
  // Control characters do not reach the terminal.
  EXPECT_THAT(refusal("co\x1B[31ms\nsystem\n."), HasSubstr("'o?[31ms.system'"));
}

TEST(Pickle, RefusesUnknownOpcodesAndFalseStacks) {
  EXPECT_THAT(refusal("\xFF."), HasSubstr("byte 0xFF"));
  for (const char* text : {"\x82\x01.", "\x83\x01\x01.", "\x84\x01\x01\x01\x01."})
    EXPECT_THAT(refusal(text), HasSubstr("EXT"));
  EXPECT_THAT(refusal("\x97."), HasSubstr("out-of-band"));
  EXPECT_THAT(refusal("\x98."), HasSubstr("out-of-band"));
  for (const char* text : {"t.", "l.", "d.", "e.", "u.", "1.", "0.", "\x90.", "\x91.",
                           "o.", "idnnlib\nEasyDict\n."})
    EXPECT_THAT(refusal(text), HasSubstr("MARK")) << text;
  for (const char* text :
       {".", "2.", "a.", "Na.", "s.", "NNs.", "\x85.", "N\x86.", "NN\x87.", "R.", "NR.",
        "\x81.", "NN\x92.", "b.", "Q.", "\x93.", "N\x93."})
    refusal(text);
  EXPECT_THAT(refusal("NN."), HasSubstr("one value at STOP"));
  EXPECT_THAT(refusal("(N."), HasSubstr("one value at STOP"));
  // Values under a mark are out of reach.
  refusal("NN(\x86.");
  EXPECT_THAT(refusal("N"), HasSubstr("STOP"));
  EXPECT_THAT(refusal(""), HasSubstr("STOP"));
}

TEST(Pickle, RefusesSizesPastTheEnd) {
  for (const std::string& text :
       {"X\xFF\xFF\xFF\xFF."s, "B\xFF\xFF\xFF\x7F."s, "\x8D"s + little(~0ull, 8) + "abc.",
        "\x8E"s + little(1ull << 63, 8) + "abc.", "\x96"s + little(~0ull, 8) + ".",
        "\x8C\xFF."s,
        "C\x05"
        "abc."s,
        "U\x05"
        "abc."s,
        "T\x05\0\0\0abc."s,
        "\x8A\x05"
        "a."s,
        "J\x01."s, "M\x01"s, "G\x01."s, "Iabc"s, "\x95\x01."s})
    refusal(text);
}

TEST(Pickle, BoundsNestingAndNumbers) {
  // 100 deep is fine, a million is not; neither is a crash at the end.
  const auto nested = [](int depth) {
    return std::string(static_cast<std::size_t>(depth), ']') +
           std::string(static_cast<std::size_t>(depth) - 1, 'a') + ".";
  };
  EXPECT_EQ(Held(nested(100))->elements().size(), 1u);
  EXPECT_THAT(refusal(nested(1000000)), HasSubstr("levels of nesting"));
  EXPECT_THAT(refusal(")" + std::string(1000000, '\x85') + "."),
              HasSubstr("levels of nesting"));
  PickleOptions few = weights();
  few.max_values = 10;
  EXPECT_EQ(Held("(NNNNNNNNNt.", few)->elements().size(), 9u);
  EXPECT_THAT(refusal("(NNNNNNNNNNt.", few), HasSubstr("at most 10 values"));
  few.max_values = 100;
  few.max_depth = 3;
  EXPECT_TRUE(Held("N\x85\x85.", few)->is(PickleKind::tuple));
  EXPECT_THAT(refusal("N\x85\x85\x85.", few), HasSubstr("at most 3 levels"));
  // A million marks, and lists that double at every level (the billion laughs).
  refusal(std::string(1000000, '('));
  std::string laughs = "]";
  for (int i = 0; i < 60; ++i) laughs += "q\1]h\1ah\1a";
  refusal(laughs + ".");  // leaves the inner lists on the stack
  std::string doubled = ")";
  for (int i = 0; i < 60; ++i) doubled += "2\x86";
  EXPECT_EQ(Held(doubled + ".")->elements().size(), 2u);
  // Shared text decoded again and again may not outgrow the file.
  std::string copies = "X\xE8\x03\0\0"s + std::string(1000, 'a') +
                       "q\0"
                       "0c_codecs\nencode\nq\1"
                       "0]"s;
  for (int i = 0; i < 1000; ++i) copies += "h\1h\0U\x06latin1\x86Ra"s;
  EXPECT_THAT(refusal(copies + "."), HasSubstr("decoded text"));
}

TEST(Pickle, WhatFollowsIsLeftAlone) {
  const Held held("\x80\x02N.and more");
  EXPECT_EQ(held.pickle.size(), 4u);
  PickleOptions options = weights();
  options.base_offset = 100;
  EXPECT_THAT(refusal("N\xFF.", options), HasSubstr("byte 101"));
  EXPECT_EQ(Held("N.", options)->offset(), 100u);
}

TEST(Pickle, TruncatedAnywhere) {
  const std::string whole =
      "\x80\x02}q\0(X\x01\0\0\0aq\1K\x05X\x01\0\0\0bG\x3F\xF8\0\0\0\0\0\0U\x01"
      "c](I12\nL3L\nF1.5\nS'q'\nVz\neX\x01\0\0\0dctorch\nSize\n(K\1K\2t\x85RX\x01\0\0\0"
      "eB\x02\0\0\0hiu."s;
  EXPECT_EQ(Held(whole)->items().size(), 5u);
  for (std::size_t length = 0; length < whole.size(); ++length)
    EXPECT_FALSE(refusal(whole.substr(0, length)).empty());
  // A changed byte: read or refused.
  for (std::size_t at = 0; at < whole.size(); ++at)
    for (int value = 0; value < 256; ++value) {
      std::string changed = whole;
      changed[at] = static_cast<char>(value);
      try {
        const Held held(changed);
      } catch (const DataError&) {
      }
    }
}

TEST(Pickle, OurOwnReferences) {
  for (const char* name :
       {"edm_snapshot_ddpmpp.pkl", "edm_snapshot_adm.pkl", "edm2_snapshot.pkl"}) {
    const auto path = testing::reference_folder() / "networks" / name;
    FM_NEED_FILE(path);
    const Pickle pickle(path, weights());
    EXPECT_EQ(pickle.size(), std::filesystem::file_size(path));
    EXPECT_FALSE(pickle.cyclic());
    const PickleValue& ema = pickle.root().at("ema", "the network");
    ASSERT_TRUE(
        ema.is_object_of("torch_utils.persistence", "_reconstruct_persistent_obj"))
        << ema.describe();
    const PickleValue& meta = ema.arg(0, "meta");
    EXPECT_EQ(meta.at("type", "meta").as_text("type"), "class");
    EXPECT_FALSE(meta.at("class_name", "meta").as_text("class_name").empty());
    EXPECT_NE(meta.at("state", "meta").find("_init_kwargs"), nullptr);
  }
}

}  // namespace
}  // namespace flowmap
