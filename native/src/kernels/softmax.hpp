// One step of online softmax: a block's scores become weights. In base 2.
//
// Weights are 2^(score - shift) with a shift of the row's own: its largest score when that was last too
// far above the shift before. A masked token changes no bit of a row: its score is -inf, its weight
// exactly 0. So a row's result does not depend on which other rows share its tile, or how far they see.
#pragma once

#include "layout/block_layout.hpp"
#include "kernels/tile.hpp"
#include "kernels/math.hpp"

namespace glinthawk {
namespace {

// How far (in log2) a score may be above its row's shift: sums are only rescaled beyond.
inline constexpr float kHeadroom = 8;

// Caps and masks one row's scores. Only tiles at the edge of what their rows see have to be masked.
inline void edit(const Geometry& geometry, const Tile& tile, float* scores, int r, bool masked) {
    for (int s = 0; s < tile.strips; ++s) {
        Vec x = load(scores + 16 * s);
        if (geometry.softcap != 0) {
            const float inverse = geometry.scaling / geometry.softcap;
            x = mul(tanh(mul(x, set1(inverse))), set1(geometry.softcap));
        }
        if (masked) {
            const int first = tile.first_token + 16 * s;
            x = keep(x, tile.begin[r] - first, tile.end[r] - first, set1(-__builtin_inff()));
        }
        store(scores + 16 * s, x);
    }
}

// The shift of row r after this block; *rescale is what its earlier sums are to be multiplied with.
inline float shift_row(const Geometry& geometry, const Tile& tile, const float* scores, int r,
                       float* rescale) {
    float& shift = tile.rows[r][geometry.padded_value_dim + kRowShift];
    Vec best = load(scores);
    for (int s = 1; s < tile.strips; ++s) best = max(best, load(scores + 16 * s));
    best = mul(best, set1(geometry.scale));
    *rescale = 1;
    if (!any_above(best, set1(shift + kHeadroom))) return shift;
    const float before = shift;
    shift = hmax(best);
    alignas(64) float lanes[16];
    store(lanes, exp2(set1(before - shift)));
    *rescale = lanes[0];
    return shift;
}

// Returns whether any row's earlier sums have to be rescaled.
template <int R>
bool softmax(const Geometry& geometry, const Tile& tile, float (*scores)[kMaxBlock],
             float* rescale) {
    const bool masked =
        tile.first_token < tile.open || tile.first_token + 16 * tile.strips > tile.close;
    if (masked || geometry.softcap != 0)
        for (int r = 0; r < R; ++r) edit(geometry, tile, scores[r], r, masked);
    bool moved = false;
    const Vec scale = set1(geometry.scale);
    for (int r = 0; r < R; ++r) {
        const float at = shift_row(geometry, tile, scores[r], r, &rescale[r]);
        moved |= rescale[r] != 1;
        // A row that has seen nothing yet is at -inf, and -inf - -inf is no number.
        const Vec shift = set1(at > -3e38f ? -at : 0);
        float* sums = tile.rows[r] + geometry.padded_value_dim;
        Vec sum = mul(load(sums), set1(rescale[r]));
        for (int s = 0; s < tile.strips; ++s) {
            const Vec weight = exp2(fma(load(scores[r] + 16 * s), scale, shift));
            store(scores[r] + 16 * s, weight);
            sum = add(sum, weight);
        }
        store(sums, sum);
    }
    return moved;
}

inline void clear_row(float* row, int padded_value_dim) {
    for (int d = 0; d < padded_value_dim + kRowTail; d += 16) store(row + d, zero());
    row[padded_value_dim + kRowShift] = -__builtin_inff();
}

}  // namespace
}  // namespace glinthawk
