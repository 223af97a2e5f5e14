// The edge of a sorted order, found without sorting: halving the numbers between two limits, and adding
// up what lies above each. Include a vec_*.hpp first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace glinthawk {
namespace {

inline constexpr float kInfinity = __builtin_inff();

// Floats but NaN in their order, as whole numbers without gaps.
inline std::int32_t key_of(float x) {
    std::int32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits < 0 ? bits ^ 0x7fffffff : bits;
}
inline float value_of(std::int32_t key) {
    const std::int32_t bits = key < 0 ? key ^ 0x7fffffff : key;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline float next_above(float x) { return value_of(key_of(x) + 1); }

// Numbers with weights; both are filled up to an even number of vectors, weights with zeros.
struct Weighted {
    const float* values;
    const float* weights;
    int size;

    // Of all that are at least `limit`. Sums of floats are short, those of doubles long.
    double mass(float limit) const {
        constexpr int kShort = 1024;
        const Vec least = set1(limit);
        double sum = 0;
        for (int i = 0; i < size;) {
            Vec even = zero(), odd = zero();
            for (const int end = std::min(i + kShort, size); i < end; i += 32) {
                even = add(even, where_at_least(load(values + i), least, load(weights + i)));
                odd = add(odd, where_at_least(load(values + i + 16), least, load(weights + i + 16)));
            }
            sum += double(hsum(add(even, odd)));
        }
        return sum;
    }
};

inline int count_from(const float* values, int size, float limit) {
    const Vec least = set1(limit);
    int count = 0;
    for (int i = 0; i < size; i += 16) {
        const unsigned mask = at_least(load(values + i), least);
        count += __builtin_popcount(size - i < 16 ? mask & ((1u << (size - i)) - 1) : mask);
    }
    return count;
}

// The largest limit in [low, high) above which there is still as much as `target`. `above(limit)` falls
// as the limit rises; above(low) is known to be enough, and above(high) to be less.
template <class Above>
float highest_limit(float low, float high, double target, const Above& above) {
    std::int64_t enough = key_of(low), less = key_of(high);
    while (less - enough > 1) {
        const std::int64_t middle = enough + (less - enough) / 2;
        (above(value_of(std::int32_t(middle))) >= target ? enough : less) = middle;
    }
    return value_of(std::int32_t(enough));
}

// Nearly the same, in few steps: the interval's 2^15th part below it at most.
template <class Above>
float about_highest_limit(float low, float high, double target, const Above& above) {
    for (int step = 0; step < 15; ++step) {
        const float middle = low + (high - low) / 2;
        (above(middle) >= target ? low : high) = middle;
    }
    return low;
}

// The largest `rank` of some numbers are all above one value and the first few that equal it.
struct Cut {
    float value;
    int num_ties;
};

// Of numbers from `low` up to `top`, no fewer than `rank`.
inline Cut cut_at_rank(const float* values, int size, int rank, float low, float top) {
    const float value = highest_limit(low, next_above(top), rank, [&](float limit) {
        return count_from(values, size, limit);
    });
    return {value, rank - count_from(values, size, next_above(value))};
}

}  // namespace
}  // namespace glinthawk
