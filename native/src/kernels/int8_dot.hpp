// vpdpbusd (VNNI): 16 sums of four byte products in one instruction. Both bytes of a coefficient meet
// each line and have sums of their own.
#pragma once

#include "kernels/dense.hpp"
#include "kernels/int8_rows.hpp"

namespace glinthawk {
namespace {

struct Int8Dot {
    static constexpr int kTileRows = glinthawk::kTileRows;
    static constexpr auto pack_query = pack_int8_query;
    static void rest() {}

    template <int R>
    static void score(const Geometry& geometry, const Tile& tile, float (*scores)[kMaxBlock]) {
        const Int8Query& query = int8_query(tile, 0);
        const int lines = geometry.strip_bytes / 64;
        const std::byte* key = tile.block;
        for (int s = 0; s < tile.strips; ++s, key += geometry.strip_bytes) {
            __m512i high[R] = {}, low[R] = {};
            add_lines<R, kQueryStride, true>(key, tile.ahead, lines, query.high, query.low, high,
                                             low);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                const Int8Query& row = int8_query(tile, r);
                const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[r], 7), low[r]);
                const __m512i dot = _mm512_sub_epi32(sum, _mm512_set1_epi32(row.bias));
                store(scores[r] + 16 * s, mul(_mm512_cvtepi32_ps(dot), set1(row.scale)));
            }
        }
        scale_scores<R>(geometry, tile, scores);
    }

    template <int R>
    static void weigh(const Geometry& geometry, const Tile& tile,
                      const float (*weights)[kMaxBlock], const float* rescale) {
        Int8Weights packed[R];
        float unit[R];
        for (int r = 0; r < R; ++r)
            unit[r] = pack_int8_weights(packed[r], geometry, tile, weights[r]);
        constexpr int stride = sizeof(Int8Weights);
        const int lines = (tile.valid + 3) / 4;
        const std::byte* value = tile.block + geometry.value_offset;
        for (int d = 0; d < geometry.padded_value_dim; d += 16, value += geometry.column_bytes) {
            __m512i high[R] = {}, low[R] = {};
            add_lines<R, stride, false>(value, tile.ahead, lines, packed->high, packed->low, high,
                                        low);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                Vec before = load(tile.rows[r] + d);
                if (rescale) before = mul(before, set1(rescale[r]));
                const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[r], 8), low[r]);
                store(tile.rows[r] + d, fma(_mm512_cvtepi32_ps(sum), set1(unit[r]), before));
            }
        }
    }

private:
    static __m512i spread4(const void* p) {
        int quad;
        std::memcpy(&quad, p, 4);
        return _mm512_set1_epi32(quad);
    }

    // _mm512_dpbusd_epi32, for which GCC 12 moves the sum to another register and back.
    static inline __attribute__((always_inline)) void add_products(__m512i& sum, __m512i unsigned_bytes,
                                                                   __m512i signed_bytes) {
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
    }

    // Keys are the unsigned operand, values the signed one.
    template <int R, int Stride, bool Keys>
    static inline __attribute__((always_inline)) void add_lines(
        const std::byte* p, std::ptrdiff_t ahead, int num_lines, const void* high_bytes,
        const void* low_bytes, __m512i (&high)[R], __m512i (&low)[R]) {
        const auto* h = static_cast<const std::byte*>(high_bytes);
        const auto* l = static_cast<const std::byte*>(low_bytes);
        for (int i = 0; i < num_lines; ++i, p += 64, h += 4, l += 4) {
            const __m512i line = load_bits(p);
            prefetch(p + ahead);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                const __m512i quads[] = {spread4(h + r * Stride), spread4(l + r * Stride)};
                add_products(high[r], Keys ? line : quads[0], Keys ? quads[0] : line);
                add_products(low[r], Keys ? line : quads[1], Keys ? quads[1] : line);
            }
        }
    }
};

}  // namespace
}  // namespace glinthawk
