// Pages on drives: written once, read many times, and checked whenever they are read.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "storage/drives.hpp"
#include "storage/transfers.hpp"

namespace glinthawk {

// Pages of one layer that are wanted together, in memory one after the other, `padded` bytes apart.
struct Wanted {
    int layer;
    std::vector<int> slots;
};

class Vault {
public:
    Vault(const Drives& drives, int num_layers, bool only_threads);

    const Drives& drives() const { return drives_; }

    // Writes a page of one layer; `done` is called on another thread, with what went wrong or nothing.
    using Done = std::function<void(const std::string& failure)>;
    void write(int layer, int slot, std::byte* memory, Done done);
    // Reads as few and as long pieces as it can; `done` once.
    void read(const Wanted& wanted, std::byte* memory, Done done);

    std::size_t bytes_read() const { return bytes_read_; }
    std::size_t bytes_written() const { return bytes_written_; }

private:
    // What is wrong with pages that have been read, or nothing.
    std::string check(int layer, const std::vector<int>& slots, const std::byte* memory) const;

    const Drives& drives_;
    std::vector<std::vector<std::uint32_t>> checksums_;  // [layer][slot]
    std::atomic<std::size_t> bytes_read_{0}, bytes_written_{0};
    std::unique_ptr<Transfers> transfers_;  // last: it ends first, and nothing is called any more
};

}  // namespace glinthawk
