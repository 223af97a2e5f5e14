// vdpbf16ps: 16 sums of two bfloat16 products in one instruction.
#pragma once

#include "kernels/lines.hpp"

namespace glinthawk {
namespace {

struct Bf16DotLines {
    using Line = __m512bh;
    static constexpr DType kDType = DType::bfloat16;
    static constexpr int kBytes = 2;
    static void pack(std::byte* to, Vec x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x));
    }
    static Line key(const std::byte* p) { return (__m512bh)load_bits(p); }
    static Line value(const std::byte* p) { return key(p); }
    static Line first_only(const std::byte* p) {
        return (__m512bh)_mm512_and_si512(load_bits(p), _mm512_set1_epi32(0xffff));
    }
    static Vec dot(Vec sum, const std::byte* c, Line x) {
        int pair;
        __builtin_memcpy(&pair, c, 4);
        return _mm512_dpbf16_ps(sum, x, (__m512bh)_mm512_set1_epi32(pair));
    }
};

}  // namespace
}  // namespace glinthawk
