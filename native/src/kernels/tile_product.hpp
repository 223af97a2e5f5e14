// Products with tiles: 32 rows against 32 outputs in four accumulators. Include tiles_*.hpp first.
#pragma once

#include "kernels/product.hpp"
#include "kernels/rows.hpp"

namespace glinthawk {
namespace {

template <class Tiles>
struct TileProduct {
    // Sums of upper and lower 16 rows and of both halves of a panel, then what they are made of.
    enum : int { kUpperLeft, kUpperRight, kLowerLeft, kLowerRight, kUpper, kLower, kLeft, kRight };

    static void multiply(const Product& product, const ProductBlock& block) {
        const int upper = block.count < 16 ? block.count : 16, lower = block.count - upper;
        configure(upper, lower);
        const std::size_t stride = std::size_t(product.num_inputs) * 2;
        const std::byte* rows = product.rows + block.first * stride;
        for (int panel = block.panel; panel < block.end; ++panel) {
            alignas(64) float sums[kPanel][kPanel];
            const std::byte* weight = product.weight + panel * stride * kPanel;
            lower ? sum<true>(rows, stride, weight, sums) : sum<false>(rows, stride, weight, sums);
            write(product, block, panel, sums);
        }
    }

    static void rest() {
        if (configured_) Tiles::release();
        configured_ = 0;
    }

private:
    static inline thread_local int configured_ = 0;

    // Tiles of no rows cannot be: those of the lower half are not used then.
    static void configure(int upper, int lower) {
        const int key = upper << 8 | lower;
        if (key == configured_) return;
        configured_ = key;
        const TileShape above{std::uint8_t(upper), 64}, below{std::uint8_t(lower ? lower : 1), 64};
        Tiles::configure({above, above, below, below, above, below, {16, 64}, {16, 64}});
    }

    template <bool Lower>
    static void sum(const std::byte* rows, std::size_t stride, const std::byte* weight,
                    float (&sums)[kPanel][kPanel]) {
        constexpr int kTile = 1024, kLine = 64;
        Tiles::template clear<kUpperLeft>();
        Tiles::template clear<kUpperRight>();
        if constexpr (Lower) {
            Tiles::template clear<kLowerLeft>();
            Tiles::template clear<kLowerRight>();
        }
        for (std::size_t at = 0; at < stride; at += kLine, weight += 2 * kTile) {
            Tiles::template read<kLeft>(weight, kLine);
            Tiles::template read<kUpper>(rows + at, stride);
            Tiles::template dot_bf16<kUpperLeft, kUpper, kLeft>();
            Tiles::template read<kRight>(weight + kTile, kLine);
            Tiles::template dot_bf16<kUpperRight, kUpper, kRight>();
            if constexpr (Lower) {
                Tiles::template read<kLower>(rows + 16 * stride + at, stride);
                Tiles::template dot_bf16<kLowerLeft, kLower, kLeft>();
                Tiles::template dot_bf16<kLowerRight, kLower, kRight>();
            }
        }
        Tiles::template write<kUpperLeft>(sums[0], sizeof sums[0]);
        Tiles::template write<kUpperRight>(sums[0] + 16, sizeof sums[0]);
        if constexpr (Lower) {
            Tiles::template write<kLowerLeft>(sums[16], sizeof sums[0]);
            Tiles::template write<kLowerRight>(sums[16] + 16, sizeof sums[0]);
        }
    }

    static void write(const Product& product, const ProductBlock& block, int panel,
                      float (&sums)[kPanel][kPanel]) {
        const int column = panel * kPanel;
        const int left = product.num_outputs - column, columns = left < kPanel ? left : kPanel;
        const std::size_t stride = std::size_t(product.num_outputs) * 2;
        std::byte* out = product.out + block.first * stride + 2 * column;
        for (int row = 0; row < block.count; ++row, out += stride) {
            if (product.bias) add_bias(sums[row], product.bias + column);
            if (columns == kPanel) {
                Tiles::narrow(out, sums[row]);
                continue;
            }
            alignas(64) std::byte narrow[2 * kPanel];
            Tiles::narrow(narrow, sums[row]);
            std::memcpy(out, narrow, 2 * columns);
        }
    }

    static void add_bias(float* sums, const float* bias) {
        for (int i = 0; i < kPanel; i += 16) store(sums + i, add(load(sums + i), load(bias + i)));
    }
};

template <class Tiles>
const ProductKernel* tile_product() {
    static constexpr ProductKernel kernel{TileProduct<Tiles>::multiply, TileProduct<Tiles>::rest};
    return &kernel;
}

}  // namespace
}  // namespace glinthawk
