// ZipReader, and parse_npy on its entries as read_npz does: DataError or content.
#include "flowmap/formats/npy.h"
#include "flowmap/formats/zip.h"
#include "tests/fuzz/fuzz_input.h"

using namespace flowmap;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::expect_only<DataError>([&] {
    const ZipReader archive(fuzz::as_bytes(data, size), "fuzz.zip", 1 << 22);
    for (std::size_t i = 0; i < archive.size(); ++i)
      fuzz::expect_only<DataError>([&] {
        fuzz::require(archive.find(archive.name(i)) == static_cast<std::int64_t>(i));
        const auto content = archive.read(i);
        fuzz::require(content.size() == archive.entry_bytes(i));
        parse_npy(content, archive.name(i));
      });
  });
  return 0;
}
