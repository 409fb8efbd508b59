// Work on many threads whose results come in order, with bounded memory.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace flowmap {

// Calls make(k) for k = 0 to count - 1 on `workers` threads (0: as many as processors) and
// take(k, result) for each on this thread, in order. At most a few results a worker wait
// at any time. The first exception in order, of either, is thrown from here; what was
// taken before it stays taken.
template <class Make, class Take>
void ordered_parallel(std::int64_t count, int workers, Make make, Take take) {
  using Result = std::invoke_result_t<Make&, std::int64_t>;
  if (workers <= 0) workers = static_cast<int>(std::thread::hardware_concurrency());
  const std::int64_t useful = std::max<std::int64_t>(count, 1);
  workers = static_cast<int>(std::clamp<std::int64_t>(workers, 1, useful));
  struct Slot {
    std::optional<Result> result;
    std::exception_ptr failure;
  };
  const std::int64_t window = std::int64_t{8} * workers;
  std::vector<Slot> slots(static_cast<std::size_t>(window));
  const auto slot_of = [&](std::int64_t k) -> Slot& {
    return slots[static_cast<std::size_t>(k % window)];
  };
  std::mutex mutex;
  std::condition_variable room, ready;
  std::int64_t next = 0, taken = 0;
  bool stop = false;

  const auto work = [&] {
    std::unique_lock lock(mutex);
    while (true) {
      room.wait(lock, [&] { return stop || next >= count || next < taken + window; });
      if (stop || next >= count) return;
      const std::int64_t k = next++;
      lock.unlock();
      Slot made;
      try {
        made.result.emplace(make(k));
      } catch (...) {
        made.failure = std::current_exception();
      }
      lock.lock();
      slot_of(k) = std::move(made);
      if (k == taken) ready.notify_one();
    }
  };

  struct Threads {
    std::vector<std::thread> all;
    std::mutex& mutex;
    std::condition_variable& room;
    bool& stop;
    ~Threads() {
      {
        const std::lock_guard lock(mutex);
        stop = true;
      }
      room.notify_all();
      for (std::thread& each : all) each.join();
    }
  } threads{{}, mutex, room, stop};
  for (int w = 0; w < workers; ++w) threads.all.emplace_back(work);

  for (std::int64_t k = 0; k < count; ++k) {
    Slot slot;
    {
      std::unique_lock lock(mutex);
      ready.wait(lock, [&] { return slot_of(k).result || slot_of(k).failure; });
      slot = std::exchange(slot_of(k), Slot{});
      taken = k + 1;
    }
    room.notify_one();
    if (slot.failure) std::rethrow_exception(slot.failure);
    take(k, std::move(*slot.result));
  }
}

}  // namespace flowmap
