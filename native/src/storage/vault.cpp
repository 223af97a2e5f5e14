#include "storage/vault.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>

#include "storage/checksum.hpp"

namespace glinthawk {

namespace {

std::string failure(const char* what, const std::string& drive, int error) {
    return std::string(what) + drive + " failed: " + std::strerror(error);
}

// Several pieces of one read, of which the last to end reports.
struct Gathered {
    std::atomic<int> pieces;
    std::mutex mutex;
    std::string failure;
    Vault::Done done;

    void end(std::string piece_failure) {
        if (!piece_failure.empty()) {
            const std::lock_guard lock(mutex);
            failure = std::move(piece_failure);
        }
        if (pieces.fetch_sub(1) == 1) done(failure);
    }
};

}  // namespace

Vault::Vault(const Drives& drives, int num_layers, bool only_threads)
    : drives_(drives),
      checksums_(num_layers, std::vector<std::uint32_t>(drives.num_slots())),
      transfers_(make_transfers(only_threads)) {}

void Vault::write(int layer, int slot, std::byte* memory, Done done) {
    const std::size_t bytes = drives_.padded(layer);
    checksums_[layer][slot] = checksum(memory, bytes);
    bytes_written_ += bytes;
    const auto [file, offset, drive] = drives_.where(layer, slot);
    transfers_->begin({file, offset, memory, bytes, true,
                       [done = std::move(done), drive = drive](int error) {
                           done(error ? failure("writing to ", *drive, error) : std::string());
                       }});
}

void Vault::read(const Wanted& wanted, std::byte* memory, Done done) {
    struct Piece {
        std::size_t first, count;
    };
    std::vector<Piece> pieces;
    for (std::size_t i = 0; i < wanted.slots.size(); ++i) {
        if (i && drives_.follows(wanted.slots[i - 1], wanted.slots[i]))
            ++pieces.back().count;
        else
            pieces.push_back({i, 1});
    }
    const auto all = std::make_shared<Gathered>();
    all->pieces = int(pieces.size());
    all->done = std::move(done);
    const std::size_t unit = drives_.padded(wanted.layer);
    for (const auto [first, count] : pieces) {
        std::byte* to = memory + first * unit;
        const auto [file, offset, drive] = drives_.where(wanted.layer, wanted.slots[first]);
        bytes_read_ += count * unit;
        std::vector<int> slots(wanted.slots.begin() + first, wanted.slots.begin() + first + count);
        transfers_->begin({file, offset, to, count * unit, false,
                           [this, all, to, drive = drive, layer = wanted.layer,
                            slots = std::move(slots)](int error) {
                               all->end(error ? failure("reading from ", *drive, error)
                                              : check(layer, slots, to));
                           }});
    }
}

std::string Vault::check(int layer, const std::vector<int>& slots, const std::byte* memory) const {
    const std::size_t bytes = drives_.padded(layer);
    for (const int slot : slots) {
        if (checksum(memory, bytes) != checksums_[layer][slot])
            return *drives_.where(layer, slot).drive +
                   " gave back other bytes than were written to it";
        memory += bytes;
    }
    return {};
}

}  // namespace glinthawk
