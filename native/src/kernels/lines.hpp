// How a 64-byte line of a page (32 bytes for float16) meets the coefficients of one row.
//
// A line holds F neighbours (dims of keys, tokens of values) in each of 16 lanes; dot adds to each lane
// the F products with F coefficients. Coefficients are a packed query, or the softmax weights.
#pragma once

#include "layout/block_layout.hpp"
#include "kernels/tile.hpp"

namespace glinthawk {
namespace {

// Coefficients kept as floats: every format but those with a dot instruction of their own.
struct FloatCoefficients {
    static void pack(std::byte* to, Vec x) { store(reinterpret_cast<float*>(to), x); }
    static Vec at(const std::byte* p, int i) {
        return set1(reinterpret_cast<const float*>(p)[i]);
    }
    static constexpr int kBytes = 4;
};

struct Float32Lines : FloatCoefficients {
    using Line = Vec;
    static constexpr DType kDType = DType::float32;
    static Line key(const std::byte* p) { return load(reinterpret_cast<const float*>(p)); }
    static Line value(const std::byte* p) { return key(p); }
    static Vec dot(Vec sum, const std::byte* c, Line x) { return fma(at(c, 0), x, sum); }
};

struct Float16Lines : FloatCoefficients {
    using Line = Vec;
    static constexpr DType kDType = DType::float16;
    static Line key(const std::byte* p) { return load_f16(p); }
    static Line value(const std::byte* p) { return key(p); }
    static Vec dot(Vec sum, const std::byte* c, Line x) { return fma(at(c, 0), x, sum); }
};

struct Bfloat16Lines : FloatCoefficients {
    struct Line {
        Vec first, second;
    };
    static constexpr DType kDType = DType::bfloat16;
    static Line key(const std::byte* p) { return {pair_bf16<0>(p), pair_bf16<1>(p)}; }
    static Line value(const std::byte* p) { return key(p); }
    static Line first_only(const std::byte* p) { return {pair_bf16<0>(p), zero()}; }
    static Vec dot(Vec sum, const std::byte* c, Line x) {
        return fma(at(c, 1), x.second, fma(at(c, 0), x.first, sum));
    }
};

struct Int8Lines : FloatCoefficients {
    struct Line {
        Vec lane[4];
    };
    static constexpr DType kDType = DType::int8;
    static Line read(const std::byte* p, int bias) {
        return {{quad_int8<0>(p, bias), quad_int8<1>(p, bias), quad_int8<2>(p, bias),
                 quad_int8<3>(p, bias)}};
    }
    // Keys are stored with 128 added, for the unsigned operand of dot instructions.
    static Line key(const std::byte* p) { return read(p, int(0x80808080)); }
    static Line value(const std::byte* p) { return read(p, 0); }
    static Vec dot(Vec sum, const std::byte* c, Line x) {
        for (int i = 0; i < 4; ++i) sum = fma(at(c, i), x.lane[i], sum);
        return sum;
    }
};

// Multiplies scores with the scales of their keys.
template <int R, int N>
void scale_scores(const Geometry& geometry, const Tile& tile, float (*scores)[N]) {
    for (int s = 0; s < tile.strips; ++s) {
        const Vec scale = load_bf16(tile.block + geometry.scale_offset + 32 * s);
        for (int r = 0; r < R; ++r)
            store(scores[r] + 16 * s, mul(load(scores[r] + 16 * s), scale));
    }
}
// 0 for tokens that hold nothing yet: a weight of 0 times garbage may be no number.
inline Vec value_scales(const Geometry& geometry, const Tile& tile, int strip) {
    const std::byte* scales = tile.block + geometry.scale_offset + 2 * geometry.block_tokens;
    return keep(load_bf16(scales + 32 * strip), 0, tile.valid - 16 * strip, zero());
}

}  // namespace
}  // namespace glinthawk
