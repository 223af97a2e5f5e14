// How a worker's memory is shared out between pages and buffers.
#pragma once

#include <cstddef>
#include <vector>

#include "layout/dtype.hpp"
#include "layout/layer_shape.hpp"

namespace glinthawk {

struct MemoryShares {
    std::size_t load_bytes;   // of a buffer for a chunk's pages
    std::size_t stage_bytes;  // of one for a page of one layer
    int num_loads, num_staged, num_frames;

    // Throws std::invalid_argument when `bytes` are too few.
    MemoryShares(const std::vector<LayerShape>& layers, int page_tokens, DType kv,
                 std::size_t bytes);
};

}  // namespace glinthawk
