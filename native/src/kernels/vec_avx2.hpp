// Sixteen floats in two AVX2 registers.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace glinthawk {
namespace {

struct Vec {
    __m256 a, b;
};

inline constexpr int kTileRows = 4;
inline constexpr int kScoreSums = 1;  // there are no registers for more

inline Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vec x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline Vec add(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Vec sub(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Vec mul(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Vec div(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Vec fma(Vec x, Vec y, Vec z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Vec max(Vec x, Vec y) {  // y where one is NaN
    return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
inline Vec round(Vec x) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}
inline __m256 fraction(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(-200), x);
    return _mm256_sub_ps(x, _mm256_floor_ps(x));
}
// x - floor(x); 0 for -inf.
inline Vec fraction(Vec x) { return {fraction(x.a), fraction(x.b)}; }
inline __m256 exponent(__m256 n) {
    const __m256 floor = _mm256_floor_ps(_mm256_max_ps(_mm256_set1_ps(-127), n));
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(floor), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
// x * 2^floor(n); 0 for n < -126.
inline Vec scale2(Vec x, Vec n) {
    return {_mm256_mul_ps(x.a, exponent(n.a)), _mm256_mul_ps(x.b, exponent(n.b))};
}

inline bool any_above(Vec x, Vec limit) {
    const __m256 a = _mm256_cmp_ps(x.a, limit.a, _CMP_GT_OQ);
    const __m256 b = _mm256_cmp_ps(x.b, limit.b, _CMP_GT_OQ);
    return _mm256_movemask_ps(_mm256_or_ps(a, b)) != 0;
}

// One bit a lane, the first lane's lowest; 0 for NaN.
inline unsigned at_least(Vec x, Vec limit) {
    return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_GE_OQ))) |
           unsigned(_mm256_movemask_ps(_mm256_cmp_ps(x.b, limit.b, _CMP_GE_OQ))) << 8;
}
// y in lanes where x is at least limit, 0 elsewhere.
inline Vec where_at_least(Vec x, Vec limit, Vec y) {
    return {_mm256_and_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_GE_OQ), y.a),
            _mm256_and_ps(_mm256_cmp_ps(x.b, limit.b, _CMP_GE_OQ), y.b)};
}
// x in the lanes that mask has, y elsewhere.
inline __m256 blend(unsigned mask, __m256 x, __m256 y) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i bits = _mm256_and_si256(_mm256_set1_epi32(int(mask)), lane);
    return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(_mm256_cmpeq_epi32(bits, lane)));
}
inline Vec blend(unsigned mask, Vec x, Vec y) {
    return {blend(mask, x.a, y.a), blend(mask >> 8, x.b, y.b)};
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
    const __m256 m = _mm256_max_ps(x.a, x.b);
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
}
inline float hsum(Vec x) {
    const __m256 m = _mm256_add_ps(x.a, x.b);
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}

// x in lanes [from, to), other elsewhere.
inline Vec keep(Vec x, int from, int to, Vec other) {
    const __m256 low = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 high = _mm256_add_ps(low, _mm256_set1_ps(8));
    const __m256 first = _mm256_set1_ps(float(from)), last = _mm256_set1_ps(float(to));
    const auto pick = [&](__m256 lane, __m256 in, __m256 out) {
        const __m256 inside = _mm256_and_ps(_mm256_cmp_ps(lane, first, _CMP_GE_OQ),
                                            _mm256_cmp_ps(lane, last, _CMP_LT_OQ));
        return _mm256_blendv_ps(out, in, inside);
    };
    return {pick(low, x.a, other.a), pick(high, x.b, other.b)};
}

inline __m128i half_line(const std::byte* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline __m256i line(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline Vec load_f16(const std::byte* p) {
    return {_mm256_cvtph_ps(half_line(p)), _mm256_cvtph_ps(half_line(p + 16))};
}
inline void store_f16(std::byte* p, Vec x) {
    auto* out = reinterpret_cast<__m128i*>(p);
    _mm_storeu_si128(out, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128(out + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline __m256 widen_bf16(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Vec load_bf16(const std::byte* p) {
    return {widen_bf16(half_line(p)), widen_bf16(half_line(p + 16))};
}
// The upper halves of x rounded to nearest even; a NaN stays one.
inline __m256i round_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    const __m256 quiet = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    const __m256 kept = _mm256_blendv_ps(_mm256_castsi256_ps(up), quiet, nan);
    return _mm256_srli_epi32(_mm256_castps_si256(kept), 16);
}
inline void store_bf16(std::byte* p, Vec x) {
    const __m256i packed = _mm256_packus_epi32(round_bf16(x.a), round_bf16(x.b));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}

template <int Which>
inline __m256 half_pair_bf16(const std::byte* p) {
    return _mm256_castsi256_ps(Which == 0 ? _mm256_slli_epi32(line(p), 16)
                                          : _mm256_and_si256(line(p), _mm256_set1_epi32(~0xffff)));
}
// Sixteen pairs of bfloat16: the first, or the second, of each.
template <int Which>
inline Vec pair_bf16(const std::byte* p) {
    return {half_pair_bf16<Which>(p), half_pair_bf16<Which>(p + 32)};
}
template <int Which>
inline __m256 half_quad_int8(const std::byte* p, int bias) {
    const __m256i bits = _mm256_xor_si256(line(p), _mm256_set1_epi32(bias));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(bits, 24 - 8 * Which), 24));
}
// Sixteen quads of bytes: one of each, as signed; bias is xor-ed to all four first.
template <int Which>
inline Vec quad_int8(const std::byte* p, int bias) {
    return {half_quad_int8<Which>(p, bias), half_quad_int8<Which>(p + 32, bias)};
}
template <int Bits>
inline __m256 half_look_up(const float* table, const std::byte* p, int shift) {
    const __m256i index = _mm256_srlv_epi32(line(p), _mm256_set1_epi32(shift));
    if constexpr (Bits == 8)
        return _mm256_i32gather_ps(table, _mm256_and_si256(index, _mm256_set1_epi32(255)), 4);
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
// Sixteen groups of 32 bits: the entry of a table, of 2^Bits, that the lowest Bits name after a shift.
template <int Bits>
inline Vec look_up(const float* table, const std::byte* p, int shift) {
    return {half_look_up<Bits>(table, p, shift), half_look_up<Bits>(table, p + 32, shift)};
}

}  // namespace
}  // namespace glinthawk
