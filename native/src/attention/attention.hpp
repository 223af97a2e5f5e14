// Attention of a step's new tokens over their sequences in one layer: what all threads share.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "kernels/tile.hpp"
#include "pages/store.hpp"

namespace glinthawk {

struct Request {
    int layer;
    const Plan& plan;
    const void* queries;  // (T, H, D)
    DType dtype;          // of queries and outputs
    void* outputs;        // (T, H, Dv)
    float* log_sum_exp;   // (T, H)
};

// What the rows of an item see of its chunk, in whole blocks.
struct Sight {
    int first_token, end;
    const int* pages;  // of the sequence, from its first on
};

struct Attention {
    // Over `pages`, of the shapes that `store` has.
    Attention(const Store& store, const Pages& pages, const Kernels& kernels,
              const Request& request);

    const Store& store;
    const Pages& pages;
    const Kernels& kernels;
    const Request& request;
    const Layer& layer;
    const Schedule& schedule;
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

}  // namespace glinthawk
