// Which network of a checkpoint is taken, under which names, and files made to exhaust
// whoever opens them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/formats/torch_file.h"
#include "flowmap/formats/zip.h"
#include "flowmap/weights/json_spec.h"
#include "flowmap/weights/source.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::little;

std::string text(std::string_view value) {
  return "X" + little(value.size(), 4) + std::string(value);
}
std::string number(std::int64_t value) {
  return "\x8A\x08" + little(static_cast<unsigned long long>(value), 8);
}
using Items = std::vector<std::pair<std::string, std::string>>;
std::string dict(const Items& items) {
  std::string out = "}(";
  for (const auto& [key, value] : items) out += text(key) + value;
  return out + "u";
}
std::string list(const std::vector<std::string>& values) {
  std::string out = "](";
  for (const auto& value : values) out += value;
  return out + "e";
}
// A class of EDM's: EDMPrecond with one weight.
std::string persistent(const std::string& args, const std::string& kwargs,
                       const std::string& weight) {
  return "ctorch_utils.persistence\n_reconstruct_persistent_obj\n" +
         dict({{"class_name", text("EDMPrecond")},
               {"state", dict({{"_parameters", dict({{"w", weight}})},
                               {"_modules", "}"},
                               {"_init_args", args},
                               {"_init_kwargs", kwargs}})}}) +
         "\x85R";
}

class TorchSource : public ::testing::Test {
 protected:
  // All elements equal `value`.
  std::string tensor(const std::vector<std::int64_t>& shape, float value) {
    std::int64_t count = 1;
    for (const auto size : shape) count *= size;
    std::string sizes = "(", strides = "(";
    std::int64_t stride = count;
    for (const auto size : shape) {
      stride /= size;
      sizes += number(size);
      strides += number(stride);
    }
    const std::string key = std::to_string(storages_.size());
    const std::vector<float> values(static_cast<std::size_t>(count), value);
    storages_.push_back(testing::to_text(testing::bytes_of(values)));
    return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") +
           "ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + "tQ" +
           number(0) + sizes + "t" + strides + "t\x89" + "ccollections\nOrderedDict\n)RtR";
  }

  std::filesystem::path write(const std::string& pickle) {
    ZipWriter zip(folder_ / "x.pt");
    zip.add("x/data.pkl", "\x80\x02" + pickle + ".");
    zip.add("x/byteorder", "little");
    for (std::size_t i = 0; i < storages_.size(); ++i)
      zip.add("x/data/" + std::to_string(i), storages_[i]);
    zip.commit();
    return folder_ / "x.pt";
  }
  WeightSource open(const std::string& pickle, const std::string& key = "") {
    return open_weights(write(pickle), key);
  }
  template <class E>
  std::string refusal(const std::string& pickle, const std::string& key = "") {
    try {
      open(pickle, key);
    } catch (const E& error) {
      return error.what();
    }
    ADD_FAILURE() << "was taken";
    return "";
  }

  testing::ScratchFolder folder_;
  std::vector<std::string> storages_;
};

float value_of(const WeightSource& source, const std::string& name) {
  return source.tensors.at(name).flatten()[0].item<float>();
}

TEST_F(TorchSource, TensorsBesideNetworksAreNoNetwork) {
  const std::string pickle = dict({{"model", dict({{"w", tensor({2}, 1)}})},
                                   {"ema", dict({{"w", tensor({2}, 2)}})},
                                   {"step", tensor({1}, 3)}});
  const WeightSource source = open(pickle);
  EXPECT_EQ(source.key, "ema");
  EXPECT_EQ(source.tensors.size(), 1u);
  EXPECT_EQ(value_of(source, "w"), 2);
  EXPECT_THAT(source.other_keys, ElementsAre("model"));
  // Nothing else is there: those tensors are the network.
  EXPECT_EQ(value_of(open(dict({{"w", tensor({2}, 4)}, {"notes", dict({})}})), "w"), 4);
}

