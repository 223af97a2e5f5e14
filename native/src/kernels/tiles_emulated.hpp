// What the tile instructions of AMX do, in plain C++: so that everything around them can be tested on a
// CPU without them. Slow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace glinthawk {
namespace {

struct TileShape {
    std::uint8_t rows;
    std::uint16_t bytes;
};

struct EmulatedTile {
    TileShape shape;
    std::uint8_t bytes[16][64];
};

inline thread_local EmulatedTile emulated_tiles[8];

struct EmulatedTiles {
    static void configure(const TileShape (&shapes)[8]) {
        for (int i = 0; i < 8; ++i) emulated_tiles[i].shape = shapes[i];
    }
    static void release() {}

    static void narrow(std::byte* to, const float* from) {
        for (int i = 0; i < 32; i += 16) store_bf16(to + 2 * i, load(from + i));
    }

    template <int T>
    static void clear() {
        std::memset(emulated_tiles[T].bytes, 0, sizeof emulated_tiles[T].bytes);
    }
    template <int T>
    static void read(const void* p, std::ptrdiff_t stride) {
        clear<T>();
        for (int r = 0; r < emulated_tiles[T].shape.rows; ++r)
            std::memcpy(emulated_tiles[T].bytes[r], static_cast<const char*>(p) + r * stride,
                        emulated_tiles[T].shape.bytes);
    }
    template <int T>
    static void write(void* p, std::ptrdiff_t stride) {
        for (int r = 0; r < emulated_tiles[T].shape.rows; ++r)
            std::memcpy(static_cast<char*>(p) + r * stride, emulated_tiles[T].bytes[r],
                        emulated_tiles[T].shape.bytes);
    }

    template <int C, int A, int B>
    static void dot_bf16() {
        dot<C, A, B, float>([](const std::uint8_t* a, const std::uint8_t* b) {
            float sum = 0;
            for (int i = 0; i < 4; i += 2) sum += widen(a + i) * widen(b + i);
            return sum;
        });
    }
    template <int C, int A, int B>
    static void dot_signed() {
        dot<C, A, B, int>([](const std::uint8_t* a, const std::uint8_t* b) {
            int sum = 0;
            for (int i = 0; i < 4; ++i) sum += std::int8_t(a[i]) * int(b[i]);
            return sum;
        });
    }
    template <int C, int A, int B>
    static void dot_unsigned() {
        dot<C, A, B, int>([](const std::uint8_t* a, const std::uint8_t* b) {
            int sum = 0;
            for (int i = 0; i < 4; ++i) sum += int(a[i]) * std::int8_t(b[i]);
            return sum;
        });
    }

private:
    static float widen(const std::uint8_t* p) {
        float x = 0;
        std::memcpy(reinterpret_cast<char*>(&x) + 2, p, 2);
        return x;
    }

    // Words of 4 bytes: c[m][n] += a[m][k] . b[k][n].
    template <int C, int A, int B, class Sum>
    static void dot(auto words) {
        EmulatedTile &c = emulated_tiles[C], &a = emulated_tiles[A], &b = emulated_tiles[B];
        for (int m = 0; m < c.shape.rows; ++m) {
            for (int n = 0; n < c.shape.bytes / 4; ++n) {
                Sum sum;
                std::memcpy(&sum, c.bytes[m] + 4 * n, 4);
                for (int k = 0; k < b.shape.rows; ++k)
                    sum += words(a.bytes[m] + 4 * k, b.bytes[k] + 4 * n);
                std::memcpy(c.bytes[m] + 4 * n, &sum, 4);
            }
        }
    }
};

}  // namespace
}  // namespace glinthawk
