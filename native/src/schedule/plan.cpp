#include "schedule/plan.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "layout/block_layout.hpp"

namespace glinthawk {

namespace {

void require(bool holds, const std::string& message) {
    if (!holds) throw std::invalid_argument(message);
}

}  // namespace

Plan::Plan(const SpanView& table, std::size_t num_rows, int page_limit, int page_tokens)
    : pages_(table.pages, table.pages + table.num_pages),
      num_rows_(num_rows),
      page_limit_(page_limit),
      page_tokens_(page_tokens) {
    require(table.offsets[0] == 0, "the offsets of a table start at 0");
    for (int page : pages_)
        require(0 <= page && page < page_limit,
                "page " + std::to_string(page) + " is not one of " + std::to_string(page_limit));
    std::size_t row = 0;
    for (std::size_t i = 0; i < table.num_spans; ++i) add_span(table, i, row);
    require(std::size_t(table.offsets[table.num_spans]) == table.num_pages,
            "the last offset of a table is its number of pages");
    require(row == num_rows, "a table has " + std::to_string(row) + " rows, not " +
                                 std::to_string(num_rows));
    cut_pieces();
}

void Plan::add_span(const SpanView& table, std::size_t i, std::size_t& row) {
    const std::string name = "span " + std::to_string(i);
    const long long start = table.starts[i], length = table.lengths[i];
    require(start >= 0 && length > 0, name + " starts below 0 or has no tokens");
    require(start + length < (1LL << 31) - kChunkTokens, name + " is too long");
    const long long first = table.offsets[i], last = table.offsets[i + 1];
    require(first <= last && last <= (long long)pages_.size(), name + " has pages out of order");
    require((last - first) * page_tokens_ >= start + length,
            name + " has too few pages for its tokens");
    const int oldest = table.oldest ? table.oldest[i] : 0;
    require(0 <= oldest && oldest <= start, name + " sees nothing, or tokens below 0");
    row += std::size_t(length);
    require(row <= num_rows_, "a table has more rows than " + std::to_string(num_rows_));
    spans_.push_back({int(start), int(length), int(row - length), pages_.data() + first, oldest});
}

void Plan::cut_pieces() {
    for (int i = 0; i < int(spans_.size()); ++i) {
        const Span& span = spans_[i];
        for (int position = span.start; position < span.end();) {
            const int stop = std::min(span.end(), (position / kLanes + 1) * kLanes);
            pieces_.push_back({i, position, stop - position, span.row + position - span.start});
            position = stop;
        }
    }
}

const Schedule& Plan::schedule(int group, int window) const {
    const std::lock_guard lock(mutex_);
    auto& made = schedules_[{group, window}];
    if (!made) made = std::make_unique<Schedule>(make_schedule(spans_, page_tokens_, group, window));
    return *made;
}

}  // namespace glinthawk
