#include "storage/transfers.hpp"

#ifdef GLINTHAWK_URING

#include <liburing.h>

#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

namespace glinthawk {

namespace {

constexpr unsigned kDepth = 256;

class RingTransfers final : public Transfers {
public:
    explicit RingTransfers(const io_uring& ring) : ring_(ring), reaper_([this] { reap(); }) {}

    ~RingTransfers() override {
        {
            std::unique_lock lock(mutex_);
            left_.wait(lock, [this] { return under_way_ == 0; });
            enter(nullptr);  // wakes the reaper for the last time
        }
        reaper_.join();
        io_uring_queue_exit(&ring_);
    }

    void begin(Transfer transfer) override {
        std::unique_lock lock(mutex_);
        left_.wait(lock, [this] { return under_way_ < kDepth; });
        ++under_way_;
        enter(new Transfer(std::move(transfer)));
    }

private:
    // With the mutex held. There is an entry for each transfer under way, and one for the last word.
    void enter(Transfer* transfer) {
        io_uring_sqe* entry = io_uring_get_sqe(&ring_);
        if (!transfer)
            io_uring_prep_nop(entry);
        else if (transfer->is_write)
            io_uring_prep_write(entry, transfer->file, transfer->memory, length(*transfer),
                                transfer->offset);
        else
            io_uring_prep_read(entry, transfer->file, transfer->memory, length(*transfer),
                               transfer->offset);
        io_uring_sqe_set_data(entry, transfer);
        // Short of memory the kernel takes it later; the reaper makes room meanwhile.
        while (io_uring_sq_ready(&ring_)) {
            const int result = io_uring_submit(&ring_);
            if (result >= 0 || result == -EINTR) continue;
            if (result != -EAGAIN && result != -EBUSY) give_up(-result);
            std::this_thread::yield();
        }
    }

    // Nothing that is known: to try for ever would be worse than a worker that says why it ends.
    [[noreturn]] static void give_up(int error) {
        std::fprintf(stderr, "io_uring takes no transfers: %s\n", std::strerror(error));
        std::abort();
    }

    static unsigned length(const Transfer& transfer) {
        constexpr std::size_t kMost = std::size_t(1) << 30;
        return unsigned(transfer.bytes < kMost ? transfer.bytes : kMost);
    }

    void reap() {
        for (;;) {
            io_uring_cqe* entry;
            if (io_uring_wait_cqe(&ring_, &entry) < 0) continue;
            auto* transfer = static_cast<Transfer*>(io_uring_cqe_get_data(entry));
            const int result = entry->res;
            io_uring_cqe_seen(&ring_, entry);
            if (!transfer) return;
            took(transfer, result);
        }
    }

    void took(Transfer* transfer, int result) {
        const bool again = result == -EINTR || result == -EAGAIN;
        if (again || (result > 0 && std::size_t(result) < transfer->bytes)) {
            const std::size_t moved = again ? 0 : std::size_t(result);
            transfer->memory += moved;
            transfer->offset += moved;
            transfer->bytes -= moved;
            const std::lock_guard lock(mutex_);
            enter(transfer);
            return;
        }
        transfer->done(result < 0 ? -result : result == 0 ? EIO : 0);
        delete transfer;
        const std::lock_guard lock(mutex_);
        --under_way_;
        left_.notify_all();
    }

    io_uring ring_;
    std::mutex mutex_;  // of submissions
    std::condition_variable left_;
    unsigned under_way_ = 0;
    std::thread reaper_;
};

}  // namespace

std::unique_ptr<Transfers> make_ring_transfers() {
    io_uring ring;
    // Some systems forbid it to some processes: threads do as well there.
    if (io_uring_queue_init(2 * kDepth, &ring, 0) < 0) return nullptr;
    return std::make_unique<RingTransfers>(ring);
}

}  // namespace glinthawk

#else

namespace glinthawk {

std::unique_ptr<Transfers> make_ring_transfers() { return nullptr; }

}  // namespace glinthawk

#endif
