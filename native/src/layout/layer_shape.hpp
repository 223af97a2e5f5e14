// What a layer's attention is. Kernels never see it: vectors have code of their own.
#pragma once

#include <vector>

namespace glinthawk {

inline constexpr int kMaxQueriesPerHead = 64;

struct LayerShape {
    int num_heads;
    int num_kv_heads;
    int head_dim;
    int value_dim;
    float scaling;
    int window;                // 0: none
    float softcap;             // 0: none
    std::vector<float> sinks;  // (num_heads,) or none

    int group() const { return num_heads / num_kv_heads; }
};

}  // namespace glinthawk
