// Root-mean-square norm of a row: out = row / sqrt(mean(row^2) + epsilon) * weight.
#pragma once

#include "kernels/rows.hpp"

namespace glinthawk {
namespace {

inline void norm_row(std::byte* out, const std::byte* row, const float* weight, int size,
                     float epsilon, DType dtype) {
    Vec sums[2] = {zero(), zero()};
    for (int i = 0; i < size; i += 16) {
        const Vec x = load_row(row, dtype, i);
        sums[i / 16 % 2] = fma(x, x, sums[i / 16 % 2]);
    }
    const float mean = hsum(add(sums[0], sums[1])) / float(size);
    const Vec factor = set1(1 / __builtin_sqrtf(mean + epsilon));
    for (int i = 0; i < size; i += 16)
        store_row(out, dtype, i, mul(mul(load_row(row, dtype, i), factor), load(weight + i)));
}

}  // namespace
}  // namespace glinthawk
