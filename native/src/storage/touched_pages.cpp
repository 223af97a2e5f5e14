#include "storage/touched_pages.hpp"

#include <algorithm>

namespace glinthawk {

std::vector<TouchedPage> touched_pages(const Plan& plan) {
    const int size = plan.page_tokens();
    std::vector<TouchedPage> found;
    for (const Span& span : plan.spans()) {
        for (int at = span.start / size; at * size < span.end(); ++at) {
            const int first = std::max(span.start, at * size);
            const int end = std::min(span.end(), (at + 1) * size);
            found.push_back({span.pages[at], at ? span.pages[at - 1] : -1, first - at * size,
                             end - first, std::size_t(span.row + first - span.start),
                             end - first == size});
        }
    }
    return found;
}

}  // namespace glinthawk
