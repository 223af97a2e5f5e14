// A step's spans, checked once, with the schedules of their attention.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "schedule/schedule.hpp"

namespace glinthawk {

// The raw table, as glinthawk.tier2.pages.page_table.SpanTable has it.
struct SpanView {
    const int* starts;
    const int* lengths;
    std::size_t num_spans;
    const int* pages;
    std::size_t num_pages;
    const int* offsets;  // (num_spans + 1,)
    const int* oldest;   // (num_spans,), or none: every span sees its tokens from 0 on
};

// New tokens of one span within one strip of 16.
struct Piece {
    int span, position, tokens, row;
};

class Plan {
public:
    // Throws std::invalid_argument for a table that is inconsistent or names a page that is not there.
    Plan(const SpanView& table, std::size_t num_rows, int page_limit, int page_tokens);

    const std::vector<Span>& spans() const { return spans_; }
    const std::vector<Piece>& pieces() const { return pieces_; }
    std::size_t num_rows() const { return num_rows_; }
    int page_limit() const { return page_limit_; }
    int page_tokens() const { return page_tokens_; }

    // For layers of `group` query heads a KV head and this window (0: none). Made on first use.
    const Schedule& schedule(int group, int window) const;

private:
    void add_span(const SpanView& table, std::size_t index, std::size_t& row);
    void cut_pieces();

    std::vector<int> pages_;
    std::vector<Span> spans_;
    std::vector<Piece> pieces_;
    std::size_t num_rows_;
    int page_limit_;
    int page_tokens_;
    mutable std::mutex mutex_;
    mutable std::map<std::pair<int, int>, std::unique_ptr<Schedule>> schedules_;
};

}  // namespace glinthawk
