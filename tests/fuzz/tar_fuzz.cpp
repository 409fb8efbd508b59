// TarReader: DataError or entries.
#include "flowmap/formats/tar.h"
#include "tests/fuzz/fuzz_input.h"

using namespace flowmap;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::expect_only<DataError>([&] {
    TarReader tar(fuzz::as_bytes(data, size), "fuzz.tar");
    // One in two is read, the others are passed over.
    for (std::size_t i = 0; const auto entry = tar.next(); ++i)
      if (i % 2 == 0) fuzz::require(tar.read(1 << 22).size() == entry->bytes);
  });
  return 0;
}
