// Rotary position embedding of one head of one token, halves against each other:
// out = x * cos + rotated(x) * sin, where rotated(x) is (-second half, first half).
#pragma once

#include "kernels/rows.hpp"

namespace glinthawk {
namespace {

inline void rotate_row(std::byte* out, const std::byte* row, const std::byte* cos,
                       const std::byte* sin, int size, DType dtype) {
    const int half = size / 2;
    for (int i = 0; i < half; i += 16) {
        const Vec first = load_row(row, dtype, i), second = load_row(row, dtype, i + half);
        store_row(out, dtype, i,
                  sub(mul(first, load_row(cos, dtype, i)), mul(second, load_row(sin, dtype, i))));
        store_row(out, dtype, i + half,
                  add(mul(second, load_row(cos, dtype, i + half)),
                      mul(first, load_row(sin, dtype, i + half))));
    }
}

}  // namespace
}  // namespace glinthawk
