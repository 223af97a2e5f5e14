// The pages of one layer: how large they are.
#pragma once

#include <cstddef>

#include "layout/block_layout.hpp"
#include "layout/layer_shape.hpp"

namespace glinthawk {

struct Layer {
    LayerShape shape;
    BlockLayout layout;
    std::size_t page_bytes;  // of one page under one KV head
    std::size_t head_bytes;  // of all pages under one KV head
    std::byte* memory;       // null: of no store

    // Of one page in this layer.
    std::size_t unit_bytes() const { return page_bytes * shape.num_kv_heads; }

    Layer(const LayerShape& given, DType kv, int num_pages, int page_tokens)
        : shape(given),
          layout(kv, given.head_dim, given.value_dim, page_tokens),
          page_bytes(std::size_t(page_tokens / layout.tokens) * layout.bytes()),
          head_bytes(page_bytes * num_pages),
          memory(nullptr) {}
};

}  // namespace glinthawk
