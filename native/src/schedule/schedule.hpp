// How the attention of a step's spans is cut into work for the threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace glinthawk {

// Every sequence is cut at these positions, whatever the threads and the batch: partial results of its
// chunks are merged in order, so they are the same bits in any company.
inline constexpr int kChunkTokens = 512;
inline constexpr int kGangRows = 64;  // most query rows that share one pass over a chunk
// Most partial rows of a component: what a call needs in memory beside its pages stays bounded.
inline constexpr std::size_t kComponentRows = 4096;

// A sequence's new tokens in a step, and the pages it has.
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

// For layers of `group` query heads a KV head and this window (0: none).
Schedule make_schedule(const std::vector<Span>& spans, int page_tokens, int group, int window);

}  // namespace glinthawk
