// Rows times strips of a quantised weight, for any way to add the products of a line of codes. Include a
// vector and a file of lines first.
#pragma once

#include <utility>

#include "kernels/rows.hpp"
#include "quantized/kernel.hpp"

namespace glinthawk {
namespace {

// Numbers of the groups of a strip.
struct GroupNumbers {
    const std::byte* numbers;
    int bytes;  // of each; 0: there are none

    Vec at(int group) const {
        const std::size_t first = std::size_t(group) * kStrip;
        if (bytes == 2) return load_bf16(numbers + 2 * first);
        return load(reinterpret_cast<const float*>(numbers) + first);
    }
};

// R rows and C strips.
template <class Lines, int R, int C>
class Strips {
public:
    Strips(const QuantizedProduct& product, std::size_t row, int strip)
        : product_(product),
          groups_(product.shape.num_groups()),
          row_(row),
          strip_(strip),
          has_offsets_(product.shape.offset_bytes),
          starts_(product.group_sums && !has_offsets_) {
        const PackedShape& shape = product.shape;
        const std::size_t bytes = std::size_t(shape.num_inputs) * Lines::kBytes;
        for (int r = 0; r < R; ++r) {
            at_.rows[r] = product.rows + (row + r) * bytes;
            group_sums_[r] = product.group_sums ? product.group_sums + (row + r) * groups_ : nullptr;
        }
        for (int c = 0; c < C; ++c) {
            at_.codes[c] = product.weight + (strip + c) * shape.strip_bytes();
            const std::byte* behind = at_.codes[c] + shape.code_bytes();
            scales_[c] = {behind, shape.scale_bytes};
            offsets_[c] = {behind + groups_ * kStrip * shape.scale_bytes, shape.offset_bytes};
        }
    }

    void multiply(const Lines& lines) const {
        Vec total[R][C];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) total[r][c] = zero();
        const std::size_t row_bytes = std::size_t(product_.shape.num_inputs) * Lines::kBytes;
        const std::size_t group_bytes = std::size_t(product_.shape.group) * Lines::kBytes;
        Cursor<R, C> at = at_;
        for (int group = 0; at.input < row_bytes; ++group) {
            Vec sum[R][C];
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                for (int c = 0; c < C; ++c) sum[r][c] = begin(group, r);
            const std::size_t left = row_bytes - at.input;
            const std::size_t end = at.input + (left < group_bytes ? left : group_bytes);
            for (; at.input < end; at.input += Lines::kStep) lines.add(at, sum);
            fold(group, sum, total);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) write(row_ + r, strip_ + c, total[r][c]);
    }

private:
    // An offset that all have is in the sum from its start.
    Vec begin(int group, int r) const {
        return starts_ ? set1(group_sums_[r][group]) : zero();
    }

    inline __attribute__((always_inline)) void fold(int group, const Vec (&sum)[R][C],
                                                    Vec (&total)[R][C]) const {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            const Vec scale = scales_[c].at(group);
            Vec offset = zero();
            if (has_offsets_) offset = offsets_[c].at(group);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                Vec whole = sum[r][c];
                if (has_offsets_) whole = fma(offset, set1(group_sums_[r][group]), whole);
                total[r][c] = fma(scale, whole, total[r][c]);
            }
        }
    }

    void write(std::size_t row, int at, Vec x) const {
        const std::size_t column = std::size_t(at) * kStrip, width = product_.shape.num_outputs;
        const std::size_t count = width - column < kStrip ? width - column : kStrip;
        constexpr int bytes = dtype_bytes(Lines::kDType);
        alignas(64) float bias[kStrip];
        alignas(64) std::byte line[kStrip * bytes];
        if (product_.bias) {
            std::memcpy(bias, product_.bias + column, count * 4);
            x = add(x, load(bias));
        }
        store_row(line, Lines::kDType, 0, x);
        std::memcpy(product_.out + (row * width + column) * bytes, line, count * bytes);
    }

    const QuantizedProduct& product_;
    const std::size_t groups_, row_;
    const int strip_;
    const bool has_offsets_, starts_;
    Cursor<R, C> at_{};
    GroupNumbers scales_[C], offsets_[C];
    const float* group_sums_[R];
};

template <class Lines, int R>
void multiply_strips(const QuantizedProduct& product, const StripBlock& block) {
    constexpr int together = Lines::template together<R>();
    const Lines lines(product.values);
    int strip = block.strip;
    for (; strip + together <= block.end; strip += together)
        Strips<Lines, R, together>(product, block.first, strip).multiply(lines);
    for (; strip < block.end; ++strip)
        Strips<Lines, R, 1>(product, block.first, strip).multiply(lines);
}

using Multiply = void (*)(const QuantizedProduct&, const StripBlock&);

template <class Lines, int... R>
void multiply_block(const QuantizedProduct& product, const StripBlock& block,
                    std::integer_sequence<int, R...>) {
    static constexpr Multiply of_rows[] = {multiply_strips<Lines, R + 1>...};
    of_rows[block.count - 1](product, block);
}

template <template <int> class Lines>
const QuantizedKernel* quantized_kernel() {
    using Rows = std::make_integer_sequence<int, Lines<4>::kMost>;
    static constexpr QuantizedKernel kernel{
        Lines<4>::kDType, Lines<4>::kMost,
        [](const QuantizedProduct& product, const StripBlock& block) {
            product.shape.code_bits == 4 ? multiply_block<Lines<4>>(product, block, Rows())
                                         : multiply_block<Lines<8>>(product, block, Rows());
        }};
    return &kernel;
}

}  // namespace
}  // namespace glinthawk
