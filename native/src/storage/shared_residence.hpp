// Residence as calls and the threads of drives have it: behind one lock, and waiting for one another.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "storage/residence.hpp"

namespace glinthawk {

class SharedResidence {
public:
    using Lock = std::unique_lock<std::mutex>;

    SharedResidence(int num_pages, int num_frames) : pages(num_pages, num_frames) {}

    Lock lock() { return Lock(mutex_); }

    // All that follows wants the lock held, but for the frames of pages, which only calls change.
    Residence pages;

    // Waits until nothing of `page` is on its way to a drive.
    void await_idle(int page, Lock& lock);
    // Gives `page` a frame, when there is one. Throws std::invalid_argument if there will be none.
    void await_frame(int page, Lock& lock);
    // Frames have been taken, or pages come to rest.
    void call_writer_if_short();

    // Waits for pages that shall go to drives, up to `count`; none: it is closing.
    std::vector<int> await_victims(int count, Lock& lock);
    // A page in memory is on its way to `slot`, in so many layers.
    void leave(int page, int slot, int num_layers);
    // One layer of `page` is on its drive, unless something went wrong.
    void wrote(int page, const std::string& failure);
    void close();

    // Of a drive, in words; empty: none.
    const std::string& failure() const { return failure_; }
    // Throws std::runtime_error once a drive has failed.
    void require_no_failure() const;
    // A drive has failed, if there are words: throws std::runtime_error, now and from now on.
    void fail_with(const std::string& failure);

private:
    std::vector<int> choose_victims(int count) const;

    std::mutex mutex_;
    std::condition_variable changed_, work_;
    int num_wanting_ = 0;  // calls that wait for a frame
    int num_leaving_ = 0;  // pages that are on their way from a frame to a drive
    bool is_closing_ = false;
    std::string failure_;
};

}  // namespace glinthawk
