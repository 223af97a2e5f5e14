#include "storage/drives.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace glinthawk {

Drives::Drives(const std::vector<DriveFile>& files, const std::vector<std::size_t>& unit_bytes) {
    for (std::size_t bytes : unit_bytes) padded_.push_back(whole_blocks(bytes));
    const std::size_t page = std::accumulate(padded_.begin(), padded_.end(), std::size_t(0));
    int slots = 0;
    for (const DriveFile& file : files) {
        constexpr std::size_t kMost = 1 << 30;
        Drive drive{file.file, file.name, slots, int(std::min(file.bytes / page, kMost)), {}, {}};
        if (drive.num_slots < 1) throw std::invalid_argument("a drive holds not one page");
        std::size_t offset = 0;
        for (std::size_t bytes : padded_) {
            drive.layer_offset.push_back(offset);
            offset += bytes * drive.num_slots;
        }
        for (int at = slots; at < slots + drive.num_slots; at += kExtentSlots)
            drive.empty.push_back(at);
        std::reverse(drive.empty.begin(), drive.empty.end());
        slots += drive.num_slots;
        drives_.push_back(std::move(drive));
    }
    used_.resize(slots);
    used_of_extent_.resize(slots);
    num_free_ = slots;
}

int Drives::drive_of(int slot) const {
    const auto after = std::upper_bound(
        drives_.begin(), drives_.end(), slot,
        [](int number, const Drive& drive) { return number < drive.first_slot; });
    return int(after - drives_.begin()) - 1;
}

int Drives::extent_of(int slot) const {
    const int first = drives_[drive_of(slot)].first_slot;
    return first + (slot - first) / kExtentSlots * kExtentSlots;
}

int Drives::take(int after) {
    if (num_free_ == 0) throw std::logic_error("no slot is free");
    if (after >= 0) {
        const int next = after + 1;
        if (next < num_slots() && !used_[next] && extent_of(next) == extent_of(after))
            return mark(next);
    }
    const int start = after >= 0 ? drive_of(after) + 1 : turn_++;
    const int run = take_run(start);
    if (run >= 0) return mark(run);
    while (used_[cursor_]) cursor_ = (cursor_ + 1) % num_slots();
    return mark(cursor_);
}

// The first slot of a run of free ones, on a drive from `first_drive` on; -1: there is none.
int Drives::take_run(int first_drive) {
    for (std::size_t i = 0; i < drives_.size(); ++i) {
        auto& empty = drives_[(first_drive + i) % drives_.size()].empty;
        while (!empty.empty()) {
            const int first = empty.back();
            empty.pop_back();
            if (used_of_extent_[first] == 0) return first;
        }
    }
    return -1;
}

int Drives::mark(int slot) {
    used_[slot] = 1;
    ++used_of_extent_[extent_of(slot)];
    --num_free_;
    return slot;
}

void Drives::give_back(int slot) {
    if (!used_.at(slot)) throw std::logic_error("this slot is free already");
    used_[slot] = 0;
    ++num_free_;
    const int extent = extent_of(slot);
    if (--used_of_extent_[extent] == 0) drives_[drive_of(slot)].empty.push_back(extent);
}

Drives::Where Drives::where(int layer, int slot) const {
    const Drive& drive = drives_[drive_of(slot)];
    return {drive.file,
            drive.layer_offset[layer] + std::size_t(slot - drive.first_slot) * padded_[layer],
            &drive.name};
}

bool Drives::follows(int slot, int next) const {
    return next == slot + 1 && drive_of(slot) == drive_of(next);
}

}  // namespace glinthawk
