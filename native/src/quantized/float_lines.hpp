// Lines of codes times float32 rows: a code's value is looked up, and multiplied by any vector.
#pragma once

#include <cstring>

#include "layout/dtype.hpp"
#include "quantized/cursor.hpp"
#include "quantized/packed_weight.hpp"

namespace glinthawk {
namespace {

template <int Bits>
struct FloatLines {
    static constexpr DType kDType = DType::float32;
    static constexpr int kBytes = 4, kInputs = 32 / Bits, kStep = kInputs * kBytes;
    static constexpr int kMost = kTileRows / 2;  // of each, sums of a group and of all

    template <int R>
    static constexpr int together() {
        return kScoreSums;
    }

    explicit FloatLines(const float* values) : values_(values) {}

    template <int R, int C>
    inline __attribute__((always_inline)) void add(const Cursor<R, C>& at,
                                                   Vec (&sum)[R][C]) const {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            const std::byte* codes = at.codes[c] + at.input / kStep * kLine;
            prefetch_codes(codes);
#pragma GCC unroll 8
            for (int i = 0; i < kInputs; ++i) {
                const Vec weights = look_up<Bits>(values_, codes, 16 * (i % 2) + Bits * (i / 2));
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r) {
                    float x;
                    std::memcpy(&x, at.rows[r] + at.input + 4 * i, 4);
                    sum[r][c] = fma(set1(x), weights, sum[r][c]);
                }
            }
        }
    }

private:
    const float* values_;
};

}  // namespace
}  // namespace glinthawk
