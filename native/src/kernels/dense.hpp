// Scores and weighted sums of a tile for formats whose sums are floats.
#pragma once

#include "kernels/lines.hpp"
#include "kernels/softmax.hpp"

namespace glinthawk {
namespace {

inline void prefetch(const std::byte* p) { __builtin_prefetch(p, 0, 2); }

template <class Lines>
struct Dense {
    static constexpr int kTileRows = glinthawk::kTileRows;
    static constexpr int kFold = dtype_fold(Lines::kDType);
    static constexpr int kLineBytes = 16 * kFold * dtype_bytes(Lines::kDType);
    static constexpr int kCoefficients = kFold * Lines::kBytes;
    static constexpr bool kScaled = Lines::kDType == DType::int8;

    static void rest() {}

    template <int R>
    static void score(const Geometry& geometry, const Tile& tile, float (*scores)[kMaxBlock]) {
        const std::byte* key = tile.block;
        for (int s = 0; s < tile.strips; ++s, key += geometry.strip_bytes) {
            Vec sum[kScoreSums][R];
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
                for (int k = 0; k < kScoreSums; ++k) sum[k][r] = zero();
            // Head sizes are multiples of 8, so the number of lines is even.
            add_lines<R, kScoreSums, kQueryStride>(key, tile.ahead,
                                                   geometry.strip_bytes / kLineBytes,
                                                   tile.queries, Lines::key, sum);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
                store(scores[r] + 16 * s,
                      kScoreSums == 2 ? add(sum[0][r], sum[kScoreSums - 1][r]) : sum[0][r]);
        }
        if constexpr (kScaled) scale_scores<R>(geometry, tile, scores);
    }

    template <int R>
    static void weigh(const Geometry& geometry, const Tile& tile,
                      const float (*weights)[kMaxBlock], const float* rescale) {
        alignas(64) std::byte packed[R][kMaxBlock * Lines::kBytes];
        for (int r = 0; r < R; ++r) {
            for (int s = 0; s < tile.strips; ++s) {
                Vec w = load(weights[r] + 16 * s);
                if constexpr (kScaled) w = mul(w, value_scales(geometry, tile, s));
                Lines::pack(packed[r] + 16 * s * Lines::kBytes, w);
            }
        }
        const std::byte* value = tile.block + geometry.value_offset;
        for (int d = 0; d < geometry.padded_value_dim; d += 16, value += geometry.column_bytes)
            weigh_column<R>(tile, value, d, packed, rescale);
    }

private:
    // Adds lines, each dotted with the coefficients of every row, to the S sums of a row in turn. They are
    // taken as they lie in memory, for the sake of the hardware prefetchers.
    template <int R, int S, int Stride>
    static inline __attribute__((always_inline)) void add_lines(
        const std::byte* p, std::ptrdiff_t ahead, int num_lines, const std::byte* coefficients,
        auto read, Vec (&sum)[S][R]) {
        for (int i = 0; i < num_lines; i += S) {
#pragma GCC unroll 2
            for (int k = 0; k < S; ++k) {
                const typename Lines::Line line = read(p);
                prefetch(p + ahead);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r)
                    sum[k][r] = Lines::dot(sum[k][r], coefficients + r * Stride, line);
                p += kLineBytes;
                coefficients += kCoefficients;
            }
        }
    }

    template <int R>
    static void weigh_column(const Tile& tile, const std::byte* value, int d,
                             const std::byte (*packed)[kMaxBlock * Lines::kBytes],
                             const float* rescale) {
        constexpr int stride = kMaxBlock * Lines::kBytes;
        Vec sums[1][R];
        auto& sum = sums[0];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) sum[r] = load(tile.rows[r] + d);
        if (rescale) {
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) sum[r] = mul(sum[r], set1(rescale[r]));
        }
        // int8 values are never "no number": their scales see to tokens that hold nothing.
        const int lines = (tile.valid + (kScaled ? kFold - 1 : 0)) / kFold;
        add_lines<R, 1, stride>(value, tile.ahead, lines, packed[0], Lines::value, sums);
        if constexpr (kFold == 2)
            if (tile.valid % 2)
                add_lines<R, 1, stride>(value + lines * kLineBytes, tile.ahead, 1,
                                        packed[0] + lines * kCoefficients, Lines::first_only,
                                        sums);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) store(tile.rows[r] + d, sum[r]);
    }
};

}  // namespace
}  // namespace glinthawk
