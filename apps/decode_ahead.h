// Pictures decoded on worker threads ahead of whoever takes them, in order.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "flowmap/formats/image.h"

namespace flowmap::apps {

class DecodeAhead {
 public:
  struct Item {
    int64_t row = 0;
    std::optional<Image> image;
    std::string error;  // why there is no image
  };
  // read(row) is called from `threads` threads for each of `rows`; at most `window`
  // pictures wait to be taken.
  DecodeAhead(std::vector<int64_t> rows, std::function<Image(int64_t)> read, int threads,
              std::size_t window);
  // Stops the threads.
  ~DecodeAhead();
  DecodeAhead(const DecodeAhead&) = delete;
  DecodeAhead& operator=(const DecodeAhead&) = delete;

  // The next picture, or none at the end. What read throws comes out in Item::error where
  // it is an Error, else it is thrown here.
  std::optional<Item> next();

 private:
  struct Slot {
    Item item;
    std::exception_ptr thrown;
  };
  void work();

  std::vector<int64_t> rows_;
  std::function<Image(int64_t)> read_;
  std::size_t window_;
  std::mutex mutex_;
  std::condition_variable room_, ready_;
  std::map<std::size_t, Slot> done_;  // by position in rows_
  std::size_t claimed_ = 0, taken_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

// How many threads decode: of the machine's, at most 8.
int decoding_threads();

}  // namespace flowmap::apps
