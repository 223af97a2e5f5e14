// Transfers whose end is waited for.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>

namespace glinthawk {

class TransferGroup {
public:
    void add() {
        const std::lock_guard lock(mutex_);
        ++left_;
    }

    // One has ended, with what went wrong or nothing.
    void end(const std::string& failure) {
        const std::lock_guard lock(mutex_);
        if (!failure.empty()) failure_ = failure;
        if (--left_ == 0) done_.notify_all();
    }

    // Until all have ended. What went wrong, or nothing.
    std::string wait() {
        std::unique_lock lock(mutex_);
        done_.wait(lock, [this] { return left_ == 0; });
        return failure_;
    }

private:
    std::mutex mutex_;
    std::condition_variable done_;
    int left_ = 0;
    std::string failure_;
};

}  // namespace glinthawk
