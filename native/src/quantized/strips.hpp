// Rows times strips of a quantised weight, for any way to add the products of a line of codes. Include a
// vector and a file of lines first.
#pragma once

#include <utility>

#include "kernels/rows.hpp"
#include "quantized/kernel.hpp"

namespace glinthawk {
namespace {

// R rows and C strips from `strip` on.
template <class Lines, int R, int C>
struct Strips {
    const QuantizedProduct& product;
    const Lines lines;
    const std::size_t first;
    const int strip;

    void multiply() const {
        const PackedShape& shape = product.shape;
        alignas(64) float total[R][C][kStrip] = {};
        asm("" : : "r"(total));  // registers are for the sums of a group
        Cursor<R, C> at = begin();
        const int groups = shape.num_groups();
        for (int group = 0; group < groups; ++group) {
            const std::int64_t left = shape.num_inputs - std::int64_t(group) * shape.group;
            const std::size_t inputs = left < shape.group ? left : shape.group;
            Vec sum[R][C];
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                for (int c = 0; c < C; ++c) sum[r][c] = zero();
            const std::size_t end = at.input + inputs * Lines::kBytes;
            for (; at.input < end; at.input += Lines::kStep) lines.add(at, sum);
            fold(group, sum, total);
        }
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) write(first + r, strip + c, load(total[r][c]));
    }

private:
    const std::byte* weight(int c) const {
        return product.weight + (strip + c) * product.shape.strip_bytes();
    }

    Cursor<R, C> begin() const {
        Cursor<R, C> at{};
        const std::size_t row_bytes = std::size_t(product.shape.num_inputs) * Lines::kBytes;
        for (int r = 0; r < R; ++r) at.rows[r] = product.rows + (first + r) * row_bytes;
        for (int c = 0; c < C; ++c) at.codes[c] = weight(c);
        return at;
    }

    static Vec numbers(const std::byte* p, int index, int bytes) {
        if (bytes == 2) return load_bf16(p + std::size_t(index) * kStrip * 2);
        return load(reinterpret_cast<const float*>(p) + std::size_t(index) * kStrip);
    }

    inline __attribute__((always_inline)) void fold(int group, const Vec (&sum)[R][C],
                                                    float (&total)[R][C][kStrip]) const {
        const PackedShape& shape = product.shape;
        const int groups = shape.num_groups();
        const std::size_t scales = std::size_t(groups) * kStrip * shape.scale_bytes;
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            const std::byte* behind = weight(c) + shape.code_bytes();
            const Vec scale = numbers(behind, group, shape.scale_bytes);
            Vec offset = set1(product.offset);
            if (shape.offset_bytes) offset = numbers(behind + scales, group, shape.offset_bytes);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                Vec whole = sum[r][c];
                if (const float* row = product.group_sums)
                    whole = fma(offset, set1(row[(first + r) * groups + group]), whole);
                store(total[r][c], fma(scale, whole, load(total[r][c])));
            }
        }
    }

    void write(std::size_t row, int at, Vec x) const {
        const std::size_t column = std::size_t(at) * kStrip, width = product.shape.num_outputs;
        const std::size_t count = width - column < kStrip ? width - column : kStrip;
        constexpr int bytes = dtype_bytes(Lines::kDType);
        alignas(64) float bias[kStrip];
        alignas(64) std::byte line[kStrip * bytes];
        if (product.bias) {
            std::memcpy(bias, product.bias + column, count * 4);
            x = add(x, load(bias));
        }
        store_row(line, Lines::kDType, 0, x);
        std::memcpy(product.out + (row * width + column) * bytes, line, count * bytes);
    }
};

template <class Lines, int R>
void multiply_strips(const QuantizedProduct& product, const StripBlock& block) {
    constexpr int together = Lines::template together<R>();
    const Lines lines(product.values);
    int strip = block.strip;
    for (; strip + together <= block.end; strip += together)
        Strips<Lines, R, together>{product, lines, block.first, strip}.multiply();
    for (; strip < block.end; ++strip)
        Strips<Lines, R, 1>{product, lines, block.first, strip}.multiply();
}

// As many rows at once as there are registers for.
template <class Lines>
void multiply_block(const QuantizedProduct& product, const StripBlock& block) {
    constexpr auto each = []<int... I>(std::integer_sequence<int, I...>) {
        using Multiply = void (*)(const QuantizedProduct&, const StripBlock&);
        struct Table {
            Multiply rows[sizeof...(I)] = {multiply_strips<Lines, I + 1>...};
        };
        return Table{};
    }(std::make_integer_sequence<int, Lines::kMost>());
    StripBlock part = block;
    for (int left = block.count; left > 0; left -= part.count, part.first += part.count) {
        part.count = left < Lines::kMost ? left : Lines::kMost;
        each.rows[part.count - 1](product, part);
    }
}

template <template <int> class Lines>
const QuantizedKernel* quantized_kernel() {
    static constexpr QuantizedKernel kernel{
        Lines<4>::kDType, [](const QuantizedProduct& product, const StripBlock& block) {
            product.shape.code_bits == 4 ? multiply_block<Lines<4>>(product, block)
                                         : multiply_block<Lines<8>>(product, block);
        }};
    return &kernel;
}

}  // namespace
}  // namespace glinthawk
