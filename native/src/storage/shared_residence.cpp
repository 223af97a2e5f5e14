#include "storage/shared_residence.hpp"

#include <stdexcept>

namespace glinthawk {

void SharedResidence::await_idle(int page, Lock& lock) {
    changed_.wait(lock, [&] { return pages[page].writes == 0; });
}

void SharedResidence::await_frame(int page, Lock& lock) {
    ++num_wanting_;
    while (!pages.settle_in(page)) {
        const bool is_hopeless = num_leaving_ == 0 && pages.victims(1, true).empty();
        if (is_hopeless || !failure_.empty()) {
            --num_wanting_;
            require_no_failure();
            throw std::invalid_argument("memory holds not the last page of every sequence");
        }
        work_.notify_one();
        changed_.wait(lock);
    }
    --num_wanting_;
    call_writer_if_short();
}

void SharedResidence::call_writer_if_short() {
    if (pages.available() < pages.half()) work_.notify_one();
}

std::vector<int> SharedResidence::choose_victims(int count) const {
    const bool is_short = pages.available() + num_leaving_ < pages.half() || num_wanting_ > 0;
    if (!is_short || !failure_.empty()) return {};
    return pages.victims(count, num_wanting_ > 0 && num_leaving_ == 0);
}

std::vector<int> SharedResidence::await_victims(int count, Lock& lock) {
    std::vector<int> victims;
    work_.wait(lock, [&] { return is_closing_ || !(victims = choose_victims(count)).empty(); });
    return victims;
}

void SharedResidence::leave(int number, int slot, int num_layers) {
    Page& page = pages[number];
    page.slot = slot;
    page.writes = num_layers;
    ++num_leaving_;
}

void SharedResidence::wrote(int number, const std::string& failure) {
    if (!failure.empty()) failure_ = failure;
    Page& page = pages[number];
    if (--page.writes > 0) return;
    if (page.frame >= 0) {
        --num_leaving_;
        if (failure_.empty()) pages.became_clean(number);
    }
    changed_.notify_all();
}

void SharedResidence::close() {
    is_closing_ = true;
    work_.notify_all();
}

void SharedResidence::require_no_failure() const {
    if (!failure_.empty()) throw std::runtime_error(failure_);
}

void SharedResidence::fail_with(const std::string& failure) {
    if (failure.empty()) return;
    failure_ = failure;
    throw std::runtime_error(failure);
}

}  // namespace glinthawk
