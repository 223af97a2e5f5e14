// The passes that a call is made in.
#pragma once

#include <vector>

#include "attention/attention.hpp"

namespace glinthawk {

// One component under one KV head.
struct Unit {
    int component, head;
    std::size_t first_item;     // within the pass
    std::size_t first_partial;  // in floats
};

struct Pass {
    std::vector<Unit> units;
    std::size_t num_items = 0;
    std::size_t partial_floats = 0;
};

// Cuts a call so that partial results stay in the caches between being written and merged; or, where
// pages come from drives, with all heads of a component in one pass, for they come together.
std::vector<Pass> cut_passes(const Attention& attention);
std::vector<Pass> cut_whole_passes(const Attention& attention);

}  // namespace glinthawk
