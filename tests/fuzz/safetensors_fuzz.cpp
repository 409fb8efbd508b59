// SafetensorsReader: DataError, or tensors that cover the buffer.
#include "flowmap/formats/safetensors.h"
#include "tests/fuzz/fuzz_input.h"

using namespace flowmap;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::expect_only<DataError>([&] {
    const SafetensorsReader reader(fuzz::as_bytes(data, size), "fuzz.safetensors");
    std::uint64_t reached = 0;
    for (const auto& entry : reader.entries()) {
      fuzz::require(entry.begin == reached && reader.find(entry.name) == &entry);
      reached = entry.end;
      fuzz::require(reader.data(entry).size() == entry.end - entry.begin);
      fuzz::expect_only<DataError>([&] {  // a BOOL that is neither 0 nor 1
        fuzz::require(reader.read(entry.name).bytes.size() == entry.end - entry.begin);
      });
    }
    fuzz::expect_only<DataError>([&] { reader.read("no such tensor"); });
  });
  return 0;
}
