// The pages that a step writes to.
#pragma once

#include <vector>

#include "schedule/plan.hpp"

namespace glinthawk {

// A page that a span writes to, and the rows for it.
struct TouchedPage {
    int page;
    int before;          // the page before it in its sequence; -1: none
    int offset, tokens;  // of the page
    std::size_t row;
    bool is_covered;  // all of it is written
};

std::vector<TouchedPage> touched_pages(const Plan& plan);

}  // namespace glinthawk
