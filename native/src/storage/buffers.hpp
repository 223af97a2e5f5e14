// A fixed number of equal buffers for direct reads and writes.
#pragma once

#include <condition_variable>
#include <mutex>
#include <vector>

#include "machine/arena.hpp"

namespace glinthawk {

class Buffers {
public:
    Buffers(std::size_t bytes, int count) : arena_(bytes * count), count_(count) {
        for (int i = 0; i < count; ++i) free_.push_back(arena_.data() + i * bytes);
    }

    int count() const { return count_; }

    // Waits until there is one.
    std::byte* take() {
        std::unique_lock lock(mutex_);
        come_.wait(lock, [this] { return !free_.empty(); });
        std::byte* buffer = free_.back();
        free_.pop_back();
        return buffer;
    }

    void give_back(std::byte* buffer) {
        {
            const std::lock_guard lock(mutex_);
            free_.push_back(buffer);
        }
        come_.notify_one();
    }

private:
    Arena arena_;
    int count_;
    std::mutex mutex_;
    std::condition_variable come_;
    std::vector<std::byte*> free_;
};

}  // namespace glinthawk
