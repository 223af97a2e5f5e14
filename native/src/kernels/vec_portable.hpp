// Sixteen floats as four vectors of four, in the vector language of GCC and Clang: SSE2, NEON or
// whatever the compiler's baseline is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

namespace glinthawk {
namespace {

typedef float Float4 __attribute__((vector_size(16)));
typedef std::int32_t Int4 __attribute__((vector_size(16)));

struct Vec {
    Float4 part[4];
};

inline constexpr int kTileRows = 4;
inline constexpr int kScoreSums = 1;

inline Float4 spread(float x) { return Float4{x, x, x, x}; }
inline Int4 spread(std::int32_t x) { return Int4{x, x, x, x}; }
inline Float4 as_float(Int4 x) { return (Float4)x; }
inline Int4 as_int(Float4 x) { return (Int4)x; }
inline Float4 choose(Int4 mask, Float4 yes, Float4 no) {
    return as_float((mask & as_int(yes)) | (~mask & as_int(no)));
}

template <class F>
inline Vec each(F f) {
    return {{f(0), f(1), f(2), f(3)}};
}

inline Vec set1(float x) { return each([&](int) { return spread(x); }); }
inline Vec zero() { return set1(0); }
inline Vec load(const float* p) {
    Vec x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline void store(float* p, Vec x) { std::memcpy(p, &x, sizeof x); }
inline Vec add(Vec x, Vec y) { return each([&](int i) { return x.part[i] + y.part[i]; }); }
inline Vec sub(Vec x, Vec y) { return each([&](int i) { return x.part[i] - y.part[i]; }); }
inline Vec mul(Vec x, Vec y) { return each([&](int i) { return x.part[i] * y.part[i]; }); }
inline Vec div(Vec x, Vec y) { return each([&](int i) { return x.part[i] / y.part[i]; }); }
inline Float4 fma4(Float4 x, Float4 y, Float4 z) {
#ifdef __FP_FAST_FMAF
    for (int i = 0; i < 4; ++i) z[i] = __builtin_fmaf(x[i], y[i], z[i]);
    return z;
#else
    return x * y + z;
#endif
}
inline Vec fma(Vec x, Vec y, Vec z) {
    return each([&](int i) { return fma4(x.part[i], y.part[i], z.part[i]); });
}
inline Vec max(Vec x, Vec y) {  // y where one is NaN
    return each([&](int i) { return choose(x.part[i] > y.part[i], x.part[i], y.part[i]); });
}
// Nearest whole number of |x| < 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
inline Vec round(Vec x) {
    const Float4 magic = spread(12582912.0f);
    return each([&](int i) {
        Float4 sum = x.part[i] + magic;
        asm("" : "+m"(sum));  // or the compiler may see that magic cancels
        return sum - magic;
    });
}
inline Vec floor(Vec x) {
    const Vec near = round(x);
    return each([&](int i) {
        return near.part[i] - choose(near.part[i] > x.part[i], spread(1.0f), spread(0.0f));
    });
}
// x - floor(x); 0 for -inf.
inline Vec fraction(Vec x) {
    x = max(set1(-200), x);
    return sub(x, floor(x));
}
// x * 2^floor(n); 0 for n < -126.
inline Vec scale2(Vec x, Vec n) {
    const Vec whole = floor(max(set1(-127), n));
    return each([&](int i) {
        const Int4 biased = __builtin_convertvector(whole.part[i], Int4) + spread(127);
        return x.part[i] * as_float(biased << 23);
    });
}

inline bool any_above(Vec x, Vec limit) {
    Int4 above = spread(0);
    for (int i = 0; i < 4; ++i) above |= x.part[i] > limit.part[i];
    return (above[0] | above[1] | above[2] | above[3]) != 0;
}

// One bit a lane, the first lane's lowest; 0 for NaN.
inline unsigned at_least(Vec x, Vec limit) {
    unsigned mask = 0;
    for (int i = 0; i < 4; ++i) {
        const Int4 bits = (x.part[i] >= limit.part[i]) & Int4{1, 2, 4, 8};
        mask |= unsigned(bits[0] | bits[1] | bits[2] | bits[3]) << 4 * i;
    }
    return mask;
}
// y in lanes where x is at least limit, 0 elsewhere.
inline Vec where_at_least(Vec x, Vec limit, Vec y) {
    return each([&](int i) { return choose(x.part[i] >= limit.part[i], y.part[i], spread(0.0f)); });
}
// x in the lanes that mask has, y elsewhere.
inline Vec blend(unsigned mask, Vec x, Vec y) {
    return each([&](int i) {
        const Int4 lane = Int4{1, 2, 4, 8} << (4 * i);
        return choose((spread(std::int32_t(mask)) & lane) == lane, x.part[i], y.part[i]);
    });
}
// Writes the lanes that mask has, one after the other, and first + lane of each; up to 16 are
// overwritten. Returns how many there are.
inline int append(float* values, std::int32_t* ids, Vec x, unsigned mask, std::int32_t first) {
    alignas(64) float lanes[16];
    store(lanes, x);
    int count = 0;
    for (; mask; mask &= mask - 1, ++count) {
        const int lane = __builtin_ctz(mask);
        values[count] = lanes[lane];
        ids[count] = first + lane;
    }
    return count;
}

inline float hmax(Vec x) {
    float lanes[16], best;
    store(lanes, x);
    best = lanes[0];
    for (int i = 1; i < 16; ++i) best = lanes[i] > best ? lanes[i] : best;
    return best;
}
inline float hsum(Vec x) {
    float lanes[16], sum = 0;
    store(lanes, x);
    for (float lane : lanes) sum += lane;
    return sum;
}

// x in lanes [from, to), other elsewhere.
inline Vec keep(Vec x, int from, int to, Vec other) {
    return each([&](int i) {
        const Int4 lane = Int4{0, 1, 2, 3} + spread(4 * i);
        const Int4 inside = (lane >= spread(from)) & (lane < spread(to));
        return choose(inside, x.part[i], other.part[i]);
    });
}

inline Int4 load_ints(const std::byte* p, int i) {
    Int4 x;
    std::memcpy(&x, p + 16 * i, sizeof x);
    return x;
}
inline Int4 load_shorts(const std::byte* p, int i) {
    std::uint16_t h[4];
    std::memcpy(h, p + 8 * i, sizeof h);
    return Int4{h[0], h[1], h[2], h[3]};
}
inline void store_shorts(std::byte* p, int i, Int4 x) {
    std::uint16_t h[4];
    for (int lane = 0; lane < 4; ++lane) h[lane] = std::uint16_t(x[lane]);
    std::memcpy(p + 8 * i, h, sizeof h);
}

inline Vec load_bf16(const std::byte* p) {
    return each([&](int i) { return as_float(load_shorts(p, i) << 16); });
}
// Round to nearest even; a NaN stays one.
inline void store_bf16(std::byte* p, Vec x) {
    for (int i = 0; i < 4; ++i) {
        const Int4 bits = as_int(x.part[i]);
        const Int4 up = bits + ((bits >> 16) & spread(1)) + spread(0x7fff);
        const Int4 nan = x.part[i] != x.part[i];
        store_shorts(p, i, (((nan & spread(0x7fc00000)) | (~nan & up)) >> 16));
    }
}
// The exponent moves by 112; the multiplication brings subnormal halves right as well.
inline Vec load_f16(const std::byte* p) {
    return each([&](int i) {
        const Int4 half = load_shorts(p, i);
        const Float4 tiny = as_float((half & spread(0x7fff)) << 13) * spread(0x1p112f);
        const Int4 special = (half & spread(0x7c00)) == spread(0x7c00);
        const Int4 bits = as_int(tiny) | (special & spread(0x7f800000));
        return as_float(bits | ((half & spread(0x8000)) << 16));
    });
}
inline std::int32_t to_f16(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const std::uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00;
    if (bits >= 0x477ff000) return sign | 0x7c00;
    if (bits < 0x38800000) {  // subnormal: let the adder round
        float magnitude;
        std::memcpy(&magnitude, &bits, 4);
        const float shifted = magnitude + 0.5f;
        std::memcpy(&bits, &shifted, 4);
        return sign | (bits - 0x3f000000);
    }
    return sign | (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13;
}
inline void store_f16(std::byte* p, Vec x) {
    for (int i = 0; i < 4; ++i) {
        Int4 halves;
        for (int lane = 0; lane < 4; ++lane) halves[lane] = to_f16(x.part[i][lane]);
        store_shorts(p, i, halves);
    }
}

// Of a whole number; of what is too large, or no number, what processors make of it.
inline int to_int(float whole) {
    const bool fits = whole >= -0x1p31f && whole < 0x1p31f;
    return fits ? int(whole) : std::numeric_limits<int>::min();
}

// Rounds to whole numbers 256 high + low, low from 0 to 255.
inline void split_unsigned(unsigned char* high, unsigned char* low, Vec x) {
    float whole[16];
    store(whole, round(x));
    for (int i = 0; i < 16; ++i) {
        high[i] = (unsigned char)(to_int(whole[i]) >> 8);
        low[i] = (unsigned char)to_int(whole[i]);
    }
}
// Rounds to whole numbers 128 high + low, low from -64 to 63; returns them as floats.
inline Vec split_signed(signed char* high, signed char* low, Vec x) {
    float whole[16];
    store(whole, round(x));
    for (int i = 0; i < 16; ++i) {
        const int rounded = to_int(whole[i]), upper = (rounded + 64) >> 7;
        high[i] = (signed char)upper;
        low[i] = (signed char)(rounded - 128 * upper);
    }
    return load(whole);
}

// Sixteen pairs of bfloat16: the first, or the second, of each.
template <int Which>
inline Vec pair_bf16(const std::byte* p) {
    return each([&](int i) {
        const Int4 bits = load_ints(p, i);
        return as_float(Which == 0 ? bits << 16 : bits & spread(~0xffff));
    });
}
// Sixteen quads of bytes: one of each, as signed; bias is xor-ed to all four first.
template <int Which>
inline Vec quad_int8(const std::byte* p, int bias) {
    return each([&](int i) {
        const Int4 bits = load_ints(p, i) ^ spread(bias);
        return __builtin_convertvector((bits << (24 - 8 * Which)) >> 24, Float4);
    });
}
// Sixteen groups of 32 bits: the entry of a table, of 2^Bits, that the lowest Bits name after a shift.
template <int Bits>
inline Vec look_up(const float* table, const std::byte* p, int shift) {
    return each([&](int i) {
        const Int4 index = (load_ints(p, i) >> shift) & spread((1 << Bits) - 1);
        return Float4{table[index[0]], table[index[1]], table[index[2]], table[index[3]]};
    });
}

}  // namespace
}  // namespace glinthawk
