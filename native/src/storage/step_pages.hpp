// Frames and slots for what a step writes to.
//
// A step begins: the pages that it writes to get frames, or, if it fills them and memory is short, go to
// a drive as they come. It ends: they may go out.
#pragma once

#include <vector>

#include "schedule/plan.hpp"
#include "storage/drives.hpp"
#include "storage/page_reader.hpp"
#include "storage/shared_residence.hpp"

namespace glinthawk {

// A page that a span writes to, and the rows for it.
struct TouchedPage {
    int page;
    int before;          // the page before it in its sequence; -1: none
    int offset, tokens;  // of the page
    std::size_t row;
    bool is_covered;  // all of it is written
};

class StepPages {
public:
    StepPages(int num_layers, SharedResidence& residence, Drives& drives, PageReader& reader)
        : num_layers_(num_layers), residence_(residence), drives_(drives), reader_(reader) {}

    // Throws std::invalid_argument, and changes nothing, when memory has no frame for the last page of
    // each span.
    void begin(const Plan& plan);
    void end(const Plan& plan);
    // Those that come to be written to a drive at once, which they are from now on. Throws
    // std::invalid_argument, and changes nothing, where `layer` is not the next.
    std::vector<TouchedPage> take_direct(const Plan& plan, int layer);
    // Nobody needs what is on `page`.
    void release(int page);
    // From a slot to a frame, all layers. Throws std::runtime_error when a drive fails.
    void bring_in(int slot, int frame, SharedResidence::Lock& lock);

private:
    // What a page was before a step began that writes to it.
    struct Before {
        int slot;
        bool has_frame, is_full, is_dirty;
    };

    Before claim(const TouchedPage& touched, SharedResidence::Lock& lock);
    void disclaim(int page, const Before& before);
    void prepare_to_write(const TouchedPage& touched, const Before& before,
                          SharedResidence::Lock& lock);

    const int num_layers_;
    SharedResidence& residence_;
    Drives& drives_;
    PageReader& reader_;
};

}  // namespace glinthawk
