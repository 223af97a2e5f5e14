#include "schedule/schedule.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace glinthawk {

namespace {

constexpr int kSliceRows = 8;  // query rows of a slice, where one token has not more

int chunks_of(int tokens) { return (tokens + kChunkTokens - 1) / kChunkTokens; }

class Maker {
public:
    Maker(const std::vector<Span>& spans, int page_tokens, int group, int window)
        : spans_(spans), page_tokens_(page_tokens), group_(group), window_(window) {}

    Schedule make() {
        cut_slices();
        measure_sharing();
        for (int first = 0; first < int(made_.slices.size());) {
            int end = first + 1;
            std::size_t size = partial_rows(made_.slices[first]);
            while (shared_[end - 1] > 0 && size < kComponentRows)
                size += partial_rows(made_.slices[end++]);
            shared_[end - 1] = 0;
            add_component(first, end);
            first = end;
        }
        return std::move(made_);
    }

private:
    int num_pages(const Span& span) const {
        return (span.end() + page_tokens_ - 1) / page_tokens_;
    }

    // Sequences with equal prefixes become neighbours.
    std::vector<int> sorted_spans() const {
        std::vector<int> order(spans_.size());
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(), [&](int a, int b) {
            const auto begin_a = spans_[a].pages, begin_b = spans_[b].pages;
            const auto end_a = begin_a + num_pages(spans_[a]);
            const auto end_b = begin_b + num_pages(spans_[b]);
            const auto [at_a, at_b] = std::mismatch(begin_a, end_a, begin_b, end_b);
            if (at_a == end_a || at_b == end_b)
                return end_a - begin_a != end_b - begin_b ? at_a == end_a : a < b;
            return *at_a < *at_b;
        });
        return order;
    }

    void cut_slices() {
        const int tokens = std::max(1, kSliceRows / group_);
        for (int index : sorted_spans()) {
            const Span& span = spans_[index];
            for (int at = span.start; at < span.end(); at += tokens) {
                Slice slice{};
                slice.span = index;
                slice.position = at;
                slice.tokens = std::min(tokens, span.end() - at);
                slice.row = span.row + at - span.start;
                slice.oldest = span.oldest;
                slice.first_chunk = slice.first_seen(at, window_) / kChunkTokens;
                slice.end_chunk = chunks_of(slice.end());
                made_.slices.push_back(slice);
            }
        }
    }

    // shared_[i]: leading chunks in which slices i and i + 1 have the same pages.
    void measure_sharing() {
        const auto& slices = made_.slices;
        for (std::size_t i = 0; i + 1 < slices.size(); ++i) {
            const bool same = slices[i].span == slices[i + 1].span;
            shared_.push_back(same ? std::numeric_limits<int>::max()
                                   : common_chunks(spans_[slices[i].span],
                                                   spans_[slices[i + 1].span]));
        }
        shared_.push_back(0);
    }

    int common_chunks(const Span& a, const Span& b) const {
        const int limit = std::min(a.end(), b.end());
        const int pages = limit / page_tokens_;
        int common = 0;
        while (common < pages && a.pages[common] == b.pages[common]) ++common;
        return common * page_tokens_ / kChunkTokens;
    }

    void add_component(int first, int end) {
        Component component{int(made_.items.size()), 0, 0};
        int last_chunk = 0, first_chunk = std::numeric_limits<int>::max();
        for (int i = first; i < end; ++i) {
            Slice& slice = made_.slices[i];
            slice.partial = component.partial_rows;
            component.partial_rows += partial_rows(slice);
            first_chunk = std::min(first_chunk, slice.first_chunk);
            last_chunk = std::max(last_chunk, slice.end_chunk);
        }
        for (int chunk = first_chunk; chunk < last_chunk; ++chunk) add_items(first, end, chunk);
        // Chunks of one gang follow each other: its packed queries are used again.
        std::stable_sort(made_.items.begin() + component.first_item, made_.items.end(),
                         [](const Item& a, const Item& b) {
                             const int wide_a = a.end_slice - a.first_slice;
                             const int wide_b = b.end_slice - b.first_slice;
                             return wide_a != wide_b ? wide_a > wide_b
                                                     : a.first_slice < b.first_slice;
                         });
        component.num_items = int(made_.items.size()) - component.first_item;
        made_.components.push_back(component);
    }

    int rows(const Slice& slice) const { return slice.tokens * group_; }
    std::size_t partial_rows(const Slice& slice) const {
        return std::size_t(slice.end_chunk - slice.first_chunk) * rows(slice);
    }

    // Items of one chunk: runs of slices that share it, of up to kGangRows query rows.
    void add_items(int first, int end, int chunk) {
        Item item{first, first, chunk, 0};
        for (int i = first; i < end; ++i) {
            const Slice& slice = made_.slices[i];
            if (slice.sees(chunk)) {
                if (item.num_rows + rows(slice) > kGangRows) flush(item);
                if (item.num_rows == 0) item.first_slice = i;
                item.num_rows += rows(slice);
                item.end_slice = i + 1;
            }
            if (shared_[i] <= chunk) flush(item);
        }
        flush(item);
    }

    void flush(Item& item) {
        if (item.num_rows > 0) made_.items.push_back(item);
        item.num_rows = 0;
    }

    const std::vector<Span>& spans_;
    const int page_tokens_, group_, window_;
    Schedule made_;
    std::vector<int> shared_;
};

}  // namespace

Schedule make_schedule(const std::vector<Span>& spans, int page_tokens, int group, int window) {
    return Maker(spans, page_tokens, group, window).make();
}

}  // namespace glinthawk
