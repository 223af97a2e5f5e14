// A model and the rows of its steps.
#pragma once

#include <numeric>
#include <vector>

#include "layout/layer_shape.hpp"
#include "schedule/plan.hpp"

namespace glinthawk {

inline constexpr int kPageTokens = 32, kHeads = 4, kKvHeads = 2, kDim = 32;

inline std::vector<LayerShape> shapes() {
    const LayerShape plain{kHeads, kKvHeads, kDim, kDim, 0.2f, 0, 0, {}};
    LayerShape windowed = plain;
    windowed.window = 70;
    return {plain, windowed, plain};
}

// A step of a few sequences, as a plan.
struct Rows {
    std::vector<int> starts, lengths, pages, offsets{0};

    void add(int start, int length, const std::vector<int>& held) {
        starts.push_back(start);
        lengths.push_back(length);
        const int count = (start + length + kPageTokens - 1) / kPageTokens;
        pages.insert(pages.end(), held.begin(), held.begin() + count);
        offsets.push_back(int(pages.size()));
    }
    int count() const { return std::accumulate(lengths.begin(), lengths.end(), 0); }
    Plan plan(int num_pages) const {
        return Plan({starts.data(), lengths.data(), starts.size(), pages.data(), pages.size(),
                     offsets.data(), nullptr},
                    std::size_t(count()), num_pages, kPageTokens);
    }
};

}  // namespace glinthawk
