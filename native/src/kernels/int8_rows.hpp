// Rows as 16-bit whole numbers in two bytes, so that byte dot instructions lose nothing of them: only
// keys and values are rounded to 8 bits, and the error stays that of the cache.
#pragma once

#include "kernels/rows.hpp"
#include "kernels/softmax.hpp"

namespace glinthawk {
namespace {

// A packed query is q = scale * (128 high + low), both signed bytes.
struct Int8Query {
    signed char high[kMaxDim], low[kMaxDim];
    float scale;
    int bias;  // what adding 128 to every byte of a key adds to the dot product with q / scale
};
static_assert(sizeof(Int8Query) <= kQueryStride);

inline const Int8Query& int8_query(const Tile& tile, int r) {
    return *reinterpret_cast<const Int8Query*>(tile.queries + r * kQueryStride);
}

inline void pack_int8_query(std::byte* packed, const void* row, DType dtype, int head_dim) {
    constexpr float largest = 127 * 128;
    alignas(64) float x[kMaxDim];
    const int whole = read_row(x, row, dtype, head_dim);
    Vec magnitude = zero(), sum = zero();
    for (int i = 0; i < whole; i += 16) {
        const Vec v = load(x + i);
        magnitude = max(max(v, mul(v, set1(-1))), magnitude);
        sum = add(sum, v);
    }
    const float most = hmax(magnitude);
    auto& query = *reinterpret_cast<Int8Query*>(packed);
    query.scale = most / largest + 0 * hsum(sum);  // a NaN or infinity must not vanish
    const Vec inverse = set1(most > 0 ? largest / most : 0);
    Vec total = zero();  // whole numbers below 2^24: exact
    for (int i = 0; i < whole; i += 16) {
        const Vec scaled = mul(load(x + i), inverse);
        total = add(total, split_signed(query.high + i, query.low + i, scaled));
    }
    query.bias = 128 * int(hsum(total));
}

// Weights of a block's tokens as unit * (256 high + low), both unsigned bytes.
struct Int8Weights {
    alignas(64) unsigned char high[kMaxBlock], low[kMaxBlock];
};

// Multiplies weights with the values' scales and rounds them to 16 bits; returns the unit.
inline float pack_int8_weights(Int8Weights& packed, const Geometry& geometry, const Tile& tile,
                               const float* weights) {
    constexpr float largest = 255 * 256;
    Vec scaled[kMaxBlock / 16], most = set1(1e-30f);
    for (int s = 0; s < tile.strips; ++s) {
        scaled[s] = mul(load(weights + 16 * s), value_scales(geometry, tile, s));
        most = max(scaled[s], most);
    }
    const float top = hmax(most);
    const Vec inverse = set1(largest / top);
    for (int s = 0; s < tile.strips; ++s)
        split_unsigned(packed.high + 16 * s, packed.low + 16 * s, mul(scaled[s], inverse));
    return top / largest;
}

}  // namespace
}  // namespace glinthawk
