#include "attention/passes.hpp"

namespace glinthawk {

namespace {

std::vector<Pass> cut(const Attention& attention, std::size_t most_bytes, int heads_together) {
    const auto& components = attention.schedule.components;
    std::vector<Pass> passes(1);
    for (int c = 0; c < int(components.size()); ++c) {
        const std::size_t floats = components[c].partial_rows * attention.row_floats;
        for (int head = 0; head < attention.heads(); ++head) {
            const std::size_t more = floats * heads_together;
            if (head % heads_together == 0 && passes.back().num_items &&
                (passes.back().partial_floats + more) * sizeof(float) > most_bytes)
                passes.emplace_back();
            Pass& pass = passes.back();
            pass.units.push_back({c, head, pass.num_items, pass.partial_floats});
            pass.num_items += components[c].num_items;
            pass.partial_floats += floats;
        }
    }
    return passes;
}

}  // namespace

std::vector<Pass> cut_passes(const Attention& attention) {
    constexpr std::size_t kCached = std::size_t(8) << 20;
    return cut(attention, kCached, 1);
}

std::vector<Pass> cut_whole_passes(const Attention& attention) {
    constexpr std::size_t kBounded = std::size_t(64) << 20;
    return cut(attention, kBounded, attention.heads());
}

}  // namespace glinthawk
