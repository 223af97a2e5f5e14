#include "attention/attention.hpp"

#include <algorithm>

namespace glinthawk {

namespace {

Geometry geometry_of(const Layer& layer) {
    constexpr float log2e = 1.4426950408889634f;
    const LayerShape& shape = layer.shape;
    return {shape.head_dim,
            layer.layout.padded,
            layer.layout.tokens,
            layer.layout.strip_bytes(),
            layer.layout.column_bytes(),
            layer.layout.key_bytes(),
            layer.layout.value_offset(),
            shape.scaling,
            shape.softcap ? log2e : shape.scaling * log2e,
            shape.softcap};
}

}  // namespace

Attention::Attention(const Store& the_store, const Pages& the_pages, const Kernels& the_kernels,
                     const Request& the_request)
    : store(the_store),
      pages(the_pages),
      kernels(the_kernels),
      request(the_request),
      layer(the_store.layer(the_request.layer)),
      schedule(request.plan.schedule(layer.shape.group(), layer.shape.window)),
      geometry(geometry_of(layer)),
      row_floats(layer.layout.padded + kRowTail),
      pending(schedule.slices.size() * heads()) {
    for (int i = 0; i < int(schedule.slices.size()); ++i) {
        const Slice& slice = schedule.slices[i];
        for (int head = 0; head < heads(); ++head)
            chunks_left(i, head).store(slice.end_chunk - slice.first_chunk,
                                       std::memory_order_relaxed);
    }
}

Sight Attention::sight(const Item& item) const {
    const int window = layer.shape.window, chunk = item.chunk * kChunkTokens;
    const int block = layer.layout.tokens;
    int begin = chunk + kChunkTokens, end = chunk;
    for (int i = item.first_slice; i < item.end_slice; ++i) {
        const Slice& slice = schedule.slices[i];
        if (!slice.sees(item.chunk)) continue;
        begin = std::min(begin, slice.first_seen(slice.position, window));
        end = std::max(end, slice.end());
    }
    const int span = schedule.slices[item.first_slice].span;
    return {std::max(begin / block * block, chunk), std::min(end, chunk + kChunkTokens),
            request.plan.spans()[span].pages};
}

}  // namespace glinthawk
