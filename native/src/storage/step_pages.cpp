#include "storage/step_pages.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace glinthawk {

namespace {

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

}  // namespace

void StepPages::begin(const Plan& plan) {
    const std::vector<TouchedPage> pages = touched_pages(plan);
    auto lock = residence_.lock();
    std::vector<Before> before;
    try {
        for (const TouchedPage& one : pages) before.push_back(claim(one, lock));
    } catch (...) {
        for (std::size_t i = before.size(); i-- > 0;) disclaim(pages[i].page, before[i]);
        throw;
    }
    // Only now is anything lost that was there.
    for (std::size_t i = 0; i < pages.size(); ++i) prepare_to_write(pages[i], before[i], lock);
}

// A frame for a page, unless it has one or goes to a drive at once.
StepPages::Before StepPages::claim(const TouchedPage& one, SharedResidence::Lock& lock) {
    residence_.await_idle(one.page, lock);
    Residence& pages = residence_.pages;
    Page& page = pages[one.page];
    const Before before{page.slot, page.frame >= 0, page.is_full, page.is_dirty};
    if (before.has_frame) {
        pages.became_dirty(one.page);
    } else if (!one.is_covered || pages.available() > pages.half()) {
        residence_.await_frame(one.page, lock);
        page.slot = -1;
        page.is_dirty = true;
        page.is_full = false;
    }
    ++page.steps;
    page.before = one.before;
    return before;
}

void StepPages::disclaim(int number, const Before& before) {
    Page& page = residence_.pages[number];
    --page.steps;
    if (!before.has_frame && page.frame >= 0) residence_.pages.move_out(number);
    page.slot = before.slot;
    page.is_full = before.is_full;
    if (before.has_frame && before.slot >= 0 && !before.is_dirty)
        residence_.pages.became_clean(number);
}

void StepPages::prepare_to_write(const TouchedPage& one, const Before& before,
                                 SharedResidence::Lock& lock) {
    Page& page = residence_.pages[one.page];
    if (before.slot >= 0) {
        if (!before.has_frame && !one.is_covered) bring_in(before.slot, page.frame, lock);
        drives_.give_back(before.slot);
    }
    if (page.frame >= 0) return;
    page.slot = drives_.take(residence_.pages.slot_before(one.page));
    page.layers = 0;
}

void StepPages::bring_in(int slot, int frame, SharedResidence::Lock& lock) {
    lock.unlock();
    const std::string failure = reader_.bring_in(slot, frame);
    lock.lock();
    residence_.fail_with(failure);
}

std::vector<TouchedPage> StepPages::take_direct(const Plan& plan, int layer) {
    const auto lock = residence_.lock();
    std::vector<TouchedPage> direct;
    for (const TouchedPage& one : touched_pages(plan)) {
        const Page& page = residence_.pages[one.page];
        if (page.frame >= 0) continue;
        if (page.slot < 0 || !page.steps || !one.is_covered || page.layers != layer)
            throw std::invalid_argument("a step begins, and then has its layers in order");
        direct.push_back(one);
    }
    for (const TouchedPage& one : direct) {  // only now: what throws has changed nothing
        ++residence_.pages[one.page].writes;
        ++residence_.pages[one.page].layers;
    }
    return direct;
}

void StepPages::end(const Plan& plan) {
    auto lock = residence_.lock();
    for (const TouchedPage& one : touched_pages(plan)) {
        Page& page = residence_.pages[one.page];
        --page.steps;
        page.is_full = one.offset + one.tokens == plan.page_tokens();
        residence_.pages.touch(one.page);
        if (page.frame >= 0 || page.layers == num_layers_) continue;
        residence_.await_idle(one.page, lock);  // some layers never came, so it holds nothing
        drives_.give_back(std::exchange(page.slot, -1));
    }
    residence_.call_writer_if_short();
}

void StepPages::release(int number) {
    auto lock = residence_.lock();
    residence_.await_idle(number, lock);
    Page& page = residence_.pages[number];
    if (page.frame >= 0) residence_.pages.move_out(number);
    if (page.slot >= 0) drives_.give_back(page.slot);
    page = Page();
}

}  // namespace glinthawk
