// What all threads of one call share, and the passes it is made in.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "attention.hpp"

namespace glinthawk {

// What the rows of an item see of its chunk, in whole blocks.
struct Sight {
    int first_token, end;
    const int* pages;  // of the sequence, from its first on
};

struct Attention {
    Attention(const Store& store, const Pages& pages, const Kernels& kernels,
              const Request& request, const Schedule& schedule);

    const Store& store;
    const Pages& pages;
    const Kernels& kernels;
    const Request& request;
    const Schedule& schedule;
    const Layer& layer;
    const Geometry geometry;
    const std::size_t row_floats;  // of a partial row
    std::unique_ptr<float[]> partials;
    std::vector<std::atomic<int>> pending;  // per (slice, KV head), chunks not done yet

    Sight sight(const Item& item) const;
    int heads() const { return layer.shape.num_kv_heads; }
    std::size_t rows(const Slice& slice) const {
        return std::size_t(slice.tokens) * layer.shape.group();
    }
    std::atomic<int>& chunks_left(int slice, int head) {
        return pending[std::size_t(slice) * heads() + head];
    }
};

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
