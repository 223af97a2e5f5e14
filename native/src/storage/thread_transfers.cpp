#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "storage/transfers.hpp"

namespace glinthawk {

namespace {

constexpr int kThreads = 16;  // a drive is busy with a few

class ThreadTransfers final : public Transfers {
public:
    ThreadTransfers() {
        for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this] { serve(); });
    }

    ~ThreadTransfers() override {
        {
            const std::lock_guard lock(mutex_);
            is_closing_ = true;
        }
        come_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }

    void begin(Transfer transfer) override {
        {
            const std::lock_guard lock(mutex_);
            waiting_.push_back(std::move(transfer));
        }
        come_.notify_one();
    }

private:
    void serve() {
        for (;;) {
            std::unique_lock lock(mutex_);
            come_.wait(lock, [this] { return is_closing_ || !waiting_.empty(); });
            if (waiting_.empty()) return;
            Transfer transfer = std::move(waiting_.front());
            waiting_.pop_front();
            lock.unlock();
            transfer.done(move(transfer));
        }
    }

    static int move(const Transfer& transfer) {
        for (std::size_t at = 0; at < transfer.bytes;) {
            const auto moved =
                transfer.is_write
                    ? pwrite(transfer.file, transfer.memory + at, transfer.bytes - at,
                             off_t(transfer.offset + at))
                    : pread(transfer.file, transfer.memory + at, transfer.bytes - at,
                            off_t(transfer.offset + at));
            if (moved < 0 && errno == EINTR) continue;
            if (moved < 0) return errno;
            if (moved == 0) return EIO;  // the file ends early
            at += std::size_t(moved);
        }
        return 0;
    }

    std::mutex mutex_;
    std::condition_variable come_;
    std::deque<Transfer> waiting_;
    bool is_closing_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Transfers> make_thread_transfers() { return std::make_unique<ThreadTransfers>(); }

std::unique_ptr<Transfers> make_transfers(bool only_threads) {
    std::unique_ptr<Transfers> ring = only_threads ? nullptr : make_ring_transfers();
    return ring ? std::move(ring) : make_thread_transfers();
}

}  // namespace glinthawk
