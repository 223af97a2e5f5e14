// The pages of all layers.
#pragma once

#include <memory>
#include <vector>

#include "arena.hpp"
#include "layout.hpp"
#include "plan.hpp"
#include "pool.hpp"

namespace glinthawk {

struct Layer {
    LayerShape shape;
    std::vector<float> sinks;
    BlockLayout layout;
    std::size_t page_bytes;  // of one page under one KV head
    std::size_t head_bytes;  // of all pages under one KV head
    std::byte* memory;

    Layer(const LayerShape& shape, DType kv, int num_pages, int page_tokens);
};

class Store {
public:
    Store(const std::vector<LayerShape>& layers, int num_pages, int page_tokens, DType kv);

    const Layer& layer(int index) const { return layers_.at(index); }
    DType dtype() const { return dtype_; }
    int num_pages() const { return num_pages_; }
    int page_tokens() const { return page_tokens_; }
    std::size_t page_bytes() const;  // of one page over all layers

    // The block of `head` which holds `position` of a sequence with these pages.
    std::byte* block(const Layer& layer, const int* pages, int position, int head) const {
        const int page = pages[position / page_tokens_];
        return layer.memory + head * layer.head_bytes + page * layer.page_bytes +
               std::size_t(position % page_tokens_ / layer.layout.tokens) * layer.layout.bytes();
    }

    // Writes the new tokens' keys (T, K, D) and values (T, K, Dv).
    void append(int layer, const Plan& plan, const void* keys, const void* values, DType dtype,
                Pool& pool);
    void copy_page(int from, int to);

private:
    std::vector<Layer> layers_;
    int num_pages_;
    int page_tokens_;
    DType dtype_;
    std::unique_ptr<Arena> arena_;
};

}  // namespace glinthawk
