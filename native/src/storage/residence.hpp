// Which pages are in memory, and which on a drive. Knows numbers, never bytes; has no thread and no lock.
//
// A page is born in a frame of memory, or, in a long prompt, on a drive at once. Pages that are full go
// out, the longest idle first: they are copied to a drive in the background, which makes them clean, and
// a clean page's frame is free for another at once.
//
//   free frames + frames of pages == num_frames
#pragma once

#include <cstdint>
#include <vector>

namespace glinthawk {

struct Page {
    int frame = -1;  // in memory
    int slot = -1;   // on a drive
    int before = -1;  // the page before it in its sequence, when it was last written to
    int steps = 0;    // under way that write to it
    int writes = 0;   // under way of its layers to its slot
    int layers = 0;   // that have come of one that goes to a drive at once
    bool is_full = false;
    bool is_dirty = false;  // its frame knows more than its slot
    std::uint64_t used = 0;

    bool is_idle() const { return steps == 0 && writes == 0; }
    bool is_clean() const { return frame >= 0 && slot >= 0 && !is_dirty; }
};

class Residence {
public:
    Residence(int num_pages, int num_frames);

    Page& operator[](int page) { return pages_[page]; }
    const Page& operator[](int page) const { return pages_[page]; }
    int half() const { return num_frames_ / 2; }  // of all frames
    // Where the page before this one in its sequence lies; -1: on no drive.
    int slot_before(int page) const {
        const int before = pages_[page].before;
        return before < 0 ? -1 : pages_[before].slot;
    }

    // Frames that are free, or would be without waiting.
    int available() const { return int(free_.size()) + num_clean_; }
    // Gives `page` a frame; false if that would need a write first.
    bool settle_in(int page);
    // Its frame is free for another.
    void move_out(int page);

    // It has been copied to its slot.
    void became_clean(int page);
    // It is written to in its frame: its slot no longer tells the truth.
    void became_dirty(int page);

    // Up to `count` pages to copy to drives, longest idle first; those that are not full only `if_any`.
    std::vector<int> victims(int count, bool if_any) const;
    void touch(int page) { pages_[page].used = ++now_; }

    void validate() const;  // throws std::logic_error

private:
    int drop_one();

    std::vector<Page> pages_;
    int num_frames_;
    std::vector<int> free_;
    std::vector<int> owners_;  // of frames; -1: free
    int num_clean_ = 0;
    int hand_ = 0;  // of the clock that goes round the frames for a clean one
    std::uint64_t now_ = 0;
};

}  // namespace glinthawk
