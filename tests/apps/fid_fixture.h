// What the tests of `flowmap fid` share.
#pragma once

#include <string>

#include "flowmap/formats/image.h"
#include "tests/apps/app_fixture.h"
#include "tests/support/reference.h"
#include "tests/support/scratch.h"

namespace flowmap::testing {

class FidTest : public AppTest {
 protected:
  static std::filesystem::path detector() {
    return source_folder() / "models" / "fmnist64.safetensors";
  }
  // 28x28 gray pictures as IDX; the detector's 64 features have a full covariance at 100.
  void write_pictures(const std::string& name, int step, int count = 100) const {
    std::string bytes = big(0x803, 4) + big(static_cast<unsigned>(count), 4) + big(28, 4) +
                        big(28, 4);
    for (int i = 0; i < count * 784; ++i)
      bytes += static_cast<char>((i % 251) * (i / 784 + step) % 256);
    put_file(path(name), bytes);
  }
  // One of them.
  static Image picture(int index, int step, int side = 28, int channels = 1) {
    Image image{side, side, channels, {}};
    for (int i = 0; i < side * side; ++i)
      for (int c = 0; c < channels; ++c)
        image.pixels.push_back(static_cast<std::uint8_t>(
            c == 3 ? 7 : ((index * 784 + i) % 251) * (index + step) % 256));
    return image;
  }
  void refused(const std::string& arguments, int code, const std::string& what) const {
    const AppResult result = run("fid " + arguments);
    EXPECT_EQ(result.code, code) << arguments << "\n" << result.err;
    EXPECT_THAT(result.err, ::testing::StartsWith("flowmap fid: ")) << arguments;
    EXPECT_THAT(result.err, ::testing::HasSubstr(what)) << arguments;
    EXPECT_EQ(result.out, "") << arguments;
  }
};

// Json: nlohmann::json, which headers do not include.
template <class Json>
class JsonFidTest : public FidTest {
 protected:
  // The JSON of a command that has one.
  Json json_of(const std::string& arguments) const {
    const AppResult result = run("fid " + arguments + " --json");
    EXPECT_EQ(result.code, 0) << arguments << "\n" << result.err;
    return Json::parse(result.out, nullptr, false);
  }
  Json scored(const std::string& arguments) const { return json_of("calc " + arguments); }
};

}  // namespace flowmap::testing
