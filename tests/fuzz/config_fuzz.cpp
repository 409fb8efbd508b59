// Config::from_text and overrides: UsageError, or a configuration that survives its own
// JSON.
#include "flowmap/base/config.h"
#include "tests/fuzz/fuzz_input.h"

using namespace flowmap;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = fuzz::as_text(data, size);
  fuzz::expect_only<UsageError>([&] {
    Config config = Config::from_text(text, "fuzz.json");
    for (const auto& key : config.keys()) {
      config.has(key);
      config.where(key);
      fuzz::expect_only<UsageError>([&] { config.number(key); });
      if (!fuzz::names_long_range(text))
        fuzz::expect_only<UsageError>([&] { config.integers(key); });
      fuzz::expect_only<UsageError>([&] { config.string(key); });
      fuzz::expect_only<UsageError>([&] { config.child(key).check_all_read(); });
    }
    fuzz::expect_only<UsageError>([&] { config.check_all_read(); });
    config.resolved_json();
    const std::string json = config.json();
    fuzz::require(Config::from_text(json, "again.json").json() == json);
  });
  fuzz::expect_only<UsageError>([&] {
    Config config = Config::from_text("{\"a\": {\"b\": 1}, \"l\": [1]}", "base.json");
    config.set_override(text, "command line");
  });
  return 0;
}