TEST_F(TorchSource, PreferredKeysWithoutANetworkArePassedOver) {
  const std::string net = dict({{"w", tensor({2}, 1)}}), ema = dict({{"w", tensor({2}, 2)}});
  EXPECT_EQ(open(dict({{"ema", dict({{"decay", number(1)}})}, {"net", net}})).key, "net");
  EXPECT_EQ(open(dict({{"ema", dict({{"decay", number(1)}})},
                       {"model", dict({{"net", net}, {"ema", ema}})}}))
                .key,
            "model.ema");
}

TEST_F(TorchSource, KeysOfTheFileAreNotReadAgain) {
  const std::string pickle = dict({{"ema", dict({{"x", dict({{"w", tensor({2}, 1)}})}})},
                                   {"ema.x", tensor({2}, 2)}});
  const WeightSource source = open(pickle);
  EXPECT_EQ(source.key, "ema.x");
  EXPECT_EQ(value_of(source, "w"), 1);
}

TEST_F(TorchSource, WrongKeysAreAnsweredWithTheNetworks) {
  const std::string net = dict({{"w", tensor({2}, 1)}});
  const std::string pickle = dict(
      {{"model", dict({{"net", net}, {"ema", net}})}, {"args", dict({{"lr", number(1)}})}});
  EXPECT_EQ(open(pickle, "model.net").key, "model.net");
  for (const char* key : {"model.emma", "args", "model.net.w.x"}) {
    const std::string why = refusal<UsageError>(pickle, key);
    EXPECT_THAT(why, HasSubstr("--key " + std::string(key)));
    EXPECT_THAT(why, HasSubstr("the networks model.net, model.ema"));
  }
  EXPECT_THAT(refusal<UsageError>(pickle, "model.emma"), HasSubstr("mean 'model.ema'"));
  EXPECT_THAT(refusal<UsageError>(net, "ema"), HasSubstr("leave --key away"));
}

class Averages : public TorchSource {
 protected:
  // In the order of the file, which is not that of the alphabet: 2 before 10.
  std::string checkpoint(const std::vector<std::string>& shadows) {
    return dict({{"model", dict({{"module.sigmas", tensor({3}, 1)},
                                 {"module.all_modules.0.W", tensor({2}, 2)},
                                 {"module.all_modules.2.w", tensor({2, 3}, 3)},
                                 {"module.all_modules.10.w", tensor({2, 3}, 4)},
                                 {"module.all_modules.10.b", tensor({4}, 5)}})},
                 {"ema", dict({{"decay", number(1)}, {"shadow_params", list(shadows)}})},
                 {"step", number(7)}});
  }
};

TEST_F(Averages, TakeTheNamesOfTheModel) {
  const std::string pickle =
      checkpoint({tensor({2, 3}, 13), tensor({2, 3}, 14), tensor({4}, 15)});
  for (const char* key : {"", "ema"}) {
    const WeightSource source = open(pickle, key);
    EXPECT_EQ(source.key, "ema");
    EXPECT_EQ(source.tensors.size(), 5u);
    EXPECT_EQ(value_of(source, "sigmas"), 1);
    EXPECT_EQ(value_of(source, "all_modules.0.W"), 2);
    EXPECT_EQ(value_of(source, "all_modules.2.w"), 13);
    EXPECT_EQ(value_of(source, "all_modules.10.w"), 14);
    EXPECT_EQ(value_of(source, "all_modules.10.b"), 15);
  }
  EXPECT_EQ(value_of(open(pickle, "model"), "all_modules.2.w"), 3);
  EXPECT_THAT(refusal<UsageError>(pickle, "emma"), HasSubstr("model, ema"));
}

