// Copies full pages to drives in the background, the longest idle first, so that half of all frames can
// be given away at once: that is room for the last page of as many sequences, which has to wait for
// tokens to come.
#pragma once

#include <thread>
#include <vector>

#include "pages/store.hpp"
#include "storage/page_writer.hpp"

namespace glinthawk {

// A thread of its own.
class WriteBack {
public:
    WriteBack(const Store& frames, int num_layers, SharedResidence& residence, Drives& drives,
              PageWriter& writer);
    ~WriteBack();

private:
    // A page that leaves.
    struct Leaving {
        int page, frame, slot;
    };

    void run();
    Leaving send_off(int page);
    void copy(const std::vector<Leaving>& pages);

    const Store& frames_;
    const int num_layers_;
    SharedResidence& residence_;
    Drives& drives_;
    PageWriter& writer_;
    std::thread thread_;
};

}  // namespace glinthawk
