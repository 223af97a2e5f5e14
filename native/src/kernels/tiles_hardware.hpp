// The eight tile registers of AMX. Numbers of registers are part of instructions, hence templates.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace glinthawk {
namespace {

// How a register is used: rows, and bytes of a row.
struct TileShape {
    std::uint8_t rows;
    std::uint16_t bytes;
};

struct HardwareTiles {
    static void configure(const TileShape (&shapes)[8]) {
        struct alignas(64) {
            std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
            std::uint16_t bytes[16] = {};
            std::uint8_t rows[16] = {};
        } config;
        for (int i = 0; i < 8; ++i) {
            config.bytes[i] = shapes[i].bytes;
            config.rows[i] = shapes[i].rows;
        }
        asm volatile("ldtilecfg %0" ::"m"(config));
    }
    static void release() { asm volatile("tilerelease"); }

    // 32 floats to bfloat16, to the nearest even.
    static void narrow(std::byte* to, const float* from) {
        const __m512bh pair = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from));
        _mm512_storeu_si512(to, reinterpret_cast<const __m512i&>(pair));
    }

    template <int T>
    static void clear() {
        asm volatile("tilezero %%tmm%c0" ::"i"(T));
    }
    template <int T>
    static void read(const void* p, std::ptrdiff_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(T) : "memory");
    }
    template <int T>
    static void write(void* p, std::ptrdiff_t stride) {
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(T) : "memory");
    }
    // C += A B: bfloat16 pairs; signed by unsigned bytes; unsigned by signed bytes.
    template <int C, int A, int B>
    static void dot_bf16() {
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
    }
    template <int C, int A, int B>
    static void dot_signed() {
        asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
    }
    template <int C, int A, int B>
    static void dot_unsigned() {
        asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
    }
};

}  // namespace
}  // namespace glinthawk
