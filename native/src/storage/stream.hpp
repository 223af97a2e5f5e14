// Attention over pages of which some are on drives: what is in memory is attended to while others arrive.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "attention/tasks.hpp"
#include "storage/buffers.hpp"
#include "storage/residence.hpp"
#include "storage/vault.hpp"

namespace glinthawk {

// Pages in frames of memory; those that are not have no memory.
class FramePages final : public Pages {
public:
    FramePages(const Store& frames, const Residence& residence)
        : frames_(frames), residence_(residence) {}
    Place find(const Layer& layer, int page) const override {
        const int frame = residence_[page].frame;
        return frame < 0 ? Place{nullptr, 0} : frames_.find(layer, frame);
    }

private:
    const Store& frames_;
    const Residence& residence_;
};

// A chunk's pages that come from drives into one buffer, and the items that wait for them.
class Load final : public Pages {
public:
    Load(const Pages& frames, std::size_t unit) : frames_(frames), unit_(unit) {}
    Place find(const Layer& layer, int page) const override;

    std::vector<int> numbers;  // of the pages
    Wanted wanted;
    const Unit* units = nullptr;  // of its component, one for each head
    std::vector<const Item*> items;
    std::byte* buffer = nullptr;
    std::size_t taken = 0;              // of its tasks
    std::atomic<std::size_t> left = 0;  // not finished

private:
    const Pages& frames_;
    std::size_t unit_;  // bytes from one page to the next in the buffer
};

// The tasks of one pass. As many loads are under way as there are buffers, in the order in which they
// lie on the drives.
class Stream final : public Tasks {
public:
    Stream(const Attention& attention, int layer, const Pass& pass, const Residence& residence,
           const Pages& frames, Vault& vault, Buffers& buffers);

    bool needs_drives() const { return !loads_.empty(); }
    // Begin to read; then threads may take. Buffers come back with `end`.
    void begin();
    // Waits until nothing is being read. What went wrong, or nothing.
    std::string end();

    Task take() override;
    void finish(const Task& task) override;

private:
    struct Resident {
        const Unit* units;
        const Item* item;
    };

    void add(const Unit* units, const Item& item, const Residence& residence, const Pages& frames);
    void begin_next(std::byte* buffer);
    void arrived(Load& load, const std::string& failure);
    Task resident();
    Task task(Load& load);

    const Attention& attention_;
    int layer_;
    Vault& vault_;
    Buffers& buffers_;
    std::deque<Load> loads_;  // does not move them
    std::vector<Load*> order_;
    std::vector<Resident> resident_;
    std::atomic<std::size_t> next_resident_{0};
    std::atomic<std::size_t> num_ready_{0};

    std::mutex mutex_;
    std::condition_variable come_;
    std::deque<Load*> ready_;
    std::size_t next_load_ = 0, num_done_ = 0, num_reading_ = 0;
    std::string failure_;
};

}  // namespace glinthawk
