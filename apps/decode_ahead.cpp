#include "apps/decode_ahead.h"

#include <algorithm>
#include <utility>

#include "flowmap/base/error.h"

namespace flowmap::apps {

int decoding_threads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 8);
}

DecodeAhead::DecodeAhead(std::vector<int64_t> rows, std::function<Image(int64_t)> read,
                         int threads, std::size_t window)
    : rows_(std::move(rows)),
      read_(std::move(read)),
      window_(std::max<std::size_t>(window, 1)) {
  const auto most = static_cast<int>(std::min<std::size_t>(rows_.size(), 64));
  for (int i = 0; i < std::clamp(threads, 1, std::max(most, 1)); ++i)
    threads_.emplace_back([this] { work(); });
}

DecodeAhead::~DecodeAhead() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  room_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void DecodeAhead::work() {
  for (;;) {
    std::size_t position = 0;
    {
      std::unique_lock lock(mutex_);
      room_.wait(lock, [&] {
        return stop_ || claimed_ >= rows_.size() || claimed_ < taken_ + window_;
      });
      if (stop_ || claimed_ >= rows_.size()) return;
      position = claimed_++;
    }
    Slot slot;
    slot.item.row = rows_[position];
    try {
      slot.item.image = read_(slot.item.row);
    } catch (const Error& error) {
      slot.item.error = error.what();
    } catch (...) {
      slot.thrown = std::current_exception();
    }
    {
      const std::lock_guard lock(mutex_);
      done_.emplace(position, std::move(slot));
    }
    ready_.notify_all();
  }
}

std::optional<DecodeAhead::Item> DecodeAhead::next() {
  std::unique_lock lock(mutex_);
  if (taken_ == rows_.size()) return {};
  ready_.wait(lock, [&] { return done_.contains(taken_); });
  Slot slot = std::move(done_.at(taken_));
  done_.erase(taken_++);
  lock.unlock();
  room_.notify_all();
  if (slot.thrown) std::rethrow_exception(slot.thrown);
  return std::move(slot.item);
}

}  // namespace flowmap::apps
