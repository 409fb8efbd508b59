// Pickle: DataError, or a tree that can be walked.
#include "flowmap/formats/pickle.h"
#include "tests/fuzz/fuzz_input.h"

using namespace flowmap;

namespace {

// A cyclic tree never ends; no walk here goes deeper than the reader promises.
void walk(const PickleValue& value, int depth, int& budget) {
  if (depth > 1000 || --budget < 0) return;
  fuzz::require(!value.describe().empty());
  for (const PickleValue* element : value.elements()) walk(*element, depth + 1, budget);
  for (const PickleItem& item : value.items()) {
    if (item.key->is(PickleKind::text))
      fuzz::require(value.find(item.key->as_text("key")) == item.value);
    walk(*item.value, depth + 1, budget);
  }
  for (const PickleValue* part : {value.callable(), value.args(), value.state()})
    if (part) walk(*part, depth + 1, budget);
  fuzz::expect_only<DataError>([&] { value.at("no such key", "the fuzzer"); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::expect_only<DataError>([&] {
    PickleOptions options;
    options.allow = allow_weights_global;
    const Pickle pickle(fuzz::as_bytes(data, size), "fuzz.pkl", options);
    fuzz::require(pickle.size() <= size);
    int budget = 10000;
    walk(pickle.root(), 0, budget);
  });
  return 0;
}
