// A step's spans, checked once, and how their attention is cut into work for the threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "layout.hpp"

namespace glinthawk {

// Every sequence is cut at these positions, whatever the threads and the batch: partial results of its
// chunks are merged in order, so they are the same bits in any company.
inline constexpr int kChunkTokens = 512;
inline constexpr int kGangRows = 64;  // most query rows that share one pass over a chunk
// Most partial rows of a component: what a call needs in memory beside its pages stays bounded.
inline constexpr std::size_t kComponentRows = 4096;

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

struct Span {
    int start, length;
    int row;           // of its first token in the batch
    const int* pages;  // cover start + length tokens
    int oldest;        // token that its rows see, whatever the window
    int end() const { return start + length; }
};

// A few query tokens of one span; the unit that is merged.
struct Slice {
    int span;
    int position, tokens;  // of its queries
    int row;
    int oldest;                  // token of its span that is seen
    int first_chunk, end_chunk;  // the chunks it sees
    std::size_t partial;         // index of its first partial row in its component, per KV head
    int end() const { return position + tokens; }
    bool sees(int chunk) const { return first_chunk <= chunk && chunk < end_chunk; }
    // The first token that the query at `at` sees; window 0 is none.
    int first_seen(int at, int window) const {
        return window ? std::max(oldest, at - window + 1) : oldest;
    }
};

// One chunk of KV against all query tokens of slices [first, end) that see it; their pages are the same.
struct Item {
    int first_slice, end_slice, chunk;
    int num_rows;  // per KV head
};

// Slices that share pages, directly or through others.
struct Component {
    int first_item, num_items;
    std::size_t partial_rows;  // per KV head
};

struct Schedule {
    std::vector<Slice> slices;
    std::vector<Item> items;
    std::vector<Component> components;
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
