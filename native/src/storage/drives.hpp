// Where on which drive a page of KV lies. Knows numbers, never bytes.
//
//   file    [layer][slot]           slot  one page of one layer, padded to whole blocks
//
// A sequence's pages take slots in a row where they can, so that one layer of it is one long read; runs
// of kExtentSlots go to the drives in turn, so that all drives read for one sequence.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace glinthawk {

inline constexpr std::size_t kDriveBlock = 4096;  // unit of direct reads and writes
inline constexpr int kExtentSlots = 16;

constexpr std::size_t whole_blocks(std::size_t bytes) {
    return (bytes + kDriveBlock - 1) / kDriveBlock * kDriveBlock;
}

struct DriveFile {
    int file;
    std::size_t bytes;
    std::string name;  // for words about failures
};

class Drives {
public:
    // `unit_bytes`: of one page in each layer. Throws std::invalid_argument for files too small for a page.
    Drives(const std::vector<DriveFile>& files, const std::vector<std::size_t>& unit_bytes);

    int num_slots() const { return int(used_.size()); }
    // Bytes that a page of `layer` takes.
    std::size_t padded(int layer) const { return padded_[layer]; }

    // A free slot: the one behind `after` (-1: none), else a new run on the next drive, else any. There must be one.
    int take(int after);
    void give_back(int slot);

    struct Where {
        int file;
        std::size_t offset;
        const std::string* drive;  // its name
    };
    Where where(int layer, int slot) const;
    // Whether `next` lies right behind `slot` in every layer.
    bool follows(int slot, int next) const;

private:
    struct Drive {
        int file;
        std::string name;
        int first_slot, num_slots;
        std::vector<std::size_t> layer_offset;
        std::vector<int> empty;  // first slots of extents, some of which may have been used since
    };

    int drive_of(int slot) const;
    int extent_of(int slot) const;  // its first slot
    int take_run(int first_drive);
    int mark(int slot);

    std::vector<std::size_t> padded_;
    std::vector<Drive> drives_;
    std::vector<char> used_;
    std::vector<int> used_of_extent_;  // by first slot
    int num_free_;
    int turn_ = 0;    // drive of the next run
    int cursor_ = 0;  // where any free slot is looked for
};

}  // namespace glinthawk
