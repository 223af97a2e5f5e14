// Sixteen floats in one AVX-512 register.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace glinthawk {
namespace {

using Vec = __m512;

inline constexpr int kTileRows = 8;
// Sums a score is made of: one would wait for itself where there are few rows.
inline constexpr int kScoreSums = 2;

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }  // b where one is NaN
inline Vec round(Vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }
// x - floor(x); 0 for -inf.
inline Vec fraction(Vec x) {
    return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
// x * 2^floor(n); 0 for n < -150.
inline Vec scale2(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }

inline bool any_above(Vec x, Vec limit) {
    return _mm512_cmp_ps_mask(x, limit, _CMP_GT_OQ) != 0;
}

// One bit a lane, the first lane's lowest; 0 for NaN.
inline unsigned at_least(Vec x, Vec limit) {
    return _mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ);
}
// y in lanes where x is at least limit, 0 elsewhere.
inline Vec where_at_least(Vec x, Vec limit, Vec y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ), y);
}
// x in the lanes that mask has, y elsewhere.
inline Vec blend(unsigned mask, Vec x, Vec y) { return _mm512_mask_mov_ps(y, __mmask16(mask), x); }
// Writes the lanes that mask has, one after the other, and first + lane of each; up to 16 are
// overwritten. Returns how many there are.
inline int append(float* values, std::int32_t* ids, Vec x, unsigned mask, std::int32_t first) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i id = _mm512_add_epi32(lane, _mm512_set1_epi32(first));
    store(values, _mm512_maskz_compress_ps(__mmask16(mask), x));
    _mm512_storeu_si512(ids, _mm512_maskz_compress_epi32(__mmask16(mask), id));
    return __builtin_popcount(mask);
}

inline float hmax(Vec x) { return _mm512_reduce_max_ps(x); }
inline float hsum(Vec x) { return _mm512_reduce_add_ps(x); }

// x in lanes [from, to), other elsewhere.
inline Vec keep(Vec x, int from, int to, Vec other) {
    const Vec lane = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 in = _mm512_cmp_ps_mask(lane, set1(float(from)), _CMP_GE_OQ) &
                         _mm512_cmp_ps_mask(lane, set1(float(to)), _CMP_LT_OQ);
    return _mm512_mask_blend_ps(in, other, x);
}

inline __m512i load_bits(const std::byte* p) { return _mm512_loadu_si512(p); }
inline Vec load_f16(const std::byte* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store_f16(std::byte* p, Vec x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Vec load_bf16(const std::byte* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
// Round to nearest even; a NaN stays one.
inline void store_bf16(std::byte* p, Vec x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    up = _mm512_mask_mov_epi32(up, nan, _mm512_set1_epi32(0x7fc00000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
}

inline void store_bytes(void* p, __m512i x) {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
}
// Rounds to whole numbers 256 high + low, low from 0 to 255.
inline void split_unsigned(unsigned char* high, unsigned char* low, Vec x) {
    const __m512i whole = _mm512_cvtps_epi32(x);
    store_bytes(high, _mm512_srai_epi32(whole, 8));
    store_bytes(low, whole);
}
// Rounds to whole numbers 128 high + low, low from -64 to 63; returns them as floats.
inline Vec split_signed(signed char* high, signed char* low, Vec x) {
    const __m512i whole = _mm512_cvtps_epi32(x);
    const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(64)), 7);
    store_bytes(high, upper);
    store_bytes(low, _mm512_sub_epi32(whole, _mm512_slli_epi32(upper, 7)));
    return _mm512_cvtepi32_ps(whole);
}

// Sixteen pairs of bfloat16: the first, or the second, of each.
template <int Which>
inline Vec pair_bf16(const std::byte* p) {
    const __m512i bits = load_bits(p);
    return _mm512_castsi512_ps(Which == 0 ? _mm512_slli_epi32(bits, 16)
                                          : _mm512_and_si512(bits, _mm512_set1_epi32(~0xffff)));
}
// Sixteen quads of bytes: one of each, as signed; bias is xor-ed to all four first.
template <int Which>
inline Vec quad_int8(const std::byte* p, int bias) {
    const __m512i bits = _mm512_xor_si512(load_bits(p), _mm512_set1_epi32(bias));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(bits, 24 - 8 * Which), 24));
}
// Sixteen groups of 32 bits: the entry of a table, of 2^Bits, that the lowest Bits name after a shift.
template <int Bits>
inline Vec look_up(const float* table, const std::byte* p, int shift) {
    const __m512i index = _mm512_srlv_epi32(load_bits(p), _mm512_set1_epi32(shift));
    if constexpr (Bits == 4) return _mm512_permutexvar_ps(index, load(table));
    return _mm512_i32gather_ps(_mm512_and_si512(index, _mm512_set1_epi32(255)), table, 4);
}

}  // namespace
}  // namespace glinthawk
