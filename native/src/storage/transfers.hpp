// Reads and writes of files, many under way at one time.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace glinthawk {

struct Transfer {
    int file;
    std::size_t offset;
    std::byte* memory;
    std::size_t bytes;
    bool is_write;
    // Called on a thread of the queue when all bytes have moved (0), or with what went wrong (errno).
    std::function<void(int error)> done;
};

class Transfers {
public:
    // Returns when all that were begun are done.
    virtual ~Transfers() = default;
    // Waits only where very many are under way.
    virtual void begin(Transfer transfer) = 0;
};

// By io_uring, where it was built in and the system allows it; else, or if asked for, by threads that wait.
std::unique_ptr<Transfers> make_transfers(bool only_threads);

// Each is null where it cannot be had.
std::unique_ptr<Transfers> make_ring_transfers();
std::unique_ptr<Transfers> make_thread_transfers();

}  // namespace glinthawk
