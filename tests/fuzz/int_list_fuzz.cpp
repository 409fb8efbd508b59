// The text conversions that flags go through: UsageError or values.
#include "flowmap/base/text.h"
#include "tests/fuzz/fuzz_input.h"

using namespace flowmap;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = fuzz::as_text(data, size);
  if (!fuzz::names_long_range(text))
    fuzz::expect_only<UsageError>([&] { parse_int_list(text, "--seeds"); });
  fuzz::expect_only<UsageError>([&] { parse_double_list(text, "--t_steps"); });
  fuzz::expect_only<UsageError>(
      [&] { fuzz::require(parse_count(text, CountUnit::kimg, "--duration") >= 0); });
  fuzz::expect_only<UsageError>([&] { parse_double(text, "--lr"); });
  fuzz::expect_only<UsageError>([&] { parse_int(text, "--batch"); });
  fuzz::expect_only<UsageError>([&] { parse_bool(text, "--cond"); });
  if (size < 64) {
    const std::string known[] = {"trainer", "sampler", "metric"};
    suggestion(text, known);
  }
  return 0;
}
