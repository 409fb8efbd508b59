// parse_npy: DataError or an array whose bytes fit its shape and survive a round trip.
#include "flowmap/formats/npy.h"
#include "tests/fuzz/fuzz_input.h"

using namespace flowmap;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::expect_only<DataError>([&] {
    const HostTensor tensor = parse_npy(fuzz::as_bytes(data, size), "fuzz.npy");
    fuzz::require(checked_byte_size(tensor.shape, tensor.dtype, "fuzz.npy") ==
                  static_cast<std::int64_t>(tensor.bytes.size()));
    const HostTensor again = parse_npy(format_npy(tensor), "again.npy");
    fuzz::require(again.dtype == tensor.dtype && again.shape == tensor.shape &&
                  again.bytes == tensor.bytes);
  });
  return 0;
}
