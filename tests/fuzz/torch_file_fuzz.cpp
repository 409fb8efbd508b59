// TorchFile, zip, stream and plain pickle: DataError, or tensors inside their storages.
#include "flowmap/formats/torch_file.h"
#include "tests/fuzz/fuzz_input.h"

using namespace flowmap;

namespace {

void read_all(const TorchFile& file, bool strip) {
  for (const TorchEntry& entry : file.flatten({.key = "", .strip_prefixes = strip}))
    fuzz::expect_only<DataError>([&] {
      const HostTensor tensor = entry.tensor.read();
      fuzz::require(tensor.bytes.size() ==
                    static_cast<std::size_t>(tensor.numel()) * dtype_size(tensor.dtype));
      if (entry.tensor.contiguous())
        fuzz::require(entry.tensor.bytes().size() == tensor.bytes.size());
    });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::expect_only<DataError>([&] {
    const TorchFile file(fuzz::as_bytes(data, size), "fuzz.pt");
    fuzz::expect_only<DataError>([&] { read_all(file, false); });
    fuzz::expect_only<DataError>([&] { read_all(file, true); });
    fuzz::expect_only<DataError>([&] { file.at("ema.net.0"); });
    fuzz::expect_only<DataError>([&] { file.tensor(file.root()); });
    fuzz::expect_only<DataError>([&] { pickled_numpy_number(file.root()); });
    fuzz::expect_only<DataError>([&] { pickled_numpy_array(file.root()); });
  });
  return 0;
}
