// Products with tiles: 32 rows against 32 outputs in four accumulators. Include tiles_*.hpp first.
#pragma once

#include "../product.hpp"
#include "rows.hpp"

namespace glinthawk {
namespace {

template <class Tiles>
struct TileProduct {
    // Sums of upper and lower 16 rows and of both halves of a panel, then what they are made of.
    enum : int { kUpperLeft, kUpperRight, kLowerLeft, kLowerRight, kUpper, kLower, kLeft, kRight };

    static void multiply(const Product& product, const ProductBlock& block) {
        const int upper = block.count < 16 ? block.count : 16, lower = block.count - upper;
        configure(upper, lower);
        if (lower)
            product.packed_rows ? sum<true, true>(product, block) : sum<true, false>(product, block);
        else
            product.packed_rows ? sum<false, true>(product, block)
                                : sum<false, false>(product, block);
        if (block.end == product.num_inputs) write(product, block);
    }

    static void rest() {
        if (configured_) Tiles::release();
        configured_ = 0;
    }

private:
    static constexpr std::ptrdiff_t kSumStride = kPanel * sizeof(float);
    static inline thread_local int configured_ = 0;

    // Tiles of no rows cannot be: those of the lower half are not used then.
    static void configure(int upper, int lower) {
        const int key = upper << 8 | lower;
        if (key == configured_) return;
        configured_ = key;
        const TileShape above{std::uint8_t(upper), 64}, below{std::uint8_t(lower ? lower : 1), 64};
        Tiles::configure({above, above, below, below, above, below, {16, 64}, {16, 64}});
    }

    template <bool Lower, bool Packed>
    static void sum(const Product& product, const ProductBlock& block) {
        constexpr std::size_t kTile = 1024, kLine = 64;
        const std::size_t row_bytes = std::size_t(product.num_inputs) * 2, at = 2 * block.begin;
        const std::size_t stride = Packed ? kLine : row_bytes, next = Packed ? kTile : kLine;
        const std::byte* rows = product.rows + block.first * row_bytes + (Packed ? 16 * at : at);
        const std::byte* weight = product.weight + kPanel * (block.panel * row_bytes + at);
        start<Lower>(block);
        for (int i = block.begin; i < block.end; i += kPanel, weight += 2 * kTile, rows += next) {
            Tiles::template read<kLeft>(weight, kLine);
            Tiles::template read<kUpper>(rows, stride);
            Tiles::template dot_bf16<kUpperLeft, kUpper, kLeft>();
            Tiles::template read<kRight>(weight + kTile, kLine);
            Tiles::template dot_bf16<kUpperRight, kUpper, kRight>();
            if constexpr (Lower) {
                Tiles::template read<kLower>(rows + 16 * row_bytes, stride);
                Tiles::template dot_bf16<kLowerLeft, kLower, kLeft>();
                Tiles::template dot_bf16<kLowerRight, kLower, kRight>();
            }
        }
        Tiles::template write<kUpperLeft>(block.sums, kSumStride);
        Tiles::template write<kUpperRight>(block.sums + 16, kSumStride);
        if constexpr (Lower) {
            Tiles::template write<kLowerLeft>(block.sums + 16 * kPanel, kSumStride);
            Tiles::template write<kLowerRight>(block.sums + 16 * kPanel + 16, kSumStride);
        }
    }

    template <bool Lower>
    static void start(const ProductBlock& block) {
        if (!block.begin) {
            Tiles::template clear<kUpperLeft>();
            Tiles::template clear<kUpperRight>();
            if constexpr (Lower) {
                Tiles::template clear<kLowerLeft>();
                Tiles::template clear<kLowerRight>();
            }
            return;
        }
        Tiles::template read<kUpperLeft>(block.sums, kSumStride);
        Tiles::template read<kUpperRight>(block.sums + 16, kSumStride);
        if constexpr (Lower) {
            Tiles::template read<kLowerLeft>(block.sums + 16 * kPanel, kSumStride);
            Tiles::template read<kLowerRight>(block.sums + 16 * kPanel + 16, kSumStride);
        }
    }

    static void write(const Product& product, const ProductBlock& block) {
        const int column = block.panel * kPanel;
        const int left = product.num_outputs - column, columns = left < kPanel ? left : kPanel;
        const std::size_t stride = std::size_t(product.num_outputs) * 2;
        std::byte* out = product.out + block.first * stride + 2 * column;
        for (int row = 0; row < block.count; ++row, out += stride) {
            alignas(64) std::byte narrow[2 * kPanel];
            for (int half = 0; half < kPanel; half += 16) {
                Vec x = load(block.sums + row * kPanel + half);
                if (product.bias) x = add(x, load(product.bias + column + half));
                store_bf16(narrow + 2 * half, x);
            }
            std::memcpy(out, narrow, 2 * columns);
        }
    }
};

template <class Tiles>
const ProductKernel* tile_product() {
    static constexpr ProductKernel kernel{TileProduct<Tiles>::multiply, TileProduct<Tiles>::rest};
    return &kernel;
}

}  // namespace
}  // namespace glinthawk
