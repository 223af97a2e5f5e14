// Lines of codes times bfloat16 rows: codes become bfloat16 by looking them up in registers, pairs of
// inputs are multiplied by vdpbf16ps.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "layout/dtype.hpp"
#include "quantized/cursor.hpp"
#include "quantized/packed_weight.hpp"

namespace glinthawk {
namespace {

template <int Bits>
struct Bf16Lines;

struct Bf16Rows {
    static constexpr DType kDType = DType::bfloat16;
    static constexpr int kBytes = 2, kMost = 8;

    // Adds a pair of inputs, `ahead` bytes further on, of every row to the sums of every strip.
    template <int R, int C>
    static inline __attribute__((always_inline)) void add_pair(const Cursor<R, C>& at, int ahead,
                                                               const __m512i (&weights)[C],
                                                               Vec (&sum)[R][C]) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            int pair;
            std::memcpy(&pair, at.rows[r] + at.input + ahead, 4);
            const __m512i inputs = _mm512_set1_epi32(pair);
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) dot(sum[r][c], weights[c], inputs);
        }
    }

    // _mm512_dpbf16_ps, for which GCC 12 moves the sum to another register and back.
    static inline __attribute__((always_inline)) void dot(Vec& sum, __m512i weights,
                                                          __m512i inputs) {
        asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(inputs));
    }

    static std::uint16_t narrow(float value) {
        std::uint32_t bits;
        std::memcpy(&bits, &value, 4);
        return std::uint16_t(bits >> 16);
    }
};

template <>
struct Bf16Lines<4> : Bf16Rows {
    static constexpr int kStep = 8 * kBytes;

    // Strips at once: few rows need several, for as many sums as a dot product takes cycles.
    template <int R>
    static constexpr int together() {
        return R > 4 ? 2 : 4;
    }

    explicit Bf16Lines(const float* values) {
        alignas(64) std::uint16_t table[32];  // twice: the fifth bit of an index is a neighbour's
        for (int i = 0; i < 32; ++i) table[i] = narrow(values[i % 16]);
        table_ = _mm512_load_si512(table);
    }

    template <int R, int C>
    inline __attribute__((always_inline)) void add(const Cursor<R, C>& at,
                                                   Vec (&sum)[R][C]) const {
        __m512i line[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            const std::byte* codes = at.codes[c] + 4 * at.input;
            line[c] = _mm512_loadu_si512(codes);
            prefetch_codes(codes);
        }
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; ++pair) {
            __m512i weights[C];
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) {
                const __m512i index = pair ? _mm512_srli_epi16(line[c], 4 * pair) : line[c];
                weights[c] = _mm512_permutexvar_epi16(index, table_);
            }
            add_pair(at, 4 * pair, weights, sum);
        }
    }

private:
    __m512i table_;
};

// A code is a sign and seven bits, whose values' upper and lower bytes are looked up.
template <>
struct Bf16Lines<8> : Bf16Rows {
    static constexpr int kStep = 4 * kBytes;

    // Strips at once: few rows need several, for as many sums as a dot product takes cycles.
    template <int R>
    static constexpr int together() {
        return R > 2 ? 2 : 4;
    }

    explicit Bf16Lines(const float* values) {
        alignas(64) std::uint8_t upper[128], lower[128];
        for (int i = 0; i < 128; ++i) {
            upper[i] = std::uint8_t(narrow(values[i]) >> 8);
            lower[i] = std::uint8_t(narrow(values[i]));
        }
        for (int half = 0; half < 2; ++half) {
            upper_[half] = _mm512_load_si512(upper + 64 * half);
            lower_[half] = _mm512_load_si512(lower + 64 * half);
        }
    }

    template <int R, int C>
    inline __attribute__((always_inline)) void add(const Cursor<R, C>& at,
                                                   Vec (&sum)[R][C]) const {
        __m512i first[C], second[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            const std::byte* codes = at.codes[c] + 8 * at.input;
            const __m512i line = _mm512_loadu_si512(codes);
            prefetch_codes(codes);
            __m512i upper = _mm512_permutex2var_epi8(upper_[0], line, upper_[1]);
            const __m512i lower = _mm512_permutex2var_epi8(lower_[0], line, lower_[1]);
            constexpr int kOrWithAnd = 0xf8;  // upper | (line & sign)
            upper = _mm512_ternarylogic_epi32(upper, line, _mm512_set1_epi8(char(0x80)), kOrWithAnd);
            const __mmask64 odd = 0xaaaaaaaaaaaaaaaa;
            first[c] = _mm512_mask_blend_epi8(odd, lower, _mm512_slli_epi16(upper, 8));
            second[c] = _mm512_mask_blend_epi8(odd, _mm512_srli_epi16(lower, 8), upper);
        }
        add_pair(at, 0, first, sum);
        add_pair(at, 4, second, sum);
    }

private:
    __m512i upper_[2], lower_[2];
};

}  // namespace
}  // namespace glinthawk
