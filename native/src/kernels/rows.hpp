// Rows on their way in and out: queries to a packed form, partial results to an output.
#pragma once

#include <cstring>

#include "kernels/lines.hpp"
#include "kernels/math.hpp"

namespace glinthawk {
namespace {

inline Vec load_row(const std::byte* row, DType dtype, int i) {
    switch (dtype) {
        case DType::bfloat16: return load_bf16(row + 2 * i);
        case DType::float16: return load_f16(row + 2 * i);
        default: return load(reinterpret_cast<const float*>(row) + i);
    }
}

inline void store_row(std::byte* row, DType dtype, int i, Vec x) {
    switch (dtype) {
        case DType::bfloat16: return store_bf16(row + 2 * i, x);
        case DType::float16: return store_f16(row + 2 * i, x);
        default: return store(reinterpret_cast<float*>(row) + i, x);
    }
}

// A row of any format as floats, filled up to whole vectors with zeros; returns their number.
inline int read_row(float* to, const void* row, DType dtype, int size) {
    alignas(64) std::byte padded[kMaxDim * 4];
    const int bytes = size * dtype_bytes(dtype), whole = (size + 15) / 16 * 16;
    std::memcpy(padded, row, bytes);
    std::memset(padded + bytes, 0, whole * dtype_bytes(dtype) - bytes);
    for (int i = 0; i < whole; i += 16) store(to + i, load_row(padded, dtype, i));
    return whole;
}

template <class Lines>
void pack_floats(std::byte* packed, const void* row, DType dtype, int head_dim) {
    alignas(64) float x[kMaxDim];
    const int whole = read_row(x, row, dtype, head_dim);
    for (int i = 0; i < whole; i += 16) Lines::pack(packed + i * Lines::kBytes, load(x + i));
}

// What each partial row counts for in the result, relative to the largest maximum among them.
struct Total {
    float maximum, weight;
};

inline float exp2_one(float x) {
    alignas(64) float lanes[16];
    store(lanes, exp2(set1(x)));
    return lanes[0];
}

inline Total total(const Merge& merge) {
    constexpr float log2e = 1.4426950408889634f;
    const float* tail = merge.partials + merge.padded_value_dim;
    const float* maxima = tail + kRowShift;
    Total sum{merge.sink ? *merge.sink * log2e : -__builtin_inff(), 0};
    for (int i = 0; i < merge.num_partials; ++i) {
        const float maximum = maxima[i * merge.stride];
        sum.maximum = maximum > sum.maximum || maximum != maximum ? maximum : sum.maximum;
    }
    for (int i = 0; i < merge.num_partials; ++i)
        sum.weight += hsum(load(tail + i * merge.stride)) *
                      exp2_one(maxima[i * merge.stride] - sum.maximum);
    if (merge.sink) sum.weight += exp2_one(*merge.sink * log2e - sum.maximum);
    return sum;
}

inline void merge_row(const Merge& merge) {
    constexpr float ln2 = 0.6931471805599453f;
    alignas(64) float sums[kMaxDim] = {};
    alignas(64) std::byte row[kMaxDim * 4];
    const Total all = total(merge);
    for (int i = 0; i < merge.num_partials; ++i) {
        const float* partial = merge.partials + i * merge.stride;
        const float maximum = partial[merge.padded_value_dim + kRowShift];
        const float weight = exp2_one(maximum - all.maximum);
        for (int d = 0; d < merge.padded_value_dim; d += 16)
            store(sums + d, fma(load(partial + d), set1(weight), load(sums + d)));
    }
    for (int d = 0; d < merge.padded_value_dim; d += 16)
        store_row(row, merge.dtype, d, div(load(sums + d), set1(all.weight)));
    std::memcpy(merge.output, row, merge.value_dim * dtype_bytes(merge.dtype));
    *merge.log_sum_exp = ln2 * (all.maximum + __builtin_log2f(all.weight));
}

}  // namespace
}  // namespace glinthawk
