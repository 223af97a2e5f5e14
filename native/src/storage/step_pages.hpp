// Frames and slots for what a step writes to.
//
// A step begins: the pages that it writes to get frames, or, if it fills them and memory is short, go to
// a drive as they come. It ends: they may go out.
#pragma once

#include <vector>

#include "storage/drives.hpp"
#include "storage/page_reader.hpp"
#include "storage/shared_residence.hpp"
#include "storage/touched_pages.hpp"

namespace glinthawk {

class StepPages {
public:
    StepPages(int num_layers, SharedResidence& residence, Drives& drives, PageReader& reader)
        : num_layers_(num_layers), residence_(residence), drives_(drives), reader_(reader) {}

    // Throws std::invalid_argument, and changes nothing, when memory has no frame for the last page of
    // each span.
    void begin(const std::vector<TouchedPage>& pages);
    void end(const std::vector<TouchedPage>& pages, int page_tokens);
    // Those that come to be written to a drive at once, which they are from now on. Throws
    // std::invalid_argument, and changes nothing, where `layer` is not the next.
    std::vector<TouchedPage> take_direct(const std::vector<TouchedPage>& pages, int layer);
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