TEST_F(Averages, ThatDoNotFitAreRefused) {
  const auto why = [&](const std::vector<std::string>& shadows) {
    return refusal<DataError>(checkpoint(shadows));
  };
  const std::string w = tensor({2, 3}, 13), b = tensor({4}, 15);
  EXPECT_THAT(why({w, w, b, b}), HasSubstr("--key model"));
  EXPECT_THAT(why({w, w, b, b}), HasSubstr("4 of which 3 fit"));
  EXPECT_THAT(why({b, w}), HasSubstr("2 of which 1 fit"));
  // Either of the two.
  EXPECT_THAT(why({w, b}), HasSubstr("more than one way"));
  const std::string alone = dict({{"ema", dict({{"shadow_params", list({w})}})}});
  EXPECT_THAT(refusal<DataError>(alone, "ema"), HasSubstr("'model' beside"));
}

TEST_F(TorchSource, ArgumentsOfClassesAreBounded) {
  const auto with = [&](const std::string& value) {
    return dict({{"ema", persistent(")", dict({{"a", value}}), tensor({1}, 1))}});
  };
  EXPECT_EQ(open(with(list({number(1), text("x")}))).config_json,
            R"({"class":"EDMPrecond","kwargs":{"a":[1,"x"]}})");
  // Lists of one list twice: 2^15 numbers of a few bytes.
  std::string doubled = number(1);
  for (int i = 0; i < 15; ++i) doubled += "2\x86";
  EXPECT_THAT(refusal<DataError>(with(doubled)), HasSubstr("at most 10000 values"));
  // One long text 1024 times.
  std::string texts = text(std::string(4096, 'x'));
  for (int i = 0; i < 10; ++i) texts += "2\x86";
  EXPECT_THAT(refusal<DataError>(with(texts)), HasSubstr("at most 10000 values"));
}

TEST_F(TorchSource, PositionalArgumentsOfClassesAreRefused) {
  const std::string weight = tensor({1}, 1);
  const std::string why =
      refusal<DataError>(dict({{"ema", persistent(number(32) + "\x85", "}", weight)}}));
  EXPECT_THAT(why, HasSubstr("1 positional arguments (_init_args)"));
}

TEST_F(TorchSource, FoldersOfDiffusersHaveNoKeys) {
  std::filesystem::create_directories(folder_ / "unet");
  std::ofstream(folder_ / "unet/config.json") << "{}";
  std::filesystem::rename(write(dict({{"w", tensor({1}, 1)}})),
                          folder_ / "unet/pytorch_model.bin");
  for (const std::filesystem::path& path : {folder_.path(), folder_ / "unet"}) {
    EXPECT_EQ(open_weights(path).format, "diffusers");
    try {
      open_weights(path, "ema");
      ADD_FAILURE() << "a key was passed over";
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("--key"));
    }
  }
}

std::string nested(int levels) {
  const auto n = static_cast<std::size_t>(levels - 1);
  return "{\"a\":" + std::string(n, '[') + std::string(n, ']') + "}";
}

TEST_F(TorchSource, DeepConfigurationsAreRefused) {
  std::ofstream(folder_ / "config.json") << nested(200000);
  write_torch_file(folder_ / "pytorch_model.bin", std::vector<TorchItem>{});
  try {
    open_weights(folder_.path());
    ADD_FAILURE() << "was taken";
  } catch (const DataError& error) {
    EXPECT_EQ(error.path(), (folder_ / "config.json").string());
    EXPECT_THAT(error.what(), HasSubstr("64 levels"));
  }
}

TEST(CheckedJson, IsAnObjectOfFewLevels) {
  EXPECT_EQ(checked_json_object(R"( {"b": 1, "a": [2.5, null]} )", "x"),
            R"({"a":[2.5,null],"b":1})");
  EXPECT_EQ(checked_json_object(nested(64), "x"), nested(64));
  for (const std::string& bad : {nested(65), std::string("[1]"), std::string("{"),
                                 std::string(""), std::string("{\"a\": \"\xFF\"}")})
    EXPECT_THROW(checked_json_object(bad, "x"), DataError) << bad;
}

}  // namespace
}  // namespace flowmap
